package render

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// firstPause is how long a host that did not answer is left alone; it doubles with each further try, up to longestPause.
	firstPause   = 5 * time.Second
	longestPause = time.Minute
)

// hosts remember which chart hosts do not answer, so that a thousand apps of one cost a single wait and not a thousand. After
// each pause one request tries again, and the others hear of it. A host that answers, whatever it says, is no such host.
type hosts struct {
	now func() time.Time

	mu     sync.Mutex
	silent map[string]*silence
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

// over has requests through t remember, and be refused by, hosts that do not answer.
func (h *hosts) over(t http.RoundTripper) http.RoundTripper { return hostsTransport{h, t} }

type hostsTransport struct {
	*hosts
	through http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (r hostsTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Host
	if err := r.refuses(host); err != nil {
		return nil, err
	}
	resp, err := r.through.RoundTrip(req)
	if err != nil {
		r.heard(host, unanswered(err), 0)
		return nil, err
	}
	if wait := retryAfter(resp); wait > 0 {
		r.heard(host, &busyError{resp.StatusCode}, wait)
		return resp, nil
	}
	resp.Body = &hostBody{ReadCloser: resp.Body, heard: func(err error) { r.heard(host, err, 0) }}
	return resp, nil
}

// refuses is why a host is not asked now; nil: it is, by this caller, who tells what was heard.
func (h *hosts) refuses(host string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.silent[host]
	if s == nil {
		return nil
	}
	if s.trying || h.now().Before(s.until) {
		return &silentError{host, s.fault}
	}
	s.trying = true
	return nil
}

// heard takes over how a request to a host came out; fault nil: it has answered. pause is how long it wants to be left alone; 0: as
// long as comes next.
func (h *hosts) heard(host string, fault error, pause time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if fault == nil {
		delete(h.silent, host)
		return
	}
	s := h.silent[host]
	if s == nil {
		s = &silence{pause: firstPause / 2}
		h.silent[host] = s
	} else if !s.trying {
		return // it was asked before somebody else had found out
	}
	s.fault, s.trying = fault, false
	s.pause = min(max(2*s.pause, pause), longestPause)
	s.until = h.now().Add(s.pause)
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
