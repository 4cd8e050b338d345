package prometheus

import (
	"fmt"
	"io"
	"net/http"
)

// maxResponse is the number of bytes of a response that is read. The longest is a number for each of many workloads.
const maxResponse = 4 << 20

// roundTripper signs requests and bounds responses.
type roundTripper struct {
	next    http.RoundTripper
	secrets *secrets
	headers map[string]string
}

func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, value := range t.headers {
		r.Header.Set(name, value)
	}
	if err := t.secrets.sign(r); err != nil {
		return nil, err
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &bounded{ReadCloser: resp.Body, left: maxResponse}
	return resp, nil
}

// bounded fails where io.LimitedReader would end, so that a cut answer is not taken for a whole one.
type bounded struct {
	io.ReadCloser
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if len(p) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if n > b.left {
		return b.left, fmt.Errorf("the response is larger than %d MiB", maxResponse>>20)
	}
	b.left -= n
	return n, err
}
