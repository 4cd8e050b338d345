package cluster

import (
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/render/manifest"
	"github.com/sluice-cd/sluice/render/objects"
	rendered "github.com/sluice-cd/sluice/render/release"
)

// manifestOf is the text to keep of a release: the chart's own, unless API versions in it were brought up to
// date. Then it is written from the objects, for what helm get manifest shows must be what was applied.
func manifestOf(rel *rendered.Release) (string, error) {
	said, err := manifest.Parse(rel.Manifest)
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
			return "", fmt.Errorf("encoding %s: %w", objects.KeyOf(o), err)
		}
		text.WriteString("---\n")
		text.Write(b)
	}
	return text.String(), nil
}

// recordObjects are the objects of a Helm record in the order in which they are applied: those of crds/, then
// the manifest's in Helm's order.
func recordObjects(record *release.Release, namespaced func(schema.GroupVersionKind) (bool, bool)) ([]*unstructured.Unstructured, error) {
	objs, err := manifest.Parse(record.Manifest)
	if err != nil {
		return nil, fmt.Errorf("parsing the manifest: %w", err)
	}
	slices.SortStableFunc(objs, func(a, b *unstructured.Unstructured) int { return manifest.Order(a) - manifest.Order(b) })
	if record.Chart != nil {
		for _, crd := range slices.Backward(record.Chart.CRDObjects()) {
			more, err := manifest.Parse(string(crd.File.Data))
			if err != nil {
				return nil, fmt.Errorf("parsing %s: %w", crd.Filename, err)
			}
			for _, o := range more {
				objects.MarkCRD(o, objects.CRDsCreate) // a record is no reason to change one
			}
			objs = append(more, objs...)
		}
	}
	for _, o := range objs {
		if ns, known := namespaced(o.GroupVersionKind()); (ns || !known) && o.GetNamespace() == "" && o.GroupVersionKind().GroupKind() != objects.CRD {
			o.SetNamespace(record.Namespace)
		}
	}
	return objs, nil
}
