package environments

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/fstest"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"sigs.k8s.io/yaml"
)

// TestEnabledAsHelm draws umbrella charts with conditions and tags, and compares the apps with the dependencies that
// Helm keeps.
func TestEnabledAsHelm(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		dependencies, values := drawUmbrella(random)
		defaults := drawDefaults(random)
		text, err := yaml.Marshal(map[string]any{"dependencies": dependencies})
		if err != nil {
			t.Fatal(err)
		}
		valuesText, err := yaml.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		env := mustLoad(t, &Loader{Environment: "staging"}, fstest.MapFS{
			"env/Chart.yaml":        mapFile([]byte("name: env\nversion: 0.0.1\n")),
			"env/requirements.yaml": mapFile(text),
			"env/values.yaml":       mapFile(valuesText),
		})
		var got []string
		for _, app := range env.Apps {
			if app.Fault != nil {
				t.Fatalf("seed %d: %v", seed, app.Fault)
			}
			if app.Switch.On(func(name string) map[string]any { return defaults[name] }) {
				got = append(got, app.Name)
			}
		}
		want := helmKeeps(t, text, valuesText, defaults)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: got %v, Helm keeps %v\n%s\n%s\n%v", seed, got, want, text, valuesText, defaults)
		}
	}
}

func drawUmbrella(random *rand.Rand) ([]map[string]any, map[string]any) {
	paths := []string{"a.on", "b.on", "global.on", "c.deep.on", "flat", "nothing", "a.on.more", "words", "a"}
	tags := []string{"x", "y", "z"}
	var dependencies []map[string]any
	for _, name := range []string{"a", "b", "c", "d"} {
		paths := paths
		if name == "d" {
			paths = append(paths, "d.on", "d.on", "d.on.more")
		}
		d := map[string]any{"name": name, "version": "1.0.0", "repository": "http://charts"}
		for range random.IntN(3) {
			condition, _ := d["condition"].(string)
			if condition != "" {
				condition += ","
			}
			d["condition"] = condition + paths[random.IntN(len(paths))]
		}
		var own []string
		for range random.IntN(3) {
			own = append(own, tags[random.IntN(len(tags))])
		}
		if own != nil {
			d["tags"] = own
		}
		dependencies = append(dependencies, d)
	}
	maybe := func(m map[string]any, key string, v any) {
		if random.IntN(2) == 0 {
			m[key] = v
		}
	}
	coin := func() bool { return random.IntN(2) == 0 }
	values := map[string]any{}
	a, b, global, tagValues := map[string]any{}, map[string]any{}, map[string]any{}, map[string]any{}
	maybe(a, "on", coin())
	maybe(b, "on", coin())
	maybe(global, "on", coin())
	for _, tag := range tags {
		maybe(tagValues, tag, coin())
	}
	maybe(values, "a", a)
	maybe(values, "b", b)
	maybe(values, "c", map[string]any{"deep": map[string]any{"on": coin()}})
	maybe(values, "global", global)
	maybe(values, "tags", tagValues)
	maybe(values, "flat", coin())
	maybe(values, "d", []map[string]any{{}, {"on": coin()}, {"on": map[string]any{"more": coin()}}, {"on": "words"}}[random.IntN(4)])
	maybe(values, "words", "yes please")
	return dependencies, values
}

// drawDefaults are the charts' own values. A condition of one chart that another chart's own values decide is not
// understood, so each condition that is drawn leads to one chart at most: its own, or one whose own values say nothing.
func drawDefaults(random *rand.Rand) map[string]map[string]any {
	defaults := map[string]map[string]any{"a": {}, "b": {}, "c": {}, "d": {}}
	switch random.IntN(4) {
	case 0:
		defaults["d"]["on"] = random.IntN(2) == 0
	case 1:
		defaults["d"]["on"] = map[string]any{"more": random.IntN(2) == 0}
	case 2:
		defaults["d"]["on"] = "words"
	}
	return defaults
}

