package rollout

import (
	"fmt"

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
	case !t.o.Policy.Suspend && t.overdue():
		t.fail(because(fmt.Sprintf("the canary is not ready within %s", t.deadline()), canary), nil)
	}
}

// expose gives a ready canary its first traffic, or what it had before it was away.
func (t *turn) expose() {
	switch {
	case t.o.Policy.Suspend:
	case t.skipsAnalysis():
		t.promote("the analysis is skipped by policy", nil)
	case t.o.Stable.Available:
		t.enter(Analyzing)
		t.setWeight(t.entryWeight())
		t.emit(Advanced, "the canary is ready", nil)
	}
}

// entryWeight is the weight of the present step. Where the policy has changed in the meantime, a canary that comes
// back gets no more than it had.
func (t *turn) entryWeight() int {
	weights := steps(t.o.Policy)
	if t.Peak == 0 {
		t.Step = 0
		return weights[0]
	}
	t.Step = min(max(t.Step, 0), len(weights)-1)
	return min(weights[t.Step], t.Peak)
}

// skipsAnalysis reports whether the policy wants no judgement, be it since the middle of the run: the emergency exit.
func (t *turn) skipsAnalysis() bool {
	p := t.o.Policy
	return !p.Suspend && (p.SkipAnalysis || p.Strategy == environments.StrategyRolling)
}

// analyzing judges the canary at its weight.
func (t *turn) analyzing() {
	canary := t.o.Canary
	switch {
	case canary.Failed:
		t.fail(because("the canary failed", canary), nil)
	case t.StepSince.IsZero() && t.overdue():
		t.fail(fmt.Sprintf("the cluster does not hold weight %d within %s", t.Weight, t.deadline()), nil)
	case !canary.Available && t.o.Stable.Available:
		t.Weight = 0
		t.enter(Starting)
		t.emit(Held, because("the canary is not available", canary), nil)
	case !canary.Available:
		// Neither track can take more; moving traffic helps nobody.
	case t.skipsAnalysis():
		t.promote("the analysis is skipped by policy", nil)
	case t.counts(t.o.Verdict):
		t.judge(*t.o.Verdict)
	}
}

// counts reports whether a verdict judges the present weight, for long enough.
func (t *turn) counts(v *analysis.Verdict) bool {
	return v != nil && !v.At.After(t.o.Now) && t.CheckDue(t.o.Policy, v.At)
}

// judge acts upon a verdict that counts.
func (t *turn) judge(v analysis.Verdict) {
	t.LastCheck = v.At
	switch {
	case v.Outcome == analysis.Fail && v.Decisive:
		t.FailedChecks++
		t.fail(v.Reason, v.Results)
	case t.o.Policy.Suspend || !t.o.Stable.Available:
		// A canary is compared with a stable release that serves, and by somebody who wants an answer.
	case v.Outcome == analysis.Pass:
		t.checkPassed(v)
	case v.Outcome == analysis.Fail:
		t.checkFailed(v)
	case v.Outcome == analysis.Inconclusive:
		t.checkInconclusive(v)
	}
}

func (t *turn) checkPassed(v analysis.Verdict) {
	t.resume()
	if !t.o.Applied {
		return // what passed may not be what the projection holds
	}
	for i, w := range steps(t.o.Policy) {
		if w > t.Weight {
			t.Step = i
			t.setWeight(w)
			t.emit(Advanced, v.Reason, v.Results)
			return
		}
	}
	t.promote(v.Reason, v.Results)
}

func (t *turn) checkFailed(v analysis.Verdict) {
	t.resume()
	t.FailedChecks++
	limit := threshold(t.o.Policy)
	if t.FailedChecks >= limit {
		t.fail(fmt.Sprintf("%s (%d of %d checks failed)", v.Reason, t.FailedChecks, limit), v.Results)
		return
	}
	t.emit(Held, fmt.Sprintf("%s (failed check %d of %d)", v.Reason, t.FailedChecks, limit), v.Results)
}

// checkInconclusive holds the weight. It never counts as failed: a metrics server that is away says nothing of the
// release.
func (t *turn) checkInconclusive(v analysis.Verdict) {
	t.InconclusiveChecks++
	limit := inconclusiveLimit(t.o.Policy)
	if t.InconclusiveChecks == 1 {
		t.emit(Inconclusive, v.Reason, v.Results)
	}
	if t.InconclusiveChecks >= limit && t.Paused == "" {
		t.Paused = fmt.Sprintf("%s (%d checks in a row)", v.Reason, t.InconclusiveChecks)
		t.emit(Paused, t.Paused, v.Results)
	}
}

// resume ends a row of inconclusive checks.
func (t *turn) resume() {
	t.InconclusiveChecks = 0
	if t.Paused != "" {
		t.Paused = ""
		t.emit(Resumed, "the checks have data again", nil)
	}
}
