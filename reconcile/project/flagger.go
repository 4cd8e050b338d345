package project

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/render/objects"
)

// flaggerGroup are the kinds of Flagger's, which are policy: Canary, MetricTemplate, AlertProvider.
const flaggerGroup = "flagger.app"

func isFlaggerCanary(obj *unstructured.Unstructured) bool {
	return objects.GroupKind(obj) == schema.GroupKind{Group: flaggerGroup, Kind: "Canary"}
}

// Applied leaves out what is never applied: Flagger's objects, which are read or passed over, and nil. A cluster need not have
// their definitions.
func Applied(objs []*unstructured.Unstructured) []*unstructured.Unstructured { return applied(objs) }

func applied(objs []*unstructured.Unstructured) list {
	kept := make(list, 0, len(objs))
	for _, obj := range objs {
		if obj != nil && objects.GroupKind(obj).Group != flaggerGroup {
			kept = append(kept, obj)
		}
	}
	return kept
}

// MetricTemplates returns those of a release, as copies.
func MetricTemplates(objs []*unstructured.Unstructured) (found []map[string]any) {
	for _, obj := range objs {
		if obj != nil && objects.GroupKind(obj) == (schema.GroupKind{Group: flaggerGroup, Kind: "MetricTemplate"}) {
			found = append(found, copyMap(obj.Object))
		}
	}
	return found
}

// FindCanary returns the Flagger Canary object of a release, as a copy, or nil when it has none. Several are an error:
// one app has one policy.
func FindCanary(objs []*unstructured.Unstructured) (map[string]any, error) {
	var found *unstructured.Unstructured
	for _, obj := range objs {
		switch {
		case obj == nil || !isFlaggerCanary(obj):
		case found == nil:
			found = obj
		case canaryTarget(found) == canaryTarget(obj):
			return nil, fmt.Errorf("%s and %s both target %s, expected one Canary object",
				describe(found), describe(obj), canaryTarget(obj))
		default:
			return nil, fmt.Errorf("%s targets %s and %s targets %s, expected one Canary object for the app",
				describe(found), canaryTarget(found), describe(obj), canaryTarget(obj))
		}
	}
	if found == nil {
		return nil, nil
	}
	return copyMap(found.Object), nil
}

// canaryTarget names what a Flagger Canary object is about.
func canaryTarget(canary *unstructured.Unstructured) string {
	return stringAt(canary.Object, "spec", "targetRef", "kind") + " " + stringAt(canary.Object, "spec", "targetRef", "name")
}
