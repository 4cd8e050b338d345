package rollout

import "fmt"

// redirect follows git when it asks for something else in the middle of a run, and reports whether it did.
func (t *turn) redirect() bool {
	d := t.o.Desired
	switch {
	case !t.Phase.trait().divertible || d.IsZero() || d.Digest == t.Target.Digest:
		return false
	case t.Returning && t.rejected(d):
		return false // git still asks for what a person has taken back
	case d.Digest == t.Stable.Digest:
		t.retreat(Aborted, Aborted, "git asks for "+label(t.Stable)+" again", nil)
	case t.o.FromStable == ChangePlain:
		t.retreat(Aborted, Aborted, fmt.Sprintf("git asks for the pods of %s again", label(t.Stable)), nil)
	case t.Phase == Draining:
		return false // the release is as good as promoted; what comes next is measured against it
	case t.o.FromTarget == ChangePlain && t.Weight > 0 && !t.o.Canary.Available && t.o.Stable.Available:
		return false // a canary that is away loses its traffic first
	case t.o.FromTarget == ChangePlain:
		t.Target = t.o.Desired
		t.emit(Applied, "", nil)
	case t.o.FromTarget == ChangePods && t.rejected(d):
		t.retreat(Aborted, Aborted, fmt.Sprintf("git asks for %s, which failed before", label(d)), nil)
	case t.o.FromTarget == ChangePods:
		t.supersede()
	default:
		return false
	}
	return true
}

// supersede lets a third release take the place of the one under way.
func (t *turn) supersede() {
	reason := "replaced by " + label(t.o.Desired)
	if !t.replaceable() {
		t.retreat(Superseded, Superseded, reason, nil)
		return
	}
	t.emit(Superseded, reason, nil)
	t.Outcome = Superseded
	t.begin()
}

// replaceable reports whether the third release can take over the track of the one under way as it is.
func (t *turn) replaceable() bool {
	if gates, _ := t.State.closed(t.o, AtBegin); len(gates) > 0 || t.suspended() || t.Hold != nil || t.takesBack(t.o) {
		return false
	}
	switch t.Phase {
	case Starting:
		return t.Peak == 0
	case Updating:
		// Towards a canary the stable track has to be the stable release first.
		return !t.o.Plan.Canary()
	default:
		return false
	}
}
