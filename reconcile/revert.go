package reconcile

import (
	"context"
	"fmt"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// revert is a rollback commit that is due.
type revert struct {
	app string
	rollout.Revert
}

// reverts are the rollback commits that git owes and nobody has answered yet. Until the branch was read after a
// start there are none: how to write back is said there, and the commits to compare with may not be at hand.
func (a *Agent) reverts() []revert {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.source.Snapshot == nil {
		return nil
	}
	var due []revert
	for name, ap := range a.apps {
		if r := ap.saved.State.Revert; r != nil && (ap.reverted == nil || ap.reverted.Rollout != r.Rollout) {
			due = append(due, revert{name, *r})
		}
	}
	return due
}

// revert puts the environment branch back and tells the app what came of it. An error means: try again.
func (a *Agent) revert(ctx context.Context, r revert) error {
	a.mu.Lock()
	mode := a.source.Env.WriteBack
	a.mu.Unlock()
	answer, err := a.git.Revert(ctx, mode, r.app, r.Revert)
	if err != nil {
		return fmt.Errorf("writing the rollback of %s: %w", r.app, err)
	}
	answer.Rollout = r.Rollout
	a.mu.Lock()
	if ap := a.apps[r.app]; ap != nil {
		ap.reverted = &answer
	}
	a.mu.Unlock()
	a.queue.Add(r.app)
	a.Nudge()
	return nil
}
