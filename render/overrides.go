package render

import (
	"cmp"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template/parse"

	"helm.sh/helm/v3/pkg/chart"
)

// Override says that two charts of an umbrella define named templates differently. Helm parses all of them together and takes one
// for both; rendered app by app each has its own.
type Override struct {
	// App has the templates as well as Winner, whose Helm would take.
	App, Winner string
	// Names of the templates, sorted.
	Names []string
}

// Overrides compares the named templates of the apps of one umbrella chart, each by its alias or its chart's name.
func Overrides(apps map[string]*chart.Chart) []Override {
	type place struct {
		app, file, body string
	}
	first := func(a, b place) int {
		return cmp.Or(cmp.Compare(strings.Count(a.file, "/"), strings.Count(b.file, "/")), cmp.Compare(a.file, b.file))
	}
	winners, own := map[string]place{}, map[string]map[string]place{}
	for _, app := range slices.Sorted(maps.Keys(apps)) {
		own[app] = map[string]place{}
		eachDefinition(apps[app], app, func(name, file, body string) {
			p := place{app, file, body}
			if known, ok := own[app][name]; !ok || first(p, known) < 0 {
				own[app][name] = p
			}
			if known, ok := winners[name]; !ok || first(p, known) < 0 {
				winners[name] = p
			}
		})
	}
	var found []Override
	for _, app := range slices.Sorted(maps.Keys(own)) {
		names := map[string][]string{}
		for name, p := range own[app] {
			if w := winners[name]; w.app != app && w.body != p.body {
				names[w.app] = append(names[w.app], name)
			}
		}
		for _, winner := range slices.Sorted(maps.Keys(names)) {
			slices.Sort(names[winner])
			found = append(found, Override{App: app, Winner: winner, Names: names[winner]})
		}
	}
	return found
}

// Definitions identifies the named templates that a chart and its subcharts define, and where they do.
func (c *Chart) Definitions() string {
	var all []string
	eachDefinition(c.root, "", func(name, file, body string) { all = append(all, name+"\n"+file+"\n"+body) })
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// eachDefinition calls each for the named templates of a chart at a path and of its subcharts. A template that does not parse has
// none: nothing is rendered of it.
func eachDefinition(c *chart.Chart, at string, each func(name, file, body string)) {
	for _, t := range definitionsOf(c) {
		if !definesTemplate.Match(t.Data) {
			continue
		}
		trees := map[string]*parse.Tree{}
		p := parse.New("")
		p.Mode = parse.SkipFuncCheck
		if _, err := p.Parse(string(t.Data), "", "", trees); err != nil {
			continue
		}
		for name, tree := range trees {
			if name != "" && tree.Root != nil {
				each(name, path.Join(at, t.Name), tree.Root.String())
			}
		}
	}
	for _, d := range c.Dependencies() {
		eachDefinition(d, path.Join(at, "charts", d.Name()), each)
	}
}
