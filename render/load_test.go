package render

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"helm.sh/helm/v3/pkg/chart/loader"
)

func TestLoadDependencies(t *testing.T) {
	repo := newChartRepo(t)
	for _, v := range []string{"1.0.0", "1.1.0"} {
		repo.publish("app", v, simpleChart(t, "app", v, v))
	}
	dep := func(lines string) *fstest.MapFile {
		return &fstest.MapFile{Data: []byte("apiVersion: v2\nname: top\nversion: 1.0.0\ndependencies:\n" + lines)}
	}
	remote := "- {name: app, version: ^1.0.0, repository: '" + repo.URL + "/charts'}\n"
	sibling := fstest.MapFS{"charts/lib/Chart.yaml": {Data: []byte("apiVersion: v2\nname: lib\nversion: 0.1.0\n")}}
	tests := map[string]struct {
		files fstest.MapFS
		want  string // the dependencies, or the error
	}{
		"remote": {fstest.MapFS{"charts/top/Chart.yaml": dep(remote)}, "app 1.1.0"},
		"locked": {fstest.MapFS{
			"charts/top/Chart.yaml": dep(remote),
			"charts/top/Chart.lock": {Data: []byte("dependencies:\n- {name: app, version: 1.0.0, repository: '" + repo.URL + "/charts'}\n")},
		}, "app 1.0.0"},
		"outdated lock": {fstest.MapFS{
			"charts/top/Chart.yaml": dep(strings.Replace(remote, "^1.0.0", "^1.1.0", 1)),
			"charts/top/Chart.lock": {Data: []byte("dependencies:\n- {name: app, version: 1.0.0, repository: '" + repo.URL + "/charts'}\n")},
		}, "app 1.1.0"},
		"vendored": {fstest.MapFS{
			"charts/top/Chart.yaml":   dep("- {name: app, version: 2.0.0, repository: 'https://nowhere.invalid'}\n"),
			"charts/top/charts/x.tgz": {Data: simpleChart(t, "app", "2.0.0", "x")},
		}, "app 2.0.0"},
		"file":          {fstest.MapFS{"charts/top/Chart.yaml": dep("- {name: lib, version: 0.1.0, repository: 'file://../lib'}\n")}, "lib 0.1.0"},
		"aliased twice": {fstest.MapFS{"charts/top/Chart.yaml": dep("- {name: lib, version: 0.1.0, alias: a, repository: 'file://../lib'}\n- {name: lib, version: 0.1.0, alias: b, repository: 'file://../lib'}\n")}, "lib 0.1.0"},
		"file escapes":  {fstest.MapFS{"charts/top/Chart.yaml": dep("- {name: lib, repository: 'file://../../../lib'}\n")}, "the path leaves the repository"},
		"file absolute": {fstest.MapFS{"charts/top/Chart.yaml": dep("- {name: lib, repository: 'file:///etc'}\n")}, "an absolute file:// path is outside the repository"},
		"file circle":   {fstest.MapFS{"charts/top/Chart.yaml": dep("- {name: top, version: 9.9.9, repository: 'file://../top'}\n")}, "in a circle"},
		"other name":    {fstest.MapFS{"charts/top/Chart.yaml": dep("- {name: x, repository: 'file://../lib'}\n")}, `file://../lib holds chart "lib"`},
		"nowhere":       {fstest.MapFS{"charts/top/Chart.yaml": dep("- {name: x, version: 1.0.0}\n")}, ""},
		"no chart":      {fstest.MapFS{"charts/top/README.md": {}}, "Chart.yaml file is missing"},
		"broken":        {fstest.MapFS{"charts/top/Chart.yaml": {Data: []byte("a: [")}}, "cannot load Chart.yaml"},
		"bad version":   {fstest.MapFS{"charts/top/Chart.yaml": {Data: []byte("name: top\nversion: one")}}, `"one" is invalid`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fsys := maps.Clone(sibling)
			maps.Copy(fsys, tt.files)
			c, err := newTestFetcher(t, FetcherConfig{}).Load(t.Context(), Path{FS: fsys, Dir: "charts/top"})
			got := ""
			switch {
			case err != nil:
				got = err.Error()
			default:
				for _, d := range c.Helm().Dependencies() {
					got += d.Name() + " " + d.Metadata.Version
				}
			}
			if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLoadIgnoresAndKeeps(t *testing.T) {
	reads := 0
	fsys := countingFS{fstest.MapFS{
		"env/Chart.yaml":         {Data: []byte("apiVersion: v2\nname: env\nversion: 1.0.0\ndependencies: [{name: gone, repository: 'https://x'}]")},
		"env/.helmignore":        {Data: []byte("*.bak\nsecret/\n")},
		"env/a.bak":              {},
		"env/secret/key":         {},
		"env/templates/.hidden":  {},
		"env/templates/a.yaml":   {},
		"env/charts/x/README.md": {},
	}, &reads}
	f := newTestFetcher(t, FetcherConfig{})
	p := Path{FS: fsys, Dir: "env", Bare: true, Tree: "commit"}
	first, err := f.Load(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range first.Helm().Raw {
		names = append(names, file.Name)
	}
	if got := strings.Join(names, " "); got != ".helmignore Chart.yaml templates/a.yaml" {
		t.Errorf("files %s", got)
	}
	before := reads
	second, err := f.Load(t.Context(), p)
	if err != nil || second != first || reads != before {
		t.Errorf("the same tree was read again: %v", err)
	}
}

// An umbrella chart has a directory with values for each of its apps, which is no business of its templates, and an
// environment of many apps has more of them than a chart may have files.
func TestLoadUmbrellaOfManyApps(t *testing.T) {
	fsys := fstest.MapFS{
		"env/Chart.yaml":           {Data: []byte("apiVersion: v2\nname: env\nversion: 1.0.0\n")},
		"env/values.yaml":          {Data: []byte("a: 1\n")},
		"env/templates/a.yaml":     {Data: []byte("a: {{ .Values.a }}\n")},
		"env/templates/_x.tpl":     {Data: []byte(`{{ define "x" }}{{ end }}`)},
		"env/crds/b.yaml":          {},
		"env/charts/x/Chart.yaml":  {},
		"env/app/values.yaml":      {},
		"env/templates/sub/c.yaml": {},
	}
	limits := Limits{Files: 12}
	for i := range limits.Files {
		fsys[fmt.Sprintf("env/app-%d/values.yaml", i)] = &fstest.MapFile{}
	}
	names := func(p Path) string {
		p.FS, p.Dir = fsys, "env"
		c, err := newTestFetcher(t, FetcherConfig{Limits: limits}).Load(t.Context(), p)
		if err != nil {
			return err.Error()
		}
		var names []string
		for _, file := range c.Helm().Raw {
			names = append(names, file.Name)
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	if got := names(Path{Helpers: true}); got != "Chart.yaml templates/_x.tpl templates/a.yaml templates/sub/c.yaml" {
		t.Errorf("for helpers: %s", got)
	}
	const own = "Chart.yaml crds/b.yaml templates/_x.tpl templates/a.yaml templates/sub/c.yaml values.yaml"
	if got := names(Path{Bare: true}); got != own {
		t.Errorf("bare: %s", got)
	}
	fsys["env/templates/a.yaml"].Data = []byte(`{{ .Files.Get "app/values.yaml" }}`)
	if got := names(Path{Bare: true}); !strings.HasSuffix(got, "number of files is over the limit of 12") {
		t.Errorf("a template asks for files: %s", got)
	}
	limits.Files = 100
	if got := names(Path{Bare: true}); !strings.Contains(got, "app/values.yaml") || strings.Contains(got, "charts/") {
		t.Errorf("a template asks for files: %s", got)
	}
}

type countingFS struct {
	fstest.MapFS
	reads *int
}

func (c countingFS) Open(name string) (fs.File, error) {
	*c.reads++
	return c.MapFS.Open(name)
}

func TestLoadLinks(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "passwd")
	write := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(outside, "root:x:0:0")
	write(filepath.Join(root, "app/Chart.yaml"), chartYAML)
	write(filepath.Join(root, "shared/values.yaml"), "a: 1")
	write(filepath.Join(root, "shared/templates/a.yaml"), "b")
	for name, tt := range map[string]struct{ link, target, want string }{
		"file inside":      {"app/values.yaml", "../shared/values.yaml", ""},
		"directory inside": {"app/templates", "../shared/templates", ""},
		"absolute":         {"app/files", outside, "the symbolic link leaves the repository"},
		"out by dots":      {"app/files", "../../../../../../.." + outside, "the symbolic link leaves the repository"},
		"by way of a link": {"app/files", "../shared/out", "the symbolic link leaves the repository"},
		"circle":           {"app/files", "../app/files", "too many symbolic links"},
		"into itself":      {"app/files", "../app", "nested more than"},
		"dangling":         {"app/files", "nothing", "file does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			at := filepath.Join(root, tt.link)
			_ = os.Remove(filepath.Join(root, "shared/out"))
			if err := errors.Join(os.Symlink(tt.target, at), os.Symlink(outside, filepath.Join(root, "shared/out"))); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(at) })
			c, err := newTestFetcher(t, FetcherConfig{}).Load(t.Context(), Path{FS: os.DirFS(root), Dir: "app"})
			if tt.want == "" && err == nil {
				if len(c.Helm().Raw) != 2 {
					t.Errorf("files %v", c.Helm().Raw)
				}
				return
			}
			if err == nil || tt.want == "" || !strings.Contains(strings.ReplaceAll(err.Error(), "no such file or directory", "file does not exist"), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestNearestVersions(t *testing.T) {
	sorted := []string{"3.0.0", "2.1.0", "2.0.0", "1.2.0", "1.1.0", "1.0.0", "0.1.0"}
	for wanted, want := range map[string]string{
		"2.0.5": "3.0.0 2.1.0 2.0.0 1.2.0 1.1.0",
		"1.0.1": "2.0.0 1.2.0 1.1.0 1.0.0 0.1.0",
		"9.0.0": "3.0.0 2.1.0 2.0.0 1.2.0 1.1.0",
		"0.0.1": "2.0.0 1.2.0 1.1.0 1.0.0 0.1.0",
		"^9.0":  "3.0.0 2.1.0 2.0.0 1.2.0 1.1.0",
	} {
		if got := strings.Join(nearest(sorted, wanted), " "); got != want {
			t.Errorf("%s: got %s, want %s", wanted, got, want)
		}
	}
}

func TestLRU(t *testing.T) {
	c := newLRU[int](10)
	c.put("a", 1, 4)
	c.put("b", 2, 4)
	c.get("a")
	c.put("c", 3, 4)
	c.put("huge", 4, 11)
	for key, want := range map[string]bool{"a": true, "b": false, "c": true, "huge": false} {
		if _, ok := c.get(key); ok != want {
			t.Errorf("%s: kept %t, want %t", key, ok, want)
		}
	}
	if c.put("a", 5, 1); c.used != 5 {
		t.Errorf("used %d", c.used)
	}
}

// A few kilobytes packed can be a gigabyte of fields once they are read.
func TestTooManyFields(t *testing.T) {
	fill := strings.Repeat("{},", 200_000)
	for name, files := range map[string]map[string]string{
		"values":       {"values.yaml": "a: [" + fill + fill + "]"},
		"of subcharts": {"charts/a/Chart.yaml": chartYAML, "charts/a/values.yaml": "a: [" + fill + "]", "values.yaml": "a: [" + fill + "]"},
		"metadata":     {"Chart.yaml": chartYAML + "annotations: {a: [" + fill + fill + "]}"},
		"lines":        {"values.yaml": "a:\n" + strings.Repeat("-\n", 600_000)},
	} {
		all := []*loader.BufferedFile{{Name: "Chart.yaml", Data: []byte(chartYAML)}}
		for at, text := range files {
			all = append(all, &loader.BufferedFile{Name: at, Data: []byte(text)})
		}
		before := allocated()
		_, err := loadFiles(all, Limits{}.withDefaults())
		var limit *LimitError
		if !errors.As(err, &limit) || !strings.Contains(err.Error(), "over the limit of 500000") {
			t.Errorf("%s: error %v", name, err)
		}
		if used := allocated() - before; used > 1<<20 {
			t.Errorf("%s: allocated %d MiB", name, used>>20)
		}
	}
	_, err := parseIndex([]byte("apiVersion: v1\nentries: {a: [" + strings.Repeat("{},", 1_000_000) + "]}"))
	var limit *LimitError
	if !errors.As(err, &limit) {
		t.Errorf("an index: %v", err)
	}
}

// Where charts may come from holds for what they depend on too.
func TestAllowedRepositories(t *testing.T) {
	repo := newChartRepo(t)
	repo.publish("app", "1.0.0", simpleChart(t, "app", "1.0.0", "1"))
	refused := errors.New("not from there")
	f := newTestFetcher(t, FetcherConfig{Allow: func(repository string) error {
		if strings.HasPrefix(repository, repo.URL) {
			return refused
		}
		return nil
	}})
	if _, err := f.Fetch(t.Context(), Ref{Name: "app", Version: "1.0.0", Repository: repo.URL + "/charts"}); !errors.Is(err, refused) {
		t.Errorf("a chart: %v", err)
	}
	local := fstest.MapFS{"top/Chart.yaml": {Data: []byte("apiVersion: v2\nname: top\nversion: 1.0.0\ndependencies:\n- {name: app, version: 1.0.0, repository: '" + repo.URL + "/charts'}\n")}}
	if _, err := f.Load(t.Context(), Path{FS: local, Dir: "top"}); !errors.Is(err, refused) {
		t.Errorf("a dependency: %v", err)
	}
	if asked := repo.seen(); len(asked) > 0 {
		t.Errorf("it was asked: %q", asked)
	}
}
