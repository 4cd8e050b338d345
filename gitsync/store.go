package gitsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

const (
	// markerFile shows that a directory is ours to delete; it names the remote and the branch.
	markerFile = "sluice-remote"
	// objectCache and treeCacheSize bound the caches of one store, in bytes.
	objectCache   = 4 * cache.MiByte
	treeCacheSize = 4 << 20
	// maxSmallPacks is the number at which small packs are joined: each fetch adds one, and looking up an object
	// asks them all.
	maxSmallPacks = 50
	// smallPack is the size in bytes below which a pack counts as small. Larger ones hold deltas that joining
	// would undo.
	smallPack = 1 << 20
)

// store keeps git objects in a directory, as packs only. It is a cache of what the remote holds.
type store struct {
	dir    string
	limits Limits
	trees  *treeCache

	mu sync.Mutex
	// sto is not safe for concurrent use; mu guards it.
	sto *filesystem.Storage
	// damaged: an object that must be there could not be read. The next fetch begins anew.
	damaged bool
}

// openStore opens dir, or makes it. A directory that belongs to another remote, or is broken, is emptied; one
// that is somebody else's is refused.
func openStore(dir string, r Remote) (*store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	s := &store{dir: dir, limits: r.Limits, trees: newTreeCache(treeCacheSize)}
	want := r.String() + "\n"
	have, err := os.ReadFile(filepath.Join(dir, markerFile))
	switch {
	case errors.Is(err, os.ErrNotExist):
		if list, _ := os.ReadDir(dir); len(list) > 0 {
			return nil, fmt.Errorf("%s has other files in it", dir)
		}
	case err != nil:
		return nil, err
	case string(have) == want:
		if s.open() == nil && s.check() == nil {
			return s, nil
		}
	}
	if err := s.close(); err != nil {
		return nil, err
	}
	return s, s.reset(want)
}

// reset empties the directory and begins anew. marker names the remote; empty: as before.
func (s *store) reset(marker string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if marker == "" {
		b, err := os.ReadFile(filepath.Join(s.dir, markerFile))
		if err != nil {
			return err
		}
		marker = string(b)
	}
	if s.sto != nil {
		_ = s.sto.Close()
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	// The marker goes first and stays: after a crash in between, the directory is still known to be ours.
	if err := os.WriteFile(filepath.Join(s.dir, markerFile), []byte(marker), 0o600); err != nil {
		return err
	}
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Name() != markerFile {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	s.sto = s.storage()
	s.damaged = false
	return s.sto.Init()
}

func (s *store) storage() *filesystem.Storage {
	return filesystem.NewStorageWithOptions(osfs.New(s.dir, osfs.WithBoundOS()), cache.NewObjectLRU(objectCache),
		filesystem.Options{KeepDescriptors: true})
}

func (s *store) open() error {
	spools, _ := filepath.Glob(filepath.Join(s.dir, "*.tmp"))
	for _, f := range spools {
		_ = os.Remove(f) // what a crash left half written
	}
	s.removeLeftovers()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sto = s.storage()
	return nil
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sto == nil {
		return nil
	}
	err := s.sto.Close()
	s.sto = nil
	return err
}

// check reads all indexes, the tips and their trees.
func (s *store) check() error {
	s.mu.Lock()
	refs, err := s.sto.IterReferences()
	if miss := s.lookUp(plumbing.ZeroHash); err == nil && !errors.Is(miss, plumbing.ErrObjectNotFound) {
		err = miss
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	return refs.ForEach(func(ref *plumbing.Reference) error {
		if ref.Type() != plumbing.HashReference {
			return nil
		}
		c, err := s.commit(ref.Hash())
		if err != nil {
			return err
		}
		_, err = s.tree(c.tree)
		return err
	})
}

func (s *store) packDir() string { return filepath.Join(s.dir, "objects", "pack") }

// isDamaged reports whether an object that must be there could not be read.
func (s *store) isDamaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged
}

// tip of a branch as it was last fetched or pushed; zero when it never was.
func (s *store) tip(branch string) (plumbing.Hash, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ref, err := s.sto.Reference(branchRef(branch))
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		return plumbing.ZeroHash, nil
	}
	if err != nil {
		return plumbing.ZeroHash, err
	}
	return ref.Hash(), nil
}

func (s *store) setTip(branch string, h plumbing.Hash) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sto.SetReference(plumbing.NewHashReference(branchRef(branch), h))
}

