// Package objects is what Sluice knows of Kubernetes objects as such: what names one, which kinds are special, and whom a
// selector selects. It is pure, and safe for concurrent use as long as nobody changes an object meanwhile.
//
// A field that is absent and a field of another type read alike: what is malformed is the API server's to refuse, not ours.
package objects

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Key names an object whatever its API version.
type Key struct {
	Group, Kind, Namespace, Name string
}

// KeyOf an object.
func KeyOf(o *unstructured.Unstructured) Key {
	gk := GroupKind(o)
	return Key{Group: gk.Group, Kind: gk.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// String is "Deployment production/web", or "ClusterRole web" for what has no namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind + " " + k.Name
	}
	return k.Kind + " " + k.Namespace + "/" + k.Name
}

// GroupKind is the kind of the object.
func (k Key) GroupKind() schema.GroupKind { return schema.GroupKind{Group: k.Group, Kind: k.Kind} }

// GroupKind is o.GroupVersionKind().GroupKind() without parsing errors and without allocating.
func GroupKind(o *unstructured.Unstructured) schema.GroupKind {
	apiVersion, _ := o.Object["apiVersion"].(string)
	kind, _ := o.Object["kind"].(string)
	group, _, found := strings.Cut(apiVersion, "/")
	if !found {
		group = ""
	}
	return schema.GroupKind{Group: group, Kind: kind}
}

// Kinds that are treated unlike others.
var (
	CRD       = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
	Namespace = schema.GroupKind{Kind: "Namespace"}
	Secret    = schema.GroupKind{Kind: "Secret"}
	Service   = schema.GroupKind{Kind: "Service"}
)

// CRDsAnnotation marks what comes from a chart's crds/ folder with what is to become of it. It is never sent to the API server.
const CRDsAnnotation = "sluice.dev/crds"

// Values of CRDsAnnotation. Definitions without one are a template's, and are applied like any object.
const (
	CRDsCreate        = "Create"
	CRDsCreateReplace = "CreateReplace"
)

// MarkCRD says what is to become of an object, where that is a definition.
func MarkCRD(o *unstructured.Unstructured, value string) {
	if GroupKind(o) != CRD {
		return
	}
	annotations := o.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[CRDsAnnotation] = value
	o.SetAnnotations(annotations)
}

// Unmarked is an object without what MarkCRD has said of it, as the API server gets it.
func Unmarked(o *unstructured.Unstructured) *unstructured.Unstructured {
	annotations := o.GetAnnotations()
	if _, marked := annotations[CRDsAnnotation]; !marked {
		return o
	}
	delete(annotations, CRDsAnnotation) // it is a copy
	o = o.DeepCopy()
	if o.SetAnnotations(annotations); len(annotations) == 0 {
		o.SetAnnotations(nil)
	}
	return o
}

// traits are what is said of a kind.
type traits struct {
	// workload: it runs pods that a track waits for.
	workload bool
	// irreplaceable: its deletion takes with it what no git repository can bring back.
	irreplaceable bool
}

var kinds = map[schema.GroupKind]traits{
	{Group: "apps", Kind: "Deployment"}:  {workload: true},
	{Group: "apps", Kind: "StatefulSet"}: {workload: true},
	{Group: "apps", Kind: "DaemonSet"}:   {workload: true},
	CRD:                                  {irreplaceable: true},
	Namespace:                            {irreplaceable: true},
	{Kind: "PersistentVolume"}:           {irreplaceable: true},
	{Kind: "PersistentVolumeClaim"}:      {irreplaceable: true},
}

// Workload reports whether objects of a kind run pods that a track waits for.
func Workload(gk schema.GroupKind) bool { return kinds[gk].workload }

// Irreplaceable reports whether the deletion of an object of a kind would take with it what no git repository can bring
// back.
func Irreplaceable(gk schema.GroupKind) bool { return kinds[gk].irreplaceable }

// PodLabels are the labels of the pods that a workload makes.
func PodLabels(workload *unstructured.Unstructured) labels.Set {
	values, _, _ := unstructured.NestedFieldNoCopy(workload.Object, "spec", "template", "metadata", "labels")
	m, _ := values.(map[string]any)
	if m == nil {
		return nil
	}
	set := make(labels.Set, len(m))
	for k, v := range m {
		if s, ok := v.(string); ok {
			set[k] = s
		}
	}
	return set
}

// PodSelector is the metav1.LabelSelector of a workload, which older API versions derive from the pods' labels. It is
// shared with the workload where it is there.
func PodSelector(workload *unstructured.Unstructured) map[string]any {
	said, _, _ := unstructured.NestedFieldNoCopy(workload.Object, "spec", "selector")
	if selector, _ := said.(map[string]any); selector != nil {
		return selector
	}
	match := map[string]any{}
	for k, v := range PodLabels(workload) {
		match[k] = v
	}
	return map[string]any{"matchLabels": match}
}

// Selector reads a metav1.LabelSelector; nil selects nothing, an empty one everything.
func Selector(m map[string]any) (labels.Selector, error) {
	if m == nil {
		return labels.Nothing(), nil
	}
	var selector metav1.LabelSelector
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(m, &selector); err != nil {
		return nil, err
	}
	return metav1.LabelSelectorAsSelector(&selector)
}
