package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
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
	r := a.git.(*Repository)
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

// TestEmptied: a commit that takes all apps off the list at once removes none, until a person accepts that very commit.
func TestEmptied(t *testing.T) {
	const chart = "apiVersion: v1\nname: env\nversion: 0.0.1\n"
	list := "dependencies:\n- {name: a, version: 1.0.0, repository: http://x}\n- {name: b, version: 1.0.0, repository: http://x}\n"
	a, snapshots := readerOf(t, []map[string]string{
		{"env/Chart.yaml": chart, "env/requirements.yaml": list}, {"env/Chart.yaml": chart, "env/requirements.yaml": "dependencies: []\n"},
	})
	a.reads(snapshots[0])
	for _, ap := range a.apps {
		ap.saved.State.Stable = rollout.Release{Version: "1.0.0", Digest: "1"}
	}
	removed := func() (n int) {
		for _, ap := range a.apps {
			if ap.removed {
				n++
			}
		}
		return n
	}
	a.reads(snapshots[1])
	if a.envFault == nil || !strings.Contains(a.envFault.Error(), "run sluice accept --all") || removed() != 0 {
		t.Fatalf("%d are removed, %v", removed(), a.envFault)
	}
	accept := func(commit string) {
		commands := &a.git.(*Repository).commands
		r := audit.Request{
			Names: audit.Names{Environment: "staging"}, App: audit.AllApps, Kind: rollout.Accept, To: commit, Reason: "we move out",
		}
		apps, faults := commands.Read([]gitsync.Commit{{
			Hash: "accepting " + commit, Message: r.Message(), Time: commands.Now(), Author: gitsync.Identity{Name: "Ann"},
		}})
		if len(faults) > 0 || len(apps) != 1 {
			t.Fatalf("read for %v, %v", apps, faults)
		}
		a.Asked(apps[0])
	}
	if accept(snapshots[0].Commit); a.envFault == nil || removed() != 0 {
		t.Errorf("another commit was accepted: %d are removed", removed())
	}
	accept(snapshots[1].Commit)
	if b := a.batch(); a.envFault != nil || removed() != 2 || b.Accepted != "accepted by Ann: we move out" {
		t.Errorf("%d are removed, %v, %q", removed(), a.envFault, b.Accepted)
	}
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
	if got, _, err := r.commitOf(t.Context(), "web", o, rollout.Release{Digest: failed.Digest}); err != nil || got != failed.Commit {
		t.Errorf("under way: asked for by %s, %v; want %s", got, err, failed.Commit)
	}
	o.state.Phase = rollout.RollingBack
	o.state.Rejected = []rollout.Rejection{{Release: failed}}
	if got, _, err := r.commitOf(t.Context(), "web", o, rollout.Release{Digest: failed.Digest}); err != nil || got != again.Commit {
		t.Errorf("rolled back: asked for by %s, %v; want %s", got, err, again.Commit)
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
