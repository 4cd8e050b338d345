package gitsync

import (
	"context"
	"fmt"
)

// Commits walks the first parents from a commit, itself included, newest first: what the branch pointed at, one
// after the other. It ends before stop, after limit commits (0: no limit), and at the beginning of the history.
func (r *Repo) Commits(ctx context.Context, from, stop string, limit int) ([]Commit, error) {
	var list []Commit
	for hash := from; hash != stop && (limit <= 0 || len(list) < limit); {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("walking the history of %s: %w", r.remote.Branch, context.Cause(ctx))
		}
		c, err := r.commit(hash)
		if err != nil {
			return nil, err
		}
		list = append(list, *c)
		if len(c.Parents) == 0 {
			break
		}
		hash = c.Parents[0]
	}
	return list, nil
}

// LastChange finds the newest commit of the first-parent history of tip at which same(commit, parent) is false:
// the one that brought about what tip says. The search goes back as far as stop (empty: to the beginning), the
// history's first commit, or limit commits (0: no limit); when nothing differed until there, that is the answer.
func (r *Repo) LastChange(ctx context.Context, tip, stop string, limit int, same func(commit, parent *Snapshot) (bool, error)) (string, error) {
	at, err := r.At(tip)
	if err != nil {
		return "", err
	}
	for n := 1; at.Commit != stop && n != limit; n++ {
		if err := ctx.Err(); err != nil {
			return "", fmt.Errorf("walking the history of %s: %w", r.remote.Branch, context.Cause(ctx))
		}
		c, err := r.commit(at.Commit)
		if err != nil {
			return "", err
		}
		if len(c.Parents) == 0 {
			break
		}
		parent, err := r.At(c.Parents[0])
		if err != nil {
			return "", err
		}
		equal, err := same(at, parent)
		if err != nil {
			return "", fmt.Errorf("comparing commit %s with its parent: %w", at.Commit, err)
		}
		if !equal {
			break
		}
		at = parent
	}
	return at.Commit, nil
}
