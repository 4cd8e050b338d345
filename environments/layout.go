package environments

import (
	"io/fs"
	"path"
	"strings"
)

// layout is how a repository holds an environment: what reads it, and what edits it with care for comments and order. The
// methods are those of Loader.Load, Promote and Revert, for the path at which it was found.
type layout interface {
	load(l *Loader, fsys fs.FS) (*Environment, error)
	promote(fsys fs.FS, app string, to Promotion) (map[string][]byte, error)
	asked(fsys fs.FS, app string, image ImagePaths) (version string, listed bool, err error)
	// revert is asked of the layout of current; failed and stable may have another.
	revert(current, failed, stable fs.FS, app string) (map[string][]byte, error)
}

// layouts are asked in this order whether a path holds an environment of theirs; expected says what would make it one. An
// error is of one that is theirs and can't be read.
var layouts = []struct {
	expected func(root string) string
	find     func(fsys fs.FS, root string) (where layout, found bool, err error)
}{
	{expectedUmbrella, func(fsys fs.FS, root string) (layout, bool, error) { return findUmbrella(fsys, root) }},
}

// layoutOf finds the layout of the environment at a path.
func layoutOf(fsys fs.FS, root string) (layout, error) {
	root = path.Clean(root)
	var expected []string
	for _, l := range layouts {
		where, found, err := l.find(fsys, root)
		if err != nil || found {
			return where, err
		}
		expected = append(expected, l.expected(root))
	}
	return nil, &Fault{File: root, Problem: "holds no environment", Expected: strings.Join(expected, ", or ")}
}
