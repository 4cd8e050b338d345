package project

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/render/objects"
)

// Unmade are the Secrets without which pods of a release do not start, and that no object of it is or names: nothing that is
// applied would make them.
func Unmade(objs []*unstructured.Unstructured) (needed []objects.Key) {
	release := applied(objs)
	for _, obj := range release {
		for _, ref := range configOf(objects.PodSpec(obj)) {
			k := objects.Key{Kind: ref.kind, Namespace: obj.GetNamespace(), Name: ref.name()}
			if k.Kind != "Secret" || ref.pull || ref.holder["optional"] == true || slices.Contains(needed, k) {
				continue
			}
			if !slices.ContainsFunc(release, func(o *unstructured.Unstructured) bool { return makes(o, k.Name) }) {
				needed = append(needed, k)
			}
		}
	}
	return needed
}

// makes reports whether an object that runs no pods may make a Secret, as a Certificate does: it has its name, or says it somewhere.
func makes(obj *unstructured.Unstructured, name string) bool {
	return objects.PodSpec(obj) == nil && says(obj.Object, name)
}

func says(v any, text string) bool {
	switch v := v.(type) {
	case string:
		return v == text
	case map[string]any:
		for _, e := range v {
			if says(e, text) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return says(e, text) })
	}
	return false
}
