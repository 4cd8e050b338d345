package reconcile

import (
	"slices"

	"github.com/sluice-cd/sluice/render/objects"
)

// wants is what the apps of the newest commit would have in the cluster.
type wants struct {
	by map[objects.Key][]string
	// awaited is an app of which that is not known yet; empty: none.
	awaited string
	// held are apps that wait for that to be known.
	held map[string]bool
}

// stays says why an object stays in the cluster that an app no longer wants: another app of the same commit has it from now
// on, or may want it, wait, which is known as soon as that is rendered. An object that moves from one app to another is
// handed over as it stands.
func (a *Agent) stays(app string, k objects.Key) (why string, wait bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.wanted()
	if i := slices.IndexFunc(w.by[k], func(other string) bool { return other != app }); i >= 0 {
		return "app " + w.by[k][i] + " has it now", false
	}
	if w.awaited != "" && w.awaited != app {
		w.held[app] = true
		return "app " + w.awaited + " may want it, which is not rendered yet", true
	}
	return "", false
}

// wanted is computed when it is asked for, which is when something is to be deleted, and kept until something is rendered or
// read. The mutex is held.
func (a *Agent) wanted() *wants {
	if a.wants != nil {
		return a.wants
	}
	w := &wants{by: map[objects.Key][]string{}, held: map[string]bool{}}
	if a.unsynced == nil {
		w.awaited = "of a commit" // which is not read yet
	}
	for name, ap := range a.apps {
		switch {
		case ap.removed:
		case ap.awaited():
			w.awaited = name
		case ap.rendered != nil && ap.rendered.desired != nil:
			for _, o := range ap.rendered.desired.Release.Objects {
				k := objects.KeyOf(o)
				w.by[k] = append(w.by[k], name)
			}
		}
	}
	a.wants = w
	return w
}

// newWants forgets what the apps wanted, and has those looked at that wait for it. The mutex is held.
func (a *Agent) newWants() {
	if a.wants == nil {
		return
	}
	for name := range a.wants.held {
		if ap := a.apps[name]; ap != nil {
			ap.unfinished = true
			a.queue.Add(name)
		}
	}
	a.wants = nil
}
