package gitsync

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// newTestStore is a store in a directory of its own.
func newTestStore(t testing.TB) *store {
	t.Helper()
	s, err := openStore(filepath.Join(t.TempDir(), "store"), Remote{URL: "https://example.com/x"}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	return s
}

// newTestFS is the snapshot of a tree with files (path to text) and symlinks (path to target).
func newTestFS(t testing.TB, files, links map[string]string) fs.FS {
	t.Helper()
	b := newBuilder(newTestStore(t))
	data := map[string][]byte{}
	for name, text := range files {
		data[name] = []byte(text)
	}
	for name, target := range links {
		data[name] = []byte(target)
	}
	e, err := planEdit(data)
	if err != nil {
		t.Fatal(err)
	}
	root, err := b.apply(emptyTree, e, "")
	if err != nil {
		t.Fatal(err)
	}
	// Turn files into symlinks in the trees that hold them, which are those just built.
	if len(links) > 0 {
		root = relink(t, b, root, "", links)
	}
	pack, err := encodePack(b.objects)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.store.receive(t.Context(), bytes.NewReader(pack)); err != nil {
		t.Fatal(err)
	}
	return &treeFS{store: b.store, root: root}
}

func relink(t testing.TB, b *builder, h plumbing.Hash, dir string, links map[string]string) plumbing.Hash {
	t.Helper()
	for _, o := range b.objects {
		if o.hash != h {
			continue
		}
		tr, err := parseTree(o.data)
		if err != nil {
			t.Fatal(err)
		}
		list := tr.entries()
		for i, e := range list {
			name := path.Join(dir, e.name)
			if e.isDir() {
				list[i].hash = relink(t, b, e.hash, name, links)
			} else if _, ok := links[name]; ok {
				list[i].mode = filemode.Symlink
			}
		}
		return b.put(plumbing.TreeObject, treeOf(list))
	}
	t.Fatalf("no tree %s", h)
	return h
}

// treeOf is a tree object made anew of its entries.
func treeOf(list []entry) []byte {
	slices.SortFunc(list, func(x, y entry) int {
		return compareNames([]byte(x.name), x.isDir(), []byte(y.name), y.isDir())
	})
	var raw []byte
	for _, e := range list {
		raw = append(fmt.Appendf(raw, "%o %s\x00", uint32(e.mode), e.name), e.hash[:]...)
	}
	return raw
}

// A tree that is changed in place is the one that is made anew.
func TestTreeChange(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "a-b", "a.b", "a0", "aa", "b", "b!", "c", "~"} // "/" sorts between "." and "0"
	random := func() map[string]entry {
		list := map[string]entry{}
		for _, name := range names {
			e := entry{name: name, mode: filemode.Regular, hash: plumbing.ComputeHash(plumbing.BlobObject, []byte{byte(rng.IntN(9))})}
			switch rng.IntN(4) {
			case 0:
				continue
			case 1:
				e.mode = filemode.Dir
			case 2:
				e.mode = filemode.Executable
			}
			list[name] = e
		}
		return list
	}
	for range 2000 {
		old, changed := random(), random()
		was, err := parseTree(treeOf(slices.Collect(maps.Values(old))))
		if err != nil {
			t.Fatal(err)
		}
		want := maps.Clone(old)
		for name, e := range changed {
			if want[name] = e; rng.IntN(3) == 0 {
				delete(want, name)
				changed[name] = entry{name: name, mode: e.mode}
			}
		}
		if got := was.change(changed); !bytes.Equal(got, treeOf(slices.Collect(maps.Values(want)))) {
			t.Fatalf("%v changed by %v is %q", old, changed, got)
		}
	}
}

// The FS agrees with os.Root, which resolves the same paths on a disk.
func FuzzFSPath(f *testing.F) {
	files := map[string]string{"a/b/c": "c", "a/d": "d", "e": "e"}
	links := map[string]string{
		"a/up": "../e", "a/b/out": "../../../e", "l": "a/b", "abs": "/e", "loop": "loop", "a/dot": ".", "x": "a/up", "y": "l/../d",
	}
	snap := newTestFS(f, files, links)
	dir := f.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Join(dir, path.Dir(name)), 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			f.Fatal(err)
		}
		f.Add(name)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{".", "a/b/c", "l/c", "a/dot/dot/d", "../e", "a//d", "/e", "a/b/../d", "y", "e/x", "a/d/", "\x00", "a\\d"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := fs.ReadFile(snap, name)
		want, wantErr := fs.ReadFile(root.FS(), name)
		if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
			t.Errorf("%q: %q, %v; on disk %q, %v", name, got, err, want, wantErr)
		}
		if _, err := snap.(*treeFS).Hash(name); err == nil && !fs.ValidPath(name) {
			t.Errorf("%q has a hash", name)
		}
	})
}

