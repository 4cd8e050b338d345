package render

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestUnreachable(t *testing.T) {
	for ip, want := range map[string]string{ // by whom it can be reached: c(onfigured), n(amed), l(ed)
		"93.184.216.34": "cnl", "2606:2800:220:1::1": "cnl",
		"10.1.2.3": "cn", "192.168.0.1": "cn", "172.16.0.1": "cn", "fd00::1": "cn", "100.64.0.1": "cn",
		"127.0.0.1": "c", "::1": "c", "0.0.0.0": "c", "0.1.2.3": "c", "::": "c", "::ffff:127.0.0.1": "c", "64:ff9b::7f00:1": "c",
		"169.254.169.254": "c", "fe80::1": "c", "fe80::1%eth0": "c", "::ffff:169.254.169.254": "c", "64:ff9b::a9fe:a9fe": "c",
		"2002:a9fe:a9fe::1": "c", "100.100.100.200": "c", "192.0.0.192": "c", "fd00:ec2::254": "c",
		"224.0.0.1": "c", "ff02::1": "c", "255.255.255.255": "c", "64:ff9b::a01:203": "cn",
	} {
		got := ""
		for d, letter := range []string{"c", "n", "l"} {
			if unreachable(netip.MustParseAddr(ip), distance(d)) == "" {
				got += letter
			}
		}
		if got != want {
			t.Errorf("%s: reached by %s, want %s", ip, got, want)
		}
	}
	for host, ok := range map[string]bool{
		"charts.example.com": true, "ghcr.io": true, "10.0.0.1": true, "svc.example.com": true,
		"localhost": false, "a.LOCALHOST.": false, "web": false, "web.production.svc": false, "web.production.svc.cluster.local.": false,
		"kubernetes.default": false, "kubernetes.default.svc": false, "127.0.0.1": false, "169.254.169.254": false,
	} {
		if why := unnamable(host, named); (why == "") != ok {
			t.Errorf("%s: %q", host, why)
		}
		if why := unnamable(host, configured); why != "" {
			t.Errorf("%s, configured: %q", host, why)
		}
	}
}

