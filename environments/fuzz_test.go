package environments

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"
	"helm.sh/helm/v3/pkg/chartutil"
	"sigs.k8s.io/yaml"
)

// eachFile feeds the files of the archives in a directory of testdata to a fuzz target.
func eachFile(f *testing.F, dir string, add func(files map[string][]byte)) {
	f.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		files := map[string][]byte{}
		for _, file := range archive.Files {
			files[file.Name] = file.Data
		}
		add(files)
	}
}

// FuzzLoad reads arbitrary files. A Loader that has seen other files before says the same as a fresh one, and the
// values of every app are what Helm reads.
func FuzzLoad(f *testing.F) {
	eachFile(f, "load", func(files map[string][]byte) {
		f.Add(files["env/Chart.yaml"], files["env/requirements.yaml"], files["env/values.yaml"], files["sluice.yaml"])
	})
	warm := &Loader{Environment: "fuzz"}
	f.Fuzz(func(t *testing.T, chart, list, values, settings []byte) {
		files := fstest.MapFS{
			"env/Chart.yaml":        {Data: chart},
			"env/requirements.yaml": {Data: list},
			"env/values.yaml":       {Data: values},
			"sluice.yaml":           {Data: settings},
		}
		env, err := (&Loader{Environment: "fuzz"}).Load(files, ".")
		again, againErr := warm.Load(files, ".")
		if got, want := describe(again, againErr), describe(env, err); got != want {
			t.Fatalf("warm:\n%s\nfresh:\n%s", got, want)
		}
		if err != nil {
			return
		}
		helm, helmErr := chartutil.ReadValues(values)
		names := map[string]bool{}
		for i := range env.Apps {
			app := &env.Apps[i]
			if names[app.Name] || !isReleaseName(app.Name) {
				t.Fatalf("app %q", app.Name)
			}
			names[app.Name] = true
			if app.Fault == nil && helmErr == nil && app.Name != env.Umbrella.Name && !sameValue(map[string]any(helm)[app.Name], app.Values) {
				t.Fatalf("values of %s: %v, Helm has %v", app.Name, app.Values, map[string]any(helm)[app.Name])
			}
			if _, err := ResolvePolicy(env, app, Said{Values: app.Values}); err != nil {
				_ = err.Error()
			}
		}
	})
}

// sameValue compares what Helm reads for an app with the app's values; nothing, null and {} are the same.
func sameValue(helm any, values map[string]any) bool {
	if helm == nil {
		return len(values) == 0
	}
	m, ok := helm.(map[string]any)
	return ok && (len(m) == 0 && len(values) == 0 || reflect.DeepEqual(m, values))
}

// FuzzRevertVersion edits arbitrary lists: the result parses, and differs in the one version only.
func FuzzRevertVersion(f *testing.F) {
	eachFile(f, "version", func(files map[string][]byte) {
		f.Add(files["file.yaml"], "web", "0.9.0")
		f.Add(files["file.yaml"], "api", "1.10")
	})
	f.Fuzz(func(t *testing.T, file []byte, app, to string) {
		entry, err := findEntry(file, app)
		if err != nil || entry == nil {
			return
		}
		edited, err := RevertVersion(file, app, entry.version, to)
		if err != nil {
			return
		}
		var before, after map[string]any
		if err := yaml.Unmarshal(file, &before); err != nil {
			return // One of our two YAML parsers takes it, the other does not.
		}
		if err := yaml.Unmarshal(edited, &after); err != nil {
			t.Fatalf("the result does not parse: %v", err)
		}
		if to == entry.version {
			return
		}
		changes := differences("", before, after)
		if len(changes) != 1 {
			t.Fatalf("%d changes: %v\n%q\n%q", len(changes), changes, file, edited)
		}
		back, err := RevertVersion(edited, app, to, entry.version)
		if err != nil {
			return // The old version need not be one that we would write.
		}
		if again, err := findEntry(back, app); err != nil || again == nil || again.version != entry.version {
			t.Fatalf("there and back: %v", err)
		}
	})
}

