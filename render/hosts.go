package render

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// firstPause is how long a host that did not answer is left alone; it doubles with each further try, up to longestPause.
	firstPause   = 5 * time.Second
	longestPause = time.Minute
)

// Hosts is what the fetchers of a process share of chart hosts: how many requests each has at a time, and which don't answer, so that
// a thousand apps of one cost a single wait and not a thousand. After each pause one request tries again, and the others hear of it. A
// host that answers, whatever it says, is no such host.
//
// That a host can't be connected to holds for all who reach it in the same way. That it does not answer, or wants to be left alone, may
// lie in what was asked and by whom: it holds for the fetcher that asked, and no environment can so silence a host for another one.
// It is safe for concurrent use.
type Hosts struct {
	now func() time.Time

	mu     sync.Mutex
	silent map[way]*silence
	turns  map[string]*turns // by host; without those of which all places are free
}

// way is how a host is reached.
type way struct {
	host string
	// configured hosts are looked up, and may be, where others are not.
	configured bool
	// owner is nil for all fetchers.
	owner *sites
}

// NewHosts returns Hosts of which nothing is known. now nil: time.Now.
func NewHosts(now func() time.Time) *Hosts {
	if now == nil {
		now = time.Now //nolint:forbidigo // the default of a clock that tests set
	}
	return &Hosts{now: now, silent: map[way]*silence{}, turns: map[string]*turns{}}
}

// silence is what is known of a host that did not answer.
type silence struct {
	fault  error
	pause  time.Duration
	until  time.Time
	trying bool
}

// silentError says that a host was not asked. Its text stays the same from try to try.
type silentError struct {
	host string
	err  error
}

func (e *silentError) Error() string {
	return fmt.Sprintf("%s does not answer, and is asked again from time to time: %v", e.host, e.err)
}

func (e *silentError) Unwrap() error { return e.err }

// busyError says that a host wants to be left alone for a while.
type busyError struct{ code int }

func (e *busyError) Error() string { return "it wants to be left alone for a while, " + status(e.code) }

// over has requests of a fetcher through t wait for their turns, remember hosts that do not answer, and be refused by these.
func (h *Hosts) over(t http.RoundTripper, owner *sites, within *reach) http.RoundTripper {
	return placed{hostsTransport{h, t, owner, within}}
}

type hostsTransport struct {
	*Hosts
	through http.RoundTripper
	owner   *sites
	within  *reach
}

// ways are the fetcher's own and that of all, for a request.
func (r hostsTransport) ways(req *http.Request) (ways [2]way) {
	all := way{host: strings.ToLower(req.URL.Host), configured: r.within.configured[hostKey(req.URL)]}
	own := all
	own.owner = r.owner
	return [2]way{own, all}
}

// RoundTrip implements http.RoundTripper.
func (r hostsTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ways := r.ways(req)
	if err := r.refuses(ways, true); err != nil {
		return nil, err
	}
	resp, err := r.through.RoundTrip(req)
	if err != nil {
		r.heard(ways, unanswered(err), 0)
		return nil, err
	}
	if wait := retryAfter(resp); wait > 0 {
		r.heard(ways, &busyError{resp.StatusCode}, wait)
		return resp, nil
	}
	if resp.Body == http.NoBody {
		r.heard(ways, nil, 0)
		return resp, nil
	}
	resp.Body = &hostBody{ReadCloser: resp.Body, heard: func(err error) { r.heard(ways, err, 0) }}
	return resp, nil
}

// refuses is why a host is not asked now; nil: it is. Who tries it then tells what was heard, and nobody else tries meanwhile.
func (h *Hosts) refuses(ways [2]way, try bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range ways {
		if s := h.silent[w]; s != nil && (s.trying || h.now().Before(s.until)) {
			return &silentError{w.host, s.fault}
		}
	}
	for _, w := range ways {
		if s := h.silent[w]; s != nil && try {
			s.trying = true
		}
	}
	return nil
}

// heard takes over how a request to a host came out; fault nil: it has answered. pause is how long it wants to be left alone; 0: as
// long as comes next.
func (h *Hosts) heard(ways [2]way, fault error, pause time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, other := ways[0], ways[1]
	if unconnected(fault) {
		at, other = other, at
	}
	if s := h.silent[other]; s != nil && (s.trying || fault == nil) {
		delete(h.silent, other) // something else is known by now
	}
	if fault == nil {
		delete(h.silent, at)
		return
	}
	s := h.silent[at]
	if s == nil {
		s = &silence{pause: firstPause / 2}
		h.silent[at] = s
	} else if !s.trying {
		return // it was asked before somebody else had found out
	}
	s.fault, s.trying = fault, false
	s.pause = min(max(2*s.pause, pause), longestPause)
	s.until = h.now().Add(s.pause)
}

// unconnected reports whether a host could not even be connected to.
func unconnected(fault error) bool {
	var op *net.OpError
	return errors.As(fault, &op) && op.Op == "dial"
}

// unanswered is the error of a request to a host that did not answer; nil: that says nothing of the host.
func unanswered(err error) error {
	var op *net.OpError
	var timeout net.Error
	var ours *refusal
	switch {
	case errors.Is(err, context.Canceled), errors.As(err, &ours):
		return nil
	case errors.As(err, &op), errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	return nil
}

// retryAfter is how long a server wants to be left alone that has too much to do; 0: it does not say.
func retryAfter(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if err != nil || seconds <= 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, longestPause)
}

// hostBody tells how an answer ended.
type hostBody struct {
	io.ReadCloser
	heard func(error)
	once  sync.Once
}

// Read implements io.Reader.
func (b *hostBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.once.Do(func() { b.heard(nil) })
	case err != nil:
		b.once.Do(func() { b.heard(unanswered(err)) })
	}
	return n, err
}

// Close implements io.Closer. Who reads no further has been answered.
func (b *hostBody) Close() error {
	b.once.Do(func() { b.heard(nil) })
	return b.ReadCloser.Close()
}
