package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
)

// Check reports every invariant that a State breaks; nil: none. Every State that Next returns for a State that keeps
// them keeps them too, whatever was observed.
func Check(s State) error {
	var faults []error
	must := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	row, known := s.Phase.traits()
	must(known, "unknown phase %q", s.Phase)
	must(s.InFlight() || s.Target.IsZero(), "a target at rest")
	must(s.Phase != Installing || s.Stable.IsZero() && !s.Target.IsZero(), "installing takes a target and no stable release")
	must(!row.rollout || !s.Stable.IsZero() && !s.Target.IsZero(), "%s takes a stable release and a target", s.Phase)
	must(!row.rollout || s.Rollouts > 0, "%s outside a rollout", s.Phase)
	must(s.Weight >= 0 && s.Weight <= s.Peak && s.Peak <= 100, "weight %d, peak %d", s.Weight, s.Peak)
	must(s.Weight == 0 || !s.canaryOrNone().IsZero(), "weight %d without a canary track", s.Weight)
	must(s.Phase != Starting || s.Weight == 0, "weight %d before the canary is ready", s.Weight)
	must(s.Phase != Analyzing || s.Weight > 0, "analyzing without traffic")
	must(!s.Drained || row.canary == TargetUntilDrained, "drained in %s", s.Phase)
	must(s.Pause == nil || row.pausable, "paused in %s", s.Phase)
	must(s.Step >= 0 && s.FailedChecks >= 0 && s.InconclusiveChecks >= 0, "a negative counter")
	must(len(s.Rejected) <= maxRejected, "%d rejected releases", len(s.Rejected))
	must(len(s.Served) <= maxServed, "%d releases that served", len(s.Served))
	must(!s.Following || s.Returning, "following, and not going back")
	must(!s.Returning || s.Phase == Updating || s.Phase == Draining, "going back in %s", s.Phase)
	must(len(s.Untold) <= maxUntold, "%d events that webhooks are to be told of", len(s.Untold))
	must(slices.IsSortedFunc(s.Untold, func(a, b Untold) int { return cmp.Compare(a.Seq, b.Seq) }), "webhooks are to be told of events out of order")
	for i, e := range s.Outbox {
		want := s.LastSeq - int64(len(s.Outbox)-1-i)
		must(e.Seq == want && e.Seq > 0, "event %d stands where %d belongs", e.Seq, want)
	}
	return errors.Join(faults...)
}

func (s State) canaryOrNone() Release {
	_, canary := s.Tracks()
	return canary
}

// CheckTransition reports every invariant that Next(before, o) = (after, events) breaks; nil: none.
func CheckTransition(before State, o Observation, after State, events []Event) error {
	o = o.fit(before)
	return errors.Join(
		Check(after), checkWeight(before, o, after), checkTracks(before, o, after),
		checkNumbers(before, o, after, events), checkDecisions(before, o, after, events), checkGates(before, o, after, events),
		checkCommands(before, o, after, events), checkPlan(before, o, after),
	)
}

// checkPlan: whoever goes on with what served before goes on with its plan, whatever git says of what failed.
func checkPlan(before State, o Observation, after State) error {
	if !before.InFlight() || after.InFlight() || before.StablePlan == nil || after.Stable.Digest != before.Stable.Digest ||
		o.Desired.Digest == after.Stable.Digest || reflect.DeepEqual(after.Plan, before.StablePlan) {
		return nil
	}
	return errors.New("at rest on what served before, by another plan")
}

// asks reports whether the next command is one of a kind.
func (s State) asks(o Observation, k CommandKind) bool {
	c, _, ok := s.pending(o)
	return ok && c.Kind == k
}

