package environments

import (
	"errors"
	"strings"
	"testing"
	"testing/fstest"

	"sigs.k8s.io/yaml"
)

func TestPromote(t *testing.T) {
	const umbrella = "apiVersion: v1\nname: env\nversion: 0.0.1\n"
	fresh := Promotion{Version: "1.10", Chart: "web", Repository: "https://charts.example.com"}
	for _, test := range []struct {
		name, list string
		app        string
		to         Promotion
		want       string // the list afterwards; empty: as it was
		fault      string
	}{
		{
			"a version, and nothing else", "# What runs.\ndependencies:\n- name: web\n  version: 1.0.0  # promoted\n  repository: https://c.example.com\n",
			"web",
			Promotion{Version: "1.1.0", Was: "1.0.0"},
			"# What runs.\ndependencies:\n- name: web\n  version: 1.1.0  # promoted\n  repository: https://c.example.com\n", "",
		},
		{"it says so already", "dependencies:\n- {name: web, version: 1.0.0, repository: \"https://c.example.com\"}\n", "web", Promotion{Version: "1.0.0", Was: "0.9.0"}, "", ""},
		{
			"somebody was faster", "dependencies:\n- {name: web, version: 1.2.0, repository: \"https://c.example.com\"}\n", "web",
			Promotion{Version: "1.1.0", Was: "1.0.0"},
			"",
			"the branch has moved on: the version of web is 1.2.0, no longer 1.0.0",
		},
		{"taken off the list", "dependencies: []\n", "web", Promotion{Version: "1.1.0", Was: "1.0.0"}, "", "the branch has moved on: web is no longer listed"},
		{
			"new, in the list's style", "dependencies:\n  -   alias: other\n      name: \"small\"\n      version: '1.0'\n      repository: \"https://c.example.com\"\n\n# The end.\n",
			"shop", fresh,
			"dependencies:\n  -   alias: other\n      name: \"small\"\n      version: '1.0'\n      repository: \"https://c.example.com\"\n" +
				"  -   alias: shop\n      name: \"web\"\n      version: '1.10'\n      repository: \"https://charts.example.com\"\n\n# The end.\n", "",
		},
		{
			"new, in flow style", "dependencies:\n- {version: 1.0.0, name: small, repository: \"https://c.example.com\"}\nname: env\n", "web", fresh,
			"dependencies:\n- {version: 1.0.0, name: small, repository: \"https://c.example.com\"}\n" +
				"- {version: \"1.10\", name: web, repository: \"https://charts.example.com\"}\nname: env\n", "",
		},
		{
			"new, after Windows", "dependencies:\r\n- name: small\r\n  version: 1.0.0\r\n  repository: https://c.example.com\r\n", "web", fresh,
			"dependencies:\r\n- name: small\r\n  version: 1.0.0\r\n  repository: https://c.example.com\r\n" +
				"- name: web\r\n  version: \"1.10\"\r\n  repository: https://charts.example.com\r\n", "",
		},
		{
			"new, without a last line break", "dependencies:\n- name: small\n  version: 1.0.0\n  repository: https://c.example.com", "web", fresh,
			"dependencies:\n- name: small\n  version: 1.0.0\n  repository: https://c.example.com\n- name: web\n  version: \"1.10\"\n  repository: https://charts.example.com\n", "",
		},
		{"the first", "", "web", fresh, "dependencies:\n- name: web\n  version: \"1.10\"\n  repository: https://charts.example.com\n", ""},
		{"the first, of an empty list", "dependencies:\n", "web", fresh, "dependencies:\n- name: web\n  version: \"1.10\"\n  repository: https://charts.example.com\n", ""},
		{"the list in one line", "dependencies: []\n", "web", fresh, "", "add web by hand"},
		{
			"after an alias", "dependencies:\n- &a {name: small, version: 1.0.0, repository: \"https://c.example.com\"}\n- *a\n", "web", fresh,
			"dependencies:\n- &a {name: small, version: 1.0.0, repository: \"https://c.example.com\"}\n- *a\n" +
				"- name: web\n  version: \"1.10\"\n  repository: https://charts.example.com\n", "",
		},
		{"nothing is known of it", "dependencies:\n", "web", Promotion{Version: "1.0.0"}, "", "expected the chart and its repository"},
		{"credentials", "dependencies:\n", "web", Promotion{Version: "1.0.0", Chart: "web", Repository: "https://u:hunter2@c.example.com"}, "", "holds credentials"},
		{"no version", "dependencies:\n", "web", Promotion{Version: "1.0.0\nx: y", Chart: "web", Repository: "https://c.example.com"}, "", "is no version"},
		{"no YAML", "dependencies: [\n", "web", fresh, "", "not valid YAML"},
	} {
		t.Run(test.name, func(t *testing.T) {
			fsys := fstest.MapFS{
				"prod/env/Chart.yaml": {Data: []byte(umbrella)}, "prod/env/requirements.yaml": {Data: []byte(test.list)},
			}
			files, err := Promote(fsys, "prod", test.app, test.to)
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) || strings.Contains(err.Error(), "hunter2") || files != nil {
					t.Errorf("%v, want %q", err, test.fault)
				}
				if moved := strings.Contains(test.fault, "moved on"); moved != errors.Is(err, ErrMovedOn) {
					t.Errorf("moved on: %t", !moved)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := string(files["prod/env/requirements.yaml"]); got != test.want || len(files) > 1 {
				t.Errorf("got\n%s\nwant\n%s", got, test.want)
			}
			// Once more it has nothing to do.
			for name, text := range files {
				fsys[name] = &fstest.MapFile{Data: text}
			}
			again := test.to
			again.Was = ""
			if files, err := Promote(fsys, "prod", test.app, again); err != nil || files != nil {
				t.Errorf("once more: %q, %v", files, err)
			}
		})
	}
}

