package rollout

import (
	"slices"
	"time"
)

// Next takes one observation of the world to the next State and to the events that say what happened. It is the whole
// policy, takes one transition a call, and is to be called again until it changes nothing.
//
//	phase        when                                             then                      events
//	-----------  -----------------------------------------------  ------------------------  --------------------------
//	any          Removed (at Idle: with a Stable)                 Removing, weight 0
//	             Reverted answers Revert                          Revert is done            Rollback|Committed|Proposed|Skipped
//	             a command                                        see commands              that says so, or CommandRefused
//	             Recorded                                         those leave the Outbox
//	             Told                                             those leave Untold
//	             a gate that is asked and closed                  waits on                  Waiting (once)
//	             at Idle nothing is to begin any more             waits for nothing         WaitingEnded
//	Idle         no Stable, not Hold                              Installing                InstallStarted
//	             Desired served before, not Hold, and another
//	               cluster took Stable back by Desired's commit   Updating, Following       RollbackStarted
//	             Desired differs, no pod would change, not Hold   Stable = Desired          Applied
//	             Desired differs; not Suspend, Hold, rejected:
//	               Strategy Canary                                Starting, weight 0        RolloutStarted
//	               any other                                      Updating                  RolloutStarted
//	Installing   stable Ready, Applied                            Idle                      Installed
//	             Desired differs                                  Installing it             InstallStarted
//	             stable Failed, or deadline                       waits on                  Degraded (once)
//	Updating     stable Ready                                     Draining, Drained
//	             stable Failed, or deadline                       RollingBack               RollbackStarted
//	               and Following                                  waits on                  Degraded (once)
//	Starting     canary Failed, or not Ready by the deadline      RollingBack               RollbackStarted
//	             canary Ready, SkipAnalysis                       Promoting                 PromotionStarted
//	             no traffic yet, pre-rollout webhook fails:
//	               the Threshold-th failed check                  RollingBack               RollbackStarted
//	               else, or it does not answer                    waits on                  CheckFailed|Inconclusive
//	             canary Ready, stable Available                   Analyzing, Step's weight  Advanced
//	             canary Ready, stable not by the deadline         waits on                  Degraded (once)
//	Analyzing    canary Failed                                    RollingBack               RollbackStarted
//	             weight not seen in the cluster by the deadline   RollingBack               RollbackStarted
//	             canary not Available, stable Available:
//	               the first time since a check passed or failed  Starting, weight 0        CanaryAway
//	               again                                          counts as a failed check  CanaryAway|RollbackStarted
//	             SkipAnalysis                                     Promoting                 PromotionStarted
//	             Suspend, or it is over, and no check counts      waits on, or no longer    Waiting|WaitingEnded (once)
//	             check decisively failed, or the Threshold-th     RollingBack               RollbackStarted
//	             check failed                                     weight stays              CheckFailed
//	             check inconclusive; stable not Available;
//	               or passed, and not Applied                     weight stays              Inconclusive (first of a row)
//	             the InconclusiveLimit-th of a row                weight stays              Stalled
//	             check passed, more steps                         next step's weight        Advanced
//	             check passed, last step                          Promoting                 PromotionStarted
//	Promoting    stable Ready                                     Draining, weight falls
//	             stable or canary Failed, or deadline             RollingBack               RollbackStarted
//	             canary not Available, stable Available           weight 0                  CanaryAway
//	Draining     stable Failed, or not Available by the deadline  RollingBack               RollbackStarted
//	               and Following                                  waits on                  Degraded (once)
//	             weight held for an interval, or deadline         weight falls
//	             weight 0 held for the drain delay, or deadline   Drained
//	             Drained, and Applied or deadline                 Idle, Stable = Target     Promoted
//	RollingBack  canary Failed, or stable Available and the
//	               rollback seen in the cluster, or deadline      weight 0
//	             stable not Available by then, canary serves      waits on                  Degraded (once)
//	             weight 0 held for the drain delay, or deadline   Drained
//	             Drained, Applied, stable Available               Idle                      RolledBack (if it failed)
//	             Drained, deadline                                Idle                      Degraded, RolledBack
//	Removing     Applied: everything is gone                      Idle, as never seen       Removed
//	             deadline                                         waits on                  Degraded (once)
//
// In the middle of a run (Updating, Starting, Analyzing, Promoting; in Draining the first of these only), before any of
// the above:
//
//	Desired is Stable, or Stable but for what no pod sees         RollingBack               Aborted
//	Desired is Target but for what no pod sees, and the canary
//	  is not away under traffic                                   Target = Desired          Applied
//	Desired is a third release, rejected before                   RollingBack               Aborted
//	Desired is a third release                                    restart at step 0         Superseded, RolloutStarted
//	a rollback webhook says so, in Draining too, and no rollout
//	  goes back to what served before                             RollingBack               RollbackStarted
//
// A third release takes a rollout's place at once while its canary never had traffic, or while a rolling update is
// replaced by another, and no gate keeps it from beginning. In every other case the present canary is drained first, by RollingBack, and the third release
// starts from Idle: the canary's pods and its weight change in different passes, so that no crash between them sends
// traffic to pods that nobody judged. That holds in Promoting too, where Stable is put back first: a release that
// nobody wants any more is not given all the traffic just because it is far. RollingBack and Draining end before
// anything new begins.
//
// A check counts when it was asked an interval or more after the cluster was first seen to hold the present weight
// (StepSince), and after the check before it. Weight rises only on a counted pass at the present weight, or back to a
// weight already reached after the canary was away. A canary that is away again and again, faster than a check can
// count, is rolled back by the Threshold all the same. While Suspend is set nothing begins, no canary gets traffic, and
// of what is judged only that counts which is beyond doubt (Failed, a decisive check, a weight that the cluster does not
// take); a promotion or a rollback that has begun goes on. A Pause does the same, but that a canary which was away gets back
// what it had. While stable is not Available a check says as little as one
// without data, unless it is decisive. A rollback, or an abort, gives the traffic back to Stable at once where Stable is
// untouched; out of Updating, Promoting and Draining Stable is put back onto the stable track and the canary keeps its
// share until stable is Available.
//
// The deadline counts from when the phase, or its weight, was decided; from when the cluster was first seen to hold it;
// and from when the cluster last came back: from the latest of these. The drain delay is the interval, 30 s at most. At
// rest Next is a fixpoint.
func Next(s State, o Observation) (State, []Event) {
	o.Stable.Available = o.Stable.Available || o.Stable.Ready
	o.Canary.Available = o.Canary.Available || o.Canary.Ready
	o = o.fit(s)
	t := &turn{State: s, o: o}
	t.Outbox, t.Untold = slices.Clone(s.Outbox), slices.Clone(s.Untold)
	t.Rejected = slices.Clone(s.Rejected)
	t.acknowledge()
	t.hear()
	t.settleRevert()
	t.mark()
	if !t.obey() {
		t.decide()
	}
	if o.Desired.IsZero() {
		return t.State, t.events
	}
	return t.Governed(o.Desired, o.Plan), t.events
}

