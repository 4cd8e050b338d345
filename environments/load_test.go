package environments

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

// manyApps is an environment of n apps, in files that can be cut.
func manyApps(n int) fstest.MapFS {
	var list, values strings.Builder
	list.WriteString("dependencies:\n")
	for i := range n {
		fmt.Fprintf(&list, "- name: app-%05d\n  version: 1.0.0\n  repository: http://chartmuseum.jenkins-x.io\n", i)
		fmt.Fprintf(&values, "app-%05d:\n  replicaCount: 2\n  image:\n    tag: v%d\n", i, i)
	}
	return fstest.MapFS{
		"env/Chart.yaml":        mapFile([]byte("apiVersion: v1\nname: env\nversion: 0.0.1\n")),
		"env/requirements.yaml": mapFile([]byte(list.String())),
		"env/values.yaml":       mapFile([]byte(values.String())),
	}
}

// bumped is files with another version of one app.
func bumped(files fstest.MapFS, app, version string) fstest.MapFS {
	after := fstest.MapFS{}
	for name, f := range files {
		after[name] = f
	}
	promoted, err := Promote(files, ".", app, Promotion{Version: version})
	if err != nil {
		panic(err)
	}
	for name, text := range promoted {
		after[name] = mapFile(text)
	}
	return after
}