// helmKeeps are the names of the dependencies that Helm renders.
func helmKeeps(t *testing.T, list, values []byte, defaults map[string]map[string]any) []string {
	t.Helper()
	umbrella := &chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: "env", Version: "0.0.1"}}
	if err := yaml.Unmarshal(list, umbrella.Metadata); err != nil {
		t.Fatal(err)
	}
	parsed, err := chartutil.ReadValues(values)
	if err != nil {
		t.Fatal(err)
	}
	umbrella.Values = parsed
	for _, d := range umbrella.Metadata.Dependencies {
		umbrella.AddDependency(&chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: d.Name, Version: "1.0.0"}, Values: defaults[d.Name]})
	}
	if err := chartutil.ProcessDependenciesWithMerge(umbrella, map[string]any{}); err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, d := range umbrella.Dependencies() {
		kept = append(kept, d.Name())
	}
	slices.Sort(kept)
	return kept
}

// TestCutAsWhole compares values files that are cut with the same files read as a whole.
func TestCutAsWhole(t *testing.T) {
	for _, text := range []string{
		"",
		"# only a comment\n",
		"---\na: 1\n",
		"a: |\n  # not a comment\n  b: 2\n\n\nb: 3\n",
		"a: |+\n  text\n\n\nb: 3\n",
		"a: >-\n  folded\n\n  text\nb:\n- 1\n- 2\n",
		"a:\n- b: 1\n  c: 2\n# x\n- d\nb: 1",
		"a: plain\n  that goes on\nb: 1\n",
		"a: \"quoted\n  that goes on\"\nb: 1\n",
		"a: \"quoted\nb: that goes on at the left edge\"\nc: 1\n",
		"a: {x: 1,\ny: 2}\nb: 1\n",
		"a: 'it''s\n  # no comment'\nb: 1\n",
		"a: &x {y: 1}\nb: *x\n",
		"a: &x 1\nb: &x 2\nc: 3\n",
		"yes: 1\n1: 2\n1.5: 3\nnull: 4\n",
		"a: 1\na: 2\n",
		"a: 0x10\nb: 1e3\nc: 010\nd: 12345678901234567890\ne: 2020-01-01\nf: .inf2\ng: ~\n",
		"a:\n\tb: 1\n",
		"a: 1\n...\n---\nb: 2\n",
		"\ufeffa: 1\nb: 2\n",
		"a: 1\r\nb:\r\n  c: |\r\n    x\r\n\r\nd: 1\r\n",
		"a: x\u0085b: 2\n",
		"a: 1\rb: 2\n",
		"\"quoted key\": 1\nb: 2\n",
		"? a\n: 1\nb: 2\n",
		"a: !!str 1\nb: !custom 2\n",
		"a: 1 # x\n  # y\n #z\nb: 2\n",
		"a:\n  b: 1\n c: 2\n",
		"  a: 1\n  b: 2\n",
		"a:b\n",
		"a: b: c\n",
		"<<: {a: 1}\nb: 1\n",
	} {
		want, wantErr := chartutil.ReadValues([]byte(text))
		l := &Loader{}
		l.init()
		file, err := l.cutValues("values.yaml", []byte(text))
		if wantErr != nil {
			if err == nil && !slices.ContainsFunc(file.parts, func(p placedPart) bool { return p.fault != nil }) {
				t.Errorf("%q: accepted, Helm says %v", text, wantErr)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		got := map[string]any{}
		for _, p := range file.parts {
			if p.fault != nil {
				t.Errorf("%q: %v", text, p.fault)
			}
			got[p.key] = p.value
		}
		if fmt.Sprintf("%#v", canonical(got)) != fmt.Sprintf("%#v", canonical(map[string]any(want))) {
			t.Errorf("%q:\n got %v\nwant %v", text, got, want)
		}
	}
}