// fit is the observation without a Desired that is Unfit.
func (o Observation) fit(s State) Observation {
	if o.Unfit == "" {
		return o
	}
	o.Desired, o.FromStable, o.FromTarget, o.Plan = Release{}, ChangeNone, ChangeNone, o.Governing(s)
	return o
}

// Governing is the plan that Next goes by: an Unfit release brings none.
func (o Observation) Governing(s State) Plan {
	if o.Unfit != "" && s.Plan != nil {
		return *s.Plan
	}
	return o.Plan
}

// Governed is the State with the plan that its projection follows, given what git asks for: that of the release under
// way, at rest that of the one that serves. The State's own stays while git asks for another release.
func (s State) Governed(desired Release, p Plan) State {
	governs := s.Stable
	if s.InFlight() {
		governs = s.Target
	}
	if s.Plan == nil || governs.IsZero() || desired.Digest == governs.Digest {
		s.Plan = &p
	}
	if s.Stable.Digest == desired.Digest && s.Stable.Commit == "" {
		// What was adopted is what git says: now it is known since when.
		s.Stable.Commit, s.Stable.By = desired.Commit, desired.By
	}
	return s
}

// Takes reports whether Next would take o.Desired over, as the release of a track. Then it has to be known to be fit, and
// to have its number, before Next is asked. A command that comes first may be refused for what is observed after that.
func (s State) Takes(o Observation) bool {
	wanted := o.Desired.Digest
	if wanted == "" || s.Stable.Digest == wanted || s.Target.Digest == wanted {
		return false
	}
	takes := func(o Observation) bool {
		next, _ := Next(s, o)
		return next.Stable.Digest == wanted || next.Target.Digest == wanted
	}
	if takes(o) {
		return true
	}
	unasked := o
	unasked.Commands = nil
	return len(o.Commands) > 0 && takes(unasked)
}

// turn is one call of Next: the State that becomes the answer, and what is seen.
type turn struct {
	State
	o      Observation
	events []Event
	// asking is the command that is being taken.
	asking Command
}

// decide takes the one transition.
func (t *turn) decide() {
	if t.o.Removed {
		t.remove()
		return
	}
	if t.redirect() || t.recall() {
		return
	}
	if row, ok := t.Phase.traits(); ok {
		row.act(t)
	}
}

// mark notes when users were first seen to be led as the present phase and weight say. Times ahead of the clock, which
// was set back then, are brought down to it: a step may become longer by that, never endless.
func (t *turn) mark() {
	if t.Phase == Idle {
		return
	}
	now := t.o.Now
	if t.Since.IsZero() || t.Since.After(now) {
		t.Since = now
	}
	if t.StepSince.After(now) || t.StepSince.IsZero() && (t.o.Exposed || t.o.Applied) {
		t.StepSince = now
	}
	if t.LastCheck.After(now) {
		t.LastCheck = now
	}
}

// enter begins a phase.
func (t *turn) enter(p Phase) {
	t.Phase = p
	t.Stalled, t.Waiting = "", ""
	t.restage()
}

// restage restarts the clocks: something else is to be applied, and to be waited for, from now on.
func (t *turn) restage() {
	t.Since = t.o.Now
	t.StepSince = time.Time{}
}

// setWeight changes the canary's share.
func (t *turn) setWeight(w int) {
	t.Weight = w
	t.Peak = max(t.Peak, w)
	t.restage()
}

// rest ends whatever was under way.
func (t *turn) rest() {
	t.enter(Idle)
	t.Target, t.StablePlan, t.Override = Release{}, nil, nil
	t.clearRun()
}

// clearRun forgets what belongs to one rollout only.
func (t *turn) clearRun() {
	t.Step, t.Weight, t.Peak, t.Drained = 0, 0, 0, false
	t.FailedChecks, t.InconclusiveChecks, t.Lost = 0, 0, false
	t.LastCheck, t.Pause, t.Approved = time.Time{}, nil, nil
	t.Returning, t.Following = false, false
}