func mustLoad(t testing.TB, l *Loader, fsys fs.FS) *Environment {
	t.Helper()
	env, err := l.Load(fsys, ".")
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// sharesValues reports whether two apps share the very same values.
func sharesValues(a, b App) bool {
	a.Values["probe"] = true
	_, shared := b.Values["probe"]
	delete(a.Values, "probe")
	return shared
}

// TestNameIsOne: sluice.yaml and whoever asks have to mean one environment, and whoever asks for none takes what it says.
func TestNameIsOne(t *testing.T) {
	files := manyApps(1)
	files["sluice.yaml"] = mapFile([]byte("apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: production\n"))
	l := &Loader{Environment: "prod"}
	_, err := l.Load(files, ".")
	want := "sluice.yaml:3: environment: is production, where --environment or agent.yaml says prod; expected the same name in both"
	if !errors.Is(err, ErrOtherName) || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	for _, name := range []string{"", "production"} {
		if env := mustLoad(t, &Loader{Environment: name}, files); env.Name != "production" {
			t.Errorf("asked for %q: %q", name, env.Name)
		}
	}
	// A commit that mends it is all that it takes.
	delete(files, "sluice.yaml")
	if env := mustLoad(t, l, files); env.Name != "prod" {
		t.Errorf("where nothing is said: %q", env.Name)
	}
}

func TestUnchangedAppsAreReused(t *testing.T) {
	files := manyApps(50)
	l := &Loader{Environment: "staging"}
	before := mustLoad(t, l, files)
	after := mustLoad(t, l, bumped(files, "app-00007", "1.0.1"))
	for i := range before.Apps {
		a, b := before.Apps[i], after.Apps[i]
		if changed := a.Name == "app-00007"; (a.Digest != b.Digest) != changed {
			t.Errorf("%s: digest changed: %v", a.Name, a.Digest != b.Digest)
		}
		if !sharesValues(a, b) {
			t.Errorf("%s: values were parsed again", a.Name)
		}
	}
	if got := after.Apps[7].Chart.Version; got != "1.0.1" {
		t.Errorf("version %s", got)
	}
}

// TestDigest says what does and what does not change an app's digest.
func TestDigest(t *testing.T) {
	base := map[string]string{
		"env/Chart.yaml":          "name: env\nversion: 0.0.1\n",
		"env/requirements.yaml":   "dependencies:\n- name: web\n  version: 1.0.0\n  repository: http://charts\n- name: local\n  version: 1.0.0\n  repository: file://../charts/local\n",
		"env/values.yaml":         "global: {a: 1}\nweb: {a: 1}\nother: 1\n",
		"env/web/values.yaml":     "b: 1\n",
		"env/templates/_x.tpl":    "{{ define \"x\" }}{{ end }}",
		"charts/local/Chart.yaml": "name: local\nversion: 1.0.0\ndependencies:\n- {name: lib, version: 1.0.0, repository: file://../lib}\n",
		"charts/lib/Chart.yaml":   "name: lib\nversion: 1.0.0\n",
	}
	load := func(t *testing.T, l *Loader, name, text string) (web, local string) {
		t.Helper()
		files := fstest.MapFS{}
		for n, s := range base {
			files[n] = mapFile([]byte(s))
		}
		if name != "" {
			files[name] = mapFile([]byte(text))
		}
		env := mustLoad(t, l, hashing{files})
		for _, app := range env.Apps {
			if app.Fault != nil {
				t.Fatal(app.Fault)
			}
		}
		return env.Apps[0].Digest, env.Apps[1].Digest
	}
	for _, tt := range []struct {
		change, file, text string
		web, local         bool
	}{
		{"nothing", "", "", false, false},
		{"a comment in the list", "env/requirements.yaml", "# x\n" + base["env/requirements.yaml"], false, false},
		{"a comment in the entry", "env/requirements.yaml", strings.Replace(base["env/requirements.yaml"], "1.0.0", "1.0.0 # x", 1), false, false},
		{"version", "env/requirements.yaml", strings.Replace(base["env/requirements.yaml"], "1.0.0", "1.0.1", 1), true, false},
		{"repository", "env/requirements.yaml", strings.Replace(base["env/requirements.yaml"], "http:", "https:", 1), true, false},
		{"a condition", "env/requirements.yaml", strings.Replace(base["env/requirements.yaml"], "- name: web", "- condition: x\n  name: web", 1), false, false},
		{"import-values", "env/requirements.yaml", strings.Replace(base["env/requirements.yaml"], "- name: web", "- import-values: [x]\n  name: web", 1), true, true}, // only the chart says whose
		{"import-values under a name", "env/requirements.yaml", strings.Replace(base["env/requirements.yaml"], "- name: web", "- import-values: [{child: a, parent: b}]\n  name: web", 1), true, false},
		{"value", "env/values.yaml", "global: {a: 1}\nweb: {a: 2}\nother: 1\n", true, false},
		{"order of values", "env/values.yaml", "other: 1\nweb: {a: 1}\nglobal: {a: 1}\n", false, false},
		{"somebody else's value", "env/values.yaml", "global: {a: 1}\nweb: {a: 1}\nother: 2\n", false, false},
		{"global", "env/values.yaml", "global: {a: 2}\nweb: {a: 1}\nother: 1\n", true, true},
		{"tags", "env/values.yaml", "global: {a: 1}\nweb: {a: 1}\nother: 1\ntags: {x: true}\n", true, true},
		{"own file", "env/web/values.yaml", "b: 2\n", true, false},
		{"named templates", "env/templates/_x.tpl", "{{ define \"x\" }}1{{ end }}", true, true},
		{"chart tree", "charts/local/values.yaml", "a: 1\n", false, true},
		{"chart that the chart builds on", "charts/lib/values.yaml", "a: 1\n", false, true},
		{"namespace", "sluice.yaml", "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nnamespace: x\n", true, true},
		{"release name", "sluice.yaml", "apiVersion: sluice.dev/v1alpha1\nkind: Environment\napps: {web: {releaseName: x}}\n", true, false},
		{"policy", "sluice.yaml", "apiVersion: sluice.dev/v1alpha1\nkind: Environment\napps: {web: {rollout: {strategy: Rolling}}}\n", false, false},
	} {
		t.Run(tt.change, func(t *testing.T) {
			l := &Loader{Environment: "staging"}
			web, local := load(t, l, "", "")
			webAfter, localAfter := load(t, l, tt.file, tt.text)
			if (web != webAfter) != tt.web || (local != localAfter) != tt.local {
				t.Errorf("web changed %v, local changed %v", web != webAfter, local != localAfter)
			}
			webFresh, localFresh := load(t, &Loader{Environment: "staging"}, tt.file, tt.text)
			if webFresh != webAfter || localFresh != localAfter {
				t.Error("a fresh Loader says otherwise")
			}
		})
	}
}

// TestPlacesFollow checks that lines are those of the present text although entries are kept.
func TestPlacesFollow(t *testing.T) {
	files := fstest.MapFS{
		"env/Chart.yaml":        mapFile([]byte("name: env\nversion: 0.0.1\n")),
		"env/requirements.yaml": mapFile([]byte("dependencies:\n- name: web\n  version: 1.0.0\n  repository: http://charts\n- name: bad\n  repository: http://charts\n")),
		"env/values.yaml":       mapFile([]byte("web:\n  canary: {colour: blue}\n")),
	}
	l := &Loader{Environment: "staging"}
	check := func(pin int, fault, policy string) {
		t.Helper()
		env := mustLoad(t, l, files)
		if got := env.Apps[0].Pin.Line; got != pin {
			t.Errorf("pin on line %d, want %d", got, pin)
		}
		if got := env.Apps[1].Fault.Error(); !strings.HasPrefix(got, fault) {
			t.Errorf("fault %s, want %s", got, fault)
		}
		_, err := ResolvePolicy(env, &env.Apps[0], Said{Values: env.Apps[0].Values})
		if err == nil || !strings.HasPrefix(err.Error(), policy) {
			t.Errorf("policy %v, want %s", err, policy)
		}
	}
	check(3, "env/requirements.yaml:5:", "env/values.yaml:2:")
	files["env/requirements.yaml"] = mapFile(append([]byte("# one\n# two\n"), files["env/requirements.yaml"].Data...))
	files["env/values.yaml"] = mapFile(append([]byte("x: 1\n"), files["env/values.yaml"].Data...))
	check(5, "env/requirements.yaml:7:", "env/values.yaml:3:")
}

func TestLoadRefusesPathsOutside(t *testing.T) {
	for _, root := range []string{"..", "/", "../x", "a/../../b"} {
		if _, err := (&Loader{}).Load(fstest.MapFS{}, root); err == nil {
			t.Errorf("%s was accepted", root)
		}
	}
}

// TestCacheIsBounded follows an environment through many versions.
func TestCacheIsBounded(t *testing.T) {
	files := manyApps(3)
	l := &Loader{Environment: "staging"}
	for i := range 2000 {
		files = bumped(files, "app-00001", fmt.Sprintf("1.0.%d", i))
		mustLoad(t, l, files)
	}
	if len(l.entries) > 300 {
		t.Errorf("%d entries are kept", len(l.entries))
	}
}

// BenchmarkLoadOneOf10000 is one new version in an environment of ten thousand apps.
func BenchmarkLoadOneOf10000(b *testing.B) {
	files := manyApps(10000)
	snapshots := make([]fs.FS, 2)
	for i := range snapshots {
		snapshots[i] = prehashed(bumped(files, "app-05000", fmt.Sprintf("1.0.%d", i+1)))
	}
	l := &Loader{Environment: "staging"}
	mustLoad(b, l, snapshots[0])
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		// The version is one that was never seen.
		delete(l.entries, fmt.Sprintf("- name: app-05000\n  version: 1.0.%d\n  repository: http://chartmuseum.jenkins-x.io\n", i%2+1))
		mustLoad(b, l, snapshots[i%2])
	}
}

