package render

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/Masterminds/semver/v3"
	"golang.org/x/sync/singleflight"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/sluice-cd/sluice/gitsync/redact"
)

const userAgent = "sluice"

// Ref names a chart in a repository.
type Ref struct {
	Name string
	// Version is exact or a range, as in a chart's dependencies; empty: the newest release.
	Version string
	// Repository is an http(s):// URL that has an index.yaml, or an oci:// URL above the chart.
	Repository string
}

func (r Ref) String() string {
	return fmt.Sprintf("chart %s %s from %s", r.Name, r.Version, redact.URL(r.Repository))
}

// FetcherConfig configures a Fetcher. The zero value of every field but CacheDir is usable.
type FetcherConfig struct {
	// CacheDir is made when it is not there. Required.
	CacheDir string
	// Access to repositories that are not open to everybody.
	Access []Access
	// Signed says whose charts must be signed; empty: nobody's.
	Signed []Signed
	// Allow says why charts may not come from a repository; nil: it may be any.
	Allow func(repository string) error
	// Limits of indexes and archives.
	Limits Limits
	// Timeout is how long the requests for an archive may take together, and those for an index; default 60 s. Where they wait for
	// their turn it does not run.
	Timeout time.Duration
	// Hosts are shared by all fetchers of a process; nil: this one has its own.
	Hosts *Hosts
	// IndexAge is how long an index is used before the repository is asked whether it has changed; default 60 s.
	// A version that is missing in it is looked for again after 5 s.
	IndexAge time.Duration
	// DiskBytes bounds the archives in CacheDir; default 1 GiB. Those that were not read for the longest time go first.
	DiskBytes int64
	// MemoryBytes bounds the loaded charts that are kept in memory, by the size of their files; default 64 MiB.
	MemoryBytes int64
	// Transport of all requests, for tests; default: Go's, with the proxy of the environment, that reaches what it may.
	Transport http.RoundTripper
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// missAge is how old an index must be before it is asked for again because of a missing version.
const missAge = 5 * time.Second

// Fetcher brings charts from repositories and keeps them, on disk by digest and in memory as loaded.
type Fetcher struct {
	allow    func(repository string) error
	limits   Limits
	timeout  time.Duration
	indexAge time.Duration
	now      func() time.Time
	sites    *sites
	keyrings []*keyring
	disk     *diskCache
	loaded   *lru[*Chart]
	flights  singleflight.Group

	mu      sync.Mutex
	indexes map[string]*index // by repository; replaced, never changed
}

// NewFetcher opens the cache.
func NewFetcher(cfg FetcherConfig) (*Fetcher, error) {
	if cfg.CacheDir == "" {
		return nil, errors.New("opening the chart cache: no directory given")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now //nolint:forbidigo // the default of a clock that tests set
	}
	if cfg.Hosts == nil {
		cfg.Hosts = NewHosts(cfg.Now)
	}
	s, err := newSites(cfg.Access, cfg.Transport, cfg.Hosts)
	if err != nil {
		return nil, err
	}
	keyrings, err := newKeyrings(cfg.Signed)
	if err != nil {
		return nil, err
	}
	f := &Fetcher{
		allow: cfg.Allow, limits: cfg.Limits.withDefaults(), timeout: cfg.Timeout, indexAge: cfg.IndexAge, now: cfg.Now,
		sites: s, keyrings: keyrings, indexes: map[string]*index{},
	}
	if f.timeout <= 0 {
		f.timeout = time.Minute
	}
	if f.indexAge <= 0 {
		f.indexAge = time.Minute
	}
	orDefault(&cfg.DiskBytes, 1<<30)
	if f.disk, err = newDiskCache(cfg.CacheDir, cfg.DiskBytes, f.now); err != nil {
		return nil, err
	}
	orDefault(&cfg.MemoryBytes, 64<<20)
	f.loaded = newLRU[*Chart](cfg.MemoryBytes)
	return f, nil
}

// Fetch returns a chart. An exact version that is in the cache costs no request; a range asks for the index, or for the
// registry's tags, when the last answer is older than IndexAge. It returns an error that wraps ErrNotFound when the
// repository does not have the chart or the version, and a *LimitError when it is too large.
func (f *Fetcher) Fetch(ctx context.Context, r Ref) (*Chart, error) {
	r, err := r.normalize()
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r, err)
	}
	if f.allow != nil {
		if err := f.allow(r.Repository); err != nil {
			return nil, fmt.Errorf("fetching %s: %w", r, err)
		}
	}
	c, err := f.once(from(ctx, r.Repository), "chart\n"+r.Repository+"\n"+r.Name+"\n"+r.Version, func(ctx context.Context) (any, error) {
		return f.fetch(ctx, r)
	})
	if err != nil {
		return nil, fmt.Errorf("fetching %s: %w", r, err)
	}
	return c.(*Chart), nil
}

