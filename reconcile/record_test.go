package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// recorder is an agent without a cluster, upon a real environment repository.
type recorder struct {
	*Agent
	*Repository
	t testing.TB
	// people write to the environment branch.
	people *gitsync.Writer
}

const statusBranch = "sluice/status/staging"

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "env.git")
	git(t, ".", "", "init", "--quiet", "--bare", dir)
	r := recorderOf(t, dir)
	var err error
	r.people, err = gitsync.NewWriter(gitsync.WriterConfig{Remote: r.Repository.cfg.Remote, Create: true}, filepath.Join(t.TempDir(), "people"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.people.Close() })
	return r
}

func recorderOf(t testing.TB, dir string) *recorder {
	t.Helper()
	remote := gitsync.Remote{URL: "file://" + dir, AllowFile: true}
	return recorderWith(t, remote, remote)
}

// recorderWith is an agent whose audit log and commands are in a repository that may be another than the environment's.
func recorderWith(t testing.TB, remote, status gitsync.Remote) *recorder {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	status.Branch = statusBranch
	r := NewRepository(RepositoryConfig{
		Environment: "staging", Path: "env", Status: status, DataDir: t.TempDir(), Remote: remote, Log: log,
	})
	if err := r.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	a := New(Config{Environment: "staging", Log: log}, r, nil, nil, nil)
	r.asked, r.edited = a.Asked, a.Edited
	return &recorder{t: t, Repository: r, Agent: a}
}

// restarted is the agent of a new process: what the old one had in memory is gone.
func (r *recorder) restarted() *recorder {
	again := recorderOf(r.t, strings.TrimPrefix(r.Repository.cfg.Remote.URL, "file://"))
	again.people = r.people
	return again
}

