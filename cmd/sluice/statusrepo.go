package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
)

// open fetches the status branch, from wherever the environment has it.
func (f *statusSource) open(ctx context.Context) (*gitsync.Repo, *gitsync.Snapshot, func(), error) {
	where, err := f.place(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	branch, err := f.name()
	if err != nil {
		return nil, nil, nil, err
	}
	repo, tip, done, err := where.open(ctx, branch)
	return repo, tip, done, where.missingBranch(ctx, err, branch)
}

// place is the repository of status branches and commands: the one that is named, else the one that sluice.yaml names, else the
// environment repository. It also finds the environment's name where no flag says it.
func (f *statusSource) place(ctx context.Context) (sourceFlags, error) {
	if f.statusRepo != "" && (f.environment != "" || f.branchName != "") {
		return f.placeIn(nil)
	}
	tip, done, err := f.tipOf(ctx, "")
	if errors.Is(err, gitsync.ErrBranchNotFound) {
		return f.sourceFlags, nil // nobody has named another
	}
	if err != nil {
		return f.sourceFlags, err
	}
	defer done()
	if f.environment == "" && f.branchName == "" {
		env, err := (&environments.Loader{}).Load(tip.FS(), f.path)
		if err != nil {
			return f.sourceFlags, fmt.Errorf("reading the environment's name, which --environment would say: %w", err)
		}
		f.environment = env.Name
	}
	return f.placeIn(tip.FS())
}

// placeIn is place, of what the environment branch says.
func (f *statusSource) placeIn(environment fs.FS) (sourceFlags, error) {
	if f.statusRepo == "" {
		return f.statusIn(environment)
	}
	named := f.sourceFlags
	named.repo = f.statusRepo
	return named, nil
}

// tipOf is the newest commit of a branch, without its history; an empty one is the environment branch.
func (f *sourceFlags) tipOf(ctx context.Context, branch string) (*gitsync.Snapshot, func(), error) {
	remote, err := f.remote(branch)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "sluice-")
	if err != nil {
		return nil, nil, err
	}
	done := func() { _ = os.RemoveAll(dir) }
	var tip *gitsync.Snapshot
	err = signedIn(ctx, remote, func(remote gitsync.Remote) error {
		w, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: remote}, dir)
		if err != nil {
			return err
		}
		tip, err = w.Tip(ctx)
		return err
	})
	if err != nil {
		done()
		return nil, nil, err
	}
	return tip, done, nil
}

// statusIn is the repository that the sluice.yaml of an environment names. It is given the credentials of the flags only where it is
// on the host of the environment repository: whom a password is sent to is not for a repository to say.
func (f *sourceFlags) statusIn(environment fs.FS) (sourceFlags, error) {
	where := *f
	repo, err := environments.StatusRepository(environment, f.path)
	if err != nil || repo == "" {
		return where, err
	}
	own, err := f.pushRemote("main")
	if err != nil {
		return where, err
	}
	where.repo = repo
	if !sameHost(repo, own.URL) {
		where.username, where.passwordFile = "", ""
	}
	return where, nil
}

// sameHost reports whether two addresses are of one server, reached in one way.
func sameHost(a, b string) bool {
	x, err := url.Parse(a)
	if err != nil {
		return false
	}
	y, err := url.Parse(b)
	return err == nil && x.Host != "" && x.Scheme == y.Scheme && x.Host == y.Host
}
