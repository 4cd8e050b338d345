package gitsync

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
)

const (
	// maxLinks is the number of symlinks that one path may pass, as in Linux.
	maxLinks = 40
	// maxLinkTarget is the longest target of a symlink, in bytes.
	maxLinkTarget = 4096
)

var (
	errLinkOut    = errors.New("symlink leads out of the repository")
	errLinkAbs    = errors.New("symlink is absolute")
	errLinkDepth  = errors.New("too many symlinks")
	errLinkLong   = errors.New("symlink target is too long")
	errSubmodule  = errors.New("is in a submodule, which is not supported; commit the files themselves")
	errPointer    = errors.New("is a pointer of Git LFS, whose content is not in git; commit the file itself")
	errDuplicate  = errors.New("malformed tree: two entries of one name")
	errIsDir      = errors.New("is a directory")
	errNotDir     = errors.New("not a directory")
	errNotSymlink = errors.New("not a symlink")
)

// treeFS is the fs.FS of a tree.
type treeFS struct {
	store *store
	root  plumbing.Hash
	time  time.Time
}

var (
	_ fs.ReadFileFS = (*treeFS)(nil)
	_ fs.ReadDirFS  = (*treeFS)(nil)
	_ fs.StatFS     = (*treeFS)(nil)
	_ fs.ReadLinkFS = (*treeFS)(nil)
)

// Hash is Snapshot.Hash, for those who have only the fs.FS.
func (f *treeFS) Hash(name string) (string, error) {
	e, err := f.lookup("hash", name, true)
	return e.hash.String(), err
}

func (f *treeFS) Open(name string) (fs.File, error) {
	e, err := f.lookup("open", name, true)
	if err != nil {
		return nil, err
	}
	info := f.info(path.Base(name), e)
	if e.isDir() {
		return &dirFile{fs: f, name: name, info: info, hash: e.hash}, nil
	}
	data, err := f.blob(e)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	info.size = int64(len(data))
	return &blobFile{info: info, name: name, Reader: bytes.NewReader(data)}, nil
}

// ReadFile reads a file up to Limits.File. The bytes are the caller's.
func (f *treeFS) ReadFile(name string) ([]byte, error) {
	e, err := f.lookup("readfile", name, true)
	if err != nil {
		return nil, err
	}
	data, err := f.blob(e)
	if err != nil {
		return nil, &fs.PathError{Op: "readfile", Path: name, Err: err}
	}
	return data, nil
}

// ReadDir lists a directory, sorted by name. A submodule is an irregular file: who looks for it finds that it is there and
// can't be read.
func (f *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := f.lookup("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if !e.isDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errNotDir}
	}
	list, err := f.list(e.hash)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return list, nil
}

// List calls each for the entries that ReadDir gives, in git's order, with what Hash says of each; the hash of a
// symlink is nil, since Hash follows it, and that of a submodule its commit, though Hash refuses it. It makes no garbage of the entries: name and hash are only good during the call.
// Unlike ReadDir it does not notice a malformed tree with two entries of one name, and gives both.
func (f *treeFS) List(name string, each func(name []byte, mode fs.FileMode, hash []byte)) error {
	dir, err := f.lookup("list", name, true)
	if err != nil {
		return err
	}
	if !dir.isDir() {
		return &fs.PathError{Op: "list", Path: name, Err: errNotDir}
	}
	t, err := f.tree(dir.hash)
	if err != nil {
		return &fs.PathError{Op: "list", Path: name, Err: err}
	}
	text := make([]byte, hex.EncodedLen(len(dir.hash)))
	for i := range t.len() {
		mode, entry, hash := t.view(i)
		if mode == filemode.Symlink {
			each(entry, fileMode(mode).Type(), nil)
			continue
		}
		hex.Encode(text, hash)
		each(entry, fileMode(mode).Type(), text)
	}
	return nil
}

func (f *treeFS) Stat(name string) (fs.FileInfo, error) { return f.stat("stat", name, true) }

// Lstat is Stat without following the last symlink.
func (f *treeFS) Lstat(name string) (fs.FileInfo, error) { return f.stat("lstat", name, false) }

func (f *treeFS) stat(op, name string, follow bool) (fs.FileInfo, error) {
	e, err := f.lookup(op, name, follow)
	if err != nil {
		return nil, err
	}
	info, err := f.sized(path.Base(name), e)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return info, nil
}

// ReadLink is the target of a symlink, wherever it points.
func (f *treeFS) ReadLink(name string) (string, error) {
	e, err := f.lookup("readlink", name, false)
	if err != nil {
		return "", err
	}
	if !e.isLink() {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: errNotSymlink}
	}
	target, err := f.target(e.hash)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return target, nil
}