// normalize spells equal repositories alike and refuses what can't be fetched.
func (r Ref) normalize() (Ref, error) {
	u, err := url.Parse(r.Repository)
	if err != nil {
		return r, errors.New("the repository is a malformed URL")
	}
	if u.User != nil {
		return r, errors.New("the repository URL holds credentials; they belong in the agent's configuration, not in git")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "oci", u.Host == "":
		return r, fmt.Errorf("the repository is neither an http(s) nor an oci URL")
	case r.Name == "" || strings.ContainsAny(r.Name, "\\?#\x00\n") || strings.Contains(r.Name, ".."):
		return r, fmt.Errorf("%s is no chart name", quote(r.Name))
	}
	r.Repository = strings.TrimRight(r.Repository, "/")
	return r, nil
}

// once does overlapping equal work once, whose requests have a time. It goes on when a caller gives up, as others may wait for it too.
func (f *Fetcher) once(ctx context.Context, key string, work func(context.Context) (any, error)) (any, error) {
	done := f.flights.DoChan(key, func() (any, error) {
		return work(timed(context.WithoutCancel(ctx), f.timeout))
	})
	select {
	case result := <-done:
		return result.Val, result.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *Fetcher) fetch(ctx context.Context, r Ref) (*Chart, error) {
	if strings.HasPrefix(r.Repository, "oci://") {
		return f.fetchOCI(ctx, r)
	}
	return f.fetchHTTP(ctx, r)
}

func (f *Fetcher) fetchHTTP(ctx context.Context, r Ref) (*Chart, error) {
	if isExact(r.Version) {
		if p := f.disk.pinned(r); p.Digest != "" && !f.moved(r, p.Digest) {
			keyrings, err := f.keyringsOf(r.Repository, p.Archive)
			if err != nil {
				return nil, err
			}
			if c := f.cached(r, p.Digest, keyrings); c != nil {
				return c, nil
			}
		}
	}
	entry, err := f.lookUp(ctx, r)
	if err != nil {
		return nil, err
	}
	r.Version = entry.Version
	at, err := entry.archive(r.Repository)
	if err != nil {
		return nil, err
	}
	keyrings, err := f.keyringsOf(r.Repository, withoutQuery(at))
	if err != nil {
		return nil, err
	}
	want := strings.TrimPrefix(strings.ToLower(entry.Digest), "sha256:")
	for _, digest := range []string{want, f.disk.pinned(r).Digest} {
		if digest == "" || want != "" && digest != want {
			continue
		}
		if c := f.cached(r, digest, keyrings); c != nil {
			return c, f.disk.putPin(r, digest, withoutQuery(at))
		}
	}
	got, err := f.download(ctx, r, at, len(keyrings) > 0)
	if err != nil {
		return nil, err
	}
	if digest := sha256Hex(got.archive); want != "" && digest != want {
		return nil, fmt.Errorf("the archive's digest is sha256:%s, and the index says another", digest)
	}
	return f.keep(r, got, keyrings, withoutQuery(at))
}

// moved reports whether an index that was read since then gives the version another digest: somebody published
// the same version again.
func (f *Fetcher) moved(r Ref, digest string) bool {
	i := f.indexOf(r.Repository)
	if i == nil {
		return false
	}
	for _, e := range i.Charts[r.Name] {
		if e.Version == r.Version {
			return e.Digest != "" && strings.TrimPrefix(strings.ToLower(e.Digest), "sha256:") != digest
		}
	}
	return false
}

// lookUp finds a version in the index, and asks again for an index that has not got it.
func (f *Fetcher) lookUp(ctx context.Context, r Ref) (indexEntry, error) {
	i, err := f.freshIndex(ctx, r.Repository, f.indexAge)
	if err != nil {
		return indexEntry{}, err
	}
	entry, err := i.find(r.Name, r.Version)
	if !errors.Is(err, ErrNotFound) {
		return entry, err
	}
	if i, err = f.freshIndex(ctx, r.Repository, missAge); err != nil {
		return indexEntry{}, err
	}
	return i.find(r.Name, r.Version)
}

func (f *Fetcher) indexOf(repository string) *index {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.indexes[repository]
}

// freshIndex returns an index that was confirmed at most maxAge ago.
func (f *Fetcher) freshIndex(ctx context.Context, repository string, maxAge time.Duration) (*index, error) {
	if i := f.indexOf(repository); i != nil && f.now().Sub(i.Checked) < maxAge {
		return i, nil
	}
	i, err := f.once(ctx, "index\n"+repository, func(ctx context.Context) (any, error) {
		return f.refreshIndex(ctx, repository)
	})
	if err != nil {
		return nil, err
	}
	return i.(*index), nil
}

func (f *Fetcher) refreshIndex(ctx context.Context, repository string) (*index, error) {
	known := f.indexOf(repository)
	if known == nil {
		known = f.disk.index(repository)
	}
	fresh, err := f.downloadIndex(ctx, repository, known)
	if err != nil {
		return nil, fmt.Errorf("fetching the index: %w", err)
	}
	fresh.Checked = f.now()
	f.mu.Lock()
	f.indexes[repository] = fresh
	f.mu.Unlock()
	return fresh, nil
}

// downloadIndex asks for the index, unless it is still the known one.
func (f *Fetcher) downloadIndex(ctx context.Context, repository string, known *index) (*index, error) {
	u, err := url.Parse(repository)
	if err != nil {
		return nil, errors.New("malformed repository URL")
	}
	u = u.JoinPath("index.yaml")
	header := http.Header{}
	if known != nil && known.ETag != "" {
		header.Set("If-None-Match", known.ETag)
	} else if known != nil && known.LastModified != "" {
		header.Set("If-Modified-Since", known.LastModified)
	}
	answer, err := f.get(ctx, u, f.sites.of(u, nil), header, f.limits.Index, "index")
	if err != nil {
		return nil, err
	}
	if answer.status == http.StatusNotModified && known != nil {
		same := *known
		return &same, nil
	}
	i, err := parseIndex(answer.body)
	if err != nil {
		return nil, fmt.Errorf("what the server answers is no index.yaml (%s): %w", answer, err)
	}
	i.ETag, i.LastModified = answer.header.Get("ETag"), answer.header.Get("Last-Modified")
	return i, f.disk.putIndex(repository, i)
}

// archive is where the archive of an index entry is.
func (e indexEntry) archive(repository string) (*url.URL, error) {
	text, err := repo.ResolveReferenceURL(repository, e.URL)
	if err != nil {
		return nil, errors.New("the index gives the archive a malformed URL")
	}
	u, err := url.Parse(text)
	if err != nil || u.User != nil {
		return nil, errors.New("the index gives the archive a malformed URL")
	}
	return u, nil
}

// withoutQuery is a URL without what may be a signature in it.
func withoutQuery(u *url.URL) string {
	plain := *u
	plain.RawQuery, plain.Fragment = "", ""
	return plain.String()
}

// download brings an archive, and with signed what its repository has of who signed it.
func (f *Fetcher) download(ctx context.Context, r Ref, at *url.URL, signed bool) (received, error) {
	base, err := url.Parse(r.Repository)
	if err != nil {
		return received{}, errors.New("malformed repository URL")
	}
	s := f.sites.of(at, f.sites.of(base, nil))
	switch at.Scheme {
	case "http", "https":
		var got received
		answer, err := f.get(ctx, at, s, nil, f.limits.Archive, "chart archive")
		if err != nil {
			return got, fmt.Errorf("fetching %s: %w", redact.URL(at.String()), err)
		}
		got.archive = answer.body
		if signed {
			got.provenance, err = f.downloadProvenance(ctx, at, s)
		}
		return got, err
	case "oci":
		repository, tag := splitTag(at)
		if tag == "" {
			tag = r.Version
		}
		return f.pullOCI(ctx, repository, f.sites.of(repository, nil), tag, signed)
	}
	return received{}, fmt.Errorf("the index gives the archive a URL of scheme %s", quote(at.Scheme))
}

// downloadProvenance brings the provenance file beside an archive; nil: there is none.
func (f *Fetcher) downloadProvenance(ctx context.Context, archive *url.URL, s *site) ([]byte, error) {
	at := *archive
	at.Path, at.RawPath = at.Path+".prov", ""
	answer, err := f.get(ctx, &at, s, nil, maxProvenanceBytes, "provenance file")
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("fetching %s: %w", redact.URL(at.String()), err)
	}
	return answer.body, nil
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// get asks for a URL and reads the answer within a limit. Statuses other than 200 and 304 are errors.
func (f *Fetcher) get(ctx context.Context, u *url.URL, s *site, header http.Header, limit int64, what string) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, s.redact(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", userAgent)
	s.authorize(req)
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, s.redact(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		return &answer{status: resp.StatusCode, header: resp.Header}, nil
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("the server answers %s: %w", status(resp.StatusCode), ErrNotFound)
	default:
		return nil, fmt.Errorf("the server answers %s", status(resp.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, s.redact(err)
	}
	if int64(len(body)) > limit {
		return nil, &LimitError{What: what, Limit: limit}
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

func (f *Fetcher) fetchOCI(ctx context.Context, r Ref) (*Chart, error) {
	version, err := f.resolveOCI(ctx, r)
	if err != nil {
		return nil, err
	}
	r.Version = version
	u, s, err := f.ociChart(r)
	if err != nil {
		return nil, err
	}
	keyrings, err := f.keyringsOf(u.String())
	if err != nil {
		return nil, err
	}
	if c := f.cached(r, f.disk.pinned(r).Digest, keyrings); c != nil {
		return c, nil
	}
	got, err := f.pullOCI(ctx, u, s, version, len(keyrings) > 0)
	if errors.Is(err, ErrNotFound) {
		return nil, f.missingTag(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	return f.keep(r, got, keyrings, "")
}

// missingTag names the versions that the registry has instead.
func (f *Fetcher) missingTag(ctx context.Context, r Ref) error {
	u, s, err := f.ociChart(r)
	if err != nil {
		return err
	}
	repository, err := f.ociRepository(u, s)
	if err != nil {
		return s.redact(err)
	}
	var versions []string
	err = repository.Tags(ctx, "", func(tags []string) error {
		versions = append(versions, tags...)
		return nil
	})
	if err != nil {
		return fmt.Errorf("the registry has no such chart or version: %w", ErrNotFound)
	}
	return &noVersionError{wanted: r.Version, nearest: nearest(newestFirst(versions), r.Version)}
}

// cached returns the chart of an archive that is in memory or on disk, and signed as is asked for now; nil when it has to be
// fetched.
func (f *Fetcher) cached(r Ref, digest string, keyrings []*keyring) *Chart {
	c := f.stored(r, digest)
	if c == nil || !f.signedBy(keyrings, c, digest) {
		return nil
	}
	return c
}

func (f *Fetcher) stored(r Ref, digest string) *Chart {
	if digest == "" {
		return nil
	}
	if c, ok := f.loaded.get(digest); ok && r.check(c) == nil {
		return c
	}
	data := f.disk.archive(digest, f.limits.Archive)
	if data == nil {
		return nil
	}
	c, err := f.load(r, digest, data)
	if err != nil {
		return nil
	}
	return c
}

// keep loads an archive and, when it is what was asked for and signed as these keyrings want, stores it. archive is where it was, if
// the chart's own URL does not say it.
func (f *Fetcher) keep(r Ref, got received, keyrings []*keyring, archive string) (*Chart, error) {
	if int64(len(got.archive)) > f.limits.Archive {
		return nil, &LimitError{What: "chart archive", Limit: f.limits.Archive}
	}
	digest := sha256Hex(got.archive)
	c, err := f.load(r, digest, got.archive)
	if err != nil {
		return nil, err
	}
	for _, k := range keyrings {
		if err := k.check(c, got, f.disk.checks()); err != nil {
			return nil, err
		}
	}
	if err := f.disk.put(got); err != nil {
		return nil, err
	}
	return c, f.disk.putPin(r, digest, archive)
}

func (f *Fetcher) load(r Ref, digest string, data []byte) (*Chart, error) {
	files, err := readArchive(data, f.limits.allowance(), 0)
	if err != nil {
		return nil, err
	}
	root, err := loadFiles(files, f.limits)
	if err != nil {
		return nil, err
	}
	c := newChart(root)
	if err := r.check(c); err != nil {
		return nil, err
	}
	f.loaded.put(digest, c, c.size)
	return c, nil
}

// check makes sure that an archive holds what it was fetched as: Helm drops a dependency of another name silently.
func (r Ref) check(c *Chart) error {
	name := r.Name[strings.LastIndex(r.Name, "/")+1:]
	want, err := semver.NewVersion(r.Version)
	if err != nil {
		return fmt.Errorf("%s is no version", quote(r.Version))
	}
	got, err := semver.NewVersion(c.Version())
	if err != nil {
		return fmt.Errorf("the archive's version %s is no version", quote(c.Version()))
	}
	if c.Name() != name || !got.Equal(want) {
		return fmt.Errorf("the archive holds chart %s %s", quote(c.Name()), quote(c.Version()))
	}
	return nil
}
