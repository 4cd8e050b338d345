package rollout

import (
	"fmt"

	"github.com/sluice-cd/sluice/analysis"
)

// promote gives the stable track the release, while the canary carries its share.
func (t *turn) promote(reason string, results []analysis.Result) {
	t.InconclusiveChecks, t.Pause = 0, nil
	t.enter(Promoting)
	t.emit(PromotionStarted, reason, results)
}

func (t *turn) promoting() {
	stable, canary := t.o.Stable, t.o.Canary
	switch {
	case stable.Ready:
		t.enter(Draining)
		t.Drained = t.Peak == 0
		t.lowerWeight()
	case stable.Failed:
		t.fail(because("the promotion failed", stable), nil)
	case canary.Failed:
		t.fail(because("the promotion failed: the canary failed", canary), nil)
	case t.overdue():
		t.fail(t.promotionLate(), nil)
	case t.Weight > 0 && !canary.Available && stable.Available:
		t.setWeight(0)
		t.emit(CanaryAway, because("the canary is not available", canary), nil)
	}
}

// draining moves the traffic back to the stable track, which is Target now, and then lets the canary go. Until the end
// State.Stable is the release before it, so that there is something to go back to.
func (t *turn) draining() {
	stable := t.o.Stable
	switch {
	case stable.Failed:
		t.miss(because("the promotion failed", stable))
	case !stable.Available:
		if t.overdue() {
			t.miss(t.promotionLate())
		}
	case t.Weight > 0:
		if !t.o.Canary.Available || t.heldFor(t.o.Plan.interval()) || t.overdue() {
			t.lowerWeight()
		}
	case !t.Drained:
		t.drain()
	case t.o.Applied || t.overdue():
		// Objects that do not go by the deadline are not worth an open rollout: the cluster is told to remove them at
		// rest too. The same holds for the traffic above.
		t.succeed(Promoted, "")
	}
}

// promotionLate says that the stable track did not take the release in time.
func (t *turn) promotionLate() string {
	return because(fmt.Sprintf("the promotion failed: the stable track was not ready within %s", t.deadline()), t.o.Stable)
}

// lowerWeight moves one step of traffic back to the stable track; all of it without StepBack.
func (t *turn) lowerWeight() {
	step := t.o.Plan.StepBack
	if step <= 0 || !t.o.Canary.Available {
		step = t.Weight
	}
	t.setWeight(max(0, t.Weight-step))
}

// drain takes the canary out of the projection when it has been without traffic for the drain delay. A canary that the
// cluster refuses to hold does not keep the rollout open for longer than the deadline.
func (t *turn) drain() {
	if t.heldFor(t.o.Plan.drainDelay()) || t.overdue() {
		t.Drained = true
		t.restage()
	}
}
