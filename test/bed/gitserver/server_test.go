package gitserver_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"

	"github.com/sluice-cd/sluice/test/bed/gitserver"
)

func start(t *testing.T) *gitserver.Server {
	t.Helper()
	s, err := gitserver.New(gitserver.Options{Dir: t.TempDir(), User: "sluice", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	if err := s.CreateRepo("team/env"); err != nil {
		t.Fatal(err)
	}
	return s
}

// way is one of the ways to a repository.
type way struct {
	name, url string
	auth      transport.AuthMethod
}

func ways(t *testing.T, s *gitserver.Server) []way {
	t.Helper()
	known := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(known, []byte(s.KnownHosts()), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKeys("git", s.ClientKeyPEM, "")
	if err != nil {
		t.Fatal(err)
	}
	if key.HostKeyCallback, err = ssh.NewKnownHostsCallback(known); err != nil {
		t.Fatal(err)
	}
	return []way{
		{"http", s.URL("team/env"), &http.BasicAuth{Username: "sluice", Password: "secret"}},
		{"ssh", s.SSHURL("team/env"), key},
	}
}

// commit writes a file of a size and commits it in a new worktree whose origin
// is the repository.
func commit(t *testing.T, w way, file string, size int) *git.Repository {
	t.Helper()
	dir := t.TempDir()
	repo, err := git.PlainClone(dir, false, &git.CloneOptions{URL: w.url, Auth: w.auth})
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		repo, err = git.PlainInitWithOptions(dir, &git.PlainInitOptions{InitOptions: git.InitOptions{DefaultBranch: "refs/heads/main"}})
		if err == nil {
			_, err = repo.CreateRemote(&config.RemoteConfig{Name: "origin", URLs: []string{w.url}})
		}
	}
	if err != nil {
		t.Fatalf("%s: cloning: %v", w.name, err)
	}
	// Not compressible, so that the pack is as large.
	content := make([]byte, size)
	state := uint32(1)
	for i := range content {
		state = state*1664525 + 1013904223
		content[i] = byte(state >> 24)
	}
	if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := repo.Worktree()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Add(file); err != nil {
		t.Fatal(err)
	}
	who := &object.Signature{Name: "t", Email: "t@example.com", When: time.Unix(1, 0)}
	if _, err := tree.Commit("add "+file, &git.CommitOptions{Author: who}); err != nil {
		t.Fatal(err)
	}
	return repo
}

func TestCloneAndPush(t *testing.T) {
	s := start(t)
	for _, w := range ways(t, s) {
		// Two megabytes are sent in chunks, which CGI knows nothing of.
		for _, size := range []int{10, 2 << 20} {
			repo := commit(t, w, w.name, size)
			if err := repo.Push(&git.PushOptions{Auth: w.auth}); err != nil {
				t.Fatalf("%s: pushing %d bytes: %v", w.name, size, err)
			}
		}
	}
	clone := t.TempDir()
	w := ways(t, s)[1]
	if _, err := git.PlainClone(clone, false, &git.CloneOptions{URL: w.url, Auth: w.auth, Depth: 1}); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"http", "ssh"} {
		if info, err := os.Stat(filepath.Join(clone, file)); err != nil || info.Size() != 2<<20 {
			t.Errorf("%s in a shallow clone: %v, %v", file, info, err)
		}
	}
	if n := s.Pushes(); n != 4 {
		t.Errorf("%d pushes counted, want 4", n)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	s := start(t)
	w := ways(t, s)[0]
	for name, auth := range map[string]transport.AuthMethod{
		"nobody":         nil,
		"wrong password": &http.BasicAuth{Username: "sluice", Password: "x"},
	} {
		_, err := git.PlainClone(t.TempDir(), false, &git.CloneOptions{URL: w.url, Auth: auth})
		if !errors.Is(err, transport.ErrAuthenticationRequired) && !errors.Is(err, transport.ErrAuthorizationFailed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDenyPushes(t *testing.T) {
	s := start(t)
	for _, w := range ways(t, s) {
		if err := s.DenyPushes("team/env", "refs/heads/main", "main is protected"); err != nil {
			t.Fatal(err)
		}
		repo := commit(t, w, w.name, 10)
		if err := repo.Push(&git.PushOptions{Auth: w.auth}); err == nil || !strings.Contains(err.Error(), "pre-receive hook declined") {
			t.Errorf("%s: pushing to a protected branch: %v", w.name, err)
		}
		elsewhere := []config.RefSpec{config.RefSpec("refs/heads/main:refs/heads/proposal-" + w.name)}
		if err := repo.Push(&git.PushOptions{Auth: w.auth, RefSpecs: elsewhere}); err != nil {
			t.Errorf("%s: pushing to another branch: %v", w.name, err)
		}
		if err := s.DenyPushes("team/env", "", ""); err != nil {
			t.Fatal(err)
		}
		if err := repo.Push(&git.PushOptions{Auth: w.auth}); err != nil {
			t.Errorf("%s: pushing once the ban is lifted: %v", w.name, err)
		}
	}
}

func TestOutage(t *testing.T) {
	s := start(t)
	before := ways(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, w := range before {
		if _, err := git.PlainClone(t.TempDir(), false, &git.CloneOptions{URL: w.url, Auth: w.auth}); err == nil {
			t.Errorf("%s: a stopped server answered", w.name)
		}
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	for _, w := range before {
		if _, err := git.PlainClone(t.TempDir(), false, &git.CloneOptions{URL: w.url, Auth: w.auth}); !errors.Is(err, transport.ErrEmptyRemoteRepository) {
			t.Errorf("%s: after the outage: %v", w.name, err)
		}
	}
}