func (s *store) has(h plumbing.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.lookUp(h)
	if err != nil && !errors.Is(err, plumbing.ErrObjectNotFound) {
		s.damaged = true // an index that can't be read hides whatever is there
	}
	return err == nil
}

// lookUp finds an object. The caller holds mu.
func (s *store) lookUp(h plumbing.Hash) error {
	if s.sto == nil {
		return os.ErrClosed
	}
	return s.sto.HasEncodedObject(h)
}

// object reads an object of a type, of at most limit bytes.
func (s *store) object(typ plumbing.ObjectType, h plumbing.Hash, limit int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, err := s.read(typ, h, limit)
	if err != nil && !errors.Is(err, ErrTooLarge) {
		s.damaged = true
	}
	return data, err
}

func (s *store) read(typ plumbing.ObjectType, h plumbing.Hash, limit int64) (data []byte, err error) {
	if s.sto == nil {
		return nil, os.ErrClosed
	}
	o, err := s.sto.EncodedObject(typ, h)
	if err != nil {
		return nil, unread(typ.String(), h, err)
	}
	if o.Size() > limit {
		return nil, fmt.Errorf("%s %s: %w", typ, h, tooLarge("it", limit))
	}
	r, err := o.Reader()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", typ, h, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	data = make([]byte, o.Size())
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("%s %s: %w", typ, h, err)
	}
	return data, nil
}

// size of an object in bytes.
func (s *store) size(h plumbing.Hash) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sto == nil {
		return 0, os.ErrClosed
	}
	n, err := s.sto.EncodedObjectSize(h)
	if err != nil {
		s.damaged = true
		return 0, unread("object", h, err)
	}
	return n, nil
}

// unread says which object can't be read. One that is not there was not sent: git leaves files out of partial clones.
func unread(kind string, h plumbing.Hash, err error) error {
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return fmt.Errorf("%s %s: %w; to a partial clone, git fetch --refetch --no-filter brings it", kind, h, err)
	}
	return fmt.Errorf("%s %s: %w", kind, h, err)
}

func (s *store) tree(h plumbing.Hash) (*tree, error) {
	if t, ok := s.trees.get(h); ok {
		return t, nil
	}
	raw, err := s.object(plumbing.TreeObject, h, s.limits.Object)
	if err != nil {
		return nil, err
	}
	t, err := parseTree(raw)
	if err != nil {
		return nil, fmt.Errorf("tree %s: %w", h, err)
	}
	s.trees.put(h, t)
	return t, nil
}

func (s *store) commit(h plumbing.Hash) (*Commit, error) {
	raw, err := s.object(plumbing.CommitObject, h, s.limits.Object)
	if err != nil {
		return nil, err
	}
	c, err := parseCommit(h, raw)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", h, err)
	}
	return c, nil
}

