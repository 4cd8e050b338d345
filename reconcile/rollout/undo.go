package rollout

import (
	"fmt"
	"slices"
)

// maxServed bounds State.Served.
const maxServed = 5

// served remembers that Stable has served until now.
func (t *turn) served() {
	if t.Stable.IsZero() || t.Stable.Digest == t.Target.Digest {
		return
	}
	before := t.without(t.Target)
	t.Served = slices.Insert(before, 0, Served{Release: t.Stable, Until: t.o.Now, Plan: t.StablePlan})
	t.Served = t.Served[:min(len(t.Served), maxServed)]
}

// without is a copy of Served without a release.
func (t *turn) without(r Release) []Served {
	return slices.DeleteFunc(slices.Clone(t.Served), func(x Served) bool { return x.Release.Digest == r.Digest })
}

// HasServed reports whether a release is one of those that were stable before Stable.
func (s State) HasServed(r Release) bool { return s.servedAs(r) >= 0 }

// undo goes back to a release that served before. Out of a rollout that is Stable, as an abort does. At rest it is the one that
// served last, or the one that the command names: at once where that was within the rollback window, by a rolling update that
// nobody judges; else by the commit in git alone, and whatever the policy makes of it.
func (t *turn) undo(c Command) string {
	d := t.o.Desired
	switch {
	case t.Stable.IsZero():
		return "nothing serves yet"
	case t.Phase.trait().divertible && (c.To == "" || c.To == t.Stable.Name()) && !t.Returning:
		t.fail(c.words("rolled back"), nil)
		return ""
	case t.InFlight():
		return fmt.Sprintf("%s is under way and can only be rolled back to %s", label(t.Target), label(t.Stable))
	case !d.IsZero() && d.Digest != t.Stable.Digest:
		return fmt.Sprintf("git asks for %s while %s serves: revert that in git first", label(d), label(t.Stable))
	}
	back, ok := t.back(c.To)
	switch {
	case !ok && c.To == "":
		return "no release from before " + label(t.Stable) + " is known"
	case !ok:
		return fmt.Sprintf("%s is not one of the last %d releases that served", c.To, maxServed)
	}
	bad := t.Stable
	if !d.IsZero() {
		bad.Commit, bad.By = d.Commit, d.By
	}
	reason := c.words("rolled back")
	if t.o.Now.Sub(back.Until) > t.o.Plan.rollbackWindow() {
		t.takeBack(bad, back.Release, reason)
		t.Revert.GitFirst = true
		t.tell(RollbackRequested, fmt.Sprintf("back to %s, which served until %s: %s", label(back.Release),
			back.Until.UTC().Format("2006-01-02 15:04"), c.Reason))
		return ""
	}
	t.Rollouts++
	t.takeBack(bad, back.Release, reason)
	t.goBack(bad, back.Release, reason)
	if back.Plan != nil {
		t.Plan = back.Plan // what git says now is of what is taken back
	}
	return ""
}

// goBack begins the rolling update from what is bad, and serves, to what served before.
func (t *turn) goBack(bad, to Release, reason string) {
	t.clearRun()
	t.reject(bad, reason)
	t.Returning = true
	t.Target, t.StablePlan = to, t.Plan
	t.enter(Updating)
	t.Reason = reason
	t.record(Event{Type: RollbackStarted, Rollout: t.Rollouts, From: t.Target, To: bad, Reason: reason})
}

// takenBack reports whether git has gone back from what serves because it failed in another cluster, to what served here before, and
// not too long ago. Then that is gone back to at once: it has been judged, and what serves has failed. Of whom the commit is nobody
// has to know for that: it can bring back nothing but what has served, and only in place of what it names. Where that was begun as any
// other rollout, and has failed or was aborted, git is put back instead.
func (s State) takenBack(o Observation) bool { return s.Phase == Idle && s.takesBack(o) }

// takesBack is takenBack once nothing is under way any more.
func (s State) takesBack(o Observation) bool {
	if s.Hold != nil || s.Stable.IsZero() || o.Desired.Digest == s.Stable.Digest || s.rejected(o.Desired) {
		return false
	}
	i := s.servedAs(o.Desired)
	return o.TakenBack.Names(s.Stable) && i >= 0 && o.Now.Sub(s.Served[i].Until) <= o.Plan.rollbackWindow()
}

// Names reports whether a release is what was taken back. Clusters may render it differently; then it is known by the commit that asked
// for it.
func (b *TakenBack) Names(r Release) bool {
	return b != nil && (b.Release.Digest == r.Digest || b.Release.Commit == r.Commit && b.Release.Version == r.Version)
}

// servedAs is the place in Served of a release; -1: it is none of them.
func (s State) servedAs(r Release) int {
	return slices.IndexFunc(s.Served, func(x Served) bool { return x.Release.Digest == r.Digest })
}

// follow goes back to what git has gone back to. What is asked for is what was asked for before, by the commit of then.
func (t *turn) follow() {
	before := t.Served[t.State.servedAs(t.o.Desired)].Release
	back := t.o.Desired
	back.Commit, back.By = before.Commit, before.By
	t.Rollouts++
	t.goBack(t.Stable, back, fmt.Sprintf("%s was rolled back in %s: %s", label(t.Stable), t.o.TakenBack.Cluster, t.o.TakenBack.Reason))
	t.Following, t.Waiting, t.Override = true, "", nil
}

// back is the release to go back to: the named one, or the newest.
func (t *turn) back(name string) (Served, bool) {
	i := slices.IndexFunc(t.Served, func(x Served) bool {
		return x.Release.Digest != t.Stable.Digest && (name == "" || x.Release.Name() == name)
	})
	if i < 0 {
		return Served{}, false
	}
	return t.Served[i], true
}

// returned ends an undo: what served before serves again.
func (t *turn) returned() {
	t.record(Event{Type: RolledBack, Rollout: t.rollout(), From: t.Target, To: t.Stable, Reason: t.Reason})
	if t.Served = t.without(t.Target); len(t.Served) == 0 {
		t.Served = nil
	}
	t.Stable, t.Outcome = t.Target, RolledBack
	t.rest()
}
