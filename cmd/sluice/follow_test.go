package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// followed is an environment repository of one app, whose status branch a test writes as the agent does.
type followed struct {
	t   *testing.T
	dir string
	// seq is the number of the newest event.
	seq int64
	now time.Time
}

func newFollowed(t *testing.T) *followed {
	f := &followed{t: t, dir: t.TempDir(), now: time.Now().Truncate(time.Second)}
	f.git("init", "-q", "-b", "main")
	f.commit("env/Chart.yaml", "apiVersion: v1\nname: env\nversion: 0.0.1\n")
	f.commit("sluice.yaml", "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: production\n")
	return f
}

func (f *followed) git(args ...string) string {
	f.t.Helper()
	cmd := exec.CommandContext(f.t.Context(), "git", args...)
	cmd.Dir = f.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		f.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (f *followed) commit(file, text string) string {
	f.t.Helper()
	name := filepath.Join(f.dir, file)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.git("add", "-A")
	f.git("commit", "-q", "-m", "change "+file)
	return f.git("rev-parse", "HEAD")
}

// asks has git ask for a version.
func (f *followed) asks(version string) rollout.Release {
	commit := f.commit("env/requirements.yaml", "dependencies:\n- name: web\n  version: "+version+"\n  repository: https://charts.example.com\n")
	return rollout.Release{Version: version, Digest: "d" + version, Commit: commit}
}

// tells writes events to the status branch.
func (f *followed) tells(ctx context.Context, events ...rollout.Event) {
	for i := range events {
		f.seq++
		f.now = f.now.Add(time.Second)
		events[i].Seq, events[i].Time = f.seq, f.now
	}
	remote := gitsync.Remote{URL: f.dir, Branch: "sluice/status/production", AllowFile: true}
	err := record(ctx, remote, f.t.TempDir(), audit.Batch{
		Names: audit.Names{Environment: "production"}, Now: f.now, Apps: []audit.App{{Name: "web", State: rollout.State{LastSeq: f.seq}, Events: events}},
	})
	if err != nil {
		f.t.Error(err)
	}
}

func (f *followed) installed(r rollout.Release) {
	f.tells(f.t.Context(), rollout.Event{Type: rollout.InstallStarted, To: r}, rollout.Event{Type: rollout.Installed, To: r})
}

func event(typ rollout.EventType, from, to rollout.Release, weight int, reason string) rollout.Event {
	return rollout.Event{Type: typ, Rollout: 1, From: from, To: to, Weight: weight, Reason: reason}
}

func (f *followed) rolledBack(from, to rollout.Release) {
	const reason = "success rate 69% < 99%"
	f.tells(f.t.Context(), event(rollout.RolloutStarted, from, to, 0, ""), event(rollout.RollbackStarted, from, to, 0, reason),
		event(rollout.RolledBack, from, to, 0, reason))
}

// wait is status --wait, with its output and exit code.
func (f *followed) wait(commit string, timeout time.Duration, apps ...string) (said string, code int) {
	f.t.Helper()
	s := statusSource{sourceFlags: sourceFlags{repo: f.dir, path: "."}}
	var out bytes.Buffer
	err := s.wait(f.t.Context(), &out, apps, commit, timeout)
	if err == nil {
		return out.String(), exitOK
	}
	code = exitFailed
	var coded *codedError
	if errors.As(err, &coded) {
		code = coded.code
	}
	return out.String() + err.Error(), code
}

func (f *followed) expect(what, commit string, code int, want string) {
	f.t.Helper()
	timeout := time.Minute
	if code == exitChange { // which only the end of the time brings about
		timeout = time.Second
	}
	if said, got := f.wait(commit, timeout); got != code || !strings.Contains(said, want) {
		f.t.Errorf("%s: it ended with %d, expected %d and %q:\n%s", what, got, code, want, said)
	}
}

// TestWait goes through what may become of a commit.
func TestWait(t *testing.T) {
	f := newFollowed(t)
	one := f.asks("1.0.0")
	f.expect("nobody has told of it", "", exitChange, "not finished within --timeout 1s: web serves nothing yet")
	f.installed(one)
	f.expect("it serves", "", exitOK, "web serves 1.0.0")
	values := f.commit("env/values.yaml", "web:\n  replicas: 2\n")
	f.expect("other values of the same version", "", exitChange, "web serves 1.0.0")
	one.Digest, one.Commit = "d1.0.0b", values
	f.tells(t.Context(), rollout.Event{Type: rollout.Applied, From: one, To: one})
	f.expect("they are applied", "", exitOK, "web serves 1.0.0")

	two := f.asks("1.0.1")
	f.tells(t.Context(), event(rollout.RolloutStarted, one, two, 0, ""), event(rollout.Advanced, one, two, 10, "the canary is ready"))
	f.expect("it is under way", "", exitChange, "1.0.1 is analyzing at 10%")
	f.rolledBack(one, two)
	f.expect("it was rolled back", "", exitFinding, "web: 1.0.1 was rolled back: success rate 69% < 99%")
	f.git("revert", "--no-edit", "HEAD")
	f.expect("git was put back", "", exitOK, "web serves 1.0.0")
	f.expect("git was put back, and the failed commit is asked for", two.Commit, exitFinding, "web: 1.0.1 was rolled back")
	f.git("revert", "--no-edit", "HEAD")
	f.expect("it is to be tried again", "", exitChange, "web serves 1.0.0")

	three := f.asks("1.0.2")
	f.tells(t.Context(), event(rollout.RolloutStarted, one, three, 0, ""))
	f.expect("another took its place", "HEAD~1", exitFinding, "web: replaced by 1.0.2 of commit "+three.Commit[:10])
	f.commit("env/requirements.yaml", "dependencies:\n- name: web\n")
	f.expect("git itself is wrong", "", exitFinding, "web cannot be delivered: env/requirements.yaml:2")
	if said, code := f.wait("", time.Second, "wbe"); code != exitUsage || !strings.Contains(said, `there is no app "wbe"`) {
		t.Errorf("an app that is not there: %d, %s", code, said)
	}
}

// TestWaitFollows: what happens meanwhile is told, and ends the wait.
func TestWaitFollows(t *testing.T) {
	f := newFollowed(t)
	one := f.asks("1.0.0")
	f.installed(one)
	two := f.asks("1.0.1")
	var agent sync.WaitGroup
	agent.Go(func() {
		select {
		case <-t.Context().Done():
		case <-time.After(time.Second):
		}
		f.tells(t.Context(), event(rollout.RolloutStarted, one, two, 0, ""), event(rollout.Promoted, one, two, 0, ""))
	})
	said, code := f.wait("", time.Minute, "web")
	agent.Wait()
	if want := "web: rollout started (1.0.0 -> 1.0.1)\nweb: promoted (1.0.0 -> 1.0.1)\nweb serves 1.0.1\n"; code != exitOK || said != want {
		t.Errorf("it ended with %d:\n%s", code, said)
	}
}

// TestWatch: a pipe gets a line for each event, a terminal the whole screen, and an interrupt is how it ends.
func TestWatch(t *testing.T) {
	f := newFollowed(t)
	one := f.asks("1.0.0")
	f.installed(one)
	s := &statusSource{sourceFlags: sourceFlags{repo: f.dir, path: "."}}
	ctx, interrupt := context.WithTimeout(t.Context(), time.Minute)
	defer interrupt()
	lines, pipe := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- s.watch(ctx, canvas{w: pipe}, nil)
		_ = pipe.Close()
	}()
	// The first may be there before the watch begins, which tells only of what comes after it.
	var agent sync.WaitGroup
	agent.Go(func() {
		for weight := 10; ctx.Err() == nil; weight = weight%50 + 10 {
			f.tells(t.Context(), event(rollout.Advanced, one, one, weight, ""))
			select {
			case <-ctx.Done():
			case <-time.After(3 * time.Second):
			}
		}
	})
	line := make([]byte, 200)
	n, err := lines.Read(line)
	interrupt()
	agent.Wait()
	if text := string(line[:n]); err != nil || !strings.Contains(text, "web: advanced to ") || !strings.HasPrefix(text, f.now.UTC().Format("2006-")) {
		t.Errorf("%q, %v", text, err)
	}
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

func TestWatchTerminal(t *testing.T) {
	f := newFollowed(t)
	f.installed(f.asks("1.0.0"))
	a, err := openAnswers(t.Context(), gitsync.Remote{URL: f.dir, Branch: "sluice/status/production", AllowFile: true}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	var out bytes.Buffer
	c := canvas{w: &visible{to: &out}, raw: &out, terminal: true}
	for _, want := range []string{"APP ", "web   production   as of "} {
		out.Reset()
		apps := map[bool][]string{true: nil, false: {"web"}}[want == "APP "]
		if waits, err := c.watched(t.Context(), a, apps); waits != "" || err != nil {
			t.Fatal(waits, err)
		}
		if got := out.String(); !strings.HasPrefix(got, emptied+want) {
			t.Errorf("%q", got)
		}
	}
}
