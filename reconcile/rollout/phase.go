package rollout

// Phase of an app. The transition table is in Next's comment.
type Phase string

const (
	// Idle: at rest; Stable serves. With a zero Stable nothing was ever installed.
	Idle Phase = ""
	// Installing: the first install; Target is applied as the stable track and not ready yet. Never a canary.
	Installing Phase = "Installing"
	// Updating: a rolling update; the stable track gets Target and is not ready yet.
	Updating Phase = "Updating"
	// Starting: the canary track is there at weight 0 and not ready yet.
	Starting Phase = "Starting"
	// Analyzing: the canary track gets Weight percent of the traffic and is judged.
	Analyzing Phase = "Analyzing"
	// Promoting: the stable track gets Target while the canary track carries its share.
	Promoting Phase = "Promoting"
	// Draining: the stable track is Target and ready; traffic goes back to it, be it from a canary track, which is removed
	// then, or from pods of another name.
	Draining Phase = "Draining"
	// RollingBack: traffic is back on Stable (at the latest when it is available); the canary track drains and goes.
	RollingBack Phase = "RollingBack"
	// Removing: git no longer lists the app; its objects are being removed.
	Removing Phase = "Removing"
)

// Holding says whose objects a track holds.
type Holding int

// The holdings of a track.
const (
	Nothing Holding = iota
	TheStable
	TheTarget
	// TargetUntilDrained: Target's, until the State is Drained.
	TargetUntilDrained
)

// traits are what is to be known of a phase; whatever depends on the phase, here or elsewhere, asks its traits. A new phase
// is a constant and a row.
type traits struct {
	// act takes the phase's own transitions.
	act func(*turn)
	// stable and canary say which release each track holds; see State.Tracks.
	stable, canary Holding
	// rollout: it is part of a rollout, with a stable release and a target.
	rollout bool
	// divertible: the run can still take another course when git asks for something else.
	divertible bool
	// pausable: a canary is to be judged, or is; a person may keep it where it is.
	pausable bool
	// judged: checks are asked. staged: traffic goes back in stages, each of which ends by itself.
	judged, staged bool
	// rising: it may give a track traffic that the track did not have.
	rising bool
	// retains: what only Stable has stays beside Target. handsOver: it also keeps leading to the pods until those of Target are
	// ready.
	retains, handsOver bool
	// patient: there is no canary to watch over, and there may be a thousand of these at once.
	patient bool
}

// traits are the row of the phase; ok is false for a phase that is none.
func (p Phase) traits() (row traits, ok bool) {
	switch p {
	case Idle:
		return traits{act: (*turn).idle, stable: TheStable}, true
	case Installing:
		return traits{act: (*turn).installing, stable: TheTarget, rising: true, patient: true}, true
	case Updating:
		return traits{
			act: (*turn).updating, stable: TheTarget, rollout: true, divertible: true, rising: true, retains: true, handsOver: true,
			patient: true,
		}, true
	case Starting:
		return traits{act: (*turn).starting, stable: TheStable, canary: TheTarget, rollout: true, divertible: true, pausable: true, rising: true}, true
	case Analyzing:
		return traits{
			act: (*turn).analyzing, stable: TheStable, canary: TheTarget, rollout: true, divertible: true, pausable: true, judged: true, rising: true,
		}, true
	case Promoting:
		return traits{
			act: (*turn).promoting, stable: TheTarget, canary: TheTarget, rollout: true, divertible: true, retains: true, handsOver: true,
		}, true
	case Draining:
		return traits{
			act: (*turn).draining, stable: TheTarget, canary: TargetUntilDrained, rollout: true, divertible: true, staged: true,
			retains: true,
		}, true
	case RollingBack:
		return traits{act: (*turn).rollingBack, stable: TheStable, canary: TargetUntilDrained, rollout: true, staged: true}, true
	case Removing:
		return traits{act: (*turn).removing, patient: true}, true
	default:
		return traits{}, false
	}
}

// trait is the row of the phase; of one that is none, a row without traits.
func (p Phase) trait() traits {
	row, _ := p.traits()
	return row
}

// Known reports whether there is such a phase.
func (p Phase) Known() bool {
	_, ok := p.traits()
	return ok
}

// Rising reports whether the phase may give a track traffic that the track did not have.
func (p Phase) Rising() bool { return p.trait().rising }

// Retains reports whether in this phase what only Stable has stays beside the objects of Target; HandsOver, whether it also
// keeps leading to the pods until those of Target are ready.
func (p Phase) Retains() bool { return p.trait().retains }

// HandsOver is told with Retains.
func (p Phase) HandsOver() bool { return p.trait().handsOver }

// Patient reports whether the phase has no canary to watch over, so that it may be looked at less often the longer it takes.
func (p Phase) Patient() bool { return p.trait().patient }

// Holds says whose objects the phase's tracks hold, as State.Tracks tells it.
func (p Phase) Holds() (stable, canary Holding) {
	row := p.trait()
	return row.stable, row.canary
}

// Tracks are the releases that the cluster should hold in this State: on the stable track, under the chart's own
// names, and on the canary track beside it. A zero release means no such track. This is the projection's contract:
//
//	phase                          stable    canary
//	Idle                           Stable    -
//	Installing, Updating           Target    -
//	Starting, Analyzing            Stable    Target
//	Promoting, Draining            Target    Target, until Drained
//	RollingBack                    Stable    Target, until Drained
//	Removing                       -         -
func (s State) Tracks() (stable, canary Release) {
	onStable, onCanary := s.Phase.Holds()
	return s.held(onStable), s.held(onCanary)
}

func (s State) held(h Holding) Release {
	switch {
	case h == TheStable:
		return s.Stable
	case h == TheTarget, h == TargetUntilDrained && !s.Drained:
		return s.Target
	default:
		return Release{}
	}
}

// InFlight reports whether something is under way: an installation, a rollout, its end, or a removal.
func (s State) InFlight() bool { return s.Phase != Idle }
