package reconcile

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// gitRetry bounds the pauses between tries to reach git.
const (
	gitRetryFirst = 500 * time.Millisecond
	gitRetryLast  = 30 * time.Second
)

// maxPush is the number of events that one push carries. Each is a commit with a tree of all apps.
const maxPush = 200

// longestWrite is when a write to git is given up and begun again, from where it was: less than what Stuck takes for a stop, however
// often a push is tried and however long each takes.
const longestWrite = 10 * time.Minute

// tellGit says that there is something for git. It may be called with or without the mutex.
func (a *Agent) tellGit() {
	for _, news := range []chan struct{}{a.outbox, a.owed} {
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// write writes to git, with flush, what news announces, and tries again for as long as git is away. later is when there will be
// more without news, which may be by now; nil, or the zero time: never.
func (a *Agent) write(ctx context.Context, news <-chan struct{}, flush func(context.Context) error, later func() time.Time) error {
	failures := 0
	listen := news
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-listen:
		case <-again:
		}
		listen, again = news, nil
		over := a.pulse.begin("writing to git")
		trying, cancel := context.WithTimeout(ctx, longestWrite)
		err := flush(trying)
		cancel()
		over()
		if err != nil && ctx.Err() == nil {
			a.pulse.count(func(c *PulseCounts, _ time.Time) { c.PushFailures++ })
			d := min(gitRetryFirst<<min(failures, 10), gitRetryLast)
			failures++
			a.log.Warn("writing to git", "error", err, "again", d)
			// A git that is away is not asked again sooner because there is more to tell it.
			listen, again = nil, time.After(d)
			continue
		}
		failures = 0
		if later == nil {
			continue
		}
		if at := later(); !at.IsZero() {
			again = time.After(max(at.Sub(a.now()), gitRetryFirst))
		}
	}
}

// Revert writes the rollback commits that are due.
func (a *Agent) Revert(ctx context.Context) error {
	var faults []error
	for _, r := range a.reverts() {
		faults = append(faults, a.revert(ctx, r))
	}
	return errors.Join(faults...)
}

// Record brings the status branch up to date: one commit for each event, pushed together where they are not too many.
func (a *Agent) Record(ctx context.Context) error {
	batch := a.batch()
	if batch.Empty() {
		return nil
	}
	for _, part := range batch.Parts(maxPush) {
		done, err := a.git.Record(ctx, part)
		if other := new(audit.ForeignError); done.Taken || errors.As(err, &other) {
			a.readAgain() // which may be delivered now, or not any more
		}
		if err != nil {
			a.lookAgain(batch.All != nil)
			return err
		}
		a.recordedAll(part, done.Ahead)
		if done.Edited {
			a.Edited()
		}
	}
	return nil
}

// batch collects what the status branch does not say yet.
func (a *Agent) batch() audit.Batch {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := audit.Batch{Fault: text(a.envFault), Accepted: a.accepted, Now: a.now()}
	if a.source.Snapshot != nil {
		b.Commit = a.source.Commit
	}
	looked := a.unsynced != nil || a.envFault != nil
	if a.edited && a.unsynced != nil {
		b.All = make(map[string]bool, len(a.apps))
		a.edited = false // until somebody writes there again
	}
	b.Alive = a.source.Snapshot != nil && !b.Now.Before(a.nextWord)
	b.FaultChanged = looked && (b.All != nil || a.recordedEnvFault == nil || b.Fault != *a.recordedEnvFault)
	if text, known := a.upstreamText(); known && (b.All != nil || a.recordedUpstream == nil || text != *a.recordedUpstream) {
		b.Upstream = &text
	}
	for name, ap := range a.apps {
		if ap.gone {
			b.Apps = append(b.Apps, audit.App{Name: name, Gone: true})
			continue
		}
		if b.All != nil {
			b.All[name] = true
		}
		s := ap.saved.State
		fault := text(ap.fault)
		var events []rollout.Event
		for _, e := range s.Outbox {
			if e.Seq > ap.recorded {
				events = append(events, e)
			}
		}
		looked := a.unsynced != nil && !a.unsynced[name]
		news := looked && (b.All != nil || ap.recordedFault == nil || fault != *ap.recordedFault && !a.now().Before(ap.flapping.until()))
		if len(events) > 0 || news {
			b.Apps = append(b.Apps, audit.App{
				Name: name, State: s, Unreadable: ap.broken, Fault: fault, KeepFault: !looked, Events: events,
			})
		}
	}
	slices.SortFunc(b.Apps, func(x, y audit.App) int { return strings.Compare(x.Name, y.Name) })
	return b
}

