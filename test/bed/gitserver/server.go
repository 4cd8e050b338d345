// Package gitserver serves bare Git repositories on loopback as a forge would:
// over smart HTTP with basic authentication, by git's own http-backend, and over
// SSH with public keys, by git's own upload-pack and receive-pack. So what
// clones, fetches, shallow clones and pushes against it does so against Git.
package gitserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sluice-cd/sluice/test/bed/loopback"
)

// Options say who may come in.
type Options struct {
	// Dir holds the repositories and keys. Required.
	Dir string
	// User and Password are what HTTP asks for; an empty User lets anyone in.
	User, Password string
}

// Server serves every repository of its directory. Methods may be called
// concurrently.
type Server struct {
	options    Options
	git        string // path of the program
	hostSigner ssh.Signer
	clientKey  ssh.PublicKey

	// ClientKeyPEM is the private key that SSH lets in; ClientKeyPath is a
	// file that holds it, readable by its owner only, as ssh demands.
	ClientKeyPEM  []byte
	ClientKeyPath string

	mu       sync.Mutex
	httpAddr string // "" before the first start; then the same for ever
	sshAddr  string
	web      *http.Server // nil: stopped
	shells   *sshListener
	pushes   int
	requests map[string]int
}

// New prepares a server; Start makes it listen.
func New(options Options) (*Server, error) {
	git, err := exec.LookPath("git")
	if err != nil {
		return nil, errors.New("the command git is not on PATH: install it (Debian, Ubuntu: apt install git; macOS: xcode-select --install)")
	}
	if err := os.MkdirAll(filepath.Join(options.Dir, "repos"), 0o755); err != nil {
		return nil, err
	}
	s := &Server{options: options, git: git, requests: map[string]int{}}
	if err := s.makeKeys(); err != nil {
		return nil, fmt.Errorf("making SSH keys: %w", err)
	}
	return s, nil
}

// Start listens, after a Stop on the same ports. A started server stays so.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.web != nil {
		return nil
	}
	listener, err := loopback.Listen(s.httpAddr)
	if err != nil {
		return fmt.Errorf("starting the Git server: %w", err)
	}
	shells, err := loopback.Listen(s.sshAddr)
	if err != nil {
		_ = listener.Close()
		return fmt.Errorf("starting the Git server: %w", err)
	}
	s.httpAddr, s.sshAddr = listener.Addr().String(), shells.Addr().String()
	s.web = &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second}
	go func(web *http.Server) { _ = web.Serve(listener) }(s.web)
	s.shells = s.serveSSH(shells)
	return nil
}

// Stop refuses and cuts all connections, as an outage would. Start ends it.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.web == nil {
		return nil
	}
	err := s.web.Close()
	s.shells.close()
	s.web, s.shells = nil, nil
	return err
}

// URL is the HTTP address of a repository, without credentials.
func (s *Server) URL(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "http://" + s.httpAddr + "/" + name + ".git"
}

// SSHURL is the SSH address of a repository.
func (s *Server) SSHURL(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "ssh://git@" + s.sshAddr + "/" + name + ".git"
}

// Credentials are what HTTP asks for.
func (s *Server) Credentials() (user, password string) { return s.options.User, s.options.Password }

// Pushes counts the pushes that came in, refused ones included.
func (s *Server) Pushes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pushes
}

// Requests counts the requests over HTTP for a repository.
func (s *Server) Requests(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[name]
}

// Path is the directory of a repository, for tests that look inside with git.
func (s *Server) Path(name string) string {
	return filepath.Join(s.options.Dir, "repos", name+".git")
}

// CreateRepo makes an empty bare repository whose default branch is main. The
// name may have slashes ("team/environment").
func (s *Server) CreateRepo(name string) error {
	if err := os.MkdirAll(filepath.Dir(s.Path(name)), 0o755); err != nil {
		return err
	}
	if err := s.run("", "init", "--quiet", "--bare", "--initial-branch=main", s.Path(name)); err != nil {
		return fmt.Errorf("creating repository %s: %w", name, err)
	}
	for _, setting := range []string{"http.receivepack", "uploadpack.allowAnySHA1InWant", "uploadpack.allowFilter"} {
		if err := s.run(s.Path(name), "config", setting, "true"); err != nil {
			return fmt.Errorf("configuring repository %s: %w", name, err)
		}
	}
	return nil
}

// DenyPushes makes a repository refuse pushes to a ref ("refs/heads/main"), as
// a protected branch does, with this message. An empty ref means every one, an
// empty message lifts the ban.
func (s *Server) DenyPushes(name, ref, message string) error {
	hook := filepath.Join(s.Path(name), "hooks", "pre-receive")
	if message == "" {
		if err := os.Remove(hook); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	if ref == "" {
		ref = "*"
	} else {
		ref = quote(ref)
	}
	script := "#!/bin/sh\nwhile read old new ref; do\n  case \"$ref\" in " + ref + ") echo " + quote(message) + " >&2; exit 1;; esac\ndone\n"
	if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
		return err
	}
	return os.WriteFile(hook, []byte(script), 0o755)
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// handler runs http-backend for each request of an authenticated user.
func (s *Server) handler() http.Handler {
	backend := &cgi.Handler{
		Path: s.git,
		Args: []string{"http-backend"},
		Dir:  s.options.Dir,
		Env: []string{
			"GIT_PROJECT_ROOT=" + filepath.Join(s.options.Dir, "repos"),
			"GIT_HTTP_EXPORT_ALL=1",
			"GIT_CONFIG_NOSYSTEM=1",
		},
		InheritEnv: []string{"PATH"},
		Stderr:     io.Discard,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.admits(r) {
			w.Header().Set("WWW-Authenticate", `Basic realm="bed"`)
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		s.count(r)
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
			s.countPush()
		}
		// CGI has no chunked bodies; go-git and git send them for large packs.
		if r.ContentLength < 0 {
			if err := spool(r, s.options.Dir); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			defer func() { _ = r.Body.Close() }()
		}
		backend.ServeHTTP(w, r)
	})
}

func (s *Server) admits(r *http.Request) bool {
	if s.options.User == "" {
		return true
	}
	user, password, _ := r.BasicAuth()
	return subtle.ConstantTimeCompare([]byte(user), []byte(s.options.User))&
		subtle.ConstantTimeCompare([]byte(password), []byte(s.options.Password)) == 1
}

func (s *Server) count(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name, _, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), ".git/"); ok {
		s.requests[name]++
	}
}

func (s *Server) countPush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pushes++
}

func (s *Server) run(dir string, args ...string) error {
	cmd := exec.CommandContext(context.Background(), s.git, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running git %s: %w: %s", args[0], err, out)
	}
	return nil
}
