package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/sluice-cd/sluice/gitsync"
)

// maxPlainFiles bounds what is read of a directory without git, which may be anybody's home.
const maxPlainFiles = 100_000

// open is sourceFlags.open for what is only looked at: a directory without git is taken as a repository with one commit.
func (f *inspection) open(ctx context.Context) (*gitsync.Repo, *gitsync.Snapshot, func(), error) {
	dir, local := f.directory()
	if !local {
		return f.sourceFlags.open(ctx, "")
	}
	if _, err := gitsync.OpenLocal(dir); !errors.Is(err, transport.ErrRepositoryNotFound) {
		return f.sourceFlags.open(ctx, "")
	}
	if above := repositoryAbove(dir); above != "" {
		return nil, nil, nil, usagef("--repo: %s is inside the git repository %s: use that, and --path for the environment's directory", dir, above)
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() || f.branch != "" || f.commit != "" {
		return f.sourceFlags.open(ctx, "") // it says what is wrong
	}
	made, err := commitOf(ctx, dir)
	if err != nil {
		return nil, nil, nil, err
	}
	copied := f.sourceFlags
	copied.repo = made
	repo, tip, done, err := copied.open(ctx, "")
	if err != nil {
		_ = os.RemoveAll(made)
		return nil, nil, nil, err
	}
	return repo, tip, func() { done(); _ = os.RemoveAll(made) }, nil
}

// repositoryAbove is the git repository that a directory is in; empty when there is none.
func repositoryAbove(dir string) string {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	for at := filepath.Dir(abs); ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, ".git")); err == nil {
			return at
		}
		if at == filepath.Dir(at) {
			return ""
		}
	}
}

// commitOf makes a repository of one commit that holds what a directory does. It is the caller's to remove.
func commitOf(ctx context.Context, dir string) (made string, err error) {
	if made, err = os.MkdirTemp("", "sluice-"); err != nil {
		return "", fmt.Errorf("making a directory for git objects: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(made)
		}
	}()
	repo, err := git.PlainInit(made, true)
	if err != nil {
		return "", fmt.Errorf("making a repository of %s: %w", dir, err)
	}
	p := &plainDir{ctx: ctx, store: repo.Storer}
	tree, err := p.tree(dir)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", dir, err)
	}
	nobody := object.Signature{Name: "nobody", When: time.Unix(0, 0).UTC()}
	commit, err := p.keep(&object.Commit{Author: nobody, Committer: nobody, Message: "a directory without git", TreeHash: tree})
	if err != nil {
		return "", fmt.Errorf("making a repository of %s: %w", dir, err)
	}
	head, err := repo.Reference(plumbing.HEAD, false)
	if err == nil {
		err = repo.Storer.SetReference(plumbing.NewHashReference(head.Target(), commit))
	}
	if err != nil {
		return "", fmt.Errorf("making a repository of %s: %w", dir, err)
	}
	return made, nil
}

// plainDir puts a directory into a store of git objects.
type plainDir struct {
	ctx   context.Context
	store storer.EncodedObjectStorer
	files int
}

func (p *plainDir) tree(dir string) (plumbing.Hash, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	tree := &object.Tree{}
	for _, e := range entries {
		if p.files++; p.files > maxPlainFiles {
			return plumbing.ZeroHash, fmt.Errorf("more than %d files; expected an environment's directory", maxPlainFiles)
		}
		if err := p.ctx.Err(); err != nil {
			return plumbing.ZeroHash, err
		}
		entry := object.TreeEntry{Name: e.Name()}
		if entry.Mode, entry.Hash, err = p.entry(filepath.Join(dir, e.Name()), e.Type()); err != nil {
			return plumbing.ZeroHash, err
		}
		if entry.Mode != filemode.Empty {
			tree.Entries = append(tree.Entries, entry)
		}
	}
	slices.SortFunc(tree.Entries, func(a, b object.TreeEntry) int { return strings.Compare(sortName(a), sortName(b)) })
	return p.keep(tree)
}

// sortName is an entry's name as git sorts it.
func sortName(e object.TreeEntry) string {
	if e.Mode == filemode.Dir {
		return e.Name + "/"
	}
	return e.Name
}

// entry keeps one entry; its mode is empty for sockets and the like, which git does not have.
func (p *plainDir) entry(name string, mode fs.FileMode) (filemode.FileMode, plumbing.Hash, error) {
	switch {
	case mode.IsDir():
		hash, err := p.tree(name)
		return filemode.Dir, hash, err
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(name)
		if err != nil {
			return 0, plumbing.ZeroHash, err
		}
		hash, err := p.blob([]byte(target))
		return filemode.Symlink, hash, err
	case mode.IsRegular():
		data, err := os.ReadFile(name)
		if err != nil {
			return 0, plumbing.ZeroHash, err
		}
		hash, err := p.blob(data)
		return filemode.Regular, hash, err
	}
	return filemode.Empty, plumbing.ZeroHash, nil
}

func (p *plainDir) blob(data []byte) (plumbing.Hash, error) {
	o := &plumbing.MemoryObject{}
	o.SetType(plumbing.BlobObject)
	if _, err := o.Write(data); err != nil {
		return plumbing.ZeroHash, err
	}
	return p.store.SetEncodedObject(o)
}

func (p *plainDir) keep(o interface {
	Encode(plumbing.EncodedObject) error
},
) (plumbing.Hash, error) {
	encoded := p.store.NewEncodedObject()
	if err := o.Encode(encoded); err != nil {
		return plumbing.ZeroHash, err
	}
	return p.store.SetEncodedObject(encoded)
}
