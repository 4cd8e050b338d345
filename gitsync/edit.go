package gitsync

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// Change is what one commit does.
type Change struct {
	// Files by path (as fs.ValidPath has it). nil deletes the file, an empty slice empties it. Executable files
	// stay so. A directory that has no files left goes.
	Files map[string][]byte
	// Empty makes a commit though no file changes: its message is what it says.
	Empty bool
	// Message of the commit; the first line is its subject.
	Message string
	// Author defaults to the Writer's identity, Committer to Author.
	Author, Committer Identity
	// Date of the commit; default now.
	Date time.Time
	// Sign makes an armoured signature of the commit; nil: it is not signed.
	Sign func(commit []byte) (string, error)
	// Upon is what Files change, where that is not the branch's tip: the commit has its tree, and it as its second parent.
	Upon *Snapshot
}

// edit is a directory of a Change.
type edit struct {
	dirs  map[string]*edit
	files map[string][]byte
}

// planEdit sorts files into directories.
func planEdit(files map[string][]byte) (*edit, error) {
	root := &edit{}
	for name, data := range files {
		if err := checkPath(name); err != nil {
			return nil, err
		}
		dir, elems := root, strings.Split(name, "/")
		for _, elem := range elems[:len(elems)-1] {
			if dir.dirs == nil {
				dir.dirs = map[string]*edit{}
			}
			if dir.dirs[elem] == nil {
				dir.dirs[elem] = &edit{}
			}
			dir = dir.dirs[elem]
		}
		if dir.files == nil {
			dir.files = map[string][]byte{}
		}
		dir.files[elems[len(elems)-1]] = data
	}
	return root, root.conflict()
}

// conflict finds a path that is both a file and a directory.
func (e *edit) conflict() error {
	for name, dir := range e.dirs {
		if data, both := e.files[name]; both && data != nil {
			return fmt.Errorf("writing %s: it can't be a file and a directory", name)
		}
		if err := dir.conflict(); err != nil {
			return err
		}
	}
	return nil
}

// checkPath refuses paths that git, or a file system that somebody checks the branch out on, would not take.
func checkPath(name string) error {
	if !fs.ValidPath(name) || name == "." || strings.ContainsAny(name, "\x00\\") {
		return fmt.Errorf("writing %q: not a path in a repository", name)
	}
	for elem := range strings.SplitSeq(name, "/") {
		if strings.EqualFold(elem, ".git") {
			return fmt.Errorf("writing %q: .git is git's own", name)
		}
	}
	return nil
}

// builder makes new trees out of old ones. objects collects what is new, and made its hashes.
type builder struct {
	store   *store
	objects []packObject
	made    map[plumbing.Hash]bool
	// trees that were made by an earlier commit of the same push, and are in no store yet.
	trees map[plumbing.Hash]*tree
}

func newBuilder(s *store) *builder {
	return &builder{store: s, made: map[plumbing.Hash]bool{}, trees: map[plumbing.Hash]*tree{}}
}

// tree reads a tree of the store or of the builder's own.
func (b *builder) tree(h plumbing.Hash) (*tree, error) {
	if t, ok := b.trees[h]; ok {
		return t, nil
	}
	return b.store.tree(h)
}

// put adds an object to the push, once.
func (b *builder) put(typ plumbing.ObjectType, data []byte) plumbing.Hash {
	o := newObject(typ, data)
	if !b.made[o.hash] {
		b.made[o.hash] = true
		b.objects = append(b.objects, o)
	}
	return o.hash
}

// apply returns the tree that results of e upon the tree old; the empty tree when nothing is left. Only the trees
// that e touches are read.
func (b *builder) apply(old plumbing.Hash, e *edit, at string) (plumbing.Hash, error) {
	t := &tree{}
	if old != emptyTree {
		var err error
		if t, err = b.tree(old); err != nil {
			return old, err
		}
	}
	changed := map[string]entry{} // zero hash: gone
	for name, data := range e.files {
		was, ok := t.find(name)
		if ok && data != nil && !was.isFile() || ok && was.mode == filemode.Submodule {
			return old, fmt.Errorf("writing %s%s: it is a directory, symlink or submodule", at, name)
		}
		if data == nil {
			if ok && was.isDir() {
				return old, fmt.Errorf("deleting %s%s: it is a directory", at, name)
			}
			changed[name] = entry{name: name}
			continue
		}
		mode := filemode.Regular
		if ok {
			mode = was.mode
		}
		changed[name] = entry{name: name, mode: mode, hash: b.put(plumbing.BlobObject, data)}
	}
	for name, sub := range e.dirs {
		was, ok := t.find(name)
		_, replaced := changed[name] // a file that is deleted to make room for a directory
		if ok && !was.isDir() && !replaced {
			return old, fmt.Errorf("writing below %s%s: it is not a directory", at, name)
		}
		if !ok || !was.isDir() {
			was.hash = emptyTree
		}
		h, err := b.apply(was.hash, sub, at+name+"/")
		if err != nil {
			return old, err
		}
		if h == emptyTree {
			h = plumbing.ZeroHash
		}
		changed[name] = entry{name: name, mode: filemode.Dir, hash: h}
	}
	return b.write(t, changed)
}

