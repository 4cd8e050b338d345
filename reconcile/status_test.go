package reconcile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// newApart is an agent whose audit log and commands are in a repository of their own.
func newApart(t *testing.T) (*recorder, gitsync.Remote) {
	t.Helper()
	dirs := map[string]string{}
	for _, name := range []string{"env", "status"} {
		dirs[name] = filepath.Join(t.TempDir(), name+".git")
		git(t, ".", "", "init", "--quiet", "--bare", dirs[name])
	}
	remote := gitsync.Remote{URL: "file://" + dirs["env"], AllowFile: true}
	status := gitsync.Remote{URL: "file://" + dirs["status"], AllowFile: true}
	r := recorderWith(t, remote, status)
	var err error
	if r.people, err = gitsync.NewWriter(gitsync.WriterConfig{Remote: remote, Create: true}, filepath.Join(t.TempDir(), "people")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.people.Close() })
	return r, status
}

// branches of a repository.
func branches(t *testing.T, remote gitsync.Remote) string {
	t.Helper()
	all, err := gitsync.Branches(t.Context(), remote, "")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

// TestStatusRepository: the audit log goes to a repository of its own, commands come from there alone, and what somebody else
// writes to the status branch is undone there.
func TestStatusRepository(t *testing.T) {
	r, status := newApart(t)
	r.bump("0.0.1")
	r.serving("web")
	r.writeAll()
	if got := branches(t, r.Repository.cfg.Remote); got != "main" {
		t.Errorf("the environment repository has %s", got)
	}
	if got := branches(t, status); got != statusBranch {
		t.Errorf("the status repository has %s", got)
	}
	if _, err := r.lookAside(t.Context()); err != nil || r.Agent.edited {
		t.Fatalf("edited: %t, %v", r.Agent.edited, err)
	}

	now := time.Now()
	for where, remote := range map[string]gitsync.Remote{"the environment repository": r.Repository.cfg.Remote, "the status repository": status} {
		remote.Branch = CommandBranch("staging")
		w, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: remote, Create: true}, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		ask := audit.Request{
			Names: audit.Names{Environment: "staging"}, App: "web", Kind: rollout.Pause, Reason: "in " + where, Expires: now.Add(time.Hour), ID: where,
		}
		if _, err := w.Commit(t.Context(), func(*gitsync.Snapshot) (*gitsync.Change, error) {
			return &gitsync.Change{Empty: true, Message: ask.Message(), Date: now}, nil
		}); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
	}
	r.look()
	if _, err := r.lookAside(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.Commands("web", rollout.State{LastCommand: "none"}); len(got) != 1 || got[0].Reason != "in the status repository" {
		t.Errorf("commands: %+v", got)
	}

	git(t, strings.TrimPrefix(status.URL, "file://"), "", "update-ref", "-d", "refs/heads/"+statusBranch)
	if _, err := r.lookAside(t.Context()); err != nil || !r.Agent.edited {
		t.Fatalf("edited: %t, %v", r.Agent.edited, err)
	}
	r.writeAll()
	if got := branches(t, status); !strings.Contains(got, statusBranch) {
		t.Errorf("it is not written again: %s", got)
	}
}

// TestStatusRepositoryIsAway: what is on the environment branch is read meanwhile, by an agent that knows what was delivered last.
func TestStatusRepositoryIsAway(t *testing.T) {
	r, status := newApart(t)
	r.bump("0.0.1")
	r.serving("web")
	r.writeAll()
	dir := strings.TrimPrefix(status.URL, "file://")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.lookAside(t.Context()); err == nil {
		t.Error("nobody is told that it is away")
	}
	r.bump("0.0.2") // which fails the test where it can't be read
	if r.Agent.edited {
		t.Error("a repository that is away is taken for one that was edited")
	}
}
