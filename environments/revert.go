package environments

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// Revert gives the files that put an app back from a failed release to the stable one, for the path root of an
// environment repository. current is the tip of the branch, failed and stable the trees of the commits that asked for
// the two releases. The keys are paths in the snapshot, the values their new content; nil deletes the file.
//
// What goes back is what is the app's own: its version, the other fields of its entry, its key in values.yaml, its own
// values file; only what differs between failed and stable, and only if current still says what failed. If not, the
// error wraps [ErrMovedOn] and nothing is to be written. No files and no error means that current says what stable
// says already. A [*UnrevertableError] says that the difference is none of these: a chart in the repository, values
// that all apps share, the release's name.
func Revert(current, failed, stable fs.FS, root, app string) (map[string][]byte, error) {
	where, err := layoutOf(current, root)
	if err != nil {
		return nil, err
	}
	return where.revert(current, failed, stable, app)
}

// revert implements layout.
func (u umbrella) revert(current, failed, stable fs.FS, app string) (map[string][]byte, error) {
	var sources [3]*sources
	for i, fsys := range []fs.FS{current, failed, stable} {
		s, err := readSources(fsys, u.root, app)
		if err != nil {
			return nil, err
		}
		sources[i] = s
	}
	now, was, want := sources[0], sources[1], sources[2]
	if err := revertible(was, want, app); err != nil {
		return nil, err
	}
	if err := stillFailed(now, was, want, app); err != nil {
		return nil, err
	}
	if now.says(want, app) {
		return nil, nil
	}
	r := reversal{app: app, now: now, was: was, want: want, files: map[string][]byte{}}
	for _, put := range []func() error{r.entry, r.values, r.doc} {
		if err := put(); err != nil {
			return nil, err
		}
	}
	return r.files, nil
}

// sources is what one commit says of an app, as text.
type sources struct {
	umbrella
	// list is the text that entry is in; entry is nil when the app is not listed.
	list  []byte
	entry *entry
	// values is the umbrella's values.yaml, doc the app's own; nil when absent.
	values, doc []byte
	// tree identifies a chart in the repository; empty for others.
	tree string
	// releaseName and namespace are what sluice.yaml says for the app.
	releaseName, namespace string
}

func readSources(fsys fs.FS, root, app string) (*sources, error) {
	where, found, err := findUmbrella(fsys, root)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &Fault{File: root, Problem: "holds no environment", Expected: expectedUmbrella(root)}
	}
	s := &sources{umbrella: where}
	for _, file := range []struct {
		name string
		to   *[]byte
	}{
		{where.list, &s.list},
		{path.Join(where.dir, valuesName), &s.values},
		{path.Join(where.dir, app, valuesName), &s.doc},
	} {
		if *file.to, err = readOptional(fsys, file.name); err != nil {
			return nil, err
		}
	}
	if s.entry, err = findEntry(s.list, app); err != nil {
		return nil, err
	}
	if s.entry != nil {
		s.readTree(fsys)
	}
	return s, s.readSettings(fsys, root, app)
}

func readOptional(fsys fs.FS, name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, &Fault{File: name, Problem: "is no path inside the repository"}
	}
	ok, err := exists(fsys, name)
	if err != nil || !ok {
		return nil, err
	}
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	// An empty file is there, all the same.
	return append([]byte{}, text...), nil
}

func (s *sources) readTree(fsys fs.FS) {
	dir, fault := s.entry.chartPath(s.dir)
	if fault != nil || dir == "" {
		return
	}
	l := &Loader{}
	l.init()
	if s.tree, fault = l.treeDigest(fsys, dir, 0); fault != nil {
		s.tree = fault.Error()
	}
}

func (s *sources) readSettings(fsys fs.FS, root, app string) error {
	file := path.Join(root, settingsName)
	text, err := readOptional(fsys, file)
	if err != nil {
		return err
	}
	all, err := parseSettings(file, text)
	if f := (*Fault)(nil); err != nil && !errors.As(err, &f) {
		return err
	}
	if all == nil {
		// What it says can't be told, so no release came of it.
		return nil
	}
	s.releaseName, s.namespace = all.releaseName, all.namespace
	if own := all.apps[app]; own != nil {
		s.releaseName = orDefault(own.releaseName, s.releaseName)
		s.namespace = orDefault(own.namespace, s.namespace)
	}
	return nil
}

func (s *sources) sameValues(other *sources, app string) bool {
	return sameValues(s.values, other.values, app)
}

// sameDoc compares the app's own values file, by its text where one of them can't be read.
func (s *sources) sameDoc(other *sources) bool {
	mine, err := parseValues(s.doc)
	theirs, otherErr := parseValues(other.doc)
	if err != nil || otherErr != nil {
		return bytes.Equal(s.doc, other.doc)
	}
	return sameContent(mine, theirs)
}