// commit has somebody write to the environment branch.
func (r *recorder) commit(files map[string]string) string {
	r.t.Helper()
	hash, err := r.people.Commit(r.t.Context(), func(*gitsync.Snapshot) (*gitsync.Change, error) {
		ch := &gitsync.Change{Message: "change", Files: map[string][]byte{}}
		for name, text := range files {
			ch.Files[name] = []byte(text)
		}
		return ch, nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return hash
}

// bump asks for a version of app web, and reads the branch.
func (r *recorder) bump(version string) rollout.Release {
	r.t.Helper()
	hash := r.commit(map[string]string{
		"env/Chart.yaml":        "apiVersion: v1\nname: env\nversion: 0.0.1\n",
		"env/requirements.yaml": "dependencies:\n- name: web\n  version: " + version + "\n  repository: https://charts.example.com\n",
	})
	r.look()
	return rollout.Release{Version: version, Digest: "sha256:" + version, Commit: hash}
}

func (r *recorder) look() {
	r.t.Helper()
	s, err := r.fetch(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	r.Read(r.Repository.read(r.t.Context(), s))
}

// happened gives app web events that git does not have yet.
func (r *recorder) happened(events ...rollout.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.apps["web"] = &app{name: "web", saved: delivery.Saved{State: rollout.State{
		LastSeq: events[len(events)-1].Seq, Outbox: events,
	}}}
}

func (r *recorder) writeAll() {
	r.t.Helper()
	if err := r.Agent.Record(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// history of a branch, oldest first.
func (r *recorder) history(branch string) (list []gitsync.Commit, tip *gitsync.Snapshot) {
	r.t.Helper()
	remote := r.Repository.cfg.Remote
	remote.Branch = branch
	repo, err := gitsync.Open(r.t.Context(), remote, filepath.Join(r.t.TempDir(), "reader"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = repo.Close() })
	if tip, err = repo.Fetch(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	newest, err := repo.Commits(r.t.Context(), tip.Commit, "", 0)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range newest {
		list = append(list, newest[len(newest)-1-i])
	}
	return list, tip
}

func (r *recorder) fault() string {
	r.t.Helper()
	_, tip := r.history(statusBranch)
	s, err := audit.ReadStatus(tip.FS())
	if err != nil {
		r.t.Fatal(err)
	}
	return s.Fault
}

func held(seq int64) rollout.Event {
	return rollout.Event{
		Seq: seq, Time: time.Date(2026, 3, 1, 12, 0, int(seq), 0, time.UTC), Type: rollout.CheckFailed, Rollout: 1, Weight: 10,
		From: rollout.Release{Version: "0.0.1"}, To: rollout.Release{Version: "0.0.2"},
	}
}

// An agent that begins upon an environment that can't be read says so; one that has not looked yet takes nothing back.
func TestFaultOfTheEnvironment(t *testing.T) {
	r := newRecorder(t)
	r.bump("0.0.1")
	r.commit(map[string]string{"env/requirements.yaml": "dependencies: ["})
	r = r.restarted()
	r.look()
	r.writeAll()
	if got := r.fault(); !strings.Contains(got, "requirements.yaml") {
		t.Errorf("the status branch says %q of a broken environment", got)
	}

	r = r.restarted()
	r.happened(held(1))
	r.writeAll()
	if r.fault() == "" {
		t.Error("the fault was taken back before the branch was looked at")
	}
	r.bump("0.0.2")
	r.writeAll()
	if got := r.fault(); got != "" {
		t.Errorf("the status branch still says %q", got)
	}
}

// TestFaultOfUpstream: why no version can come from upstream stands on the status branch, once, until it can. An agent that has not
// asked there yet takes nothing back.
func TestFaultOfUpstream(t *testing.T) {
	r := newRecorder(t)
	refused := "sluice.yaml names https://elsewhere.example.com/x.git as upstream.repository"
	begin := func() {
		r.Agent.cfg.Upstream = func(*environments.Environment) error {
			if refused == "" {
				return nil
			}
			return errors.New(refused)
		}
	}
	said := func(want string, commits int) {
		t.Helper()
		r.writeAll()
		history, tip := r.history(statusBranch)
		s, err := audit.ReadStatus(tip.FS())
		readme, errRead := fs.ReadFile(tip.FS(), "README.md")
		if err := errors.Join(err, errRead); err != nil {
			t.Fatal(err)
		}
		if s.Upstream != want || s.Fault != "" || len(history) != commits || (want != "") != strings.Contains(string(readme), "## Errors") {
			t.Errorf("after %d commits, want %d, it says %+v\n%s", len(history), commits, s, readme)
		}
	}
	begin()
	r.bump("0.0.1")
	said(refused, 1)
	r.look()
	said(refused, 1)
	r = r.restarted()
	refused = ""
	begin()
	r.look()
	r.happened(held(1))
	said("sluice.yaml names https://elsewhere.example.com/x.git as upstream.repository", 2)
	r.UpstreamFault("fetching https://git.example.com/staging.git main: authentication required")
	said("fetching https://git.example.com/staging.git main: authentication required", 3)
	r.UpstreamFault("")
	said("", 4)
	r.UpstreamFault("")
	said("", 4)
}

// A log that could not be written for long is written in several pushes, each event once and in order.
func TestManyEvents(t *testing.T) {
	r := newRecorder(t)
	var events []rollout.Event
	for seq := range int64(2*maxPush + 50) {
		events = append(events, held(seq+1))
	}
	r.happened(events...)
	r.writeAll()
	if r.apps["web"].recorded != events[len(events)-1].Seq || !r.batch().Empty() {
		t.Errorf("%d events are recorded, of %d", r.apps["web"].recorded, len(events))
	}
	log, _ := r.history(statusBranch)
	if len(log) != len(events) {
		t.Fatalf("%d commits of %d events", len(log), len(events))
	}
	for i, c := range log {
		if e, ok := audit.ParseMessage(c.Message); !ok || e.Seq != int64(i+1) {
			t.Fatalf("commit %d is %q", i, c.Message)
		}
	}
}

// TestGitAwayIsNotAskedMoreOftenForMoreNews: the pauses between tries hold, whatever happens meanwhile.
func TestGitAwayIsNotAskedMoreOftenForMoreNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{Log: slog.New(slog.DiscardHandler)}, nil, nil, nil, nil)
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		var news sync.WaitGroup
		news.Go(func() {
			for ctx.Err() == nil {
				a.tellGit()
				time.Sleep(time.Millisecond)
			}
		})
		tries := 0
		err := a.write(ctx, a.outbox, func(context.Context) error {
			tries++
			return errors.New("git is away")
		}, nil)
		news.Wait()
		if err != nil || tries != 7 {
			t.Errorf("%d tries in a minute, want 7: at 0, 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s; %v", tries, err)
		}
	})
}

// TestLongWriteIsGivenUp: a git that is slow without an end is no stop of the loop, which is what Stuck tells of.
func TestLongWriteIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Config{Log: slog.New(slog.DiscardHandler), Pulse: NewPulse(time.Now)}, nil, nil, nil, nil)
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		a.tellGit()
		tries := 0
		err := a.write(ctx, a.outbox, func(ctx context.Context) error {
			tries++
			<-ctx.Done()
			if stuck := a.Stuck(); len(stuck) > 0 {
				t.Errorf("try %d: stuck at %q", tries, stuck)
			}
			return ctx.Err()
		}, nil)
		if err != nil || tries != 6 {
			t.Errorf("%d tries in an hour, want 6; %v", tries, err)
		}
	})
}

