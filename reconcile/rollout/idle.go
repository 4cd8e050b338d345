package rollout

import (
	"fmt"
	"slices"
	"strings"
)

// maxRejected bounds State.Rejected. Older ones than these are no longer what git asks for.
const maxRejected = 10

// idle starts what git asks for.
func (t *turn) idle() {
	d := t.o.Desired
	switch {
	case d.IsZero():
	case t.Waiting != "" && !t.wants():
		t.Waiting = ""
		t.tell(WaitingEnded, "")
	case d.Digest == t.Stable.Digest || t.Hold != nil:
	case t.State.takenBack(t.o):
		t.follow()
	case t.Stable.IsZero():
		if t.open(AtBegin) {
			t.install()
		}
	case t.o.FromStable == ChangePlain:
		if t.open(AtApply) {
			t.applyPlain()
		}
	case t.o.FromStable == ChangePods && t.mayBegin():
		if t.open(AtBegin) {
			t.begin()
		}
	}
}

// wants reports whether something is to begin, if only the gates let it.
func (t *turn) wants() bool {
	return t.Hold == nil && t.o.Desired.Digest != t.Stable.Digest &&
		(t.Stable.IsZero() || t.o.FromStable == ChangePlain || t.o.FromStable == ChangePods && t.mayBegin())
}

// applyPlain takes over a change that no pod would notice.
func (t *turn) applyPlain() {
	from := t.Stable
	t.Stable = t.o.Desired
	t.Reason, t.Override = "", nil
	t.record(Event{Type: Applied, From: from, To: t.Stable, Reason: t.warning()})
	t.takeOver()
}

// maxTaken is how many of the objects that are taken over are named.
const maxTaken = 20

// takeOver tells which objects that begins with.
func (t *turn) takeOver() {
	names := t.o.Taken
	if len(names) == 0 {
		return
	}
	text := strings.Join(names[:min(len(names), maxTaken)], ", ")
	if more := len(names) - maxTaken; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	t.tell(Adopted, text)
}

// Awaits reports whether a release is to begin in this State, or in place of the one under way, as far as git and people say.
func (s State) Awaits(r Release) bool {
	return (s.Phase == Idle || s.Phase.trait().rollout) && s.Hold == nil && !r.IsZero() && r.Digest != s.Stable.Digest &&
		r.Digest != s.Target.Digest && !s.rejected(r)
}

// mayBegin reports whether a rollout to Desired begins once the gates let it.
func (t *turn) mayBegin() bool { return t.Pause == nil && !t.rejected(t.o.Desired) }

// rejected reports whether a release failed before and nobody has asked for it anew since. A Revert that git has not
// answered yet says the same of the release that it takes back.
func (s State) rejected(r Release) bool {
	same := func(x Release) bool { return x.Digest == r.Digest && x.Commit == r.Commit }
	return s.Revert != nil && same(s.Revert.From) ||
		slices.ContainsFunc(s.Rejected, func(x Rejection) bool { return same(x.Release) })
}

// dropRevertOf calls off the pending rollback commit if it would take back r.
func (t *turn) dropRevertOf(r Release, reason string) {
	if t.Revert != nil && t.Revert.From.Digest == r.Digest {
		t.closeRevert(RollbackSkipped, reason, nil)
	}
}

// begin starts a rollout to Desired at step 0, with the strategy of its policy.
func (t *turn) begin() {
	t.dropRevertOf(t.o.Desired, "requested again by commit "+t.o.Desired.Commit)
	t.clearRun()
	t.StablePlan = t.ServingPlan()
	t.Target = t.o.Desired
	t.Rollouts++
	if t.o.Plan.Canary() {
		t.enter(Starting)
	} else {
		t.enter(Updating)
	}
	t.emit(RolloutStarted, t.warning(), nil)
	t.takeOver()
}

// warning is what people are to be warned of, now that something begins.
func (t *turn) warning() string {
	if len(t.o.Warnings) == 0 {
		return ""
	}
	return "warning: " + strings.Join(t.o.Warnings, "; ")
}

// install applies the first release. There is nothing to compare it with, so it never canaries.
func (t *turn) install() {
	t.clearRun()
	t.Target = t.o.Desired
	t.enter(Installing)
	t.emit(InstallStarted, t.warning(), nil)
	t.takeOver()
}

func (t *turn) installing() {
	d, stable := t.o.Desired, t.o.Stable
	switch {
	case stable.Ready && t.o.Applied:
		t.succeed(Installed, "")
	case !d.IsZero() && d.Digest != t.Target.Digest:
		t.install()
	case stable.Failed:
		t.degrade(because(label(t.Target)+" failed to start", stable))
	case t.overdue():
		t.degrade(because(fmt.Sprintf("%s was not ready within %s", label(t.Target), t.deadline()), stable))
	}
}

// updating waits for a rolling update.
func (t *turn) updating() {
	stable := t.o.Stable
	switch {
	case stable.Ready:
		// What is named otherwise than what it takes the place of has no traffic yet.
		t.enter(Draining)
		t.Drained = true
	case stable.Failed:
		t.miss(because("the update failed", stable))
	case t.overdue():
		t.miss(because(fmt.Sprintf("the update was not ready within %s", t.deadline()), stable))
	}
}

// degrade says, once in a phase, that something is wrong which only time or a person can mend. It decides nothing, so
// the State's Reason stays what it was.
func (t *turn) degrade(reason string) {
	if t.Stalled != "" {
		return
	}
	t.Stalled = reason
	decided := t.Reason
	t.emit(Degraded, reason, nil)
	t.Reason = decided
}

// succeed makes Target the stable release.
func (t *turn) succeed(outcome EventType, reason string) {
	if t.Returning {
		t.returned()
		return
	}
	t.emit(outcome, reason, nil)
	t.served()
	t.Stable = t.Target
	t.Outcome = outcome
	t.rest()
}

// remove lets go of everything, from any phase.
func (t *turn) remove() {
	switch {
	case t.Phase == Removing:
		t.removing()
	case t.Phase != Idle || !t.Stable.IsZero():
		t.Weight, t.Drained, t.Pause, t.Returning, t.Following = 0, false, nil, false, false
		t.enter(Removing)
	}
}

// removing waits until everything is gone. An app that git lists again in the meantime is installed afterwards.
func (t *turn) removing() {
	if !t.o.Applied {
		if t.overdue() {
			t.degrade(fmt.Sprintf("not all of its objects were deleted within %s", t.deadline()))
		}
		return
	}
	const reason = "git no longer lists the app"
	if t.Revert != nil {
		t.closeRevert(RollbackSkipped, reason, nil)
	}
	gone := t.Stable
	if gone.IsZero() {
		gone = t.Target
	}
	t.record(Event{Type: Removed, From: gone, Reason: reason})
	t.State = State{Rollouts: t.Rollouts, LastSeq: t.LastSeq, Outbox: t.Outbox, LastCommand: t.LastCommand, LastDirect: t.LastDirect}
}
