package rollout

import "time"

// CheckDue reports whether the metrics of o.Governing are to be asked at an instant: an interval has passed since the
// cluster was first seen to hold the present weight, and since the last check.
func (s State) CheckDue(o Observation, at time.Time) bool {
	due := s.nextCheck(o.Governing(s))
	return !due.IsZero() && !at.Before(due)
}

// nextCheck is when the next check counts; zero: none does in this State.
func (s State) nextCheck(p Plan) time.Time {
	if !s.Phase.trait().judged || s.StepSince.IsZero() {
		return time.Time{}
	}
	return latest(s.StepSince, s.LastCheck).Add(p.interval())
}

// Due is the next instant at which time alone may change Next's answer to o, or at which a check is due; zero when
// there is none, as at rest. One that is not after o.Now is a check that CheckDue reports too.
func (s State) Due(o Observation) time.Time {
	o = o.fit(s)
	t := &turn{State: s, o: o}
	row := s.Phase.trait()
	check := s.nextCheck(o.Plan)
	switch {
	case !s.Phase.Known():
		return time.Time{}
	case !s.InFlight():
		return t.ahead(t.gateChanges()...)
	case !check.IsZero():
		return check
	case row.staged:
		return t.ahead(t.stageEnd(), t.deadlineAt())
	default:
		return t.ahead(append(t.gateChanges(), t.deadlineAt())...)
	}
}

// stageEnd is when the present weight, or the lack of it, has been held for long enough; zero: not in this stage.
func (t *turn) stageEnd() time.Time {
	switch {
	case t.StepSince.IsZero() || t.Drained:
		return time.Time{}
	case t.Weight == 0:
		return t.StepSince.Add(t.o.Plan.drainDelay())
	case t.Phase == Draining:
		return t.StepSince.Add(t.o.Plan.interval())
	default:
		return time.Time{}
	}
}

// ahead is the first of the instants that is still to come; zero: none.
func (t *turn) ahead(instants ...time.Time) time.Time {
	var first time.Time
	for _, at := range instants {
		if at.After(t.o.Now) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// heldFor reports whether the cluster has been seen to hold the present phase and weight for d.
func (t *turn) heldFor(d time.Duration) bool {
	return !t.StepSince.IsZero() && !t.o.Now.Before(t.StepSince.Add(d))
}

// overdue reports whether the progress deadline has passed: since the phase, or its stage, began; since the cluster
// was first seen to hold it; and since the cluster last came back.
func (t *turn) overdue() bool {
	return !t.o.Now.Before(t.deadlineAt())
}

func (t *turn) deadlineAt() time.Time {
	watched := t.o.WatchedSince
	if watched.After(t.o.Now) { // the clock was set back
		watched = time.Time{}
	}
	return latest(t.Since, t.StepSince, watched).Add(t.deadline())
}

func (t *turn) deadline() time.Duration { return t.o.Plan.deadline() }

func latest(first time.Time, more ...time.Time) time.Time {
	for _, at := range more {
		if at.After(first) {
			first = at
		}
	}
	return first
}
