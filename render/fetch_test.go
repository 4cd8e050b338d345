package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// packed is a chart archive made of names and contents.
func packed(t testing.TB, files ...string) []byte {
	t.Helper()
	var entries []*tar.Header
	for i := 0; i < len(files); i += 2 {
		entries = append(entries, &tar.Header{Name: files[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[i+1]))})
	}
	return pack(t, entries, func(i int) []byte { return []byte(files[2*i+1]) })
}

func pack(t testing.TB, entries []*tar.Header, content func(int) []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	w := tar.NewWriter(gz)
	for i, h := range entries {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(content(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func simpleChart(t testing.TB, name, version, data string) []byte {
	t.Helper()
	return packed(t,
		name+"/Chart.yaml", fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version),
		name+"/templates/cm.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "+name+"}\ndata: {d: "+data+"}\n",
	)
}

// chartRepo is an http chart repository that counts its requests.
type chartRepo struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string // paths, with the status
	auth     []string // Authorization headers
	files    map[string][]byte
	user     string // asked for with the password "secret-password"; empty: open
}

func newChartRepo(t testing.TB) *chartRepo {
	t.Helper()
	r := &chartRepo{files: map[string][]byte{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *chartRepo) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := http.StatusOK
	body, ok := r.files[req.URL.Path]
	etag := `"` + sha256Hex(body) + `"`
	user, pass, _ := req.BasicAuth()
	switch {
	case r.user != "" && (user != r.user || pass != "secret-password"):
		status = http.StatusUnauthorized
	case !ok:
		status = http.StatusNotFound
	case req.Header.Get("If-None-Match") == etag:
		status = http.StatusNotModified
	}
	r.requests = append(r.requests, fmt.Sprintf("%s %d", req.URL.Path, status))
	r.auth = append(r.auth, req.Header.Get("Authorization"))
	w.Header().Set("ETag", etag)
	w.WriteHeader(status)
	if status == http.StatusOK {
		_, _ = w.Write(body)
	}
}

// publish puts a chart into the repository; the index is written anew.
func (r *chartRepo) publish(name, version string, archive []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[fmt.Sprintf("/charts/%s-%s.tgz", name, version)] = archive
	entry := fmt.Sprintf("  - {version: %q, digest: %s, urls: [%s-%s.tgz]}\n", version, sha256Hex(archive), name, version)
	index := string(r.files["/charts/index.yaml"])
	if index == "" {
		index = "apiVersion: v1\nentries:\n  " + name + ":\n"
	}
	r.files["/charts/index.yaml"] = []byte(index + entry)
}

func (r *chartRepo) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.requests
	r.requests = nil
	return out
}

func (r *chartRepo) ref(version string) Ref {
	return Ref{Name: "app", Version: version, Repository: r.URL + "/charts/"}
}

// clock is a time that tests set.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func TestFetchPinnedVersionOnce(t *testing.T) {
	repo := newChartRepo(t)
	repo.publish("app", "1.0.0", simpleChart(t, "app", "1.0.0", "one"))
	dir := t.TempDir()
	for range 2 { // the second round is another process
		f := newTestFetcher(t, FetcherConfig{CacheDir: dir})
		for range 3 {
			c, err := f.Fetch(t.Context(), repo.ref("1.0.0"))
			if err != nil {
				t.Fatal(err)
			}
			if c.Name() != "app" || c.Version() != "1.0.0" {
				t.Errorf("got %s %s", c.Name(), c.Version())
			}
		}
	}
	if got, want := repo.seen(), []string{"/charts/index.yaml 200", "/charts/app-1.0.0.tgz 200"}; !slices.Equal(got, want) {
		t.Errorf("requests: %q, want %q", got, want)
	}
}

func TestFetchRefreshesTheIndexSparingly(t *testing.T) {
	repo := newChartRepo(t)
	repo.publish("app", "1.0.0", simpleChart(t, "app", "1.0.0", "one"))
	at := &clock{time.Unix(1_000_000, 0)}
	f := newTestFetcher(t, FetcherConfig{Now: at.Now})
	fetch := func(version, want string) {
		t.Helper()
		c, err := f.Fetch(t.Context(), repo.ref(version))
		switch {
		case want == "" && !errors.Is(err, ErrNotFound):
			t.Errorf("%s: error %v, want one that wraps ErrNotFound", version, err)
		case want != "" && err != nil:
			t.Errorf("%s: %v", version, err)
		case want != "" && c.Version() != want:
			t.Errorf("%s: got %s, want %s", version, c.Version(), want)
		}
	}
	requests := func(want ...string) {
		t.Helper()
		if got := repo.seen(); !slices.Equal(got, want) {
			t.Errorf("requests %q, want %q", got, want)
		}
	}
	fetch("^1.0.0", "1.0.0")
	requests("/charts/index.yaml 200", "/charts/app-1.0.0.tgz 200")
	fetch("^1.0.0", "1.0.0")
	requests()
	at.now = at.now.Add(2 * time.Minute)
	fetch("^1.0.0", "1.0.0")
	requests("/charts/index.yaml 304")

	// A promotion asks for a version that was published a moment ago.
	fetch("1.1.0", "")
	requests()
	repo.publish("app", "1.1.0", simpleChart(t, "app", "1.1.0", "two"))
	at.now = at.now.Add(missAge)
	fetch("1.1.0", "1.1.0")
	requests("/charts/index.yaml 200", "/charts/app-1.1.0.tgz 200")

	// The same version with other contents counts as soon as an index says so.
	repo.mu.Lock()
	delete(repo.files, "/charts/index.yaml")
	repo.mu.Unlock()
	repo.publish("app", "1.1.0", simpleChart(t, "app", "1.1.0", "three"))
	fetch("1.1.0", "1.1.0")
	requests()
	at.now = at.now.Add(2 * time.Minute)
	fetch("^1.0.0", "1.1.0")
	requests("/charts/index.yaml 200", "/charts/app-1.1.0.tgz 200")
}

func TestFetchErrors(t *testing.T) {
	repo := newChartRepo(t)
	for _, v := range []string{"1.0.0", "1.1.0", "2.0.0-rc.1"} {
		repo.publish("app", v, simpleChart(t, "app", v, "x"))
	}
	repo.publish("app", "3.0.0", simpleChart(t, "other", "3.0.0", "x"))
	repo.publish("app", "4.0.0", []byte("not an archive"))
	repo.publish("app", "5.0.0", simpleChart(t, "app", "5.0.0", "x"))
	repo.files["/charts/app-5.0.0.tgz"] = simpleChart(t, "app", "5.0.0", "tampered")
	host := strings.TrimPrefix(repo.URL, "http://")
	tests := []struct {
		ref  Ref
		want []string // parts of the message
		is   error
	}{
		{repo.ref("1.0.9"), []string{"chart app 1.0.9 from http://" + host + "/charts", "nearest are 4.0.0, 3.0.0, 2.0.0-rc.1, 1.1.0, 1.0.0"}, ErrNotFound},
		{repo.ref("~2.0.0"), []string{"no version ~2.0.0"}, ErrNotFound},
		{Ref{"nothing", "1.0.0", repo.URL + "/charts"}, []string{"chart nothing 1.0.0", "no chart of that name"}, ErrNotFound},
		{Ref{"app", "1.0.0", repo.URL + "/elsewhere"}, []string{"fetching the index", "404 Not Found"}, ErrNotFound},
		{repo.ref("one"), []string{`"one" is neither a version nor a range`}, nil},
		{repo.ref("3.0.0"), []string{`holds chart "other" "3.0.0"`}, nil},
		{repo.ref("4.0.0"), []string{"unpacking archive"}, nil},
		{repo.ref("5.0.0"), []string{"and the index says another"}, nil},
		{Ref{"app", "1.0.0", "http://user:hunter2@" + host + "/charts"}, []string{"credentials"}, nil},
		{Ref{"app", "1.0.0", "file:///etc"}, []string{"neither an http(s) nor an oci URL"}, nil},
		{Ref{"app", "1.0.0", "://"}, []string{"malformed URL"}, nil},
		{Ref{"../x", "1.0.0", repo.URL}, []string{"no chart name"}, nil},
		{Ref{"app", "1.0.0", "http://127.0.0.1:1/charts?sig=hunter2"}, []string{"connection refused"}, nil},
	}
	f := newTestFetcher(t, FetcherConfig{})
	for _, tt := range tests {
		_, err := f.Fetch(t.Context(), tt.ref)
		if err == nil {
			t.Errorf("%v: no error", tt.ref)
			continue
		}
		for _, part := range tt.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v: error %q does not say %q", tt.ref, err, part)
			}
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: the error holds a secret: %q", tt.ref, err)
		}
		if tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%v: error %v is not %v", tt.ref, err, tt.is)
		}
	}
}

