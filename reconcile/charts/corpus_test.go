package charts

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/source"
	"github.com/sluice-cd/sluice/render"
	kube "github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
)

// The corpus are charts of our own that have, one by one, what Helm can. Each archive of testdata/corpus holds one:
//
//	chart/       the chart; it is rendered on its own, and under an umbrella chart that has it twice, once by an alias
//	values.yaml  what is given to it
//	env/         an umbrella chart of its own, instead of the two above
//	make         what an archive of text can't say, a line each:
//	             crlf FILE, bom FILE, link NAME TARGET, pack DIRECTORY (as DIRECTORY.tgz), api VERSION (that the cluster has),
//	             once (the umbrella has the chart by an alias only)
//
// Everything beside them is in the repository as well.
const (
	corpusRelease   = "shop"
	corpusNamespace = "jx-production"
	corpusVersion   = "v1.33.0"
)

// corpus is a repository with an environment for each archive, in a directory of the archive's name.
type corpus struct {
	dir, helm, home string
	commit          *gitsync.Snapshot
	charts          *Charts
	apis            map[string][]string
}

// TestChartsAsHelm: what comes of a chart is what the real helm makes of it, document by document and object by object, also
// where the umbrella chart around it says more. What helm refuses is refused.
func TestChartsAsHelm(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles helm")
	}
	archives, err := filepath.Glob("testdata/corpus/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	c := newCorpus(t, archives)
	for _, archive := range archives {
		name := strings.TrimSuffix(filepath.Base(archive), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.dependencies(t, name)
			if c.has(name, "chart") {
				c.alone(t, name)
			}
			c.umbrella(t, name)
		})
	}
}