// TestFlappingFaultIsHeldDown: a fault whose text keeps changing is not a commit for each change, and the last word is told
// in the end.
func TestFlappingFaultIsHeldDown(t *testing.T) {
	r := newRecorder(t)
	r.bump("0.0.1")
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r.now = func() time.Time { return now }
	r.unsynced = map[string]bool{}
	r.report("web", errors.New("no such chart"))
	r.writeAll()
	before, _ := r.history(statusBranch)
	for n := range 600 { // for ten minutes
		r.report("web", fmt.Errorf("network error %d", n))
		r.writeAll()
		now = now.Add(time.Second)
	}
	after, _ := r.history(statusBranch)
	if told := len(after) - len(before); told < 2 || told > 8 {
		t.Errorf("%d commits of 600 texts", told)
	}
	r.report("web", nil)
	held := r.heldFaults()
	if held.IsZero() {
		t.Fatal("nothing is held back")
	}
	// It is told of as well when its time has come while git was being written to.
	now = held
	if again := r.heldFaults(); !again.Equal(held) {
		t.Errorf("due at %v, and then at %v", held, again)
	}
	r.writeAll()
	_, tip := r.history(statusBranch)
	if text, err := fs.ReadFile(tip.FS(), "README.md"); err != nil || strings.Contains(string(text), "## Errors") {
		t.Errorf("the status branch still says\n%s%v", text, err)
	}
	if !r.heldFaults().IsZero() {
		t.Error("something is still held back")
	}
}

// What was left undone stays so until a decision is acted upon to its end; one that acts upon nothing ends nothing.
func TestUnfinishedStays(t *testing.T) {
	a := &Agent{now: time.Now, outbox: make(chan struct{}, 1), apps: map[string]*app{"web": {name: "web", unfinished: true}}}
	a.acted(work{name: "web"}, delivery.Decision{}, 0, nil, nil)
	if !a.apps["web"].unfinished {
		t.Error("a look that was held back has forgotten what was left undone")
	}
}

// serving gives apps a state at rest.
func (r *recorder) serving(names ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unsynced = map[string]bool{}
	for _, name := range names {
		r.apps[name] = &app{name: name, saved: delivery.Saved{App: delivery.App{Name: name}, State: rollout.State{
			Stable: rollout.Release{Version: "0.0.1", Digest: "sha256:0.0.1"}, LastSeq: 2, Since: time.Unix(1e9, 0),
		}}}
	}
}

// hurt has somebody else change the repository.
func (r *recorder) hurt(args ...string) string {
	r.t.Helper()
	return strings.TrimSpace(git(r.t, strings.TrimPrefix(r.Repository.cfg.Remote.URL, "file://"), "", args...))
}

