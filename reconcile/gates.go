package reconcile

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/environments/windows"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
)

// The gates of the clock and of the freeze.
const (
	windowGate = "window"
	freezeGate = "freeze"
)

// everyMoment is when whatever is not a rollback may be stopped.
var everyMoment = []rollout.Moment{rollout.AtBegin, rollout.AtApply, rollout.AtStep, rollout.AtPromotion}

// gatesOf are an app's: those of the configuration, its windows and those of its environment, and the freeze. The mutex is held.
func (a *Agent) gatesOf(ap *app, now time.Time) []rollout.Gate {
	var gates []rollout.Gate
	if a.cfg.Gates != nil {
		var waves environments.Waves
		if a.source.Env != nil {
			waves = a.source.Env.Waves
		}
		gates = a.cfg.Gates(ap.name, waves, ap.wanted())
	}
	if a.frozen != nil {
		gates = append(gates, closed(freezeGate, *a.frozen)...)
	}
	if a.source.Env == nil {
		// Git has not been read since the agent began. What was closed when it last looked stays closed.
		for name := range strings.SplitSeq(ap.saved.State.Waiting, ", ") {
			if name == windowGate || name == freezeGate && a.frozen == nil {
				gates = append(gates, closed(name, "git has not been read yet")...)
			}
		}
	} else {
		gates = append(gates, closedBy(a.source.Env.Windows, now)...)
	}
	if ap.input != nil {
		gates = append(gates, closedBy(ap.input.Windows, now)...)
	}
	return gates
}

// wanted is the release that the app would begin with, if it is not one to go back to: zero where there is none. What served here
// before counts as that unless it is a newer version than what does now, and so does what a
// rollback commit asks for in place of what serves.
func (ap *app) wanted() rollout.Release {
	if !ap.answered(ap.input) || ap.rendered.desired == nil {
		return rollout.Release{}
	}
	r, s := ap.rendered.desired.ID, ap.saved.State
	if !s.Awaits(r) || ap.rendered.desired.TakenBack.Names(s.Stable) || s.HasServed(r) && !environments.Older(s.Stable.Name(), r.Name()) {
		return rollout.Release{}
	}
	return r
}

// closed are the gates of one name that stop everything.
func closed(name, reason string) []rollout.Gate {
	gates := make([]rollout.Gate, len(everyMoment))
	for i, at := range everyMoment {
		gates[i] = rollout.Gate{Name: name, At: at, Reason: reason, Overridable: true}
	}
	return gates
}

// closedBy are the gates of windows that are closed.
func closedBy(s *windows.Set, now time.Time) []rollout.Gate {
	state := s.At(now)
	if state.Open {
		return nil
	}
	gates := closed(windowGate, state.Reason)
	for i := range gates {
		gates[i].NextChange = state.Next
	}
	if s.Overrun == windows.Finish {
		gates = slices.DeleteFunc(gates, func(g rollout.Gate) bool { return g.At == rollout.AtStep || g.At == rollout.AtPromotion })
	}
	return gates
}

// freeze takes over whether a commit freezes the environment. One that is not delivered can freeze it, and not end that. The mutex
// is held.
func (a *Agent) freeze(c source.Commit, delivered bool) {
	was := a.frozen
	switch {
	case c.Frozen:
		a.frozen = &c.Reason
	case delivered:
		a.frozen = nil
	}
	if (was == nil) == (a.frozen == nil) {
		return
	}
	a.log.Info("the environment's freeze has changed", "frozen", a.frozen != nil, "reason", c.Reason, "commit", c.Commit)
	for name, ap := range a.apps {
		if ap.saved.State.Waiting != "" {
			a.queue.Urge(name)
		}
	}
}

// reopened has an app looked at that waits, where its gates are others than before: it may wait for one that is open now. The mutex
// is held.
func (a *Agent) reopened(ap *app, before, after gatekeeping) {
	if ap.saved.State.Waiting != "" && !reflect.DeepEqual(before, after) {
		a.queue.Urge(ap.name)
	}
}

// gatekeeping is what git says of the gates of an app.
type gatekeeping struct {
	environment, app *windows.Set
	waves            environments.Waves
}

func gatekeepingOf(env *environments.Environment, app *environments.App) (g gatekeeping) {
	if env != nil {
		g.environment, g.waves = env.Windows, env.Waves
	}
	if app != nil {
		g.app = app.Windows
	}
	return g
}
