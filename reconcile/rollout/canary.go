package rollout

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
)

// starting waits for the canary's pods.
func (t *turn) starting() {
	canary := t.o.Canary
	switch {
	case canary.Failed:
		t.fail(because("the canary failed", canary), nil)
	case canary.Ready:
		t.expose()
	case t.Stalled != "":
		// It was ready, and waited for stable until now: its pods have a whole deadline again.
		t.enter(Starting)
	case !t.suspended() && t.overdue():
		t.fail(because(fmt.Sprintf("the canary was not ready within %s", t.deadline()), canary), nil)
	}
}

// expose gives a ready canary its first traffic, or what it had before it was away.
func (t *turn) expose() {
	switch {
	case t.o.Plan.Suspend:
		t.open(AtStep) // which it is not: people are told
	case t.Pause != nil && t.Peak == 0:
	case t.skipsAnalysis():
		t.skip()
	case t.o.Stable.Available && t.Peak == 0 && !(t.admitted() && t.open(AtStep)):
	case t.o.Stable.Available:
		t.enter(Analyzing)
		t.setWeight(t.entryWeight())
		t.emit(Advanced, "the canary is ready", nil)
	case t.overdue():
		t.degrade(because(t.stableAway()+", so that nothing can be compared with it", t.o.Stable))
	}
}

// admitted reports whether the pre-rollout webhooks let the canary have its first traffic. An answer that they don't is a failed
// check, and counts once.
func (t *turn) admitted() bool {
	v := t.o.Admission
	switch {
	case len(t.o.Plan.Hooks(environments.PreRollout)) == 0:
		return true
	case v == nil || v.At.After(t.o.Now) || !v.At.After(t.LastCheck):
		return false
	case v.Outcome == analysis.Pass:
		t.decided()
		return true
	}
	t.LastCheck = v.At
	if v.Outcome == analysis.Fail {
		t.checkFailed(*v)
	} else {
		t.checkInconclusive(*v)
	}
	return false
}

func (t *turn) stableAway() string { return label(t.Stable) + " is not available" }

// entryWeight is the weight of the present step. Where the policy has changed in the meantime, a canary that comes
// back gets no more than it had.
func (t *turn) entryWeight() int {
	steps := t.o.Plan.steps()
	if t.Peak == 0 {
		t.Step = 0
		return steps[0].Weight
	}
	t.Step = min(max(t.Step, 0), len(steps)-1)
	return min(steps[t.Step].Weight, t.Peak)
}

// skipsAnalysis reports whether the policy wants no judgement, be it since the middle of the run: the emergency exit.
func (t *turn) skipsAnalysis() bool {
	p := t.o.Plan
	return !t.suspended() && (p.SkipAnalysis || p.Strategy == environments.StrategyRolling)
}

// analyzing judges the canary at its weight.
func (t *turn) analyzing() {
	canary := t.o.Canary
	switch {
	case canary.Failed:
		t.fail(because("the canary failed", canary), nil)
	case t.StepSince.IsZero() && t.overdue():
		t.fail(fmt.Sprintf("the cluster did not reach %s within %s", Percent(t.Weight), t.deadline()), nil)
	case !canary.Available && t.o.Stable.Available:
		t.lose()
	case !canary.Available:
		// Neither track can take more; moving traffic helps nobody.
	case t.skipsAnalysis():
		t.skip()
	case t.counts(t.o.Verdict):
		t.judge(*t.o.Verdict)
	default:
		t.suspense()
	}
}

// suspense tells at once that the policy suspends what is being judged, and that it no longer does: the next check may be long in coming.
func (t *turn) suspense() {
	told := slices.Contains(strings.Split(t.Waiting, ", "), SuspendGate)
	switch {
	case t.o.Plan.Suspend && !told:
		t.open(AtStep) // which it is not
	case !t.o.Plan.Suspend && told:
		t.Waiting = ""
		t.tell(WaitingEnded, "")
	}
}

// lose takes the traffic from a canary that is not available until it is ready again. Once may be the node's doing;
// again without a pass or a fail in between is a check that the canary has failed, or one that comes and goes faster
// than it can be judged would do so for ever.
func (t *turn) lose() {
	reason := because("the canary is not available", t.o.Canary)
	if t.Lost && !t.suspended() {
		var enough bool
		if reason, enough = t.countFailed(reason); enough {
			t.fail(reason, nil)
			return
		}
	}
	t.Lost = true
	t.Weight = 0
	t.enter(Starting)
	t.emit(CanaryAway, reason, nil)
}