// says reports whether two commits say the same of the app, in the parts that Revert can edit.
func (s *sources) says(other *sources, app string) bool {
	return s.entry.version == other.entry.version && s.entry.sameButVersion(other.entry.dependency) &&
		s.sameValues(other, app) && s.sameDoc(other)
}

// revertible refuses differences between the releases that no edit of the app's own fields undoes.
func revertible(was, want *sources, app string) error {
	switch {
	case was.entry == nil:
		return unrevertable(app, "the commit of the failed release does not list it")
	case want.entry == nil:
		return unrevertable(app, "the commit of the stable release does not list it")
	case was.umbrella != want.umbrella && !was.entry.sameButVersion(want.entry.dependency):
		return unrevertable(app, "the environment has moved from %s to %s", want.umbrella.list, was.umbrella.list)
	case was.tree != want.tree:
		return unrevertable(app, "its chart is in the repository and has changed there")
	case was.releaseName != want.releaseName || was.namespace != want.namespace:
		return unrevertable(app, "its release name or namespace has changed in %s", settingsName)
	case was.says(want, app):
		return unrevertable(app, "nothing of its own has changed; look at what it shares with others, such as global: in %s", valuesName)
	}
	return nil
}

// stillFailed makes sure that the tip still asks for what failed, or asks for what is stable already.
func stillFailed(now, was, want *sources, app string) error {
	switch {
	case now.entry == nil:
		return fmt.Errorf("%w: %s is no longer listed", ErrMovedOn, app)
	case now.says(want, app):
		return nil
	case now.entry.version != was.entry.version:
		return movedVersion(app, now.entry.version, was.entry.version)
	case now.tree != was.tree:
		return fmt.Errorf("%w: the chart of %s has changed", ErrMovedOn, app)
	case !now.entry.sameButVersion(was.entry.dependency):
		return fmt.Errorf("%w: the entry of %s has changed", ErrMovedOn, app)
	case !now.sameValues(was, app) || !now.sameDoc(was):
		return fmt.Errorf("%w: the values of %s are no longer what failed", ErrMovedOn, app)
	}
	return nil
}

// reversal is a Revert under way: now still says what was said.
type reversal struct {
	app            string
	now, was, want *sources
	files          map[string][]byte
}

// entry puts the dependency's entry back: its version alone where nothing else differs.
func (r *reversal) entry() error {
	was, want := r.was.entry, r.want.entry
	var edited []byte
	var err error
	switch {
	case !was.sameButVersion(want.dependency):
		edited, err = r.wholeEntry()
	case was.version != want.version:
		edited, err = RevertVersion(r.now.list, r.app, was.version, want.version)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	r.files[r.now.umbrella.list] = edited
	return nil
}

// wholeEntry puts the entry's lines back.
func (r *reversal) wholeEntry() ([]byte, error) {
	now, want := r.now.entry, r.want.entry
	if now.end == 0 || want.end == 0 {
		return nil, unrevertable(r.app, "its entry is not written as lines of its own")
	}
	old := r.now.list[now.start:coreEnd(r.now.list, now.start, now.end)]
	text := r.want.list[want.start:coreEnd(r.want.list, want.start, want.end)]
	if indentOf(old) != indentOf(text) {
		return nil, unrevertable(r.app, "its entry is indented differently in the stable commit")
	}
	if bytes.Contains(r.now.list, []byte("\r\n")) && !bytes.Contains(text, []byte("\r\n")) {
		text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	}
	if now.start+len(old) < len(r.now.list) && !bytes.HasSuffix(text, []byte("\n")) {
		text = append(bytes.Clone(text), '\n')
	}
	edited := bytes.Join([][]byte{r.now.list[:now.start], text, r.now.list[now.start+len(old):]}, nil)
	after, err := findEntry(edited, r.app)
	if err != nil || after == nil || after.version != want.version || !after.sameButVersion(want.dependency) {
		return nil, unrevertable(r.app, "its entry shares parts with others")
	}
	return edited, nil
}

func indentOf(text []byte) int { return len(text) - len(bytes.TrimLeft(text, " ")) }

// values puts the app's key of values.yaml back.
func (r *reversal) values() error {
	if r.was.sameValues(r.want, r.app) {
		return nil
	}
	edited, err := RevertValues(r.now.values, r.was.values, r.want.values, r.app)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(edited)) == 0 && r.want.values == nil {
		edited = nil
	}
	r.files[path.Join(r.now.dir, valuesName)] = edited
	return nil
}

// doc puts the app's own values file back.
func (r *reversal) doc() error {
	if !r.was.sameDoc(r.want) {
		r.files[path.Join(r.now.dir, r.app, valuesName)] = r.want.doc
	}
	return nil
}
