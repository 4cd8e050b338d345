package reconcile

import (
	"fmt"
	"slices"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
)

// Read takes over what a commit says. An app that can't be read keeps its course; so does everything when the
// environment as a whole can't be read.
func (a *Agent) Read(c source.Commit, err error) {
	env := c.Env
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused, a.accepted = nil, ""
	if err == nil {
		if err = a.emptied(env); err != nil {
			if a.accepted = a.git.Accepted(c.Commit); a.accepted != "" {
				err = nil
			} else {
				a.refused = &c
			}
		}
	}
	known := text(a.envFault)
	a.envFault = err
	if err != nil {
		if known == err.Error() {
			return
		}
		a.log.Error("environment can't be read", "commit", c.Commit, "error", err)
		a.tellGit()
		return
	}
	// Policies are no part of an app's digest: another threshold is no other release.
	samePolicy := a.source.Env != nil && a.source.Env.Rollout.Equal(env.Rollout)
	a.source = c
	defer a.newWants()
	first := a.unsynced == nil
	if first {
		a.unsynced = map[string]bool{}
	}
	a.releaseNames = make(map[string]int, len(env.Apps))
	for i := range env.Apps {
		a.releaseNames[env.Apps[i].ReleaseName]++
	}
	listed := make(map[string]bool, len(env.Apps))
	for i := range env.Apps {
		in := &env.Apps[i]
		listed[in.Name] = true
		ap := a.apps[in.Name]
		if ap == nil {
			ap = &app{name: in.Name}
			a.apps[in.Name] = ap
		}
		ruled := samePolicy && ap.input != nil && ap.input.Rollout.Equal(in.Rollout)
		if ruled && ap.rendered.answers(in) && ap.input.Fault == nil && in.Fault == nil && !ap.rejected() {
			ap.input = in
			continue
		}
		if !ruled || ap.rejected() {
			// The same release under another policy; or again, which may be another commit asking for it: then that
			// commit is looked up anew.
			ap.rendered = nil
		}
		ap.input, ap.removed, ap.gone, ap.tries = in, false, false, 0
		if first {
			a.unsynced[in.Name] = true
		}
		a.renders.Urge(in.Name)
	}
	for name, ap := range a.apps {
		// Where an entry can't be read nobody knows which app it meant to keep.
		if !listed[name] && !ap.removed && env.Incomplete == nil {
			ap.input, ap.removed = nil, true
			a.queue.Add(name)
		}
	}
	a.tellGit()
}

// emptied refuses an environment that lists no app where several are delivered: a file that was cut off, or moved, looks
// just like that, and would take everything down. The mutex is held.
func (a *Agent) emptied(env *environments.Environment) error {
	if len(env.Apps) > 0 || env.Incomplete != nil { // an incomplete one removes nothing anyway
		return nil //nolint:nilerr // told elsewhere
	}
	delivered := 0
	for _, ap := range a.apps {
		if s := ap.saved.State; !ap.removed && (!s.Stable.IsZero() || s.InFlight()) {
			delivered++
		}
	}
	if delivered < 2 {
		return nil
	}
	return fmt.Errorf("the environment lists no app, and %d are delivered: nothing is removed for that; expected at least one "+
		"app in the list (to remove all, run sluice accept --all)", delivered)
}

// helmName is the name of an app's Helm records: its release name, unless it shares that with others, as all apps of
// a Jenkins X environment share "jx". It is asked for once, when the app is new. The mutex is held.
func (a *Agent) helmName(app *environments.App) string {
	if a.releaseNames[app.ReleaseName] > 1 {
		return app.Name
	}
	return app.ReleaseName
}

// rejected reports whether what git was last known to ask for was turned down.
func (ap *app) rejected() bool {
	if ap.rendered == nil || ap.rendered.desired == nil {
		return false
	}
	return slices.ContainsFunc(ap.saved.State.Rejected, func(r rollout.Rejection) bool {
		return r.Release.Digest == ap.rendered.desired.ID.Digest
	})
}
