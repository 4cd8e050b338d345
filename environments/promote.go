package environments

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	yamlv3 "go.yaml.in/yaml/v3"
)

// Promotion is what an environment is to say of an app.
type Promotion struct {
	// Version that it is to run.
	Version string
	// Image says where the version stands in the app's values; zero: it is that of the chart, in the list. ImageRepository is set
	// besides where Image says where; empty: it stays.
	Image           ImagePaths
	ImageRepository string
	// Was is the version that it is expected to run now; empty: any, or none.
	Was string
	// Chart and Repository are for an app that is not listed yet; the app's name is an alias where the chart has another.
	Chart, Repository string
}

// Promote gives the files that have an app run a version, for the path root of an environment repository. Like those of Revert
// they are keyed by paths in the snapshot, and nothing changes in them but the version; an app that is not listed yet is
// appended to the list in its own style. No files and no error means that the list says so already. The error wraps
// [ErrMovedOn] when the app does not run what was expected.
func Promote(fsys fs.FS, root, app string, to Promotion) (map[string][]byte, error) {
	where, err := layoutOf(fsys, root)
	if err != nil {
		return nil, err
	}
	return where.promote(fsys, app, to)
}

// promote implements layout.
func (u umbrella) promote(fsys fs.FS, app string, to Promotion) (map[string][]byte, error) {
	list, err := readOptional(fsys, u.list)
	if err != nil {
		return nil, err
	}
	e, err := findEntry(list, app)
	switch {
	case err != nil:
		return nil, err
	case to.Image.Tag != "" && e == nil:
		return nil, fmt.Errorf("%s is not listed in %s; expected it there, for an image to be set", app, u.list)
	case to.Image.Tag != "":
		return u.promoteImage(fsys, app, to)
	case e != nil && e.version == to.Version:
		return nil, nil
	case e != nil && to.Was != "" && e.version != to.Was:
		return nil, movedVersion(app, e.version, to.Was)
	case e != nil:
		list, err = setVersion(list, app, e, to.Version)
	case to.Was != "":
		return nil, fmt.Errorf("%w: %s is no longer listed", ErrMovedOn, app)
	default:
		list, err = appendEntry(list, app, to)
	}
	if err != nil {
		return nil, fmt.Errorf("promoting %s to %s in %s: %w", app, to.Version, u.list, err)
	}
	return map[string][]byte{u.list: list}, nil
}

// valuesPlace is where values of an app may stand: a file, and the keys that lead to them in it.
type valuesPlace struct {
	file string
	keys []string
	text []byte
}

// valuesOf are the app's own file and values.yaml, in the order in which they count. A file that is not there is empty.
func (u umbrella) valuesOf(fsys fs.FS, app string) ([]valuesPlace, error) {
	places := []valuesPlace{{file: path.Join(u.dir, app, valuesName)}, {file: path.Join(u.dir, valuesName), keys: []string{app}}}
	for i := range places {
		text, err := readOptional(fsys, places[i].file)
		if err != nil {
			return nil, err
		}
		places[i].text = text
	}
	return places, nil
}

// promoteImage sets the tag of an app's image, and its repository, where the values have them: in the app's own file, else in
// values.yaml.
func (u umbrella) promoteImage(fsys fs.FS, app string, to Promotion) (map[string][]byte, error) {
	places, err := u.valuesOf(fsys, app)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	set := func(dotted, value, was string) error {
		for i, p := range places {
			keys := slices.Concat(p.keys, strings.Split(dotted, "."))
			if now, ok := textAt(p.text, keys); !ok {
				continue
			} else if was != "" && now != was && now != value {
				return movedVersion(app, now, was)
			}
			edited, err := setValue(p.text, keys, value)
			if err != nil {
				return fmt.Errorf("promoting %s in %s: %w", app, p.file, err)
			}
			if !bytes.Equal(edited, p.text) {
				places[i].text, files[p.file] = edited, edited
			}
			return nil
		}
		return fmt.Errorf("promoting %s: %s is set neither in %s nor under %s in %s; expected it in one of them, with the image that runs now",
			app, dotted, places[0].file, app, places[1].file)
	}
	if err := set(to.Image.Tag, to.Version, to.Was); err != nil {
		return nil, err
	}
	if to.ImageRepository != "" && to.Image.Repository != "" {
		if err := set(to.Image.Repository, to.ImageRepository, ""); err != nil {
			return nil, err
		}
	}
	if len(files) == 0 {
		return nil, nil
	}
	return files, nil
}

