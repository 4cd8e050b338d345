package render

import (
	"maps"
	"slices"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

// says is a chart that prints what the named template who makes, and has files that define it.
func says(name string, files map[string]string, deps ...*chart.Chart) *chart.Chart {
	c := &chart.Chart{Metadata: &chart.Metadata{APIVersion: chart.APIVersionV2, Name: name, Version: "1.0.0"}}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		c.Templates = append(c.Templates, &chart.File{Name: file, Data: []byte(`{{ define "who" }}` + files[file] + `{{ end }}`)})
	}
	c.Templates = append(c.Templates, &chart.File{Name: "templates/print.yaml", Data: []byte(`{{ include "who" . }}`)})
	c.SetDependencies(deps...)
	return c
}

// TestOverridesAsHelm: whose named template is said to be taken is the one that Helm's engine takes, wherever it stands.
func TestOverridesAsHelm(t *testing.T) {
	const helpers = "templates/_helpers.tpl"
	common := func(text string) *chart.Chart { return says("common", map[string]string{helpers: text}) }
	for name, apps := range map[string][]*chart.Chart{
		"same file":     {says("a", map[string]string{helpers: "a"}), says("b", map[string]string{helpers: "b"})},
		"another file":  {says("a", map[string]string{"templates/z.tpl": "a"}), says("b", map[string]string{"templates/_a.tpl": "b"})},
		"deeper":        {says("a", map[string]string{"templates/x/_a.tpl": "a"}), says("b", map[string]string{helpers: "b"})},
		"of a subchart": {says("a", nil, common("a")), says("b", map[string]string{helpers: "b"})},
		"of two":        {says("a", nil, common("a")), says("b", nil, common("b"))},
		"one twice":     {says("a", map[string]string{"templates/_x.tpl": "x", "templates/_y.tpl": "y"}), says("b", map[string]string{helpers: "b"})},
		"alike":         {says("a", map[string]string{helpers: "same"}), says("b", map[string]string{helpers: "same"})},
	} {
		together := func(apps ...*chart.Chart) map[string]string {
			t.Helper()
			root := &chart.Chart{Metadata: &chart.Metadata{APIVersion: chart.APIVersionV2, Name: "env", Version: "1.0.0"}}
			root.SetDependencies(apps...)
			top, err := chartutil.ToRenderValues(root, nil, chartutil.ReleaseOptions{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			files, err := engine.Render(root, top)
			if err != nil {
				t.Fatal(err)
			}
			return files
		}
		all, byName := together(apps...), map[string]*chart.Chart{}
		for _, app := range apps {
			byName[app.Name()] = app
		}
		overrides := map[string]string{}
		for _, o := range Overrides(byName) {
			overrides[o.App] = o.Winner
		}
		for _, app := range apps {
			file := "env/charts/" + app.Name() + "/templates/print.yaml"
			alone := together(app)[file]
			winner, overridden := overrides[app.Name()]
			if differs := all[file] != alone; differs != overridden {
				t.Errorf("%s: Helm prints %q for %s, which prints %q alone; said to be overridden: %t", name, all[file], app.Name(), alone, overridden)
			}
			if overridden && all[file] != all["env/charts/"+winner+"/templates/print.yaml"] {
				t.Errorf("%s: %s is not what Helm takes", name, winner)
			}
		}
	}
}
