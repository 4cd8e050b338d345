package render

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// builtin lists the groups that Kubernetes itself serves, each with its kinds that live in no namespace.
var builtin = map[string][]string{
	"":                             {"Namespace", "Node", "PersistentVolume", "ComponentStatus"},
	"admissionregistration.k8s.io": {"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"},
	"apiextensions.k8s.io":         {"CustomResourceDefinition"},
	"apiregistration.k8s.io":       {"APIService"},
	"apps":                         nil,
	"autoscaling":                  nil,
	"batch":                        nil,
	"certificates.k8s.io":          {"CertificateSigningRequest", "ClusterTrustBundle"},
	"coordination.k8s.io":          nil,
	"discovery.k8s.io":             nil,
	"events.k8s.io":                nil,
	"extensions":                   {"PodSecurityPolicy"},
	"flowcontrol.apiserver.k8s.io": {"FlowSchema", "PriorityLevelConfiguration"},
	"networking.k8s.io":            {"IngressClass", "IPAddress", "ServiceCIDR"},
	"node.k8s.io":                  {"RuntimeClass"},
	"policy":                       {"PodSecurityPolicy"},
	"rbac.authorization.k8s.io":    {"ClusterRole", "ClusterRoleBinding"},
	"resource.k8s.io":              {"DeviceClass", "ResourceSlice", "DeviceTaintRule"},
	"scheduling.k8s.io":            {"PriorityClass"},
	"storage.k8s.io":               {"StorageClass", "VolumeAttachment", "CSIDriver", "CSINode", "VolumeAttributesClass"},
}

// wellKnown are kinds of common extensions that live in no namespace, for when the cluster does not say.
var wellKnown = []schema.GroupKind{
	{Group: "cert-manager.io", Kind: "ClusterIssuer"},
	{Group: "external-secrets.io", Kind: "ClusterSecretStore"},
	{Group: "external-secrets.io", Kind: "ClusterExternalSecret"},
	{Group: "gateway.networking.k8s.io", Kind: "GatewayClass"},
	{Group: "kyverno.io", Kind: "ClusterPolicy"},
	{Group: "snapshot.storage.k8s.io", Kind: "VolumeSnapshotClass"},
	{Group: "snapshot.storage.k8s.io", Kind: "VolumeSnapshotContent"},
}

// scopes knows which kinds live in a namespace.
type scopes struct {
	crds    map[schema.GroupKind]bool // of the release itself: namespaced
	cluster func(schema.GroupVersionKind) (namespaced, known bool)
	guessed []schema.GroupVersionKind
}

func newScopes(objects []located, cluster func(schema.GroupVersionKind) (bool, bool)) *scopes {
	s := &scopes{crds: map[schema.GroupKind]bool{}, cluster: cluster}
	for _, o := range objects {
		if o.obj.GetKind() != "CustomResourceDefinition" {
			continue
		}
		group, _, _ := unstructured.NestedString(o.obj.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(o.obj.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(o.obj.Object, "spec", "scope")
		s.crds[schema.GroupKind{Group: group, Kind: kind}] = scope != "Cluster"
	}
	return s
}

// place gives namespaced objects the release's namespace where they name none, and takes the namespace from the
// others, as the API server would. It returns the kinds that nobody knew.
func (s *scopes) place(objects []located, namespace string) []schema.GroupVersionKind {
	for _, o := range objects {
		switch {
		case !s.namespaced(o.obj.GroupVersionKind()):
			unstructured.RemoveNestedField(o.obj.Object, "metadata", "namespace")
		case o.obj.GetNamespace() == "":
			o.obj.SetNamespace(namespace)
		}
	}
	return s.guessed
}

func (s *scopes) namespaced(gvk schema.GroupVersionKind) bool {
	if clusterScoped, ok := builtin[gvk.Group]; ok {
		return !slices.Contains(clusterScoped, gvk.Kind)
	}
	if namespaced, ok := s.crds[gvk.GroupKind()]; ok {
		return namespaced
	}
	if s.cluster != nil {
		if namespaced, known := s.cluster(gvk); known {
			return namespaced
		}
	}
	if slices.Contains(wellKnown, gvk.GroupKind()) {
		return false
	}
	if !slices.Contains(s.guessed, gvk) {
		s.guessed = append(s.guessed, gvk)
	}
	return true
}
