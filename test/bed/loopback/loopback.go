// Package loopback finds ports for the servers of the test bed.
//
// They are below those that systems give to outgoing connections: a test stops
// a server and starts it again on its port, and up there the port could be
// taken in between.
package loopback

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	firstPort = 20_000
	ports     = 12_000
	tries     = 100
)

// given are the ports that this process has given away. Whoever has one may not listen on it yet, or not any more.
var given sync.Map

// Port returns a port that nobody listens on at the moment, and that it has not
// returned before.
func Port() (int, error) {
	listener, err := Listen("")
	if err != nil {
		return 0, err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	given.Store(port, true)
	return port, listener.Close()
}

// Listen listens on the address of an earlier Listen, or on a new one if it is
// empty.
func Listen(address string) (net.Listener, error) {
	if address != "" {
		return net.Listen("tcp", address)
	}
	for range tries {
		port := firstPort + rand.IntN(ports)
		if _, taken := given.Load(port); taken {
			continue
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return listener, nil
		}
	}
	return nil, errors.New("finding a free port: all that were tried are taken")
}

// DialPatiently connects to a server that may be stopped for now: it tries
// again until the server listens or ctx ends. Clients that back off when they
// are refused so carry on as soon as the server is back.
func DialPatiently(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil || !errors.Is(err, syscall.ECONNREFUSED) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}
