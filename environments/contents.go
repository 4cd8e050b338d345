package environments

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// contents covers all that is at a path of a chart: what the file system's own hash does, and what the symbolic links in it lead
// to, which that hash does not tell. What can't be read, and a link that leads out of the repository or in a circle, is a fault.
func (l *Loader) contents(fsys fs.FS, name string) (string, *Fault) {
	return l.contentsBelow(fsys, name, 0)
}

const (
	// maxLinkDepth bounds links to directories that have links, and so ends circles; maxLinks is for one snapshot.
	maxLinkDepth = 8
	maxLinks     = 10_000
)

func (l *Loader) contentsBelow(fsys fs.FS, name string, depth int) (string, *Fault) {
	hash, err := hashOf(fsys, name)
	if err != nil {
		return "", l.unfollowed(fsys, name, err)
	}
	links, ok := l.links[hash]
	if !ok {
		if links, err = linksIn(fsys, name, ""); err != nil {
			return "", l.unreadable(name, err)
		}
		l.links[hash] = links
	}
	if len(links) == 0 {
		return hash, nil
	}
	sum := newDigest().add(hash)
	for _, rel := range links {
		link := path.Join(name, rel)
		if l.followed++; depth == maxLinkDepth || l.followed > maxLinks {
			return "", &Fault{File: link, Problem: "leads in a circle, or there are too many symbolic links", Expected: "links to files and directories that have none"}
		}
		if _, err := fs.Stat(fsys, link); err != nil {
			return "", l.unfollowed(fsys, link, err)
		}
		target, fault := l.contentsBelow(fsys, link, depth+1)
		if fault != nil {
			return "", fault
		}
		sum.add(rel, target)
	}
	return sum.String(), nil
}

// linksIn lists the symbolic links in a directory, relative to it. A submodule is a fault.
func linksIn(fsys fs.FS, name, rel string) (links []string, err error) {
	at := path.Join(name, rel)
	if info, err := fs.Stat(fsys, at); err != nil || !info.IsDir() {
		return nil, err
	}
	entries, err := fs.ReadDir(fsys, at)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		below := path.Join(rel, e.Name())
		switch {
		case e.Type()&fs.ModeIrregular != 0:
			return nil, irregularFault(path.Join(name, below))
		case e.Type()&fs.ModeSymlink != 0:
			links = append(links, below)
		case e.IsDir():
			more, err := linksIn(fsys, name, below)
			if err != nil {
				return nil, err
			}
			links = append(links, more...)
		}
	}
	return links, nil
}

// unfollowed words an error of the file system as the fault of the link on the way to name, if there is one.
func (l *Loader) unfollowed(fsys fs.FS, name string, err error) *Fault {
	for at := name; at != "."; at = path.Dir(at) {
		if info, lstatErr := fs.Lstat(fsys, at); lstatErr == nil && info.Mode()&fs.ModeSymlink != 0 {
			l.failed = l.failed || !errors.Is(err, fs.ErrNotExist)
			return brokenLink(at, err)
		}
	}
	return l.unreadable(name, err)
}

// brokenLink is the fault of a link that can't be followed.
func brokenLink(name string, err error) *Fault {
	if pathError := (*fs.PathError)(nil); errors.As(err, &pathError) {
		err = pathError.Err
	}
	return &Fault{File: name, Problem: fmt.Sprintf("is a symbolic link that can't be followed (%s)", err), Expected: "a link to what is in this repository"}
}
