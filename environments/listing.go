package environments

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
)

// listing is the umbrella's directory, which may have an entry for each of ten thousand apps. It is brought up to date
// in place, so that a commit costs what it changed.
type listing struct {
	// dir is what was listed, and hash its content; empty when the listing is not whole.
	dir, hash string
	entries   map[string]*listed
}

// listed is an entry of the umbrella's directory.
type listed struct {
	mode fs.FileMode
	// hash is the content's; empty when the file system is to be asked.
	hash string
	// doc is the app's own values file, nil when there is none, as of the content docHash.
	doc     *valuesDoc
	docHash string
	// seen is the last pass of the Loader that listed the entry.
	seen uint64
}

// update lists dir, unless that would say the same as the last time.
func (in *listing) update(fsys fs.FS, dir string, pass uint64) error {
	hash, err := hashOf(fsys, dir)
	if err != nil {
		return fmt.Errorf("reading %s: %w", dir, err)
	}
	if in.dir == dir && in.hash == hash && hash != "" {
		return nil
	}
	if in.dir != dir {
		*in = listing{dir: dir, entries: map[string]*listed{}}
	}
	in.hash = ""
	twice := ""
	err = listDir(fsys, dir, func(name []byte, mode fs.FileMode, hash []byte) {
		e := in.entries[string(name)]
		if e == nil {
			e = &listed{}
			in.entries[string(name)] = e
		}
		if e.seen == pass {
			twice = string(name)
		}
		e.mode, e.seen = mode, pass
		if e.hash != string(hash) {
			e.hash = string(hash)
		}
	})
	if err == nil && twice != "" {
		err = fmt.Errorf("two entries are called %q", twice)
	}
	if err != nil {
		return fmt.Errorf("listing %s: %w", dir, err)
	}
	maps.DeleteFunc(in.entries, func(_ string, e *listed) bool { return e.seen != pass })
	in.hash = hash
	return nil
}

// hashOf is the content hash of an entry.
func (in *listing) hashOf(fsys fs.FS, name string) (string, error) {
	if e := in.entries[name]; e.hash != "" {
		return e.hash, nil
	}
	return hashOf(fsys, path.Join(in.dir, name))
}

// digest covers the entries that are picked, by name and content.
func (in *listing) digest(fsys fs.FS, pick func(name string) bool) (string, error) {
	var names []string
	for name := range in.entries {
		if pick(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	sum := newDigest()
	for _, name := range names {
		hash, err := in.hashOf(fsys, name)
		if err != nil {
			return "", err
		}
		sum.add(name, hash)
	}
	return sum.String(), nil
}

// doc is the app's own values file; nil when there is none.
func (a *assembly) doc(app string) (*valuesDoc, *Fault) {
	in := &a.l.listing
	e := in.entries[app]
	switch {
	case e == nil:
		return nil, nil
	case e.mode&fs.ModeSymlink != 0:
		return nil, symlinkFault(path.Join(in.dir, app))
	case e.mode&fs.ModeIrregular != 0:
		return nil, irregularFault(path.Join(in.dir, app))
	case !e.mode.IsDir():
		return nil, nil
	}
	// The directory's hash is in the listing; the file's would take a look into the directory.
	hash, err := in.hashOf(a.fsys, app)
	if err != nil {
		return nil, a.l.unreadable(path.Join(in.dir, app), err)
	}
	if e.docHash == hash && hash != "" {
		return e.doc, nil
	}
	dir := path.Join(in.dir, app)
	doc, fault := a.readDoc(path.Join(dir, valuesName))
	if fault == nil {
		fault = a.templatedValues(dir)
	}
	if fault == nil {
		fault = a.valuesTree(dir, doc)
	}
	if fault == nil {
		e.doc, e.docHash = doc, hash
	}
	return doc, fault
}

func (a *assembly) readDoc(file string) (*valuesDoc, *Fault) {
	ok, err := exists(a.fsys, file)
	if err != nil {
		return nil, a.l.unreadable(file, err)
	}
	if !ok {
		return nil, nil
	}
	text, err := a.l.read(a.fsys, file)
	if err != nil {
		return nil, a.l.unreadable(file, err)
	}
	return newValuesDoc(file, text), nil
}

// templatedValuesName is the file that jx renders into values. Without it an app would get other values than it has with jx.
const templatedValuesName = "values.tmpl.yaml"

// templatedValues refuses a directory with values that only jx can render.
func (a *assembly) templatedValues(dir string) *Fault {
	file := path.Join(dir, templatedValuesName)
	switch ok, err := exists(a.fsys, file); {
	case err != nil:
		return a.l.unreadable(file, err)
	case ok:
		return &Fault{File: file, Problem: "is a jx template of values, which Sluice does not support", Expected: valuesName + " with the values themselves"}
	default:
		return nil
	}
}
