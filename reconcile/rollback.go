package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Revert puts the environment branch back as a compare-and-set, or proposes that on a branch of its own, and says what came
// of it. An error means: try again.
func (r *Repository) Revert(ctx context.Context, mode environments.WriteBackMode, app string, revert rollout.Revert) (rollout.Reverted, error) {
	edit, err := r.revertEdit(ctx, app, revert)
	if err != nil {
		// What the object store lost comes back with a fetch.
		if _, err := r.repo.Fetch(ctx); err != nil {
			return rollout.Reverted{}, err
		}
		if edit, err = r.revertEdit(ctx, app, revert); err != nil {
			// A commit that is no longer in the history can't be compared with, now or later.
			return rollout.Reverted{Skipped: err.Error()}, nil //nolint:nilerr // that is the answer
		}
	}
	if mode == environments.WriteBackPullRequest {
		return r.proposeRevert(ctx, app, revert, edit, false)
	}
	hash, err := r.branch.Commit(ctx, edit)
	var rejected *gitsync.RejectedError
	switch {
	case errors.As(err, &rejected) && !rejected.Unauthorized:
		r.log.Warn("the branch refuses the rollback commit; it goes to a branch of its own", "app", app, "reason", rejected.Reason)
		return r.proposeRevert(ctx, app, revert, edit, true)
	case errors.Is(err, environments.ErrMovedOn):
		// Perhaps from a commit of ours whose answer was lost.
		return r.foundRevert(ctx, app, revert, err.Error())
	case err != nil:
		return skipped(err)
	case hash == "":
		return r.foundRevert(ctx, app, revert, "the branch has "+revert.To.Version+" already")
	}
	return rollout.Reverted{Commit: hash}, nil
}

// revertEdit is the rollback as a function of the branch's tip. What it compares with are the commits that asked
// for the failed and for the stable release.
func (r *Repository) revertEdit(ctx context.Context, app string, revert rollout.Revert) (func(*gitsync.Snapshot) (*gitsync.Change, error), error) {
	failed, err := r.repo.At(revert.From.Commit)
	if err != nil {
		return nil, fmt.Errorf("reading the commit that asked for %s: %w", revert.From.Version, err)
	}
	asked := revert.To.Commit
	if asked == "" {
		if asked, err = r.listing(ctx, app, revert.To.Version, revert.From.Commit); err != nil {
			return nil, err
		}
	}
	stable, err := r.repo.At(asked)
	if err != nil {
		return nil, fmt.Errorf("reading the commit that asked for %s: %w", revert.To.Version, err)
	}
	message := audit.RollbackMessage(r.names(), app, revert)
	return func(tip *gitsync.Snapshot) (*gitsync.Change, error) {
		files, err := environments.Revert(tip.FS(), failed.FS(), stable.FS(), r.cfg.Path, app)
		if err != nil || len(files) == 0 {
			return nil, err
		}
		return &gitsync.Change{Files: files, Message: message, Sign: r.cfg.Sign}, nil
	}, nil
}

// listing finds the newest commit before another that lists a version of an app. What was serving before Sluice came has
// no commit that Sluice has seen ask for it.
func (r *Repository) listing(ctx context.Context, app, version, before string) (string, error) {
	history, err := r.repo.Commits(ctx, before, "", historyLimit)
	if err != nil {
		return "", fmt.Errorf("looking for the commit that listed %s %s: %w", app, version, err)
	}
	for _, c := range history {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		s, err := r.repo.At(c.Hash)
		if err != nil {
			return "", fmt.Errorf("looking for the commit that listed %s %s: %w", app, version, err)
		}
		env, err := r.environment(s)
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

// proposeRevert pushes the rollback to a branch of its own, and opens a pull request where a forge is known. atOnce has that
// merged, if the forge lets it.
func (r *Repository) proposeRevert(ctx context.Context, app string, revert rollout.Revert, edit func(*gitsync.Snapshot) (*gitsync.Change, error), atOnce bool) (rollout.Reverted, error) {
	// One branch for each failed commit: what an older rollback left on its branch says nothing of this one.
	name := "sluice/rollback/" + r.cfg.Environment + "/" + app + "-" + revert.From.Commit[:min(10, len(revert.From.Commit))]
	w, err := r.branch.Branch(name)
	if err != nil {
		return rollout.Reverted{}, err
	}
	hash, err := w.Commit(ctx, edit)
	if err != nil {
		return skipped(err)
	}
	// Without a hash the branch held the rollback already: the answer to an earlier try was lost.
	proposed := rollout.Reverted{Branch: name, Commit: hash}
	if r.cfg.Forge == nil {
		return proposed, nil
	}
	return r.pullRevert(ctx, app, revert, proposed, atOnce)
}

// pullRevert opens the pull request of a rollback that is pushed, and merges it if it is to be and may be.
func (r *Repository) pullRevert(ctx context.Context, app string, revert rollout.Revert, proposed rollout.Reverted, merge bool) (rollout.Reverted, error) {
	pull, err := r.revertPull(ctx, app, revert, proposed.Branch)
	switch {
	case errors.Is(err, forge.ErrUnauthorized), errors.Is(err, forge.ErrForbidden), errors.Is(err, forge.ErrNotFound):
		// No further try would open it; the branch is there for somebody who can.
		r.log.Error("the rollback waits on a branch without a pull request", "app", app, "branch", proposed.Branch, "error", err)
		return proposed, nil
	case err != nil:
		return rollout.Reverted{}, err
	}
	proposed.URL = pull.URL
	if merge && pull.State == forge.Open {
		err := r.cfg.Forge.Merge(ctx, *pull, pull.Title)
		if err == nil {
			pull, err = r.cfg.Forge.Get(ctx, pull.Number)
		}
		if err != nil {
			r.log.Warn("the rollback waits to be merged", "app", app, "pull request", proposed.URL, "reason", err)
			return proposed, nil
		}
	}
	if pull.State == forge.Merged {
		return rollout.Reverted{Commit: pull.MergeCommit}, nil
	}
	return proposed, nil
}

// revertPull is the pull request of a rollback, opened if it is not.
func (r *Repository) revertPull(ctx context.Context, app string, revert rollout.Revert, branch string) (*forge.Pull, error) {
	base := r.repo.Remote().Branch
	pull, err := r.cfg.Forge.Find(ctx, branch, base)
	if err != nil || pull != nil {
		return pull, err
	}
	title, body, _ := strings.Cut(audit.RollbackMessage(r.names(), app, revert), "\n")
	return r.cfg.Forge.Create(ctx, forge.Pull{
		Head: branch, Base: base, Title: title, Body: strings.TrimSpace(body), Labels: []string{"env/" + r.cfg.Environment, "rollback"},
	})
}

// foundRevert answers for a tip that no longer says what failed: by a commit of ours whose answer was lost, or, for
// the reason given, by somebody else's.
func (r *Repository) foundRevert(ctx context.Context, app string, revert rollout.Revert, otherwise string) (rollout.Reverted, error) {
	tip, err := r.repo.Fetch(ctx)
	if err != nil {
		return rollout.Reverted{}, err
	}
	history, err := r.repo.Commits(ctx, tip.Commit, revert.From.Commit, historyLimit)
	if err != nil {
		return rollout.Reverted{}, err
	}
	for _, c := range history {
		if audit.IsRollback(c.Message, app, revert) {
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