// internal is a server that nobody but the operator may lead the agent to.
func internal(t *testing.T) (u string, asked *int) {
	t.Helper()
	asked = new(int)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		*asked++
		fmt.Fprint(w, "AKIA-INTERNAL-TOKEN-0123456789\n")
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func walledFetcher(t *testing.T, urls ...string) *Fetcher {
	t.Helper()
	cfg := FetcherConfig{CacheDir: t.TempDir()}
	for _, u := range urls {
		cfg.Access = append(cfg.Access, Access{URL: u})
	}
	f, err := NewFetcher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestReach holds that neither git nor a chart host can have the agent ask a server on its own machine, by whatever way, and that
// the operator can.
func TestReach(t *testing.T) {
	target, asked := internal(t)
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/redirect/"):
			http.Redirect(w, r, target+"/latest/meta-data/iam/role", http.StatusFound)
		case strings.HasPrefix(r.URL.Path, "/archive/"):
			fmt.Fprintf(w, "apiVersion: v1\nentries: {app: [{version: 1.0.0, urls: ['%s/app.tgz']}]}", target)
		case strings.HasPrefix(r.URL.Path, "/registry/"):
			fmt.Fprintf(w, "apiVersion: v1\nentries: {app: [{version: 1.0.0, urls: ['oci://%s/app:1.0.0']}]}", strings.TrimPrefix(target, "http://"))
		default: // a registry whose tokens come from elsewhere
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+target+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(evil.Close)
	registry := strings.Replace(evil.URL, "http://", "oci://", 1)
	for _, repository := range []string{
		target, strings.Replace(target, "http://", "oci://", 1) + "/charts", strings.Replace(target, "127.0.0.1", "localhost", 1),
		evil.URL + "/redirect", evil.URL + "/archive", evil.URL + "/registry", registry + "/charts",
		"http://[::ffff:127.0.0.1]:" + portOf(t, target), "http://0.0.0.0:" + portOf(t, target),
	} {
		_, err := walledFetcher(t, evil.URL, registry).Fetch(t.Context(), Ref{"app", "1.0.0", repository})
		var refused *refusal
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "list its URL in charts: of agent.yaml") {
			t.Errorf("%s: error %v", repository, err)
		}
	}
	if *asked > 0 {
		t.Errorf("the internal server was asked %d times", *asked)
	}
	if _, err := walledFetcher(t, target).Fetch(t.Context(), Ref{"app", "1.0.0", target}); err == nil || *asked == 0 {
		t.Errorf("a configured server was not asked: %v", err)
	} else if strings.Contains(err.Error(), "AKIA") || !strings.Contains(err.Error(), "200 OK, text/plain, 31 bytes") {
		t.Errorf("error %v", err)
	}
}

func portOf(t *testing.T, raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// TestAddressesAreLookedAtWhenDialed: it does not matter what a name resolved to before. The operator's proxy may be anywhere.
func TestAddressesAreLookedAtWhenDialed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	r := newReach(nil)
	var refused *refusal
	for _, d := range []distance{named, led} {
		if _, err := r.dial(d)(t.Context(), "tcp", "127.0.0.1:"+port); !errors.As(err, &refused) || refused.host != "127.0.0.1" {
			t.Errorf("error %v", err)
		}
	}
	proxy := r.proxy(func(*http.Request) (*url.URL, error) { return url.Parse("http://localhost:" + port) })
	if _, err := proxy(nil); err != nil {
		t.Fatal(err)
	}
	conn, err := r.dial(led)(t.Context(), "tcp", "localhost:"+port)
	if err != nil {
		t.Fatalf("the operator's proxy: %v", err)
	}
	_ = conn.Close()
}

// TestErrorsQuoteNoAnswer holds that nothing of what a server sends is told, whatever protocol it speaks.
func TestErrorsQuoteNoAnswer(t *testing.T) {
	const secret = "s3cretOfTheServer"
	for name, raw := range map[string]string{
		"no HTTP":       secret + "\r\n\r\n",
		"a status":      "HTTP/1.1 500 " + secret + "\r\nContent-Length: 0\r\n\r\n",
		"a bad status":  "HTTP/1.1 " + secret + "\r\n\r\n",
		"a bad header":  "HTTP/1.1 200 OK\r\n" + secret + "\r\n\r\n",
		"a location":    "HTTP/1.1 302 Found\r\nLocation: http://%zz" + secret + "\r\nContent-Length: 0\r\n\r\n",
		"a scheme":      "HTTP/1.1 302 Found\r\nLocation: " + secret + "://x/\r\nContent-Length: 0\r\n\r\n",
		"YAML":          "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nentries: {app: " + secret + "}\napiVersion: v1\n",
		"HTML":          "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<title>" + secret + "</title>",
		"a type":        "HTTP/1.1 200 OK\r\nContent-Type: " + secret + "/" + secret + "\r\nConnection: close\r\n\r\nx",
		"JSON":          "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"apiVersion\": \"v1\", \"entries\": {\"app\": \"" + secret + "\"}}",
		"a digest":      "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\napiVersion: v1\nentries: {app: [{version: 1.0.0, digest: " + secret + ", urls: [x]}]}",
		"denied by OCI": "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{\"errors\": [{\"code\": \"DENIED\", \"message\": \"" + secret + "\"}]}",
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 4096))
				_, _ = c.Write([]byte(raw))
				_ = c.Close()
			}
		}()
		for _, scheme := range []string{"http://", "oci://"} {
			repository := scheme + l.Addr().String() + "/charts"
			_, err := walledFetcher(t, repository).Fetch(t.Context(), Ref{"app", "1.0.0", repository})
			if err == nil || strings.Contains(strings.ToLower(err.Error()), strings.ToLower(secret[3:])) {
				t.Errorf("%s, %s: error %v", name, scheme, err)
			}
		}
	}
}
