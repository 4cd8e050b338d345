package rollout

import (
	"errors"
	"fmt"

	"github.com/sluice-cd/sluice/analysis"
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
	switch s.Phase {
	case Idle:
		must(s.Target.IsZero(), "a target at rest")
	case Installing:
		must(s.Stable.IsZero() && !s.Target.IsZero(), "installing takes a target and no stable release")
	case Updating, Starting, Analyzing, Promoting, Draining, RollingBack:
		must(!s.Stable.IsZero() && !s.Target.IsZero(), "%s takes a stable release and a target", s.Phase)
		must(s.Rollouts > 0, "%s outside a rollout", s.Phase)
	case Removing:
	default:
		must(false, "unknown phase %q", s.Phase)
	}
	must(s.Weight >= 0 && s.Weight <= s.Peak && s.Peak <= 100, "weight %d, peak %d", s.Weight, s.Peak)
	must(s.Weight == 0 || !s.canaryOrNone().IsZero(), "weight %d without a canary track", s.Weight)
	must(s.Phase != Starting || s.Weight == 0, "weight %d before the canary is ready", s.Weight)
	must(s.Phase != Analyzing || s.Weight > 0, "analyzing without traffic")
	must(!s.Drained || s.Phase == Draining || s.Phase == RollingBack, "drained in %s", s.Phase)
	must(s.Step >= 0 && s.FailedChecks >= 0 && s.InconclusiveChecks >= 0, "a negative counter")
	must(len(s.Rejected) <= maxRejected, "%d rejected releases", len(s.Rejected))
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
	return errors.Join(Check(after), checkWeight(before, o, after), checkEvents(before, o, after, events))
}

// checkWeight: weight rises only on a pass at the present weight, on a ready canary's first step, or back to what the
// canary had before it was away.
func checkWeight(before State, o Observation, after State) error {
	if after.Weight <= before.Weight {
		return nil
	}
	switch {
	case before.Phase == Starting && after.Phase == Analyzing && before.Peak == 0 && o.Canary.Ready && after.Step == 0:
		return nil
	case before.Phase == Starting && after.Phase == Analyzing && after.Weight <= before.Peak && o.Canary.Ready:
		return nil
	case before.Phase == Analyzing && after.Phase == Analyzing && passedAt(before, o):
		return nil
	default:
		return fmt.Errorf("weight rose from %d in %q to %d in %q", before.Weight, before.Phase, after.Weight, after.Phase)
	}
}

// passedAt reports whether o holds a pass that was asked an interval after the present weight was reached.
func passedAt(s State, o Observation) bool {
	v := o.Verdict
	if v == nil || v.Outcome != analysis.Pass || s.StepSince.IsZero() {
		return false
	}
	since := s.StepSince
	if since.After(o.Now) { // the clock was set back
		since = o.Now
	}
	return !v.At.Before(since.Add(interval(o.Policy)))
}

// checkEvents: numbered without gaps, from the newest number before; each of them in the outbox; a promotion only by
// a ready stable track, without traffic on the canary.
func checkEvents(before State, o Observation, after State, events []Event) error {
	var faults []error
	base := before.LastSeq
	if o.Recorded > base {
		base = o.Recorded + int64(len(before.Outbox))
	}
	if after.LastSeq != base+int64(len(events)) {
		faults = append(faults, fmt.Errorf("%d events take the number from %d to %d", len(events), base, after.LastSeq))
	}
	for i, e := range events {
		if want := base + 1 + int64(i); e.Seq != want {
			faults = append(faults, fmt.Errorf("event %s has number %d instead of %d", e.Type, e.Seq, want))
		}
		if e.Type == Promoted && (before.Weight != 0 || !o.Stable.Available && !o.Stable.Ready) {
			faults = append(faults, errors.New("promoted before the stable track serves alone"))
		}
	}
	if len(after.Outbox) < len(events) {
		faults = append(faults, errors.New("an event is missing from the outbox"))
	}
	return errors.Join(faults...)
}