// FuzzPromote: what is appended can be read again, and nothing else of the list changes.
func FuzzPromote(f *testing.F) {
	f.Add("dependencies:\n- name: small\n  version: 1.0.0\n  repository: https://c.example.com\n", "web", "2.0")
	f.Add("dependencies:\n  - {name: a, version: '1'}\n", "b", "~1.2")
	f.Add("# x\r\ndependencies:\r\n", "b", "1e3")
	f.Add("", "b", "*")
	f.Fuzz(func(t *testing.T, list, app, version string) {
		before, err := dependenciesOf([]byte(list))
		if err != nil {
			return
		}
		fsys := fstest.MapFS{"env/Chart.yaml": {Data: []byte("name: env\nversion: 0.0.1\n")}, "env/requirements.yaml": {Data: []byte(list)}}
		files, err := Promote(fsys, ".", app, Promotion{Version: version, Chart: "chart", Repository: "https://c.example.com"})
		if err != nil || files == nil {
			return
		}
		text := files["env/requirements.yaml"]
		after, err := dependenciesOf(text)
		if err != nil {
			t.Fatalf("%q can't be read: %v", text, err)
		}
		e, err := findEntry(text, app)
		if err != nil || e == nil || e.version != version {
			t.Fatalf("%q does not list %q at %q: %v", text, app, version, err)
		}
		for i, d := range before {
			if !after[i].sameButVersion(d) || after[i].version != d.version && d.appName() != app {
				t.Fatalf("%q changes %q", text, d.appName())
			}
		}
	})
}

// An image's tag is what its values say at the place given, a build's number among it.
func TestAsks(t *testing.T) {
	for values, want := range map[string]string{
		"image: {tag: b2}": "b2", "image: {tag: 20261128}": "20261128", "image: {tag: '007'}": "007", "image: {tag: {a: b}}": "", "image: b2": "", "tag: b2": "",
	} {
		app := App{Chart: ChartRef{Version: "1.0.0"}, Image: ImagePaths{Tag: "image.tag"}}
		if err := yaml.Unmarshal([]byte(values), &app.Values); err != nil {
			t.Fatal(err)
		}
		if got := app.Asks(); got != want {
			t.Errorf("%s: asks for %q, want %q", values, got, want)
		}
	}
	if got := (&App{Chart: ChartRef{Version: "1.0.0"}}).Asks(); got != "1.0.0" {
		t.Errorf("a chart's version is %q", got)
	}
}
