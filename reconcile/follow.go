package reconcile

import (
	"context"
	"fmt"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/source"
)

// historyLimit is how far back the commit that asked for a release is looked for. Past it the oldest commit
// looked at is named instead.
const historyLimit = 500

// follow reads the branch whenever it moves.
func (a *Agent) follow(ctx context.Context) error {
	return a.poller.Run(ctx, func(s *gitsync.Snapshot, err error) {
		if err != nil {
			a.log.Warn("reading the branch", "error", err)
			return
		}
		a.read(s)
	})
}

// read takes over what a commit says. An app that can't be read keeps its course; so does everything when the
// environment as a whole can't be read.
func (a *Agent) read(s *gitsync.Snapshot) {
	env, err := a.loader.Load(s.FS(), a.cfg.Path)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		err = a.emptied(env)
	}
	a.envFault = err
	if err != nil {
		a.log.Error("environment can't be read", "commit", s.Commit, "error", err)
		a.tellGit()
		return
	}
	// Policies are no part of an app's digest: another threshold is no other release.
	samePolicy := a.source.Env != nil && a.source.Env.Rollout.Equal(env.Rollout)
	a.source = source.Commit{Snapshot: s, Env: env}
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
		if ruled && ap.input.Digest == in.Digest && ap.input.Fault == nil && in.Fault == nil && !ap.rejected() {
			ap.input = in
			continue
		}
		if !ruled || ap.rejected() {
			// The same release under another policy; or again, which may be another commit asking for it: then that
			// commit is looked up anew.
			ap.asked = desired{}
		}
		ap.input, ap.removed, ap.gone = in, false, false
		if first {
			a.unsynced[in.Name] = true
		}
		a.queue.Add(in.Name)
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
		"app in the list (to remove all, leave one, and take that away in a commit of its own)", delivered)
}

// helmName is the name of an app's Helm records: its release name, unless it shares that with others, as all apps of
// a Jenkins X environment share "jx". It is asked for once, when the app is new. The mutex is held.
func (a *Agent) helmName(app *environments.App) string {
	if a.releaseNames[app.ReleaseName] > 1 {
		return app.Name
	}
	return app.ReleaseName
}

// rejected reports whether git's last known wish was turned down.
func (ap *app) rejected() bool {
	for _, r := range ap.saved.State.Rejected {
		if r.Release.Digest == ap.asked.id.Digest {
			return true
		}
	}
	return false
}

// cause finds the commit that asked for what git says of an app now: the newest one that changed it, looking
// back from tip as far as stop.
func (a *Agent) cause(ctx context.Context, name, tip, stop string) (string, error) {
	same := func(s, parent *gitsync.Snapshot) (bool, error) {
		d, err := a.diffs.between(ctx, s, parent)
		return !d.has(name), err
	}
	c, err := a.repo.LastChange(ctx, tip, stop, historyLimit, same)
	if err != nil {
		return "", fmt.Errorf("looking for the commit that asked for %s: %w", name, err)
	}
	return c, nil
}

// diffs remembers which apps a commit changed, so that a thousand apps that look for their commits do not read the
// same history a thousand times. It is safe for concurrent use.
type diffs struct {
	// apps are the digests of a commit's apps by name, nil for a commit that can't be read.
	apps func(*gitsync.Snapshot) map[string]string

	// turn has room for one: whoever compares two commits. It is no mutex, for reading a large environment takes a while,
	// and who waits for that may be called off.
	turn  chan struct{}
	known map[[2]string]diff
	// last is what between has read last: a walk meets each commit twice.
	last     string
	lastApps map[string]string
}

// diff is the set of apps that differ between a commit and its parent.
type diff struct {
	// all: one of the two can't be read, and so says nothing of any app.
	all  bool
	apps map[string]bool
}

func (d diff) has(app string) bool { return d.all || d.apps[app] }

// keptDiffs are more than two walks meet.
const keptDiffs = 4 * historyLimit

// between returns an error only when ctx is done.
func (d *diffs) between(ctx context.Context, s, parent *gitsync.Snapshot) (diff, error) {
	select {
	case d.turn <- struct{}{}:
		defer func() { <-d.turn }()
	case <-ctx.Done():
		return diff{}, ctx.Err()
	}
	key := [2]string{s.Commit, parent.Commit}
	if known, ok := d.known[key]; ok {
		return known, nil
	}
	if err := ctx.Err(); err != nil {
		return diff{}, err
	}
	if d.known == nil || len(d.known) >= keptDiffs {
		d.known = map[[2]string]diff{}
	}
	child := d.lastApps
	if d.last != s.Commit {
		child = d.apps(s)
	}
	d.last, d.lastApps = parent.Commit, d.apps(parent)
	found := compareApps(child, d.lastApps)
	d.known[key] = found
	return found, nil
}

func compareApps(x, y map[string]string) diff {
	if x == nil || y == nil {
		return diff{all: (x == nil) != (y == nil)}
	}
	found := diff{apps: map[string]bool{}}
	for name, digest := range x {
		if y[name] != digest {
			found.apps[name] = true
		}
	}
	for name, digest := range y {
		if x[name] != digest {
			found.apps[name] = true
		}
	}
	return found
}

// digests of what a commit says of each app.
func (a *Agent) digests(s *gitsync.Snapshot) map[string]string {
	env, err := a.loader.Load(s.FS(), a.cfg.Path)
	if err != nil {
		return nil
	}
	out := make(map[string]string, len(env.Apps))
	for i := range env.Apps {
		out[env.Apps[i].Name] = env.Apps[i].Digest
	}
	return out
}
