package cluster

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// requestPatience is how long an answer of the API server may take, which itself gives a request up after that time. Watches
// last. Not all of client-go takes a context: to ask for the kinds of the cluster would have waited for ever.
const requestPatience = time.Minute

var errNoAnswer = errors.New("the API server has not answered within " + requestPatience.String())

// patient gives each request through a transport so much time, its answer included.
type patient struct{ through http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (p patient) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Query().Get("watch") == "true" {
		return p.through.RoundTrip(req)
	}
	ctx, cancel := context.WithTimeoutCause(req.Context(), requestPatience, errNoAnswer)
	resp, err := p.through.RoundTrip(req.WithContext(ctx))
	if err != nil {
		if context.Cause(ctx) == errNoAnswer { //nolint:errorlint // this very deadline, and no other
			err = errNoAnswer
		}
		cancel()
		return nil, err
	}
	resp.Body = endingBody{resp.Body, cancel}
	return resp, nil
}

// endingBody ends its request's time when it is closed.
type endingBody struct {
	io.ReadCloser
	end context.CancelFunc
}

// Close implements io.Closer.
func (b endingBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}
