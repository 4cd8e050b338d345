package render

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"regexp"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/sluice-cd/sluice/gitsync/redact"
)

// What a server answers is not told: a repository may name any server, and its answer would stand on the status branch. An error
// says of it the status, the type and the size.

// status is a status code in words of our own; those of the server may be anything.
func status(code int) string {
	if text := http.StatusText(code); text != "" {
		return fmt.Sprintf("%d %s", code, text)
	}
	return fmt.Sprint(code)
}

var mediaType = regexp.MustCompile(`^[a-z]{1,20}/[a-z0-9.+-]{1,60}$`)

// String tells what came without telling what it says.
func (a *answer) String() string {
	kind := "of no type"
	if t, _, err := mime.ParseMediaType(a.header.Get("Content-Type")); err == nil && mediaType.MatchString(t) {
		kind = t
	}
	return fmt.Sprintf("%s, %s, %d bytes", status(a.status), kind, len(a.body))
}

// withoutAnswer is an error of a request in words that are none of the server's.
func withoutAnswer(err error) error {
	var response *errcode.ErrorResponse
	if errors.As(err, &response) {
		return &redact.Error{Text: "the registry answers " + status(response.StatusCode), Err: err}
	}
	if errors.Is(err, content.ErrMismatchedDigest) {
		return &redact.Error{Text: "what the registry answers does not fit its digest", Err: err}
	}
	if ours(err) {
		return err
	}
	return &redact.Error{Text: "unexpected answer from the server", Err: err}
}

// ours reports whether an error is worded on this side of the connection.
func ours(err error) bool {
	var (
		refused   *refusal
		busy      *busyError
		operation *net.OpError
		name      *net.DNSError
		record    tls.RecordHeaderError
		cert      *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		limit     *LimitError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &refused), errors.As(err, &busy), errors.As(err, &operation), errors.As(err, &name), errors.As(err, &record), errors.As(err, &cert),
		errors.As(err, &authority), errors.As(err, &limit), errors.As(err, &timeout) && timeout.Timeout():
		return true
	}
	for _, known := range []error{errdef.ErrInvalidReference, context.Canceled, context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, errRedirects, errStepDown, ErrNotFound} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
