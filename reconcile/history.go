package reconcile

import (
	"context"
	"fmt"

	"github.com/sluice-cd/sluice/gitsync"
)

// historyLimit is how far back the commit that asked for a release is looked for. Past it the oldest commit
// looked at is named instead.
const historyLimit = 500

// Cause finds the commit that asked for what git says of an app now: the newest one that changed it, looking
// back from tip as far as stop.
func (r *Repository) Cause(ctx context.Context, name, tip, stop string) (string, error) {
	same := func(s, parent *gitsync.Snapshot) (bool, error) {
		d, err := r.diffs.between(ctx, s, parent)
		return !d.has(name), err
	}
	c, err := r.repo.LastChange(ctx, tip, stop, historyLimit, same)
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
func (r *Repository) digests(s *gitsync.Snapshot) map[string]string {
	env, err := r.environment(s)
	if err != nil {
		return nil
	}
	out := make(map[string]string, len(env.Apps))
	for i := range env.Apps {
		out[env.Apps[i].Name] = env.Apps[i].Digest
	}
	return out
}
