// Package chartrepo serves a Helm chart repository on loopback: packages and
// index are made by Helm's own code. It can also misbehave, with an index that
// does not parse or an archive of any size.
package chartrepo

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/sluice-cd/sluice/test/bed/loopback"
)

// Options say who may come in.
type Options struct {
	// Dir holds packages and index. Required.
	Dir string
	// User and Password are what requests must carry; an empty User lets
	// anyone in.
	User, Password string
}

// Server serves one repository. Methods may be called concurrently.
type Server struct {
	options Options

	mu       sync.Mutex
	address  string       // "" before the first start; then the same for ever
	web      *http.Server // nil: stopped
	badIndex []byte       // served instead of the index, unless nil
	huge     map[string]int64
	requests map[string]int // by path
}

// New prepares an empty repository; Start makes it listen.
func New(options Options) (*Server, error) {
	if err := os.MkdirAll(options.Dir, 0o755); err != nil {
		return nil, err
	}
	s := &Server{options: options, huge: map[string]int64{}, requests: map[string]int{}}
	return s, nil
}

// Start listens, after a Stop on the same port. A started server stays so.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.web != nil {
		return nil
	}
	listener, err := loopback.Listen(s.address)
	if err != nil {
		return fmt.Errorf("starting the chart repository: %w", err)
	}
	s.address = listener.Addr().String()
	s.web = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 10 * time.Second}
	go func(web *http.Server) { _ = web.Serve(listener) }(s.web)
	return s.index()
}

// Stop refuses and cuts all connections, as an outage would. Start ends it.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.web == nil {
		return nil
	}
	err := s.web.Close()
	s.web = nil
	return err
}

// URL is the address of the repository, without credentials.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "http://" + s.address
}

// Credentials are what requests must carry.
func (s *Server) Credentials() (user, password string) { return s.options.User, s.options.Password }

// Add packages the chart of a directory and indexes it. A version that is there
// is replaced, which real repositories should not do and some do.
func (s *Server) Add(chartDir string) error {
	loaded, err := loader.LoadDir(chartDir)
	if err != nil {
		return fmt.Errorf("loading chart %s: %w", chartDir, err)
	}
	return s.AddChart(loaded)
}

// AddVersion is Add with another version, and app version, than the directory's.
func (s *Server) AddVersion(chartDir, version string) error {
	loaded, err := loader.LoadDir(chartDir)
	if err != nil {
		return fmt.Errorf("loading chart %s: %w", chartDir, err)
	}
	loaded.Metadata.Version, loaded.Metadata.AppVersion = version, version
	return s.AddChart(loaded)
}

// AddChart is Add of a chart in memory.
func (s *Server) AddChart(c *chart.Chart) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := chartutil.Save(c, s.options.Dir); err != nil {
		return fmt.Errorf("packaging chart %s: %w", c.Name(), err)
	}
	return s.index()
}

// SetIndex serves these bytes as index.yaml instead of the real index, until it
// is given nil.
func (s *Server) SetIndex(content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.badIndex = content
}

// SetHuge serves an archive of this many bytes, none of them a chart, under a
// file name ("app-1.0.0.tgz") whether or not there is such a package.
func (s *Server) SetHuge(file string, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.huge["/"+file] = bytes
}

// Requests counts the requests so far for a file ("index.yaml").
func (s *Server) Requests(file string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests["/"+file]
}

// index writes index.yaml. The caller holds the lock and the address is known,
// or Start will index again.
func (s *Server) index() error {
	index, err := repo.IndexDirectory(s.options.Dir, "http://"+s.address)
	if err != nil {
		return fmt.Errorf("indexing %s: %w", s.options.Dir, err)
	}
	index.SortEntries()
	// Readers read it without our lock, so it must change at once.
	partial := filepath.Join(s.options.Dir, ".index.yaml")
	if err := index.WriteFile(partial, 0o644); err != nil {
		return fmt.Errorf("indexing %s: %w", s.options.Dir, err)
	}
	return os.Rename(partial, filepath.Join(s.options.Dir, "index.yaml"))
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	if user, password, _ := r.BasicAuth(); s.options.User != "" &&
		subtle.ConstantTimeCompare([]byte(user), []byte(s.options.User))&
			subtle.ConstantTimeCompare([]byte(password), []byte(s.options.Password)) != 1 {
		w.Header().Set("WWW-Authenticate", `Basic realm="bed"`)
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	s.requests[r.URL.Path]++
	size, isHuge := s.huge[r.URL.Path]
	index := s.badIndex
	s.mu.Unlock()

	switch {
	case isHuge:
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = io.CopyN(w, zeros{}, size)
	case index != nil && r.URL.Path == "/index.yaml":
		_, _ = w.Write(index)
	default:
		s.serveFile(w, r)
	}
}

// serveFile serves what is in the directory, and no listing of it.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	if name == "" || name != filepath.Base(name) {
		http.NotFound(w, r)
		return
	}
	file, err := os.Open(filepath.Join(s.options.Dir, name))
	if errors.Is(err, os.ErrNotExist) {
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = file.Close() }()
	http.ServeContent(w, r, "", time.Time{}, file)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
