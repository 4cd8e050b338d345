package traffic

import (
	"cmp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var httpRouteResource = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}

// httpRoute is the part of the Gateway API's HTTPRoute that says where requests
// go. Its own Go types are a module that nothing else here needs.
type httpRoute struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		ParentRefs []objectRef     `json:"parentRefs"`
		Hostnames  []string        `json:"hostnames"`
		Rules      []httpRouteRule `json:"rules"`
	} `json:"spec"`
}

type objectRef struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

type httpRouteRule struct {
	Matches []struct {
		Path *struct {
			Type  string `json:"type"`
			Value string `json:"value"`
		} `json:"path"`
		Headers     []any  `json:"headers"`
		QueryParams []any  `json:"queryParams"`
		Method      string `json:"method"`
	} `json:"matches"`
	Filters []struct {
		Type   string `json:"type"`
		Mirror *struct {
			BackendRef objectRef `json:"backendRef"`
			Percent    *int32    `json:"percent"`
		} `json:"requestMirror"`
	} `json:"filters"`
	BackendRefs []struct {
		objectRef `json:",inline"`
		Weight    *int32 `json:"weight"` // nil means 1
	} `json:"backendRefs"`
}

// readHTTPRoutes leaves out what does not read, which the API server's schema
// keeps from being there.
func readHTTPRoutes(objects []runtime.Object) []*httpRoute {
	routes := make([]*httpRoute, 0, len(objects))
	for _, object := range objects {
		var route httpRoute
		if u, ok := object.(*unstructured.Unstructured); ok &&
			runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &route) == nil {
			routes = append(routes, &route)
		}
	}
	return routes
}

// httpRouteOf finds the oldest HTTPRoute for users of a Service, whose parent it
// is, or of another host, whose parent is a gateway.
func (w *world) httpRouteOf(service types.NamespacedName, host string, isService bool) *httpRoute {
	var found []*httpRoute
	for _, route := range w.httpRoutes {
		if slices.ContainsFunc(route.Spec.ParentRefs, func(parent objectRef) bool {
			if isService {
				return parent.Kind == "Service" && parent.in(route.Metadata.Namespace) == service
			}
			return parent.Kind != "Service" && slices.ContainsFunc(route.Spec.Hostnames, func(h string) bool {
				return h == host || strings.HasPrefix(h, "*") && strings.HasSuffix(host, h[1:])
			})
		}) {
			found = append(found, route)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, func(a, b *httpRoute) int {
		return cmp.Or(a.Metadata.CreationTimestamp.Compare(b.Metadata.CreationTimestamp.Time),
			cmp.Compare(a.Metadata.Namespace, b.Metadata.Namespace), cmp.Compare(a.Metadata.Name, b.Metadata.Name))
	})
}

func (r objectRef) in(namespace string) types.NamespacedName {
	return types.NamespacedName{Namespace: cmp.Or(r.Namespace, namespace), Name: r.Name}
}

// matchesPlainRequest is as for a VirtualService.
func (r httpRouteRule) matchesPlainRequest() bool {
	if len(r.Matches) == 0 {
		return true
	}
	for _, m := range r.Matches {
		everyPath := m.Path == nil || m.Path.Value == "/" && (m.Path.Type == "" || m.Path.Type == "PathPrefix")
		if everyPath && len(m.Headers) == 0 && len(m.QueryParams) == 0 && m.Method == "" {
			return true
		}
	}
	return false
}

func (w *world) routeByHTTPRoute(route *httpRoute) []share {
	self := types.NamespacedName{Namespace: route.Metadata.Namespace, Name: route.Metadata.Name}
	i := slices.IndexFunc(route.Spec.Rules, httpRouteRule.matchesPlainRequest)
	if i < 0 {
		return []share{nobody(self, 1, false)}
	}
	rule := route.Spec.Rules[i]
	total := int32(0)
	weight := func(i int) int32 {
		if rule.BackendRefs[i].Weight == nil {
			return 1
		}
		return *rule.BackendRefs[i].Weight
	}
	for i := range rule.BackendRefs {
		total += weight(i)
	}
	if total == 0 {
		return []share{nobody(self, 1, false)}
	}
	var shares []share
	for i, backend := range rule.BackendRefs {
		shares = append(shares, w.sendToBackend(backend.in(self.Namespace), float64(weight(i))/float64(total), false)...)
	}
	for _, filter := range rule.Filters {
		if filter.Mirror == nil {
			continue
		}
		part := 1.0
		if filter.Mirror.Percent != nil {
			part = float64(*filter.Mirror.Percent) / 100
		}
		shares = append(shares, w.sendToBackend(filter.Mirror.BackendRef.in(self.Namespace), part, true)...)
	}
	return shares
}

func (w *world) sendToBackend(service types.NamespacedName, part float64, mirrored bool) []share {
	if part == 0 {
		return nil
	}
	if _, exists := w.services[service]; !exists {
		return []share{nobody(service, part, mirrored)}
	}
	return w.spread(service, nil, part, mirrored)
}
