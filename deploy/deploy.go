// Package deploy renders the agent's chart, as helm template would, for the tests that hold it to what the agent needs.
package deploy

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

//go:embed all:chart
var files embed.FS

// Release says what a chart is rendered for.
type Release struct {
	Name, Namespace string
	// Values, in YAML.
	Values string
}

// Notes is what helm install would say.
func (r Release) Notes() (string, error) {
	out, err := r.render()
	return out["NOTES.txt"], err
}

// Manifest is what helm template would print: the documents of each template.
func (r Release) Manifest() (string, error) {
	rendered, err := r.render()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if path.Ext(name) != ".yaml" {
			continue
		}
		for doc := range strings.SplitSeq(rendered[name], "\n---\n") {
			if doc = strings.TrimSpace(strings.TrimPrefix(doc, "---\n")); doc != "" {
				b.WriteString("---\n" + doc + "\n")
			}
		}
	}
	return b.String(), nil
}

// Objects are those of the manifest.
func (r Release) Objects() ([]*unstructured.Unstructured, error) {
	manifest, err := r.Manifest()
	if err != nil {
		return nil, err
	}
	var out []*unstructured.Unstructured
	for doc := range strings.SplitSeq(manifest, "---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		o := &unstructured.Unstructured{}
		if err := yaml.UnmarshalStrict([]byte(doc), &o.Object); err != nil {
			return nil, fmt.Errorf("reading what the chart renders: %w:\n%s", err, doc)
		}
		out = append(out, o)
	}
	return out, nil
}

// render runs the templates. Names of files are those below templates/.
func (r Release) render() (map[string]string, error) {
	buffered, err := read()
	if err != nil {
		return nil, err
	}
	c, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, fmt.Errorf("loading the chart: %w", err)
	}
	given, err := chartutil.ReadValues([]byte(r.Values))
	if err != nil {
		return nil, fmt.Errorf("reading values: %w", err)
	}
	values, err := chartutil.ToRenderValues(c, given, chartutil.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, Revision: 1, IsInstall: true}, nil)
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Render(c, values)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for name, text := range rendered {
		out[strings.TrimPrefix(name, c.Name()+"/templates/")] = text
	}
	return out, nil
}

func read() (out []*loader.BufferedFile, err error) {
	err = fs.WalkDir(files, "chart", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(name)
		out = append(out, &loader.BufferedFile{Name: strings.TrimPrefix(name, "chart/"), Data: bytes.Clone(data)})
		return err
	})
	return out, err
}