// appendEntry adds an app to the end of a list of dependencies, written as the entry before it is.
func appendEntry(file []byte, app string, to Promotion) ([]byte, error) {
	if err := to.check(app); err != nil {
		return nil, err
	}
	before, err := dependenciesOf(file)
	if err != nil {
		return nil, err
	}
	at, text, err := to.place(file, app)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(file, []byte("\r\n")) {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	edited := bytes.Join([][]byte{file[:at], []byte(text), file[at:]}, nil)
	after, err := dependenciesOf(edited)
	if err != nil || len(after) != len(before)+1 || after[len(before)].appName() != app || after[len(before)].version != to.Version ||
		after[len(before)].fault != nil {
		return nil, fmt.Errorf("the list is written in a way that can't be edited: add %s by hand", app)
	}
	for i, d := range before {
		if after[i].version != d.version || !after[i].sameButVersion(d) {
			return nil, fmt.Errorf("the list is written in a way that can't be edited: add %s by hand", app)
		}
	}
	return edited, nil
}

// check refuses what could not be listed.
func (to Promotion) check(app string) error {
	problem, expected := repositoryProblem(to.Repository)
	switch {
	case to.Chart == "" || to.Repository == "":
		return fmt.Errorf("the list has no such app; expected the chart and its repository, to add it")
	case problem != "":
		return fmt.Errorf("the repository %s; expected %s", problem, expected)
	case !chartName.MatchString(to.Chart):
		return fmt.Errorf("%q is no chart name", to.Chart)
	case !chartName.MatchString(app):
		return fmt.Errorf("%q is not the name of an app", app)
	case !versionFormat.MatchString(to.Version):
		return fmt.Errorf("%q is no version", to.Version)
	}
	return nil
}

// dependenciesOf reads the whole list.
func dependenciesOf(file []byte) ([]*dependency, error) {
	root, err := parseNode(file)
	if err != nil {
		return nil, yamlFault("", 1, err)
	}
	_, list := child(root, dependenciesKey)
	list = resolve(list)
	if list == nil {
		return nil, nil
	}
	var all []*dependency
	for _, n := range list.Content {
		all = append(all, newDependency(n, n.Line))
	}
	return all, nil
}

// place is where the new entry goes, and its text.
func (to Promotion) place(file []byte, app string) (at int, text string, err error) {
	parts, ok := splitKeys(file)
	if !ok && len(bytes.TrimSpace(file)) > 0 {
		return 0, "", fmt.Errorf("the file is not written as keys at the left edge: add %s by hand", app)
	}
	newline := ""
	if len(file) > 0 && !bytes.HasSuffix(file, []byte("\n")) {
		newline = "\n"
	}
	for _, part := range parts {
		if string(part.key) != dependenciesKey {
			continue
		}
		items, ok := splitItems(file, part)
		if !ok {
			return 0, "", fmt.Errorf("the list is not written as one entry below the other: add %s by hand", app)
		}
		if len(items) == 0 {
			at = lineEnd(file, part.start)
			if at < len(file) {
				newline = ""
			}
			return at, newline + to.entry(app, style{}), nil
		}
		last := items[len(items)-1]
		at = coreEnd(file, last.start, last.end)
		if at < len(file) {
			newline = ""
		}
		return at, newline + to.entry(app, styleOf(file[last.start:last.end])), nil
	}
	return len(file), newline + dependenciesKey + ":\n" + to.entry(app, style{}), nil
}

// style is how an entry is written.
type style struct {
	// indent stands before the dash, gap after it.
	indent, gap string
	flow        bool
	// order of the fields, and the quote of each; a field without stands plain.
	order  []string
	quotes map[string]byte
}

// styleOf reads the style of an entry's text.
func styleOf(text []byte) style {
	line := text[:lineEnd(text, 0)]
	rest := bytes.TrimLeft(line, " ")
	s := style{indent: string(line[:len(line)-len(rest)]), quotes: map[string]byte{}}
	if after := bytes.TrimPrefix(rest, []byte("-")); len(after) > 0 {
		s.gap = string(after[:len(after)-len(bytes.TrimLeft(after, " "))])
	}
	root, err := parseNode(text)
	if err != nil || root == nil || root.Kind != yamlv3.SequenceNode || len(root.Content) != 1 || root.Content[0].Kind != yamlv3.MappingNode {
		return s
	}
	n := root.Content[0]
	s.flow = n.Style&yamlv3.FlowStyle != 0
	for i := 0; i+1 < len(n.Content); i += 2 {
		s.order = append(s.order, n.Content[i].Value)
		switch n.Content[i+1].Style {
		case yamlv3.SingleQuotedStyle:
			s.quotes[n.Content[i].Value] = '\''
		case yamlv3.DoubleQuotedStyle:
			s.quotes[n.Content[i].Value] = '"'
		default:
		}
	}
	return s
}

// entry is the text of the new one.
func (to Promotion) entry(app string, s style) string {
	values := map[string]string{"name": to.Chart, "version": to.Version, "repository": to.Repository}
	if app != to.Chart {
		values["alias"] = app
	}
	var fields []string
	for _, field := range append(s.order, "name", "alias", "version", "repository") {
		value, wanted := values[field]
		if !wanted {
			continue
		}
		delete(values, field)
		if quote := s.quotes[field]; field == "version" || quote != 0 {
			value = versionText(quote, value)
		}
		fields = append(fields, field+": "+value)
	}
	gap := s.gap
	if gap == "" {
		gap = " "
	}
	if s.flow {
		return s.indent + "-" + gap + "{" + strings.Join(fields, ", ") + "}\n"
	}
	return s.indent + "-" + gap + strings.Join(fields, "\n"+s.indent+" "+strings.Repeat(" ", len(gap))) + "\n"
}

// Asked is the version that an environment asks of an app, at the place that Promote would write; false where it does not list
// the app.
func Asked(fsys fs.FS, root, app string, image ImagePaths) (version string, listed bool, err error) {
	where, err := layoutOf(fsys, root)
	if err != nil {
		return "", false, err
	}
	return where.asked(fsys, app, image)
}

// asked implements layout.
func (u umbrella) asked(fsys fs.FS, app string, image ImagePaths) (string, bool, error) {
	list, err := readOptional(fsys, u.list)
	if err != nil {
		return "", false, err
	}
	e, err := findEntry(list, app)
	if err != nil || e == nil {
		return "", false, err
	}
	if image.Tag == "" {
		return e.version, true, nil
	}
	places, err := u.valuesOf(fsys, app)
	if err != nil {
		return "", true, err
	}
	for _, p := range places {
		if tag, ok := textAt(p.text, slices.Concat(p.keys, strings.Split(image.Tag, "."))); ok {
			return tag, true, nil
		}
	}
	return "", true, nil
}

// Older compares two versions, where both are such as SemVer has them.
func Older(version, than string) bool {
	a, err := semver.NewVersion(version)
	if err != nil {
		return false
	}
	b, err := semver.NewVersion(than)
	return err == nil && a.LessThan(b)
}
