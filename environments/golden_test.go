package environments

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the golden parts of testdata")

// forEachArchive runs a test on every archive of a directory under testdata. The test gives the content of the
// file "want", which is compared, or written with -update.
func forEachArchive(t *testing.T, dir string, test func(t *testing.T, files fstest.MapFS) string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no archives in testdata/%s: %v", dir, err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files := fstest.MapFS{}
			var want *txtar.File
			for i, f := range archive.Files {
				if f.Name == "want" {
					want = &archive.Files[i]
					continue
				}
				files[f.Name] = mapFile(f.Data)
			}
			got := test(t, files)
			if *update {
				if want == nil {
					archive.Files = append(archive.Files, txtar.File{Name: "want"})
					want = &archive.Files[len(archive.Files)-1]
				}
				want.Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(archive), 0o666); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want == nil || got != string(want.Data) {
				t.Errorf("got:\n%s", got)
			}
		})
	}
}

// mapFile makes a file; a text "-> target" makes a symbolic link.
func mapFile(data []byte) *fstest.MapFile {
	if target, ok := strings.CutPrefix(string(data), "-> "); ok {
		return &fstest.MapFile{Data: []byte(strings.TrimSpace(target)), Mode: fs.ModeSymlink | 0o777}
	}
	return &fstest.MapFile{Data: data, Mode: 0o644}
}

// describe prints an environment for people, digests left out.
func describe(env *Environment, err error) string {
	var b strings.Builder
	if err != nil {
		fmt.Fprintf(&b, "error: %v\n", err)
		return b.String()
	}
	fmt.Fprintf(&b, "environment %q namespace %q writeBack %s\n", env.Name, env.Namespace, env.WriteBack)
	if env.Rollout != nil {
		fmt.Fprintf(&b, "rollout: %s\n", env.Rollout.Where)
	}
	u := env.Umbrella
	fmt.Fprintf(&b, "umbrella %s %s in %q globals %s values %s templates %v\n",
		u.Name, u.Version, u.Dir, canonical(u.Globals), canonical(u.Values), u.Templates)
	for _, app := range env.Apps {
		fmt.Fprintf(&b, "app %s release %s/%s", app.Name, app.Namespace, app.ReleaseName)
		fmt.Fprintf(&b, " chart %s %s %s", app.Chart.Name, app.Chart.Version, app.Chart.Repository)
		if app.Chart.Path != "" {
			fmt.Fprintf(&b, " path %s", app.Chart.Path)
		}
		if app.Chart.ImportValues != nil {
			fmt.Fprintf(&b, " import-values %s", canonical(app.Chart.ImportValues))
		}
		fmt.Fprintf(&b, " pin %s:%d:%d\n", app.Pin.File, app.Pin.Line, app.Pin.Column)
		if app.CRDs != CRDsCreate {
			fmt.Fprintf(&b, "  crds: %s\n", app.CRDs)
		}
		if app.Rollout != nil {
			fmt.Fprintf(&b, "  rollout: %s\n", app.Rollout.Where)
		}
		if len(app.Values) > 0 {
			fmt.Fprintf(&b, "  values: %s\n", canonical(app.Values))
		}
		if app.Fault != nil {
			fmt.Fprintf(&b, "  fault: %v\n", app.Fault)
		}
	}
	if env.Incomplete != nil {
		fmt.Fprintf(&b, "incomplete: %v\n", env.Incomplete)
	}
	for _, w := range env.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	return b.String()
}

func TestLoad(t *testing.T) {
	forEachArchive(t, "load", func(t *testing.T, files fstest.MapFS) string {
		l := &Loader{Environment: "production"}
		got := describe(l.Load(files, "."))
		for _, fsys := range []fs.FS{hashing{files}, listable{hashing: hashing{files}}} {
			if again := describe((&Loader{Environment: "production"}).Load(fsys, ".")); again != got {
				t.Errorf("with a %T:\n%s\nwithout:\n%s", fsys, again, got)
			}
		}
		return got
	})
}

// chartSaid is what the chart of an archive says, without what the environment sets: chart/values.yaml, canary.yaml, and
// template*.yaml, a MetricTemplate each.
func chartSaid(t *testing.T, files fstest.MapFS) (said Said) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		var document map[string]any
		if err := yaml.Unmarshal(files[name].Data, &document); err != nil {
			continue // of the environment, which is read by itself
		}
		switch {
		case name == "chart/values.yaml":
			said.Values = document
		case name == "canary.yaml":
			said.Canary = document
		case strings.HasPrefix(name, "template"):
			said.MetricTemplates = append(said.MetricTemplates, document)
		}
	}
	return said
}

