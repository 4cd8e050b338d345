package render

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// timedOut is a network's error.
type timedOut struct{}

func (timedOut) Error() string   { return "i/o timeout" }
func (timedOut) Timeout() bool   { return true }
func (timedOut) Temporary() bool { return true }

// TestSilentHost: a host that does not answer is asked once in a while, by one at a time, whoever needs it, and other hosts as ever.
// It is asked again by all once it answers, even if it has not got the chart.
func TestSilentHost(t *testing.T) {
	good := newChartRepo(t)
	good.publish("app", "1.0.0", simpleChart(t, "app", "1.0.0", "x"))
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var asked, answers atomic.Int64
	f := newTestFetcher(t, FetcherConfig{
		Now: func() time.Time { return now },
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host != "dead.example.com" {
				return http.DefaultTransport.RoundTrip(r)
			}
			asked.Add(1)
			if answers.Load() > 0 {
				r = r.Clone(r.Context())
				r.URL.Scheme, r.URL.Host = "http", strings.TrimPrefix(good.URL, "http://")
				return http.DefaultTransport.RoundTrip(r)
			}
			return nil, timedOut{}
		}),
	})
	fetch := func(name string) error {
		_, err := f.Fetch(t.Context(), Ref{name, "1.0.0", "https://dead.example.com/charts"})
		return err
	}
	for i, after := range []time.Duration{0, firstPause, 2 * firstPause, 4 * firstPause, 8 * firstPause, longestPause, longestPause} {
		now = now.Add(after)
		for app := range 20 {
			err := fetch(fmt.Sprint("app-", app))
			if err == nil || !strings.Contains(err.Error(), "i/o timeout") {
				t.Fatalf("try %d: %v", i, err)
			}
			var silent *silentError
			if errors.As(err, &silent) != (app > 0) || app > 0 && !strings.Contains(err.Error(), "dead.example.com does not answer, and is asked again from time to time") {
				t.Errorf("try %d of app %d: %v", i, app, err)
			}
		}
		if got := asked.Load(); got != int64(i+1) {
			t.Fatalf("after %s it was asked %d times, want %d", after, got, i+1)
		}
		if _, err := f.Fetch(t.Context(), good.ref("1.0.0")); err != nil {
			t.Errorf("another host: %v", err)
		}
	}
	answers.Add(1)
	now = now.Add(longestPause)
	if err := fetch("nothing"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is back: %v", err)
	}
	if err := fetch("app"); err != nil {
		t.Errorf("it is back, and has the chart: %v", err)
	}
}

// TestBusyHost: a host that says when it wants to be asked again is left alone until then.
func TestBusyHost(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("Retry-After", "20")
		http.Error(w, "s3cret", http.StatusTooManyRequests)
	}))
	defer s.Close()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	f := newTestFetcher(t, FetcherConfig{Now: func() time.Time { return now }})
	for _, c := range []struct {
		after time.Duration
		asked int
	}{{0, 1}, {19 * time.Second, 1}, {time.Second, 2}, {39 * time.Second, 2}, {time.Second, 3}} {
		now = now.Add(c.after)
		_, err := f.Fetch(t.Context(), Ref{"app", "1.0.0", s.URL})
		if err == nil || !strings.Contains(err.Error(), "429") || strings.Contains(err.Error(), "s3cret") || asked != c.asked {
			t.Errorf("%s later: asked %d times, want %d: %v", c.after, asked, c.asked, err)
		}
	}
}

// TestCutOffAnswer: a host whose answers break off in the middle is one that does not answer.
func TestCutOffAnswer(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write([]byte("apiVersion: v1\n"))
	}))
	defer s.Close()
	f := newTestFetcher(t, FetcherConfig{Now: func() time.Time { return time.Unix(1e9, 0) }})
	for range 3 {
		if _, err := f.Fetch(t.Context(), Ref{"app", "1.0.0", s.URL}); err == nil {
			t.Error("half an index will do")
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}
