package environments

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
)

// Loader reads environments from snapshots. It keeps what it parsed by content, so that the next snapshot of the
// same environment costs what has changed in it: use one Loader for each environment, for as long as it is followed.
// The zero Loader is ready. It may be used from several goroutines, which then take turns.
type Loader struct {
	// Environment is the environment's name where sluice.yaml says none; where it says another one, that is a fault.
	Environment string
	// Namespace of the environment where sluice.yaml says none; default jx-<name>, and empty when no name is known
	// either.
	Namespace string

	mu sync.Mutex
	// pass counts the loads, to tell which cached parts are still in use.
	pass uint64
	// entries are the dependencies by their text, parts the keys of values.yaml by theirs.
	entries map[string]*dependency
	parts   map[string]*valuesPart
	// trees are the charts in the repository by their directory.
	trees map[string]chartTree
	// links are the symbolic links in a directory, by its hash; followed counts those that this pass has followed.
	links    map[string][]string
	followed int
	// failed says that the file system failed somewhere in this pass: what came of it is not remembered.
	failed bool
	// cost has the fields of each file that was read, of this snapshot or of one before, and spent their sum. overspent: they
	// were more than an environment may have in this pass.
	cost      map[string]int
	spent     int
	overspent bool
	// names and index are scratch, kept for their memory: the place in the list of each app's name, and in
	// values.yaml of each key.
	names, index map[string]int

	last     memo[*Environment]
	settings memo[*settings]
	chart    memo[chartMetadata]
	list     memo[[]placedDependency]
	values   memo[*valuesFile]
	vendor   memo[vendor]
	listing  listing
	umbrella memo[umbrellaFiles]
}

// memo remembers the last result for a key.
type memo[T any] struct {
	key   string
	value T
}

// get computes the value unless it is that of the key already. Errors are not remembered: they may pass.
func (m *memo[T]) get(key string, compute func() (T, error)) (T, error) {
	if m.key == key && key != "" {
		return m.value, nil
	}
	*m = memo[T]{}
	value, err := compute()
	if err != nil {
		return value, err
	}
	m.key, m.value = key, value
	return value, nil
}

func (l *Loader) init() {
	if l.entries == nil {
		l.entries, l.parts = map[string]*dependency{}, map[string]*valuesPart{}
		l.trees, l.names, l.index = map[string]chartTree{}, map[string]int{}, map[string]int{}
		l.links = map[string][]string{}
		l.cost, l.spent = map[string]int{}, 0
	}
	l.pass++
	l.followed = 0
}

