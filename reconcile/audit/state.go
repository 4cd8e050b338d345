package audit

import (
	"slices"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// known reports whether the batch knows what the app's State says.
func (a App) known() bool { return !a.Gone && !a.Unreadable }

// record is the app's record as its State tells it, up to the events that are still to come; ok is false where the State tells
// nothing. It has no checks and no rollback commit, which only events tell.
func (a App) record(name string) (r Record, ok bool) {
	s := a.State
	seq := s.LastSeq
	if len(a.Events) > 0 {
		seq = a.Events[0].Seq - 1
	}
	if !a.known() || seq <= 0 {
		return Record{}, false
	}
	r = Record{
		App: name, Phase: string(s.Phase), Serves: releaseOf(s.Stable), Target: releaseOf(s.Target), Weight: s.Weight, Rollout: s.Rollouts,
		Reason: clean(s.Reason, longestText), Stalled: clean(s.Stalled, longestText), Waiting: clean(s.Waiting, longestText),
		LastSeq: seq, Since: second(s.Since), Updated: second(s.Since),
	}
	if len(a.Events) == 0 {
		r.Progress = progress(s)
	}
	if s.Pause != nil {
		r.Paused = clean(s.Pause.String(), longestText)
	}
	if s.Hold != nil {
		r.Held = clean(s.Hold.String(), longestText)
	}
	for _, x := range s.Rejected {
		r.Rejected = append(r.Rejected, Rejection{Release: releaseOf(x.Release), Reason: clean(x.Reason, longestText)})
	}
	if s.Phase == rollout.Idle && !s.Stable.IsZero() {
		r.Phase = phaseIdle
		r.Last = a.ending()
	}
	return r, true
}

// ending is how the last rollout of an app at rest ended. Of those that did not succeed the release is not known for sure.
func (a App) ending() Ending {
	s := a.State
	e := Ending{Outcome: string(s.Outcome), Reason: clean(s.Reason, longestText), At: second(s.Since)}
	switch {
	case s.Outcome == "":
		return Ending{}
	case kinds[s.Outcome].became == "":
		e.Release = releaseOf(s.Stable)
	case s.Outcome == rollout.RolledBack && len(s.Rejected) > 0:
		e.Release = releaseOf(s.Rejected[len(s.Rejected)-1].Release)
	}
	return e
}

// contradicts reports whether a record says something else than the State of an app that is at rest and has nothing to tell.
// While something is under way, its next event says where it stands.
func (r Record) contradicts(saved Record, a App) bool {
	if len(a.Events) > 0 || saved.Phase != phaseIdle {
		return false
	}
	return r.Phase != saved.Phase || r.Serves.Version != saved.Serves.Version || r.Serves.Digest != saved.Serves.Digest ||
		r.Target != saved.Target || r.Weight != saved.Weight || r.Rollout != saved.Rollout || r.LastSeq < saved.LastSeq ||
		r.Paused != saved.Paused || r.Held != saved.Held ||
		!slices.EqualFunc(r.Rejected, saved.Rejected, func(x, y Rejection) bool { return x.Release.Digest == y.Release.Digest })
}
