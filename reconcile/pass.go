package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// passTimeout is how long one pass may take: no server is waited for any longer.
const passTimeout = 5 * time.Minute

// pass looks at one app once. It returns when to look again, the zero time for when something changes.
func (a *Agent) pass(ctx context.Context, name string) (again time.Time, err error) {
	if err := a.mend(ctx, name); err != nil {
		if delivery.Refused(err) {
			a.report(name, err)
		}
		return time.Time{}, err
	}
	w, ok := a.begin(name)
	if !ok {
		return time.Time{}, nil
	}
	decision, undecided := a.delivery.Decide(ctx, w.facts)
	a.decided(ctx, name, decision)
	changes, undone := a.delivery.Act(ctx, decision)
	again = a.acted(w, decision, changes, undecided, undone)
	return again, errors.Join(undecided, undone)
}

// work in hand: what a pass knows of its app. It is the pass's own copy.
type work struct {
	name  string
	facts delivery.Facts
	// awaited: what git asks for is still to be rendered.
	awaited bool
}

// begin takes the app's present facts; ok is false for an app that is no more.
func (a *Agent) begin(name string) (work, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[name]
	if ap == nil {
		return work{}, false
	}
	w := work{
		name: name, awaited: ap.awaited(),
		facts: delivery.Facts{
			Saved: ap.saved, Removed: ap.removed, Recorded: ap.recorded, Ahead: ap.ahead, Reverted: ap.reverted, WatchedSince: ap.since,
			Unfinished:      ap.unfinished,
			HoldCorrections: ap.corrections.next(a.now()).After(a.now()),
		},
	}
	if r := ap.rendered; ap.answered(ap.input) {
		w.facts.Desired, w.facts.Fault = r.desired, r.fault
		w.facts.Removed = w.facts.Removed || r.off
	}
	w.facts.Commands, w.facts.Direct = a.git.Commands(name, ap.saved.State), direct(a.cluster.Direct(name))
	w.facts.Gates = a.gatesOf(ap, a.now())
	app := &w.facts.Saved.App
	if in := ap.input; in != nil && app.Name == "" {
		*app = delivery.App{Name: name, Namespace: in.Namespace, ReleaseName: a.helmName(in)}
		if app.ReleaseName != in.ReleaseName {
			app.SharedName = in.ReleaseName
		}
	}
	if app.Name == "" && ap.removed {
		a.leave(ap)
	}
	// Before the first snapshot an app is known from its state alone; that is enough to keep its course.
	return w, app.Name != ""
}

// decided keeps what a decision changes of what is known of an app, and tells whoever waits for it. It comes before the
// decision is acted upon, which may take long.
func (a *Agent) decided(ctx context.Context, name string, d delivery.Decision) {
	a.mu.Lock()
	if ap := a.apps[name]; ap != nil {
		if d.Blind {
			ap.since = a.now()
		}
		ap.unsure = d.Unsure && ap.saved.App.Name != ""
		ap.saved.State = d.Saved.State // which may have seen what is not worth a write
		if d.Moved {
			ap.saved, ap.ahead = d.Saved, 0
			ap.forgetPast()
			if d.Saved.State.Revert == nil {
				ap.reverted = nil
			}
			if len(d.Saved.State.Outbox) > 0 || d.Saved.State.Revert != nil {
				a.tellGit()
			}
		}
		if d.Gone {
			ap.saved = delivery.Saved{}
			if ap.removed {
				a.leave(ap)
			}
		}
	}
	a.mu.Unlock()
	a.announce(ctx, name, d.Events)
	if d.Moved {
		a.queue.Due(name) // the time of a step begins when it is seen to be in the cluster
	}
}

// forgetPast lets go of the releases that the state does not name any more.
func (ap *app) forgetPast() {
	maps.DeleteFunc(ap.past, func(digest string, _ past) bool {
		return digest != ap.saved.State.Stable.Digest && digest != ap.saved.State.Target.Digest
	})
}

// acted keeps how a decision that was acted upon came out: the app's fault, and what others do to its objects. It returns
// when to look again.
func (a *Agent) acted(w work, d delivery.Decision, changes int, undecided, undone error) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[w.name]
	if ap == nil || ap.gone {
		return time.Time{}
	}
	if d.Acts() {
		ap.unfinished = undone != nil
	}
	fault := undone
	if fault == nil {
		fault = d.Fault
	}
	if fault == nil && undecided != nil {
		return d.Again // what was wrong before may be so still
	}
	if undone == nil && !d.Moved && changes > 0 {
		ap.corrections.made(a.now())
	}
	again := d.Again
	if fault == nil {
		var until time.Time
		if until, fault = ap.fight(d.Seen, a.now()); fault != nil {
			again = earliest(again, until)
		}
	}
	if fault == nil && w.awaited {
		return again // nor is it known what may be wrong with what git asks for now
	}
	a.reportLocked(ap, fault)
	return again
}

// fight says that somebody keeps changing the app's objects, and when to look again; nil: nobody does. The fault is kept
// for the whole conflict, including the moments in which our version is applied.
func (ap *app) fight(seen delivery.Seen, now time.Time) (again time.Time, fault error) {
	if !ap.corrections.fight(now) {
		return time.Time{}, nil
	}
	if seen.Applied {
		var known *fightError
		if errors.As(ap.fault, &known) {
			return ap.corrections.over(), known
		}
		return ap.corrections.over(), nil
	}
	again = ap.corrections.next(now)
	if !again.After(now) {
		again = ap.corrections.over()
	}
	return again, &fightError{app: ap.name, what: seen.Pending}
}

// fightError says that somebody keeps changing an app's objects.
type fightError struct{ app, what string }

func (e *fightError) Error() string {
	return fmt.Sprintf("keeping %s as git says: somebody changes it again after each correction: %s", e.app, e.what)
}

// earliest of two times; the zero time is never.
func earliest(x, y time.Time) time.Time {
	if x.IsZero() || !y.IsZero() && y.Before(x) {
		return y
	}
	return x
}

// report keeps why an app can't be delivered, for the status branch; nil: it can.
func (a *Agent) report(name string, fault error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ap := a.apps[name]; ap != nil {
		a.reportLocked(ap, fault)
	}
}

func (a *Agent) reportLocked(ap *app, fault error) {
	if errors.Is(fault, context.Canceled) || errors.Is(fault, delivery.ErrConflict) {
		return
	}
	was := ap.fault
	ap.fault = fault
	if text(was) != text(fault) {
		a.tellGit()
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// announce hands events to whoever listens.
func (a *Agent) announce(ctx context.Context, name string, events []rollout.Event) {
	for _, e := range events {
		a.log.Log(ctx, audit.Level(e.Type), "event", "app", name, "seq", e.Seq, "type", e.Type,
			"from", e.From.Version, "to", e.To.Version, "weight", e.Weight, "reason", e.Reason)
		if a.cfg.OnEvent != nil {
			a.cfg.OnEvent(name, e)
		}
	}
}

// leave lets an app go once the status branch has heard of it. The mutex is held.
func (a *Agent) leave(ap *app) {
	ap.gone, ap.fault = true, nil
	a.tellGit()
}
