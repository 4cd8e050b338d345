package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/render/manifest"
	"github.com/sluice-cd/sluice/render/release"
)

// compose returns the chart to render and the values that a person would give helm template for it: the umbrella
// rebuilt around the one app and no values, or the chart itself and the app's values.
func (r *rendering) compose() (*chart.Chart, map[string]any, error) {
	app, s := r.chart, &r.said
	if r.task.Bare {
		r.addPeers(app)
		return app, s.Values, process(app, s.Values)
	}
	values := s.UmbrellaValues
	if values == nil {
		values = map[string]any{}
	}
	if s.Globals != nil {
		values[chartutil.GlobalKey] = s.Globals
	}
	values[r.app()] = s.Values
	if s.Values == nil {
		values[r.app()] = map[string]any{}
	}
	root := &chart.Chart{
		Metadata: &chart.Metadata{
			APIVersion: chart.APIVersionV2, Name: s.Umbrella, Version: s.UmbrellaVersion,
			Dependencies: []*chart.Dependency{{
				Name: app.Name(), Alias: s.Alias, ImportValues: s.ImportValues,
				// Every version fits, prereleases too: which one it is was decided when the chart was fetched.
				Version: ">=0.0.0-0",
			}},
		},
		Values: values,
	}
	for _, p := range s.Peers {
		if values[p.Name] = p.Values; p.Values == nil {
			values[p.Name] = map[string]any{}
		}
	}
	root.Templates = r.task.Helpers
	if err := root.Validate(); err != nil {
		return nil, nil, fmt.Errorf("umbrella chart: %w", err)
	}
	root.AddDependency(app)
	r.addPeers(root)
	if err := process(root, nil); err != nil {
		return nil, nil, err
	}
	if len(root.Dependencies()) != 1+len(r.peers) {
		return nil, nil, errors.New("the umbrella chart does not take the app as its dependency")
	}
	return root, nil, nil
}

// addPeers makes the peers dependencies of the umbrella chart, by the names that their aliases give them.
func (r *rendering) addPeers(root *chart.Chart) {
	for i, peer := range r.peers {
		root.AddDependency(peer)
		root.Metadata.Dependencies = append(root.Metadata.Dependencies, &chart.Dependency{
			Name: peer.Name(), Version: ">=0.0.0-0", ImportValues: r.said.Peers[i].ImportValues,
		})
	}
}

func process(root *chart.Chart, values map[string]any) error {
	if values == nil {
		values = map[string]any{}
	}
	if err := chartutil.ProcessDependenciesWithMerge(root, values); err != nil {
		return fmt.Errorf("processing dependencies: %w", err)
	}
	return nil
}

// execute runs the templates: it fills the release's values, text and hooks, and returns the rendered files.
func (r *rendering) execute(root *chart.Chart, given map[string]any, out *product) (map[string]string, error) {
	options := chartutil.ReleaseOptions{Name: r.said.ReleaseName, Namespace: r.said.Namespace, Revision: 1, IsInstall: true}
	top, err := chartutil.ToRenderValuesWithSchemaValidation(root, given, options, r.caps.helm, true)
	if err != nil {
		return nil, fmt.Errorf("merging values: %w", err)
	}
	values, ok := top["Values"].(chartutil.Values)
	if !ok {
		return nil, errors.New("merging values: they are no map")
	}
	warnings, err := validate(root, values)
	out.Warnings = append(out.Warnings, warnings...)
	if err != nil {
		return nil, err
	}
	// This Engine asks no DNS, and the cluster through whoever has started this process.
	files, err := engine.RenderWithClientProvider(root, top, r.ask)
	if err != nil {
		return nil, err
	}
	var app any = values
	if !r.task.Bare {
		app = values[r.app()]
	}
	if out.Values, err = json.Marshal(app); err != nil {
		return nil, fmt.Errorf("merging values: %w", err)
	}
	return files, composeText(root, files, out)
}

// check refuses a chart that Helm would not install on its own: that refuses the cluster, lacks a declared dependency, or is a
// library. As a dependency Helm does not ask it, so neither do we, but say so.
func (r *rendering) check(out *product) error {
	var faults []string
	m := r.chart.Metadata
	if have := r.caps.helm.KubeVersion.String(); m.KubeVersion != "" && !chartutil.IsCompatibleRange(m.KubeVersion, have) {
		faults = append(faults, fmt.Sprintf("chart requires kubeVersion %s, which is incompatible with Kubernetes %s", m.KubeVersion, have))
	}
	for _, name := range missingDependencies(r.chart) {
		faults = append(faults, fmt.Sprintf("chart %s %s declares the dependency %s, which is missing in its charts/ directory",
			m.Name, m.Version, quote(name)))
	}
	if !r.task.Bare {
		out.Warnings = append(out.Warnings, faults...)
		return nil
	}
	if m.Type != "" && m.Type != "application" {
		faults = append(faults, fmt.Sprintf("%s charts are not installable", m.Type))
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "; "))
	}
	return nil
}