// write makes a tree of an old one and what changed in it.
func (b *builder) write(t *tree, changed map[string]entry) (plumbing.Hash, error) {
	raw := t.change(changed)
	if len(raw) == 0 {
		return emptyTree, nil
	}
	made, err := parseTree(raw)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	h := b.put(plumbing.TreeObject, raw)
	b.trees[h] = made
	return h, nil
}

// build makes the objects of changes upon a snapshot, each a commit upon the one before it, and returns the newest
// commit. Changes that change nothing make none; no objects when none does.
func build(tip *Snapshot, changes []*Change, self Identity, now time.Time) ([]packObject, *Commit, error) {
	b := newBuilder(tip.store)
	last := &Commit{Hash: tip.Commit, tree: tip.root}
	for _, ch := range changes {
		c, err := b.commit(last, ch, self, now)
		if err != nil {
			return nil, nil, err
		}
		last = c
	}
	if last.Hash == tip.Commit {
		return nil, last, nil
	}
	return b.objects, last, b.within(tip.store.limits.Object)
}

// Edited is what a snapshot becomes by a change, which is kept beside it and told to nobody. A change that changes nothing gives
// the snapshot itself.
func (s *Snapshot) Edited(ctx context.Context, ch Change) (*Snapshot, error) {
	objects, c, err := build(s, []*Change{&ch}, Identity{Name: "Sluice", Email: "sluice@localhost"}, time.Now())
	if err != nil || len(objects) == 0 {
		return s, err
	}
	pack, err := encodePack(objects)
	if err != nil {
		return nil, err
	}
	if err := s.store.receive(ctx, bytes.NewReader(pack)); err != nil {
		return nil, fmt.Errorf("keeping an edit: %w", err)
	}
	return newSnapshot(s.store, c), nil
}

// commit makes the objects of one change upon a commit; that commit itself when it changes nothing.
func (b *builder) commit(parent *Commit, ch *Change, self Identity, now time.Time) (*Commit, error) {
	if ch == nil {
		return parent, nil
	}
	e, err := planEdit(ch.Files)
	if err != nil {
		return nil, err
	}
	upon := parent.tree
	if ch.Upon != nil {
		upon = ch.Upon.root
	}
	root, err := b.apply(upon, e, "")
	if err != nil {
		return nil, err
	}
	if root == upon && !ch.Empty {
		return parent, nil
	}
	if root == emptyTree {
		b.put(plumbing.TreeObject, nil)
	}
	c := &Commit{tree: root, Author: ch.Author, Committer: ch.Committer, AuthorTime: ch.Date, Message: ch.Message}
	if parent.Hash != "" {
		c.Parents = []string{parent.Hash}
	}
	if ch.Upon != nil && ch.Upon.Commit != parent.Hash {
		c.Parents = append(c.Parents, ch.Upon.Commit)
	}
	if c.Author == (Identity{}) {
		c.Author = self
	}
	if c.Committer == (Identity{}) {
		c.Committer = c.Author
	}
	if c.AuthorTime.IsZero() {
		c.AuthorTime = now
	}
	c.Time = c.AuthorTime
	raw, err := encodeCommit(c)
	if err != nil {
		return nil, fmt.Errorf("building commit: %w", err)
	}
	if ch.Sign != nil {
		signature, err := ch.Sign(raw)
		if err != nil {
			return nil, fmt.Errorf("signing the commit: %w", err)
		}
		raw = sign(raw, signature)
	}
	c.Hash = b.put(plumbing.CommitObject, raw).String()
	return c, nil
}

// within refuses objects that would not be read back.
func (b *builder) within(limit int64) error {
	for _, o := range b.objects {
		if int64(len(o.data)) > limit {
			return fmt.Errorf("building commit: %w", tooLarge("an object", limit))
		}
	}
	return nil
}
