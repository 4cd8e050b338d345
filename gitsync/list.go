package gitsync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Branches lists the branches of a remote whose names begin with prefix, sorted. The remote's own branch need not be there.
func Branches(ctx context.Context, remote Remote, prefix string) ([]string, error) {
	tips, err := Tips(ctx, remote, prefix)
	return slices.Sorted(maps.Keys(tips)), err
}

// Tips are the commits that these branches are at, by their names. All of them cost one request.
func Tips(ctx context.Context, remote Remote, prefix string) (map[string]string, error) {
	if err := remote.Validate(); err != nil {
		return nil, fmt.Errorf("listing branches: %w", err)
	}
	l, err := newLink(remote.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("listing branches: %w", err)
	}
	tips, err := l.tips(ctx, prefix)
	if err != nil {
		return nil, l.fault("listing the branches of", err)
	}
	return tips, nil
}

func (l *link) tips(ctx context.Context, prefix string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, l.remote.Timeout)
	defer cancel()
	session, err := l.uploadPack(ctx)
	if err != nil {
		return nil, cause(ctx, err)
	}
	defer session.Close()
	refs, _, err := advertised(ctx, session, l.remote.Branch)
	if err != nil && !errors.Is(err, ErrBranchNotFound) {
		return nil, err
	}
	if refs == nil {
		return nil, nil
	}
	tips := map[string]string{}
	for name, hash := range refs.References {
		if branch, ok := strings.CutPrefix(name, "refs/heads/"); ok && strings.HasPrefix(branch, prefix) {
			tips[branch] = hash.String()
		}
	}
	return tips, nil
}

// CanPush reports whether the remote would take a push, as far as it says so before one: the credential may write, and the
// repository is there. It sends nothing, so it learns nothing of branches that are protected.
func CanPush(ctx context.Context, remote Remote) error {
	if err := remote.Validate(); err != nil {
		return fmt.Errorf("asking for a push: %w", err)
	}
	l, err := newLink(remote.withDefaults())
	if err != nil {
		return fmt.Errorf("asking for a push: %w", err)
	}
	return l.fault("asking for a push to", l.canPush(ctx))
}

func (l *link) canPush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, l.remote.Timeout)
	defer cancel()
	session, err := l.receivePack(ctx)
	if err != nil {
		return cause(ctx, err)
	}
	defer session.Close()
	if _, _, err := advertised(ctx, session, l.remote.Branch); err != nil && !errors.Is(err, ErrBranchNotFound) {
		return cause(ctx, err)
	}
	return nil
}
