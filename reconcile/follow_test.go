package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
)

// readerOf is an agent that has fetched a repository of these commits, each of which writes some files, and has read none
// of its snapshots.
func readerOf(t *testing.T, commits []map[string]string) (*Agent, []*gitsync.Snapshot) {
	t.Helper()
	var in strings.Builder
	for _, files := range commits {
		in.WriteString("commit refs/heads/main\ncommitter Bob <bob@example.com> 1700000000 +0000\ndata 1\nc\n")
		for name, text := range files {
			fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", name, len(text), text)
		}
	}
	dir := importRepository(t, in.String())
	a := newReader(t)
	r := a.git.(unwary)
	r.repo = openRepository(t, dir)
	if _, err := r.repo.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	var snapshots []*gitsync.Snapshot
	for _, commit := range strings.Fields(git(t, dir, "", "rev-list", "--reverse", "main")) {
		s, err := r.repo.At(commit)
		if err != nil {
			t.Fatal(err)
		}
		snapshots = append(snapshots, s)
	}
	return a, snapshots
}

// list writes a list of apps to the environment branch, and reads it.
func (r *recorder) list(names ...string) string {
	r.t.Helper()
	list := "dependencies:\n"
	for _, name := range names {
		list += "- {name: " + name + ", version: 0.0.1, repository: https://charts.example.com}\n"
	}
	hash := r.commit(map[string]string{
		"env/Chart.yaml": "apiVersion: v1\nname: env\nversion: 0.0.1\n", "env/requirements.yaml": list,
	})
	r.look()
	return hash
}

