package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
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
	answer, err := a.writeRevert(ctx, r)
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

func (a *Agent) writeRevert(ctx context.Context, r revert) (rollout.Reverted, error) {
	edit, err := a.revertEdit(ctx, r)
	if err != nil {
		// What the object store lost comes back with a fetch.
		if _, err := a.repo.Fetch(ctx); err != nil {
			return rollout.Reverted{}, err
		}
		if edit, err = a.revertEdit(ctx, r); err != nil {
			// A commit that is no longer in the history can't be compared with, now or later.
			return rollout.Reverted{Skipped: err.Error()}, nil //nolint:nilerr // that is the answer
		}
	}
	a.mu.Lock()
	env := a.source.Env
	a.mu.Unlock()
	if env.WriteBack == environments.WriteBackPullRequest {
		return a.proposeRevert(ctx, r, edit)
	}
	hash, err := a.branch.Commit(ctx, edit)
	var rejected *gitsync.RejectedError
	switch {
	case errors.As(err, &rejected) && !rejected.Unauthorized:
		a.log.Warn("the branch refuses the rollback commit; it goes to a branch of its own", "app", r.app, "reason", rejected.Reason)
		return a.proposeRevert(ctx, r, edit)
	case errors.Is(err, environments.ErrMovedOn):
		// Perhaps from a commit of ours whose answer was lost.
		return a.foundRevert(ctx, r, err.Error())
	case err != nil:
		return skipped(err)
	case hash == "":
		return a.foundRevert(ctx, r, "the branch says "+r.To.Version+" already")
	}
	return rollout.Reverted{Commit: hash}, nil
}

// revertEdit is the rollback as a function of the branch's tip. What it compares with are the commits that asked
// for the failed and for the stable release.
func (a *Agent) revertEdit(ctx context.Context, r revert) (func(*gitsync.Snapshot) (*gitsync.Change, error), error) {
	failed, err := a.repo.At(r.From.Commit)
	if err != nil {
		return nil, fmt.Errorf("reading the commit that asked for %s: %w", r.From.Version, err)
	}
	asked := r.To.Commit
	if asked == "" {
		if asked, err = a.listing(ctx, r.app, r.To.Version, r.From.Commit); err != nil {
			return nil, err
		}
	}
	stable, err := a.repo.At(asked)
	if err != nil {
		return nil, fmt.Errorf("reading the commit that asked for %s: %w", r.To.Version, err)
	}
	message := audit.RollbackMessage(a.names(), r.app, r.Revert)
	return func(tip *gitsync.Snapshot) (*gitsync.Change, error) {
		files, err := environments.Revert(tip.FS(), failed.FS(), stable.FS(), a.cfg.Path, r.app)
		if err != nil || len(files) == 0 {
			return nil, err
		}
		return &gitsync.Change{Files: files, Message: message}, nil
	}, nil
}

// listing finds the newest commit before another that lists a version of an app. What was serving before Sluice came has
// no commit that Sluice has seen ask for it.
func (a *Agent) listing(ctx context.Context, app, version, before string) (string, error) {
	history, err := a.repo.Commits(ctx, before, "", historyLimit)
	if err != nil {
		return "", fmt.Errorf("looking for the commit that listed %s %s: %w", app, version, err)
	}
	for _, c := range history {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		s, err := a.repo.At(c.Hash)
		if err != nil {
			return "", fmt.Errorf("looking for the commit that listed %s %s: %w", app, version, err)
		}
		env, err := a.loader.Load(s.FS(), a.cfg.Path)
		if err != nil {
			continue // it lists nothing that anybody could read
		}
		if slices.ContainsFunc(env.Apps, func(in environments.App) bool { return in.Name == app && in.Chart.Version == version }) {
			return c.Hash, nil
		}
	}
	return "", fmt.Errorf("%s %s served before Sluice came, and none of the %d commits before %.10s lists it: "+
		"put the version back by hand", app, version, len(history), before)
}

// proposeRevert pushes the rollback to a branch of its own, from which somebody opens a pull request.
func (a *Agent) proposeRevert(ctx context.Context, r revert, edit func(*gitsync.Snapshot) (*gitsync.Change, error)) (rollout.Reverted, error) {
	// One branch for each failed commit: what an older rollback left on its branch says nothing of this one.
	name := "sluice/rollback/" + a.cfg.Environment + "/" + r.app + "-" + r.From.Commit[:min(10, len(r.From.Commit))]
	w, err := a.branch.Branch(name)
	if err != nil {
		return rollout.Reverted{}, err
	}
	hash, err := w.Commit(ctx, edit)
	if err != nil {
		return skipped(err)
	}
	if hash == "" {
		return rollout.Reverted{Skipped: "branch " + name + " holds the rollback already"}, nil
	}
	return rollout.Reverted{Skipped: "the rollback waits on branch " + name + " as commit " + hash}, nil
}

// foundRevert answers for a tip that no longer says what failed: by a commit of ours whose answer was lost, or, for
// the reason given, by somebody else's.
func (a *Agent) foundRevert(ctx context.Context, r revert, otherwise string) (rollout.Reverted, error) {
	tip, err := a.repo.Fetch(ctx)
	if err != nil {
		return rollout.Reverted{}, err
	}
	history, err := a.repo.Commits(ctx, tip.Commit, r.From.Commit, historyLimit)
	if err != nil {
		return rollout.Reverted{}, err
	}
	for _, c := range history {
		if audit.IsRollback(c.Message, r.app, r.Revert) {
			return rollout.Reverted{Commit: c.Hash}, nil
		}
	}
	return rollout.Reverted{Skipped: otherwise}, nil
}

// skipped turns the errors that no further try would mend into an answer. Credentials that are refused are none of
// them: they are the operator's to mend, and git is to be put back once they are.
func skipped(err error) (rollout.Reverted, error) {
	var rejected *gitsync.RejectedError
	var unable *environments.UnrevertableError
	switch {
	case errors.Is(err, environments.ErrMovedOn), errors.As(err, &unable),
		errors.As(err, &rejected) && !rejected.Unauthorized:
		return rollout.Reverted{Skipped: err.Error()}, nil
	default:
		return rollout.Reverted{}, err
	}
}
