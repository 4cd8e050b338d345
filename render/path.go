package render

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/ignore"
)

// readDir returns the files of the chart in a directory of a snapshot, packed subcharts unpacked, without those that
// .helmignore names; or of a packed chart there. Symbolic links are followed only as far as the snapshot's root.
func readDir(p Path, left *allowance) ([]*loader.BufferedFile, error) {
	root, err := resolveLinks(p.FS, p.Dir)
	if err != nil {
		return nil, err
	}
	if path.Ext(root) == ".tgz" {
		data, err := readLimited(p.FS, root, left.limits.Archive)
		if err != nil {
			return nil, err
		}
		return readArchive(data, left, 0)
	}
	rules, err := ignoreRules(p.FS, root)
	if err != nil {
		return nil, err
	}
	read := func(wanted entries) ([]*loader.BufferedFile, error) {
		r := &dirReader{fsys: p.FS, rules: rules, wanted: wanted, left: left}
		err := r.walk(root, "", 0)
		return r.files, err
	}
	switch {
	case p.Helpers:
		return read(helperEntries)
	case p.Bare:
		before := *left
		files, err := read(bareEntries)
		if err != nil || !mentionFiles(files) {
			return files, err
		}
		*left = before
		return read(allButCharts)
	}
	return read(allEntries)
}

// entries says which entries of a chart's own directory are read.
type entries func(name string, isDir bool) bool

func allEntries(string, bool) bool { return true }

func allButCharts(name string, _ bool) bool { return name != "charts" }

// bareEntries leaves out what only .Files shows: an umbrella chart keeps a directory for each of its apps there.
func bareEntries(name string, isDir bool) bool {
	return !isDir || name == "templates" || name == "crds"
}

func helperEntries(name string, isDir bool) bool {
	return isDir && name == "templates" || !isDir && name == chartutil.ChartfileName
}

// mentionFiles reports whether templates, or values that may become templates, could ask for the chart's other files.
func mentionFiles(files []*loader.BufferedFile) bool {
	return slices.ContainsFunc(files, func(f *loader.BufferedFile) bool { return bytes.Contains(f.Data, []byte("Files")) })
}

type dirReader struct {
	fsys   fs.FS
	rules  *ignore.Rules
	wanted entries
	left   *allowance
	files  []*loader.BufferedFile
}

// maxDirDepth also ends cycles of links.
const maxDirDepth = 40

// walk reads the directory dir of the snapshot, which is rel inside the chart.
func (r *dirReader) walk(dir, rel string, depth int) error {
	if depth > maxDirDepth {
		return fmt.Errorf("reading %s: directories are nested more than %d deep", quote(dir), maxDirDepth)
	}
	entries, err := fs.ReadDir(r.fsys, dir)
	if err != nil {
		return fmt.Errorf("reading chart: %w", err)
	}
	for _, e := range entries {
		if err := r.entry(path.Join(dir, e.Name()), path.Join(rel, e.Name()), e, depth); err != nil {
			return err
		}
	}
	return nil
}

func (r *dirReader) entry(name, rel string, e fs.DirEntry, depth int) error {
	info, err := e.Info()
	if err != nil {
		return fmt.Errorf("reading chart: %w", err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if name, err = resolveLinks(r.fsys, name); err != nil {
			return err
		}
		if info, err = fs.Stat(r.fsys, name); err != nil {
			return fmt.Errorf("reading chart: %w", err)
		}
	}
	if r.rules.Ignore(rel, info) || depth == 0 && !r.wanted(rel, info.IsDir()) {
		return nil
	}
	switch {
	case info.IsDir():
		if err := r.left.take(rel, 0); err != nil {
			return err
		}
		return r.walk(name, rel, depth+1)
	case info.Mode().IsRegular():
		return r.file(name, rel)
	}
	if _, err := fs.Stat(r.fsys, name); err != nil {
		return fmt.Errorf("reading %s: %w", quote(name), err)
	}
	return fmt.Errorf("reading %s: neither a file nor a directory", quote(name))
}

func (r *dirReader) file(name, rel string) error {
	data, err := readLimited(r.fsys, name, r.left.limits.File)
	if err != nil {
		return err
	}
	if err := r.left.take(rel, int64(len(data))); err != nil {
		return err
	}
	file := &loader.BufferedFile{Name: rel, Data: bytes.TrimPrefix(data, utf8BOM)}
	unpacked, err := unpackSubchart(file, r.left, 0)
	if err != nil {
		return err
	}
	r.files = append(r.files, unpacked...)
	return nil
}

func readLimited(fsys fs.FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading chart: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", quote(name), err)
	}
	if int64(len(data)) > limit {
		return nil, &LimitError{What: "file " + quote(name), Limit: limit}
	}
	return data, nil
}

func ignoreRules(fsys fs.FS, dir string) (*ignore.Rules, error) {
	rules := ignore.Empty()
	name := path.Join(dir, ignore.HelmIgnore)
	resolved, err := resolveLinks(fsys, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		data, err := readLimited(fsys, resolved, 1<<20)
		if err != nil {
			return nil, err
		}
		if rules, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			return nil, fmt.Errorf("reading %s: %w", quote(name), err)
		}
	}
	rules.AddDefaults()
	return rules, nil
}

// resolveLinks returns the name with every symbolic link in it replaced by what it points to. A link that is
// absolute or leaves the root is refused, and so is every link when the file system can't read links.
func resolveLinks(fsys fs.FS, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", fmt.Errorf("reading %s: the path leaves the repository", quote(name))
	}
	const maxLinks = 40
	done, todo := ".", strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		next := path.Join(done, todo[0])
		todo = todo[1:]
		info, err := fs.Lstat(fsys, next)
		if err != nil {
			return "", fmt.Errorf("reading %s: %w", quote(name), err)
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("reading %s: too many symbolic links", quote(name))
		}
		target, err := linkTarget(fsys, next)
		if err != nil {
			return "", err
		}
		done, todo = ".", append(strings.Split(target, "/"), todo...)
	}
	return done, nil
}

// linkTarget reads one link and places its target in the snapshot.
func linkTarget(fsys fs.FS, link string) (string, error) {
	target, err := fs.ReadLink(fsys, link)
	if err != nil {
		return "", fmt.Errorf("reading symbolic link %s: %w", quote(link), err)
	}
	joined := path.Join(path.Dir(link), target)
	if path.IsAbs(target) || !fs.ValidPath(joined) {
		return "", fmt.Errorf("reading %s: the symbolic link leaves the repository", quote(link))
	}
	return joined, nil
}
