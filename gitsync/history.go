package gitsync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
)

// Descends reports whether a commit is, or has among its ancestors, another one: so it is as long as nobody rewrites the
// branch's history. The nearest ancestors are looked at first, merged branches included, and limit at most. An error
// says that it can't be told, as the history that is here ends before the other commit.
func (r *Repo) Descends(commit, from string, limit int) (bool, error) {
	todo := []string{commit}
	seen := map[string]bool{commit: true}
	end := ""
	for len(todo) > 0 && len(seen) <= limit {
		hash := todo[0]
		todo = todo[1:]
		if hash == from {
			return true, nil
		}
		if !r.store.has(plumbing.NewHash(hash)) {
			end = hash
			continue
		}
		c, err := r.commit(hash)
		if err != nil {
			return false, err
		}
		for _, p := range c.Parents {
			if !seen[p] {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	if end != "" {
		return false, fmt.Errorf("walking the history of %s: it ends before commit %s, which is not here", r.remote.Branch, end)
	}
	return false, nil
}

// MergeBase is where two commits have parted: an ancestor of both, or one of them, the newest by the commits' own dates. It
// looks at so many commits at most.
func (r *Repo) MergeBase(x, y string, limit int) (*Snapshot, error) {
	const both = 3
	sides, todo := map[string]int{}, []*Commit{}
	reach := func(hash string, side int) error {
		if sides[hash]|side == sides[hash] {
			return nil
		}
		sides[hash] |= side
		c, err := r.commit(hash)
		if err == nil {
			todo = append(todo, c)
		}
		return err
	}
	if err := errors.Join(reach(x, 1), reach(y, 2)); err != nil {
		return nil, err
	}
	for n := 0; len(todo) > 0; n++ {
		if n == limit {
			return nil, fmt.Errorf("finding where commits %.10s and %.10s have parted: it is more than %d commits ago", x, y, limit)
		}
		newest := 0
		for i, c := range todo {
			if c.Time.After(todo[newest].Time) {
				newest = i
			}
		}
		c := todo[newest]
		if sides[c.Hash] == both {
			return r.At(c.Hash)
		}
		todo = slices.Delete(todo, newest, newest+1)
		for _, p := range c.Parents {
			if err := reach(p, sides[c.Hash]); err != nil {
				return nil, err
			}
		}
	}
	return nil, fmt.Errorf("finding where commits %.10s and %.10s have parted: they have no history in common", x, y)
}

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
