package environments

import (
	"bytes"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

const templatesDir = "templates"

// umbrellaFiles is what the umbrella's directory holds of its own.
type umbrellaFiles struct {
	// templates are the files below templates/.
	templates []string
	// digest covers the templates and all other files that they could read.
	digest string
	// definitions covers the templates that define named templates, which every app's templates may include; empty
	// when there are none.
	definitions string
	// words are those of the templates; whole says that they take .Values or .Subcharts as a whole.
	words map[string]bool
	whole bool
	// tree covers templates/ alone; sum is definitions as it grows.
	tree string
	sum  *digest
}

// addUmbrella fills Environment.Umbrella in, and adds the app that stands for the environment's own objects.
func (a *assembly) addUmbrella(env *Environment, files umbrellaFiles, fault *Fault) {
	env.Umbrella = Umbrella{
		Name: a.chart.name, Version: a.chart.version, Dir: a.dir,
		Globals: a.globals, Templates: files.templates, Tree: files.tree,
	}
	var partFault *Fault
	for _, p := range a.values.parts {
		if _, isApp := a.l.names[p.key]; isApp || p.key == globalKey {
			continue
		}
		if f := p.faultIn(a.values.name); f != nil {
			partFault = f
			continue
		}
		if env.Umbrella.Values == nil {
			env.Umbrella.Values = map[string]any{}
		}
		env.Umbrella.Values[p.key] = p.value
	}
	if fault == nil {
		fault = partFault
	}
	taken := slices.ContainsFunc(env.Apps, func(app App) bool { return app.Name == a.chart.name })
	if !taken && (rendersAnything(files.templates) || fault != nil) {
		env.Apps = append(env.Apps, a.umbrellaApp(env, files, fault))
	}
}

// rendersAnything reports whether some template can make an object.
func rendersAnything(templates []string) bool {
	return slices.ContainsFunc(templates, func(name string) bool {
		base := path.Base(name)
		return !strings.HasPrefix(base, "_") && !strings.HasPrefix(base, ".") && base != "NOTES.txt"
	})
}

// umbrellaFiles looks at the umbrella's own files, when it has templates.
func (a *assembly) umbrellaFiles() (umbrellaFiles, *Fault) {
	dir := path.Join(a.dir, templatesDir)
	e := a.l.listing.entries[templatesDir]
	switch {
	case e == nil:
		return umbrellaFiles{}, nil
	case e.mode&fs.ModeIrregular != 0:
		return umbrellaFiles{}, irregularFault(dir)
	}
	switch info, err := fs.Stat(a.fsys, dir); {
	case err != nil:
		return umbrellaFiles{}, a.l.unfollowed(a.fsys, dir, err)
	case !info.IsDir():
		return umbrellaFiles{}, nil
	}
	files, err := a.readUmbrella(dir)
	if err != nil {
		return umbrellaFiles{}, a.l.unreadable(dir, err)
	}
	return files, nil
}

// readUmbrella reads the templates when they have changed. The other files are not read, they have hashes.
func (a *assembly) readUmbrella(templates string) (umbrellaFiles, error) {
	tree, fault := a.l.contents(a.fsys, templates)
	if fault != nil {
		return umbrellaFiles{}, fault
	}
	files, err := a.l.umbrella.get(templates+"\n"+tree, func() (umbrellaFiles, error) {
		files := umbrellaFiles{tree: tree, sum: newDigest(), words: map[string]bool{}}
		err := files.read(a.fsys, templates)
		return files, err
	})
	if err != nil {
		return files, err
	}
	files.digest, err = a.l.listing.digest(a.fsys, func(name string) bool { return !a.isOthers(name) })
	return files, err
}

// read adds what is in a directory of templates.
func (u *umbrellaFiles) read(fsys fs.FS, dir string) error {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		info, err := fs.Stat(fsys, name)
		if err != nil {
			return err
		}
		if info.IsDir() {
			if err := u.read(fsys, name); err != nil {
				return err
			}
			continue
		}
		u.templates = append(u.templates, name)
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		for _, w := range word.FindAll(text, -1) {
			u.words[string(w)] = true
		}
		u.whole = u.whole || whole.Match(indexed.ReplaceAll(text, nil))
		if bytes.Contains(text, []byte("define")) {
			u.definitions = u.sum.add(name, string(text)).String()
		}
	}
	return nil
}

