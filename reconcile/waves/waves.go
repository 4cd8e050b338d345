// Package waves holds a release back until the clusters of the waves before this one have it.
//
// Closed decides, and is pure. A Follower reads what those clusters say on their status branches, while an app waits for them.
package waves

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/clusters"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Closed says why a release of an app has to wait for the clusters of the waves before, and when time alone may change that; empty:
// it need not. all is what the environment's clusters say.
//
// A cluster is through with a release when it is at rest with it, and nothing is wrong there. Clusters agree on a release by the commit
// that asked for it, or by what is rendered: a cluster that was off names a later commit for the same objects, and where clusters
// render for themselves the commit is the same.
func Closed(before environments.Waves, all []clusters.Cluster, app string, wanted rollout.Release, now time.Time) (reason string, next time.Time) {
	for i, wave := range before {
		var missing []string
		var last time.Time
		for _, name := range wave.Clusters {
			since, lacks := serves(all, name, app, wanted)
			if lacks != "" {
				missing = append(missing, name+": "+lacks)
			}
			if since.After(last) {
				last = since
			}
		}
		if len(missing) > 0 {
			return fmt.Sprintf("wave %d waits for %s", len(before)+1, strings.Join(missing, "; ")), time.Time{}
		}
		if ripe := last.Add(wave.Soak); now.Before(ripe) {
			return fmt.Sprintf("wave %d waits until wave %d has served %s for %s, at %s", len(before)+1, i+1, wanted.Version, wave.Soak,
				ripe.UTC().Format(time.RFC3339)), ripe
		}
	}
	return "", time.Time{}
}

// serves says since when a cluster serves a release, or what it lacks for that, in its own words.
func serves(all []clusters.Cluster, name, app string, wanted rollout.Release) (since time.Time, lacks string) {
	i := slices.IndexFunc(all, func(c clusters.Cluster) bool { return c.Name == name })
	if i < 0 {
		return time.Time{}, "it has no status branch: its agent has never written"
	}
	c := all[i]
	r, known := c.Record(app)
	lastWord := func(t time.Time) string { return "last heard of at " + t.UTC().Format(time.RFC3339) }
	switch {
	case c.Fault != nil:
		return time.Time{}, "what it says can't be read: " + c.Fault.Error()
	case c.Status.Fault != "":
		return time.Time{}, "it can't read the environment: " + c.Status.Fault
	case !known:
		return time.Time{}, fmt.Sprintf("it says nothing of %s, and %s", app, lastWord(c.Said))
	case r.Fault != "":
		return time.Time{}, "it can't deliver: " + r.Fault
	case rejects(r, wanted):
		return time.Time{}, fmt.Sprintf("it has rolled %s back", wanted.Name())
	case is(r.Target, wanted):
		return time.Time{}, course(r)
	case !is(r.Serves, wanted):
		return time.Time{}, notYet(r, wanted) + "; " + lastWord(r.Updated)
	case r.Target != (audit.Release{}):
		return time.Time{}, fmt.Sprintf("it is going from %s to %s", wanted.Name(), r.Target.Name())
	case r.Degraded != "":
		return time.Time{}, "it is degraded: " + r.Degraded
	default:
		return r.Since, ""
	}
}

// is reports whether what a cluster tells of is a release that is wanted here.
func is(told audit.Release, wanted rollout.Release) bool {
	return told.Digest != "" && told.Digest == wanted.Digest ||
		told.Commit != "" && told.Commit == wanted.Commit && told.Version == wanted.Version
}

func rejects(r audit.Record, wanted rollout.Release) bool {
	return !is(r.Serves, wanted) && !is(r.Target, wanted) &&
		slices.ContainsFunc(r.Rejected, func(x audit.Rejection) bool { return x.Release.Commit == wanted.Commit && is(x.Release, wanted) })
}

// course is how far a cluster is with the release.
func course(r audit.Record) string {
	text := r.Phase
	if r.Weight > 0 {
		text += " at " + rollout.Percent(r.Weight)
	}
	switch {
	case r.Degraded != "":
		text += ", degraded: " + r.Degraded
	case r.Stalled != "":
		text += ", stalled: " + r.Stalled
	case r.Paused != "":
		text += ", paused by " + r.Paused
	}
	return text
}

// notYet is what keeps a cluster from beginning with a release, as far as it says so.
func notYet(r audit.Record, wanted rollout.Release) string {
	switch {
	case r.Held != "":
		return "it is held by " + r.Held
	case r.Target != (audit.Release{}):
		return "it is rolling out " + r.Target.Name()
	case r.Waiting != "":
		return "it is waiting: " + r.Waiting
	case r.Serves.Name() == "":
		return "it serves nothing yet"
	case r.Serves.Name() == wanted.Name():
		return fmt.Sprintf("it serves another release of %s", wanted.Name())
	default:
		return "it serves " + r.Serves.Name()
	}
}
