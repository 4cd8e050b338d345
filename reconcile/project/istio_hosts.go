package project

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/render/objects"
)

// Istio lets one VirtualService decide for a host at a gateway or in the mesh: the oldest, in whichever namespace it is.

// sharesHost names a host that a VirtualService of somebody else routes as the app's own do; empty: none. One that names a host
// more exactly than a wildcard goes before it, so that only equal ones are in each other's way.
func (r *meshRouting) sharesHost(vs *unstructured.Unstructured) string {
	theirs, places := hostsOf(vs), gatewaysOf(vs)
	for _, own := range r.own() {
		if !slices.ContainsFunc(gatewaysOf(own), func(name string) bool { return slices.Contains(places, name) }) {
			continue
		}
		for _, host := range hostsOf(own) {
			if slices.Contains(theirs, host) {
				return host
			}
		}
	}
	return ""
}

// leading are the VirtualServices by which the app's users are led.
func (r *meshRouting) leading() (own list) {
	if r.main == "" {
		return nil
	}
	if r.brought {
		for _, obj := range r.app.serving {
			if objects.GroupKind(obj) == virtualService && r.routesTo(obj) != "" {
				own = append(own, obj)
			}
		}
		return own
	}
	made, err := r.generate()
	if err != nil {
		return nil // it is told where it is generated
	}
	return slices.DeleteFunc(made, func(obj *unstructured.Unstructured) bool { return objects.GroupKind(obj) != virtualService })
}

// delegatesHere reports whether a VirtualService leaves routes to one of the app's own, which shares them.
func (r *meshRouting) delegatesHere(vs *unstructured.Unstructured) bool {
	own := r.own()
	for _, route := range mapsAt(vs.Object, "spec", "http") {
		name, namespace := stringAt(route, "delegate", "name"), stringAt(route, "delegate", "namespace")
		if namespace == "" {
			namespace = vs.GetNamespace()
		}
		if slices.ContainsFunc(own, func(o *unstructured.Unstructured) bool { return o.GetName() == name && o.GetNamespace() == namespace }) {
			return true
		}
	}
	return false
}

// hostsOf are the hosts of a VirtualService. Istio completes a name without a dot by the object's namespace.
func hostsOf(vs *unstructured.Unstructured) []string {
	hosts := textList(vs, "hosts")
	for i, host := range hosts {
		if host != "*" && !strings.Contains(host, ".") {
			hosts[i] = host + "." + vs.GetNamespace() + ".svc.cluster.local"
		}
	}
	return hosts
}

// gatewaysOf are the gateways of a VirtualService by namespace and name; with none it is for the mesh.
func gatewaysOf(vs *unstructured.Unstructured) []string {
	gateways := textList(vs, "gateways")
	if len(gateways) == 0 {
		return []string{mesh}
	}
	for i, name := range gateways {
		if name != mesh && !strings.Contains(name, "/") {
			gateways[i] = vs.GetNamespace() + "/" + name
		}
	}
	return gateways
}

// textList is a list of texts in the spec of an object.
func textList(obj *unstructured.Unstructured, field string) []string {
	all, _, _ := unstructured.NestedStringSlice(obj.Object, "spec", field)
	return all
}
