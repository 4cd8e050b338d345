package reconcile

import "time"

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
