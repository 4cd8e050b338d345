package reconcile

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// gates are those of app a that are closed at an instant, each as name@moment.
func (r *recorder) gates(now time.Time) string {
	var out []string
	for _, g := range r.gatesOf(r.apps["a"], now) {
		if g.Reason == "" || !g.Overridable || g.Open {
			r.t.Errorf("gate %+v", g)
		}
		out = append(out, g.Name+"@"+string(g.At))
	}
	return strings.Join(out, " ")
}

// TestGatesOfWindows: an environment's windows and an app's are both asked, and what has begun may finish where they say so.
func TestGatesOfWindows(t *testing.T) {
	const head = "apiVersion: sluice.dev/v1alpha1\nkind: Environment\n"
	const all = "window@begin window@apply window@step window@promotion"
	noon, night := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC), time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct{ settings, noon, night string }{
		"none":          {"", "", ""},
		"environment's": {"windows: {allow: [{schedule: '0 9 * * *', duration: 8h}]}\n", "", all},
		"app's": {
			"windows: {allow: [{schedule: '0 9 * * *', duration: 8h}]}\napps: {a: {windows: {deny: [{schedule: '0 11 * * *', duration: 2h}], overrun: Finish}}}\n",
			"window@begin window@apply", all,
		},
		"another app's": {"apps: {b: {windows: {deny: [{schedule: '0 11 * * *', duration: 2h}]}}}\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecorder(t)
			r.Repository.cfg.Path = ""
			r.commit(map[string]string{"sluice.yaml": head + c.settings})
			r.list("a", "b")
			r.doubted(name, "")
			if at, by := r.gates(noon), r.gates(night); at != c.noon || by != c.night {
				t.Errorf("at noon %q, want %q; at night %q, want %q", at, c.noon, by, c.night)
			}
		})
	}
}

// TestFreeze: a file freezes the environment, also where nothing else of it can be read; it takes a commit that is delivered to
// end that, and a restart does not.
func TestFreeze(t *testing.T) {
	const all = "freeze@begin freeze@apply freeze@step freeze@promotion"
	r := newRecorder(t)
	r.Repository.cfg.Path = ""
	good := r.list("a")
	now := time.Now()
	expect := func(when, want, reason string) {
		t.Helper()
		if got := r.gates(now); got != want || want != "" && *r.frozen != reason {
			t.Errorf("%s: %q", when, got)
		}
	}
	expect("at first", "", "")
	bad := r.commit(map[string]string{"sluice.freeze": "\nthe database is on fire\nask Ann\n", "sluice.yaml": "no such field: true\n"})
	r.look()
	expect("frozen in an environment that can't be read", all, "the database is on fire")
	r.orphan(good)
	r.doubted("rewritten", "the branch was rewritten")
	expect("in a history that is not delivered it is gone", all, "the database is on fire")
	r.hurt("update-ref", "refs/heads/main", bad)
	r.commit(map[string]string{"sluice.freeze": "", "sluice.yaml": ""})
	r.look()
	r.doubted("mended", "")
	expect("an empty file", all, "there is a file sluice.freeze")

	again := r.restarted()
	again.apps["a"] = &app{name: "a", saved: delivery.Saved{State: rollout.State{Waiting: "approval, freeze"}}}
	if got := again.gates(now); got != all {
		t.Errorf("restarted, and git not read: %q", got)
	}

	r.apps["a"].saved.State.Waiting = "freeze"
	r.remove("sluice.freeze")
	expect("gone", "", "")
	if name, ok := r.queue.takeUrgent(); !ok || name != "a" {
		t.Errorf("who waits is not looked at: %q", name)
	}
}

// remove has somebody take a file off the environment branch, and reads it.
func (r *recorder) remove(file string) {
	r.t.Helper()
	if _, err := r.people.Commit(r.t.Context(), func(*gitsync.Snapshot) (*gitsync.Change, error) {
		return &gitsync.Change{Message: "remove", Files: map[string][]byte{file: nil}}, nil
	}); err != nil {
		r.t.Fatal(err)
	}
	r.look()
}

// TestWanted: a gate is asked for what is to begin, and not for what is gone back to.
func TestWanted(t *testing.T) {
	// The name of a release is the tag of its image where releases of one chart differ by that.
	for what, at := range map[string]func(name string) rollout.Release{
		"charts": func(name string) rollout.Release {
			return rollout.Release{Version: name, Digest: "d" + name, Commit: "c" + name}
		},
		"images": func(name string) rollout.Release {
			return rollout.Release{Version: "1.0.0", Image: name, Digest: "d" + name, Commit: "c" + name}
		},
	} {
		t.Run(what, func(t *testing.T) { testWanted(t, at) })
	}
}

