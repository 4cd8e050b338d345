package rollout

import "time"

// Found is what the cluster tells of an app that has no State.
type Found struct {
	// Stable is the release that serves, Target one that was being installed, rolled out or removed; zero: there is none.
	Stable, Target Release
	// Lost: Sluice had delivered the app, so that there was a State once. Else another tool did.
	Lost bool
	// Canary: there are objects of a canary track.
	Canary bool
	// Revision of the newest Helm record, which no number of a rollout exceeds.
	Revision int
}

// Recover is the State of an app that has none, as far as what is found can tell, and the events that say so. What another
// tool deployed is the stable release. After a State was lost nobody knows how far a rollout had come, or how the canary had
// been judged, so the rollout is given up: Stable gets all the traffic, the canary is drained, and then Next begins anew
// what git asks for. An app that git does not list is removed, if it was Sluice that delivered it.
func Recover(f Found, removed bool, now time.Time) (State, []Event) {
	t := &turn{o: Observation{Now: now}}
	switch {
	case !f.Lost && removed:
	case !f.Lost:
		t.Stable = f.Stable
	case f.Stable.IsZero() && f.Target.IsZero():
	case removed:
		t.Stable, t.Target = f.Stable, f.Target
		t.enter(Removing)
	case f.Stable.IsZero():
		// What was being installed, or removed, is installed over what there is of it.
	default:
		t.Stable, t.Rollouts = f.Stable, int64(f.Revision)
		t.giveUp(f)
	}
	return t.State, t.events
}

// giveUp ends the rollout of which nothing is known but what is found.
func (t *turn) giveUp(f Found) {
	const reason = "its saved state is gone"
	if f.Target.IsZero() {
		t.record(Event{Type: Recovered, From: f.Stable, Reason: reason})
		return
	}
	t.Target = f.Target
	if t.Drained = !f.Canary; f.Canary {
		t.Peak = 100 // as far as anybody knows
	}
	t.Outcome = Recovered
	t.enter(RollingBack)
	t.emit(Recovered, reason+": going back to "+label(f.Stable)+", which serves", nil)
}