// checkGates: nothing gets past a closed gate, but for what a person takes back.
func checkGates(before State, o Observation, after State, events []Event) error {
	var faults []error
	must := func(at Moment, moved bool) {
		was := before
		if slices.ContainsFunc(events, func(e Event) bool { return e.Type == Approved }) { // in this very turn
			was.Approved = []Approval{{Digest: before.passing(o, at).Digest, Moment: at}}
		}
		if slices.ContainsFunc(events, func(e Event) bool { return e.Type == Overridden }) {
			was.Override = &Override{Digest: before.passing(o, at).Digest}
		}
		if names, _ := was.closed(o, at); moved && len(names) > 0 {
			faults = append(faults, fmt.Errorf("from %q to %q past gate %s", before.Phase, after.Phase, names))
		}
	}
	must(AtBegin, !before.asks(o, Rollback) && !before.takenBack(o) && (before.Phase == Idle && after.Phase == Installing || after.Rollouts > before.Rollouts))
	must(AtApply, before.Phase == Idle && after.Phase == Idle && slices.ContainsFunc(events, func(e Event) bool { return e.Type == Applied }))
	must(AtStep, after.Weight > max(before.Weight, before.Peak))
	must(AtPromotion, after.Phase == Promoting && before.Phase != Promoting)
	return errors.Join(faults...)
}

// checkCommands: the oldest command is taken, once, and an event answers it; what a person keeps where it is stays there.
func checkCommands(before State, o Observation, after State, events []Event) error {
	var faults []error
	want, wantDirect := before.LastCommand, before.LastDirect
	if c, direct, ok := before.pending(o); ok {
		if direct {
			wantDirect = c.ID
		} else {
			want = c.ID
		}
		if !slices.ContainsFunc(events, func(e Event) bool { return e.Command == c.ID && e.By == c.By }) {
			faults = append(faults, fmt.Errorf("command %s is not answered", c.ID))
		}
	} else {
		if before.Pause != nil && after.Weight > max(before.Weight, before.Peak) {
			faults = append(faults, fmt.Errorf("the weight rises from %d to %d in a pause", before.Weight, after.Weight))
		}
		if before.Hold != nil && (before.Phase == Idle && after.Phase != Idle && after.Phase != Removing || after.Rollouts > before.Rollouts) {
			faults = append(faults, fmt.Errorf("%s begins in a hold", after.Phase))
		}
	}
	if after.LastCommand != want || after.LastDirect != wantDirect {
		faults = append(faults, fmt.Errorf("the last commands are %q and %q, want %q and %q",
			after.LastCommand, after.LastDirect, want, wantDirect))
	}
	return errors.Join(faults...)
}

// checkWeight: weight rises only on a pass at the present weight, on a ready canary's first step, or back to what the
// canary had before it was away; and by one step of the policy at a time.
func checkWeight(before State, o Observation, after State) error {
	if after.Weight <= before.Weight {
		return nil
	}
	steps := o.Plan.steps()
	exposed := before.Phase == Starting && after.Phase == Analyzing && (o.Canary.Ready && o.Stable.takesTraffic())
	switch {
	case exposed && before.Peak == 0 && len(o.Plan.Hooks(environments.PreRollout)) > 0 && (o.Admission == nil || o.Admission.Outcome != analysis.Pass):
		return errors.New("traffic before the pre-rollout webhooks have let it")
	case exposed && before.Peak == 0 && after.Step == 0 && after.Weight == steps[0].Weight:
		return nil
	case exposed && after.Weight <= before.Peak:
		return nil
	case before.Phase == Analyzing && after.Phase == Analyzing && (passedAt(before, o) && o.Applied || before.asks(o, Advance)):
		i := slices.IndexFunc(steps, func(s Step) bool { return s.Weight > before.Weight })
		if i >= 0 && steps[i].Weight == after.Weight && after.Step == i {
			return nil
		}
	}
	return fmt.Errorf("weight rose from %d in %q to %d in %q", before.Weight, before.Phase, after.Weight, after.Phase)
}

