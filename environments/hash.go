package environments

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path"
	"strconv"
)

// Hasher is what a snapshot adds to [io/fs.FS] when it knows the content of its files without reading them, as a
// git tree does.
type Hasher interface {
	// Hash identifies the file or directory at name by its content: equal hashes hold equal bytes, under equal
	// names for a directory. An absent name is an error that wraps [io/fs.ErrNotExist].
	Hash(name string) (string, error)
}

// Lister is what a [Hasher] adds when it can list a directory of ten thousand entries without making garbage of each.
type Lister interface {
	// List calls each for the entries of a directory, in any order: the name, the type bits of the mode, and what Hash
	// says of it. The hash is empty where Hash is to be asked, as for a symbolic link, since the directory's own hash
	// does not tell what that leads to. Name and hash are only good during the call.
	List(dir string, each func(name []byte, mode fs.FileMode, hash []byte)) error
}

// listDir calls each for the entries of a directory, without their hashes when fsys is no [Lister].
func listDir(fsys fs.FS, dir string, each func(name []byte, mode fs.FileMode, hash []byte)) error {
	if l, ok := fsys.(Lister); ok {
		return l.List(dir, each)
	}
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		each([]byte(e.Name()), e.Type(), nil)
	}
	return nil
}

// hashOf is the content hash of the file or directory that name is or leads to: fsys's own when it is a Hasher, else a SHA-256.
func hashOf(fsys fs.FS, name string) (string, error) {
	if h, ok := fsys.(Hasher); ok {
		return h.Hash(name)
	}
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return "", err
	}
	return hashEntry(fsys, name, info.Mode())
}

// hashEntry does not follow the links in a directory: they could lead in circles.
func hashEntry(fsys fs.FS, name string, mode fs.FileMode) (string, error) {
	switch {
	case mode&fs.ModeSymlink != 0:
		target, err := fs.ReadLink(fsys, name)
		if err != nil {
			return "", err
		}
		return newDigest().add("symlink", target).String(), nil
	case !mode.IsDir():
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return "", err
		}
		return newDigest().add("file", strconv.FormatBool(mode&0o111 != 0), string(data)).String(), nil
	}
	entries, err := fs.ReadDir(fsys, name)
	if err != nil {
		return "", err
	}
	sum := newDigest()
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return "", err
		}
		h, err := hashEntry(fsys, path.Join(name, e.Name()), info.Mode())
		if err != nil {
			return "", err
		}
		sum.add(e.Name(), h)
	}
	return sum.String(), nil
}

// digest is a SHA-256 over strings, each with its length so that no two lists of strings look alike.
type digest struct {
	hash hash.Hash
	// data is what hash has not seen yet. It stays small: an umbrella app's digest covers ten thousand short strings.
	data []byte
}

func newDigest() *digest { return &digest{hash: sha256.New()} }

func (d *digest) add(parts ...string) *digest {
	for _, p := range parts {
		d.data = strconv.AppendInt(d.data, int64(len(p)), 10)
		d.data = append(d.data, ':')
		d.data = append(d.data, p...)
		if len(d.data) >= 4096 {
			d.flush()
		}
	}
	return d
}

func (d *digest) flush() {
	d.hash.Write(d.data)
	d.data = d.data[:0]
}

// String is the digest of what was added so far.
func (d *digest) String() string {
	d.flush()
	return hex.EncodeToString(d.hash.Sum(nil))
}

// exists reports whether there is a regular file at name. A symlink is not one: what is edited is not read through symlinks.
func exists(fsys fs.FS, name string) (bool, error) {
	info, err := fs.Lstat(fsys, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("looking at %s: %w", name, err)
	case info.Mode()&fs.ModeSymlink != 0:
		return false, &Fault{File: name, Problem: "is a symbolic link", Expected: "a file"}
	}
	return info.Mode().IsRegular(), nil
}

// irregularFault is of what a snapshot has and can't read.
func irregularFault(name string) *Fault {
	return &Fault{File: name, Problem: "is a submodule, which Sluice does not read", Expected: "the files themselves, committed to this repository"}
}

func symlinkFault(name string) *Fault {
	return &Fault{File: name, Problem: "is a symbolic link", Expected: "a directory, since Sluice edits what is in it"}
}