// TestStatusBranchIsWrittenAgain: what somebody else does to the status branch is noticed, with an event or without, and
// undone once.
func TestStatusBranchIsWrittenAgain(t *testing.T) {
	for name, news := range map[string]bool{"without an event": false, "with an event of one app": true} {
		t.Run(name, func(t *testing.T) {
			r := newRecorder(t)
			r.bump("0.0.1")
			r.serving("api", "web")
			r.writeAll()
			_, before := r.history(statusBranch)
			if _, err := r.fetch(t.Context()); err != nil || r.Agent.edited {
				t.Fatalf("edited: %t, %v", r.Agent.edited, err)
			}
			for _, what := range [][]string{
				{"update-ref", "-d", "refs/heads/" + statusBranch},
				{"update-ref", "refs/heads/" + statusBranch, "refs/heads/main"},
			} {
				r.hurt(what...)
				if news {
					ap := r.apps["web"]
					ap.saved.State.LastSeq++
					ap.saved.State.Outbox = []rollout.Event{{
						Seq: ap.saved.State.LastSeq, Time: time.Now(), Type: rollout.Applied, From: ap.saved.State.Stable, To: ap.saved.State.Stable,
					}}
					r.writeAll()
				}
				for range 2 {
					if _, err := r.fetch(t.Context()); err != nil {
						t.Fatal(err)
					}
					r.writeAll()
				}
				_, tip := r.history(statusBranch)
				for _, app := range []string{"api", "web"} {
					if got, ok, err := audit.Read(tip.FS(), app); !ok || err != nil || got.Phase != "Idle" || got.LastSeq < 2 {
						t.Errorf("after git %s the record of %s is %+v, %v", what, app, got, err)
					}
				}
				was, _ := fs.ReadFile(before.FS(), "README.md")
				is, _ := fs.ReadFile(tip.FS(), "README.md")
				if !news && string(was) != string(is) {
					t.Errorf("after git %s README.md is\n%s\nwant\n%s", what, is, was)
				}
				if !strings.Contains(string(is), "[api](") || !strings.Contains(string(is), "[web](") {
					t.Errorf("after git %s README.md is\n%s", what, is)
				}
				if r.Agent.edited {
					t.Errorf("after git %s it is still looked at", what)
				}
			}
		})
	}
}

// halting is a git that is gone after a number of writes.
type halting struct {
	Git
	writes int
}

func (h *halting) Record(ctx context.Context, b audit.Batch) (audit.Recorded, error) {
	if h.writes--; h.writes < 0 {
		return audit.Recorded{}, errors.New("git is away")
	}
	return h.Git.Record(ctx, b)
}

// TestStatusBranchIsWrittenToTheEnd: a branch of many apps that is written again in parts is looked at whole again where git
// goes away between them.
func TestStatusBranchIsWrittenToTheEnd(t *testing.T) {
	r := newRecorder(t)
	r.bump("0.0.1")
	var names []string
	for i := range maxPush + 1 {
		names = append(names, fmt.Sprintf("app-%03d", i))
	}
	r.serving(names...)
	r.writeAll()
	r.hurt("update-ref", "-d", "refs/heads/"+statusBranch)
	if _, err := r.fetch(t.Context()); err != nil || !r.Agent.edited {
		t.Fatalf("edited: %t, %v", r.Agent.edited, err)
	}
	git := r.Agent.git
	r.Agent.git = &halting{Git: git, writes: 1}
	if err := r.Agent.Record(t.Context()); err == nil {
		t.Fatal("it is said to be written to the end")
	}
	r.Agent.git = git
	r.writeAll()
	_, tip := r.history(statusBranch)
	all, err := audit.ReadAll(tip.FS())
	if len(all) != len(names) || err != nil || r.Agent.edited {
		t.Errorf("%d of %d records are there again, %v; edited: %t", len(all), len(names), err, r.Agent.edited)
	}
}

// onCluster gives the agent a cluster with a UID.
func (r *recorder) onCluster(uid string) *recorder {
	r.Repository.cfg.UID = func(context.Context) (string, error) { return uid, nil }
	return r
}

// refused fails the test unless nothing may be written to the status branch.
func (r *recorder) refused(when string) {
	r.t.Helper()
	_, before := r.history(statusBranch)
	err := r.Agent.Record(r.t.Context())
	if other := new(audit.ForeignError); !errors.As(err, &other) {
		r.t.Errorf("%s: it is written to: %v", when, err)
	}
	if _, after := r.history(statusBranch); after.Commit != before.Commit {
		r.t.Errorf("%s: it was written to", when)
	}
}