// composeText sorts and joins the rendered files as helm template does.
func composeText(root *chart.Chart, files map[string]string, out *product) error {
	for name := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			delete(files, name)
		}
	}
	out.Warnings = append(out.Warnings, droppedHooks(files)...)
	hooks, manifests, err := sortManifests(files)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		out.Hooks = append(out.Hooks, newHook(h))
	}
	var crds, text strings.Builder
	definitions := root.CRDObjects()
	size := 0
	for _, crd := range definitions {
		size += len("---\n"+sourceMark) + len(crd.Filename) + len(crd.File.Data) + 2
	}
	crds.Grow(size) // there may be megabytes of them
	for _, crd := range definitions {
		for _, part := range []string{"---\n" + sourceMark, crd.Filename, "\n"} {
			crds.WriteString(part)
		}
		crds.Write(crd.File.Data)
		crds.WriteByte('\n')
	}
	for _, m := range manifests {
		fmt.Fprintf(&text, "---\n# Source: %s\n%s\n", m.Name, m.Content)
	}
	out.CRDs, out.Manifest = crds.String(), text.String()
	return nil
}

func sortManifests(files map[string]string) (hooks []*helmrelease.Hook, manifests []releaseutil.Manifest, err error) {
	hooks, manifests, err = releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, nil, fmt.Errorf("%w%s", err, brokenDocument(files))
	}
	return hooks, manifests, nil
}

// brokenDocument says which document of its template is the one that Helm could not read.
func brokenDocument(files map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasPrefix(path.Base(name), "_") {
			continue
		}
		docs := manifest.Documents(files[name])
		for i, doc := range docs {
			var head releaseutil.SimpleHead
			if yaml.Unmarshal([]byte(doc), &head) != nil {
				return fmt.Sprintf(" (in document %d of %d)", i+1, len(docs))
			}
		}
	}
	return ""
}

func newHook(h *helmrelease.Hook) release.Hook {
	out := release.Hook{Name: h.Name, Kind: h.Kind, Path: h.Path, Weight: h.Weight, Manifest: h.Manifest}
	for _, e := range h.Events {
		out.Events = append(out.Events, e.String())
	}
	for _, p := range h.DeletePolicies {
		out.DeletePolicies = append(out.DeletePolicies, p.String())
	}
	return out
}

// knownHooks are the events that Helm 3 knows; an object with any other is left out without a word.
var knownHooks = []string{
	"pre-install", "post-install", "pre-delete", "post-delete", "pre-upgrade", "post-upgrade", "pre-rollback",
	"post-rollback", "test", "test-success",
}

// droppedHooks warns of objects that Helm drops because it does not know their hook, such as crd-install of Helm 2.
func droppedHooks(files map[string]string) []string {
	var warnings []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.Contains(files[name], helmrelease.HookAnnotation) {
			continue
		}
		for _, doc := range manifest.Documents(files[name]) {
			var head releaseutil.SimpleHead
			if yaml.Unmarshal([]byte(doc), &head) != nil || head.Metadata == nil {
				continue
			}
			events, ok := head.Metadata.Annotations[helmrelease.HookAnnotation]
			if !ok {
				continue
			}
			for _, e := range strings.Split(events, ",") {
				if e = strings.ToLower(strings.TrimSpace(e)); !slices.Contains(knownHooks, e) {
					warnings = append(warnings, fmt.Sprintf("%s: %s %s is not applied: Helm does not know its hook %s",
						name, head.Kind, head.Metadata.Name, quote(e)))
					break
				}
			}
		}
	}
	return warnings
}

// helperFiles are the templates of an umbrella chart that can define named templates for its apps.
type helperFiles struct {
	files  []*chart.File
	digest string
}

var definesTemplate = regexp.MustCompile(`\{\{-?\s*(define|block)\b`)

func newHelperFiles(c *chart.Chart) *helperFiles {
	h := &helperFiles{files: definitions(c.Templates)}
	var all strings.Builder
	for _, f := range h.files {
		writeField(&all, []byte(f.Name))
		writeField(&all, f.Data)
	}
	h.digest = sha256Hex([]byte(all.String()))
	return h
}

// definitions takes partials as they are, and other templates that define something under a partial's name, so that they are
// parsed but print nothing.
func definitions(templates []*chart.File) []*chart.File {
	var files []*chart.File
	taken := map[string]bool{}
	for _, t := range templates {
		taken[t.Name] = true
	}
	for _, t := range templates {
		name := t.Name
		if !strings.HasPrefix(path.Base(name), "_") {
			if !definesTemplate.Match(t.Data) {
				continue
			}
			for taken[name] {
				name = path.Join(path.Dir(name), "_"+path.Base(name))
			}
			taken[name] = true
		}
		files = append(files, &chart.File{Name: name, Data: t.Data})
	}
	return files
}

// asPeer is a chart of which nothing is printed or checked: its metadata, values, files and named templates.
func asPeer(c *chart.Chart) *chart.Chart {
	out := cloneForProcessing(c)
	var strip func(c *chart.Chart)
	strip = func(c *chart.Chart) {
		c.Schema, c.Templates = nil, definitionsOf(c)
		c.Files = slices.DeleteFunc(slices.Clone(c.Files), func(f *chart.File) bool { return strings.HasPrefix(f.Name, "crds/") })
		for _, d := range c.Dependencies() {
			strip(d)
		}
	}
	strip(out)
	return out
}

// definitionsOf are the named templates that Helm takes of a chart: of a library those in partials alone.
func definitionsOf(c *chart.Chart) []*chart.File {
	if c.Metadata.Type != "library" {
		return definitions(c.Templates)
	}
	return slices.DeleteFunc(slices.Clone(c.Templates), func(f *chart.File) bool { return !strings.HasPrefix(path.Base(f.Name), "_") })
}