// The values or the subcharts of a chart taken as a whole are those of any app; indexed by a constant, of one.
var (
	word    = regexp.MustCompile(`[\w-]+`)
	whole   = regexp.MustCompile(`\.(Values|Subcharts)([^.\w]|$)`)
	indexed = regexp.MustCompile(`index\s+\$?\.(Values|Subcharts)\s+"`)
)

// speakOf reports whether the templates may read what an app has. It makes no garbage: it is asked of ten thousand apps.
func (u *umbrellaFiles) speakOf(app string) bool {
	if u.whole {
		return true
	}
	for w := range strings.SplitSeq(app, ".") {
		if !u.words[w] {
			return false
		}
	}
	return true
}

// isOthers reports whether an entry of the umbrella's directory is covered elsewhere, or is no matter of the
// umbrella's own templates.
func (a *assembly) isOthers(name string) bool {
	switch name {
	case chartFile, requirementsFile, valuesName, "requirements.lock", "Chart.lock", "charts":
		return true
	}
	_, isApp := a.l.names[name]
	return isApp && a.l.listing.entries[name].mode.IsDir()
}

// umbrellaApp is the app that stands for the environment's own objects. Its values are the whole of values.yaml,
// with the apps' own files laid over, since its templates may read anybody's.
func (a *assembly) umbrellaApp(env *Environment, files umbrellaFiles, fault *Fault) App {
	s := a.settings.apps[a.chart.name]
	app := App{
		Name:        a.chart.name,
		ReleaseName: orDefault(a.settings.releaseName, a.chart.name),
		Namespace:   env.Namespace,
		CRDs:        orDefault(a.settings.crds, CRDsCreate),
		Chart:       ChartRef{Name: a.chart.name, Version: a.chart.version, Repository: "file://.", Path: a.dir},
		Values:      make(map[string]any, max(len(a.values.parts), len(env.Apps))),
		Pin:         a.chart.at,
	}
	app.apply(s)
	sum := newDigest().add(app.Name, app.ReleaseName, app.Namespace, app.Chart.Path, a.chart.digest, files.digest, a.env.shared, string(app.CRDs))
	for _, p := range a.values.parts {
		if p.key != globalKey {
			app.Values[p.key] = p.value
			sum.add(p.digest)
		}
	}
	for i := range env.Apps {
		if doc := env.Apps[i].origin.doc; doc != nil {
			app.Values[env.Apps[i].Name] = env.Apps[i].Values
			sum.add(env.Apps[i].Name, doc.digest)
		}
	}
	if rendersAnything(files.templates) {
		for i := range env.Apps {
			if files.speakOf(env.Apps[i].Name) {
				app.Reads = append(app.Reads, env.Apps[i].Name)
				sum.add(env.Apps[i].Digest)
			}
		}
	}
	app.Digest = sum.String()
	app.origin = origin{file: a.values.name}
	switch {
	case fault != nil:
		app.Fault = fault
	case s != nil && s.fault != nil:
		app.Fault = s.fault
	}
	return app
}

// locateValue finds the file and line of a field of the app's values; an empty file when the environment does not
// set it.
func (app *App) locateValue(at fieldPath) (file string, line int) {
	o := app.origin
	if o.doc != nil {
		if line := lineOf([]byte(o.doc.text), at); line > 0 && isSet(o.doc.values, at) {
			return o.doc.name, line
		}
	}
	if o.part != nil {
		values, _ := o.part.table()
		if !isSet(values, at) {
			return "", 0
		}
		line := lineOf([]byte(o.part.text), append(fieldPath{o.part.key}, at...))
		return o.file, max(o.line, o.line+line-1)
	}
	return "", 0
}

// isSet reports whether the values have the first keys of a path; a missing field is reported at its parent.
func isSet(values map[string]any, at fieldPath) bool {
	v := any(values)
	for _, key := range at[:max(1, len(at)-1)] {
		m, ok := v.(map[string]any)
		if !ok {
			return true
		}
		if v, ok = m[key]; !ok {
			return false
		}
	}
	return true
}
