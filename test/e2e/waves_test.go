package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// newWaves is one environment in three clusters, in two waves: us, and then eu and asia. The agents are not started.
func newWaves(t *testing.T) (us, eu, asia *world) {
	w := newWorld(t)
	w.commit("waves", map[string]string{
		"sluice.yaml": "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: " + w.name +
			"\nwaves:\n- {clusters: [us], soak: 3s}\n- {clusters: [eu, asia]}\n",
		"env/values.yaml": strings.Replace(w.values("hello", 2), "["+w.host()+"]", "["+app+"]\n      gateways: [mesh]", 1),
	})
	return w.in("us"), w.in("eu"), w.in("asia")
}

// tell are the types of the events of a version in the audit log that belong to its course, oldest first.
func (w *world) tell(version string) string {
	var out []string
	for _, e := range w.events() {
		switch e.Type {
		case rollout.Advanced, rollout.Inconclusive, rollout.CheckFailed, rollout.CanaryAway:
			continue
		}
		if e.To.Version == version {
			out = append(out, string(e.Type))
		}
	}
	return strings.Join(out, " ")
}

// TestWaves: a release comes to us first, and to eu and asia when it has soaked there; it fails in asia when the others serve it. All
// three end on the old release, by one commit, and without a canary of what served there before. The same with the agent of eu killed in
// every phase.
func TestWaves(t *testing.T) {
	for name, kill := range map[string]func(*world, ...moment){
		"Live": func(*world, ...moment) {},
		"Killed": func(w *world, moments ...moment) {
			for _, m := range moments {
				w.killIn(m)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			us, eu, asia := newWaves(t)
			all := []*world{us, eu, asia}
			for _, w := range all {
				w.start()
			}
			// The first install comes in waves, too.
			kill(eu, waiting(rollout.State{}), inPhase(rollout.Installing))
			for _, w := range all {
				w.awaitEvent(rollout.Installed, "0.0.129", 1)
			}
			follows(t, us, eu, asia, rollout.Installed, "0.0.129")
			before := us.file("main", requirements)

			asia.sluice("hold", "--cluster", "asia", "--reason", "eu first", app)
			asia.awaitEvent(rollout.Held, "0.0.129", 1)
			bad := us.bump("0.0.130")
			kill(eu, waiting(rollout.State{Stable: rollout.Release{Version: "0.0.129"}}))
			if e := eu.awaitEvent(rollout.Waiting, "0.0.130", 1); !strings.Contains(e.Reason, "wave 2 waits for us: ") {
				t.Errorf("eu waits, as %s", e.Reason)
			}
			kill(eu, inPhase(rollout.Starting), atWeight(20, false), inPhase(rollout.Promoting), inPhase(rollout.Draining))
			eu.awaitEvent(rollout.Promoted, "0.0.130", 1)
			out, code := us.sluice("status", "--all")
			if code != 0 || !strings.Contains(out, "asia") || !strings.Contains(out, "held by Carol: eu first") {
				t.Errorf("status --all ends with %d and says\n%s", code, out)
			}
			us.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
			asia.sluice("unhold", "--cluster", "asia", "--reason", "eu is through", app)
			follows(t, us, eu, asia, rollout.RolloutStarted, "0.0.130")
			kill(eu, inPhase(rollout.Updating), following(rollout.Draining))
			asia.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
			for _, w := range all {
				w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
				w.settled()
			}
			us.rolledBackOnce(bad, before)
			for _, w := range []*world{us, eu} {
				if got, want := w.tell("0.0.130"), "RollbackStarted RolledBack"; !strings.HasSuffix(got, "Promoted "+want) {
					t.Errorf("%s tells %s, want %s in the end", w.cluster, got, want)
				}
				if shares := w.canaryShares(); shares[len(shares)-1] != 0 || strings.Contains(w.tell("0.0.129"), "RolloutStarted") {
					t.Errorf("%s has a canary of what served before: %s, %v", w.cluster, w.tell("0.0.129"), shares)
				}
			}
			serve := agreed(t, all)
			if serve.Version != "0.0.129" {
				t.Errorf("they serve %+v", serve)
			}
		})
	}
}

// TestClusterThatWasOff: a wave waits for a cluster that nobody hears of, and says so; one that was off goes straight to what git says when
// it is back, and is nobody's reason to wait before.
func TestClusterThatWasOff(t *testing.T) {
	t.Parallel()
	us, eu, asia := newWaves(t)
	all := []*world{us, eu, asia}
	for _, w := range all {
		w.start()
	}
	for _, w := range all {
		w.awaitEvent(rollout.Installed, "0.0.129", 1)
		w.settled()
	}
	us.stop()
	asia.stop()
	us.bump("0.0.130")
	if e := eu.awaitEvent(rollout.Waiting, "0.0.130", 1); !strings.Contains(e.Reason, "wave 2 waits for us: ") {
		t.Errorf("eu waits, as %s", e.Reason)
	}
	us.start()
	eu.awaitEvent(rollout.Promoted, "0.0.130", 1)
	us.bump("0.0.131")
	eu.awaitEvent(rollout.Promoted, "0.0.131", 1)
	if out, _ := us.sluice("status", "--all"); !strings.Contains(out, "0.0.129") {
		t.Errorf("status --all does not say what asia was last heard to serve:\n%s", out)
	}
	asia.start()
	asia.awaitEvent(rollout.Promoted, "0.0.131", 1)
	if told := asia.tell("0.0.130"); told != "" {
		t.Errorf("asia tells of a version that was over when it came back: %s", told)
	}
	for _, w := range all {
		w.settled()
	}
	if serve := agreed(t, all); serve.Version != "0.0.131" {
		t.Errorf("they serve %+v", serve)
	}
}

// waiting is when the app waits for a wave, in a state of that phase and stable release.
func waiting(s rollout.State) moment {
	return moment{name: "waiting", is: func(is rollout.State) bool {
		return is.Waiting == "wave" && is.Phase == s.Phase && is.Stable.Version == s.Stable.Version
	}}
}

// following is when git is followed back, in a phase.
func following(p rollout.Phase) moment {
	return moment{name: "following in " + string(p), is: func(s rollout.State) bool { return s.Phase == p && s.Following }}
}

// follows fails the test unless what us has done of a version, and let soak, is before an event of the others.
func follows(t *testing.T, us, eu, asia *world, typ rollout.EventType, version string) {
	t.Helper()
	done := us.awaitEvent(rollout.Installed, "0.0.129", 1).Time
	if typ != rollout.Installed {
		done = us.awaitEvent(rollout.Promoted, version, 1).Time
	}
	for _, w := range []*world{eu, asia} {
		if waited := w.awaitEvent(typ, version, 1).Time.Sub(done); waited < 3*time.Second-time.Second { // records are to the second
			t.Errorf("%s: %s of %s came %s after us was through", w.cluster, typ, version, waited)
		}
	}
}

// agreed is what all status branches say that serves.
func agreed(t *testing.T, all []*world) audit.Release {
	t.Helper()
	var serve []string
	var last audit.Release
	for _, w := range all {
		r, err := audit.ParseRecord([]byte(w.file(w.statusBranch(), audit.File(app))))
		if err != nil {
			t.Fatal(err)
		}
		last = r.Serves
		serve = append(serve, fmt.Sprintf("%s %s by %s, %s, rejects %d", r.Serves.Version, r.Serves.Commit, r.Phase, r.Last.Outcome, len(r.Rejected)))
	}
	if len(slices.Compact(serve)) != 1 {
		t.Errorf("the status branches say %q", serve)
	}
	return last
}