// lookup finds what name stands for, following symlinks: those on the way, and with follow the last one too.
func (f *treeFS) lookup(op, name string, follow bool) (entry, error) {
	if !fs.ValidPath(name) {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	e, err := f.walk(name, follow)
	if err != nil {
		return entry{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return e, nil
}

// walk goes from the root along name. The trees on the way are on a stack, so that ".." in a symlink's target
// goes back to where the path really was.
func (f *treeFS) walk(name string, follow bool) (entry, error) {
	stack := []entry{{name: ".", mode: filemode.Dir, hash: f.root}}
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		elem := rest[0]
		rest = rest[1:]
		top := stack[len(stack)-1]
		switch {
		case !top.isDir():
			return entry{}, fs.ErrNotExist
		case elem == "." || elem == "":
			continue
		case elem == "..":
			if len(stack) == 1 {
				return entry{}, errLinkOut
			}
			stack = stack[:len(stack)-1]
			continue
		}
		t, err := f.tree(top.hash)
		if err != nil {
			return entry{}, err
		}
		e, ok := t.find(elem)
		switch {
		case !ok:
			return entry{}, fs.ErrNotExist
		case e.mode == filemode.Submodule:
			return entry{}, errSubmodule
		case !e.isLink() || len(rest) == 0 && !follow:
			stack = append(stack, e)
			continue
		}
		if links++; links > maxLinks {
			return entry{}, errLinkDepth
		}
		target, err := f.target(e.hash)
		if err != nil {
			return entry{}, err
		}
		if strings.HasPrefix(target, "/") {
			return entry{}, errLinkAbs
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return stack[len(stack)-1], nil
}

func (f *treeFS) tree(h plumbing.Hash) (*tree, error) {
	if h == emptyTree {
		return &tree{}, nil
	}
	return f.store.tree(h)
}

func (f *treeFS) target(h plumbing.Hash) (string, error) {
	data, err := f.store.object(plumbing.BlobObject, h, maxLinkTarget)
	if errors.Is(err, ErrTooLarge) {
		return "", errLinkLong
	}
	return string(data), err
}

func (f *treeFS) blob(e entry) ([]byte, error) {
	if e.isDir() {
		return nil, errIsDir
	}
	data, err := f.store.object(plumbing.BlobObject, e.hash, f.store.limits.File)
	if err == nil && isPointer(data) {
		return nil, errPointer
	}
	return data, err
}

// isPointer reports whether a file stands for one that Git LFS keeps elsewhere.
func isPointer(data []byte) bool {
	const maxPointer = 1024 // of the specification
	if len(data) >= maxPointer {
		return false
	}
	version, _, _ := bytes.Cut(data, []byte("\n"))
	url, ok := bytes.CutPrefix(version, []byte("version "))
	return ok && bytes.Contains(data, []byte("\noid ")) &&
		(bytes.HasPrefix(url, []byte("https://git-lfs.github.com/spec/")) || bytes.HasPrefix(url, []byte("https://hawser.github.com/spec/")))
}

func (f *treeFS) list(h plumbing.Hash) ([]fs.DirEntry, error) {
	t, err := f.tree(h)
	if err != nil {
		return nil, err
	}
	list := make([]fs.DirEntry, 0, t.len())
	for _, e := range t.entries() {
		list = append(list, dirEntry{f, e})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name() < list[j].Name() })
	for i := 1; i < len(list); i++ {
		if list[i].Name() == list[i-1].Name() {
			return nil, fmt.Errorf("%w: %q", errDuplicate, list[i].Name())
		}
	}
	return list, nil
}

// info describes an entry but for its size.
func (f *treeFS) info(name string, e entry) fileInfo {
	return fileInfo{name: name, mode: fileMode(e.mode), time: f.time}
}

// sized describes an entry with its size, which takes a look into the object store.
func (f *treeFS) sized(name string, e entry) (fileInfo, error) {
	info := f.info(name, e)
	if e.isDir() || e.mode == filemode.Submodule {
		return info, nil
	}
	size, err := f.store.size(e.hash)
	info.size = size
	return info, err
}

func fileMode(m filemode.FileMode) fs.FileMode {
	switch m { //nolint:exhaustive // the others are plain files
	case filemode.Dir:
		return fs.ModeDir | 0o555
	case filemode.Symlink:
		return fs.ModeSymlink | 0o777
	case filemode.Submodule:
		return fs.ModeIrregular
	case filemode.Executable:
		return 0o555
	}
	return 0o444
}

type fileInfo struct {
	name string
	mode fs.FileMode
	size int64
	time time.Time
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) Mode() fs.FileMode  { return i.mode }
func (i fileInfo) ModTime() time.Time { return i.time }
func (i fileInfo) IsDir() bool        { return i.mode.IsDir() }
func (i fileInfo) Sys() any           { return nil }

type dirEntry struct {
	fs *treeFS
	e  entry
}

func (d dirEntry) Name() string               { return d.e.name }
func (d dirEntry) IsDir() bool                { return d.e.isDir() }
func (d dirEntry) Type() fs.FileMode          { return fileMode(d.e.mode).Type() }
func (d dirEntry) Info() (fs.FileInfo, error) { return d.fs.sized(d.e.name, d.e) }
func (d dirEntry) String() string             { return fs.FormatDirEntry(d) }

// blobFile is an open file.
type blobFile struct {
	*bytes.Reader
	name   string
	info   fileInfo
	closed bool
}

func (b *blobFile) Stat() (fs.FileInfo, error) { return b.info, nil }

func (b *blobFile) Read(p []byte) (int, error) {
	if b.closed {
		return 0, &fs.PathError{Op: "read", Path: b.name, Err: fs.ErrClosed}
	}
	return b.Reader.Read(p)
}

func (b *blobFile) Close() error {
	b.closed = true
	return nil
}

// dirFile is an open directory.
type dirFile struct {
	fs   *treeFS
	name string
	info fileInfo
	hash plumbing.Hash
	rest []fs.DirEntry
	read bool
}

func (d *dirFile) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *dirFile) Close() error               { return nil }

func (d *dirFile) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: errIsDir}
}

func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		list, err := d.fs.list(d.hash)
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: d.name, Err: err}
		}
		d.rest, d.read = list, true
	}
	if n <= 0 {
		list := d.rest
		d.rest = nil
		return list, nil
	}
	if len(d.rest) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.rest))
	list := d.rest[:n:n]
	d.rest = d.rest[n:]
	return list, nil
}
