package project

import (
	"cmp"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/render/objects"
)

// objects of one release, in its order.
type list []*unstructured.Unstructured

// describe names an object for errors and warnings.
func describe(obj *unstructured.Unstructured) string {
	return obj.GetKind() + " " + obj.GetName()
}

// find returns the object of that identity, or nil.
func (o list) find(k objects.Key) *unstructured.Unstructured {
	for _, obj := range o {
		if objects.KeyOf(obj) == k {
			return obj
		}
	}
	return nil
}

// isWorkload reports whether obj runs pods that a track waits for.
func isWorkload(obj *unstructured.Unstructured) bool { return objects.Workload(objects.GroupKind(obj)) }

func isService(obj *unstructured.Unstructured) bool { return objects.GroupKind(obj) == objects.Service }

// sameNamespace reports whether two objects may be in one namespace; one without a namespace goes where the other is.
func sameNamespace(a, b *unstructured.Unstructured) bool {
	x, y := a.GetNamespace(), b.GetNamespace()
	return x == y || x == "" || y == ""
}

// FindTarget returns the workload that a canary would be made of: the one that target names or, where it names none,
// the release's only Deployment. It is nil without an error when the release has no workload and target names none;
// then there is nothing to put a canary beside.
//
// It is an error when the named workload is not there, when several Deployments might be meant, and when it is a
// StatefulSet or a DaemonSet: those are not supported as canaries yet, and their app needs the strategy Rolling.
func FindTarget(objs []*unstructured.Unstructured, target environments.Target) (*unstructured.Unstructured, error) {
	var found, others []*unstructured.Unstructured
	for _, obj := range objs {
		switch {
		case obj == nil || !isWorkload(obj), target.Name != "" && !names(target, obj):
		case obj.GetKind() == "Deployment":
			found = append(found, obj)
		default:
			others = append(others, obj)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%d Deployments (%s) and no target: name one in targetRef", len(found), listNames(found))
	case len(others) > 0:
		return nil, fmt.Errorf("%s: a canary of a %s is not supported yet, expected a Deployment or the strategy Rolling",
			describe(others[0]), others[0].GetKind())
	case target.Name != "":
		return nil, fmt.Errorf("targetRef names %s %s, which is not a workload of the release", targetKind(target), target.Name)
	default:
		return nil, nil
	}
}

// names reports whether target means the workload obj. A target without a kind, or an API version, means any workload of that name.
func names(target environments.Target, obj *unstructured.Unstructured) bool {
	return target.Name == obj.GetName() && (target.Kind == "" || target.Kind == obj.GetKind()) &&
		(target.APIVersion == "" || sameGroup(target.APIVersion, obj.GetAPIVersion()))
}

// sameGroup compares API versions but for the version, in which an object may be written otherwise than somebody names it. What is in apps
// now was in extensions before.
func sameGroup(x, y string) bool {
	group := func(apiVersion string) string {
		gv, err := schema.ParseGroupVersion(apiVersion)
		if err != nil {
			return apiVersion // no object's
		}
		if gv.Group == "extensions" {
			return "apps"
		}
		return gv.Group
	}
	return group(x) == group(y)
}

// targetKind is a target's kind for people.
func targetKind(target environments.Target) string {
	return strings.TrimSpace(target.APIVersion + " " + cmp.Or(target.Kind, "workload"))
}

func listNames(objs []*unstructured.Unstructured) string {
	names := make([]string, len(objs))
	for i, obj := range objs {
		names[i] = obj.GetName()
	}
	return strings.Join(names, ", ")
}