// Load reads the environment at the path root of a snapshot: an umbrella chart in <root>/env or <root>, and the
// optional <root>/sluice.yaml. When fsys is a [Hasher], what has not changed since the last load is not read.
//
// A fault of one app is in [App.Fault], that of an entry which names no app in [Environment.Incomplete]. An error
// means that nothing can be said about the environment; it is or joins [Fault] unless the file system failed. What brings a
// library to panic is an error like any other.
func (l *Loader) Load(fsys fs.FS, root string) (env *Environment, err error) {
	root = path.Clean(root)
	if !fs.ValidPath(root) {
		return nil, &Fault{File: root, Problem: "is not a path inside the repository", Expected: "a relative path without .."}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.init()
	defer func() {
		if p := recover(); p != nil {
			l.forget()
			env, err = nil, fmt.Errorf("reading the environment at %s panicked: %v", root, p)
		}
	}()
	key := ""
	if h, ok := fsys.(Hasher); ok {
		if hash, err := h.Hash("."); err == nil {
			key = strings.Join([]string{hash, root, l.Environment, l.Namespace}, "\n")
		}
	}
	l.failed, l.overspent = false, false
	env, err = l.last.get(key, func() (*Environment, error) { return l.load(fsys, root) })
	if l.overspent && l.pass > 1 {
		// What was read of snapshots before may have been too much.
		l.forget()
		env, err = l.last.get(key, func() (*Environment, error) { return l.load(fsys, root) })
	}
	if l.failed {
		l.last = memo[*Environment]{}
	}
	return env, err
}

func (l *Loader) load(fsys fs.FS, root string) (*Environment, error) {
	where, err := layoutOf(fsys, root)
	if err != nil {
		return nil, err
	}
	return where.load(l, fsys)
}

// load implements layout.
func (u umbrella) load(l *Loader, fsys fs.FS) (*Environment, error) {
	a := &assembly{l: l, fsys: fsys, umbrella: u, settingsFile: path.Join(u.root, settingsName)}
	for _, step := range []func() error{a.readSettings, a.readChart, a.readList, a.readValues, a.readListing} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	env, err := a.environment()
	if err != nil {
		return nil, err
	}
	l.sweep(len(a.list), len(a.values.parts))
	return env, nil
}

// sweep forgets what no longer occurs, when that has become the greater part.
func (l *Loader) sweep(entries, parts int) {
	const slack = 256
	if len(l.entries) > 2*entries+slack {
		for text, d := range l.entries {
			if d.used != l.pass {
				delete(l.entries, text)
			}
		}
	}
	if len(l.trees) > 2*entries+slack {
		clear(l.trees)
	}
	if len(l.links) > 2*entries+slack {
		clear(l.links)
	}
	if len(l.parts) > 2*parts+slack {
		for text, p := range l.parts {
			if p.used != l.pass {
				delete(l.parts, text)
			}
		}
	}
}

// assembly is one load under way.
type assembly struct {
	l    *Loader
	fsys fs.FS
	umbrella
	settingsFile string

	settings *settings
	chart    chartMetadata
	list     []placedDependency
	values   *valuesFile
	// importers are the entries with import-values, by their place in list.
	importers []int
	// env is what all apps have in common.
	env     envInputs
	globals map[string]any
	tags    map[string]any
	// twice are the later places of keys that values.yaml sets more than once.
	twice []placedPart
}

// envInputs is what every app of the environment is built from.
type envInputs struct {
	namespace, releaseName string
	upstream               Upstream
	crds                   CRDs
	// shared covers what of the umbrella reaches into every app: its name, globals, tags and named templates.
	shared string
}

// inputs is all that an app is built from besides its entry. It is compared to tell whether the app is unchanged.
type inputs struct {
	env      envInputs
	settings *appSettings
	part     *valuesPart
	doc      *valuesDoc
	// dir is the directory of a chart in the repository, tree its digest.
	dir, tree string
}

// origin is where an app's values stand.
type origin struct {
	// file is values.yaml, line that of the app's key in it.
	file string
	line int
	part *valuesPart
	doc  *valuesDoc
}

// readThrough reads a file through a memo; an absent one reads as empty when optional.
func readThrough[T any](a *assembly, m *memo[T], name string, optional bool, parse func(text []byte) (T, error)) (T, error) {
	var zero T
	hash, err := hashOf(a.fsys, name)
	if optional && errors.Is(err, fs.ErrNotExist) {
		*m = memo[T]{}
		return parse(nil)
	}
	if err != nil {
		return zero, fmt.Errorf("reading %s: %w", name, err)
	}
	return m.get(name+"\n"+hash, func() (T, error) {
		if ok, err := exists(a.fsys, name); err != nil || !ok {
			return zero, errors.Join(err, &Fault{File: name, Problem: "is not a file", Expected: "a file"})
		}
		text, err := a.l.read(a.fsys, name)
		var fault *Fault
		switch {
		case errors.As(err, &fault):
			return zero, fault
		case err != nil:
			return zero, fmt.Errorf("reading %s: %w", name, err)
		}
		return parse(text)
	})
}

func (a *assembly) readSettings() (err error) {
	a.settings, err = readThrough(a, &a.l.settings, a.settingsFile, true, func(text []byte) (*settings, error) {
		return parseSettings(a.settingsFile, text)
	})
	return err
}

func (a *assembly) readChart() (err error) {
	file := path.Join(a.dir, chartFile)
	a.chart, err = readThrough(a, &a.l.chart, file, false, func(text []byte) (chartMetadata, error) {
		return parseChart(file, text)
	})
	if err == nil && a.chart.lists && a.umbrella.list != file {
		return &Fault{File: file, Field: dependenciesKey, Problem: "can't be combined with " + requirementsFile, Expected: "one list of dependencies"}
	}
	return err
}

func (a *assembly) readList() (err error) {
	a.list, err = readThrough(a, &a.l.list, a.umbrella.list, false, func(text []byte) ([]placedDependency, error) {
		return a.l.cutDependencies(a.umbrella.list, text)
	})
	if err == nil && len(a.list) > maxApps {
		return &Fault{File: a.umbrella.list, Problem: fmt.Sprintf("lists %d apps", len(a.list)), Expected: fmt.Sprintf("%d at most", maxApps)}
	}
	clear(a.l.names)
	for i, d := range a.list {
		d.used = a.l.pass
		if _, again := a.l.names[d.appName()]; !again && !d.anonymous {
			a.l.names[d.appName()] = i
			if len(d.importValues) > 0 {
				a.importers = append(a.importers, i)
			}
		}
	}
	return err
}

func (a *assembly) readValues() (err error) {
	if fault := a.templatedValues(a.dir); fault != nil {
		return fault
	}
	file := path.Join(a.dir, valuesName)
	a.values, err = readThrough(a, &a.l.values, file, true, func(text []byte) (*valuesFile, error) {
		return a.l.cutValues(file, text)
	})
	if err != nil {
		return err
	}
	clear(a.l.index)
	for i, p := range a.values.parts {
		p.used = a.l.pass
		if _, again := a.l.index[p.key]; again {
			a.twice = append(a.twice, p)
		}
		a.l.index[p.key] = i
	}
	return nil
}

func (a *assembly) readListing() error { return a.l.listing.update(a.fsys, a.dir, a.l.pass) }

// part is the app's or the environment's key in values.yaml; nil when there is none.
func (a *assembly) part(key string) placedPart {
	if i, ok := a.l.index[key]; ok {
		return a.values.parts[i]
	}
	return placedPart{}
}

// common reads the keys of values.yaml that are everybody's.
func (a *assembly) common(key string) (map[string]any, error) {
	p := a.part(key)
	if p.valuesPart == nil {
		return nil, nil
	}
	if fault := p.faultIn(a.values.name); fault != nil {
		return nil, fault
	}
	m, ok := p.table()
	if !ok {
		return nil, &Fault{File: a.values.name, Line: p.line, Field: key, Problem: "is not a mapping", Expected: "a mapping"}
	}
	return m, nil
}

// faultIn is the part's fault with its file and line.
func (p placedPart) faultIn(file string) *Fault {
	if p.valuesPart == nil || p.fault == nil && p.address == nil {
		return nil
	}
	f := p.address
	if p.fault != nil {
		f = p.fault
	}
	return f.placed(file, p)
}

func (f Fault) placed(file string, p placedPart) *Fault {
	f.File, f.Line = file, p.line+max(f.Line, 0)
	if f.Field == "" {
		f.Field = p.key
	}
	return &f
}

const (
	globalKey = "global"
	tagsKey   = "tags"
)

// environment puts everything together.
func (a *assembly) environment() (env *Environment, err error) {
	if a.globals, err = a.common(globalKey); err != nil {
		return nil, err
	}
	if a.tags, err = a.common(tagsKey); err != nil {
		return nil, err
	}
	if name := a.settings.environment; name != "" && a.l.Environment != "" && name != a.l.Environment {
		// Two agents would work in one namespace, and people look for the status branch under one of the names.
		return nil, &Fault{
			File: a.settingsFile, Line: a.settings.line, Field: "environment", cause: ErrOtherName,
			Problem:  fmt.Sprintf("is %s, where --environment or agent.yaml says %s", name, a.l.Environment),
			Expected: "the same name in both",
		}
	}
	env = &Environment{
		Name:      orDefault(a.settings.environment, a.l.Environment),
		WriteBack: orDefault(a.settings.writeBack, WriteBackCommit),
		Rollout:   a.settings.rollout,
		Windows:   a.settings.windows,
		Waves:     a.settings.waves,
	}
	env.Upstream = a.settings.upstream.withDefaults(env.Name)
	env.StatusRepository = a.settings.status.repository
	env.Namespace = orDefault(a.settings.namespace, a.l.Namespace)
	if env.Namespace == "" && env.Name != "" {
		env.Namespace = "jx-" + env.Name
	}
	if env.Namespace != "" && !isNamespace(env.Namespace) {
		return nil, &Fault{
			File: a.settingsFile, Field: "namespace", Problem: "is " + shown(env.Namespace) + " by default", Expected: expectedNamespace,
		}
	}
	warnings, pipelineFault := a.checkPipeline(env)
	if pipelineFault != nil {
		return nil, pipelineFault
	}
	files, fault := a.umbrellaFiles()
	a.env = envInputs{
		namespace: env.Namespace, releaseName: a.settings.releaseName, upstream: env.Upstream, crds: orDefault(a.settings.crds, CRDsCreate),
		shared: newDigest().add(a.chart.name, files.definitions, canonical(a.globals), canonical(a.tags)).String(),
	}
	a.addApps(env)
	a.addUmbrella(env, files, fault)
	env.Warnings = slices.Concat(a.repeated(), a.unlisted(), a.strayValues(), warnings, a.strangers())
	return env, nil
}

// addApps adds the apps that are switched on. The same name twice is one app with a fault.
func (a *assembly) addApps(env *Environment) {
	env.Apps = make([]App, 0, len(a.list)+1)
	for i, d := range a.list {
		if d.anonymous {
			env.Incomplete = errors.Join(env.Incomplete, a.faultOf(d))
			continue
		}
		name := d.appName()
		if name == a.chart.name {
			a.markTwice(env, d, 0)
			continue
		}
		if first := a.l.names[name]; first != i {
			a.markTwice(env, d, a.list[first].line)
			continue
		}
		if s := switchOf(d.dependency, a.isApp, a.condition, a.tags); !s.Off || len(s.Conditions) > 0 {
			app := a.app(d)
			if app.Switch = s; len(s.Conditions) > 0 {
				app.Digest = newDigest().add(app.Digest, canonical(s)).String()
			}
			a.addReads(&app)
			env.Apps = append(env.Apps, app)
		}
	}
}

func (a *assembly) isApp(name string) bool {
	_, is := a.l.names[name]
	return is
}

// addReads names the apps whose charts an app depends upon, and has its digest cover them: one whose values are imported into its
// own, and one whose default values may switch it off.
func (a *assembly) addReads(app *App) {
	for _, i := range a.importers {
		if d := a.list[i]; d.appName() != app.Name && d.importsInto(app.Name) {
			app.Reads = append(app.Reads, d.appName())
		}
	}
	for _, c := range app.Switch.Conditions {
		if c.App != app.Name && !slices.Contains(app.Reads, c.App) {
			app.Reads = append(app.Reads, c.App)
		}
	}
	for _, name := range app.Reads {
		app.Digest = newDigest().add(app.Digest, name, a.app(a.list[a.l.names[name]]).Digest).String()
	}
}

// faultOf is an entry's fault with its file and line.
func (a *assembly) faultOf(d placedDependency) *Fault {
	if d.fault == nil {
		return nil
	}
	f := *d.fault
	f.File, f.Line = a.umbrella.list, d.line+f.Line
	f.Field = dependenciesKey + "." + d.appName()
	if d.fault.Field != "" {
		f.Field += "." + d.fault.Field
	}
	if d.anonymous {
		f.Field = strings.Trim(dependenciesKey+"."+d.fault.Field, ".")
	}
	return &f
}

// markTwice gives the app that has the name already the fault, or adds one that has nothing else. firstLine is the
// line of the first entry, 0 when it is the umbrella's name that is taken.
func (a *assembly) markTwice(env *Environment, d placedDependency, firstLine int) {
	name := d.appName()
	fault := &Fault{
		File: a.umbrella.list, Line: d.line, Field: dependenciesKey + "." + name,
		Problem: fmt.Sprintf("is declared twice, first on line %d", firstLine), Expected: "an alias for one of them",
	}
	if firstLine == 0 {
		fault.Problem = "has the name of the umbrella chart itself"
		fault.Expected = "an alias"
	}
	for i := range env.Apps {
		if env.Apps[i].Name == name {
			env.Apps[i].Fault = fault
			return
		}
	}
	app := a.app(d)
	app.Fault = fault
	env.Apps = append(env.Apps, app)
}

// condition looks a condition's path up in the values, as Helm does. Known says that the environment settles what is
// there, even if it is nothing.
func (a *assembly) condition(dotted string) (value any, known bool) {
	keys := strings.Split(dotted, ".")
	if len(keys) > 1 && keys[0] != globalKey {
		if _, isApp := a.l.names[keys[0]]; isApp {
			if doc, _ := a.doc(keys[0]); doc != nil && doc.fault == nil {
				if v, decided := lookUp(doc.values, keys[1:]); decided {
					return v, true
				}
			}
		}
	}
	p := a.part(keys[0])
	if p.valuesPart == nil || p.fault != nil {
		return nil, false
	}
	return lookUp(map[string]any{keys[0]: p.value}, keys)
}

// app builds the app of an entry, or finds it unchanged.
func (a *assembly) app(d placedDependency) App {
	name := d.appName()
	in := inputs{env: a.env, settings: a.settings.apps[name]}
	part := a.part(name)
	in.part = part.valuesPart
	var fault *Fault
	in.doc, fault = a.doc(name)
	dir, pathFault := d.chartPath(a.dir)
	if d.repository == "" && d.fault == nil {
		dir = a.vendored(d.dependency)
	}
	in.dir = dir
	if pathFault == nil && dir != "" {
		var treeFault *Fault
		if in.tree, treeFault = a.l.treeDigest(a.fsys, dir, 0); treeFault != nil && fault == nil {
			fault = treeFault
		}
	}
	if d.built.Name == "" || d.inputs != in {
		d.built, d.inputs = buildApp(d.dependency, in), in
	}
	app := d.built
	app.Pin = Position{File: a.umbrella.list, Line: d.line + d.versionLine, Column: d.versionColumn}
	app.origin = origin{file: a.values.name, line: part.line, part: in.part, doc: in.doc}
	app.Fault = a.appFault(d, part, in, pathFault, fault)
	return app
}

// appFault is the first of an app's faults.
func (a *assembly) appFault(d placedDependency, part placedPart, in inputs, pathFault, other *Fault) error {
	if pathFault != nil && d.fault == nil {
		f := *pathFault
		f.File, f.Line, f.Field = a.umbrella.list, d.line, dependenciesKey+"."+d.appName()+"."+f.Field
		return &f
	}
	if f := a.faultOf(d); f != nil {
		return f
	}
	if other != nil {
		return other
	}
	if f := part.faultIn(a.values.name); f != nil {
		return f
	}
	if _, ok := in.part.table(); !ok {
		return &Fault{File: a.values.name, Line: part.line, Field: part.key, Problem: "is not a mapping", Expected: "the app's values"}
	}
	if in.doc != nil && in.doc.fault != nil {
		return in.doc.fault
	}
	if in.settings != nil && in.settings.fault != nil {
		return in.settings.fault
	}
	return nil
}

// buildApp builds an app but for its place and its fault.
func buildApp(d *dependency, in inputs) App {
	app := App{
		Name:        d.appName(),
		ReleaseName: orDefault(in.env.releaseName, d.appName()),
		Namespace:   in.env.namespace,
		CRDs:        in.env.crds,
		Chart: ChartRef{
			Name: d.name, Version: d.version, Repository: d.repository, Alias: d.alias,
			ImportValues: d.importValues, Path: in.dir,
		},
	}
	if in.dir != "" && d.repository == "" {
		app.Chart.Repository = "file://charts/" + path.Base(in.dir)
	}
	app.Upstream = in.env.upstream
	app.apply(in.settings)
	app.Values, _ = in.part.table()
	if in.doc != nil {
		app.Values = mergeValues(app.Values, in.doc.values)
	}
	app.Digest = appDigest(&app, in.tree, in.env.shared)
	return app
}

// apply takes apps.<app> of sluice.yaml over; s may be nil.
func (app *App) apply(s *appSettings) {
	if s != nil {
		app.ReleaseName = orDefault(s.releaseName, app.ReleaseName)
		app.Namespace = orDefault(s.namespace, app.Namespace)
		app.CRDs = orDefault(s.crds, app.CRDs)
		app.Rollout, app.Windows = s.rollout, s.windows
		app.Upstream, app.Image = app.Upstream.over(s.upstream), s.image
	}
}

// appDigest covers everything that decides what is rendered.
func appDigest(app *App, tree, shared string) string {
	return newDigest().add(
		app.Name, app.ReleaseName, app.Namespace,
		app.Chart.Name, app.Chart.Version, app.Chart.Repository, app.Chart.Alias, app.Chart.Path,
		canonical(app.Chart.ImportValues), tree, canonical(app.Values), shared, string(app.CRDs),
	).String()
}

// canonical is one text for equal JSON-like values.
func canonical(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		// Values come out of JSON; nothing in them can fail to go back.
		return fmt.Sprintf("%#v", v)
	}
	return string(text)
}

const setAgain = "is set again; the last one counts"

// repeated warns of keys that values.yaml, or an entry of the list, sets more than once. The last one counts, as for Helm.
func (a *assembly) repeated() []string {
	var warnings []string
	for _, p := range a.twice {
		f := &Fault{File: a.values.name, Line: p.line, Field: p.key, Problem: setAgain}
		warnings = append(warnings, f.Error())
	}
	for _, d := range a.list {
		for _, f := range d.again {
			f.File, f.Line, f.Field = a.umbrella.list, d.line+f.Line, dependenciesKey+"."+d.appName()+"."+f.Field
			warnings = append(warnings, f.Error())
		}
	}
	return warnings
}

// strangers warns of settings for apps that the environment does not have.
func (a *assembly) strangers() []string {
	var warnings []string
	for name, s := range a.settings.apps {
		if _, ok := a.l.names[name]; ok || name == a.chart.name {
			continue
		}
		f := &Fault{File: a.settingsFile, Line: s.line, Field: "apps." + name, Problem: "is not an app of this environment"}
		warnings = append(warnings, f.Error())
	}
	slices.Sort(warnings)
	return warnings
}