func testWanted(t *testing.T, at func(name string) rollout.Release) {
	t.Helper()
	served := func(versions ...string) (list []rollout.Served) {
		for _, v := range versions {
			list = append(list, rollout.Served{Release: at(v)})
		}
		return list
	}
	other := at("0.0.129")
	other.Digest = "x"
	for name, c := range map[string]struct {
		state   rollout.State
		desired string
		want    string
	}{
		"the first install":              {rollout.State{}, "0.0.129", "0.0.129"},
		"nothing new":                    {rollout.State{Stable: at("0.0.129")}, "0.0.129", ""},
		"a new version":                  {rollout.State{Stable: at("0.0.129"), Served: served("0.0.128")}, "0.0.130", "0.0.130"},
		"under way":                      {rollout.State{Stable: at("0.0.129"), Target: at("0.0.130"), Phase: rollout.Starting}, "0.0.130", ""},
		"in place of what is under way":  {rollout.State{Stable: at("0.0.129"), Target: at("0.0.130"), Phase: rollout.Starting}, "0.0.131", "0.0.131"},
		"back to what served":            {rollout.State{Stable: at("0.0.130"), Served: served("0.0.129")}, "0.0.129", ""},
		"on again to what served":        {rollout.State{Stable: at("0.0.129"), Served: served("0.0.130")}, "0.0.130", "0.0.130"},
		"an old version that never was":  {rollout.State{Stable: at("0.0.130")}, "0.0.100", "0.0.100"},
		"other values of the same, back": {rollout.State{Stable: other, Served: served("0.0.129")}, "0.0.129", ""},
		"held":                           {rollout.State{Stable: at("0.0.129"), Hold: &rollout.Asked{By: "Ann"}}, "0.0.130", ""},
		"rejected":                       {rollout.State{Stable: at("0.0.129"), Rejected: []rollout.Rejection{{Release: at("0.0.130")}}}, "0.0.130", ""},
	} {
		in := &environments.App{Name: "web", Digest: "in"}
		ap := &app{
			name: "web", input: in, saved: delivery.Saved{State: c.state},
			rendered: &rendering{input: "in", desired: &delivery.Desired{ID: at(c.desired)}},
		}
		if got := ap.wanted(); got.Name() != c.want {
			t.Errorf("%s: %q", name, got.Name())
		}
		if ap.rendered.desired.TakenBack = (&rollout.TakenBack{Release: c.state.Stable}); !c.state.Stable.IsZero() && !ap.wanted().IsZero() {
			t.Errorf("%s, by a commit that takes back what serves: %q", name, ap.wanted().Name())
		}
		ap.rendered.desired.TakenBack = nil
		ap.rendered.input = "of before"
		if got := ap.wanted(); !got.IsZero() {
			t.Errorf("%s, and not rendered: %q", name, got.Version)
		}
	}
}

// TestGatesOfWaves: the order of the clusters comes from git, and who waits is looked at when that changes.
func TestGatesOfWaves(t *testing.T) {
	r := newRecorder(t)
	r.Repository.cfg.Path = ""
	var asked environments.Waves
	r.Agent.cfg.Gates = func(_ string, waves environments.Waves, _ rollout.Release) []rollout.Gate {
		asked = waves
		return nil
	}
	const head = "apiVersion: sluice.dev/v1alpha1\nkind: Environment\n"
	r.commit(map[string]string{"sluice.yaml": head + "waves: [{clusters: [us]}, {clusters: [eu]}]\n"})
	r.list("a", "b")
	if r.gates(time.Now()); asked.String() != "us, then eu" {
		t.Errorf("asked for %s", asked)
	}
	r.apps["a"].saved.State.Waiting = "wave"
	for name, ok := r.queue.takeUrgent(); ok; name, ok = r.queue.takeUrgent() {
		r.queue.Done(name)
	}
	r.commit(map[string]string{"sluice.yaml": head})
	r.look()
	if name, ok := r.queue.takeUrgent(); !ok || name != "a" {
		t.Errorf("who waits is not looked at: %q", name)
	}
	if r.gates(time.Now()); asked != nil {
		t.Errorf("asked for %s", asked)
	}
}
