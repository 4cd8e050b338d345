package cluster_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/action"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
)

// ending is an app whose rollouts end one way or another, as Helm's records hold it.
type ending struct {
	*rig
	helm func(args ...string) string
	// manifests by version.
	manifests map[string]string
	state     rollout.State
}

func newEnding(t *testing.T) *ending {
	t.Helper()
	r := newRig(t)
	return &ending{rig: r, helm: bedtest.Helm(t, shared, r.ns), manifests: map[string]string{}}
}

// begin a rollout to a version in a phase.
func (e *ending) begin(phase rollout.Phase, version string) rollout.Release {
	e.t.Helper()
	rel := e.rendered(version, strings.Replace(configs, `port: "8080"`, `port: "`+version+`"`, 1))
	rel.Config = map[string]any{"version": version}
	e.manifests[version] = rel.Manifest
	id := rollout.Release{Version: version, Digest: rel.Digest, Commit: strings.Repeat("c", 40)}
	n, err := e.AddRelease(e.t.Context(), e.app, id, rel, max(e.state.Stable.Revision, e.state.Target.Revision))
	if err != nil {
		e.t.Fatal(err)
	}
	id.Revision = n
	e.state.Phase, e.state.Target = phase, id
	e.settle()
	return id
}

// rest ends what is under way: stable serves.
func (e *ending) rest(outcome rollout.EventType, stable rollout.Release, rejected ...rollout.Rejection) {
	e.t.Helper()
	e.state = rollout.State{Stable: stable, Outcome: outcome, Reason: "why", Rejected: append(e.state.Rejected, rejected...)}
	e.settle()
}

func (e *ending) settle() {
	e.t.Helper()
	if err := e.SettleReleases(e.t.Context(), e.app, e.state); err != nil {
		e.t.Fatal(err)
	}
}

// roll brings an app to rest on a version.
func (e *ending) roll(version string) rollout.Release {
	e.t.Helper()
	id := e.begin(rollout.Updating, version)
	e.rest(rollout.Promoted, id)
	return id
}

// shows fails the test unless each of Helm's commands says that the version serves, and its history is as given.
func (e *ending) shows(version string, history ...string) {
	e.t.Helper()
	var rows []struct {
		Revision                   int
		Status, Chart, Description string
	}
	if err := json.Unmarshal([]byte(e.helm("history", "web", "-o", "json")), &rows); err != nil {
		e.t.Fatal(err)
	}
	var got []string
	for _, row := range rows {
		got = append(got, fmt.Sprintf("%d %s %s: %s", row.Revision, row.Status, strings.TrimPrefix(row.Chart, "web-"), row.Description))
	}
	if want := strings.Join(history, "\n"); strings.Join(got, "\n") != want {
		e.t.Errorf("helm history:\n%s\nwant:\n%s", strings.Join(got, "\n"), want)
	}
	newest := rows[len(rows)-1].Revision
	for _, list := range [][]string{{"list"}, {"list", "--deployed"}, {"list", "--all"}} {
		out := e.helm(append(list, "--no-headers")...)
		if fields := strings.Fields(out); strings.Count(out, "\n") != 1 || fields[2] != fmt.Sprint(newest) ||
			!strings.Contains(out, "deployed") || !strings.Contains(out, "web-"+version) {
			e.t.Errorf("helm %s: %q, want revision %d, deployed, %s", strings.Join(list, " "), out, newest, version)
		}
	}
	if out := e.helm("status", "web"); !strings.Contains(out, "STATUS: deployed") || !strings.Contains(out, fmt.Sprintf("REVISION: %d\n", newest)) {
		e.t.Errorf("helm status:\n%s", out)
	}
	if got, want := strings.TrimSpace(e.helm("get", "manifest", "web")), strings.TrimSpace(e.manifests[version]); got != want {
		e.t.Errorf("helm get manifest:\n%s\nwant:\n%s", got, want)
	}
	if out := e.helm("get", "values", "web", "-o", "json"); strings.TrimSpace(out) != `{"version":"`+version+`"}` {
		e.t.Errorf("helm get values: %s", out)
	}
	objs, err := e.ReleaseObjects(e.t.Context(), e.app, e.state.Stable.Revision)
	if err != nil || len(objs) == 0 {
		e.t.Errorf("the objects of what serves: %v, %v", objs, err)
	}
	began := e.flush()
	e.settle()
	e.flush()
	if q := e.requests(began); len(q) > 0 {
		e.t.Errorf("settling what is settled made requests: %v", q)
	}
}

