package project

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/render/objects"
)

// flaggerGroup are the kinds of Flagger's, which are policy: Canary, MetricTemplate, AlertProvider.
const flaggerGroup = "flagger.app"

// FlaggerCanary is the kind of the objects by which Flagger steers workloads.
var FlaggerCanary = schema.GroupKind{Group: flaggerGroup, Kind: "Canary"}

func isFlaggerCanary(obj *unstructured.Unstructured) bool {
	return objects.GroupKind(obj) == FlaggerCanary
}

// FlaggerPrimary is the name of the copy that serves in a workload's place while Flagger steers it, and is left when it no longer does.
func FlaggerPrimary(workload string) string { return workload + "-primary" }

// Steered says which workload of a release Flagger steers by one of the live objects, and what to do; empty: none. Two who steer one
// workload undo each other's work: Flagger scales it to zero, and has its Services and its users led to a copy.
func Steered(objs, live []*unstructured.Unstructured) string {
	for _, canary := range live {
		if !isFlaggerCanary(canary) {
			continue
		}
		for _, obj := range applied(objs) {
			if isWorkload(obj) && sameNamespace(obj, canary) && canaryTarget(canary) == obj.GetKind()+" "+obj.GetName() {
				return fmt.Sprintf("Flagger steers %s by Canary %s/%s; expected that it has let go: %s, see \"Coming from Flagger\" in docs/flagger.md",
					describe(obj), canary.GetNamespace(), canary.GetName(), letGo(canary))
			}
		}
	}
	return ""
}

// ScalesCopy says which scaler of a release is for the copy that Flagger serves from, and what to do; empty: none. Taken over, the app
// serves from the workload itself, with as many pods as the chart says and nobody to size it.
func ScalesCopy(objs []*unstructured.Unstructured) string {
	release := applied(objs)
	for _, obj := range release {
		s, ok := scalerOf(objects.GroupKind(obj))
		if !ok || !s.replicas {
			continue
		}
		for _, workload := range release.workloads() {
			primary := copyOf(workload)
			primary.SetName(FlaggerPrimary(workload.GetName()))
			if s.scales(obj, primary) && release.find(objects.KeyOf(primary)) == nil {
				return fmt.Sprintf("%s scales %s %s, the copy that Flagger serves from: without Flagger nothing would size %s; "+
					"expected %[4]s in its %[5]s", describe(obj), primary.GetKind(), primary.GetName(), workload.GetName(), strings.Join(s.path, "."))
			}
		}
	}
	return ""
}

// letGo is what to do about a live Canary. Only at rest does the copy that serves have what was asked for last.
func letGo(canary *unstructured.Unstructured) string {
	switch phase := stringAt(canary.Object, "status", "phase"); phase {
	case "Initialized", "Succeeded":
		return fmt.Sprintf("kubectl -n %s delete canary %s --cascade=orphan, since without --cascade=orphan what serves goes too",
			canary.GetNamespace(), canary.GetName())
	default:
		return fmt.Sprintf("its phase is %q, in which %s may serve another release than was asked for last; wait until it is Succeeded, or put "+
			"back in git what serves", phase, FlaggerPrimary(stringAt(canary.Object, "spec", "targetRef", "name")))
	}
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
