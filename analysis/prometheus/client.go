// Package prometheus asks a Prometheus server, or whatever speaks its API, what the checks of a release want to know.
//
// A [Client] may be used concurrently. It answers with values only: a server that is down, slow, or wrong makes samples with
// an Err, never an error of the call and never a guess. What it keeps are its connections and, for a moment, the answers
// about many workloads, which are asked for together (rounds).
//
// Invariants: all queries of a check are asked for the same instant, by the server's clock, so that a clock of ours
// that is wrong shifts nothing; a query that should answer with one number and answers with several series has no value,
// rather than one of them; an answer is at most a second old, and a tenth of its window; a workload's series never answers
// for another; a response is read up to a limit; credentials are in no error.
package prometheus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"

	"github.com/sluice-cd/sluice/gitsync/redact"
)

// DefaultTimeout is the time that one query may take.
const DefaultTimeout = 5 * time.Second

// Config says where the server is and how to sign in to it. At most one way to sign in may be used. Files are read
// for every query, so that their content may rotate.
type Config struct {
	// Address is the server's URL, such as http://prometheus:9090, with its path prefix if it has one. A user and a
	// password in it are used for basic authentication. Required.
	Address string
	// Timeout of one query; 0: DefaultTimeout.
	Timeout time.Duration
	// Username for basic authentication, with Password or the content of PasswordFile.
	Username, Password, PasswordFile string
	// BearerToken, or the content of BearerTokenFile.
	BearerToken, BearerTokenFile string
	// Headers to send along, such as X-Scope-OrgID.
	Headers map[string]string
	// CAFile holds certificates (PEM) that are trusted beside the system's.
	CAFile string
	// InsecureSkipVerify trusts every certificate.
	InsecureSkipVerify bool
}

// Client asks one server.
type Client struct {
	api     v1.API
	timeout time.Duration
	secrets *secrets
	rounds  rounds
}

// New makes a client; it does not connect. Its error joins everything that is wrong with the configuration.
func New(c Config) (*Client, error) {
	address, err := c.resolve()
	if err != nil {
		return nil, fmt.Errorf("configuring prometheus: %w", err)
	}
	transport, err := c.transport()
	if err != nil {
		return nil, fmt.Errorf("configuring prometheus: %w", err)
	}
	s := &secrets{config: c}
	client, err := api.NewClient(api.Config{
		Address: address,
		Client: &http.Client{
			Transport: &roundTripper{next: transport, secrets: s, headers: c.Headers},
			// Credentials go to the configured server and to no other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	})
	if err != nil {
		return nil, fmt.Errorf("configuring prometheus: %w", err)
	}
	asks := &Client{api: v1.NewAPI(client), timeout: c.Timeout, secrets: s}
	asks.rounds = rounds{client: asks, wanted: map[time.Duration]map[question]time.Time{}, last: map[time.Duration]*round{}}
	return asks, nil
}

// Ready asks the server for a value that needs no data. The error says why it does not answer.
func (c *Client) Ready(ctx context.Context) error {
	if a := c.query(ctx, "vector(1)", time.Time{}); a.err != nil {
		return a.err
	}
	return nil
}

// resolve checks the configuration, fills in defaults, and returns the address without its credentials.
func (c *Config) resolve() (string, error) {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	u, err := url.Parse(c.Address)
	switch {
	case err != nil:
		// The parser's own text quotes the address, credentials and all.
		fault("address is not a URL; expected one such as http://prometheus:9090")
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		// Not quoted: without a scheme a user and a password are not told from the rest.
		fault("address is not an http or https URL; expected one such as http://prometheus:9090")
	case u.RawQuery != "", u.Fragment != "":
		fault("address: a query or a fragment has no place in it")
	}
	if u != nil && u.User != nil {
		if c.Username != "" {
			fault("address and username both name a user; expected one of them")
		}
		c.Username = u.User.Username()
		c.Password, _ = u.User.Password()
		u.User = nil
	}
	if c.Password != "" && c.PasswordFile != "" {
		fault("password and passwordFile: expected one of them")
	}
	if c.BearerToken != "" && c.BearerTokenFile != "" {
		fault("bearerToken and bearerTokenFile: expected one of them")
	}
	basic := c.Username != "" || c.Password != "" || c.PasswordFile != ""
	if basic && (c.BearerToken != "" || c.BearerTokenFile != "") {
		fault("a password and a bearer token: expected one of them")
	}
	if basic && c.Username == "" {
		fault("a password without a username")
	}
	if c.Timeout < 0 {
		fault("timeout %s: expected more than 0", c.Timeout)
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if err := errors.Join(faults...); err != nil {
		return "", err
	}
	return u.String(), nil
}

// transport trusts what the configuration trusts.
func (c *Config) transport() (http.RoundTripper, error) {
	standard, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		standard = &http.Transport{Proxy: http.ProxyFromEnvironment}
	}
	t := standard.Clone()
	t.MaxIdleConnsPerHost = concurrent
	t.TLSClientConfig = &tls.Config{
		MinVersion: tls.VersionTLS12,
		//nolint:gosec // an explicit setting of the operator
		InsecureSkipVerify: c.InsecureSkipVerify,
	}
	if c.CAFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificates to trust: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("reading the certificates to trust: %s holds none", c.CAFile)
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

// secrets holds what signs requests and must not be in a text.
type secrets struct{ config Config }

// sign puts the credentials into a request.
func (s *secrets) sign(r *http.Request) error {
	password, err := valueOrFile(s.config.Password, s.config.PasswordFile)
	if err != nil {
		return fmt.Errorf("reading the password: %w", err)
	}
	token, err := valueOrFile(s.config.BearerToken, s.config.BearerTokenFile)
	if err != nil {
		return fmt.Errorf("reading the bearer token: %w", err)
	}
	switch {
	case s.config.Username != "":
		r.SetBasicAuth(s.config.Username, password)
	case token != "":
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// remove takes the credentials out of a text, in case a server repeats what it was sent.
func (s *secrets) remove(text string) string {
	password, _ := valueOrFile(s.config.Password, s.config.PasswordFile)
	token, _ := valueOrFile(s.config.BearerToken, s.config.BearerTokenFile)
	hide := []string{password, token}
	for _, v := range s.config.Headers {
		hide = append(hide, v)
	}
	return redact.Text(text, hide...)
}

func valueOrFile(value, file string) (string, error) {
	if file == "" {
		return value, nil
	}
	data, err := os.ReadFile(file)
	return strings.TrimSpace(string(data)), err
}