func TestFetchRanges(t *testing.T) {
	repo := newChartRepo(t)
	for _, v := range []string{"1.0.0", "1.10.0", "1.9.0", "2.0.0", "2.1.0-rc.1", "v3.0.0", "0.0.1+build"} {
		repo.publish("app", v, simpleChart(t, "app", v, "x"))
	}
	f := newTestFetcher(t, FetcherConfig{})
	for version, want := range map[string]string{
		"": "v3.0.0", "*": "v3.0.0", "^1.0.0": "1.10.0", "~1.9": "1.9.0", "1.x": "1.10.0", ">=2.0.0-0 <3.0.0-0": "2.1.0-rc.1",
		">1.0.0 <3": "2.0.0", "2.1.0-rc.1": "2.1.0-rc.1", "3.0.0": "v3.0.0", "0.0.1+build": "0.0.1+build", "0.0.1": "0.0.1+build",
	} {
		c, err := f.Fetch(t.Context(), repo.ref(version))
		if err != nil {
			t.Errorf("%q: %v", version, err)
		} else if c.Version() != want {
			t.Errorf("%q: got %s, want %s", version, c.Version(), want)
		}
	}
}

func TestFetchSendsCredentialsToTheirOriginOnly(t *testing.T) {
	private, other := newChartRepo(t), newChartRepo(t)
	private.user = "jenkins"
	private.publish("app", "1.0.0", simpleChart(t, "app", "1.0.0", "x"))
	stranger := simpleChart(t, "app", "2.0.0", "x")
	other.files["/app.tgz"] = stranger
	private.files["/charts/index.yaml"] = append(private.files["/charts/index.yaml"],
		fmt.Sprintf("  - {version: 2.0.0, digest: %s, urls: [%s/app.tgz]}\n", sha256Hex(stranger), other.URL)...)

	if _, err := newTestFetcher(t, FetcherConfig{}).Fetch(t.Context(), private.ref("1.0.0")); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without credentials: %v", err)
	}
	f := newTestFetcher(t, FetcherConfig{Access: []Access{
		{URL: private.URL + "/char", Username: "wrong", Password: "prefix of a segment"},
		{URL: private.URL + "/charts", Username: "jenkins", Password: "secret-password"},
	}})
	for _, v := range []string{"1.0.0", "2.0.0"} {
		if _, err := f.Fetch(t.Context(), private.ref(v)); err != nil {
			t.Errorf("%s: %v", v, err)
		}
	}
	if len(other.auth) != 1 || other.auth[0] != "" {
		t.Errorf("the other host got %q", other.auth)
	}
}

