package render

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/sluice-cd/sluice/gitsync/redact"
)

// Access is what the repositories under one URL need.
type Access struct {
	// URL is the prefix that it holds for, up to a whole path segment: https://charts.example.com/private,
	// oci://ghcr.io/acme. The longest prefix that fits wins.
	URL string
	// Username and Password for basic authentication, or for the token service of an OCI registry.
	Username, Password string
	// Token is a bearer token; it wins over Username and Password.
	Token string
	// CA holds PEM certificates that are trusted besides the system's.
	CA []byte
	// PlainHTTP reaches an OCI registry without TLS. Loopback registries are always reached so.
	PlainHTTP bool
}

// site is an Access, ready for use.
type site struct {
	Access
	url    *url.URL
	client *http.Client
	// tokens of OCI registries; not shared between sites, whose credentials may differ on one host.
	tokens auth.Cache
}

func newSite(a Access) (*site, error) {
	u, err := url.Parse(strings.TrimSuffix(a.URL, "/"))
	if err != nil || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("reading the access for %s: not a URL with a host and without credentials", redact.URL(a.URL))
	}
	return &site{Access: a, url: u, tokens: auth.NewCache()}, nil
}

// trusting returns the transport with further certificate authorities.
func trusting(t *http.Transport, pem []byte) (*http.Transport, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in CA")
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

var (
	errRedirects = errors.New("too many redirects")
	errStepDown  = errors.New("refusing a redirect from https to what is not encrypted")
)

// checkRedirect keeps credentials at their origin (Go itself would send them on to another port, to a subdomain, and
// from https to http) and never steps down from https.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errRedirects
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errStepDown
	}
	if origin(req.URL) != origin(via[0].URL) {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
		req.Header.Del("Referer")
	}
	return nil
}

// fits reports whether the URL is under the site's prefix.
func (s *site) fits(u *url.URL) bool {
	if origin(s.url) != origin(u) {
		return false
	}
	// Joining a path to a URL without one leaves out the slash between them.
	rest, ok := strings.CutPrefix("/"+strings.Trim(u.Path, "/")+"/", "/"+strings.Trim(s.url.Path, "/"))
	return ok && (s.url.Path == "" || rest[0] == '/')
}

func (s *site) authorize(req *http.Request) {
	switch {
	case s.Token != "":
		req.Header.Set("Authorization", "Bearer "+s.Token)
	case s.Username != "" || s.Password != "":
		req.SetBasicAuth(s.Username, s.Password)
	}
}

// origin is scheme, host and port, spelled one way.
func origin(u *url.URL) string {
	scheme, port := strings.ToLower(u.Scheme), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return scheme + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// Loopback reports whether a host is this machine, by its name.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// sites are all that was configured, and an anonymous one for the rest.
type sites struct {
	list      []*site
	anonymous *site
}

func newSites(access []Access, transport http.RoundTripper, known *Hosts) (*sites, error) {
	s := &sites{anonymous: &site{tokens: auth.NewCache()}}
	for _, a := range access {
		one, err := newSite(a)
		if err != nil {
			return nil, err
		}
		s.list = append(s.list, one)
	}
	within := newReach(s.list)
	for _, one := range append(s.list, s.anonymous) {
		through := transport
		if through == nil {
			t := defaultTransport()
			if len(one.CA) > 0 {
				var err error
				if t, err = trusting(t, one.CA); err != nil {
					return nil, fmt.Errorf("reading the access for %s: %w", redact.URL(one.URL), err)
				}
			}
			through = within.over(t)
		}
		one.client = &http.Client{Transport: known.over(through, s, within), CheckRedirect: checkRedirect}
	}
	return s, nil
}

func defaultTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 30 * time.Second
	t.MaxIdleConnsPerHost = 4
	t.IdleConnTimeout = 30 * time.Second
	return t
}

// of returns the site whose prefix fits best. Where none does, and the repository that led here has the same origin,
// the repository's site holds (a repository often keeps its archives beside itself).
func (s *sites) of(u *url.URL, repository *site) *site {
	best := s.anonymous
	for _, one := range s.list {
		if one.fits(u) && (best == s.anonymous || len(one.url.Path) > len(best.url.Path)) {
			best = one
		}
	}
	if best == s.anonymous && repository != nil && repository.url != nil && origin(repository.url) == origin(u) {
		return repository
	}
	return best
}

// redact cleans the text of an error that comes from an HTTP client or a registry.
func (s *site) redact(err error) error {
	if err == nil {
		return nil
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	err = withoutAnswer(err)
	basic := base64.StdEncoding.EncodeToString([]byte(s.Username + ":" + s.Password))
	return &redact.Error{Text: redact.Text(redact.URLs(err.Error()), s.Password, s.Token, basic), Err: err}
}
