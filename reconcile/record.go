package reconcile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
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

// tellGit says that there is something for git. It may be called with or without the mutex.
func (a *Agent) tellGit() {
	select {
	case a.outbox <- struct{}{}:
	default:
	}
}

// record writes to git what there is to write, and tries again for as long as git is away.
func (a *Agent) record(ctx context.Context) error {
	failures := 0
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.outbox:
		case <-again:
		}
		again = nil
		if err := a.flush(ctx); err != nil && ctx.Err() == nil {
			d := min(gitRetryFirst<<min(failures, 10), gitRetryLast)
			failures++
			a.log.Warn("writing to git", "error", err, "again", d)
			again = time.After(d)
			continue
		}
		failures = 0
	}
}

// flush writes rollback commits and then the status branch, so that the audit log tells of both as soon as it can.
func (a *Agent) flush(ctx context.Context) error {
	var faults []error
	for _, r := range a.reverts() {
		faults = append(faults, a.revert(ctx, r))
	}
	faults = append(faults, a.writeStatus(ctx))
	return errors.Join(faults...)
}

// names are what every commit says of its origin.
func (a *Agent) names() audit.Names {
	return audit.Names{Environment: a.cfg.Environment, Cluster: a.cfg.Cluster}
}

// writeStatus brings the status branch up to date: one commit for each event, pushed together where they are not too
// many.
func (a *Agent) writeStatus(ctx context.Context) error {
	batch := a.batch()
	if batch.Empty() {
		return nil
	}
	for _, part := range batch.Parts(maxPush) {
		if err := a.pushStatus(ctx, part); err != nil {
			return fmt.Errorf("writing branch %s: %w", a.cfg.StatusBranch, err)
		}
	}
	return nil
}

func (a *Agent) pushStatus(ctx context.Context, batch audit.Batch) error {
	var ahead map[string]int64
	_, err := a.status.CommitAll(ctx, func(tip *gitsync.Snapshot) ([]*gitsync.Change, error) {
		var fsys fs.FS
		if tip.Commit != "" {
			fsys = tip.FS()
		}
		commits, before, err := audit.Commits(fsys, batch)
		if err != nil {
			return nil, err
		}
		ahead = before
		var out []*gitsync.Change
		for _, c := range commits {
			out = append(out, &gitsync.Change{Files: c.Files, Message: c.Message, Date: c.Date})
		}
		return out, nil
	})
	if err != nil {
		return err
	}
	a.recordedAll(batch, ahead)
	return nil
}

// batch collects what the status branch does not say yet.
func (a *Agent) batch() audit.Batch {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := audit.Batch{Names: a.names(), Fault: text(a.envFault), Now: a.now()}
	if a.source.Snapshot != nil {
		b.Commit = a.source.Commit
	}
	looked := a.unsynced != nil || a.envFault != nil
	b.FaultChanged = looked && (a.recordedEnvFault == nil || b.Fault != *a.recordedEnvFault)
	for name, ap := range a.apps {
		if ap.gone {
			b.Apps = append(b.Apps, audit.App{Name: name, Gone: true})
			continue
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
		if len(events) > 0 || looked && (ap.recordedFault == nil || fault != *ap.recordedFault) {
			b.Apps = append(b.Apps, audit.App{
				Name: name, LastSeq: s.LastSeq, Unreadable: ap.broken, Fault: fault, KeepFault: !looked, Events: events,
			})
		}
	}
	slices.SortFunc(b.Apps, func(x, y audit.App) int { return strings.Compare(x.Name, y.Name) })
	return b
}

// recordedAll notes what the status branch holds now. An app whose record was ahead of it learns the number, so
// that its events are numbered on and come again.
func (a *Agent) recordedAll(b audit.Batch, ahead map[string]int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if b.FaultChanged {
		a.recordedEnvFault = &b.Fault
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
			ap.recorded = seq
			a.queue.Add(done.Name)
			continue
		}
		if !done.KeepFault {
			ap.recordedFault = &done.Fault
		}
		if n := len(done.Events); n > 0 {
			ap.recorded = max(ap.recorded, done.Events[n-1].Seq)
			a.queue.Add(done.Name)
		}
	}
}
