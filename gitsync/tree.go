package gitsync

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// entry is one line of a tree.
type entry struct {
	name string
	mode filemode.FileMode
	hash plumbing.Hash
}

func (e entry) isDir() bool  { return e.mode == filemode.Dir }
func (e entry) isLink() bool { return e.mode == filemode.Symlink }
func (e entry) isFile() bool { return e.mode.IsFile() && !e.isLink() }

// tree is a tree object, kept as git stores it: looking up one of ten thousand names makes no garbage.
type tree struct {
	raw  []byte
	offs []uint32 // where the entries begin
}

var errTree = errors.New("malformed tree")

// parseTree checks a tree object: modes that git knows, names that are one element of a path, in git's order.
func parseTree(raw []byte) (*tree, error) {
	t := &tree{raw: raw, offs: make([]uint32, 0, len(raw)/32)}
	var last []byte
	lastDir := false
	for off := 0; off < len(raw); {
		mode, name, end, ok := cutEntry(raw, off)
		if !ok || !validName(name) {
			return nil, errTree
		}
		if last != nil && compareNames(last, lastDir, name, mode == filemode.Dir) >= 0 {
			return nil, errTree
		}
		t.offs = append(t.offs, uint32(off))
		last, lastDir = name, mode == filemode.Dir
		off = end
	}
	return t, nil
}

// cutEntry reads "<octal mode> <name>\0<20 bytes>" at off.
func cutEntry(raw []byte, off int) (mode filemode.FileMode, name []byte, end int, ok bool) {
	b := raw[off:]
	for i, c := range b {
		if c == ' ' && i > 0 {
			b = b[i+1:]
			off += i + 1
			ok = true
			break
		}
		if c < '0' || c > '7' || i > 6 {
			return 0, nil, 0, false
		}
		mode = mode<<3 | filemode.FileMode(c-'0')
	}
	if !ok {
		return 0, nil, 0, false
	}
	n := bytes.IndexByte(b, 0)
	if n < 0 || len(b) < n+1+len(plumbing.Hash{}) {
		return 0, nil, 0, false
	}
	switch mode {
	case filemode.Dir, filemode.Regular, filemode.Deprecated, filemode.Executable, filemode.Symlink, filemode.Submodule:
	default:
		// Old tools wrote other permission bits; git reads them as regular or executable.
		switch {
		case mode&0o170000 != 0o100000:
			return 0, nil, 0, false
		case mode&0o100 != 0:
			mode = filemode.Executable
		default:
			mode = filemode.Regular
		}
	}
	return mode, b[:n], off + n + 1 + len(plumbing.Hash{}), true
}

func validName(name []byte) bool {
	return len(name) > 0 && string(name) != "." && string(name) != ".." && bytes.IndexByte(name, '/') < 0
}

// compareNames is git's order: directories sort as if their names ended in a slash.
func compareNames(a []byte, aDir bool, b []byte, bDir bool) int {
	n := min(len(a), len(b))
	if c := bytes.Compare(a[:n], b[:n]); c != 0 {
		return c
	}
	return int(nameByte(a, aDir, n)) - int(nameByte(b, bDir, n))
}

func nameByte(name []byte, dir bool, i int) byte {
	switch {
	case i < len(name):
		return name[i]
	case dir:
		return '/'
	}
	return 0
}

func (t *tree) len() int { return len(t.offs) }

// view is the i-th entry as it stands in the tree, which is not to be changed.
func (t *tree) view(i int) (mode filemode.FileMode, name, hash []byte) {
	mode, name, end, _ := cutEntry(t.raw, int(t.offs[i]))
	return mode, name, t.raw[end-len(plumbing.Hash{}) : end]
}

// at is a copy of the i-th entry.
func (t *tree) at(i int) entry {
	mode, name, hash := t.view(i)
	e := entry{name: string(name), mode: mode}
	copy(e.hash[:], hash)
	return e
}

// offset is where the i-th entry begins; that of the entry after the last is the end.
func (t *tree) offset(i int) int {
	if i == len(t.offs) {
		return len(t.raw)
	}
	return int(t.offs[i])
}

// place is the index of the first entry that does not sort before name.
func (t *tree) place(name string, dir bool) int {
	return sort.Search(len(t.offs), func(i int) bool {
		mode, have, _, _ := cutEntry(t.raw, int(t.offs[i]))
		return compareNames(have, mode == filemode.Dir, []byte(name), dir) >= 0
	})
}

// index looks a name up, first as a file and then as a directory, which sort differently.
func (t *tree) index(name string) (int, bool) {
	for _, dir := range []bool{false, true} {
		if i := t.place(name, dir); i < len(t.offs) {
			if _, have, _, _ := cutEntry(t.raw, int(t.offs[i])); string(have) == name {
				return i, true
			}
		}
	}
	return 0, false
}

// find is the entry of a name.
func (t *tree) find(name string) (entry, bool) {
	i, ok := t.index(name)
	if !ok {
		return entry{}, false
	}
	return t.at(i), true
}

// entries is a copy of all entries, in git's order.
func (t *tree) entries() []entry {
	list := make([]entry, len(t.offs))
	for i := range list {
		list[i] = t.at(i)
	}
	return list
}

// size estimates the memory that t takes, in bytes.
func (t *tree) size() int { return len(t.raw) + 4*cap(t.offs) + 64 }

// change is the raw tree with some entries put in, replaced, or taken out (those with a zero hash). Whatever stays is
// copied as it is.
func (t *tree) change(entries map[string]entry) []byte {
	// A cut leaves the old tree at from, puts an entry in (none: takes one out), and goes on at to.
	type cut struct {
		from, to int
		in       entry
	}
	var cuts []cut
	for name, e := range entries {
		if i, ok := t.index(name); ok {
			cuts = append(cuts, cut{from: t.offset(i), to: t.offset(i + 1)})
		}
		if !e.hash.IsZero() {
			at := t.offset(t.place(name, e.isDir()))
			cuts = append(cuts, cut{at, at, e})
		}
	}
	slices.SortFunc(cuts, func(x, y cut) int {
		return cmp.Or(
			cmp.Compare(x.from, y.from), cmp.Compare(x.to, y.to), // at one place, putting in goes before taking out
			compareNames([]byte(x.in.name), x.in.isDir(), []byte(y.in.name), y.in.isDir()),
		)
	})
	raw := make([]byte, 0, len(t.raw)+64*len(cuts))
	at := 0
	for _, c := range cuts {
		raw = append(raw, t.raw[at:c.from]...)
		if c.in.name != "" {
			raw = fmt.Appendf(raw, "%o %s\x00", uint32(c.in.mode), c.in.name)
			raw = append(raw, c.in.hash[:]...)
		}
		at = c.to
	}
	return append(raw, t.raw[at:]...)
}
