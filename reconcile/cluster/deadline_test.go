package cluster

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
)

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestRequestsEnd: what the API server does not answer is given up, headers and body alike; a watch is not.
func TestRequestsEnd(t *testing.T) {
	hangs := roundTripper(func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() })
	trickles := roundTripper(func(r *http.Request) (*http.Response, error) {
		out, in := io.Pipe()
		go func() { <-r.Context().Done(); _ = in.CloseWithError(r.Context().Err()) }()
		return &http.Response{StatusCode: http.StatusOK, Body: out}, nil
	})
	for name, c := range map[string]struct {
		server  http.RoundTripper
		query   string
		forever bool
	}{
		"no answer": {hangs, "", false}, "half an answer": {trickles, "?watch=false", false}, "a watch": {trickles, "?watch=true", true},
	} {
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now()
			req := httptest.NewRequest(http.MethodGet, "https://api.example.com/apis"+c.query, nil).WithContext(t.Context())
			done := make(chan error, 1)
			go func() {
				resp, err := patient{c.server}.RoundTrip(req)
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					_ = resp.Body.Close()
				}
				done <- err
			}()
			select {
			case err := <-done:
				if c.forever || err == nil || time.Since(begun) != requestPatience {
					t.Errorf("%s: after %s: %v", name, time.Since(begun), err)
				}
				if name == "no answer" && !errors.Is(err, errNoAnswer) {
					t.Errorf("%s: %v", name, err)
				}
			case <-time.After(time.Hour):
				if !c.forever {
					t.Errorf("%s: it is waited for after an hour", name)
				}
			}
		})
	}
}

// TestEveryRequestEnds: all clients are made with the deadline, also those that take no context.
func TestEveryRequestEnds(t *testing.T) {
	rc, _, err := restConfig(Config{REST: &rest.Config{Host: "https://api.example.com"}}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := rc.WrapTransport(http.DefaultTransport).(patient); !ok {
		t.Error("a request could wait for ever")
	}
}
