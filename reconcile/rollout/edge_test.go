package rollout_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// The rollback commit that is still owed says that its release failed, even when the list of rejected releases has
// since forgotten it.
func TestOwedRevertBlocksItsRelease(t *testing.T) {
	failed := rollout.Release{Version: "2", Digest: "b", Commit: "c2"}
	s := rollout.State{Stable: rollout.Release{Version: "1", Digest: "a", Commit: "c1"}, Revert: &rollout.Revert{From: failed}}
	o := healthy(s, "unused")
	o.Desired, o.FromStable = failed, rollout.ChangePods
	next, _ := checkedNext(t, s, o)
	s.Plan = &o.Plan
	if !reflect.DeepEqual(next, s) {
		t.Errorf("started what git is to take back: %s", encode(t, next))
	}
}

// Releases are numbered before they are taken over; Next keeps the numbers.
func TestRevisions(t *testing.T) {
	s := rollout.State{
		Phase: rollout.Updating, Rollouts: 1,
		Stable: rollout.Release{Digest: "a", Revision: 3}, Target: rollout.Release{Digest: "b", Revision: 4},
	}
	o := healthy(s, "unused")
	o.Desired = rollout.Release{Digest: "b", Revision: 9}
	s, _ = checkedNext(t, s, o) // ready
	s, _ = checkedNext(t, s, o) // and nothing leads elsewhere
	if s.Stable.Revision != 4 {
		t.Errorf("promoted as revision %d, was numbered 4", s.Stable.Revision)
	}
	o.Desired, o.FromStable = rollout.Release{Digest: "b+x", Revision: 9}, rollout.ChangePlain
	s, _ = checkedNext(t, s, o)
	if s.Stable.Digest != "b+x" || s.Stable.Revision != 9 {
		t.Errorf("a new release comes without its number: %+v", s.Stable)
	}
}

// What can't be taken over is as good as not known: whatever is under way goes on, by its own policy.
func TestUnfit(t *testing.T) {
	for _, s := range []rollout.State{
		{Stable: rollout.Release{Digest: "a"}},
		{Phase: rollout.Starting, Rollouts: 1, Stable: rollout.Release{Digest: "a"}, Target: rollout.Release{Digest: "c"}},
		{Phase: rollout.Analyzing, Exposure: rollout.Exposure{Weight: 10}, Peak: 10, Rollouts: 1, Stable: rollout.Release{Digest: "a"}, Target: rollout.Release{Digest: "c"}},
	} {
		held := healthy(s, "unused").Plan
		s.Plan = &held
		o := healthy(s, "unused")
		o.Canary, o.Stable = rollout.Track{Failed: true}, rollout.Track{Ready: true}
		unknown, _ := checkedNext(t, s, o)
		o.Desired, o.FromStable, o.FromTarget = rollout.Release{Digest: "b"}, rollout.ChangePods, rollout.ChangePods
		o.Plan.Suspend = true
		o.Unfit = "its selector changes"
		if next, _ := checkedNext(t, s, o); !same(next, unknown) {
			t.Errorf("unfit, from %q:\n%s\nwant\n%s", s.Phase, encode(t, next), encode(t, unknown))
		}
	}
}

// A change that no pod sees must not keep a canary that is away in traffic for a look more.
func TestPlainChangeWhileTheCanaryIsAway(t *testing.T) {
	for _, phase := range []rollout.Phase{rollout.Analyzing, rollout.Promoting} {
		s := rollout.State{
			Phase: phase, Exposure: rollout.Exposure{Weight: 10}, Peak: 10, Rollouts: 1, Stable: rollout.Release{Digest: "a"}, Target: rollout.Release{Digest: "b"},
		}
		o := healthy(s, "unused")
		o.Stable, o.Canary = rollout.Track{Available: true}, rollout.Track{}
		o.Desired, o.FromStable, o.FromTarget = rollout.Release{Digest: "b+x"}, rollout.ChangePods, rollout.ChangePlain
		s, _ = checkedNext(t, s, o)
		if s.Weight != 0 {
			t.Errorf("%s: %d%% go to a canary that is away", phase, s.Weight)
		}
		if s, _ = checkedNext(t, s, o); s.Target.Digest != "b+x" {
			t.Errorf("%s: the change is not taken", phase)
		}
	}
}

// The table of Tracks, row by row.
func TestTracks(t *testing.T) {
	a, b := rollout.Release{Digest: "a"}, rollout.Release{Digest: "b"}
	none := rollout.Release{}
	for _, c := range []struct {
		phase          rollout.Phase
		drained        bool
		stable, canary rollout.Release
	}{
		{rollout.Idle, false, a, none},
		{rollout.Installing, false, b, none},
		{rollout.Updating, false, b, none},
		{rollout.Starting, false, a, b},
		{rollout.Analyzing, false, a, b},
		{rollout.Promoting, false, b, b},
		{rollout.Draining, false, b, b},
		{rollout.Draining, true, b, none},
		{rollout.RollingBack, false, a, b},
		{rollout.RollingBack, true, a, none},
		{rollout.Removing, false, none, none},
		{"Unheard", false, none, none},
	} {
		s := rollout.State{Phase: c.phase, Drained: c.drained, Stable: a, Target: b}
		if stable, canary := s.Tracks(); stable != c.stable || canary != c.canary {
			t.Errorf("%q drained=%v: %v, %v", c.phase, c.drained, stable, canary)
		}
	}
}

