package gitsync

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/sluice-cd/sluice/gitsync/address"
	"github.com/sluice-cd/sluice/gitsync/redact"
)

// maxAdvertisement bounds the list of references that a remote sends, in bytes: some 600,000 references.
const maxAdvertisement = 64 << 20

// maxReport bounds what a remote says to a push, in bytes.
const maxReport = 1 << 20

// maxErrorBody bounds the page that comes with an HTTP error, in bytes.
const maxErrorBody = 16 << 10

// link reaches one remote. It keeps connections open between exchanges; make one per Repo or Writer.
type link struct {
	remote Remote
	loc    address.Address
	http   transport.Transport // nil for other schemes
}

func newLink(r Remote) (*link, error) {
	loc, err := address.Parse(r.URL)
	if err != nil {
		return nil, err
	}
	l := &link{remote: r, loc: loc}
	if loc.Scheme == address.HTTP || loc.Scheme == address.HTTPS {
		if l.http, err = httpTransport(r); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// uploadPack opens a session for reading. Close it.
func (l *link) uploadPack(ctx context.Context) (transport.UploadPackSession, error) {
	switch l.loc.Scheme {
	case address.SSH:
		return dialSSH(ctx, l.loc, l.remote.Auth, transport.UploadPackServiceName, l.maxResponse())
	case address.File:
		return openFileUpload(l.loc)
	}
	auth, err := l.remote.Auth.http(l.loc.User)
	if err != nil {
		return nil, err
	}
	return l.http.NewUploadPackSession(l.endpoint(), auth)
}

// receivePack opens a session for writing. Close it.
func (l *link) receivePack(ctx context.Context) (transport.ReceivePackSession, error) {
	switch l.loc.Scheme {
	case address.SSH:
		return dialSSH(ctx, l.loc, l.remote.WriteAuth, transport.ReceivePackServiceName, l.maxResponse())
	case address.File:
		return openFileReceive(l.loc)
	}
	auth, err := l.remote.WriteAuth.http(l.loc.User)
	if err != nil {
		return nil, err
	}
	return l.http.NewReceivePackSession(l.endpoint(), auth)
}

// maxResponse bounds what one exchange may send us; the pack itself is counted more exactly when it is stored.
func (l *link) maxResponse() int64 { return l.remote.Limits.Pack + maxAdvertisement }

// endpoint is made anew for each session, because go-git writes redirects into it.
func (l *link) endpoint() *transport.Endpoint {
	host := l.loc.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	port, _ := strconv.Atoi(l.loc.Port) // url.Parse has seen to it that this is a number or nothing
	return &transport.Endpoint{Protocol: l.loc.Scheme, Host: host, Port: port, Path: l.loc.Path}
}

// fault makes err fit to leave the package: what was being done, to which remote, without secrets.
func (l *link) fault(doing string, err error) error {
	if err == nil {
		return nil
	}
	// The library leaves a colon where a server says no more.
	text := strings.TrimRight(redact.Message(err.Error(), l.secrets()...), ": \n")
	if errors.Is(err, transport.ErrRepositoryNotFound) {
		text += "; expected the address of a repository that these credentials may read"
	}
	return &redact.Error{Text: fmt.Sprintf("%s %s: %s", doing, l.remote, text), Err: err}
}

// secrets lists the secrets in use, for removal from messages.
func (l *link) secrets() []string {
	var list []string
	for _, a := range []Auth{l.remote.Auth, l.remote.WriteAuth} {
		for _, s := range [][2]string{
			{a.Password, a.PasswordFile}, {a.Token, a.TokenFile}, {a.Passphrase, a.PassphraseFile},
		} {
			if v, err := secret(s[0], s[1]); err == nil && v != "" {
				list = append(list, v, url.QueryEscape(v), url.PathEscape(v))
			}
		}
		if basic, ok := l.basic(a); ok {
			list = append(list, basic) // as servers see it that repeat what they don't understand
		}
	}
	return list
}

// basic is the password as HTTP sends it.
func (l *link) basic(a Auth) (string, bool) {
	auth, err := a.http(l.loc.User)
	b, ok := auth.(*githttp.BasicAuth)
	if err != nil || !ok {
		return "", false
	}
	return base64.StdEncoding.EncodeToString([]byte(b.Username + ":" + b.Password)), true
}

// http makes go-git's credentials; nil for an anonymous a.
func (a Auth) http(urlUser string) (transport.AuthMethod, error) {
	if a.hasToken() {
		token, err := secret(a.Token, a.TokenFile)
		return &githttp.TokenAuth{Token: token}, err
	}
	if !a.hasPassword() {
		return nil, nil
	}
	user := a.Username
	if user == "" {
		user = urlUser
	}
	if user == "" {
		user = "git"
	}
	password, err := secret(a.Password, a.PasswordFile)
	return &githttp.BasicAuth{Username: user, Password: password}, err
}

func httpTransport(r Remote) (transport.Transport, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes = 256 << 10
	t.ResponseHeaderTimeout = r.Timeout
	t.IdleConnTimeout = 2 * time.Minute
	if r.CAFile != "" {
		pem, err := os.ReadFile(r.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading certificate authorities: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("reading certificate authorities: no certificate in %s", r.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return githttp.NewClientWithOptions(&http.Client{
		Transport:     &boundedTransport{next: t, max: r.Limits.Pack + maxAdvertisement},
		CheckRedirect: sameHost,
	}, nil), nil
}

// sameHost refuses redirects to another host, even though go-git would drop the credentials on the way: the
// answer would come from a place that nobody configured, perhaps one that only this machine can reach.
func sameHost(req *http.Request, via []*http.Request) error {
	from, to := via[0].URL, req.URL
	upgrade := from.Scheme == address.HTTP && to.Scheme == address.HTTPS && from.Port() == "" && to.Port() == ""
	if !strings.EqualFold(from.Hostname(), to.Hostname()) || (from.Port() != to.Port() || from.Scheme != to.Scheme) && !upgrade {
		return fmt.Errorf("redirected to another host, %s: change the url if that is right", to.Host)
	}
	return nil
}

// boundedTransport bounds the body of each response.
type boundedTransport struct {
	next http.RoundTripper
	max  int64
}

func (t *boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	limit := t.max
	switch {
	case res.StatusCode < 200 || res.StatusCode > 299:
		res.Body = readCloser{io.LimitReader(res.Body, maxErrorBody), res.Body}
		return res, nil
	case req.Method == http.MethodGet:
		limit = maxAdvertisement
	case strings.HasSuffix(req.URL.Path, "/"+transport.ReceivePackServiceName):
		// go-git leaves the end of a report unread, and the connection with it. Read it here, so that the next
		// push finds the connection open.
		report, err := io.ReadAll(&boundedReader{r: res.Body, left: maxReport, limit: maxReport, what: "the report"})
		if err := errors.Join(err, res.Body.Close()); err != nil {
			return nil, err
		}
		res.Body = io.NopCloser(bytes.NewReader(report))
		return res, nil
	}
	res.Body = readCloser{&boundedReader{r: res.Body, left: limit, limit: limit, what: "the response"}, res.Body}
	return res, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// boundedReader fails once more than limit bytes were read, where io.LimitReader would end quietly.
type boundedReader struct {
	r           io.Reader
	left, limit int64
	what        string
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		// At the limit, an end of file is still fine.
		var one [1]byte
		n, err := b.r.Read(one[:])
		if n > 0 {
			return 0, tooLarge(b.what, b.limit)
		}
		return 0, err
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}

// ErrTooLarge is wrapped by the errors of everything that goes over one of the Limits.
var ErrTooLarge = errors.New("too large")

func tooLarge(what string, limit int64) error {
	return fmt.Errorf("%s is %w: the limit is %d bytes", what, ErrTooLarge, limit)
}

// onBranch is l for another branch of the same remote.
func (l *link) onBranch(branch string) *link {
	other := *l
	other.remote.Branch = branch
	return &other
}
