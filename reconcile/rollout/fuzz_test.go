package rollout_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// FuzzNext reads a valid State and a row of observations, sensible or not, out of the input, and holds every answer of
// Next to the invariants. Wherever that leads, a healthy world then ends promoted and a failing one rolled back, and so
// does one that is neither.
func FuzzNext(f *testing.F) {
	for seed := range uint64(32) {
		f.Add(randomBytes(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) { walk(t, input) })
}

func walk(t testing.TB, input []byte) {
	d := &dice{bytes: input}
	s := d.state()
	if err := rollout.Check(s); err != nil {
		t.Fatalf("the test begins with a broken state: %v", err)
	}
	for range 1 + d.n(24) {
		o := d.observation()
		s, _ = checkedNext(t, s, o)
		checkDue(t, s, o)
	}
	checkStuckEnds(t, s)
	checkHealthyEnds(t, s)
	checkFailingEnds(t, s)
	checkFlappingEnds(t, s)
}

// FuzzBroken: whatever State the cluster gives back, of another version, by somebody's hand, or damaged, Next has an
// answer.
func FuzzBroken(f *testing.F) {
	for seed := range uint64(32) {
		f.Add(randomBytes(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		d := &dice{bytes: input}
		s, o := d.broken(), d.observation()
		s.CheckDue(o, o.Now)
		s.Due(o)
		s.Tracks()
		for range 8 {
			s, _ = rollout.Next(s, o)
			o = d.observation()
		}
	})
}

// checkDue: a State that rests under o rests until the instant that Due names.
func checkDue(t testing.TB, s rollout.State, o rollout.Observation) {
	o.Verdict, o.Reverted, o.Admission = nil, nil, nil
	resting := false
	for range 20 {
		next, _ := rollout.Next(s, o)
		if resting = same(next, s); resting {
			break
		}
		s = next
	}
	if !resting {
		next, _ := rollout.Next(s, o)
		t.Fatalf("no rest under one observation:\n%s\n%s", encode(t, s), encode(t, next))
	}
	later := o
	later.Now = o.Now.Add(1000 * time.Hour)
	if due := s.Due(o); due.After(o.Now) {
		later.Now = due.Add(-time.Nanosecond)
	} else if !due.IsZero() && !s.CheckDue(o, o.Now) {
		t.Fatalf("due in the past, and no check is: %s", encode(t, s))
	}
	if next, _ := rollout.Next(s, later); !same(next, s) {
		t.Fatalf("%s before it is due, at %s, changes\n%s\nto\n%s", later.Now, s.Due(o), encode(t, s), encode(t, next))
	}
}

// checkHealthyEnds: in a world in which everything is well, what git asks for serves in the end.
func checkHealthyEnds(t testing.TB, s rollout.State) {
	o := healthy(s, "healthy")
	s = run(t, s, o, says(analysis.Pass))
	if s.Phase != rollout.Idle || s.Stable.Digest != o.Desired.Digest {
		t.Fatalf("healthy, and yet: %s", encode(t, s))
	}
}

// checkFailingEnds: a release whose checks fail is rejected, takes no traffic, and leaves stable as it was. A first
// install is not judged.
func checkFailingEnds(t testing.TB, s rollout.State) {
	checkRejects(t, s, says(analysis.Fail))
}

// checkFlappingEnds: so is a canary that is away as soon as it has traffic, however often it comes back.
func checkFlappingEnds(t testing.TB, s rollout.State) {
	checkRejects(t, s, func(s rollout.State, o *rollout.Observation) {
		o.Canary = rollout.Track{Ready: s.Weight == 0, Available: s.Weight == 0}
	})
}

func checkRejects(t testing.TB, s rollout.State, see sight) {
	s = run(t, s, healthy(s, "base"), says(analysis.Pass))
	stable := s.Stable
	s = run(t, s, healthy(s, "failing"), see)
	if s.Phase != rollout.Idle || s.Stable != stable || s.Outcome != rollout.RolledBack || s.Revert == nil {
		t.Fatalf("failing, and yet: %s", encode(t, s))
	}
}

// checkStuckEnds: a rollout ends although the cluster never holds all of its objects, or says that it waits for that. An
// installation and a removal have nothing to go back to.
func checkStuckEnds(t testing.TB, s rollout.State) {
	if s.Phase == rollout.Installing || s.Phase == rollout.Removing {
		return
	}
	o := healthy(s, "unused")
	o.Desired, o.Applied, o.Plan.StepBack = rollout.Release{}, false, 30
	run(t, s, o, func(s rollout.State, o *rollout.Observation) {
		says(analysis.Pass)(s, o)
		o.Applied = s.Phase == rollout.Analyzing && s.Stalled != ""
	})
}

// healthy is a world in which git asks for a release that was never tried.
func healthy(s rollout.State, version string) rollout.Observation {
	o := rollout.Observation{
		Now:     time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		Desired: rollout.Release{Version: version, Digest: version, Commit: fmt.Sprint(version, s.LastSeq)},
		Plan: rollout.NewPlan(environments.Policy{
			Strategy: environments.StrategyCanary,
			Analysis: environments.Analysis{StepWeight: 10, MaxWeight: 50, Threshold: 3},
		}),
		Applied: true,
		Stable:  rollout.Track{Ready: true, Available: true},
		Canary:  rollout.Track{Ready: true, Available: true},
	}
	if s.Hold != nil || s.Pause != nil { // nobody keeps anything from getting on any more
		o.Commands = []rollout.Command{{ID: "u1", Kind: rollout.Unhold}, {ID: "u2", Kind: rollout.Resume}}
	}
	return o
}

// sight makes of an observation what a world has to say.
type sight func(rollout.State, *rollout.Observation)

// says is a metrics server with one answer.
func says(outcome analysis.Outcome) sight {
	return func(s rollout.State, o *rollout.Observation) {
		if s.CheckDue(*o, o.Now) {
			o.Verdict = &analysis.Verdict{Outcome: outcome, At: o.Now}
		}
	}
}

// run drives Next with a world that always says the same, until nothing changes.
func run(t testing.TB, s rollout.State, o rollout.Observation, see sight) rollout.State {
	t.Helper()
	for range 400 {
		o.Now = o.Now.Add(31 * time.Second)
		o.FromStable, o.FromTarget = change(s.Stable, o.Desired), change(s.Target, o.Desired)
		o.Verdict, o.Recorded = nil, s.LastSeq
		see(s, &o)
		next, _ := checkedNext(t, s, o)
		if !next.InFlight() && same(next, s) {
			return next
		}
		s = next
	}
	t.Fatalf("no end: %s", encode(t, s))
	return s
}

// dice turns bytes into values; all zero when they are used up.
type dice struct{ bytes []byte }

func randomBytes(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 400)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (d *dice) n(sides int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	v := int(d.bytes[0])
	d.bytes = d.bytes[1:]
	return v % sides
}

func (d *dice) yes() bool { return d.n(2) == 1 }

func (d *dice) instant() time.Time {
	if d.n(8) == 7 {
		return time.Time{}
	}
	return d.now()
}

func (d *dice) now() time.Time { return time.Date(2026, 7, 1, 12, d.n(60), d.n(60), 0, time.UTC) }

func (d *dice) release() rollout.Release {
	digest := []string{"a", "b", "c", "a+x", "b+x"}[d.n(5)]
	return rollout.Release{Version: digest, Digest: digest, Commit: string(rune('p' + d.n(3))), Revision: d.n(3)}
}

// state is one that Check accepts.
func (d *dice) state() rollout.State {
	phases := []rollout.Phase{
		rollout.Idle, rollout.Installing, rollout.Updating, rollout.Starting, rollout.Analyzing, rollout.Promoting,
		rollout.Draining, rollout.RollingBack, rollout.Removing,
	}
	s := rollout.State{
		Phase: phases[d.n(len(phases))], Rollouts: 1 + int64(d.n(9)), Since: d.instant(), StepSince: d.instant(),
		LastCheck: d.instant(), LastSeq: int64(d.n(9)), Outcome: rollout.RolledBack,
	}
	if s.Phase != rollout.Installing {
		s.Stable = d.release()
	}
	if s.Phase != rollout.Idle {
		s.Target = d.release()
		s.Step, s.FailedChecks, s.InconclusiveChecks = d.n(12), d.n(4), d.n(12)
	}
	switch s.Phase {
	case rollout.Starting:
		s.Peak = d.n(101)
	case rollout.Analyzing:
		s.Weight = 1 + d.n(100)
	case rollout.Promoting:
		s.Weight = d.n(101)
	case rollout.Draining, rollout.RollingBack:
		s.Weight = d.n(101)
		s.Drained = s.Weight == 0 && d.yes()
	}
	if s.Weight > 0 {
		s.Peak = min(100, s.Weight+d.n(10))
	}
	for range d.n(4) {
		s.LastSeq++
		s.Outbox = append(s.Outbox, rollout.Event{Seq: s.LastSeq})
	}
	for seq := s.LastSeq - int64(d.n(9)) + 6; seq > 0 && seq <= s.LastSeq; seq++ {
		s.Untold = append(s.Untold, rollout.Untold{Event: rollout.Event{Seq: seq}})
	}
	for range d.n(12) {
		if len(s.Rejected) < 10 {
			s.Rejected = append(s.Rejected, rollout.Rejection{Release: d.release()})
		}
	}
	if d.yes() {
		s.Revert = &rollout.Revert{From: d.release(), To: d.release(), Rollout: int64(d.n(5))}
	}
	if d.n(6) == 5 && (s.Phase == rollout.Starting || s.Phase == rollout.Analyzing) {
		s.Pause = &rollout.Asked{By: "Ann"}
	}
	if d.n(6) == 5 {
		s.Hold = &rollout.Asked{By: "Bob", Reason: "why"}
	}
	if d.n(6) == 5 {
		s.Waiting = "g"
	}
	if d.yes() {
		s.LastCommand = "k0"
	}
	return s
}

// broken is any State at all.
func (d *dice) broken() rollout.State {
	s := d.state()
	extremes := []int{math.MinInt, -1, 0, 1, 101, math.MaxInt}
	for _, n := range []*int{&s.Step, &s.Weight, &s.Peak, &s.FailedChecks, &s.InconclusiveChecks} {
		if d.yes() {
			*n = extremes[d.n(len(extremes))]
		}
	}
	if d.yes() {
		s.Phase = "Unheard"
	}
	if d.yes() {
		s.Stable = rollout.Release{}
	}
	if d.yes() {
		s.Target = rollout.Release{}
	}
	for range d.n(3) {
		s.Outbox = append(s.Outbox, rollout.Event{Seq: int64(extremes[d.n(len(extremes))])})
		s.Untold = append(s.Untold, rollout.Untold{Event: rollout.Event{Seq: int64(extremes[d.n(len(extremes))])}})
	}
	for range d.n(20) {
		s.Rejected = append(s.Rejected, rollout.Rejection{})
	}
	s.LastSeq = int64(extremes[d.n(len(extremes))])
	s.Rollouts = int64(extremes[d.n(len(extremes))])
	return s
}

// observation may contradict itself: Next must not trust the world to make sense.
func (d *dice) observation() rollout.Observation {
	changes := []rollout.Change{rollout.ChangeNone, rollout.ChangePlain, rollout.ChangePods}
	o := rollout.Observation{
		Now: d.now(), Removed: d.n(12) == 11, FromStable: changes[d.n(3)], FromTarget: changes[d.n(3)],
		Plan: d.plan(), Applied: d.n(4) > 0, Exposed: d.n(4) > 0, WatchedSince: d.instant(), Stable: d.track(), Canary: d.track(),
		Recorded: int64(d.n(20)), Told: int64(d.n(20)), Ahead: int64(max(0, d.n(40)-20)),
	}
	if d.n(4) > 0 {
		o.Desired = d.release()
	}
	if d.yes() {
		outcomes := []analysis.Outcome{analysis.Pass, analysis.Fail, analysis.Inconclusive, ""}
		o.Verdict = &analysis.Verdict{Outcome: outcomes[d.n(4)], Decisive: d.yes(), Reason: "why", At: d.instant()}
	}
	if d.yes() {
		answers := []rollout.Reverted{{}, {Commit: "x"}, {Skipped: "y"}, {Commit: "x", Rollout: 3}, {Commit: "x", Branch: "b"}}
		o.Reverted = &answers[d.n(5)]
	}
	if d.n(8) == 7 {
		o.Unfit = "unfit"
	}
	if d.n(8) == 7 {
		o.Recall = "webhook halt says so"
	}
	if d.n(4) == 3 {
		outcomes := []analysis.Outcome{analysis.Pass, analysis.Fail, analysis.Inconclusive, ""}
		o.Admission = &analysis.Verdict{Outcome: outcomes[d.n(4)], Reason: "why", At: d.instant()}
	}
	for i := range d.n(40) - 15 {
		o.Taken = append(o.Taken, fmt.Sprint("ConfigMap production/", i))
	}
	for i := range d.n(8) - 5 {
		o.Commands = append(o.Commands, rollout.Command{
			ID: fmt.Sprint("k", i), Kind: kinds[d.n(len(kinds))], By: "Ann", Reason: "why", Expires: d.instant(),
		})
	}
	for range d.n(8) - 5 {
		o.Gates = append(o.Gates, rollout.Gate{
			Name: "g", At: []rollout.Moment{rollout.AtBegin, rollout.AtApply, rollout.AtStep, rollout.AtPromotion}[d.n(4)], Open: d.yes(),
			NextChange: d.instant(), Overridable: d.yes(), Unread: d.yes(),
		})
	}
	if d.n(3) == 2 {
		o.TakenBack = &rollout.TakenBack{Cluster: "eu", Release: d.release(), Reason: "why"}
	}
	return o
}

// kinds of commands, and one that is none.
var kinds = []rollout.CommandKind{
	rollout.Pause, rollout.Resume, rollout.Advance, rollout.AdvanceFully, rollout.Abort, rollout.Retry, rollout.Hold,
	rollout.Unhold, rollout.Approve, rollout.OverrideGates, rollout.Rollback, rollout.Accept, "Dance",
}

func (d *dice) track() rollout.Track {
	return rollout.Track{Ready: d.yes(), Available: d.yes(), Failed: d.n(6) == 5}
}

func (d *dice) plan() rollout.Plan {
	strategies := []environments.Strategy{environments.StrategyCanary, environments.StrategyRolling, ""}
	p := environments.Policy{
		Strategy: strategies[d.n(3)], SkipAnalysis: d.n(8) == 7, Suspend: d.n(8) == 7,
		ProgressDeadline: time.Duration(d.n(20)-1) * time.Minute,
		Analysis: environments.Analysis{
			Interval: time.Duration(d.n(120)-1) * time.Second, Threshold: d.n(5) - 1, InconclusiveLimit: d.n(5) - 1,
			MaxWeight: d.n(130) - 10, StepWeight: d.n(60) - 5, StepWeightPromotion: d.n(40) - 5,
		},
	}
	for range d.n(5) {
		p.Analysis.StepWeights = append(p.Analysis.StepWeights, d.n(140)-10)
	}
	if d.n(4) == 3 {
		p.Analysis.Webhooks = []environments.Webhook{{Name: "acceptance", Type: environments.PreRollout}, {Name: "log", Type: environments.OnEvent}}
	}
	return rollout.NewPlan(p)
}