// accept pushes what sluice accept --all does, and has it read.
func (r *recorder) accept(commit string) {
	r.t.Helper()
	remote := r.Repository.cfg.Remote
	remote.Branch = CommandBranch("staging")
	w, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: remote, Create: true}, r.t.TempDir())
	if err != nil {
		r.t.Fatal(err)
	}
	defer w.Close()
	request := audit.Request{
		Names: audit.Names{Environment: "staging"}, App: audit.AllApps, Kind: rollout.Accept, To: commit, Reason: "we move out",
	}
	if _, err := w.Commit(r.t.Context(), func(*gitsync.Snapshot) (*gitsync.Change, error) {
		return &gitsync.Change{Empty: true, Message: request.Message(), Author: gitsync.Identity{Name: "Ann"}}, nil
	}); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.fetch(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// removals are the apps that were taken off the list.
func (r *recorder) removals() string {
	var out []string
	for name, ap := range r.apps {
		if ap.removed {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// doubted fails the test unless the environment's fault says this; empty: unless there is none.
func (r *recorder) doubted(when, want string) {
	r.t.Helper()
	got := text(r.envFault)
	if want == "" && got != "" || !strings.Contains(got, want) {
		r.t.Fatalf("%s: the fault is %q, want %q", when, got, want)
	}
	if want != "" && !strings.Contains(got, "run sluice accept --all") {
		r.t.Errorf("%s: the fault does not say what to do: %q", when, got)
	}
}

// TestRemovesMost: a commit that takes most of several apps off the list removes none, until a person accepts that very
// commit, or the list is mended.
func TestRemovesMost(t *testing.T) {
	for _, c := range []struct{ before, after, fault, removed string }{
		{"ab", "", "it lists no app, and 2 are delivered", "ab"},
		{"a", "", "", "a"},
		{"ab", "c", "", "ab"},
		{"abcd", "ab", "", "cd"},
		{"abcd", "a", "it removes 3 of the 4 apps that are delivered: b, c, d", "bcd"},
		{"abcdef", "abc", "", "def"},
		{"abcdef", "xyz", "it removes 6 of the 6 apps that are delivered: a, b, c, d, e and 1 more", "abcdef"},
	} {
		t.Run(c.before+" becomes "+c.after, func(t *testing.T) {
			r := newRecorder(t)
			first := r.list(strings.Split(c.before, "")...)
			r.serving(strings.Split(c.before, "")...)
			r.list(strings.Split(c.after, "")...)
			r.doubted("most are gone", c.fault)
			if c.fault == "" {
				if r.removals() != c.removed {
					t.Errorf("removed %q, want %q", r.removals(), c.removed)
				}
				return
			}
			if r.removals() != "" {
				t.Errorf("removed in spite of the fault: %q", r.removals())
			}
			r.accept(first)
			r.doubted("another commit was accepted", c.fault)
			r.list(strings.Split(c.before, "")...)
			r.doubted("the list is mended", "")
			if r.removals() != "" || r.batch().Accepted != "" {
				t.Errorf("mended: removed %q, %q", r.removals(), r.batch().Accepted)
			}
			r.accept(r.list(strings.Split(c.after, "")...))
			r.doubted("it was accepted", "")
			if b := r.batch(); r.removals() != c.removed || b.Accepted != "accepted by Ann: we move out" {
				t.Errorf("accepted: removed %q, %q", r.removals(), b.Accepted)
			}
		})
	}
}

// TestAcceptExpires: a commit that somebody accepted once is not accepted for ever; it could be forced upon the branch again.
func TestAcceptExpires(t *testing.T) {
	r := newRecorder(t)
	r.list("a", "b")
	r.serving("a", "b")
	emptied := r.list()
	now := time.Now()
	r.commands.Now = func() time.Time { return now.Add(audit.DefaultExpiry + time.Minute) }
	r.accept(emptied)
	r.doubted("accepted an hour ago", "it lists no app")
	r.commands.Now = func() time.Time { return now }
	r.readAgain()
	r.doubted("accepted now", "")
}

// TestIncompleteHistory: a commit of which it is not known whether the branch was rewritten is doubted, and looked at again.
func TestIncompleteHistory(t *testing.T) {
	r := newRecorder(t)
	good := r.list("a")
	ctx, enough := context.WithCancel(t.Context())
	defer enough()
	const nowhere = "0123456789012345678901234567890123456789"
	looks := 0
	_ = r.Follow(ctx, func(c source.Commit, _ error) {
		tip := nowhere
		if looks++; looks > 1 {
			tip = c.Commit
			enough()
		}
		err := r.Rewritten(tip, good)
		if doubted := err != nil && strings.HasPrefix(err.Error(), "it is not known whether"); doubted != (looks == 1) {
			t.Errorf("look %d: %v", looks, err)
		}
	}, nil, nil)
	if looks != 2 {
		t.Errorf("%d looks", looks)
	}
}

// orphan forces a history upon the environment branch that shares nothing with the one that was there, with these files.
func (r *recorder) orphan(tree string) string {
	r.t.Helper()
	hash := r.hurt("-c", "user.name=Eve", "-c", "user.email=eve@example.com", "commit-tree", "-m", "old", tree+"^{tree}")
	r.hurt("update-ref", "refs/heads/main", hash)
	r.look()
	return hash
}

// TestRewrittenBranch: a tip that does not descend from what was delivered last is a fault, also for an agent that is
// restarted, until somebody accepts it or the branch is put back.
func TestRewrittenBranch(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted %t", restart), func(t *testing.T) {
			r := newRecorder(t)
			again := func() {
				if restart {
					r = r.restarted()
					r.serving("a", "b")
				}
			}
			old := r.list("a")
			good := r.list("a", "b")
			r.serving("a", "b")
			r.look()
			r.writeAll()
			again()
			const fault = "the branch was rewritten: it does not descend from commit "
			eve := r.orphan(old)
			r.doubted("an old state in a history of its own", fault+good[:10])
			r.writeAll()
			if r.removals() != "" || !strings.Contains(r.fault(), fault) {
				t.Errorf("removed %q, and the status branch says %q", r.removals(), r.fault())
			}
			again()
			r.look()
			r.doubted("still", fault+good[:10])
			r.hurt("update-ref", "refs/heads/main", old)
			r.look()
			r.doubted("rewound", fault+good[:10])
			r.writeAll()
			again()
			r.hurt("update-ref", "refs/heads/main", good)
			r.look()
			r.doubted("put back", "")
			if r.removals() != "" {
				t.Errorf("put back: removed %q", r.removals())
			}
			r.writeAll()
			if r.fault() != "" {
				t.Errorf("put back, the status branch says %q", r.fault())
			}
			again()
			r.hurt("update-ref", "refs/heads/main", eve)
			r.look()
			r.accept(eve)
			r.doubted("accepted", "")
			if r.removals() != "b" {
				t.Errorf("accepted: removed %q", r.removals())
			}
			r.writeAll()
			again()
			r.hurt("update-ref", "refs/heads/main", r.hurt(
				"-c", "user.name=Eve", "-c", "user.email=eve@example.com", "commit-tree", "-p", eve, "-m", "next", eve+"^{tree}"))
			r.look()
			r.doubted("what descends from what was accepted", "")
		})
	}
}

// TestLongAway: an agent that was off while many commits were made goes on.
func TestLongAway(t *testing.T) {
	r := newRecorder(t)
	first := r.list("a")
	r.serving("a")
	r.look()
	r.writeAll()
	var in strings.Builder
	for n := range 1000 {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter Bob <bob@example.com> %d +0000\ndata 1\nc\n", 1700000000+n)
		if n == 0 {
			in.WriteString("from " + first + "\n")
		}
		fmt.Fprintf(&in, "M 100644 inline n\ndata <<E\n%d\nE\n", n)
	}
	git(t, strings.TrimPrefix(r.Repository.cfg.Remote.URL, "file://"), in.String(), "fast-import", "--quiet")
	r = r.restarted()
	r.look()
	r.doubted("a thousand commits later", "")
}

// TestPolicyEditIsFollowed: a policy that changes in sluice.yaml is followed, without the app being another release.
func TestPolicyEditIsFollowed(t *testing.T) {
	charts, _ := serveCharts(t, 1)
	const head = "apiVersion: sluice.dev/v1alpha1\nkind: Environment\n"
	const rollout = "rollout: {analysis: {interval: 10s, threshold: %d, maxWeight: 50, stepWeight: 10}, service: {port: 80}}\n"
	var commits []map[string]string
	commit := func(settings string) {
		commits = append(commits, map[string]string{
			"sluice.yaml":           head + settings,
			"env/Chart.yaml":        "apiVersion: v1\nname: env\nversion: 0.0.1\n",
			"env/requirements.yaml": "dependencies:\n- {name: app, version: 1.0.0, repository: " + charts + "}\n",
		})
	}
	commit("apps: {app: {" + strings.TrimSpace(fmt.Sprintf(rollout, 5)) + "}}\n")
	commit("# a remark\napps: {app: {" + strings.TrimSpace(fmt.Sprintf(rollout, 5)) + "}}\n")
	commit("apps: {app: {" + strings.TrimSpace(fmt.Sprintf(rollout, 3)) + "}}\n")
	commit(fmt.Sprintf(rollout, 2))
	commit(fmt.Sprintf(rollout, 1))
	a, snapshots := readerOf(t, commits)
	digest := ""
	for i, want := range []struct {
		threshold int
		queued    bool
	}{{5, true}, {5, false}, {3, true}, {2, true}, {1, true}} {
		a.reads(snapshots[i])
		queued := a.Render(t.Context())
		if queued != want.queued {
			t.Errorf("commit %d: rendered: %t", i, queued)
		}
		w, ok := a.begin("app")
		if !ok || w.facts.Desired == nil {
			t.Fatal(w.facts.Fault)
		}
		asked := w.facts.Desired
		if got := asked.Plan.Threshold; got != want.threshold {
			t.Errorf("commit %d: the threshold is %d, want %d", i, got, want.threshold)
		}
		if digest != "" && asked.ID.Digest != digest {
			t.Errorf("commit %d: another release", i)
		}
		digest = asked.ID.Digest
	}
}

// TestEmptiedList: a list that has lost all of its apps at once removes none of them.
func TestEmptiedList(t *testing.T) {
	charts, _ := serveCharts(t, 1)
	entry := func(alias string) string {
		return "- {name: app, alias: " + alias + ", version: 1.0.0, repository: " + charts + "}\n"
	}
	var commits []map[string]string
	lists := []string{entry("a") + entry("b"), "", entry("a"), ""}
	for _, list := range lists {
		commits = append(commits, map[string]string{
			"env/Chart.yaml":        "apiVersion: v1\nname: env\nversion: 0.0.1\n",
			"env/requirements.yaml": "dependencies:\n" + list,
		})
	}
	a, snapshots := readerOf(t, commits)
	for i, want := range []struct {
		fault   bool
		removed string
	}{{false, ""}, {true, ""}, {false, "b"}, {false, "ab"}} {
		a.reads(snapshots[i])
		removed := ""
		for _, name := range []string{"a", "b"} {
			a.apps[name].saved.State.Stable = rollout.Release{Digest: "1"}
			if a.apps[name].removed {
				removed += name
			}
		}
		if (a.envFault != nil) != want.fault || removed != want.removed {
			t.Errorf("list %q: fault %v, removed %q", lists[i], a.envFault, removed)
		}
	}
}

func TestCompareApps(t *testing.T) {
	old := map[string]string{"a": "1", "b": "1", "c": "1"}
	d := compareApps(map[string]string{"a": "1", "b": "2", "d": "1"}, old)
	for app, want := range map[string]bool{"a": false, "b": true, "c": true, "d": true, "e": false} {
		if d.has(app) != want {
			t.Errorf("%s differs: %t", app, !want)
		}
	}
	if !compareApps(nil, old).has("a") || !compareApps(old, nil).has("a") || compareApps(nil, nil).has("a") {
		t.Error("a commit that can't be read differs from its neighbours, and from them alone")
	}
}

// TestMergedAgainWhileItIsTakenBack: whoever asks once more for a release that is being rolled back asks by a commit of
// his own, so that it is tried again.
func TestMergedAgainWhileItIsTakenBack(t *testing.T) {
	r := newRecorder(t)
	stable := r.bump("0.0.1")
	failed := r.bump("0.0.2")
	r.bump("0.0.1")
	again := r.bump("0.0.2")
	state := rollout.State{
		Phase: rollout.Analyzing, Stable: stable, Target: failed,
	}
	o := order{commit: r.source, state: state}
	asks := func(when, want string) {
		t.Helper()
		d := &delivery.Desired{ID: rollout.Release{Digest: failed.Digest}}
		if err := r.ask(t.Context(), "web", o, d); err != nil || d.ID.Commit != want {
			t.Errorf("%s: asked for by %s, %v; want %s", when, d.ID.Commit, err, want)
		}
	}
	asks("under way", failed.Commit)
	o.state.Phase = rollout.RollingBack
	o.state.Rejected = []rollout.Rejection{{Release: failed}}
	asks("rolled back", again.Commit)
	o.state.Phase, o.state.Returning = rollout.Updating, true
	o.state.Stable, o.state.Target = failed, stable
	asks("gone back from after its promotion", again.Commit)
}

// TestTakenBackByAnotherCluster: what asks for a release is known to take another back where another cluster's agent has written it,
// or a merge has brought in what that agent proposed.
func TestTakenBackByAnotherCluster(t *testing.T) {
	r := newRecorder(t)
	revert := "web: roll back 0.0.2 -> 0.0.1\n\nSluice-Environment: " + r.Repository.cfg.Environment + "\nSluice-Cluster: eu\nSluice-App: web\nSluice-Event: Rollback\n" +
		"Sluice-From: 0.0.2\nSluice-From-Digest: d2\nSluice-To: 0.0.1\nSluice-Cause: c2\nSluice-Reason: success rate 69 %\n"
	r.bump("0.0.1")
	bad := r.bump("0.0.2")
	commit := func(message string, parents ...string) string {
		args := []string{"-c", "user.name=Ann", "-c", "user.email=ann@example.com", "commit-tree", r.hurt("rev-parse", bad.Commit+"~1^{tree}"), "-m", message}
		for _, p := range parents {
			args = append(args, "-p", p)
		}
		return r.hurt(args...)
	}
	written := commit(revert, bad.Commit)
	merge := commit("Merge pull request 7", bad.Commit, written)
	for _, c := range []struct {
		name, tip, cluster string
		takes              bool
	}{
		{"a person's", bad.Commit, "us", false}, {"the commit", written, "us", true}, {"our own", written, "eu", false}, {"a merge of it", merge, "us", true},
	} {
		name := c.name
		r.Repository.cfg.Cluster = c.cluster
		r.hurt("update-ref", "refs/heads/main", c.tip)
		r.look()
		d := &delivery.Desired{ID: rollout.Release{Version: "0.0.1", Digest: "d1"}}
		o := order{commit: r.source, state: rollout.State{Stable: bad}}
		if err := r.ask(t.Context(), "web", o, d); err != nil || d.ID.Commit != c.tip {
			t.Errorf("%s: asked for by %s, %v", name, d.ID.Commit, err)
		}
		under := &delivery.Desired{ID: rollout.Release{Version: "0.0.1", Digest: "d1"}}
		o.state = rollout.State{Stable: rollout.Release{Digest: "d1", Commit: "c1"}, Target: bad, Phase: rollout.Draining}
		if err := r.ask(t.Context(), "web", o, under); err != nil || under.ID.Commit != "c1" || (under.TakenBack != nil) != c.takes {
			t.Errorf("%s, in the middle of the rollout: asked for by %s, takes back %v, %v", name, under.ID.Commit, under.TakenBack, err)
		}
		want := &rollout.TakenBack{Cluster: "eu", Release: rollout.Release{Version: "0.0.2", Digest: "d2", Commit: "c2"}, Reason: "success rate 69 %"}
		if (d.TakenBack != nil) != c.takes || c.takes && *d.TakenBack != *want {
			t.Errorf("%s: takes back %+v", name, d.TakenBack)
		}
	}
}

// TestWaitingForAnotherWalkEnds: who waits for another app's walk through the history can be called off.
func TestWaitingForAnotherWalkEnds(t *testing.T) {
	r := newRecorder(t)
	r.bump("0.0.1")
	tip := r.bump("0.0.2")
	r.diffs.turn <- struct{}{} // another walk, that takes long
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := r.Cause(ctx, "web", tip.Commit, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	<-r.diffs.turn
	if got, err := r.Cause(t.Context(), "web", tip.Commit, ""); err != nil || got != tip.Commit {
		t.Errorf("%s, %v", got, err)
	}
}
