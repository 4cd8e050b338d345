package delivery

import (
	"fmt"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Question is what a webhook is asked.
type Question struct {
	App  App
	Hook environments.Webhook
	// Slot tells the webhooks of an app apart. Of each the last question alone counts.
	Slot string
	// About is what the answer is about. It is asked once, and with Every again when the answer is older than that; until the new
	// one is there the old one counts.
	About string
	Every time.Duration
	// Checksum identifies the release.
	Checksum string
	// Event is what a webhook is told of; nil: it is asked, and told of none.
	Event *rollout.Event
}

// Answer is a webhook's.
type Answer struct {
	// Outcome is Pass for a status of success, Fail for another one, and where none came in all of the time that the policy gives;
	// Inconclusive where nobody was asked.
	Outcome analysis.Outcome
	// Said is the answer for people.
	Said string
	At   time.Time
}

// Hooks asks webhooks outside of the looks at their apps, and has an app looked at when one has answered.
type Hooks interface {
	// Ask says how a question was answered; ok is false while it has not been. It does not block.
	Ask(q Question) (a Answer, ok bool)
}

// ask asks the i-th webhook of a type; about which release is in q, and how long the answer counts.
func (l *look) ask(w environments.Webhook, i int, q Question) (Answer, bool) {
	if l.Hooks == nil {
		return Answer{}, false
	}
	q.App, q.Hook, q.Slot = l.app, w, fmt.Sprintf("%s %d", w.Type, i)
	a, ok := l.Hooks.Ask(q)
	a.Said = l.mask.Text(a.Said)
	return a, ok
}

// confirmBegin adds the gates of what would begin, where something would.
func (l *look) confirmBegin(o *rollout.Observation) {
	s := l.state
	if len(o.Plan.Hooks(environments.ConfirmRollout)) == 0 || s.Stable.IsZero() || o.FromStable != rollout.ChangePods || !s.Takes(*o) {
		return
	}
	l.confirm(o, o.Plan, rollout.AtBegin, environments.ConfirmRollout, Question{
		About: o.Desired.Digest + " " + o.Desired.Commit, Checksum: o.Desired.Digest,
	})
}

// confirmCourse adds what the webhooks say of the rollout under way: whether it is to go back, the gates that it comes to next, and
// whether its canary may have traffic at all. Those that are asked at each step are asked here as well, so that what they do (a load
// test) is done in the interval that is judged, and their answers are there when it is.
func (l *look) confirmCourse(o *rollout.Observation) {
	s, p := l.state, o.Governing(l.state)
	l.recall(o, p)
	if unjudged(p) {
		return
	}
	step := l.question(s.Weight)
	last := s.Phase == rollout.Analyzing && s.LastStep(p)
	switch {
	case s.Phase == rollout.Starting && s.Peak == 0 && o.Canary.Ready:
		if l.admit(o, p) {
			l.confirm(o, p, rollout.AtStep, environments.ConfirmTrafficIncrease, step)
		}
	case last:
		l.confirm(o, p, rollout.AtPromotion, environments.ConfirmPromotion, step)
		l.hookResults(p)
	case s.Phase == rollout.Analyzing:
		l.confirm(o, p, rollout.AtStep, environments.ConfirmTrafficIncrease, step)
		l.hookResults(p)
	}
	if !last {
		// Nobody gets past them by a command either.
		for _, w := range p.Hooks(environments.ConfirmPromotion) {
			o.Gates = append(o.Gates, rollout.Gate{Name: gateName(w), At: rollout.AtPromotion, Unread: true, Reason: "it is asked at the last step"})
		}
	}
}

// recall asks the rollback webhooks whether the rollout under way is to go back.
func (l *look) recall(o *rollout.Observation, p rollout.Plan) {
	if p.SkipAnalysis || !l.state.Recallable() {
		return
	}
	q := l.question()
	q.Every = everyInterval(p)
	for i, w := range p.Hooks(environments.OnRollback) {
		if a, ok := l.ask(w, i, q); ok && a.Outcome == analysis.Pass {
			o.Recall = fmt.Sprintf("%s says so: %s", gateName(w), a.Said)
		}
	}
}

// tell tells the webhooks of the oldest event that they have not been told of. What they say is of no consequence: after all tries it
// is the next one's turn. One is told at a time, and counts as told when the State says so.
func (l *look) tell(o *rollout.Observation) {
	if len(l.state.Untold) == 0 {
		return
	}
	e := l.state.Untold[0]
	// An app that is forgotten and listed again begins to count anew.
	q := Question{About: fmt.Sprint("event ", e.Seq, " ", e.Time.UnixNano()), Checksum: e.To.Digest, Event: &e.Event}
	results, _, all := l.asked(e.Hooks, q)
	if !all {
		return
	}
	o.Told = e.Seq
	for _, r := range results {
		if r.Outcome != analysis.Pass {
			l.Log.Warn("could not tell a webhook of an event", "app", l.app.Name, "event", e.Seq, "type", e.Type, "reason", r.Reason)
		}
	}
}

// unjudged reports whether a policy wants nothing to be judged, so that no gate and no check of a canary is asked.
func unjudged(p rollout.Plan) bool { return p.SkipAnalysis || !p.Canary() }

// question is one about the rollout under way, and at which point of it.
func (l *look) question(point ...any) Question {
	s := l.state
	return Question{About: fmt.Sprint(append([]any{s.Target.Digest, " ", s.Rollouts, " "}, point...)...), Checksum: s.Target.Digest}
}

// confirm adds the gates of a type of webhooks. A yes of long ago, as from before the app waited for another gate, opens none: it is
// asked again.
func (l *look) confirm(o *rollout.Observation, p rollout.Plan, at rollout.Moment, of environments.HookType, q Question) {
	q.Every = everyInterval(p)
	for i, w := range p.Hooks(of) {
		g := rollout.Gate{Name: gateName(w), At: at, Unread: true, Reason: "it has not answered yet"}
		if a, ok := l.ask(w, i, q); ok && (a.Outcome != analysis.Pass || o.Now.Before(a.At.Add(max(2*q.Every, leastFresh)))) {
			g.Unread, g.Open, g.Reason, g.NextChange = false, a.Outcome == analysis.Pass, a.Said, a.At.Add(q.Every)
		}
		o.Gates = append(o.Gates, g)
	}
}

// leastFresh is how long a yes counts at least, since an app may have to wait for its turn.
const leastFresh = time.Minute

func gateName(w environments.Webhook) string { return "webhook " + w.Name }

func everyInterval(p rollout.Plan) time.Duration {
	if p.Interval > 0 {
		return p.Interval
	}
	return time.Minute
}

// admit asks the pre-rollout webhooks, an interval after they have last said no, and reports whether the canary may have traffic.
func (l *look) admit(o *rollout.Observation, p rollout.Plan) bool {
	hooks := p.Hooks(environments.PreRollout)
	last := l.state.LastCheck
	switch {
	case len(hooks) == 0:
		return true
	case !last.IsZero() && o.Now.Before(last.Add(everyInterval(p))):
		return false
	}
	results, at, all := l.asked(hooks, l.question(last.UnixMilli()))
	if !all {
		return false
	}
	v := analysis.Sum(results, at)
	o.Admission = &v
	return v.Outcome == analysis.Pass
}

// hookResults are the answers of the webhooks of the present interval; all is false while one is still to come.
func (l *look) hookResults(p rollout.Plan) (results []analysis.Result, all bool) {
	s := l.state
	switch {
	case unjudged(p):
		return nil, true
	case s.StepSince.IsZero():
		return nil, false
	}
	results, _, all = l.asked(p.Hooks(environments.DuringRollout), l.question(s.Weight, " ", s.StepSince.UnixMilli(), " ", s.LastCheck.UnixMilli()))
	return results, all
}

// asked asks webhooks once each; at is when the last one answered.
func (l *look) asked(hooks []environments.Webhook, q Question) (results []analysis.Result, at time.Time, all bool) {
	all = true
	for i, w := range hooks {
		a, ok := l.ask(w, i, q)
		if all = all && ok; !ok {
			continue
		}
		name := gateName(w)
		results = append(results, analysis.Result{Check: name, Outcome: a.Outcome, Reason: name + ": " + a.Said})
		if a.At.After(at) {
			at = a.At
		}
	}
	return results, at, all
}