func TestFetchRedirects(t *testing.T) {
	target := newChartRepo(t)
	archive := simpleChart(t, "app", "1.0.0", "x")
	target.files["/app.tgz"] = archive
	repo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer secret-token" {
			t.Errorf("the repository got %q", got)
		}
		if r.URL.Path == "/index.yaml" {
			fmt.Fprint(w, "apiVersion: v1\nentries: {app: [{version: 1.0.0, urls: [app.tgz]}]}")
			return
		}
		http.Redirect(w, r, target.URL+r.URL.Path, http.StatusFound)
	}))
	t.Cleanup(repo.Close)
	f := newTestFetcher(t, FetcherConfig{Access: []Access{{URL: repo.URL, Token: "secret-token"}}})
	if _, err := f.Fetch(t.Context(), Ref{"app", "1.0.0", repo.URL}); err != nil {
		t.Fatal(err)
	}
	// Go itself would pass the header on: the hosts differ only in their port.
	if len(target.auth) != 1 || target.auth[0] != "" {
		t.Errorf("the redirect's target got %q", target.auth)
	}
	down := &http.Request{URL: &url.URL{Scheme: "http", Host: "x"}, Header: http.Header{}}
	from := &http.Request{URL: &url.URL{Scheme: "https", Host: "x"}}
	if checkRedirect(down, []*http.Request{from}) == nil {
		t.Error("a redirect from https to http was followed")
	}
}