// receive checks the pack in r and adds it.
func (s *store) receive(ctx context.Context, r io.Reader) (err error) {
	spool, err := spoolPack(r, s.dir, s.limits.Pack)
	defer func() { err = errors.Join(err, spool.Close()) }()
	if err != nil {
		return err
	}
	pack, err := spool.reader()
	if err != nil {
		return err
	}
	objects, err := checkPack(ctx, pack, spool.size, s.limits.Object, s.limits.Inflated)
	if err != nil || objects == 0 {
		return err
	}
	if int64(objects) > s.limits.Objects {
		return fmt.Errorf("the pack is %w: %d objects, where the limit is %d", ErrTooLarge, objects, s.limits.Objects)
	}
	if pack, err = spool.reader(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(func(w io.Writer) error {
		_, err := io.Copy(w, pack)
		return err
	})
}

// add stores the pack that write writes. The caller holds mu.
func (s *store) add(write func(io.Writer) error) error {
	w, err := s.sto.PackfileWriter()
	if err != nil {
		return err
	}
	if err := errors.Join(write(w), w.Close()); err != nil {
		s.removeLeftovers() // go-git leaves a pack that it can't index lying about
		return err
	}
	return nil
}

// removeLeftovers removes packs that were not finished, and indexes without a pack: go-git takes an index that is
// there already for a whole one.
func (s *store) removeLeftovers() {
	unfinished, _ := filepath.Glob(filepath.Join(s.packDir(), "tmp_*"))
	indexes, _ := filepath.Glob(filepath.Join(s.packDir(), "*.idx"))
	for _, idx := range indexes {
		if _, err := os.Stat(strings.TrimSuffix(idx, ".idx") + ".pack"); errors.Is(err, os.ErrNotExist) {
			unfinished = append(unfinished, idx)
		}
	}
	for _, f := range unfinished {
		_ = os.Remove(f)
	}
}

// tidy joins small packs when there are many.
func (s *store) tidy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	packs, err := s.packs()
	if err != nil {
		return err
	}
	var small []string
	for name, size := range packs {
		if size < smallPack {
			small = append(small, name)
		}
	}
	if len(small) < maxSmallPacks {
		return nil
	}
	hashes, err := s.objectsOf(small)
	if err != nil {
		return err
	}
	err = s.add(func(w io.Writer) error { return s.repack(w, hashes) })
	if err != nil {
		return err
	}
	joined, err := s.packs()
	if err != nil || len(joined) <= len(packs) {
		return err
	}
	return s.drop(small)
}

// replace removes old packs when a newer one holds all that they do.
func (s *store) replace(old []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	packs, err := s.packs()
	if err != nil || len(packs) <= len(old) {
		return err // what came is one of the old ones
	}
	return s.drop(old)
}

// drop removes packs whose objects are in others. The caller holds mu, which keeps readers out until they are gone.
func (s *store) drop(packs []string) error {
	if err := s.sto.Close(); err != nil {
		return err
	}
	var err error
	for _, name := range packs {
		for _, ext := range []string{".pack", ".idx"} {
			err = errors.Join(err, os.Remove(filepath.Join(s.packDir(), name+ext)))
		}
	}
	s.sto = s.storage()
	return err
}

// packs lists the packs by name, with their sizes in bytes.
func (s *store) packs() (map[string]int64, error) {
	list, err := os.ReadDir(s.packDir())
	if err != nil {
		return nil, err
	}
	packs := map[string]int64{}
	for _, e := range list {
		if name, ok := strings.CutSuffix(e.Name(), ".pack"); ok {
			if fi, err := e.Info(); err == nil {
				packs[name] = fi.Size()
			}
		}
	}
	return packs, nil
}

// objectsOf lists the objects of packs, each once.
func (s *store) objectsOf(packs []string) ([]plumbing.Hash, error) {
	var hashes []plumbing.Hash
	seen := map[plumbing.Hash]bool{}
	for _, name := range packs {
		f, err := os.Open(filepath.Join(s.packDir(), name+".idx"))
		if err != nil {
			return nil, err
		}
		idx := idxfile.NewMemoryIndex()
		err = errors.Join(idxfile.NewDecoder(f).Decode(idx), f.Close())
		if err != nil {
			return nil, err
		}
		entries, err := idx.EntriesByOffset()
		if err != nil {
			return nil, err
		}
		for {
			e, err := entries.Next()
			if err != nil {
				break // io.EOF is the only one: the index is in memory
			}
			if !seen[e.Hash] {
				seen[e.Hash] = true
				hashes = append(hashes, e.Hash)
			}
		}
	}
	return hashes, nil
}

// repack writes a pack of the named objects.
func (s *store) repack(w io.Writer, hashes []plumbing.Hash) error {
	e, err := newPackEncoder(w, len(hashes))
	if err != nil {
		return err
	}
	for _, h := range hashes {
		o, err := s.sto.EncodedObject(plumbing.AnyObject, h)
		if err != nil {
			return err
		}
		data, err := s.read(o.Type(), h, s.limits.Object)
		if err != nil {
			return err
		}
		if err := e.add(packObject{typ: o.Type(), hash: h, data: data}); err != nil {
			return err
		}
	}
	return e.finish()
}