func TestResolvePolicy(t *testing.T) {
	forEachArchive(t, "policy", func(t *testing.T, files fstest.MapFS) string {
		said := chartSaid(t, files)
		files["env/Chart.yaml"] = mapFile([]byte("apiVersion: v1\nname: env\nversion: 0.0.1\n"))
		files["env/requirements.yaml"] = mapFile([]byte("dependencies:\n- name: web\n  version: 1.0.0\n  repository: http://charts\n"))
		env, err := (&Loader{Environment: "production"}).Load(files, ".")
		if err != nil {
			return describe(nil, err)
		}
		app := &env.Apps[0]
		if app.Fault != nil {
			return fmt.Sprintf("fault: %v\n", app.Fault)
		}
		said.Values = mergeValues(said.Values, app.Values)
		p, err := ResolvePolicy(env, app, said)
		if err != nil {
			return fmt.Sprintf("error: %v\n", err)
		}
		text, err := yaml.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%ssteps: %v\n", text, p.Steps())
	})
}

func TestExplain(t *testing.T) {
	forEachArchive(t, "explain", func(t *testing.T, files fstest.MapFS) string {
		said := chartSaid(t, files)
		files["env/Chart.yaml"] = mapFile([]byte("apiVersion: v1\nname: env\nversion: 0.0.1\n"))
		files["env/requirements.yaml"] = mapFile([]byte("dependencies:\n- name: web\n  version: 1.0.0\n  repository: http://charts\n"))
		env, err := (&Loader{Environment: "production"}).Load(files, ".")
		if err != nil {
			t.Fatal(err)
		}
		app := &env.Apps[0]
		said.Values = mergeValues(said.Values, app.Values)
		list, err := Explain(env, app, said)
		if err != nil {
			return fmt.Sprintf("error: %v\n", err)
		}
		var b strings.Builder
		for _, f := range list {
			fmt.Fprintf(&b, "%s = %s by %s %s:%d\n", f.Name, f.Value, f.Source, f.File, f.Line)
		}
		return b.String()
	})
}

// hashing makes a Hasher of a file system, by content.
type hashing struct{ fstest.MapFS }

func (h hashing) Hash(name string) (string, error) { return hashOf(h.MapFS, name) }

func TestRevertVersion(t *testing.T) {
	forEachArchive(t, "version", func(t *testing.T, files fstest.MapFS) string {
		args := strings.Fields(string(files["args"].Data))
		file := files["file.yaml"].Data
		got, err := RevertVersion(file, args[0], args[1], args[2])
		if err != nil {
			return fmt.Sprintf("error: %v\n", err)
		}
		return showDiff("file.yaml", file, got)
	})
}

func TestRevert(t *testing.T) {
	forEachArchive(t, "revert", func(t *testing.T, files fstest.MapFS) string {
		trees := map[string]fstest.MapFS{"current": {}, "failed": {}, "stable": {}}
		for name, f := range files {
			dir, rest, _ := strings.Cut(name, "/")
			if dir == "all" {
				for _, tree := range trees {
					if tree[rest] == nil {
						tree[rest] = f
					}
				}
			} else {
				trees[dir][rest] = f
			}
		}
		got, err := Revert(trees["current"], trees["failed"], trees["stable"], ".", "web")
		if err != nil {
			return fmt.Sprintf("error: %v\n", err)
		}
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(got)) {
			var before []byte
			if f := trees["current"][name]; f != nil {
				before = f.Data
			}
			if got[name] == nil {
				fmt.Fprintf(&b, "deleted %s\n", name)
				continue
			}
			b.WriteString(showDiff(name, before, got[name]))
		}
		if len(got) == 0 {
			return "nothing to write\n"
		}
		return b.String()
	})
}

// showDiff is a unified diff in which carriage returns can be seen.
func showDiff(name string, before, after []byte) string {
	text := string(diff.Diff("a/"+name, before, "b/"+name, after))
	if text == "" {
		return "no difference in " + name + "\n"
	}
	return strings.ReplaceAll(text, "\r", "^M")
}
