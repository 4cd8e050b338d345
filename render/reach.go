package render

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

// reach says which servers may be asked for a chart. Whoever writes to an environment repository names chart repositories, and
// their servers name others, in redirects, indexes and token services; what answers the agent inside of its network and of its
// cluster is not theirs to ask.
//
// A host that the operator has configured is reached wherever it is. Other repositories may be anywhere but on this machine, on
// its link and in the cluster; in-house hosts with private addresses are common. Where a repository's server leads to another
// host, that has to be a public one. Addresses are looked at when they are dialed, so that a name that resolves otherwise the
// second time gains nothing.
type reach struct {
	configured map[string]bool
	// proxies are those of the environment, by host and port: they are the operator's too.
	proxies sync.Map
}

// distance is how a host came to be asked.
type distance int

const (
	configured distance = iota
	named               // by the environment repository
	led                 // by a server
)

// refusal says why a server is not asked.
type refusal struct{ host, why string }

func (e *refusal) Error() string {
	return fmt.Sprintf("refusing to ask %s: %s; to allow it, list its URL in charts: of agent.yaml, or give it as --chart-repository", e.host, e.why)
}

func newReach(sites []*site) *reach {
	r := &reach{configured: map[string]bool{}}
	for _, s := range sites {
		r.configured[hostKey(s.url)] = true
	}
	return r
}

// hostKey is the host and port of a URL, without the port where it is that of http or https.
func hostKey(u *url.URL) string {
	port := u.Port()
	if port == "80" || port == "443" {
		port = ""
	}
	return strings.TrimSuffix(strings.ToLower(u.Hostname()), ".") + ":" + port
}

// homeKey is the context's key of the host of the repository that is fetched from.
type homeKey struct{}

// from marks what is asked for on behalf of a repository.
func from(ctx context.Context, repository string) context.Context {
	u, err := url.Parse(repository)
	if err != nil {
		return ctx
	}
	return context.WithValue(ctx, homeKey{}, hostKey(u))
}

// over is a transport that reaches what it may. Each distance has connections of its own: one that was made for a host that was
// named is none for a redirect.
func (r *reach) over(t *http.Transport) http.RoundTripper {
	w := &walled{reach: r}
	for d := range w.transports {
		own := t.Clone()
		own.DialContext = r.dial(distance(d))
		own.Proxy = r.proxy(t.Proxy)
		w.transports[d] = own
	}
	return w
}

// walled sends each request by the transport of its distance.
type walled struct {
	reach      *reach
	transports [led + 1]http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (w *walled) RoundTrip(req *http.Request) (*http.Response, error) {
	d := w.reach.distance(req)
	if why := unnamable(req.URL.Hostname(), d); why != "" {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, &refusal{req.URL.Host, why}
	}
	return w.transports[d].RoundTrip(req)
}

func (r *reach) distance(req *http.Request) distance {
	key := hostKey(req.URL)
	switch {
	case r.configured[key]:
		return configured
	case req.Context().Value(homeKey{}) == key:
		return named
	default:
		return led
	}
}

// unnamable says of a host what forbids it by its name already; a proxy would resolve it.
func unnamable(host string, d distance) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		return unreachable(ip, d)
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	switch {
	case d == configured:
		return ""
	case host == "localhost" || strings.HasSuffix(host, ".localhost"):
		return "it is the agent's own machine"
	case !strings.Contains(host, "."):
		return "its name has no domain, so that it is a service of the cluster or a machine beside the agent"
	case strings.HasSuffix(host, ".svc") || strings.HasSuffix(host, ".cluster.local") || host == "kubernetes.default":
		return "it is a service of the cluster"
	}
	return ""
}

// sharedAddresses are those of providers' networks (RFC 6598). metadata are addresses of cloud providers that hand out
// credentials, and are neither loopback nor link-local.
var (
	sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")
	thisNetwork     = netip.MustParsePrefix("0.0.0.0/8")
	metadata        = map[netip.Addr]bool{
		netip.MustParseAddr("100.100.100.200"): true, netip.MustParseAddr("192.0.0.192"): true, netip.MustParseAddr("fd00:ec2::254"): true,
	}
	// Addresses of IPv6 that stand for one of IPv4, which begins at a byte.
	embedding = map[netip.Prefix]int{netip.MustParsePrefix("64:ff9b::/96"): 12, netip.MustParsePrefix("2002::/16"): 2, netip.MustParsePrefix("::/96"): 12}
)

// unreachable says what forbids an address; empty: nothing.
func unreachable(ip netip.Addr, d distance) string {
	ip = ip.Unmap().WithZone("")
	if d == configured {
		return ""
	}
	switch {
	case ip.IsLoopback() || ip.IsUnspecified() || thisNetwork.Contains(ip):
		return "it is the agent's own machine"
	case ip.IsLinkLocalUnicast() || metadata[ip]:
		return "it has a link-local address, as clouds' metadata services have"
	case ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "its address is no single machine's"
	case d == led && (ip.IsPrivate() || sharedAddresses.Contains(ip)):
		return "it has a private address, and not the environment but a server leads there"
	}
	for prefix, at := range embedding {
		if prefix.Contains(ip) {
			b := ip.As16()
			return unreachable(netip.AddrFrom4([4]byte(b[at:at+4])), d)
		}
	}
	return ""
}

// dial connects to what may be reached at a distance.
func (r *reach) dial(d distance) func(ctx context.Context, network, address string) (net.Conn, error) {
	free := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	checked := *free
	checked.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return &refusal{"a server", "its address can't be read"}
		}
		if why := unreachable(at.Addr(), d); why != "" {
			return &refusal{"a server", why}
		}
		return nil
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if _, ok := r.proxies.Load(address); ok || d == configured {
			return free.DialContext(ctx, network, address)
		}
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		if _, err := netip.ParseAddr(host); err != nil {
			// As it stands, without the domains that are searched here: in a pod "web.production" would be a service.
			address = net.JoinHostPort(strings.TrimSuffix(host, ".")+".", port)
		}
		conn, err := checked.DialContext(ctx, network, address)
		var why *refusal
		var unknown *net.DNSError
		switch {
		case errors.As(err, &why):
			return nil, &refusal{host, why.why}
		case errors.As(err, &unknown) && unknown.IsNotFound:
			return nil, fmt.Errorf("%w (search domains and /etc/hosts are only looked at for hosts that charts: of agent.yaml lists)", err)
		}
		return conn, err
	}
}

// proxy remembers the proxies that requests are sent by.
func (r *reach) proxy(choose func(*http.Request) (*url.URL, error)) func(*http.Request) (*url.URL, error) {
	if choose == nil {
		return nil
	}
	return func(req *http.Request) (*url.URL, error) {
		u, err := choose(req)
		if u != nil {
			port := u.Port()
			if port == "" {
				port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
			}
			r.proxies.Store(net.JoinHostPort(u.Hostname(), port), true)
		}
		return u, err
	}
}
