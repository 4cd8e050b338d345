package environments

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

const (
	chartFile        = "Chart.yaml"
	requirementsFile = "requirements.yaml"
	valuesName       = "values.yaml"
	dependenciesKey  = "dependencies"
)

// umbrella is the layout of an environment that is an umbrella chart.
type umbrella struct {
	// root is the environment's path, dir the chart's directory: <root>/env or <root>.
	root, dir string
	// list is the file of the chart's dependencies: requirements.yaml, or Chart.yaml.
	list string
}

// expectedUmbrella says what findUmbrella looks for.
func expectedUmbrella(root string) string {
	return fmt.Sprintf("an umbrella chart: %s or %s", path.Join(root, "env", chartFile), path.Join(root, chartFile))
}

// findUmbrella looks for the umbrella chart in <root>/env, then in <root>.
func findUmbrella(fsys fs.FS, root string) (u umbrella, found bool, err error) {
	for _, dir := range []string{path.Join(root, "env"), root} {
		chart, list := path.Join(dir, chartFile), path.Join(dir, requirementsFile)
		hasChart, err := exists(fsys, chart)
		if err != nil {
			return umbrella{}, false, err
		}
		hasList, err := exists(fsys, list)
		if err != nil {
			return umbrella{}, false, err
		}
		switch {
		case hasChart && hasList:
			return umbrella{root: root, dir: dir, list: list}, true, nil
		case hasChart:
			return umbrella{root: root, dir: dir, list: chart}, true, nil
		case hasList:
			return umbrella{}, false, &Fault{File: chart, Problem: "is missing beside " + requirementsFile, Expected: "the umbrella chart's name and version"}
		}
	}
	return umbrella{}, false, nil
}

// chartMetadata is what is read of the umbrella's Chart.yaml.
type chartMetadata struct {
	name, version string
	// at is where the version stands.
	at Position
	// digest covers the file without its dependencies.
	digest string
	// lists says that the file has dependencies of its own.
	lists bool
}

// parseChart reads Chart.yaml. Its dependencies, which can be many, are left aside where the text allows it.
func parseChart(file string, text []byte) (chartMetadata, error) {
	frame := text
	var meta chartMetadata
	if parts, ok := splitKeys(text); ok {
		frame = blankOut(text, parts, dependenciesKey)
		meta.lists = slices.ContainsFunc(parts, func(p keyPart) bool { return string(p.key) == dependenciesKey })
	}
	root, err := parseNode(frame)
	if err != nil {
		return chartMetadata{}, yamlFault(file, 1, err)
	}
	if root == nil || root.Kind != yamlv3.MappingNode {
		return chartMetadata{}, &Fault{File: file, Line: 1, Problem: "is not a mapping", Expected: "a chart's name and version"}
	}
	d := &dependency{}
	for _, field := range []struct {
		name string
		to   *string
	}{{"name", &meta.name}, {"version", &meta.version}} {
		key, value := child(root, field.name)
		if value = resolve(value); value == nil {
			return chartMetadata{}, &Fault{File: file, Field: field.name, Problem: "is missing", Expected: "the umbrella chart's " + field.name}
		}
		*field.to = d.scalar(key.Line, field.name, value)
		meta.at = Position{File: file, Line: value.Line, Column: value.Column}
	}
	if d.fault == nil && !isReleaseName(meta.name) {
		key, _ := child(root, "name")
		d.fail(key.Line, "name", "is "+shown(meta.name), expectedReleaseName)
	}
	if d.fault != nil {
		d.fault.File = file
		return chartMetadata{}, d.fault
	}
	_, list := child(root, dependenciesKey)
	meta.lists = meta.lists || list != nil
	meta.digest = newDigest().add(strings.TrimSpace(string(frame))).String()
	return meta, nil
}

// blankOut empties the lines of a top-level key, so that the rest keeps its places.
func blankOut(text []byte, parts []keyPart, key string) []byte {
	frame := text
	for _, p := range parts {
		if string(p.key) == key {
			breaks := bytes.Count(text[p.start:p.end], []byte("\n"))
			frame = slices.Concat(text[:p.start], bytes.Repeat([]byte("\n"), breaks), text[p.end:])
		}
	}
	return frame
}

// placedDependency is an entry and the line on which it begins, from 1.
type placedDependency struct {
	*dependency
	line int
}