// applied gives an app an event.
func (r *recorder) applied(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.apps[name].saved.State
	s.LastSeq++
	s.Outbox = []rollout.Event{{Seq: s.LastSeq, Time: time.Now(), Type: rollout.Applied, From: s.Stable, To: s.Stable}}
}

// TestTwoClustersOnOneBranch: whoever comes second says so and writes nothing, until a person gives it the branch, which
// then is not the first one's any more; neither takes it back by itself.
func TestTwoClustersOnOneBranch(t *testing.T) {
	first := newRecorder(t).onCluster("uid-1")
	tip := first.list("a")
	second := first.restarted().onCluster("uid-2")
	second.look() // and there is no status branch yet
	first.serving("a")
	second.serving("a")
	first.writeAll()
	second.refused("both begin at once")
	second.doubted("both begin at once", "belongs to another cluster (UID uid-1; this one has uid-2): set cluster in agent.yaml")

	second = first.restarted().onCluster("uid-2")
	second.look()
	second.doubted("it begins later", "(UID uid-1;")
	second.refused("it begins later")
	second.accept(tip)
	second.doubted("it was accepted", "")
	second.serving("a")
	second.writeAll()
	second.writeAll()
	_, after := second.history(statusBranch)
	if s, err := audit.ReadStatus(after.FS()); err != nil || s.ClusterUID != "uid-2" || s.TakenOver == "" || s.Fault != "" {
		t.Errorf("the branch says %+v, %v", s, err)
	}
	second.restarted().onCluster("uid-2").look()

	first.look()
	first.applied("a")
	first.refused("it was given away")
	first.doubted("it was given away", "(UID uid-2; this one has uid-1)")
	first.look()
	first.doubted("the command that gave it away is still there", "(UID uid-2;")
	again := first.restarted().onCluster("uid-1")
	again.look()
	again.doubted("restarted", "(UID uid-2;")
	again.serving("a")

	first.hurt("update-ref", "-d", "refs/heads/"+statusBranch)
	first.writeAll()
	first.doubted("the branch is gone", "")
	second.applied("a")
	second.refused("and the other one's again")
	second.accept(tip)
	second.doubted("accepted once more", "")
	second.writeAll()
	first.applied("a")
	first.refused("in the end")
}

// TestSilence: a branch on which nothing happens has a word of its agent each day, and one alone, however often the agent looks or is
// restarted.
func TestSilence(t *testing.T) {
	r := newRecorder(t)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r.now = func() time.Time { return now }
	r.bump("0.0.1")
	r.look()
	r.writeAll()
	if all, err := gitsync.Branches(t.Context(), r.Repository.cfg.Remote, statusBranch); err != nil || len(all) > 0 {
		t.Errorf("before anything has happened there is %v, %v", all, err)
	}
	r.happened(held(1))
	r.writeAll()
	first, _ := r.history(statusBranch)
	for hour := range 3 * 24 {
		if hour == 30 {
			r = r.restarted()
			r.now = func() time.Time { return now }
			r.look()
			r.happened(held(1))
		}
		now = now.Add(time.Hour)
		if due := r.nextRecord(); !due.After(now) {
			r.writeAll()
		}
	}
	all, tip := r.history(statusBranch)
	var said []string
	for _, c := range all[len(first):] {
		said = append(said, c.AuthorTime.UTC().Format("Jan 2 15:04 ")+c.Subject())
	}
	// It looks every three hours.
	want := []string{"Mar 2 15:00 staging: no change, the agent is running", "Mar 3 16:00 staging: no change, the agent is running"}
	if !slices.Equal(said, want) {
		t.Errorf("it said %q, want %q", said, want)
	}
	s, err := audit.ReadStatus(tip.FS())
	if err != nil || s.Updated.Before(now.Add(-2*audit.Silence)) {
		t.Errorf("it was updated at %s, %v", s.Updated, err)
	}
}