// upstreamText is why no version can come from upstream, if that is known. The caller holds mu.
func (a *Agent) upstreamText() (text string, known bool) {
	if a.upstream.refused != "" {
		return a.upstream.refused, true
	}
	if a.upstream.fault == nil {
		return "", false
	}
	return *a.upstream.fault, true
}

// UpstreamFault says why no version can come from upstream until somebody does something about it; empty: it can.
func (a *Agent) UpstreamFault(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.upstream.fault == nil || *a.upstream.fault != text {
		a.upstream.fault = &text
		a.tellGit()
	}
}

// askedUpstream notes whether the agent may ask where an environment says. The caller holds mu.
func (a *Agent) askedUpstream(env *environments.Environment) {
	if a.cfg.Upstream == nil {
		return
	}
	if refused := text(a.cfg.Upstream(env)); refused != a.upstream.refused {
		a.upstream.refused = refused
		a.tellGit()
	}
}

// recordedAll notes what the status branch holds now. An app whose record was ahead of it learns the number, so
// that its events are numbered on and come again.
func (a *Agent) recordedAll(b audit.Batch, ahead map[string]int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.Alive {
		a.nextWord = a.now().Add(audit.SilenceCheck)
	}
	if b.FaultChanged {
		a.recordedEnvFault = &b.Fault
	}
	if b.Upstream != nil {
		a.recordedUpstream = b.Upstream
	}
	for _, done := range b.Apps {
		ap := a.apps[done.Name]
		if ap == nil {
			continue
		}
		if done.Gone {
			if ap.gone {
				delete(a.apps, done.Name)
			}
			continue
		}
		if seq, ok := ahead[done.Name]; ok {
			ap.recorded, ap.ahead = 0, seq
			a.queue.Add(done.Name)
			continue
		}
		if !done.KeepFault {
			if was := ap.recordedFault; was != nil && *was != done.Fault {
				ap.flapping.changed(a.now())
			}
			ap.recordedFault = &done.Fault
		}
		if n := len(done.Events); n > 0 {
			ap.recorded = max(ap.recorded, done.Events[n-1].Seq)
			if !ap.saved.State.InFlight() {
				a.queue.Add(done.Name) // else the next look will do
			}
		}
	}
}

// nextRecord is when there is something for git without news: a fault that is held down, or a word after a long silence.
func (a *Agent) nextRecord() time.Time {
	at := a.heldFaults()
	a.mu.Lock()
	defer a.mu.Unlock()
	return earliest(at, a.nextWord)
}

// lookAgain has the whole status branch looked at again, where it was not written to the end.
func (a *Agent) lookAgain(unfinished bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.edited = a.edited || unfinished
}

// Edited has the whole status branch looked at: somebody else has written there, or deleted it.
func (a *Agent) Edited() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.edited {
		a.log.Warn("the status branch was edited or deleted by somebody else: it is restored")
	}
	a.edited = true
	a.tellGit()
}

// heldFaults is when the first of the faults is to be told that git does not hold yet, which may be by now; zero: there is
// none.
func (a *Agent) heldFaults() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	var first time.Time
	for name, ap := range a.apps {
		looked := a.unsynced != nil && !a.unsynced[name]
		if looked && !ap.gone && ap.recordedFault != nil && text(ap.fault) != *ap.recordedFault {
			first = earliest(first, ap.flapping.until())
		}
	}
	return first
}

const (
	// firstHold is how long a fault stands in git at least before another text takes its place; it doubles while the text
	// keeps changing, up to longestHold.
	firstHold   = 5 * time.Second
	longestHold = 10 * time.Minute
)

// flapping holds down a fault whose text keeps changing, as errors of a network do: each change is a commit.
type flapping struct {
	last time.Time
	hold time.Duration
}

// changed notes that git was told another text.
func (f *flapping) changed(now time.Time) {
	if f.hold == 0 || now.Sub(f.last) > 2*f.hold {
		f.hold = firstHold
	} else {
		f.hold = min(2*f.hold, longestHold)
	}
	f.last = now
}

// until is when git may be told the next one.
func (f *flapping) until() time.Time { return f.last.Add(f.hold) }