// cutDependencies reads the dependency list of a file, each entry from the cache where its text is there.
func (l *Loader) cutDependencies(file string, text []byte) ([]placedDependency, error) {
	if list, ok := l.cutList(text); ok {
		return list, nil
	}
	root, err := parseNode(text)
	if err != nil {
		return nil, yamlFault(file, 1, err)
	}
	_, list := child(root, dependenciesKey)
	list = resolve(list)
	switch {
	case root != nil && root.Kind != yamlv3.MappingNode:
		return nil, &Fault{File: file, Line: root.Line, Problem: "is not a mapping", Expected: dependenciesKey + ": and a list"}
	case list == nil || list.Tag == "!!null":
		return nil, nil
	case list.Kind != yamlv3.SequenceNode:
		return nil, &Fault{File: file, Line: list.Line, Field: dependenciesKey, Problem: "is not a list", Expected: "a list of charts"}
	}
	var imports struct {
		Dependencies []struct {
			ImportValues []any `json:"import-values"`
		} `json:"dependencies"`
	}
	if err := yaml.Unmarshal(text, &imports); err != nil {
		imports.Dependencies = nil
	}
	dependencies := make([]placedDependency, len(list.Content))
	for i, n := range list.Content {
		d := newDependency(n, n.Line)
		if d.importValues != nil && i < len(imports.Dependencies) {
			d.setImportValues(imports.Dependencies[i].ImportValues)
		}
		dependencies[i] = placedDependency{d, n.Line}
	}
	return dependencies, nil
}

// cutList reads a list that can be cut into its entries, all of which can be read by themselves.
func (l *Loader) cutList(text []byte) ([]placedDependency, bool) {
	parts, ok := splitKeys(text)
	if !ok {
		return nil, false
	}
	list := -1
	for i, p := range parts {
		if string(p.key) == dependenciesKey {
			if list >= 0 {
				return nil, false
			}
			list = i
		}
	}
	if list < 0 {
		return nil, false
	}
	if _, err := parseNode(blankOut(text, parts, dependenciesKey)); err != nil {
		return nil, false
	}
	items, ok := splitItems(text, parts[list])
	if !ok {
		return nil, false
	}
	dependencies := make([]placedDependency, len(items))
	for i, item := range items {
		d := l.dependency(text[item.start:item.end])
		if d == nil {
			return nil, false
		}
		dependencies[i] = placedDependency{d, item.line}
	}
	return dependencies, true
}

// dependency parses an entry, or finds it. Nil: the text is no entry by itself.
func (l *Loader) dependency(text []byte) *dependency {
	d, ok := l.entries[string(text)]
	if !ok {
		if d, ok = parseDependency(text); !ok {
			return nil
		}
		l.entries[string(text)] = d
	}
	if d.used == l.pass {
		// The same text twice in one list: an entry of its own, so that each keeps its place.
		twin := *d
		return &twin
	}
	d.used = l.pass
	return d
}

// packed is how the name of a packed chart ends.
const packed = ".tgz"

// vendored is the chart of an entry without a repository, which is in charts/ of the umbrella: unpacked, or packed under the
// chart's name or its name and a version. Of several the newest that satisfies the pin counts.
func (a *assembly) vendored(d *dependency) string {
	charts := path.Join(a.dir, "charts")
	plain := path.Join(charts, d.name)
	if _, err := fs.Stat(a.fsys, plain); err == nil {
		return plain
	}
	wanted, err := semver.NewConstraint(d.version)
	if err != nil {
		return plain
	}
	found, newest := plain, (*semver.Version)(nil)
	for _, name := range a.vendor().archives {
		rest, _ := strings.CutPrefix(name, d.name)
		version, err := semver.StrictNewVersion(strings.TrimPrefix(rest, "-"))
		switch {
		case rest == "" && newest == nil:
			found = path.Join(charts, name+packed)
		case err == nil && (newest == nil || version.GreaterThan(newest)) && (wanted.Check(version) || newest == nil):
			found = path.Join(charts, name+packed)
			if wanted.Check(version) {
				newest = version
			}
		}
	}
	return found
}

// vendor is what charts/ of the umbrella holds.
type vendor struct {
	// archives are packed charts, without their ending; charts the names of all that Helm would load.
	archives, charts []string
}

