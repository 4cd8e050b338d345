package project

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/render/objects"
)

// untracked are the annotations that take a ConfigMap or Secret out of releases: with the value "disabled" a change
// of it is no new release, and the canary reads the stable one.
var untracked = []string{"flagger.app/config-tracking", "sluice.dev/config-tracking"}

func isTracked(obj *unstructured.Unstructured) bool {
	annotations := mapAt(obj.Object, "metadata", "annotations")
	for _, name := range untracked {
		if annotations[name] == "disabled" {
			return false
		}
	}
	return true
}

func isConfig(obj *unstructured.Unstructured) bool {
	gk := objects.GroupKind(obj)
	return gk.Group == "" && (gk.Kind == "ConfigMap" || gk.Kind == "Secret")
}

// reference is where a pod spec names a ConfigMap or a Secret: holder[field] is the name.
type reference struct {
	kind   string
	holder map[string]any
	field  string
	// pull: the kubelet uses it to fetch images; the containers never see it.
	pull bool
}

func (r reference) name() string { return stringAt(r.holder, r.field) }

// configOf lists the ConfigMaps and Secrets that a pod spec names, in the order of the spec.
func configOf(pod map[string]any) []reference {
	var refs []reference
	add := func(kind string, holder map[string]any, field string) {
		if stringAt(holder, field) != "" {
			refs = append(refs, reference{kind: kind, holder: holder, field: field})
		}
	}
	for _, volume := range mapsAt(pod, "volumes") {
		add("ConfigMap", mapAt(volume, "configMap"), "name")
		add("Secret", mapAt(volume, "secret"), "secretName")
		add("Secret", mapAt(volume, "csi", "nodePublishSecretRef"), "name")
		for _, source := range mapsAt(volume, "projected", "sources") {
			add("ConfigMap", mapAt(source, "configMap"), "name")
			add("Secret", mapAt(source, "secret"), "name")
		}
	}
	for _, list := range []string{"initContainers", "containers", "ephemeralContainers"} {
		for _, container := range mapsAt(pod, list) {
			for _, from := range mapsAt(container, "envFrom") {
				add("ConfigMap", mapAt(from, "configMapRef"), "name")
				add("Secret", mapAt(from, "secretRef"), "name")
			}
			for _, env := range mapsAt(container, "env") {
				add("ConfigMap", mapAt(env, "valueFrom", "configMapKeyRef"), "name")
				add("Secret", mapAt(env, "valueFrom", "secretKeyRef"), "name")
			}
		}
	}
	for _, secret := range mapsAt(pod, "imagePullSecrets") {
		if stringAt(secret, "name") != "" {
			refs = append(refs, reference{kind: "Secret", holder: secret, field: "name", pull: true})
		}
	}
	return refs
}

// Uses reports whether pods of a spec have a ConfigMap or a Secret.
func Uses(pod map[string]any, kind, name string) bool {
	return slices.ContainsFunc(configOf(pod), func(r reference) bool { return r.kind == kind && r.name() == name && !r.pull })
}

// podSpec is the spec of the pods that a workload makes.
func podSpec(workload *unstructured.Unstructured) map[string]any {
	return mapAt(workload.Object, "spec", "template", "spec")
}

// copied reports whether the canary gets a copy of the config object: it is of its release and its pods use it. One
// that is taken out of releases is shared with the stable track, unless that does not have it yet.
func (a *app) copied(kind, name string) bool {
	k := objects.Key{Kind: kind, Namespace: a.workload.GetNamespace(), Name: name}
	obj := a.coming.find(k)
	return obj != nil && (isTracked(obj) || a.stable.find(k) == nil)
}

// pointToCopies makes a canary's pod spec name the copies of the config that it uses.
func (a *app) pointToCopies(pod map[string]any) {
	for _, ref := range configOf(pod) {
		if name := ref.name(); a.copied(ref.kind, name) {
			ref.holder[ref.field] = canaryName(name)
		}
	}
}

// usesConfig reports whether the canary's pods use obj, a ConfigMap or Secret.
func (a *app) usesConfig(obj *unstructured.Unstructured) bool {
	if !sameNamespace(obj, a.workload) {
		return false
	}
	return slices.ContainsFunc(configOf(podSpec(a.workload)), func(r reference) bool {
		return r.kind == obj.GetKind() && r.name() == obj.GetName()
	})
}