// checkTracks: the stable track gets the release only when it has passed, or where the policy wants no judgement; and
// the canary track goes only when it has no traffic.
func checkTracks(before State, o Observation, after State) error {
	var faults []error
	skips := o.Plan.SkipAnalysis || o.Plan.Strategy == environments.StrategyRolling
	if after.Phase == Promoting && before.Phase != Promoting {
		ok := before.asks(o, AdvanceFully) || before.Phase == Starting && skips || before.Phase == Analyzing && (skips || passedAt(before, o) && o.Applied || before.asks(o, Advance))
		if !ok {
			faults = append(faults, fmt.Errorf("promoting out of %q without a pass", before.Phase))
		}
	}
	t := &turn{State: before, o: o}
	drained := before.Weight == 0 && (t.heldFor(o.Plan.drainDelay()) || t.overdue())
	if after.Drained && !before.Drained && before.Peak > 0 && !drained {
		faults = append(faults, fmt.Errorf("the canary track goes with weight %d, held since %s", before.Weight, before.StepSince))
	}
	return errors.Join(faults...)
}

func (t Track) takesTraffic() bool { return t.Available || t.Ready }

// passedAt reports whether o holds a pass that was asked an interval after the present weight was reached.
func passedAt(s State, o Observation) bool {
	v := o.Verdict
	return v != nil && v.Outcome == analysis.Pass && judged(s, o)
}

// judged reports whether o holds a verdict that was asked an interval after the present weight was reached.
func judged(s State, o Observation) bool {
	if o.Verdict == nil || s.StepSince.IsZero() {
		return false
	}
	since := s.StepSince
	if since.After(o.Now) { // the clock was set back
		since = o.Now
	}
	return !o.Verdict.At.Before(since.Add(o.Plan.interval()))
}

// checkNumbers: numbered without gaps, from the newest number before; each of them in the outbox, and none gone that the
// audit log does not hold.
func checkNumbers(before State, o Observation, after State, events []Event) error {
	var faults []error
	base, owed := before.LastSeq, len(events)
	if log, other := before.earlierIncarnation(o); other {
		base, owed = log+int64(len(before.Outbox)), owed+len(before.Outbox)
	} else {
		for _, e := range before.Outbox {
			if e.Seq > o.Recorded {
				owed++
			}
		}
	}
	if after.LastSeq != base+int64(len(events)) {
		faults = append(faults, fmt.Errorf("%d events take the number from %d to %d", len(events), base, after.LastSeq))
	}
	for i, e := range events {
		if want := base + 1 + int64(i); e.Seq != want {
			faults = append(faults, fmt.Errorf("event %s has number %d instead of %d", e.Type, e.Seq, want))
		}
	}
	if len(after.Outbox) != owed {
		faults = append(faults, fmt.Errorf("the outbox has %d events instead of %d", len(after.Outbox), owed))
	}
	return errors.Join(faults...)
}

// checkDecisions: what an event says was decided for a reason that o holds.
func checkDecisions(before State, o Observation, after State, events []Event) error {
	var faults []error
	must := func(ok bool, what string) {
		if !ok {
			faults = append(faults, errors.New(what))
		}
	}
	for _, e := range events {
		switch e.Type {
		case Promoted:
			must(before.Weight == 0 && o.Stable.takesTraffic(), "promoted before the stable track serves alone")
		case RolloutStarted:
			must(before.asks(o, Retry) || !slices.ContainsFunc(before.Rejected, func(r Rejection) bool {
				return r.Release.Digest == e.To.Digest && r.Release.Commit == e.To.Commit
			}), "a rejected release is tried again")
		case RollbackStarted:
			must(after.Following || after.Revert != nil && after.Revert.From.Digest == e.To.Digest, "git is not asked to take back what failed")
			must(slices.ContainsFunc(after.Rejected, func(r Rejection) bool { return r.Release.Digest == e.To.Digest }),
				"what failed is not remembered")
			must(before.Phase != Analyzing || failedIn(before, o) || before.asks(o, Abort) || before.asks(o, Rollback) || o.Recall != "", "rolled back and nothing had failed")
		default:
		}
	}
	return errors.Join(faults...)
}

// failedIn reports whether o holds a reason to end the analysis: a failure, not the lack of an answer.
func failedIn(s State, o Observation) bool {
	return o.Canary.Failed || !o.Canary.takesTraffic() || s.StepSince.IsZero() && (&turn{State: s, o: o}).overdue() ||
		judged(s, o) && o.Verdict.Outcome == analysis.Fail
}