// BenchmarkLoadValueOf10000 is one new value in an environment of ten thousand apps.
func BenchmarkLoadValueOf10000(b *testing.B) {
	files := manyApps(10000)
	snapshots := make([]fs.FS, 2)
	for i := range snapshots {
		changed := bumped(files, "app-05000", "1.0.0")
		text := strings.Replace(string(files["env/values.yaml"].Data), "tag: v5000\n", fmt.Sprintf("tag: w%d\n", i), 1)
		changed["env/values.yaml"] = mapFile([]byte(text))
		snapshots[i] = prehashed(changed)
	}
	l := &Loader{Environment: "staging"}
	mustLoad(b, l, snapshots[0])
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		mustLoad(b, l, snapshots[i%2])
	}
}

// BenchmarkLoadCold is the first load of ten thousand apps.
func BenchmarkLoadCold(b *testing.B) {
	files := prehashed(manyApps(10000))
	b.ReportAllocs()
	for b.Loop() {
		mustLoad(b, &Loader{Environment: "staging"}, files)
	}
}

// known is a file system that has its hashes at hand, as a git tree has.
type known struct {
	fstest.MapFS
	hashes map[string]string
}

func prehashed(files fstest.MapFS) known {
	k := known{files, map[string]string{}}
	_ = fs.WalkDir(files, ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil {
			k.hashes[name], err = hashOf(files, name)
		}
		return err
	})
	return k
}

