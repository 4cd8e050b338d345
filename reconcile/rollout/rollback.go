package rollout

import (
	"fmt"
	"slices"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
)

// fail rejects the release, asks git to take it back, and goes back to Stable.
func (t *turn) fail(reason string, results []analysis.Result) {
	failed := t.Target
	if t.o.Desired.Digest == failed.Digest {
		// Whoever asked last for these very objects has had the answer too.
		failed.Commit, failed.By = t.o.Desired.Commit, t.o.Desired.By
	}
	t.reject(failed, reason)
	t.takeBack(failed, t.Stable, reason)
	t.retreat(RolledBack, RollbackStarted, reason, results)
}

// recall goes back where somebody says so who is asked all along, and reports whether it did.
func (t *turn) recall() bool {
	if t.o.Recall == "" || !t.Recallable() {
		return false
	}
	t.fail(t.o.Recall, nil)
	return true
}

// Recallable reports whether a rollout is under way that can go back, and does not do so already.
func (s State) Recallable() bool { return s.Phase.trait().divertible && !s.Returning && !s.Following }

// miss ends a rolling update, or the end of a promotion, that has not come to what it is to be. Of one that follows git back to what
// served before nothing is taken back: what git would say then is what failed elsewhere. It is waited for.
func (t *turn) miss(reason string) {
	if t.Following {
		t.degrade(reason)
		return
	}
	t.fail(reason, nil)
}

// takeBack has git put back from one release to another.
func (t *turn) takeBack(from, to Release, reason string) {
	if t.Revert != nil {
		why := "git had moved on to " + label(from)
		if t.Returning {
			why = "the rollback to " + label(from) + " was given up"
		}
		t.closeRevert(RollbackSkipped, why, nil)
	}
	t.Revert = &Revert{From: from, To: to, Reason: reason, Rollout: t.Rollouts, Hooks: t.under().Hooks(environments.OnEvent)}
}

// reject remembers a release that failed.
func (t *turn) reject(r Release, reason string) {
	t.Rejected = slices.DeleteFunc(t.Rejected, func(x Rejection) bool {
		return x.Release.Digest == r.Digest && x.Release.Commit == r.Commit
	})
	t.Rejected = append(t.Rejected, Rejection{Release: r, Reason: reason})
	if extra := len(t.Rejected) - maxRejected; extra > 0 {
		t.Rejected = slices.Delete(t.Rejected, 0, extra)
	}
}

// retreat goes back to Stable and ends as outcome. The canary loses its traffic at once where the stable track never
// had anything else than Stable and can take it, or where the canary is broken anyway.
func (t *turn) retreat(outcome, event EventType, reason string, results []analysis.Result) {
	untouched := t.Phase == Starting || t.Phase == Analyzing
	if t.o.Canary.Failed || untouched && t.o.Stable.Available {
		t.Weight = 0
	}
	t.Drained = t.Drained || t.Peak == 0
	t.Outcome = outcome
	t.Pause, t.Returning, t.Following = nil, false, false
	t.enter(RollingBack)
	t.emit(event, reason, results)
}

func (t *turn) rollingBack() {
	switch {
	case t.Weight > 0:
		t.giveBack()
	case !t.Drained:
		t.drain()
	case t.o.Applied && t.o.Stable.Available:
		t.rolledBack()
	case t.overdue():
		// A new release in git may be the cure, so it must get its turn.
		t.degrade(t.stableLate())
		t.rolledBack()
	}
}

// giveBack waits until the stable track can take the canary's traffic. Until then the canary serves, however long
// that takes: it does what the stable track can't.
func (t *turn) giveBack() {
	switch {
	case t.o.Canary.Failed, t.o.Stable.Available && (t.heldFor(0) || t.overdue()):
		// An object that the cluster does not hold by the deadline is no reason to serve what nobody wants.
		t.setWeight(0)
		t.Stalled = ""
	case t.overdue():
		t.degrade(t.stableLate())
	}
}

func (t *turn) stableLate() string {
	if t.o.Stable.Available {
		return fmt.Sprintf("the rollback to %s did not complete within %s", label(t.Stable), t.deadline())
	}
	what := fmt.Sprintf("%s was not available again within %s of the rollback", label(t.Stable), t.deadline())
	return because(what, t.o.Stable)
}

// rolledBack ends the retreat. Aborted and Superseded were said when they were decided.
func (t *turn) rolledBack() {
	if t.Outcome == RolledBack {
		t.emit(RolledBack, t.Reason, nil)
	}
	if t.StablePlan != nil {
		t.Plan = t.StablePlan // git may say for long what the rejected release's is
	}
	t.rest()
}