// differences lists the paths at which two trees differ.
func differences(at string, a, b any) []string {
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok && len(a) == len(b) {
			var all []string
			for key := range a {
				all = append(all, differences(at+"."+key, a[key], b[key])...)
			}
			return all
		}
	case []any:
		if b, ok := b.([]any); ok && len(a) == len(b) {
			var all []string
			for i := range a {
				all = append(all, differences(fmt.Sprintf("%s[%d]", at, i), a[i], b[i])...)
			}
			return all
		}
	}
	if reflect.DeepEqual(a, b) {
		return nil
	}
	return []string{at}
}

// FuzzRevertValues edits arbitrary values: the app's become those of stable, and nobody else's change.
func FuzzRevertValues(f *testing.F) {
	eachFile(f, "revert", func(files map[string][]byte) {
		f.Add(files["current/env/values.yaml"], files["failed/env/values.yaml"], files["stable/env/values.yaml"], "web")
	})
	f.Fuzz(func(t *testing.T, current, failed, stable []byte, app string) {
		edited, err := RevertValues(current, failed, stable, app)
		if err != nil {
			var unable *UnrevertableError
			if !errors.Is(err, ErrMovedOn) && !errors.As(err, &unable) {
				t.Fatalf("neither moved on nor unrevertable: %v", err)
			}
			return
		}
		before, beforeErr := parseValues(current)
		want, wantErr := parseValues(stable)
		if beforeErr != nil || wantErr != nil {
			return // Left as it was.
		}
		after, err := parseValues(edited)
		if err != nil {
			t.Fatalf("the result does not parse: %v", err)
		}
		if !reflect.DeepEqual(after[app], want[app]) && !reflect.DeepEqual(after, before) {
			t.Fatalf("%v, want %v", after[app], want[app])
		}
		delete(before, app)
		delete(after, app)
		if len(before)+len(after) > 0 && !reflect.DeepEqual(before, after) {
			t.Fatalf("others changed: %v to %v", before, after)
		}
	})
}

// FuzzResolvePolicy reads arbitrary policies in all places. What is accepted is complete and safe.
func FuzzResolvePolicy(f *testing.F) {
	eachFile(f, "policy", func(files map[string][]byte) {
		for _, text := range files {
			f.Add(text)
		}
	})
	for _, text := range []string{"analysis: {stepWeight: 10}", "{analysis: {stepWeights: [1, 2]}, service: {port: 80}}"} {
		f.Add([]byte(text))
	}
	app := &App{Name: "web"}
	f.Fuzz(func(t *testing.T, text []byte) {
		var document map[string]any
		if err := yaml.Unmarshal(text, &document); err != nil {
			return
		}
		check := func(p Policy, err error) {
			if err != nil {
				_ = err.Error()
				return
			}
			checkPolicy(t, p)
		}
		raw := &RawPolicy{Where: "fuzz", File: "fuzz.yaml", YAML: text}
		check(ResolvePolicy(&Environment{Rollout: raw}, app, Said{}))
		check(ResolvePolicy(&Environment{Rollout: raw}, &App{Name: "web", Rollout: raw}, Said{Values: map[string]any{"canary": document}}))
		check(ResolvePolicy(&Environment{}, app, Said{Values: map[string]any{"canary": document}}))
		check(ResolvePolicy(&Environment{}, app, Said{Values: document}))
		check(ResolvePolicy(&Environment{}, app, Said{Canary: map[string]any{"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "spec": document}}))
		check(ResolvePolicy(&Environment{}, app, Said{Canary: document}))
	})
}

func checkPolicy(t *testing.T, p Policy) {
	t.Helper()
	if p.ProgressDeadline <= 0 || p.Source == "" || p.Strategy == "" {
		t.Fatalf("incomplete: %+v", p)
	}
	if p.Strategy != StrategyCanary {
		return
	}
	a := p.Analysis
	if a.Interval <= 0 || a.Threshold < 1 || a.InconclusiveLimit < 1 || a.MaxWeight < 1 || a.MaxWeight > 100 {
		t.Fatalf("incomplete: %+v", a)
	}
	last := 0
	for _, w := range p.Steps() {
		if w <= last || w > a.MaxWeight {
			t.Fatalf("steps %v", p.Steps())
		}
		last = w
	}
	if last == 0 && !p.SkipAnalysis {
		t.Fatal("no steps, and judged")
	}
	for _, m := range a.Metrics {
		if m.Name == "" || m.Interval <= 0 || m.Min == nil && m.Max == nil {
			t.Fatalf("metric %+v", m)
		}
	}
}