func TestErrorsHoldNoCredentials(t *testing.T) {
	f := newTestFetcher(t, FetcherConfig{
		Access: []Access{{URL: "http://charts.invalid", Username: "u", Password: "secret-password", Token: "secret-token"}},
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return nil, fmt.Errorf("dialing %s?X-Amz-Signature=secret-query with %s and secret-password", r.URL, r.Header)
		}),
	})
	_, err := f.Fetch(t.Context(), Ref{"app", "1.0.0", "http://charts.invalid"})
	if err == nil || strings.Contains(fmt.Sprintf("%v %+v", err, err), "secret-") {
		t.Errorf("error: %v", err)
	}
	if _, err := NewFetcher(FetcherConfig{CacheDir: t.TempDir(), Access: []Access{{URL: "https://u:secret-x@h"}}}); err == nil || strings.Contains(err.Error(), "secret-") {
		t.Errorf("error: %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestFetchTogetherOnce(t *testing.T) {
	repo := newChartRepo(t)
	repo.publish("app", "1.0.0", simpleChart(t, "app", "1.0.0", "x"))
	f := newTestFetcher(t, FetcherConfig{})
	var wg sync.WaitGroup
	charts := make([]*Chart, 50)
	for i := range charts {
		wg.Go(func() {
			var err error
			if charts[i], err = f.Fetch(t.Context(), repo.ref("1.0.0")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, c := range charts {
		if c != charts[0] {
			t.Fatal("the chart was loaded more than once")
		}
	}
	if got := repo.seen(); len(got) != 2 {
		t.Errorf("requests: %q", got)
	}
}

func TestFetchCanceled(t *testing.T) {
	release := make(chan struct{})
	repo := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(repo.Close)
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newTestFetcher(t, FetcherConfig{Hosts: NewHosts(nil)}).Fetch(ctx, Ref{"app", "1.0.0", repo.URL}); !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	f := newTestFetcher(t, FetcherConfig{Timeout: time.Millisecond})
	if _, err := f.Fetch(t.Context(), Ref{"app", "1.0.0", repo.URL}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error: %v", err)
	}
}

func TestDamagedCacheIsFetchedAgain(t *testing.T) {
	repo := newChartRepo(t)
	repo.publish("app", "1.0.0", simpleChart(t, "app", "1.0.0", "x"))
	dir := t.TempDir()
	if _, err := newTestFetcher(t, FetcherConfig{CacheDir: dir}).Fetch(t.Context(), repo.ref("1.0.0")); err != nil {
		t.Fatal(err)
	}
	archives, _ := filepath.Glob(filepath.Join(dir, "charts", "*.tgz"))
	for _, a := range archives {
		if err := os.WriteFile(a, simpleChart(t, "app", "1.0.0", "poisoned"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := newTestFetcher(t, FetcherConfig{CacheDir: dir}).Fetch(t.Context(), repo.ref("1.0.0"))
	if err != nil || len(archives) != 1 {
		t.Fatal(err, archives)
	}
	if data := c.Helm().Templates[0].Data; bytes.Contains(data, []byte("poisoned")) {
		t.Errorf("the poisoned archive was used: %s", data)
	}
}

func TestDiskCacheIsBounded(t *testing.T) {
	repo, dir := newChartRepo(t), t.TempDir()
	size := int64(len(simpleChart(t, "app", "1.0.0", "x")))
	// Later than any file is written, so that what was read is newer than what was only written.
	now := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	open := func() *Fetcher {
		// Nothing is kept in memory.
		return newTestFetcher(t, FetcherConfig{
			CacheDir: dir, DiskBytes: 10*size + size/2, MemoryBytes: 1, Now: func() time.Time { return now }, IndexAge: time.Second,
		})
	}
	files := func(sub string) int {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	get := func(f *Fetcher, version string) {
		now = now.Add(time.Minute)
		if _, err := f.Fetch(t.Context(), repo.ref(version)); err != nil {
			t.Fatal(err)
		}
	}
	f := open()
	for i := range 30 {
		version := fmt.Sprintf("1.%d.0", i)
		repo.publish("app", version, simpleChart(t, "app", version, "x"))
		get(f, version)
		// The oldest is in use all the time.
		get(f, "1.0.0")
		if n := files("charts"); n > 11 {
			t.Fatalf("%d archives are kept", n)
		}
	}
	if charts, pins := files("charts"), files("pins"); pins != charts || charts < 7 {
		t.Errorf("%d archives and %d pins are kept", charts, pins)
	}
	leftover := filepath.Join(dir, "charts", tempPrefix+"1")
	if err := os.WriteFile(leftover, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := files("charts")
	f = open()
	if n := files("charts"); n != before-1 {
		t.Errorf("%d files after opening the cache anew, want %d", n, before-1)
	}
	repo.seen()
	get(f, "1.0.0")
	if got := repo.seen(); len(got) > 0 {
		t.Errorf("the version in use was fetched again: %q", got)
	}
	get(f, "1.1.0")
}

func TestIndexLimitAndFaults(t *testing.T) {
	repo := newChartRepo(t)
	repo.files["/charts/index.yaml"] = []byte("apiVersion: v1\nentries: {}\n# " + strings.Repeat("x", 1000))
	f := newTestFetcher(t, FetcherConfig{Limits: Limits{Index: 1000}})
	var limit *LimitError
	if _, err := f.Fetch(t.Context(), repo.ref("1.0.0")); !errors.As(err, &limit) {
		t.Errorf("error: %v", err)
	}
	for text, want := range map[string]string{
		"entries: {}":                              "no apiVersion",
		"apiVersion: v1\nentries: [":               "does not read as one",
		"{\"apiVersion\": \"v1\", \"entries\": 1}": "does not read as one",
		"": "no apiVersion",
	} {
		if _, err := parseIndex([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
	i, err := parseIndex([]byte("apiVersion: v1\nentries: {a: [null, {version: 1.0.0}, {version: x, urls: [u]}, {version: 2.0.0, urls: [u]}]}"))
	if err != nil || len(i.Charts["a"]) != 1 {
		t.Errorf("got %+v, %v", i, err)
	}
}

func TestFetchTrustsTheGivenCA(t *testing.T) {
	archive := simpleChart(t, "app", "1.0.0", "x")
	repo := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/app.tgz" {
			_, _ = w.Write(archive)
			return
		}
		fmt.Fprint(w, `{"apiVersion": "v1", "entries": {"app": [{"version": "1.0.0", "urls": ["app.tgz"]}]}}`)
	}))
	t.Cleanup(repo.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: repo.Certificate().Raw})
	ref := Ref{"app", "1.0.0", repo.URL}
	if _, err := newTestFetcher(t, FetcherConfig{}).Fetch(t.Context(), ref); err == nil {
		t.Error("an unknown authority was trusted")
	}
	if _, err := newTestFetcher(t, FetcherConfig{Access: []Access{{URL: repo.URL, CA: ca}}}).Fetch(t.Context(), ref); err != nil {
		t.Error(err)
	}
	if _, err := NewFetcher(FetcherConfig{CacheDir: t.TempDir(), Access: []Access{{URL: repo.URL, CA: []byte("none")}}}); err == nil {
		t.Error("a CA without certificates was taken")
	}
}
