package audit

import (
	"slices"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Phases of a record that are none of the rollout package's.
const (
	phaseIdle    = "Idle"
	phaseRemoved = "Removed"
)

const maxRejected = 10

// After is the record with one more event. Events come in the order of their numbers.
func (r Record) After(e rollout.Event) Record {
	before := r
	if change := kinds[e.Type].record; change != nil {
		change(&r, e)
	}
	r.LastSeq, r.Progress = e.Seq, Progress{}
	r.Updated = second(e.Time)
	r.Reason = clean(e.Reason, longestText)
	if len(e.Results) > 0 {
		r.Checks = checksOf(e.Results)
	}
	if r.Phase != before.Phase || r.Serves != before.Serves {
		r.Since = r.Updated
	}
	return r
}

// Gone reports whether git lists the app no more and nothing of it is left. Its record stays, for its numbers.
func (r Record) Gone() bool { return r.Phase == phaseRemoved }

// progress is how far a canary is, as the State tells it.
func progress(s rollout.State) Progress {
	p := s.Progress()
	return Progress{
		Step: p.Step, Steps: p.Steps, FailedChecks: p.FailedChecks, Threshold: p.Threshold, IntervalSeconds: p.Interval.Seconds(),
	}
}

// enters is the record of an event that begins a phase.
func enters(p rollout.Phase) func(*Record, rollout.Event) {
	return func(r *Record, e rollout.Event) { r.run(string(p), e) }
}

func (r *Record) begin(e rollout.Event) {
	r.run(string(rollout.Starting), e)
	r.Paused = ""
	r.Checks, r.Rollback, r.RollbackProposed, r.RollbackURL, r.RollbackSkipped = nil, "", "", "", ""
	r.forgive(e.To)
}

func (r *Record) fail(e rollout.Event) {
	r.run(string(rollout.RollingBack), e)
	r.reject(e)
}

func (r *Record) failCheck(e rollout.Event) { r.Weight, r.Stalled = e.Weight, "" }

func (r *Record) away(e rollout.Event) {
	r.Weight, r.Stalled = e.Weight, ""
	if r.Phase == string(rollout.Analyzing) {
		r.Phase = string(rollout.Starting)
	}
}

func (r *Record) note(e rollout.Event) { r.Weight = e.Weight }

func (r *Record) stall(e rollout.Event) { r.Weight, r.Stalled = e.Weight, clean(e.Reason, longestText) }

func (r *Record) pause(e rollout.Event) { r.Paused = said(e) }

func (r *Record) resume(rollout.Event) { r.Paused = "" }

func (r *Record) hold(e rollout.Event) { r.Held = said(e) }

func (r *Record) unhold(rollout.Event) { r.Held = "" }

func (r *Record) retry(e rollout.Event) { r.forgive(e.To) }

func (r *Record) await(e rollout.Event) { r.Waiting = clean(e.Reason, longestText) }

// said is who has asked, and why.
func said(e rollout.Event) string {
	return clean(rollout.Asked{By: e.By, Reason: e.Reason}.String(), longestText)
}

func (r *Record) degrade(e rollout.Event) { r.Degraded = clean(e.Reason, longestText) }

func (r *Record) succeed(e rollout.Event) { r.rest(e.To, e) }

func (r *Record) giveUp(e rollout.Event) { r.rest(e.From, e) }

func (r *Record) takeOver(e rollout.Event) {
	last := r.Last
	r.rest(e.From, e)
	if e.To.IsZero() {
		r.Last = last // nothing was under way
	}
}

func (r *Record) putBack(e rollout.Event) {
	r.Rollback, r.RollbackProposed, r.RollbackSkipped = clean(e.Commit, longestText), "", ""
	r.RollbackURL = ""
}

func (r *Record) propose(e rollout.Event) {
	r.Rollback, r.RollbackProposed, r.RollbackSkipped = "", clean(e.Branch, longestText), ""
	r.RollbackURL = clean(e.URL, longestText)
}

func (r *Record) leave(e rollout.Event) {
	r.Rollback, r.RollbackProposed, r.RollbackSkipped = "", "", clean(e.Reason, longestText)
	r.RollbackURL = ""
}

func (r *Record) remove(rollout.Event) {
	*r = Record{App: r.App, Phase: phaseRemoved, Rollout: r.Rollout, Last: r.Last}
}

// run is a rollout, or a first install, under way.
func (r *Record) run(phase string, e rollout.Event) {
	r.Phase = phase
	r.Serves, r.Target = releaseOf(e.From), releaseOf(e.To)
	r.Weight = e.Weight
	r.Stalled, r.Degraded, r.Waiting = "", "", ""
	if phase != string(rollout.Starting) && phase != string(rollout.Analyzing) {
		r.Paused = "" // a pause is of the canary that it found
	}
	r.Rollout = max(r.Rollout, e.Rollout)
}

// rest is the end of a rollout.
func (r *Record) rest(serves rollout.Release, e rollout.Event) {
	r.run(phaseIdle, e)
	r.Serves, r.Target, r.Weight = releaseOf(serves), Release{}, 0
	r.Last = Ending{
		Outcome: string(e.Type), Release: releaseOf(e.To), Reason: clean(e.Reason, longestText), At: second(e.Time),
	}
}

// apply is a change that no pod sees: of the stable release, or in the middle of a rollout of the one under way.
func (r *Record) apply(e rollout.Event) {
	if e.Rollout != 0 {
		r.Target, r.Weight = releaseOf(e.To), e.Weight
		return
	}
	r.Serves = releaseOf(e.To)
	if r.Phase == "" {
		r.Phase = phaseIdle
	}
}

func (r *Record) reject(e rollout.Event) {
	r.forgive(e.To)
	r.Rejected = append(r.Rejected, Rejection{Release: releaseOf(e.To), Reason: clean(e.Reason, longestText)})
	if extra := len(r.Rejected) - maxRejected; extra > 0 {
		r.Rejected = r.Rejected[extra:]
	}
}

// forgive drops a release that is tried again from the rejected ones. The slice is not shared with older records.
func (r *Record) forgive(again rollout.Release) {
	asked := releaseOf(again)
	r.Rejected = slices.DeleteFunc(slices.Clone(r.Rejected), func(x Rejection) bool {
		return x.Release.Digest == asked.Digest && x.Release.Commit == asked.Commit
	})
	if len(r.Rejected) == 0 {
		r.Rejected = nil
	}
}

func checksOf(results []analysis.Result) []Check {
	checks := make([]Check, len(results))
	for i, x := range results {
		checks[i] = Check{
			Name: clean(x.Check, longestText), Outcome: clean(string(x.Outcome), longestText), Reason: clean(x.Reason, longestText),
		}
	}
	return checks
}

func second(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
