package project

import (
	"encoding/base64"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// Compare says how far two releases are apart.
//
//	Pods    a Deployment, StatefulSet or DaemonSet is added, removed or has another pod template, or a ConfigMap or
//	        Secret of the release that such pods use is added, removed or has other data
//	Plain   anything else differs: replicas, autoscalers, Services, labels and annotations of the objects themselves,
//	        Jobs and CronJobs, config that no such pod uses or that is annotated flagger.app/config-tracking or
//	        sluice.dev/config-tracking: disabled, the Flagger Canary object
//	None    the objects are equal, in whatever order
//
// Pod templates are compared by meaning (1000m is 1, an empty list is none), but every field counts, labels such as
// helm.sh/chart too: the API server would replace the pods. Nothing of a Secret's content is kept or printed.
func Compare(from, to []*unstructured.Unstructured) rollout.Change {
	a, b := index(from), index(to)
	change := rollout.ChangeNone
	if len(a) != len(b) {
		change = rollout.ChangePlain
	}
	for k, old := range a {
		if obj, ok := b[k]; !ok || !equalObjects(old, obj) {
			change = rollout.ChangePlain
			break
		}
	}
	if change != rollout.ChangeNone && podsDiffer(a, b) {
		return rollout.ChangePods
	}
	return change
}

func index(objs []*unstructured.Unstructured) map[objects.Key]*unstructured.Unstructured {
	m := make(map[objects.Key]*unstructured.Unstructured, len(objs))
	for _, obj := range objs {
		if obj != nil {
			m[objects.KeyOf(obj)] = obj
		}
	}
	return m
}

func podsDiffer(a, b map[objects.Key]*unstructured.Unstructured) bool {
	for k, old := range a {
		if isWorkload(old) && (b[k] == nil || !equalTemplates(old, b[k])) {
			return true
		}
	}
	for k, obj := range b {
		if isWorkload(obj) && a[k] == nil {
			return true
		}
	}
	// The templates are equal here, so both releases' pods use the same config.
	for _, workload := range b {
		if !isWorkload(workload) {
			continue
		}
		for _, ref := range configOf(podSpec(workload)) {
			k := objects.Key{Kind: ref.kind, Namespace: workload.GetNamespace(), Name: ref.name()}
			if !ref.pull && configDiffers(a[k], b[k]) {
				return true
			}
		}
	}
	return false
}

// equalTemplates compares the pod templates of two workloads by meaning. Fields that this version of Kubernetes' types
// does not know are compared as they are.
func equalTemplates(x, y *unstructured.Unstructured) bool {
	a, b := mapAt(x.Object, "spec", "template"), mapAt(y.Object, "spec", "template")
	if reflect.DeepEqual(a, b) {
		return true
	}
	var s, t corev1.PodTemplateSpec
	const strict = true
	if runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(a, &s, strict) != nil ||
		runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(b, &t, strict) != nil {
		return false
	}
	return equality.Semantic.DeepEqual(s, t)
}

// configDiffers compares the data of a ConfigMap or Secret in two releases; nil is one that the release does not have.
// An object that is taken out of releases never differs.
func configDiffers(a, b *unstructured.Unstructured) bool {
	for _, obj := range []*unstructured.Unstructured{a, b} {
		if obj != nil && !isTracked(obj) {
			return false
		}
	}
	if a == nil || b == nil {
		return a != b
	}
	return !reflect.DeepEqual(dataOf(a), dataOf(b))
}

// dataOf returns what pods see of a ConfigMap or Secret: a Secret's stringData over its decoded data.
func dataOf(obj *unstructured.Unstructured) map[string]string {
	data := map[string]string{}
	for k, v := range textsAt(obj.Object, "data") {
		if obj.GetKind() == "Secret" {
			v = decoded(v)
		}
		data[k] = v
	}
	for k, v := range textsAt(obj.Object, "binaryData") {
		data[k] = decoded(v)
	}
	for k, v := range textsAt(obj.Object, "stringData") {
		data[k] = v
	}
	return data
}

// decoded returns the bytes that a base64 text stands for, or the text itself when it is not base64.
func decoded(text string) string {
	if b, err := base64.StdEncoding.DecodeString(text); err == nil {
		return string(b)
	}
	return text
}

func equalObjects(a, b *unstructured.Unstructured) bool { return equalValues(a.Object, b.Object) }

func equalValues(a, b any) bool { return reflect.DeepEqual(a, b) }