// counts reports whether a verdict judges the present weight, for long enough.
func (t *turn) counts(v *analysis.Verdict) bool {
	return v != nil && !v.At.After(t.o.Now) && t.CheckDue(t.o, v.At)
}

// judge acts upon a verdict that counts.
func (t *turn) judge(v analysis.Verdict) {
	t.LastCheck = v.At
	switch {
	case v.Outcome == analysis.Fail && v.Decisive:
		t.FailedChecks++
		t.fail(v.Reason, v.Results)
	case t.o.Plan.Suspend:
		t.open(AtStep) // which it is not: people are told
	case t.Pause != nil:
	case !t.o.Stable.Available:
		// What the canary does beside a stable release that does not serve says nothing of either.
		v.Reason = because(t.stableAway(), t.o.Stable)
		t.checkInconclusive(v)
	case v.Outcome == analysis.Pass && !t.o.Applied:
		v.Reason = "what the checks judge is not fully applied yet"
		t.checkInconclusive(v)
	case v.Outcome == analysis.Pass:
		t.checkPassed(v)
	case v.Outcome == analysis.Fail:
		t.checkFailed(v)
	case v.Outcome == analysis.Inconclusive:
		t.checkInconclusive(v)
	}
}

func (t *turn) checkPassed(v analysis.Verdict) {
	t.decided()
	at := AtStep
	if t.lastStep() {
		at = AtPromotion
	}
	if t.open(at) {
		t.rise(v.Reason, v.Results)
	}
}

// nextStep is the first step with more weight than the canary has; ok is false on the last one.
func (t *turn) nextStep() (i int, ok bool) {
	i = slices.IndexFunc(t.o.Plan.steps(), func(s Step) bool { return s.Weight > t.Weight })
	return i, i >= 0
}

func (t *turn) lastStep() bool { return t.LastStep(t.o.Plan) }

// LastStep reports whether a plan has no more weight for the canary than it has.
func (s State) LastStep(p Plan) bool {
	return !slices.ContainsFunc(p.steps(), func(step Step) bool { return step.Weight > s.Weight })
}

// rise takes the next step, or promotes after the last.
func (t *turn) rise(reason string, results []analysis.Result) {
	i, more := t.nextStep()
	if !more {
		t.promote(reason, results)
		return
	}
	t.Step = i
	t.setWeight(t.o.Plan.steps()[i].Weight)
	t.emit(Advanced, reason, results)
}

// skip promotes without a judgement.
func (t *turn) skip() {
	if t.open(AtPromotion) {
		t.promote("the analysis is skipped by policy", nil)
	}
}

// suspended reports whether nothing may begin or get on: the policy, or a person, says so.
func (t *turn) suspended() bool { return t.o.Plan.Suspend || t.Pause != nil }

func (t *turn) checkFailed(v analysis.Verdict) {
	t.decided()
	reason, enough := t.countFailed(v.Reason)
	if enough {
		t.fail(reason, v.Results)
		return
	}
	t.emit(CheckFailed, reason, v.Results)
}

// countFailed counts a failed check, and tells whether that is the Threshold-th.
func (t *turn) countFailed(reason string) (counted string, enough bool) {
	t.FailedChecks++
	limit := t.o.Plan.threshold()
	if t.FailedChecks >= limit {
		return fmt.Sprintf("%s (%d of %d checks failed)", reason, t.FailedChecks, limit), true
	}
	return fmt.Sprintf("%s (failed check %d of %d)", reason, t.FailedChecks, limit), false
}

// checkInconclusive holds the weight. It never counts as failed: a metrics server that is away says nothing of the
// release.
func (t *turn) checkInconclusive(v analysis.Verdict) {
	t.InconclusiveChecks++
	limit := t.o.Plan.inconclusiveLimit()
	if t.InconclusiveChecks == 1 {
		t.emit(Inconclusive, v.Reason, v.Results)
	}
	if t.InconclusiveChecks >= limit && t.Stalled == "" {
		t.Stalled = fmt.Sprintf("%s (%d checks in a row)", v.Reason, t.InconclusiveChecks)
		t.emit(Stalled, t.Stalled, v.Results)
	}
}

// decided ends a row of inconclusive checks.
func (t *turn) decided() {
	t.InconclusiveChecks, t.Lost, t.Stalled = 0, false, ""
}
