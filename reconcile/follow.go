package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
)

// Read takes over what a commit says. An app that can't be read keeps its course; so does everything when the
// environment as a whole can't be read.
func (a *Agent) Read(c source.Commit, err error) {
	env := c.Env
	var rewritten error
	if err == nil {
		rewritten = a.rewritten(c.Commit)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused, a.accepted = nil, ""
	if err == nil {
		if err = doubtful(c.Commit, rewritten, a.removesMost(env), a.git.Foreign()); err != nil {
			if a.accepted = a.git.Accepted(c.Commit); a.accepted != "" {
				err, a.recordedEnvFault = nil, nil // which has git hear of it, even where it never heard of the fault
			} else {
				a.refused = &c
			}
		}
	}
	if c.Snapshot != nil {
		a.freeze(c, err == nil)
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
	before := a.source.Env
	a.source = c
	a.askedUpstream(env)
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
	all := sync.OnceValue(func() string { return digestOfAll(env) })
	for i := range env.Apps {
		in := &env.Apps[i]
		listed[in.Name] = true
		ap := a.apps[in.Name]
		if ap == nil {
			ap = &app{name: in.Name}
			a.apps[in.Name] = ap
		}
		ap.all = all
		a.reopened(ap, gatekeepingOf(before, ap.input), gatekeepingOf(env, in))
		ruled := samePolicy && ap.input != nil && ap.input.Rollout.Equal(in.Rollout)
		if ruled && ap.answered(in) && ap.input.Fault == nil && in.Fault == nil && !ap.rejected() {
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

// readAgain looks again at the newest commit that could be read: what stands against it may have changed.
func (a *Agent) readAgain() {
	a.mu.Lock()
	c, known := a.source, a.source.Snapshot != nil && a.envFault == nil
	if a.refused != nil {
		c, known = *a.refused, true
	}
	a.mu.Unlock()
	if known {
		a.Read(c, nil)
	}
}

// doubtful is the fault of a commit that waits for a person, for these reasons; nil: there is none. Nothing of such a commit is
// delivered until somebody accepts it or the reasons are gone.
func doubtful(commit string, reasons ...error) error {
	why := errors.Join(reasons...)
	if why == nil {
		return nil
	}
	return fmt.Errorf("commit %.10s is not delivered: %s; fix it, or if it is intended run sluice accept --all --to %.10s",
		commit, strings.ReplaceAll(why.Error(), "\n", ", and "), commit)
}

// rewritten doubts a commit that does not descend from the one delivered last: somebody has forced another history upon the
// branch, which may be an old one, or anybody's.
func (a *Agent) rewritten(commit string) error {
	a.mu.Lock()
	last := ""
	if a.source.Snapshot != nil {
		last = a.source.Commit
	}
	a.mu.Unlock()
	return a.git.Rewritten(commit, last)
}

// fewRemoved is how many apps a commit may take off the list whatever share they are of all.
const fewRemoved = 2

// removesMost doubts an environment that no longer lists most of the apps that are delivered, or any of several: a file that was
// cut off, or moved, looks just like that, and would take everything down. The mutex is held.
func (a *Agent) removesMost(env *environments.Environment) error {
	if env.Incomplete != nil { // it removes nothing anyway
		return nil //nolint:nilerr // told elsewhere
	}
	listed := make(map[string]bool, len(env.Apps))
	for i := range env.Apps {
		listed[env.Apps[i].Name] = true
	}
	delivered := 0
	var lost []string
	for name, ap := range a.apps {
		s := ap.saved.State
		if ap.removed || s.Phase == rollout.Removing || s.Stable.IsZero() && !s.InFlight() {
			continue
		}
		delivered++
		if !listed[name] {
			lost = append(lost, name)
		}
	}
	switch n := len(lost); {
	case n > 1 && len(listed) == 0:
		return fmt.Errorf("it lists no app, and %d are delivered", delivered)
	case n > fewRemoved && 2*n > delivered:
		slices.Sort(lost)
		return fmt.Errorf("it removes %d of the %d apps that are delivered: %s", n, delivered, some(lost))
	}
	return nil
}

// some of a list's names, and how many more there are.
func some(names []string) string {
	const shown = 5
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
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