func (k known) Hash(name string) (string, error) {
	if h, ok := k.hashes[name]; ok {
		return h, nil
	}
	return "", fs.ErrNotExist
}

// TestLoadBelow reads an environment that is one directory of a repository of several.
func TestLoadBelow(t *testing.T) {
	files := fstest.MapFS{
		"clusters/eu/Chart.yaml":  mapFile([]byte("apiVersion: v2\nname: eu\nversion: 0.0.1\ndependencies:\n- {name: web, version: 1.0.0, repository: file://../../charts/web}\n")),
		"clusters/eu/sluice.yaml": mapFile([]byte("apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: eu\n")),
		"charts/web/Chart.yaml":   mapFile([]byte("name: web\nversion: 1.0.0\n")),
	}
	env, err := (&Loader{}).Load(files, "clusters/eu/")
	if err != nil {
		t.Fatal(err)
	}
	app := env.Apps[0]
	if env.Name != "eu" || env.Umbrella.Dir != "clusters/eu" || app.Fault != nil || app.Chart.Path != "charts/web" || app.Pin.Line != 5 {
		t.Errorf("%s", describe(env, nil))
	}
}

// TestLayoutMoves: the umbrella chart moves up one directory, and its vendored charts with it.
func TestLayoutMoves(t *testing.T) {
	const chart, list = "name: env\nversion: 0.0.1\n", "dependencies:\n- name: web\n  version: 1.0.0\n"
	l := &Loader{Environment: "staging"}
	for _, dir := range []string{"env/", ""} {
		files := fstest.MapFS{
			dir + "Chart.yaml":            mapFile([]byte(chart)),
			dir + "requirements.yaml":     mapFile([]byte(list)),
			dir + "charts/web/Chart.yaml": mapFile([]byte("name: web\nversion: 1.0.0\n")),
		}
		app := mustLoad(t, l, files).Apps[0]
		if want := dir + "charts/web"; app.Fault != nil || app.Chart.Path != want {
			t.Errorf("chart at %q, want %q (%v)", app.Chart.Path, want, app.Fault)
		}
		if fresh := mustLoad(t, &Loader{Environment: "staging"}, files).Apps[0]; fresh.Digest != app.Digest {
			t.Error("a fresh Loader has another digest")
		}
	}
}

// TestUmbrellaNameTaken: the environment's own objects and a dependency can't have one name.
func TestUmbrellaNameTaken(t *testing.T) {
	files := manyApps(1)
	files["env/templates/x.yaml"] = mapFile([]byte("kind: ConfigMap\n"))
	files["env/Chart.yaml"] = mapFile([]byte("name: app-00000\nversion: 0.0.1\n"))
	env := mustLoad(t, &Loader{Environment: "staging"}, files)
	if len(env.Apps) != 1 || env.Apps[0].Fault == nil {
		t.Errorf("%s", describe(env, nil))
	}
}

// TestFailureIsNotRemembered: a file system that fails once must not leave a fault behind.
func TestFailureIsNotRemembered(t *testing.T) {
	files := manyApps(1)
	files["env/app-00000/values.yaml"] = mapFile([]byte("a: 1\n"))
	flaky := &failing{known: prehashed(files), name: "env/app-00000/values.yaml"}
	l := &Loader{Environment: "staging"}
	if env := mustLoad(t, l, flaky); env.Apps[0].Fault == nil {
		t.Fatal("the failure was not noticed")
	}
	flaky.name = ""
	if env := mustLoad(t, l, flaky); env.Apps[0].Fault != nil || env.Apps[0].Values["a"] != 1.0 {
		t.Errorf("%s", describe(env, nil))
	}
}

// failing is a file system in which one file can't be opened.
type failing struct {
	known
	name string
}

func (f *failing) Open(name string) (fs.File, error) {
	if name == f.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("disk on fire")}
	}
	return f.known.Open(name)
}

func (f *failing) ReadFile(name string) ([]byte, error) {
	if name == f.name {
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("disk on fire")}
	}
	return f.known.ReadFile(name)
}
