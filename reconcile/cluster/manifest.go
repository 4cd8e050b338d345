package cluster

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	rendered "github.com/sluice-cd/sluice/render/release"
)

// manifestOf is the text to keep of a release: the chart's own, unless API versions in it were brought up to
// date. Then it is written from the objects, for what helm get manifest shows must be what was applied.
func manifestOf(rel *rendered.Release) (string, error) {
	said, err := parseManifest(rel.Manifest)
	if err != nil {
		return "", fmt.Errorf("parsing the manifest: %w", err)
	}
	applied := map[string]bool{}
	for _, o := range rel.Objects {
		applied[o.GetAPIVersion()+" "+o.GetKind()+" "+o.GetName()] = true
	}
	current := true
	names := map[string]bool{}
	for _, o := range said {
		current = current && applied[o.GetAPIVersion()+" "+o.GetKind()+" "+o.GetName()]
		names[o.GetKind()+" "+o.GetName()] = true
	}
	if current {
		return rel.Manifest, nil
	}
	var text strings.Builder
	for _, o := range rel.Objects {
		// What only crds/ has is no part of a manifest.
		if !names[o.GetKind()+" "+o.GetName()] {
			continue
		}
		b, err := yaml.Marshal(o.Object)
		if err != nil {
			return "", fmt.Errorf("encoding %s: %w", keyOf(o), err)
		}
		text.WriteString("---\n")
		text.Write(b)
	}
	return text.String(), nil
}

// recordObjects are the objects of a Helm record in the order in which they are applied: those of crds/, then
// the manifest's in Helm's order.
func recordObjects(record *release.Release, namespaced func(schema.GroupVersionKind) (bool, bool)) ([]*unstructured.Unstructured, error) {
	objs, err := parseManifest(record.Manifest)
	if err != nil {
		return nil, fmt.Errorf("parsing the manifest: %w", err)
	}
	slices.SortStableFunc(objs, func(a, b *unstructured.Unstructured) int { return installOrder(a) - installOrder(b) })
	if record.Chart != nil {
		for _, crd := range slices.Backward(record.Chart.CRDObjects()) {
			more, err := parseManifest(string(crd.File.Data))
			if err != nil {
				return nil, fmt.Errorf("parsing %s: %w", crd.Filename, err)
			}
			objs = append(more, objs...)
		}
	}
	for _, o := range objs {
		if ns, known := namespaced(o.GroupVersionKind()); (ns || !known) && o.GetNamespace() == "" && o.GroupVersionKind().GroupKind() != crdKind {
			o.SetNamespace(record.Namespace)
		}
	}
	return objs, nil
}

func installOrder(o *unstructured.Unstructured) int {
	if o.GroupVersionKind().GroupKind() == crdKind {
		return -1
	}
	return orderOf(o.GetKind())
}

// orderOf a kind in Helm's order of installation.
func orderOf(kind string) int {
	if i := slices.Index(releaseutil.InstallOrder, kind); i >= 0 {
		return i
	}
	return len(releaseutil.InstallOrder)
}

// parseManifest decodes the objects of a text of YAML documents; Lists give their items.
func parseManifest(text string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	reader := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		objs, err := parseDocument(doc)
		if err != nil {
			return nil, err
		}
		out = append(out, objs...)
	}
}

func parseDocument(doc []byte) ([]*unstructured.Unstructured, error) {
	data, err := yaml.YAMLToJSON(doc)
	if err != nil {
		return nil, fmt.Errorf("decoding YAML: %w", err)
	}
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return nil, nil
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("decoding an object: %w", err)
	}
	if !o.IsList() {
		return []*unstructured.Unstructured{o}, nil
	}
	list, err := o.ToList()
	if err != nil {
		return nil, fmt.Errorf("decoding a list: %w", err)
	}
	var out []*unstructured.Unstructured
	for i := range list.Items {
		item := &list.Items[i]
		// The items of a typed list, such as a RoleList, may leave out their type.
		if kind, typed := strings.CutSuffix(o.GetKind(), "List"); typed && kind != "" && item.GetKind() == "" {
			item.SetAPIVersion(o.GetAPIVersion())
			item.SetKind(kind)
		}
		if item.GetKind() == "" {
			return nil, fmt.Errorf("item %d of a list has no kind", i)
		}
		out = append(out, item)
	}
	return out, nil
}
