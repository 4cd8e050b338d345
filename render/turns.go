package render

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// placesPerHost is how many requests a chart host has at a time from all environments of an agent. A thousand apps that begin at once
// would else be a thousand connections.
const placesPerHost = 4

// turns hands out the places at one host. Where several fetchers wait, each has its turn, so that the thousand apps of one
// environment don't keep another's from being fetched.
type turns struct {
	free    int
	waiting []*line // who is next comes first
}

// line is those of one fetcher that wait for a place, who has waited for longest first.
type line struct {
	owner *sites
	calls []chan struct{} // closed when the turn has come
}

// enter waits for a place at a host; leave gives it back. The caller's time does not run meanwhile.
func (h *Hosts) enter(ctx context.Context, host string, owner *sites) (leave func(), err error) {
	h.mu.Lock()
	t := h.turns[host]
	if t == nil {
		t = &turns{free: placesPerHost}
		h.turns[host] = t
	}
	leave = sync.OnceFunc(func() { h.leave(host) })
	if t.free > 0 {
		t.free--
		h.mu.Unlock()
		return leave, nil
	}
	call := make(chan struct{})
	t.queue(owner, call)
	h.mu.Unlock()
	select {
	case <-call:
		return leave, nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	left := t.drop(owner, call)
	h.mu.Unlock()
	if !left {
		leave() // the turn had come
	}
	return nil, ctx.Err()
}

func (t *turns) queue(owner *sites, call chan struct{}) {
	at := slices.IndexFunc(t.waiting, func(l *line) bool { return l.owner == owner })
	if at < 0 {
		at = len(t.waiting)
		t.waiting = append(t.waiting, &line{owner: owner})
	}
	t.waiting[at].calls = append(t.waiting[at].calls, call)
}

// drop takes a call out of its line, and reports whether it was in it.
func (t *turns) drop(owner *sites, call chan struct{}) bool {
	for i, l := range t.waiting {
		at := slices.Index(l.calls, call)
		if l.owner != owner || at < 0 {
			continue
		}
		if l.calls = slices.Delete(l.calls, at, at+1); len(l.calls) == 0 {
			t.waiting = slices.Delete(t.waiting, i, i+1)
		}
		return true
	}
	return false
}

func (h *Hosts) leave(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.turns[host]
	if len(t.waiting) == 0 {
		if t.free++; t.free == placesPerHost {
			delete(h.turns, host)
		}
		return
	}
	next := t.waiting[0]
	t.waiting = t.waiting[1:]
	close(next.calls[0])
	if next.calls = next.calls[1:]; len(next.calls) > 0 {
		t.waiting = append(t.waiting, next)
	}
}

// fetchTime is how long the requests of one fetch, which come one after the other, may still take together.
type fetchTime struct{ left time.Duration }

type fetchTimeKey struct{}

// timed gives all requests of a context so much time. It runs while they have a place.
func timed(ctx context.Context, d time.Duration) context.Context {
	return context.WithValue(ctx, fetchTimeKey{}, &fetchTime{d})
}

// placed has each request wait for its turn, and hold its place until the answer is read or closed.
type placed struct{ hostsTransport }

// RoundTrip implements http.RoundTripper.
func (p placed) RoundTrip(req *http.Request) (*http.Response, error) {
	// What would be refused when its turn comes is refused now.
	if err := p.refuses(p.ways(req), false); err != nil {
		return nil, err
	}
	leave, err := p.enter(req.Context(), strings.ToLower(req.URL.Host), p.owner)
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	if t, ok := req.Context().Value(fetchTimeKey{}).(*fetchTime); ok {
		ctx, cancel := context.WithTimeout(req.Context(), t.left)
		req = req.WithContext(ctx)
		begun, free := p.now(), leave
		leave = sync.OnceFunc(func() {
			cancel()
			t.left -= p.now().Sub(begun)
			free()
		})
	}
	resp, err := p.hostsTransport.RoundTrip(req)
	switch {
	case err != nil:
		leave()
		return nil, err
	case resp.Body == http.NoBody:
		leave()
	default:
		resp.Body = placedBody{resp.Body, leave}
	}
	return resp, nil
}

type placedBody struct {
	io.ReadCloser
	leave func()
}

// Close implements io.Closer.
func (b placedBody) Close() error {
	defer b.leave()
	return b.ReadCloser.Close()
}
