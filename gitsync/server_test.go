package gitsync

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// origin is a bare repository, made and changed with the git program.
type origin struct {
	t    testing.TB
	dir  string
	work string
}

func newOrigin(t testing.TB) *origin {
	t.Helper()
	root := t.TempDir()
	o := &origin{t: t, dir: filepath.Join(root, "env.git"), work: filepath.Join(root, "work")}
	o.git(root, "init", "-q", "--bare", "-b", "main", o.dir)
	o.git(o.dir, "config", "http.receivepack", "true")
	o.git(root, "init", "-q", "-b", "main", o.work)
	o.git(o.work, "remote", "add", "origin", o.dir)
	return o
}

func (o *origin) git(dir string, args ...string) string {
	o.t.Helper()
	out, err := gitCommand(dir, args...).CombinedOutput()
	if err != nil {
		o.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func gitCommand(dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com", "GIT_COMMITTER_NAME=Bob", "GIT_COMMITTER_EMAIL=bob@example.com")
	return cmd
}

// commit writes files into the work tree, commits and pushes. "name" -> "text"; "" deletes.
func (o *origin) commit(message string, files map[string]string) string {
	o.t.Helper()
	o.write(files)
	o.git(o.work, "add", "-A")
	o.git(o.work, "commit", "-q", "--allow-empty", "-m", message)
	o.git(o.work, "push", "-q", "--force", "origin", "HEAD")
	return o.git(o.work, "rev-parse", "HEAD")
}

func (o *origin) write(files map[string]string) {
	o.t.Helper()
	for name, text := range files {
		path := filepath.Join(o.work, name)
		var err error
		if text == "" {
			err = os.Remove(path)
		} else if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			o.t.Fatal(err)
		}
	}
}

func (o *origin) hook(name, script string) {
	o.t.Helper()
	dir := filepath.Join(o.dir, "hooks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		o.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		o.t.Fatal(err)
	}
}

// httpServer serves an origin over smart HTTP.
type httpServer struct {
	*httptest.Server
	// User and password that are asked for; none when empty.
	user, password string
	// intercept may answer a request instead of git.
	intercept atomic.Pointer[func(http.ResponseWriter, *http.Request, http.Handler) bool]
	requests  atomic.Int64
}

func (o *origin) serveHTTP(user, password string) *httpServer {
	o.t.Helper()
	backend := filepath.Join(o.git(o.dir, "--exec-path"), "git-http-backend")
	git := &cgi.Handler{Path: backend, Env: []string{
		"GIT_PROJECT_ROOT=" + filepath.Dir(o.dir), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=agent",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
	}, Stderr: io.Discard}
	s := &httpServer{user: user, password: password}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if f := s.intercept.Load(); f != nil && (*f)(w, r, git) {
			return
		}
		u, p, _ := r.BasicAuth()
		if s.user != "" && (u != s.user || p != s.password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "who is "+u+":"+p+"?", http.StatusUnauthorized)
			return
		}
		// go-git sends no Content-Length that net/http/cgi would pass on for chunked bodies; make it known.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		git.ServeHTTP(w, r)
	}))
	o.t.Cleanup(s.Close)
	return s
}

func (s *httpServer) remote() Remote {
	return Remote{URL: s.URL + "/env.git", Auth: Auth{Username: s.user, Password: s.password}}
}

func (s *httpServer) onRequest(f func(http.ResponseWriter, *http.Request, http.Handler) bool) {
	s.intercept.Store(&f)
}

// sshServer serves an origin over SSH.
type sshServer struct {
	addr                string
	keyFile, knownHosts string
	hostKey             ssh.PublicKey
}

func (o *origin) serveSSH() *sshServer {
	o.t.Helper()
	dir := o.t.TempDir()
	hostSigner, _ := newKey(o.t)
	client, clientPEM := newKey(o.t)
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if bytes.Equal(key.Marshal(), client.PublicKey().Marshal()) {
			return nil, nil
		}
		return nil, fmt.Errorf("unknown key")
	}}
	config.AddHostKey(hostSigner)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go o.handleSSH(conn, config)
		}
	}()
	s := &sshServer{
		addr: l.Addr().String(), hostKey: hostSigner.PublicKey(),
		keyFile: filepath.Join(dir, "key"), knownHosts: filepath.Join(dir, "known_hosts"),
	}
	for file, data := range map[string]string{
		s.keyFile: string(clientPEM), s.knownHosts: knownhosts.Line([]string{s.addr}, s.hostKey) + "\n",
	} {
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			o.t.Fatal(err)
		}
	}
	return s
}

func (s *sshServer) remote(o *origin) Remote {
	return Remote{URL: "ssh://git@" + s.addr + o.dir, Auth: Auth{SSHKeyFile: s.keyFile, KnownHostsFile: s.knownHosts}}
}

func newKey(t testing.TB) (ssh.Signer, []byte) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

func (o *origin) handleSSH(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for req := range requests {
			if req.Type != "exec" {
				_ = req.Reply(false, nil)
				continue
			}
			_ = req.Reply(true, nil)
			var payload struct{ Command string }
			_ = ssh.Unmarshal(req.Payload, &payload)
			cmd := exec.Command("sh", "-c", payload.Command)
			cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
			in, err := cmd.StdinPipe() // not cmd.Stdin: the session ends when git does, whatever the client still holds open
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(in, channel)
				_ = in.Close()
			}()
			status := struct{ Status uint32 }{}
			if cmd.Run() != nil {
				status.Status = 128
			}
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(&status))
			_ = channel.Close()
		}
	}
}

// mustOpen opens a Repo in a directory of its own.
func mustOpen(t testing.TB, r Remote) *Repo {
	t.Helper()
	repo, err := Open(t.Context(), r, filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = repo.Close() })
	return repo
}

func mustFetch(t testing.TB, r *Repo) *Snapshot {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := r.Fetch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustWriter(t testing.TB, cfg WriterConfig) *Writer {
	t.Helper()
	w, err := NewWriter(cfg, filepath.Join(t.TempDir(), "writer"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}
