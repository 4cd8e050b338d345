package render

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowHosts have charts app-0, app-1 and so on. Each answer takes its host's time.
type slowHosts struct {
	takes map[string]time.Duration
	files map[string][]byte // by the first part of their names

	mu     sync.Mutex
	now    map[string]int // requests that a host has
	most   map[string]int // and has had
	served []string
}

func (s *slowHosts) RoundTrip(r *http.Request) (*http.Response, error) {
	host := r.URL.Host
	s.mu.Lock()
	s.now[host]++
	s.most[host] = max(s.most[host], s.now[host])
	s.mu.Unlock()
	select {
	case <-time.After(s.takes[host]):
	case <-r.Context().Done():
		s.left(host, "")
		return nil, r.Context().Err()
	}
	name, _, _ := strings.Cut(path.Base(r.URL.Path), ".")
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: &slowBody{bytes.NewReader(s.files[name]), func() { s.left(host, name) }}}, nil
}

func (s *slowHosts) left(host, served string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now[host]--
	if served != "" {
		s.served = append(s.served, served)
	}
}

// slowBody tells when it is closed: until then its request has its place.
type slowBody struct {
	io.Reader
	closed func()
}

func (b *slowBody) Close() error { b.closed(); return nil }

func newSlowHosts(t *testing.T, takes map[string]time.Duration) *slowHosts {
	t.Helper()
	s := &slowHosts{takes: takes, files: map[string][]byte{}, now: map[string]int{}, most: map[string]int{}}
	var index strings.Builder
	index.WriteString("apiVersion: v1\nentries:\n")
	for i := range 100 {
		name := fmt.Sprint("app-", i)
		s.files[name] = simpleChart(t, name, "1.0.0", "x")
		fmt.Fprintf(&index, "  %s: [{version: 1.0.0, urls: [%s.tgz]}]\n", name, name)
	}
	s.files["index"] = []byte(index.String())
	return s
}

// TestTurns: a host has four requests at a time, of all fetchers together, and each fetcher its turn. To wait for it costs none of the
// time that a fetch has, and nobody waits for another host.
func TestTurns(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	s := newSlowHosts(t, map[string]time.Duration{"slow.example.com": 20 * time.Second, "good.example.com": time.Second})
	synctest.Test(t, func(t *testing.T) {
		hosts := NewHosts(nil)
		prod := newTestFetcher(t, FetcherConfig{CacheDir: dirs[0], Transport: s, Hosts: hosts})
		dev := newTestFetcher(t, FetcherConfig{CacheDir: dirs[1], Transport: s, Hosts: hosts})
		begun := time.Now()
		var all sync.WaitGroup
		fetch := func(f *Fetcher, host, name string, within time.Duration) {
			all.Go(func() {
				_, err := f.Fetch(t.Context(), Ref{name, "1.0.0", "https://" + host})
				if took := time.Since(begun); err != nil || took > within {
					t.Errorf("%s from %s after %s, want %s: %v", name, host, took, within, err)
				}
			})
		}
		for i := range 40 { // an index, and ten rounds of four
			fetch(dev, "slow.example.com", fmt.Sprint("app-", i), 20*time.Second+11*20*time.Second)
		}
		synctest.Wait()
		fetch(prod, "slow.example.com", "app-99", 3*20*time.Second)
		fetch(prod, "good.example.com", "app-98", 2*time.Second)
		all.Wait()
		if got := s.most["slow.example.com"]; got != placesPerHost {
			t.Errorf("the slow host had %d requests at a time", got)
		}
		// Two rounds of the host's, an index each of three, one chart of the good host's, and who ends at the same moment.
		if at := slices.Index(s.served, "app-99"); at > 2*placesPerHost+3+1+placesPerHost-1 {
			t.Errorf("who wants one chart was served after %d others", at)
		}
		if len(hosts.turns) > 0 {
			t.Errorf("places were never given back")
		}
	})
}

// TestFetchTime: a host that takes more time than a fetch has is given up, and its places are free again.
func TestFetchTime(t *testing.T) {
	dir := t.TempDir()
	s := newSlowHosts(t, map[string]time.Duration{"slow.example.com": 2 * time.Minute})
	synctest.Test(t, func(t *testing.T) {
		f := newTestFetcher(t, FetcherConfig{CacheDir: dir, Transport: s})
		begun := time.Now()
		_, err := f.Fetch(t.Context(), Ref{"app-1", "1.0.0", "https://slow.example.com"})
		if err == nil || time.Since(begun) != time.Minute {
			t.Errorf("after %s: %v", time.Since(begun), err)
		}
	})
}

// TestSilentForWhom: what can't be connected to is asked by one request of all fetchers. That a host does not answer one of them is
// nothing to the others: they may have asked for something else.
func TestSilentForWhom(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		fault error
		asked []int // after each round of two fetchers
	}{
		"not connected": {&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}, []int{1, 1, 2, 2, 2}},
		"no answer":     {timedOut{}, []int{2, 2, 4, 4, 4}},
	} {
		asked := 0
		hosts := NewHosts(func() time.Time { return now })
		var fetchers []*Fetcher
		for range 2 {
			fetchers = append(fetchers, newTestFetcher(t, FetcherConfig{
				Hosts: hosts, Now: func() time.Time { return now },
				Transport: roundTripper(func(*http.Request) (*http.Response, error) { asked++; return nil, c.fault }),
			}))
		}
		for i, after := range []time.Duration{0, firstPause - 1, 1, firstPause, firstPause - 1} {
			now = now.Add(after)
			for _, f := range fetchers {
				if _, err := f.Fetch(t.Context(), Ref{"app", "1.0.0", "https://dead.example.com"}); !errors.Is(err, c.fault) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if asked != c.asked[i] {
				t.Errorf("%s, round %d: asked %d times, want %d", name, i, asked, c.asked[i])
			}
		}
	}
}

// TestSilentOtherwise: who could not connect and then gets no answer waits for as long as ever, and for one thing at a time.
func TestSilentOtherwise(t *testing.T) {
	now, asked := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), 0
	faults := []error{&net.OpError{Op: "dial", Err: errors.New("refused")}, timedOut{}}
	f := newTestFetcher(t, FetcherConfig{
		Now: func() time.Time { return now },
		Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			asked++
			return nil, faults[(asked-1)%len(faults)]
		}),
	})
	for i := range 9 {
		if _, err := f.Fetch(t.Context(), Ref{"app", "1.0.0", "https://dead.example.com"}); !errors.Is(err, faults[i%len(faults)]) || asked != i+1 {
			t.Errorf("try %d: asked %d times: %v", i, asked, err)
		}
		now = now.Add(firstPause)
	}
}
