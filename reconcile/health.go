package reconcile

import (
	"time"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Health is how an environment stands, for whoever watches the agent.
type Health struct {
	// Apps are those that are delivered, or waited for.
	Apps int
	// Faults are the apps that can't be delivered as git says, and one more if the environment can't be read.
	Faults int
	// Untold is when the oldest event happened that git does not hold; zero: it holds all.
	Untold time.Time
}

// Health of the environment now.
func (a *Agent) Health() (h Health) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.envFault != nil {
		h.Faults++
	}
	for _, ap := range a.apps {
		if ap.gone {
			continue
		}
		h.Apps++
		if ap.fault != nil || ap.broken {
			h.Faults++
		}
		if box := ap.saved.State.Outbox; len(box) > 0 && (h.Untold.IsZero() || box[0].Time.Before(h.Untold)) {
			h.Untold = box[0].Time
		}
	}
	return h
}

// Course is how far an app's rollout is.
type Course struct {
	App string
	// Weight is the canary's share of the traffic in percent; 0 at rest.
	Weight int
	// Decided is when that was decided, or when checks of it last counted; zero before the first rollout.
	Decided time.Time
}

// Courses of all apps, in no order. They come from the saved states, so a restart or a new leader changes nothing.
func (a *Agent) Courses() []Course {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make([]Course, 0, len(a.apps))
	for name, ap := range a.apps {
		if !ap.gone {
			out = append(out, courseOf(name, ap.saved.State))
		}
	}
	return out
}

func courseOf(app string, s rollout.State) Course {
	c := Course{App: app, Weight: s.Weight, Decided: s.Since}
	if s.LastCheck.After(s.Since) {
		c.Decided = s.LastCheck
	}
	return c
}