func newCorpus(t *testing.T, archives []string) *corpus {
	t.Helper()
	fetcher, err := render.NewFetcher(render.FetcherConfig{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c := &corpus{
		dir: t.TempDir(), helm: bedtest.HelmProgram(t), home: t.TempDir(), apis: map[string][]string{},
		charts: &Charts{Fetcher: fetcher, Renderer: render.NewRenderer(render.RendererConfig{})},
	}
	for _, archive := range archives {
		c.write(t, archive)
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-Af"}, {"commit", "-q", "-m", "corpus"}} {
		if out, err := c.git(t, args...); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	repo, err := gitsync.Open(t.Context(), gitsync.Remote{URL: "file://" + c.dir, Branch: "main", AllowFile: true}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if c.commit, err = repo.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *corpus) git(t *testing.T, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", c.dir, "-c", "core.autocrlf=false"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com",
		"GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com")
	return cmd.CombinedOutput()
}

func (c *corpus) has(elem ...string) bool {
	_, err := os.Stat(filepath.Join(append([]string{c.dir}, elem...)...))
	return err == nil
}

// write puts an archive into the repository.
func (c *corpus) write(t *testing.T, archive string) {
	t.Helper()
	a, err := txtar.ParseFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.TrimSuffix(filepath.Base(archive), ".txtar")
	at := filepath.Join(c.dir, name)
	var recipe string
	for _, f := range a.Files {
		if f.Name == "make" {
			recipe = string(f.Data)
			continue
		}
		put(t, filepath.Join(at, f.Name), f.Data)
	}
	for line := range strings.Lines(recipe) {
		switch words := strings.Fields(line); words[0] {
		case "once":
		case "api":
			c.apis[name] = append(c.apis[name], words[1])
		default:
			if err := c.make(t, at, words); err != nil {
				t.Fatalf("%s: make: %s: %v", archive, line, err)
			}
		}
	}
	if !c.has(name, "env") {
		putUmbrella(t, at, strings.Contains(recipe, "once\n"))
	}
	put(t, filepath.Join(at, "sluice.yaml"), []byte(fmt.Sprintf(
		"apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: production\nnamespace: %s\nreleaseName: %s\n",
		corpusNamespace, corpusRelease)))
}

func put(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// make does one line of a recipe.
func (c *corpus) make(t *testing.T, at string, words []string) error {
	file := filepath.Join(at, words[1])
	switch words[0] {
	case "link":
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return os.Symlink(words[2], file)
	case "pack":
		out, err := c.run(t, "package", file, "-d", filepath.Dir(file))
		if err != nil {
			return err
		}
		_, made, _ := strings.Cut(strings.TrimSpace(string(out)), ": ")
		return errors.Join(os.Rename(made, file+".tgz"), os.RemoveAll(file))
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	switch words[0] {
	case "crlf":
		data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	case "bom":
		data = append([]byte("\ufeff"), data...)
	default:
		return errors.New("nobody knows how")
	}
	return os.WriteFile(file, data, 0o644)
}

// putUmbrella makes the umbrella chart of an archive that has none of its own: it has the chart under its name and under another,
// or under the other once.
func putUmbrella(t *testing.T, at string, once bool) {
	t.Helper()
	var chart struct{ Name, Version string }
	text, err := os.ReadFile(filepath.Join(at, "chart", "Chart.yaml"))
	if err == nil {
		err = yaml.Unmarshal(text, &chart)
	}
	if err != nil {
		t.Fatal(err)
	}
	entry := fmt.Sprintf("- name: %s\n  version: %q\n  repository: file://../chart\n", chart.Name, chart.Version)
	list := entry + "  alias: again\n"
	if !once {
		list = entry + list
	}
	put(t, filepath.Join(at, "env", "Chart.yaml"), []byte("apiVersion: v2\nname: env\nversion: 0.0.1\ndependencies:\n"+list))
	put(t, filepath.Join(at, "env", "templates", "own.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: env-own}\n"+
		"data: {release: {{ .Release.Name }}, chart: {{ .Chart.Name }}}\n"))
	values, err := os.ReadFile(filepath.Join(at, "values.yaml"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if len(values) == 0 {
		values = []byte("{}")
	}
	given := bytes.ReplaceAll(bytes.TrimRight(append([]byte("\n"), values...), "\n"), []byte("\n"), []byte("\n  "))
	put(t, filepath.Join(at, "env", "values.yaml"), fmt.Appendf(nil, "%s:%s\nagain:%s\n", chart.Name, given, given))
}

// run runs helm.
func (c *corpus) run(t *testing.T, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(t.Context(), c.helm, args...)
	cmd.Env = append(os.Environ(), "HOME="+c.home, "KUBECONFIG=/dev/null")
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("helm %s: %w: %s", args[0], err, words.String())
	}
	return out, nil
}

// dependencies brings charts their file:// dependencies, as people do before helm template; only helm needs that.
func (c *corpus) dependencies(t *testing.T, name string) {
	t.Helper()
	for _, chart := range []string{"lib", "chart", "env"} {
		dir := filepath.Join(c.dir, name, chart)
		for _, list := range []string{"Chart.yaml", "requirements.yaml"} {
			text, err := os.ReadFile(filepath.Join(dir, list))
			if err != nil || !bytes.Contains(text, []byte("file://")) {
				continue
			}
			if _, err := c.run(t, "dependency", "update", "--skip-refresh", dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// template is what helm template prints of a chart.
func (c *corpus) template(t *testing.T, name, chart string, flags ...string) ([]byte, error) {
	args := append([]string{
		"template", corpusRelease, filepath.Join(c.dir, name, chart), "--namespace", corpusNamespace,
		"--include-crds", "--kube-version", corpusVersion,
	}, flags...)
	for _, api := range c.apis[name] {
		args = append(args, "--api-versions", api)
	}
	return c.run(t, args...)
}

func (c *corpus) capabilities(t *testing.T, name string) *chartutil.Capabilities {
	t.Helper()
	caps := chartutil.DefaultCapabilities.Copy()
	version, err := chartutil.ParseKubeVersion(corpusVersion)
	if err != nil {
		t.Fatal(err)
	}
	caps.KubeVersion = *version
	caps.APIVersions = slices.Concat(caps.APIVersions, c.apis[name])
	return caps
}

// alone renders a chart on its own.
func (c *corpus) alone(t *testing.T, name string) {
	t.Helper()
	var flags []string
	in := render.Input{ReleaseName: corpusRelease, Namespace: corpusNamespace, Capabilities: c.capabilities(t, name)}
	if file := filepath.Join(c.dir, name, "values.yaml"); c.has(name, "values.yaml") {
		flags = []string{"--values", file}
		text, err := os.ReadFile(file)
		if err == nil {
			err = yaml.Unmarshal(text, &in.Values)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want, refusal := c.template(t, name, "chart", flags...)
	var got []*release.Release
	var fault error
	if in.Chart, fault = c.charts.Fetcher.Load(t.Context(), render.Path{FS: c.commit.FS(), Dir: path.Join(name, "chart")}); fault == nil {
		var rel *release.Release
		rel, fault = c.charts.Renderer.Render(t.Context(), in)
		got = append(got, rel)
	}
	compare(t, "alone", want, refusal, got, fault)
}

// umbrella renders the apps of an environment one by one.
func (c *corpus) umbrella(t *testing.T, name string) {
	t.Helper()
	want, refusal := c.template(t, name, "env")
	env, fault := (&environments.Loader{}).Load(c.commit.FS(), name)
	if fault == nil {
		fault = env.Incomplete
	}
	charts := *c.charts
	caps := c.capabilities(t, name)
	charts.Capabilities = func(context.Context) (*chartutil.Capabilities, error) { return caps, nil }
	var got []*release.Release
	for i := 0; fault == nil && i < len(env.Apps); i++ {
		var rel *release.Release
		rel, fault = charts.render(t.Context(), source.Commit{Snapshot: c.commit, Env: env}, &env.Apps[i])
		if env.Apps[i].Fault != nil {
			fault = env.Apps[i].Fault
		}
		if errors.Is(fault, source.ErrSwitchedOff) {
			fault = nil
			continue
		}
		got = append(got, rel)
	}
	compare(t, "under an umbrella", want, refusal, got, fault)
}

// compare holds releases against what helm printed.
func compare(t *testing.T, how string, printed []byte, refusal error, got []*release.Release, fault error) {
	t.Helper()
	if refusal != nil || fault != nil {
		if refusal == nil || fault == nil {
			t.Errorf("%s: got the fault %v\nhelm says %v", how, fault, refusal)
		}
		return
	}
	var texts, objects, wantObjects []string
	for _, rel := range got {
		texts = append(texts, documents(rel.CRDs+rel.Manifest)...)
		for _, h := range rel.Hooks {
			texts = append(texts, strings.TrimSpace(h.Path+"\n"+h.Manifest))
		}
		for _, o := range rel.Objects {
			objects = append(objects, canonical(t, kube.Unmarked(o).DeepCopy()))
		}
	}
	want := documents(string(printed))
	for _, doc := range want {
		wantObjects = append(wantObjects, objectsOf(t, doc)...)
	}
	for _, lists := range [][]string{texts, want, objects, wantObjects} {
		slices.Sort(lists)
	}
	if !slices.Equal(texts, want) {
		t.Errorf("%s: got documents that helm has not:\n%s\nhelm has, and we have not:\n%s", how, less(texts, want), less(want, texts))
	}
	if !slices.Equal(objects, wantObjects) {
		t.Errorf("%s: got objects that helm has not:\n%s\nhelm has, and we have not:\n%s", how, less(objects, wantObjects), less(wantObjects, objects))
	}
}

// less are the texts that others have not.
func less(texts, others []string) string {
	others = slices.Clone(others)
	var left []string
	for _, text := range texts {
		if i := slices.Index(others, text); i >= 0 {
			others = slices.Delete(others, i, i+1)
		} else {
			left = append(left, text)
		}
	}
	return strings.Join(left, "\n----\n")
}

// documents cuts what helm prints, each with the name of its template on the first line.
func documents(text string) []string {
	var docs []string
	for _, doc := range strings.Split("\n"+text, "\n---\n# Source: ") {
		if doc = strings.TrimSpace(doc); doc != "" {
			docs = append(docs, doc)
		}
	}
	return docs
}

// objectsOf decodes one printed document by Helm's own means, hooks left out.
func objectsOf(t *testing.T, doc string) []string {
	t.Helper()
	var out []string
	_, text, _ := strings.Cut(doc, "\n")
	for _, part := range strings.Split("\n"+text, "\n---") {
		var o map[string]any
		if err := yaml.Unmarshal([]byte(part), &o); err != nil {
			t.Fatalf("%v in\n%s", err, part)
		}
		if o == nil {
			continue
		}
		u := &unstructured.Unstructured{Object: o}
		if _, hook := u.GetAnnotations()["helm.sh/hook"]; hook {
			continue
		}
		items, _ := o["items"].([]any)
		if !strings.HasSuffix(u.GetKind(), "List") || items == nil {
			items = []any{o}
		}
		for _, item := range items {
			out = append(out, canonical(t, &unstructured.Unstructured{Object: item.(map[string]any)}))
		}
	}
	return out
}

// canonical is an object as JSON, in the namespace of the release where it says none.
func canonical(t *testing.T, o *unstructured.Unstructured) string {
	t.Helper()
	if o.GetNamespace() == corpusNamespace {
		o.SetNamespace("")
	}
	text, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
