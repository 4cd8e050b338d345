// Package address takes the addresses of git repositories apart. It is pure.
package address

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Schemes of an Address.
const (
	HTTPS = "https"
	HTTP  = "http"
	SSH   = "ssh"
	File  = "file"
)

// Address is a URL taken apart. Port is empty where the URL has none.
type Address struct {
	Scheme, User, Host, Port, Path string
}

// Parse understands URLs with scheme https, http, ssh and file, scp-like ones (git@host:path), and plain paths. Its errors never
// repeat the URL, which may hold a password in a place that no pattern finds.
func Parse(raw string) (Address, error) {
	switch {
	case raw == "":
		return Address{}, errors.New("is required")
	case strings.ContainsAny(raw, "\x00\r\n"):
		return Address{}, errors.New("control characters")
	case strings.Contains(raw, "://"):
		return parseURL(raw)
	case strings.Contains(raw, "::"):
		return Address{}, errors.New("remote helpers are not supported: https, http, ssh or user@host:path expected")
	}
	before, path, colon := strings.Cut(raw, ":")
	if !colon || strings.Contains(before, "/") {
		return Address{Scheme: File, Path: raw}, nil
	}
	user, host, ok := strings.Cut(before, "@")
	if !ok {
		user, host = "", before
		if strings.Contains(path, "@") { // user:password@host:path
			return Address{}, fmt.Errorf("%w; a path with an @ needs ssh://", errPassword)
		}
	}
	return Address{Scheme: SSH, User: user, Host: host, Path: path}.check()
}

// errPassword is returned for an address with a password in it.
var errPassword = errors.New("holds a password, which would end up in logs; expected the address alone, and --username and --password-file, " +
	"or username and passwordFile in agent.yaml")

func parseURL(raw string) (Address, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return Address{}, errors.New("not a valid URL")
	}
	switch u.Scheme {
	case HTTPS, HTTP, SSH, File:
	default:
		return Address{}, fmt.Errorf("scheme %q is not supported: https, http, ssh or user@host:path expected", u.Scheme)
	}
	if _, ok := u.User.Password(); ok {
		return Address{}, errPassword
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return Address{}, errors.New("a query or fragment is not supported")
	}
	a := Address{Scheme: u.Scheme, User: u.User.Username(), Host: u.Hostname(), Port: u.Port(), Path: u.Path}
	if a.Scheme == HTTP || a.Scheme == HTTPS {
		a.Path = u.EscapedPath()
	}
	return a.check()
}

func (a Address) check() (Address, error) {
	if a.Scheme == File {
		if a.Host != "" && a.Host != "localhost" {
			return Address{}, errors.New("file:// with a host is not supported")
		}
		if a.Path == "" {
			return Address{}, errors.New("path is missing")
		}
		return a, nil
	}
	// A leading hyphen would be read as an option by a program at the other end.
	switch {
	case a.Host == "" || strings.HasPrefix(a.Host, "-") || strings.ContainsAny(a.Host, " @/"):
		return Address{}, errors.New("host is missing or malformed")
	case strings.Trim(a.Path, "/") == "" || strings.HasPrefix(a.Path, "-"):
		return Address{}, errors.New("path is missing or malformed")
	case strings.Contains(a.User, ":"):
		return Address{}, errPassword
	}
	return a, nil
}

// Loopback tells whether the host is this machine.
func (a Address) Loopback() bool {
	if a.Host == "localhost" || strings.HasSuffix(a.Host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(a.Host)
	return err == nil && addr.Unmap().IsLoopback()
}
