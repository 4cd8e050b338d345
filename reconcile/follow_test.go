package reconcile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestPolicyEditIsFollowed: a policy that changes in sluice.yaml is followed, without the app being another release.
func TestPolicyEditIsFollowed(t *testing.T) {
	charts, _ := serveCharts(t, 1)
	const head = "apiVersion: sluice.dev/v1alpha1\nkind: Environment\n"
	const rollout = "rollout: {analysis: {interval: 10s, threshold: %d, maxWeight: 50, stepWeight: 10}, service: {port: 80}}\n"
	var in strings.Builder
	file := func(name, text string) { fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", name, len(text), text) }
	commit := func(settings string) {
		in.WriteString("commit refs/heads/main\ncommitter Bob <bob@example.com> 1700000000 +0000\ndata 1\nc\n")
		file("sluice.yaml", head+settings)
		file("env/Chart.yaml", "apiVersion: v1\nname: env\nversion: 0.0.1\n")
		file("env/requirements.yaml", "dependencies:\n- {name: app, version: 1.0.0, repository: "+charts+"}\n")
	}
	commit("apps: {app: {" + strings.TrimSpace(fmt.Sprintf(rollout, 5)) + "}}\n")
	commit("# a remark\napps: {app: {" + strings.TrimSpace(fmt.Sprintf(rollout, 5)) + "}}\n")
	commit("apps: {app: {" + strings.TrimSpace(fmt.Sprintf(rollout, 3)) + "}}\n")
	commit(fmt.Sprintf(rollout, 2))
	commit(fmt.Sprintf(rollout, 1))
	dir := importRepository(t, in.String())
	repo := openRepository(t, dir)
	if _, err := repo.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := newReader(t)
	a.repo = repo
	digest := ""
	commits := strings.Fields(git(t, dir, "", "rev-list", "--reverse", "main"))
	for i, want := range []struct {
		threshold int
		queued    bool
	}{{5, true}, {5, false}, {3, true}, {2, true}, {1, true}} {
		s, err := repo.At(commits[i])
		if err != nil {
			t.Fatal(err)
		}
		a.read(s)
		_, queued := a.queue.take()
		a.queue.Done("app")
		if queued != want.queued {
			t.Errorf("commit %d: queued: %t", i, queued)
		}
		w, ok := a.begin("app")
		if !ok {
			t.Fatal("the app is not there")
		}
		asked, err := a.refresh(t.Context(), &w)
		if err != nil {
			t.Fatal(err)
		}
		if got := asked.policy.Analysis.Threshold; got != want.threshold {
			t.Errorf("commit %d: the threshold is %d, want %d", i, got, want.threshold)
		}
		if digest != "" && asked.id.Digest != digest {
			t.Errorf("commit %d: another release", i)
		}
		digest = asked.id.Digest
	}
}

// TestEmptiedList: a list that has lost all of its apps at once removes none of them.
func TestEmptiedList(t *testing.T) {
	charts, _ := serveCharts(t, 1)
	entry := func(alias string) string {
		return "- {name: app, alias: " + alias + ", version: 1.0.0, repository: " + charts + "}\n"
	}
	var in strings.Builder
	lists := []string{entry("a") + entry("b"), "", entry("a"), ""}
	for _, list := range lists {
		in.WriteString("commit refs/heads/main\ncommitter Bob <bob@example.com> 1700000000 +0000\ndata 1\nc\n")
		for name, text := range map[string]string{
			"env/Chart.yaml":        "apiVersion: v1\nname: env\nversion: 0.0.1\n",
			"env/requirements.yaml": "dependencies:\n" + list,
		} {
			fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", name, len(text), text)
		}
	}
	dir := importRepository(t, in.String())
	repo := openRepository(t, dir)
	if _, err := repo.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := newReader(t)
	a.repo = repo
	commits := strings.Fields(git(t, dir, "", "rev-list", "--reverse", "main"))
	for i, want := range []struct {
		fault   bool
		removed string
	}{{false, ""}, {true, ""}, {false, "b"}, {false, "ab"}} {
		s, err := repo.At(commits[i])
		if err != nil {
			t.Fatal(err)
		}
		a.read(s)
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
