package traffic

import (
	"cmp"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	istio "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// meshGateway is the name by which a VirtualService means clients in the mesh.
const meshGateway = "mesh"

// world is what routing depends on, read at one moment.
type world struct {
	worldRoutes
	services         map[types.NamespacedName]*corev1.Service
	slices           map[types.NamespacedName][]*discovery.EndpointSlice // by service
	pods             map[types.NamespacedName]*corev1.Pod
	replicaSetOwners map[types.NamespacedName]string // name of the Deployment of each ReplicaSet
	table            *behaviour.Table
}

// worldRoutes are the routing objects of Istio and of the Gateway API.
type worldRoutes struct {
	virtualServices  []*istio.VirtualService
	destinationRules []*istio.DestinationRule
	httpRoutes       []*httpRoute
}

// group is a set of pods that behave alike and report as one series. All its
// fields are comparable: it is the key of counters.
type group struct {
	namespace string // of the workload
	workload  string // "" stands for nobody: requests that no pod gets
	version   string // label "version"
	service   string // that the request was sent on to
	serviceNS string
	behaviour behaviour.Behaviour
}

// share is the part of an app's requests that a group gets. Mirrored requests
// come on top: users do not see their answers.
type share struct {
	group    group
	part     float64
	mirrored bool
}

// route divides the requests that users in a namespace send to a host among
// groups of pods. The parts of the shares that are not mirrored sum up to 1;
// what no pod gets is the share of the group without workload. The order is
// fixed. host is the name of a Service, short or long, or another host that a
// VirtualService or an HTTPRoute names; a VirtualService goes before an HTTPRoute.
//
// Of a VirtualService the first http route counts that a plain request matches:
// one without match, or with only a prefix of "/". Faults, rewrites, delegates
// and everything else that does not say where requests go is ignored.
func (w *world) route(namespace, host string) []share {
	service, isService := w.serviceOf(host, namespace)
	if vs := w.virtualServiceOf(namespace, host, isService); vs != nil {
		return normalized(w.routeBy(vs))
	}
	route := w.httpRouteOf(service, host, isService)
	switch {
	case route != nil:
		return normalized(w.routeByHTTPRoute(route))
	case isService:
		return normalized(w.spread(service, nil, 1, false))
	default:
		return []share{nobody(types.NamespacedName{Namespace: namespace, Name: host}, 1, false)}
	}
}

// serviceOf resolves a host, as a VirtualService of a namespace means it.
func (w *world) serviceOf(host, namespace string) (types.NamespacedName, bool) {
	name := resolve(host, namespace)
	_, exists := w.services[name]
	return name, exists
}

// resolve reads web, web.shop, web.shop.svc and web.shop.svc.cluster.local.
func resolve(host, namespace string) types.NamespacedName {
	host = strings.TrimSuffix(strings.TrimSuffix(host, ".cluster.local"), ".svc")
	if name, ns, ok := strings.Cut(host, "."); ok {
		return types.NamespacedName{Namespace: ns, Name: name}
	}
	return types.NamespacedName{Namespace: namespace, Name: host}
}

// virtualServiceOf finds the oldest VirtualService for the host, as Istio does.
// Users of a Service are in the mesh, those of any other host come by a gateway.
func (w *world) virtualServiceOf(namespace, host string, isService bool) *istio.VirtualService {
	var found []*istio.VirtualService
	for _, vs := range w.virtualServices {
		if appliesTo(vs, isService) && slices.ContainsFunc(vs.Spec.Hosts, func(h string) bool {
			if isService {
				return resolve(h, vs.Namespace) == resolve(host, namespace)
			}
			return h == host || strings.HasPrefix(h, "*") && strings.HasSuffix(host, h[1:])
		}) {
			found = append(found, vs)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, func(a, b *istio.VirtualService) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
}

func appliesTo(vs *istio.VirtualService, inMesh bool) bool {
	if len(vs.Spec.Gateways) == 0 || slices.Contains(vs.Spec.Gateways, meshGateway) {
		return true
	}
	return !inMesh
}

func (w *world) routeBy(vs *istio.VirtualService) []share {
	i := slices.IndexFunc(vs.Spec.Http, matchesPlainRequest)
	if i < 0 {
		return []share{nobody(types.NamespacedName{Namespace: vs.Namespace, Name: vs.Name}, 1, false)}
	}
	route := vs.Spec.Http[i]
	total := int32(0)
	for _, to := range route.Route {
		total += to.Weight
	}
	var shares []share
	for _, to := range route.Route {
		part := float64(to.Weight) / float64(max(total, 1))
		if total == 0 && len(route.Route) == 1 { // Istio's reading of a weight left out
			part = 1
		}
		shares = append(shares, w.send(vs, to.Destination, part, false)...)
	}
	if route.Mirror != nil {
		part := 1.0
		if route.MirrorPercentage != nil {
			part = route.MirrorPercentage.Value / 100
		}
		shares = append(shares, w.send(vs, route.Mirror, part, true)...)
	}
	return shares
}

func matchesPlainRequest(route *networking.HTTPRoute) bool {
	if len(route.Match) == 0 {
		return true
	}
	return slices.ContainsFunc(route.Match, func(m *networking.HTTPMatchRequest) bool {
		return (m.Uri == nil || m.Uri.GetPrefix() == "/") &&
			len(m.Headers) == 0 && len(m.QueryParams) == 0 && len(m.SourceLabels) == 0 &&
			m.Method == nil && m.SourceNamespace == ""
	})
}

// send spreads a part over a destination of a VirtualService.
func (w *world) send(vs *istio.VirtualService, to *networking.Destination, part float64, mirrored bool) []share {
	if part == 0 || to == nil {
		return nil
	}
	service, exists := w.serviceOf(to.Host, vs.Namespace)
	if !exists {
		return []share{nobody(service, part, mirrored)}
	}
	var subset labels.Selector
	if to.Subset != "" {
		if subset = w.subset(service, to.Subset); subset == nil {
			return []share{nobody(service, part, mirrored)}
		}
	}
	return w.spread(service, subset, part, mirrored)
}

// subset is the labels of a subset, nil if no DestinationRule defines it.
func (w *world) subset(service types.NamespacedName, name string) labels.Selector {
	for _, rule := range w.destinationRules {
		if resolve(rule.Spec.Host, rule.Namespace) != service {
			continue
		}
		for _, s := range rule.Spec.Subsets {
			if s.Name == name {
				return labels.SelectorFromSet(s.Labels)
			}
		}
	}
	return nil
}

// spread divides a part evenly over the ready endpoints of a service.
func (w *world) spread(service types.NamespacedName, subset labels.Selector, part float64, mirrored bool) []share {
	var pods []*corev1.Pod
	for _, slice := range w.slices[service] {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready || endpoint.TargetRef == nil {
				continue
			}
			pod := w.pods[types.NamespacedName{Namespace: endpoint.TargetRef.Namespace, Name: endpoint.TargetRef.Name}]
			if pod != nil && (subset == nil || subset.Matches(labels.Set(pod.Labels))) {
				pods = append(pods, pod)
			}
		}
	}
	if len(pods) == 0 {
		return []share{nobody(service, part, mirrored)}
	}
	shares := make([]share, 0, len(pods))
	for _, pod := range pods {
		shares = append(shares, share{
			group: group{
				namespace: pod.Namespace, workload: w.workloadOf(pod), version: pod.Labels["version"],
				service: service.Name, serviceNS: service.Namespace, behaviour: w.table.Of(pod),
			},
			part: part / float64(len(pods)), mirrored: mirrored,
		})
	}
	return shares
}

// nobody is the share of requests that no pod gets.
func nobody(service types.NamespacedName, part float64, mirrored bool) share {
	return share{group: group{service: service.Name, serviceNS: service.Namespace}, part: part, mirrored: mirrored}
}

// workloadOf is the name that Istio reports for a pod: that of the Deployment
// for its ReplicaSets, else that of the owner, else the pod's own.
func (w *world) workloadOf(pod *corev1.Pod) string {
	for _, owner := range pod.OwnerReferences {
		if owner.Controller == nil || !*owner.Controller {
			continue
		}
		if owner.Kind != "ReplicaSet" {
			return owner.Name
		}
		if deployment := w.replicaSetOwners[types.NamespacedName{Namespace: pod.Namespace, Name: owner.Name}]; deployment != "" {
			return deployment
		}
		return strings.TrimSuffix(owner.Name, "-"+pod.Labels["pod-template-hash"])
	}
	return pod.Name
}

// normalized joins the shares of equal groups and puts them in a fixed order.
func normalized(shares []share) []share {
	type key struct {
		group    group
		mirrored bool
	}
	parts := map[key]float64{}
	for _, s := range shares {
		parts[key{s.group, s.mirrored}] += s.part
	}
	joined := make([]share, 0, len(parts))
	for k, part := range parts {
		joined = append(joined, share{group: k.group, mirrored: k.mirrored, part: part})
	}
	slices.SortFunc(joined, func(a, b share) int { return compareGroups(a.group, b.group, a.mirrored, b.mirrored) })
	return joined
}

func compareGroups(a, b group, aMirrored, bMirrored bool) int {
	order := func(g group, mirrored bool) []string {
		m := "users"
		if mirrored {
			m = "mirror"
		}
		return []string{g.namespace, g.workload, g.version, g.serviceNS, g.service, m, string(g.behaviour.Ready)}
	}
	return cmp.Or(slices.Compare(order(a, aMirrored), order(b, bMirrored)),
		cmp.Compare(a.behaviour.ErrorRate, b.behaviour.ErrorRate),
		cmp.Compare(a.behaviour.LatencyMillis, b.behaviour.LatencyMillis),
		cmp.Compare(a.behaviour.ReadyAfterSeconds, b.behaviour.ReadyAfterSeconds))
}
