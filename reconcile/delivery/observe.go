package delivery

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

const (
	// inFlightPoll is how long a rollout goes without being looked at when nothing else calls for a look. Watches bring
	// the news; this bounds the harm of one that was missed.
	inFlightPoll = 10 * time.Second
	// unapplied is how long a check that is due waits for a cluster that is not as desired.
	unapplied = 5 * time.Second
	// slowPoll is the same for what has been under way for long and brings no news.
	slowPoll = 30 * time.Second
)

// observation gathers what Next may know but the verdict, which takes longest.
func (l *look) observation(ctx context.Context, seen Seen) (rollout.Observation, error) {
	s := l.state
	o := rollout.Observation{
		Now: l.Now(), Removed: l.Removed, Recorded: l.Recorded, Ahead: l.Ahead, Reverted: l.Reverted, WatchedSince: l.WatchedSince,
		Applied: seen.Applied, Exposed: seen.Exposed, Stable: seen.Stable, Canary: seen.Canary, Commands: l.Commands, Direct: l.Direct,
		Gates: l.Gates,
	}
	if s.Plan != nil {
		o.Plan = *s.Plan
	}
	if l.Desired != nil && !l.Removed {
		o.Desired, o.Plan, o.TakenBack = l.Desired.ID, l.Desired.Plan, l.Desired.TakenBack
		var err error
		if o.FromStable, err = l.change(ctx, s.Stable); err != nil {
			return o, err
		}
		if o.FromTarget, err = l.change(ctx, s.Target); err != nil {
			return o, err
		}
	}
	return o, nil
}

// check adds the verdict to an observation, if one is due. It waits for a cluster that is not as desired, as after a hand
// edit, but not for long: an object that can't be applied must not keep a failing canary from being judged.
func (l *look) check(ctx context.Context, d project.Desired, o *rollout.Observation) {
	due := o.Now
	if !o.Applied {
		due = due.Add(-unapplied)
	}
	if !l.state.CheckDue(*o, due) {
		return
	}
	p := o.Governing(l.state)
	v := l.judge(ctx, d, p)
	if hooks, all := l.hookResults(p); len(hooks) > 0 || !all {
		v = analysis.Sum(append(hooks, v.Results...), v.At)
		if !all && v.Outcome != analysis.Fail {
			return // the rest of the answers may be bad; what they hold up is this app's
		}
	}
	// Next trusts no verdict from its future, so the clock is read again.
	o.Verdict, o.Now = &v, l.Now()
}

// change is how far what git asks for is from a release.
func (l *look) change(ctx context.Context, r rollout.Release) (rollout.Change, error) {
	if r.IsZero() {
		return rollout.ChangePods, nil
	}
	if r.Digest == l.Desired.ID.Digest {
		return rollout.ChangeNone, nil
	}
	objs, err := l.objects(ctx, r)
	if err != nil {
		return "", err
	}
	if c := project.Compare(objs, l.Desired.Release.Objects); c != rollout.ChangeNone {
		return c, nil
	}
	return rollout.ChangePlain, nil
}

// judge asks every check of the plan about the canary, all at the same instant. Checks that can't be asked have no
// answer, which holds the weight and never promotes.
func (l *look) judge(ctx context.Context, d project.Desired, p rollout.Plan) analysis.Verdict {
	checks, err := Checks(p, analysis.Vars{
		Namespace: l.app.Namespace, Target: d.CanaryName, Service: d.Service, Name: l.app.Name, Anywhere: l.AnyQuery,
	})
	at := l.Now()
	if err != nil {
		return analysis.Verdict{
			Outcome: analysis.Inconclusive, At: at, Reason: fmt.Sprintf("preparing the checks of %s: %v", l.app.Name, err),
		}
	}
	return analysis.Evaluate(checks, l.Metrics.Ask(ctx, checks), at)
}

// Checks are a plan's, of a certain canary.
func Checks(p rollout.Plan, v analysis.Vars) ([]analysis.Check, error) {
	var checks []analysis.Check
	for _, m := range p.Metrics {
		c, err := analysis.NewCheck(analysis.Metric{
			Name: m.Name, Provider: p.Provider, Query: m.Query, Window: m.Interval, Min: m.Min, Max: m.Max,
		}, v)
		if err != nil {
			return nil, err
		}
		checks = append(checks, c)
	}
	return checks, nil
}

// lookAgain is when time alone could change the answer.
func lookAgain(s rollout.State, o rollout.Observation, now time.Time) time.Time {
	if !s.InFlight() {
		return s.Due(o)
	}
	wait := inFlightPoll
	if s.Phase.Patient() {
		wait = min(max(now.Sub(s.Since)/8, inFlightPoll), slowPoll)
	}
	poll, due := now.Add(wait), s.Due(o)
	switch {
	case due.IsZero() || due.After(poll):
		return poll
	case due.After(o.Now):
		return due
	default: // a check that is due and was not asked waits for the cluster
		return now.Add(min(wait, unapplied))
	}
}
