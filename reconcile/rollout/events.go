package rollout

import (
	"fmt"
	"slices"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
)

// emit records what happened to the release under way. The reason becomes the State's.
func (t *turn) emit(typ EventType, reason string, results []analysis.Result) {
	t.Reason = reason
	t.record(Event{
		Type: typ, Rollout: t.rollout(), From: t.Stable, To: t.Target, Weight: t.Weight,
		Reason: reason, Results: slices.Clone(results),
	})
}

// record numbers an event and puts it into the outbox. It happens under the plan that holds now.
func (t *turn) record(e Event) { t.recordFor(e, t.under().Tells(e)) }

// recordFor is record for webhooks that are known.
func (t *turn) recordFor(e Event, hooks []environments.Webhook) {
	t.LastSeq++
	e.Seq, e.Time = t.LastSeq, t.o.Now
	e.By, e.Command, e.Verified = t.asking.By, t.asking.ID, t.asking.Verified
	t.Outbox = append(t.Outbox, e)
	t.events = append(t.events, e)
	if len(hooks) > 0 {
		e.Results = nil // which nobody is told
		t.Untold = append(t.Untold, Untold{e, hooks})
		t.Untold = t.Untold[max(0, len(t.Untold)-maxUntold):]
	}
}

// under is the plan under which something happens: that of the release under way, at rest of what git asks for.
func (t *turn) under() Plan {
	if t.Plan != nil && t.InFlight() && t.o.Desired.Digest != t.Target.Digest {
		return *t.Plan
	}
	return t.o.Plan
}

// maxUntold bounds State.Untold. A webhook that takes so long has to do without the oldest.
const maxUntold = 100

// hear drops what the webhooks have been told of.
func (t *turn) hear() {
	if len(t.Untold) > 0 && t.Untold[0].Seq <= t.o.Told {
		t.Untold = slices.DeleteFunc(t.Untold, func(e Untold) bool { return e.Seq <= t.o.Told })
	}
	if len(t.Untold) == 0 {
		t.Untold = nil
	}
}

// rollout is the number of the rollout under way; 0 outside one.
func (t *turn) rollout() int64 {
	if !t.Phase.trait().rollout {
		return 0
	}
	return t.Rollouts
}

// acknowledge drops from the outbox what the audit log holds.
//
// A log that is ahead of the State can only mean that the State was lost or is an old copy. Its events are news all
// the same, so they are numbered on after the log's rather than taken for the log's own.
func (t *turn) acknowledge() {
	if log, other := t.earlierIncarnation(t.o); other {
		t.LastSeq = log
		for i := range t.Outbox {
			t.LastSeq++
			t.Outbox[i].Seq = t.LastSeq
		}
		return
	}
	if len(t.Outbox) == 0 || t.Outbox[0].Seq > t.o.Recorded {
		return
	}
	t.Outbox = slices.DeleteFunc(t.Outbox, func(e Event) bool { return e.Seq <= t.o.Recorded })
	if len(t.Outbox) == 0 {
		t.Outbox = nil
	}
}

// earlierIncarnation returns the audit log's last number where the Outbox is to be numbered on after it.
func (s State) earlierIncarnation(o Observation) (log int64, other bool) {
	log = max(o.Ahead, o.Recorded)
	return log, log > s.LastSeq || len(s.Outbox) > 0 && s.Outbox[0].Seq <= o.Ahead
}

// settleRevert takes the git writer's answer to the pending rollback commit.
func (t *turn) settleRevert() {
	answer := t.o.Reverted
	if t.Revert == nil || answer == nil || answer.Rollout != 0 && answer.Rollout != t.Revert.Rollout {
		return
	}
	switch {
	case answer.Branch != "":
		t.closeRevert(RollbackProposed, t.Revert.Reason, answer)
	case answer.Commit != "":
		t.closeRevert(RollbackCommitted, t.Revert.Reason, answer)
	case answer.Skipped != "":
		t.closeRevert(RollbackSkipped, answer.Skipped, nil)
	}
}

// closeRevert records how the pending rollback commit ended, and what was written. It keeps the State's Reason, which is why the release
// failed.
func (t *turn) closeRevert(typ EventType, reason string, written *Reverted) {
	r := t.Revert
	t.Revert = nil
	e := Event{Type: typ, Rollout: r.Rollout, From: r.To, To: r.From, Weight: t.Weight, Reason: reason}
	if written != nil {
		e.Commit, e.Branch, e.URL = written.Commit, written.Branch, written.URL
	}
	t.recordFor(e, r.Hooks)
}

// label names a release for people.
func label(r Release) string {
	switch {
	case r.Name() != "":
		return r.Name()
	case len(r.Digest) > 12:
		return r.Digest[:12]
	default:
		return r.Digest
	}
}

// because joins what happened and what was seen.
func because(what string, seen Track) string {
	if seen.Message == "" {
		return what
	}
	return fmt.Sprintf("%s: %s", what, seen.Message)
}
