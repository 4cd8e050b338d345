package forge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/sluice-cd/sluice/gitsync/address"
)

// Kinds of forges.
const (
	GitHub = "github"
	GitLab = "gitlab"
	Gitea  = "gitea" // and Forgejo
)

// Options say which repository, and who asks.
type Options struct {
	// Kind is GitHub, GitLab or Gitea; empty: told by the host, where that is a forge everybody knows.
	Kind string
	// Address of the repository, as git has it: https, ssh, or scp-like.
	Address string
	// API is the base URL of the API; empty: where the host has it by default. It is needed where SSH and HTTPS have different
	// hosts, or GitLab is not at the root of its host.
	API string
	// Token is asked for each request, so that it can be rotated.
	Token func(context.Context) (string, error)
	// App is used instead of a Token.
	App *App
	// HTTPClient carries the requests; nil: one with Go's defaults. Its transport is where proxies and certificate authorities
	// are set.
	HTTPClient *http.Client
}

// App is an installation of a GitHub App.
type App struct {
	ID, InstallationID int64
	// Key is the App's private key, in PEM.
	Key []byte
}

// hosts are the forges that everybody knows, by what may stand in an address.
var hosts = map[string]struct{ kind, web string }{
	"github.com":        {GitHub, "github.com"},
	"ssh.github.com":    {GitHub, "github.com"}, // SSH over port 443
	"gitlab.com":        {GitLab, "gitlab.com"},
	"altssh.gitlab.com": {GitLab, "gitlab.com"},
	"codeberg.org":      {Gitea, "codeberg.org"},
	"gitea.com":         {Gitea, "gitea.com"},
}

// place is where a repository is on which forge.
type place struct {
	kind string
	api  *url.URL // without a slash at the end
	// owner may have slashes in it with GitLab.
	owner, name string
	host        string
}

// String is for people.
func (p place) String() string { return p.host + "/" + p.path() }

func (p place) path() string { return p.owner + "/" + p.name }

// New gives the repository. It asks nothing of the forge.
func New(o Options) (Repository, error) {
	p, err := o.place()
	if err != nil {
		return nil, err
	}
	if err := o.validate(p); err != nil {
		return nil, err
	}
	client := o.client(p)
	r := &repository{place: p}
	switch p.kind {
	case GitHub:
		r.driver, err = newGitHub(p, client, o.App)
	case GitLab:
		r.driver, err = newGitLab(p, client)
	case Gitea:
		r.driver = &giteaDriver{place: p, http: client}
	}
	if err != nil {
		return nil, fmt.Errorf("forge of %s: %w", p, err)
	}
	return r, nil
}

func (o Options) validate(p place) error {
	switch {
	case o.Token == nil && o.App == nil:
		return fmt.Errorf("forge of %s: no credentials: a token is needed, or a GitHub App", p)
	case o.Token != nil && o.App != nil:
		return fmt.Errorf("forge of %s: a token and a GitHub App: give one of them", p)
	case o.App != nil && p.kind != GitHub:
		return fmt.Errorf("forge of %s: a GitHub App is no credential for %s: give a token", p, p.kind)
	case p.api.Scheme == address.HTTP && !(address.Address{Host: p.api.Hostname()}).Loopback():
		return fmt.Errorf("forge of %s: over http:// the token would be readable on the way: use https", p)
	}
	return nil
}

// place tells forge and repository by the address. Its errors do not repeat the address, which may hold a password.
func (o Options) place() (place, error) {
	a, err := address.Parse(o.Address)
	if err != nil {
		return place{}, fmt.Errorf("forge: address: %w", err)
	}
	if a.Scheme == address.File {
		return place{}, errors.New("forge: address: a path on this machine is on no forge: https, ssh or user@host:path expected")
	}
	p := place{kind: o.Kind, host: strings.ToLower(a.Host)}
	if known, ok := hosts[p.host]; ok {
		p.host = known.web
		if p.kind == "" {
			p.kind = known.kind
		}
	}
	switch p.kind {
	case GitHub, GitLab, Gitea:
	case "":
		return place{}, fmt.Errorf("forge: %s can be any kind of forge: name the kind (github, gitlab or gitea)", a.Host)
	default:
		return place{}, fmt.Errorf("forge: kind %q is not known: github, gitlab or gitea expected", p.kind)
	}
	prefix, err := p.repository(a.Path)
	if err != nil {
		return place{}, err
	}
	if p.api, err = p.base(a, prefix, o.API); err != nil {
		return place{}, err
	}
	return p, nil
}

