package rollout

// Found is what the cluster tells of an app that has no State.
type Found struct {
	// Stable is the release that serves, Target one that was being installed, rolled out or removed; zero: there is none.
	Stable, Target Release
	// Plan by which users are led: Stable's or, where there is none, Target's. Nil: it is not known, but by git asking for it now.
	Plan *Plan
	// Lost: Sluice had delivered the app, so that there was a State once. Else another tool did.
	Lost bool
	// Removing: Target was being removed.
	Removing bool
	// Canary: there are objects of a canary track.
	Canary bool
	// Revision of the newest Helm record, which no number of a rollout exceeds.
	Revision int
}

// Recover is the State of an app that has none, as far as what is found can tell, and the events that say so. What another
// tool deployed is the stable release. After a State was lost nobody knows how far a rollout had come, or how the canary had
// been judged, so the rollout is given up: Stable gets all the traffic, the canary is drained, and then Next begins anew
// what git asks for. An install, or a removal, goes on. An app that git does not list is removed, if it was Sluice that
// delivered it.
//
// Of the observation it takes Removed, Now, the Plan, by which webhooks are to be told, and how far the audit log is, after whose
// events these are numbered.
func Recover(f Found, o Observation) (State, []Event) {
	const reason = "its saved state is gone"
	t := &turn{o: o}
	if f.Lost {
		t.Rollouts, t.LastSeq = int64(f.Revision), max(o.Recorded, o.Ahead)
	}
	switch {
	case !f.Lost && o.Removed:
	case !f.Lost:
		t.Stable = f.Stable
	case f.Stable.IsZero() && f.Target.IsZero():
	case o.Removed || f.Removing:
		t.Stable, t.Target = f.Stable, f.Target
		t.enter(Removing)
	case f.Stable.IsZero():
		t.Target, t.Plan = f.Target, f.Plan
		t.enter(Installing)
		t.emit(InstallStarted, reason, nil)
	case f.Target.IsZero():
		t.Stable, t.Plan = f.Stable, f.Plan
		t.record(Event{Type: Recovered, From: f.Stable, Reason: reason})
	default:
		t.Stable, t.Target = f.Stable, f.Target
		t.StablePlan = f.Plan
		t.giveUp(f.Canary, reason)
	}
	return t.State, t.events
}

// giveUp ends the rollout of which nothing is known but what is found.
func (t *turn) giveUp(canary bool, reason string) {
	if t.Drained = !canary; canary {
		t.Peak = 100 // as far as anybody knows
	}
	t.Outcome = Recovered
	t.enter(RollingBack)
	t.emit(Recovered, reason+": going back to "+label(t.Stable)+", which serves", nil)
}