func BenchmarkNextAtRest(b *testing.B) {
	s := rollout.State{Stable: rollout.Release{Digest: "a"}, Rollouts: 3}
	o := healthy(s, "a")
	b.ReportAllocs()
	for b.Loop() {
		rollout.Next(s, o)
	}
}

// What a second of fuzzing does is bounded by this.
func BenchmarkWalk(b *testing.B) {
	inputs := make([][]byte, 64)
	for i := range inputs {
		inputs[i] = randomBytes(uint64(i))
	}
	for i := 0; b.Loop(); i++ {
		walk(b, inputs[i%len(inputs)])
	}
}

// TestToldByItsOwnPolicy: who is told of an event goes by the plan of the release that it is about, also once git asks for another one.
func TestToldByItsOwnPolicy(t *testing.T) {
	plan := func(hook string) rollout.Plan {
		return rollout.Plan{Strategy: environments.StrategyCanary, Webhooks: []environments.Webhook{{Name: hook, Type: environments.OnEvent}}}
	}
	served, failing := plan("served"), plan("failing")
	s := rollout.State{
		Phase: rollout.Analyzing, Stable: rollout.Release{Digest: "1", Commit: "c1"}, Target: rollout.Release{Digest: "2", Commit: "c2"}, StablePlan: &served, Plan: &failing,
		Exposure: rollout.Exposure{Weight: 10}, Peak: 10, Rollouts: 1,
	}
	ready := rollout.Track{Ready: true}
	o := rollout.Observation{
		Now: time.Unix(1000, 0), Desired: s.Stable, FromTarget: rollout.ChangePods, Plan: served, Applied: true, Exposed: true, Stable: ready, Canary: ready,
	}
	next, _ := rollout.Next(s, o) // git has gone back
	if len(next.Untold) != 1 || next.Untold[0].Hooks[0].Name != "failing" {
		t.Errorf("of what becomes of the rollout are told %+v", next.Untold)
	}

	s.Since, s.StepSince = o.Now.Add(-time.Hour), o.Now.Add(-time.Hour)
	o.Desired, o.Plan, o.Verdict = s.Target, failing, &analysis.Verdict{Outcome: analysis.Fail, Decisive: true, At: o.Now}
	next, _ = rollout.Next(s, o)
	if next.Revert == nil {
		t.Fatalf("it does not go back: %+v", next)
	}
	next.Phase, next.Target, next.Plan, next.Untold = rollout.Idle, rollout.Release{}, nil, nil // the cluster is through first
	o.Desired, o.Plan, o.Verdict, o.Reverted = s.Stable, served, nil, &rollout.Reverted{Commit: "c3", Rollout: 1}
	next, _ = rollout.Next(next, o)
	if len(next.Untold) != 1 || next.Untold[0].Type != rollout.RollbackCommitted || next.Untold[0].Hooks[0].Name != "failing" {
		t.Errorf("of what becomes of git are told %+v", next.Untold)
	}
}

// A release is named by the tag of its image, where it has one: that is what commands and people mean by a version.
func TestCommandsNameImages(t *testing.T) {
	image := func(tag string) rollout.Release {
		return rollout.Release{Version: "1.0.0", Image: tag, Digest: "d" + tag, Commit: "c" + tag}
	}
	now := time.Unix(1000, 0)
	ready := rollout.Track{Ready: true, Available: true}
	rest := rollout.State{Phase: rollout.Idle, Stable: image("b"), Served: []rollout.Served{{Release: image("a"), Until: now}}}
	o := rollout.Observation{Now: now, Desired: image("b"), Applied: true, Exposed: true, Stable: ready}
	for to, phase := range map[string]rollout.Phase{"a": rollout.Updating, "": rollout.Updating, "1.0.0": rollout.Idle, "c": rollout.Idle} {
		o.Commands = []rollout.Command{{ID: "1", Kind: rollout.Rollback, By: "Ann", Reason: "why", To: to}}
		if next, _ := rollout.Next(rest, o); next.Phase != phase || phase == rollout.Updating && next.Target.Image != "a" {
			t.Errorf("rollback to %q: %s, to %q", to, next.Phase, next.Target.Image)
		}
	}
	o.Desired, o.FromStable = image("c"), rollout.ChangePods
	o.Plan = rollout.Plan{Strategy: environments.StrategyCanary, Approval: []rollout.Moment{rollout.AtBegin}}
	for to, phase := range map[string]rollout.Phase{"c": rollout.Starting, "": rollout.Starting, "1.0.0": rollout.Idle, "b": rollout.Idle} {
		o.Commands = []rollout.Command{{ID: "1", Kind: rollout.Approve, By: "Ann", To: to}}
		if next, _ := rollout.Next(rest, o); next.Phase != phase {
			t.Errorf("approval of %q: %s", to, next.Phase)
		}
	}
}