// repository takes owner and name off the end of an address's path, and gives what is before them.
func (p *place) repository(raw string) (prefix string, err error) {
	if raw, err = url.PathUnescape(raw); err != nil {
		return "", errors.New("forge: address: the path is not well escaped")
	}
	full := strings.TrimSuffix(strings.Trim(raw, "/"), ".git")
	before, name := path.Split(full)
	owner := strings.Trim(before, "/")
	if p.kind != GitLab { // whose groups have groups
		prefix, owner = path.Split(owner)
	}
	if owner == "" || name == "" {
		return "", fmt.Errorf("forge: address: the path %q names no repository: OWNER/NAME expected", full)
	}
	p.owner, p.name = owner, name
	return strings.Trim(prefix, "/"), nil
}

// base is the URL of the API.
func (p *place) base(a address.Address, prefix, given string) (*url.URL, error) {
	if given != "" {
		u, err := url.Parse(strings.TrimRight(given, "/"))
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Scheme != address.HTTP && u.Scheme != address.HTTPS {
			return nil, errors.New("forge: api: a URL with https and a host expected, without user and query")
		}
		return u, nil
	}
	u := &url.URL{Scheme: address.HTTPS, Host: p.host}
	if a.Scheme == address.HTTP || a.Scheme == address.HTTPS {
		u.Scheme = a.Scheme
		if a.Port != "" {
			u.Host = net.JoinHostPort(p.host, a.Port)
		}
	}
	switch {
	case p.kind == GitHub && p.host == "github.com":
		u.Host = "api.github.com"
	case p.kind == GitHub:
		u.Path = "/api/v3"
	case prefix != "":
		u.Path = "/" + prefix
	}
	return u, nil
}

// client is the one given, with credentials and judgement of what is answered.
func (o Options) client(p place) *http.Client {
	client := &http.Client{}
	if o.HTTPClient != nil {
		*client = *o.HTTPClient
	}
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	client.Transport = &requests{next: client.Transport, host: p.api.Host, token: o.Token}
	return client
}

// CommitPages is where the forge shows commits of a repository, by its address: a commit's hash is appended to it. Empty: the kind of
// forge is not known.
func CommitPages(kind, addr string) string {
	p, home, err := pages(kind, addr)
	if err != nil {
		return ""
	}
	dir := "commit"
	if p.kind == GitLab {
		dir = "-/commit"
	}
	return home.JoinPath(dir).String() + "/"
}

// HistoryPage is where the forge shows the commits of a branch that have changed a file. Empty: the kind of forge is not known.
func HistoryPage(kind, addr, branch, file string) string {
	p, home, err := pages(kind, addr)
	if err != nil {
		return ""
	}
	dir := "commits"
	switch p.kind {
	case GitLab:
		dir = "-/commits"
	case Gitea:
		dir = "commits/branch"
	}
	return home.JoinPath(dir, branch, file).String()
}

// pages is where people see a repository.
func pages(kind, addr string) (place, *url.URL, error) {
	p, err := Options{Kind: kind, Address: addr}.place()
	if err != nil {
		return place{}, nil, err
	}
	u := &url.URL{Scheme: p.api.Scheme, Host: p.api.Host, Path: p.api.Path}
	if p.kind == GitHub { // whose API is elsewhere than its pages
		u.Path = ""
		if p.host == "github.com" {
			u.Host = p.host
		}
	}
	return p, u.JoinPath(p.owner, p.name), nil
}

// KindOf tells the kind of forge by the host of a repository's address; empty: it can be any, or none.
func KindOf(addr string) string {
	a, err := address.Parse(addr)
	if err != nil {
		return ""
	}
	return hosts[strings.ToLower(a.Host)].kind
}
