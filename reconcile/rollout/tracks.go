package rollout

import "fmt"

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
	switch s.Phase {
	case Idle:
		return s.Stable, Release{}
	case Installing, Updating:
		return s.Target, Release{}
	case Starting, Analyzing:
		return s.Stable, s.Target
	case Promoting, Draining:
		return s.Target, s.present(s.Target)
	case RollingBack:
		return s.Stable, s.present(s.Target)
	default:
		return Release{}, Release{}
	}
}

// present is r as long as the canary track is there.
func (s State) present(r Release) Release {
	if s.Drained {
		return Release{}
	}
	return r
}

// InFlight reports whether something is under way: an installation, a rollout, its end, or a removal.
func (s State) InFlight() bool { return s.Phase != Idle }

// RolloutID names the app's present or last rollout, as "croc-hunter-java/7"; empty before the first.
func (s State) RolloutID(app string) string { return rolloutID(app, s.Rollouts) }

// RolloutID names the rollout that the event belongs to; empty outside one.
func (e Event) RolloutID(app string) string { return rolloutID(app, e.Rollout) }

func rolloutID(app string, n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s/%d", app, n)
}
