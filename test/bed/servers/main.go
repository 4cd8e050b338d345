// Command bed runs the servers of Sluice's test bed, each subcommand one server
// in a process of its own, so that a test can stop, restart or kill it alone:
//
//	bed controlplane   etcd, kube-apiserver and eight of its controllers
//	bed prometheus     Prometheus: scraping, storage, PromQL and its HTTP API
//	bed registry       an OCI registry
//
// They are the real programs, linked from their Go modules rather than fetched
// as images; what has no place on one machine (kubelet, scheduler, sidecars,
// users) is played by packages beside this one, see the README.
//
// Life: a server writes the line "ready" to standard output once it answers,
// and logs to standard error. It ends on SIGTERM, on SIGINT, and at the end of
// its standard input: whoever starts it holds that pipe open, so a server never
// outlives its starter, even a killed one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// servers are the subcommands. Each runs until ctx ends and calls ready once.
var servers = map[string]func(ctx context.Context, args []string, ready func()) error{
	"controlplane": runControlPlane,
	"prometheus":   runPrometheus,
	"registry":     runRegistry,
}

func main() {
	if len(os.Args) < 2 || servers[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: bed controlplane|prometheus|registry [flags]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx = untilInputEnds(ctx)

	err := servers[os.Args[1]](ctx, os.Args[2:], func() { fmt.Println("ready") })
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "bed %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// untilInputEnds ends the context when standard input does, which is when the
// process that started us has closed it or died.
func untilInputEnds(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	return ctx
}
