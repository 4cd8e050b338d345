package environments

import (
	"path"
	"strings"
	"testing"
	"testing/fstest"
)

// TestLinkedCharts: what a link in a chart leads to counts for the app's digest, and one that can't be followed is named.
func TestLinkedCharts(t *testing.T) {
	files := func(more map[string]string) fstest.MapFS {
		fsys := fstest.MapFS{}
		for name, text := range map[string]string{
			"env/Chart.yaml":             "name: env\nversion: 0.0.1\n",
			"env/requirements.yaml":      "dependencies:\n- {name: web, version: 1.0.0, repository: 'file://../charts/web'}\n",
			"apps/web/Chart.yaml":        "name: web\nversion: 1.0.0\n",
			"apps/web/templates/a.yaml":  "-> ../../../shared/a.yaml",
			"apps/web/files":             "-> ../../shared",
			"charts/web":                 "-> ../apps/web",
			"shared/a.yaml":              "a: 1",
			"shared/b.yaml":              "-> deep/b.yaml",
			"shared/deep/b.yaml":         "b: 1",
			"elsewhere/not-of-it/a.yaml": "a: 1",
		} {
			fsys[name] = mapFile([]byte(text))
		}
		for name, text := range more {
			fsys[name] = mapFile([]byte(text))
		}
		return fsys
	}
	l := &Loader{Environment: "staging"}
	digest := func(more map[string]string) string {
		app := mustLoad(t, l, files(more)).Apps[0]
		if app.Fault != nil {
			t.Fatalf("%v: %v", more, app.Fault)
		}
		return app.Digest
	}
	was := digest(nil)
	if digest(map[string]string{"elsewhere/not-of-it/a.yaml": "a: 2"}) != was {
		t.Error("a file that nothing leads to counts")
	}
	for _, name := range []string{"shared/a.yaml", "shared/deep/b.yaml"} {
		if digest(map[string]string{name: "c: 2"}) == was {
			t.Errorf("%s does not count", name)
		}
	}
	for link, target := range map[string]string{
		"apps/web/LICENSE":     "../../../LICENSE",
		"apps/web/README.md":   "/etc/passwd",
		"apps/web/templates/x": "gone.yaml",
		"apps/web/files":       "..",
		"charts/web":           "../../web",
	} {
		app := mustLoad(t, l, files(map[string]string{link: "-> " + target})).Apps[0]
		if want := "symbolic link"; app.Fault == nil || !strings.Contains(app.Fault.Error(), want) || !strings.Contains(app.Fault.Error(), path.Base(link)) {
			t.Errorf("%s -> %s: %v", link, target, app.Fault)
		}
	}
	if digest(nil) != was {
		t.Error("the digest differs when the links are good again")
	}
}

// TestVendoredArchives: which of the archives in charts/ is the chart of an entry without a repository.
func TestVendoredArchives(t *testing.T) {
	for archives, want := range map[string]string{
		"web.tgz":                               "env/charts/web.tgz",
		"web-1.0.0.tgz web-api-1.2.0.tgz":       "env/charts/web-1.0.0.tgz",
		"web-1.2.0.tgz web-1.10.0.tgz":          "env/charts/web-1.10.0.tgz",
		"web-1.2.0.tgz web-2.0.0.tgz":           "env/charts/web-1.2.0.tgz",
		"web-2.0.0.tgz":                         "env/charts/web-2.0.0.tgz", // whose version is then a fault
		"web-1.2.0.tgz web/Chart.yaml":          "env/charts/web",
		"web-api-1.2.0.tgz":                     "env/charts/web",
		"web-1.2.0-rc.1+a.tgz web-1.0.0+b2.tgz": "env/charts/web-1.0.0+b2.tgz",
	} {
		fsys := fstest.MapFS{
			"env/Chart.yaml":        mapFile([]byte("name: env\nversion: 0.0.1\n")),
			"env/requirements.yaml": mapFile([]byte("dependencies:\n- {name: web, version: ^1.0.0}\n")),
		}
		for _, name := range strings.Fields(archives) {
			fsys["env/charts/"+name] = mapFile([]byte("name: web\nversion: 1.0.0\n"))
		}
		app := mustLoad(t, &Loader{Environment: "staging"}, fsys).Apps[0]
		if app.Chart.Path != want {
			t.Errorf("%s: got %s, want %s", archives, app.Chart.Path, want)
		}
		if missing := archives == "web-api-1.2.0.tgz"; missing != (app.Fault != nil) {
			t.Errorf("%s: fault %v", archives, app.Fault)
		}
	}
}