// TestHelmAtRest: however a rollout ends, the real helm says of the release what the cluster holds.
func TestHelmAtRest(t *testing.T) {
	const installed, upgraded = "Install complete", "Upgrade complete"
	for name, run := range map[string]func(*ending){
		"installed": func(e *ending) {
			e.rest(rollout.Installed, e.begin(rollout.Installing, "1.0.1"))
			e.shows("1.0.1", "1 deployed 1.0.1: "+installed)
		},
		"promoted": func(e *ending) {
			e.roll("1.0.1")
			e.roll("1.0.2")
			e.shows("1.0.2", "1 superseded 1.0.1: "+installed, "2 deployed 1.0.2: "+upgraded)
		},
		"rolled back, twice, and promoted": func(e *ending) {
			one := e.roll("1.0.1")
			two := e.begin(rollout.Analyzing, "1.0.2")
			e.rest(rollout.RolledBack, one, rollout.Rejection{Release: two, Reason: "60% < 99%"})
			e.shows("1.0.1", "1 superseded 1.0.1: "+installed, "2 failed 1.0.2: Rolled back: 60% < 99%", "3 deployed 1.0.1: Rollback to 1")
			e.restart("2")
			three := e.begin(rollout.Analyzing, "1.0.3")
			e.rest(rollout.RolledBack, one, rollout.Rejection{Release: three, Reason: "50% < 99%"})
			e.shows("1.0.1", "1 superseded 1.0.1: "+installed, "2 failed 1.0.2: Rolled back: 60% < 99%", "3 superseded 1.0.1: Rollback to 1",
				"4 failed 1.0.3: Rolled back: 50% < 99%", "5 deployed 1.0.1: Rollback to 1")
			e.roll("1.0.4")
			e.shows("1.0.4", "1 superseded 1.0.1: "+installed, "2 failed 1.0.2: Rolled back: 60% < 99%", "3 superseded 1.0.1: Rollback to 1",
				"4 failed 1.0.3: Rolled back: 50% < 99%", "5 superseded 1.0.1: Rollback to 1", "6 deployed 1.0.4: "+upgraded)
		},
		"rolled back by command": func(e *ending) {
			one, two := e.roll("1.0.1"), e.roll("1.0.2")
			e.state = rollout.State{Phase: rollout.Updating, Stable: two, Target: one, Rejected: []rollout.Rejection{{Release: two, Reason: "ann"}}}
			e.settle()
			e.rest(rollout.RolledBack, one)
			e.shows("1.0.1", "1 superseded 1.0.1: "+installed, "2 failed 1.0.2: Rolled back: ann", "3 deployed 1.0.1: Rollback to 1")
		},
		"the release said again rolled back by command": func(e *ending) {
			one, two := e.roll("1.0.1"), e.roll("1.0.2")
			e.begin(rollout.Analyzing, "1.0.3")
			e.rest(rollout.Aborted, two)
			e.rest(rollout.RolledBack, one, rollout.Rejection{Release: two, Reason: "ann"})
			e.shows("1.0.1", "1 superseded 1.0.1: "+installed, "2 superseded 1.0.2: "+upgraded, "3 failed 1.0.3: Aborted: why",
				"4 failed 1.0.2: Rolled back: ann", "5 deployed 1.0.1: Rollback to 1")
		},
		"superseded": func(e *ending) {
			e.roll("1.0.1")
			e.begin(rollout.Analyzing, "1.0.2")
			e.roll("1.0.3")
			e.shows("1.0.3", "1 superseded 1.0.1: "+installed, "2 failed 1.0.2: Superseded before it was promoted", "3 deployed 1.0.3: "+upgraded)
		},
		"aborted": func(e *ending) {
			one := e.roll("1.0.1")
			e.begin(rollout.Analyzing, "1.0.2")
			e.rest(rollout.Aborted, one)
			e.shows("1.0.1", "1 superseded 1.0.1: "+installed, "2 failed 1.0.2: Aborted: why", "3 deployed 1.0.1: Rollback to 1")
		},
		"recovered after a lost state": func(e *ending) {
			one := e.roll("1.0.1")
			e.begin(rollout.Analyzing, "1.0.2")
			e.restart("2")
			found, err := e.Adopt(e.t.Context(), e.app)
			if err != nil || found.Stable.Revision != 1 || found.Target.Revision != 2 {
				e.t.Fatalf("found %+v, %v", found, err)
			}
			e.rest(rollout.Recovered, found.Stable)
			e.shows("1.0.1", "1 superseded 1.0.1: "+installed, "2 failed 1.0.2: Recovered: why", "3 deployed 1.0.1: Rollback to 1")
			e.restart("3")
			one.Revision = 3
			if found, err = e.Adopt(e.t.Context(), e.app); err != nil || !found.Lost || found.Stable != one || !found.Target.IsZero() {
				e.t.Fatalf("found %+v, %v; want %+v", found, err, one)
			}
			e.rest(rollout.Recovered, found.Stable)
			e.shows("1.0.1", "1 superseded 1.0.1: "+installed, "2 failed 1.0.2: Recovered: why", "3 deployed 1.0.1: Rollback to 1")
		},
		"adopted, rolled back": func(e *ending) {
			e.apply(rollout.Idle, project.Desired{Stable: e.objects(service)}) // makes the namespace
			install := action.NewInstall(e.rig.helm())
			install.ReleaseName, install.Namespace = "web", e.ns
			rel, err := install.Run(helmChart("1.0.0", strings.ReplaceAll(configs, "name: web", "name: helms")), map[string]any{"version": "1.0.0"})
			if err != nil {
				e.t.Fatal(err)
			}
			e.manifests["1.0.0"] = rel.Manifest
			found, err := e.Adopt(e.t.Context(), e.app)
			if err != nil || found.Lost {
				e.t.Fatalf("found %+v, %v", found, err)
			}
			e.rest("", found.Stable)
			e.shows("1.0.0", "1 deployed 1.0.0: "+installed)
			e.begin(rollout.Analyzing, "1.0.1")
			e.rest(rollout.Aborted, found.Stable)
			e.shows("1.0.0", "1 superseded 1.0.0: "+installed, "2 failed 1.0.1: Aborted: why", "3 deployed 1.0.0: Rollback to 1")
		},
		"upgraded by somebody else's Helm, and put back": func(e *ending) {
			e.roll("1.0.1")
			rel, err := e.rig.helm().Releases.Get("web", 1)
			if err != nil {
				e.t.Fatal(err)
			}
			rel.Version, rel.Chart = 2, helmChart("1.0.9", "")
			if err := e.rig.helm().Releases.Create(rel); err != nil {
				e.t.Fatal(err)
			}
			e.restart("2")
			e.settle()
			e.shows("1.0.1", "1 superseded 1.0.1: "+installed, "2 superseded 1.0.9: "+installed, "3 deployed 1.0.1: Rollback to 1")
		},
		"removed": func(e *ending) {
			one := e.roll("1.0.1")
			e.begin(rollout.Analyzing, "1.0.2")
			e.rest(rollout.Aborted, one)
			e.state.Phase = rollout.Removing
			e.settle()
			if out := e.helm("status", "web"); !strings.Contains(out, "STATUS: uninstalling") {
				e.t.Errorf("helm status:\n%s", out)
			}
			e.restart("2")
			if found, err := e.Adopt(e.t.Context(), e.app); err != nil || !found.Removing || found.Target.Version != "1.0.1" {
				e.t.Errorf("found %+v, %v", found, err)
			}
			if err := e.DeleteState(e.t.Context(), delivery.Saved{App: e.app}); err != nil {
				e.t.Fatal(err)
			}
			if out := e.helm("list", "--all", "--no-headers"); strings.TrimSpace(out) != "" {
				e.t.Errorf("helm list --all: %q", out)
			}
		},
		"what it was made of is gone": func(e *ending) {
			one := e.roll("1.0.1")
			e.begin(rollout.Analyzing, "1.0.2")
			err := e.kube.CoreV1().Secrets(e.ns).Delete(e.t.Context(), "sh.helm.release.v1.web.v1", metav1.DeleteOptions{})
			if err != nil {
				e.t.Fatal(err)
			}
			e.rest(rollout.Aborted, one)
			if out := e.helm("status", "web"); !strings.Contains(out, "STATUS: failed") {
				e.t.Errorf("helm status:\n%s", out)
			}
		},
		"crowded": func(e *ending) {
			one := e.roll("1.0.1")
			for i := range 8 {
				e.begin(rollout.Analyzing, fmt.Sprintf("1.1.%d", i))
				e.rest(rollout.Aborted, one)
			}
			if out := strings.Fields(e.helm("list", "--no-headers")); out[2] != "17" || e.state.Stable.Revision != 1 {
				e.t.Errorf("helm list: %q", out)
			}
			if n := strings.Count(e.helm("history", "web"), "\n"); n != 11 {
				e.t.Errorf("helm history has %d lines", n)
			}
			if _, err := e.ReleaseObjects(e.t.Context(), e.app, 1); err != nil {
				e.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(newEnding(t))
		})
	}
}