// vendor lists charts/ of the umbrella; what can't be listed holds nothing, and whoever looks for a chart there says so.
func (a *assembly) vendor() vendor {
	dir := path.Join(a.dir, "charts")
	hash, err := hashOf(a.fsys, dir)
	if err != nil {
		return vendor{}
	}
	v, err := a.l.vendor.get(dir+"\n"+hash, func() (v vendor, err error) {
		entries, err := fs.ReadDir(a.fsys, dir)
		for _, e := range entries {
			name, isArchive := strings.CutSuffix(e.Name(), packed)
			switch {
			case strings.HasPrefix(name, "_") || strings.HasPrefix(name, "."):
			case isArchive:
				v.archives = append(v.archives, name)
				v.charts = append(v.charts, archivedAs.ReplaceAllString(name, ""))
			default:
				if _, err := fs.Stat(a.fsys, path.Join(dir, name, chartFile)); err == nil {
					v.charts = append(v.charts, name)
				}
			}
		}
		return v, err
	})
	if err != nil {
		return vendor{}
	}
	return v
}

// archivedAs is the version in the name of a packed chart.
var archivedAs = regexp.MustCompile(`-v?\d+(\.\d+)*([-+][\w.+-]*)?$`)

// unlisted warns of charts in charts/ that no entry names. Helm renders them, too.
func (a *assembly) unlisted() []string {
	var warnings []string
	for _, name := range a.vendor().charts {
		if a.isApp(name) || slices.ContainsFunc(a.list, func(d placedDependency) bool { return d.name == name }) {
			continue
		}
		f := &Fault{
			File: path.Join(a.dir, "charts", name), Problem: "is in no list of dependencies, and is not delivered, though helm would render it",
			Expected: "an entry for it, or no such chart",
		}
		warnings = append(warnings, f.Error())
	}
	return warnings
}

// maxNesting bounds how deep charts in the repository may build on each other.
const maxNesting = 8

// chartTree is what is known of a chart's directory in the snapshot.
type chartTree struct {
	hash string
	// nested are the directories of the charts in the repository that it depends upon.
	nested []string
}

// treeDigest covers a chart in the repository, and the charts in the repository that it depends upon.
func (l *Loader) treeDigest(fsys fs.FS, dir string, depth int) (string, *Fault) {
	if depth > maxNesting {
		return "", &Fault{File: dir, Problem: "charts depend on each other too deeply", Expected: "no circle among file:// repositories"}
	}
	hash, fault := l.contents(fsys, dir)
	if fault != nil {
		return "", fault
	}
	tree, ok := l.trees[dir]
	if !ok || tree.hash != hash {
		if tree, fault = l.readTree(fsys, dir); fault != nil {
			return "", fault
		}
		tree.hash = hash
		l.trees[dir] = tree
	}
	sum := newDigest().add(hash)
	for _, nested := range tree.nested {
		h, fault := l.treeDigest(fsys, nested, depth+1)
		if fault != nil {
			return "", fault
		}
		sum.add(nested, h)
	}
	return sum.String(), nil
}

// unreadable words an error of the file system as the fault of a path.
func (l *Loader) unreadable(name string, err error) *Fault {
	if f := (*Fault)(nil); errors.As(err, &f) {
		return f
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &Fault{File: name, Problem: "does not exist", Expected: "a chart's directory"}
	}
	l.failed = true
	return &Fault{File: name, Problem: "can't be read: " + err.Error()}
}

// readTree looks at a chart's directory: it must be a chart. A packed chart builds on nothing outside of itself.
func (l *Loader) readTree(fsys fs.FS, dir string) (chartTree, *Fault) {
	var tree chartTree
	if strings.HasSuffix(dir, packed) {
		return tree, nil
	}
	chart := path.Join(dir, chartFile)
	switch info, err := fs.Stat(fsys, chart); {
	case errors.Is(err, fs.ErrNotExist):
		return tree, &Fault{File: chart, Problem: "is missing", Expected: "a chart"}
	case err != nil:
		return tree, l.unreadable(chart, err)
	case !info.Mode().IsRegular():
		return tree, &Fault{File: chart, Problem: "is no file", Expected: "a chart"}
	}
	for _, name := range []string{chartFile, requirementsFile} {
		file := path.Join(dir, name)
		text, err := l.read(fsys, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return tree, l.unreadable(file, err)
		}
		tree.nested = append(tree.nested, nestedCharts(file, text)...)
	}
	return tree, nil
}

// nestedCharts are the directories of the charts in the repository that a chart names as its dependencies. What is
// wrong with the others is for whoever renders the chart to say.
func nestedCharts(file string, text []byte) []string {
	l := &Loader{}
	l.init()
	list, err := l.cutDependencies(file, text)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, d := range list {
		dir, fault := d.chartPath(path.Dir(file))
		if fault == nil && dir != "" && d.repository != "" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}