func TestFSOfAnEmptyTree(t *testing.T) {
	f := newTestFS(t, nil, nil)
	if err := fstest.TestFS(f); err != nil {
		t.Error(err)
	}
}

func FuzzTree(f *testing.F) {
	h := strings.Repeat("h", 20)
	f.Add([]byte("100644 a\x00" + h + "40000 b\x00" + h))
	f.Add([]byte("40000 a\x00" + h + "100644 a.b\x00" + h))
	f.Add([]byte("100644 ..\x00" + h))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tr, err := parseTree(raw)
		if err != nil {
			return
		}
		for _, e := range tr.entries() {
			if !fs.ValidPath(e.name) && strings.ToValidUTF8(e.name, "") == e.name {
				t.Errorf("name %q", e.name)
			}
			if found, ok := tr.find(e.name); !ok || found.name != e.name {
				t.Errorf("%q is not found", e.name)
			}
		}
		if _, ok := tr.find("no such name"); ok && !bytes.Contains(raw, []byte("no such name")) {
			t.Error("found what is not there")
		}
		if second, err := parseTree(treeOf(tr.entries())); err != nil || second.len() != tr.len() {
			t.Errorf("written and read: %v", err)
		}
	})
}

func FuzzCommit(f *testing.F) {
	f.Add([]byte("tree " + strings.Repeat("a", 40) + "\nparent " + strings.Repeat("b", 40) + "\nauthor A <a@b> 1700000000 +0130\ncommitter C <c@d> 1700000001 -0800\ngpgsig x\n y\n\nsubject\n\nbody\n"))
	f.Add([]byte("tree " + strings.Repeat("a", 40)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := parseCommit(plumbing.ZeroHash, raw)
		if err != nil {
			return
		}
		_ = c.Subject()
		c.Author, c.Committer = Identity{"A", "a"}, Identity{"B", "b"}
		out, err := encodeCommit(c)
		if err != nil {
			return
		}
		again, err := parseCommit(plumbing.ZeroHash, out)
		if err != nil || again.tree != c.tree || len(again.Parents) != len(c.Parents) || again.Subject() != strings.TrimSpace(again.Subject()) && again.Subject() == "" {
			t.Errorf("written and read: %v", err)
		}
	})
}

func TestParseCommit(t *testing.T) {
	tree, parent := strings.Repeat("a", 40), strings.Repeat("b", 40)
	c, err := parseCommit(plumbing.ZeroHash, []byte("tree "+tree+"\nparent "+parent+
		"\nauthor A B <a@b> 1700000000 +0130\ncommitter C <c@d> 1700000001 -0800\ngpgsig -----BEGIN\n parent x\n\nsubject\n\nbody\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Author != (Identity{"A B", "a@b"}) || c.AuthorTime.Format(time.RFC3339) != "2023-11-14T23:43:20+01:30" ||
		c.Time.Format(time.RFC3339) != "2023-11-14T14:13:21-08:00" || c.Subject() != "subject" || len(c.Parents) != 1 {
		t.Errorf("%+v", c)
	}
}

// packHeader is the beginning of a pack that announces so many objects.
func packHeader(objects uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), objects)
}

