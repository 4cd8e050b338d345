package gitsync

import (
	"io/fs"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// emptyTree is git's name of a tree without entries, which need not be stored.
var emptyTree = plumbing.ComputeHash(plumbing.TreeObject, nil)

// Snapshot is a branch, whole, at one commit.
type Snapshot struct {
	// Commit is the commit's hash, in full; empty for the Snapshot that a Writer makes of a branch that does not
	// exist yet.
	Commit string
	// Time is when it was committed.
	Time time.Time
	// Author, Subject (the message's first line) and Message of the commit.
	Author           Identity
	Subject, Message string
	// Parents are the hashes of the commits before it, the branch's own first.
	Parents []string

	store *store
	root  plumbing.Hash
	fs    func() *treeFS
}

func newSnapshot(s *store, c *Commit) *Snapshot {
	snap := &Snapshot{
		Commit: c.Hash, Time: c.Time, Author: c.Author, Subject: c.Subject(), Message: c.Message, Parents: c.Parents,
		store: s, root: c.tree,
	}
	snap.fs = sync.OnceValue(func() *treeFS { return &treeFS{store: s, root: c.tree, time: c.Time} })
	return snap
}

// FS reads the commit's files from the object store. Nothing is read before it is asked for: to open one file
// only the trees on the way to it are.
//
// It implements fs.ReadFileFS, fs.ReadDirFS, fs.StatFS and fs.ReadLinkFS, and has Hash, and List for large directories.
// Symlinks are followed as long as they stay inside the tree. A submodule is listed as an irregular file; it, whatever is in it,
// and a pointer of Git LFS are errors when opened.
// Modification times are the commit's. It remains usable as long as the Repo does.
func (s *Snapshot) FS() fs.FS { return s.fs() }

// Hash is git's hash of a file's or directory's content, without reading it. Equal hashes have equal content,
// except that a directory's hash covers where the symlinks in it point and not what is there.
func (s *Snapshot) Hash(name string) (string, error) {
	e, err := s.fs().lookup("hash", name, true)
	if err != nil {
		return "", err
	}
	return e.hash.String(), nil
}
