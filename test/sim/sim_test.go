package sim

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

var (
	seedFlag     = flag.Int64("seed", -1, "run this seed only, and print all of its trace")
	seedsFlag    = flag.Uint64("seeds", 200, "number of seeds")
	fromFlag     = flag.Uint64("from", 0, "the first seed")
	rolloutsFlag = flag.Int("rollouts", 0, "go on until there were so many rollouts, and tell how far it is")
)

const troubledSteps = 400

func TestSimulation(t *testing.T) {
	if *seedFlag >= 0 {
		w := newWorld(uint64(*seedFlag))
		err := w.run(troubledSteps)
		t.Log(w.tail(len(w.trace)))
		if err != nil {
			t.Fatalf("seed %d: %v", *seedFlag, err)
		}
		return
	}
	seeds := *seedsFlag
	if testing.Short() {
		seeds = 20
	}
	seen := map[rollout.EventType]int{}
	for seed := *fromFlag; seed < *fromFlag+seeds || seen[rollout.RolloutStarted] < *rolloutsFlag; seed++ {
		if *rolloutsFlag > 0 && seed%500 == 0 {
			fmt.Fprintf(os.Stderr, "seed %d: %d rollouts, %d first installs\n", seed, seen[rollout.RolloutStarted], seen[rollout.InstallStarted])
		}
		w := newWorld(seed)
		if err := w.run(troubledSteps); err != nil {
			if *rolloutsFlag > 0 {
				fmt.Fprintf(os.Stderr, "seed %d FAILS: %v\n", seed, err) // such a run is long, and may be ended
			}
			t.Errorf("seed %d: %v\n%s\nall of it: go test ./test/sim -run TestSimulation -v -seed %d", seed, err, w.tail(40), seed)
		}
		for typ, n := range w.seen {
			seen[typ] += n
		}
	}
	t.Log(seen)
}

// A run is a function of its seed.
func TestReplay(t *testing.T) {
	a, b := newWorld(5), newWorld(5)
	errA, errB := a.run(troubledSteps), b.run(troubledSteps)
	if x, y := a.tail(len(a.trace)), b.tail(len(b.trace)); x != y || fmt.Sprint(errA) != fmt.Sprint(errB) {
		t.Error("two runs of one seed differ")
	}
}

// The invariants catch what is broken: each of these does not survive a few seeds.
func TestBroken(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*world)
		words string // by which it is noticed; empty: by any
	}{
		{"nothing is saved", func(w *world) { w.skipSave = true }, ""},
		{"weight rises without a pass", func(w *world) {
			w.spoilState = func(before, after rollout.State) rollout.State {
				if before.Phase == rollout.Analyzing && after.Phase == rollout.Analyzing && after.Weight == 20 {
					after.Weight, after.Peak = 40, 40
				}
				return after
			}
		}, "weight rises"},
		{"an event is dropped", func(w *world) {
			w.spoilState = func(_, after rollout.State) rollout.State {
				if len(after.Outbox) > 1 {
					after.Outbox = after.Outbox[1:]
				}
				return after
			}
		}, "of the log"},
		{"a webhook is not told of an event", func(w *world) {
			w.spoilState = func(_, after rollout.State) rollout.State {
				if n := len(after.Untold); n > 0 && after.Untold[n-1].Type == rollout.Promoted {
					after.Untold = after.Untold[:n-1]
				}
				return after
			}
		}, "not told"},
		{"a canary has traffic before the webhooks let it", func(w *world) {
			w.spoilState = func(before, after rollout.State) rollout.State {
				if w.hooked && before.Phase == rollout.Starting && after.Phase == rollout.Starting && after.FailedChecks > before.FailedChecks {
					after.Phase, after.Weight, after.Peak = rollout.Analyzing, 20, 20
				}
				return after
			}
		}, "before the pre-rollout webhook"},
		{"a removed app is kept", func(w *world) {
			w.spoilState = func(_, after rollout.State) rollout.State {
				if n := len(after.Outbox); n > 0 && after.Outbox[n-1].Type == rollout.Removed {
					after.Reason, after.Stable = "kept", rollout.Release{Digest: "good1", Revision: 1, Commit: "c1"}
				}
				return after
			}
		}, "is not forgotten"},
		{"a command is not remembered", func(w *world) {
			w.spoilState = func(before, after rollout.State) rollout.State {
				after.LastCommand = before.LastCommand
				return after
			}
		}, "once more"},
		{"a command beside the state is not remembered", func(w *world) {
			w.spoilState = func(before, after rollout.State) rollout.State {
				after.LastDirect = before.LastDirect
				return after
			}
		}, "once more"},
		{"a lost state is not noticed", func(w *world) {
			w.spoilFound = func(f rollout.Found) rollout.Found { return rollout.Found{Stable: f.Stable} }
		}, ""},
		{"an object that can't be prepared keeps Next from being asked", func(w *world) {
			w.spoilLook = func(d project.Desired) error {
				if len(d.CanaryWorkloads) > 0 && kind(trim(imageOf(d.CanaryWorkloads[0]))) == "never" {
					return errors.New("stringData.port is not a string")
				}
				return nil
			}
		}, "not at rest"},
		{"a rollback by command does not know what it goes back to", func(w *world) {
			w.spoilState = func(_, after rollout.State) rollout.State {
				if after.Returning && after.Phase == rollout.Updating {
					after.Target = after.Stable
				}
				return after
			}
		}, ""},
		{"news takes a due check out of its lane", func(w *world) {
			w.spoilNews = func(p *process, _ string) bool {
				for _, t := range p.timers {
					t.stopped = true // and the app waits among all the others
				}
				return true
			}
		}, "late"},
		{"the canary goes before its traffic", func(w *world) {
			w.spoilDesired = func(d project.Desired) project.Desired {
				if w.state().Phase == rollout.Promoting {
					d.Canary, d.CanaryWorkloads = nil, nil
				}
				return d
			}
		}, "which is not there"},
		{"stable gets the release under judgement", func(w *world) {
			w.spoilDesired = func(d project.Desired) project.Desired {
				if s := w.state(); s.Phase == rollout.Analyzing {
					s.Phase = rollout.Promoting
					d, _ = project.Project(w.charts.input(s))
				}
				return d
			}
		}, "stable becomes"},
		{"the canary keeps the labels", func(w *world) {
			w.spoilDesired = func(d project.Desired) project.Desired {
				for _, o := range d.CanaryWorkloads {
					spec := o.Object["spec"].(map[string]any)
					meta := spec["template"].(map[string]any)["metadata"].(map[string]any)
					meta["labels"].(map[string]any)["app"] = "jx-croc-hunter-java"
				}
				return d
			}
		}, "selects pods of"},
		{"what serves is gone before what is named otherwise is ready", func(w *world) {
			w.spoilDesired = func(d project.Desired) project.Desired {
				if s := w.state(); s.Phase == rollout.Promoting || s.Phase == rollout.Updating {
					in := w.charts.input(s)
					in.Stable = nil
					d, _ = project.Project(in)
				}
				return d
			}
		}, "nobody is served"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(200) {
				w := newWorld(seed)
				c.spoil(w)
				if err := w.run(troubledSteps); err != nil && strings.Contains(err.Error(), c.words) {
					t.Logf("seed %d: %v", seed, err)
					return
				}
			}
			t.Error("nobody notices")
		})
	}
}
