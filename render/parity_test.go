package render

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	"sigs.k8s.io/yaml"
)

// fixture is a tree of files from a txtar archive.
type fixture struct {
	fsys fstest.MapFS
	rel  struct{ Name, Namespace string }
}

func readFixture(t testing.TB, name string) fixture {
	t.Helper()
	a, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{fsys: fstest.MapFS{}}
	for _, file := range a.Files {
		f.fsys[file.Name] = &fstest.MapFile{Data: file.Data, Mode: 0o644}
	}
	f.yaml(t, "release", &f.rel)
	return f
}

func (f fixture) yaml(t testing.TB, name string, into any) {
	t.Helper()
	if file, ok := f.fsys[name]; ok {
		if err := yaml.Unmarshal(file.Data, into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
}

// onDisk writes the fixture for Helm's own loader.
func (f fixture) onDisk(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, f.fsys); err != nil {
		t.Fatal(err)
	}
	return dir
}

// helmTemplate is the oracle: the same options as the command helm template sets, and the text that it prints.
func helmTemplate(t testing.TB, f fixture, c *chart.Chart, values map[string]any) *release.Release {
	t.Helper()
	install := action.NewInstall(&action.Configuration{})
	install.DryRun, install.DryRunOption, install.ClientOnly, install.Replace = true, "true", true, true
	install.IncludeCRDs = true
	install.ReleaseName, install.Namespace = f.rel.Name, f.rel.Namespace
	if values == nil {
		values = map[string]any{}
	}
	rel, err := install.Run(c, values)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

// parts splits what helm template prints by the app that it comes from. A document without a Source comment (the
// second one of a file in crds/) belongs to the one before it.
func parts(text string, app func(source string) string) map[string]string {
	out := map[string]string{}
	current := ""
	for _, line := range strings.SplitAfter(text, "\n") {
		if line == "---\n" {
			out[""] += line
			continue
		}
		if source, ok := strings.CutPrefix(line, sourceMark); ok {
			current = app(strings.TrimSpace(source))
		}
		out[current] += out[""] + line
		out[""] = ""
	}
	return out
}

// appOf names the app of a template in an umbrella chart.
func appOf(source string) string {
	if rest, ok := strings.CutPrefix(source, "env/charts/"); ok {
		app, _, _ := strings.Cut(rest, "/")
		return app
	}
	return "env"
}

// TestMain is the worker as well, and silences Helm, which logs to the standard logger.
func TestMain(m *testing.M) {
	BeWorker()
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}

// cold keeps no release.
var cold = NewRenderer(RendererConfig{CacheBytes: -1})

func newTestFetcher(t testing.TB, cfg FetcherConfig) *Fetcher {
	t.Helper()
	if cfg.CacheDir == "" {
		cfg.CacheDir = t.TempDir()
	}
	if cfg.Transport == nil && !slices.ContainsFunc(cfg.Access, func(a Access) bool { return len(a.CA) > 0 }) {
		cfg.Transport = defaultTransport() // the servers of tests are on this machine
	}
	if cfg.Hosts == nil {
		cfg.Hosts = NewHosts(cfg.Now)
		t.Cleanup(func() {
			cfg.Hosts.mu.Lock()
			defer cfg.Hosts.mu.Unlock()
			for host, at := range cfg.Hosts.turns {
				t.Errorf("%d places at %s were never given back", placesPerHost-at.free, host)
			}
		})
	}
	f, err := NewFetcher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func load(t testing.TB, f *Fetcher, fsys fs.FS, dir string, bare bool) *Chart {
	t.Helper()
	c, err := f.Load(context.Background(), Path{FS: fsys, Dir: dir, Bare: bare})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestUmbrellaAppsEqualHelmTemplate(t *testing.T) {
	for _, name := range []string{"umbrella", "jenkins-x"} {
		t.Run(name, func(t *testing.T) {
			f := readFixture(t, filepath.Join("testdata/parity", name+".txtar"))
			whole, err := loader.LoadDir(filepath.Join(f.onDisk(t), "env"))
			if err != nil {
				t.Fatal(err)
			}
			inputs := umbrellaInputs(t, f, whole)
			rel := helmTemplate(t, f, whole, nil)
			r := NewRenderer(RendererConfig{})
			var hooks []string
			want := parts(rel.Manifest, appOf)
			for app, in := range inputs {
				got, err := r.Render(context.Background(), in)
				if err != nil {
					t.Fatalf("%s: %v", app, err)
				}
				if text := got.CRDs + got.Manifest; text != want[app] || text == "" {
					t.Errorf("%s: got\n%s\nhelm template prints\n%s", app, text, want[app])
				}
				delete(want, app)
				for _, h := range got.Hooks {
					hooks = append(hooks, fmt.Sprint(h.Path, h.Events, h.Weight, h.DeletePolicies, h.Manifest))
				}
			}
			if delete(want, ""); len(want) > 0 {
				t.Errorf("no app has these parts of what helm template prints: %v", want)
			}
			var wantHooks []string
			for _, h := range rel.Hooks {
				wantHooks = append(wantHooks, fmt.Sprint(h.Path, h.Events, h.Weight, h.DeletePolicies, h.Manifest))
			}
			slices.Sort(hooks)
			slices.Sort(wantHooks)
			if !slices.Equal(hooks, wantHooks) {
				t.Errorf("hooks: got\n%s\nhelm has\n%s", hooks, wantHooks)
			}
		})
	}
}

// umbrellaInputs does the caller's part: which apps there are, and what the umbrella says for each.
func umbrellaInputs(t *testing.T, f fixture, whole *chart.Chart) map[string]Input {
	t.Helper()
	fetcher := newTestFetcher(t, FetcherConfig{})
	var values map[string]any
	f.yaml(t, "env/values.yaml", &values)
	var deps []*chart.Dependency
	for _, d := range whole.Metadata.Dependencies {
		c := *d
		deps = append(deps, &c)
	}
	enabled := cloneForProcessing(whole)
	if err := chartutil.ProcessDependencies(enabled, map[string]any{}); err != nil {
		t.Fatal(err)
	}
	u := &Umbrella{Name: whole.Name(), Version: whole.Metadata.Version, Chart: load(t, fetcher, f.fsys, "env", true)}
	u.Globals, _ = values["global"].(map[string]any)
	u.Values = maps.Clone(values)
	inputs := map[string]Input{}
	for _, d := range deps {
		key := d.Name
		if d.Alias != "" {
			key = d.Alias
		}
		if !slices.ContainsFunc(enabled.Dependencies(), func(c *chart.Chart) bool { return c.Name() == key }) {
			continue
		}
		own, _ := values[key].(map[string]any)
		inputs[key] = Input{
			ReleaseName: f.rel.Name, Namespace: f.rel.Namespace,
			Chart: load(t, fetcher, f.fsys, "env/charts/"+d.Name, false), Values: own,
			Umbrella: u, Alias: d.Alias, ImportValues: d.ImportValues,
		}
		delete(u.Values, key)
	}
	delete(u.Values, "global")
	if len(u.Chart.Helm().Templates) > 0 {
		inputs["env"] = Input{ReleaseName: f.rel.Name, Namespace: f.rel.Namespace, Chart: u.Chart}
	}
	return inputs
}

func TestChartAloneEqualsHelmTemplate(t *testing.T) {
	f := readFixture(t, "testdata/parity/alone.txtar")
	whole, err := loader.LoadDir(filepath.Join(f.onDisk(t), "chart"))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	f.yaml(t, "values.yaml", &values)
	rel := helmTemplate(t, f, whole, values)
	c := load(t, newTestFetcher(t, FetcherConfig{}), f.fsys, "chart", false)
	got, err := cold.Render(context.Background(), Input{
		ReleaseName: f.rel.Name, Namespace: f.rel.Namespace, Chart: c, Values: values,
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.CRDs+got.Manifest != rel.Manifest {
		t.Errorf("got\n%s\nhelm template prints\n%s", got.Manifest, rel.Manifest)
	}
	if len(got.Warnings) > 0 {
		t.Errorf("warnings: %q", got.Warnings)
	}
}