func TestMaliciousPacks(t *testing.T) {
	good, err := encodePack([]packObject{newObject(plumbing.BlobObject, []byte("hello"))})
	if err != nil {
		t.Fatal(err)
	}
	bomb, err := encodePack([]packObject{newObject(plumbing.BlobObject, make([]byte, 2<<20))})
	if err != nil {
		t.Fatal(err)
	}
	// A delta that announces a result of 1 TiB.
	delta := append([]byte{5}, binary.AppendUvarint(nil, 1<<40)...)
	huge, err := encodePack([]packObject{newObject(plumbing.BlobObject, []byte("hello")), {typ: plumbing.REFDeltaObject, data: delta}})
	if err != nil {
		t.Fatal(err)
	}
	// deltas are n of one object that is not there, each of which makes another of a size.
	deltas := func(n, size int) []byte {
		var out bytes.Buffer
		e, err := newPackEncoder(&out, n)
		if err != nil {
			t.Fatal(err)
		}
		delta := append(binary.AppendUvarint([]byte{5}, uint64(size)), 1, 'x')
		for range n {
			_, _ = e.w.Write(append([]byte{byte(plumbing.REFDeltaObject)<<4 | byte(len(delta))}, bytes.Repeat([]byte{7}, 20)...))
			e.zip.Reset(e.w)
			_, _ = e.zip.Write(delta)
			err = errors.Join(err, e.zip.Close())
		}
		if err := errors.Join(err, e.finish()); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-1] ^= 1
	for name, tt := range map[string]struct {
		pack []byte
		want error
	}{
		"empty":               {nil, nil},
		"not a pack":          {[]byte("hello, world, this is no pack at all"), nil},
		"four billion":        {packHeader(1<<32 - 1), nil},
		"truncated":           {good[:len(good)-25], nil},
		"wrong checksum":      {flipped, nil},
		"zip bomb":            {bomb, ErrTooLarge},
		"delta of 1 TiB":      {huge[:len(huge)-30], nil},
		"delta without base":  {deltas(1, 1), nil},
		"deltas, unpacked":    {deltas(10, 900_000), ErrTooLarge},
		"more than the limit": {bytes.Repeat([]byte("x"), 3<<20), ErrTooLarge},
	} {
		s := newTestStore(t)
		s.limits.Object, s.limits.Pack, s.limits.Inflated = 1<<20, 2<<20, 8<<20
		err := s.receive(t.Context(), bytes.NewReader(tt.pack))
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(s.dir, "*.tmp")); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
		if left, _ := os.ReadDir(s.packDir()); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
		if err := s.receive(t.Context(), bytes.NewReader(good)); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

// Large packs go through a file.
func TestLargePack(t *testing.T) {
	noise := make([]byte, 3<<20)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(noise)
	o := newObject(plumbing.BlobObject, noise)
	pack, err := encodePack([]packObject{o})
	if err != nil {
		t.Fatal(err)
	}
	s := newTestStore(t)
	if err := s.receive(t.Context(), bytes.NewReader(pack)); err != nil {
		t.Fatal(err)
	}
	got, err := s.object(plumbing.BlobObject, o.hash, 4<<20)
	if err != nil || !bytes.Equal(got, noise) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// What every fetch walks does not grow with the history.
func TestSampleIsShort(t *testing.T) {
	s := newTestStore(t)
	var objects []packObject
	var parents []string
	for i := range 4 * maxRewind {
		raw, err := encodeCommit(&Commit{
			Parents: parents, tree: emptyTree, Author: Identity{"A", "a"}, Committer: Identity{"A", "a"},
			Time: time.Unix(int64(i), 0), Message: "c",
		})
		if err != nil {
			t.Fatal(err)
		}
		o := newObject(plumbing.CommitObject, raw)
		objects, parents = append(objects, o), []string{o.hash.String()}
	}
	pack, err := encodePack(objects)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.receive(t.Context(), bytes.NewReader(pack)); err != nil {
		t.Fatal(err)
	}
	last := len(objects) - 1
	var want []plumbing.Hash
	for _, n := range []int{0, 1, 2, 4, 8, 16, 32, 64, 128, 256} {
		want = append(want, objects[last-n].hash)
	}
	if got := s.sample(objects[last].hash); !slices.Equal(got, want) {
		t.Errorf("%d commits: %v\nwant %v", len(got), got, want)
	}
}

func FuzzCheckPack(f *testing.F) {
	good, err := encodePack([]packObject{newObject(plumbing.BlobObject, []byte("hello")), newObject(plumbing.TreeObject, nil)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(packHeader(3))
	f.Fuzz(func(t *testing.T, pack []byte) {
		n, err := checkPack(t.Context(), bytes.NewReader(pack), int64(len(pack)), 1<<20, 1<<30)
		if err == nil && int64(n) > int64(len(pack))/minEntry {
			t.Errorf("%d objects in %d bytes", n, len(pack))
		}
	})
}

func TestTreeCacheIsBounded(t *testing.T) {
	c := newTreeCache(1000)
	for i := range 100 {
		tr := &tree{raw: make([]byte, 200)}
		c.put(plumbing.ComputeHash(plumbing.BlobObject, []byte{byte(i)}), tr)
	}
	if c.size > 1000 || c.order.Len() != len(c.byKey) || c.order.Len() == 0 {
		t.Errorf("%d bytes in %d trees", c.size, c.order.Len())
	}
	if _, ok := c.get(plumbing.ComputeHash(plumbing.BlobObject, []byte{99})); !ok {
		t.Error("the newest tree is gone")
	}
}
