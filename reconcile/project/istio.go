package project

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/render/objects"
)

const istioVersion = "networking.istio.io/v1"

var (
	virtualService  = schema.GroupKind{Group: "networking.istio.io", Kind: "VirtualService"}
	destinationRule = schema.GroupKind{Group: "networking.istio.io", Kind: "DestinationRule"}
)

// istio shares traffic by the weights of VirtualServices.
var istio = provider{
	new:       newMesh,
	generates: []schema.GroupKind{virtualService, destinationRule},
	roles: map[schema.GroupKind]role{
		virtualService:  {does: routes},
		destinationRule: {does: rules},
		{Group: "networking.istio.io", Kind: "ServiceEntry"}:        {does: sends, path: []string{"spec", "workloadSelector", "labels"}},
		{Group: "networking.istio.io", Kind: "Sidecar"}:             {does: selects, path: []string{"spec", "workloadSelector", "labels"}, plain: true},
		{Group: "networking.istio.io", Kind: "EnvoyFilter"}:         {does: selects, path: []string{"spec", "workloadSelector", "labels"}, plain: true},
		{Group: "networking.istio.io", Kind: "ProxyConfig"}:         {does: selects, path: []string{"spec", "selector", "matchLabels"}, plain: true},
		{Group: "security.istio.io", Kind: "AuthorizationPolicy"}:   {does: selects, path: []string{"spec", "selector", "matchLabels"}, plain: true},
		{Group: "security.istio.io", Kind: "PeerAuthentication"}:    {does: selects, path: []string{"spec", "selector", "matchLabels"}, plain: true},
		{Group: "security.istio.io", Kind: "RequestAuthentication"}: {does: selects, path: []string{"spec", "selector", "matchLabels"}, plain: true},
		{Group: "telemetry.istio.io", Kind: "Telemetry"}:            {does: selects, path: []string{"spec", "selector", "matchLabels"}, plain: true},
		{Group: "extensions.istio.io", Kind: "WasmPlugin"}:          {does: selects, path: []string{"spec", "selector", "matchLabels"}, plain: true},
	},
}

// meshRouting is how Istio shares an app's traffic between its tracks.
//
// Where the stable track has VirtualServices that route to one of the app's Services, each such destination is shared
// and nothing else of them is touched; then nothing is generated, and hosts, gateways and routes of the policy's
// service section do not apply. Otherwise a VirtualService named as the app's Service is generated. In a rollout every
// shared route names both tracks, even at weight 0, and the canary's part of what pointed at the app is exactly the
// State's weight. Istio's weights are proportions: they add up to 100, or to what they were, or, where the canary's part
// of a route that the chart splits is no whole number, to a hundred times that.
//
// DestinationRules are generated only where the policy has a trafficPolicy and the release has none for the host.
type meshRouting struct {
	app *app
	// main is the Service that users address; empty when the app has none.
	main string
	// brought reports whether the stable track brings a VirtualService that routes to the app.
	brought bool
	// own are the VirtualServices by which the app's users are led, once somebody has asked.
	own func() list
}

// newMesh decides how the app is routed.
func newMesh(a *app) (router, error) {
	r := &meshRouting{app: a}
	var routed string
	for _, obj := range a.serving {
		if objects.GroupKind(obj) == virtualService {
			if name := r.routesTo(obj); name != "" {
				r.brought = true
				routed = cmp.Or(routed, name)
			}
		}
	}
	var err error
	r.main, err = a.mainService(routed)
	r.own = sync.OnceValue(r.leading)
	return r, err
}

func (r *meshRouting) service() string { return r.main }

// replicas: a canary has as many as its release asks for, whatever its share.
func (r *meshRouting) replicas() (n int, ok bool) { return 0, false }

// warnings: rules that the release brings stand before those of the policy, and sidecars lead past a headless Service.
func (r *meshRouting) warnings() (out []string) {
	if r.main != "" && stringAt(r.app.service(r.main).Object, "spec", "clusterIP") == "None" {
		out = append(out, fmt.Sprintf("Service %s is headless: callers in the mesh reach the pod whose address they have looked up, past the canary's weights",
			r.main))
	}
	for _, s := range r.app.services {
		if ports := r.leavingPorts(s.GetName()); len(ports) > 0 {
			out = append(out, fmt.Sprintf("Service %s has port %s no more after promotion, and routes name it: their requests go unanswered at promotion "+
				"until Istio has both the new Service and the new routes, some tenths of a second", s.GetName(), strings.Join(ports, ", ")))
		}
		if stringAt(s.Object, "spec", "type") == "LoadBalancer" {
			out = append(out, fmt.Sprintf("Service %s is of type LoadBalancer: users that come by it go past the canary's weights", s.GetName()))
		}
	}
	for _, obj := range r.app.serving {
		if objects.GroupKind(obj) == virtualService {
			out = append(out, r.unknown(obj)...)
		} else if name := r.goesPast(obj); name != "" {
			out = append(out, fmt.Sprintf("%s leads to Service %s past the canary's weights, unless its controller is in the mesh", describe(obj), name))
		} else if name := r.app.calledBy(obj); name != "" {
			out = append(out, fmt.Sprintf("%s has the API server call Service %s, past the canary's weights: it is not in the mesh", describe(obj), name))
		}
	}
	if brought := r.app.rulesFor(r.app.serving, r.main); len(brought) > 0 && len(r.app.in.Plan.Service.TrafficPolicy) > 0 && r.main != "" {
		out = append(out, fmt.Sprintf("service.trafficPolicy does not apply to Service %s: the release brings %s", r.main, describe(brought[0])))
	}
	return out
}

// goesPast names the Service of the app to which an object of the release leads users by itself; empty: none.
func (r *meshRouting) goesPast(obj *unstructured.Unstructured) string {
	if roleOf(obj).does != routes {
		return ""
	}
	for _, s := range r.app.services {
		if sameNamespace(obj, s) && says(obj.Object["spec"], s.GetName()) {
			return s.GetName()
		}
	}
	return ""
}

// calledBy names the Service of the app that the API server calls because of an object of the release: an aggregated API, an admission
// or a conversion webhook; empty: none.
func (a *app) calledBy(obj *unstructured.Unstructured) string {
	var callees []map[string]any
	switch objects.GroupKind(obj) {
	case schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		callees = append(callees, mapAt(obj.Object, "spec", "service"))
	case schema.GroupKind{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"},
		schema.GroupKind{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"}:
		for _, webhook := range mapsAt(obj.Object, "webhooks") {
			callees = append(callees, mapAt(webhook, "clientConfig", "service"))
		}
	case objects.CRD:
		callees = append(callees, mapAt(obj.Object, "spec", "conversion", "webhook", "clientConfig", "service"))
	}
	for _, callee := range callees {
		if name := stringAt(callee, "name"); name != "" && stringAt(callee, "namespace") == a.namespace() && a.service(name) != nil {
			return name
		}
	}
	return ""
}

// unknown warns of destinations by which people mean a Service of the app, and Istio none: it completes names without a dot alone.
func (r *meshRouting) unknown(vs *unstructured.Unstructured) (out []string) {
	for _, route := range routesOf(vs) {
		for _, d := range mapsAt(route, "route") {
			host := stringAt(d, "destination", "host")
			name, rest, ok := r.app.serviceOf(host, vs)
			if ns := r.app.namespace(); ok && (rest == ns || rest == ns+".svc") {
				out = append(out, fmt.Sprintf("%s routes to %s, which Istio does not know: it gets no request; expected %s or %s.%s.svc.cluster.local",
					describe(vs), host, name, name, ns))
			}
		}
	}
	return out
}

func (r *meshRouting) counterpart(obj *unstructured.Unstructured) []*unstructured.Unstructured {
	if objects.GroupKind(obj) != destinationRule {
		return nil
	}
	return r.app.canaryRule(obj)
}

func (r *meshRouting) warns(obj *unstructured.Unstructured) string {
	switch objects.GroupKind(obj) {
	case virtualService:
		if r.delegatesHere(obj) {
			return ""
		}
		if name := r.routesTo(obj); name != "" {
			return fmt.Sprintf("routes to Service %s, past the weights of the canary", name)
		}
		if host := r.sharesHost(obj); host != "" {
			return fmt.Sprintf("routes host %s, as the app's own routing does: Istio takes the older one, and where that is not the app's, the canary gets no share",
				host)
		}
	case destinationRule:
		if name, _, ok := r.app.serviceOf(stringAt(obj.Object, "spec", "host"), obj); ok {
			return fmt.Sprintf("is for Service %s, but would not be for %s", name, canaryName(name))
		}
	}
	return ""
}

// inject returns a copy of obj with the weights of both tracks when it is a VirtualService that routes to the app,
// and nil when it is anything else. At rest the copy is the original.
func (r *meshRouting) inject(obj *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if objects.GroupKind(obj) != virtualService || r.routesTo(obj) == "" {
		return nil, nil
	}
	c := copyOf(obj)
	if r.app.split == nil {
		return c, nil
	}
	for _, route := range routesOf(c) {
		shared, err := r.share(mapsAt(route, "route"), c, atGateways(c, route))
		if err != nil {
			return nil, fmt.Errorf("sharing the routes of %s: %w", describe(obj), err)
		}
		if shared != nil {
			route["route"] = shared
		}
	}
	return c, nil
}

// routesOf returns the HTTP, TCP and TLS routes of a VirtualService.
func routesOf(vs *unstructured.Unstructured) []map[string]any {
	return slices.Concat(mapsAt(vs.Object, "spec", "http"), mapsAt(vs.Object, "spec", "tcp"), mapsAt(vs.Object, "spec", "tls"))
}

// atGateways reports whether a route of a VirtualService is for gateways alone, and not for callers in the mesh.
func atGateways(vs *unstructured.Unstructured, route map[string]any) bool {
	only := func(gateways []any) bool { return len(gateways) > 0 && !slices.Contains(gateways, any(mesh)) }
	matches := mapsAt(route, "match")
	return only(listAt(vs.Object, "spec", "gateways")) ||
		len(matches) > 0 && !slices.ContainsFunc(matches, func(m map[string]any) bool { return !only(listAt(m, "gateways")) })
}

// routesTo names the first of the app's Services that a VirtualService routes to; empty when there is none.
func (r *meshRouting) routesTo(vs *unstructured.Unstructured) string {
	for _, route := range routesOf(vs) {
		for _, destination := range mapsAt(route, "route") {
			if name, _, ok := r.app.serviceOf(stringAt(destination, "destination", "host"), vs); ok {
				return name
			}
		}
	}
	return ""
}

// serviceOf returns which of the app's Services a host of an Istio object names, and the rest of the host: it may be
// name, name.namespace, name.namespace.svc or fully qualified. A short name is in the object's own namespace.
func (a *app) serviceOf(host string, in *unstructured.Unstructured) (name, rest string, ok bool) {
	name, rest, qualified := strings.Cut(host, ".")
	ns := a.namespace()
	if qualified {
		ok = rest == ns || rest == ns+".svc" || strings.HasPrefix(rest, ns+".svc.")
	} else {
		ok = in.GetNamespace() == "" || in.GetNamespace() == ns
	}
	return name, rest, ok && a.service(name) != nil
}

// canaryHost is the host of the canary's Service, spelled as the host of the stable one.
func canaryHost(name, rest string) string {
	if rest == "" {
		return canaryName(name)
	}
	return canaryName(name) + "." + rest
}

// share replaces each destination of a route that points at the app by two, for the stable and for the canary track,
// whose weights add up to its own. It returns nil when none does. outside: the route is for gateways alone.
func (r *meshRouting) share(destinations []map[string]any, vs *unstructured.Unstructured, outside bool) ([]any, error) {
	factor, err := r.factor(destinations, vs)
	if err != nil || factor == 0 {
		return nil, err
	}
	var result []any
	for _, d := range destinations {
		name, rest, ok := r.app.serviceOf(stringAt(d, "destination", "host"), vs)
		if !ok && factor == 1 {
			result = append(result, d)
			continue
		}
		whole, err := weightOf(d, len(destinations) == 1)
		if err != nil {
			return nil, err
		}
		whole *= factor
		if !ok {
			d["weight"] = int64(whole)
			result = append(result, d)
			continue
		}
		part := whole * r.app.in.State.Weight / 100
		canary := copyMap(d)
		setAt(canary, canaryHost(name, rest), "destination", "host")
		if port := r.app.impliedPort(name); port != nil && at(canary, "destination", "port") == nil {
			setAt(canary, map[string]any{"number": port}, "destination", "port")
		}
		if subset := stringAt(d, "destination", "subset"); subset != "" && !r.app.canarySubset(name, subset) {
			delete(mapAt(canary, "destination"), "subset")
		}
		if subset := stringAt(d, "destination", "subset"); subset != "" && r.app.leavesOut(name, subset) {
			delete(mapAt(d, "destination"), "subset")
		}
		if outside && r.app.movesPort(name) {
			delete(mapAt(d, "destination"), "port")
		}
		d["weight"], canary["weight"] = int64(whole-part), int64(part)
		result = append(result, d, canary)
	}
	return result, nil
}

// impliedPort is the port that a destination means which names none, where it has to be said for the canary: nil, where Istio finds
// it by itself. It takes a Service's only port. The canary's Service may have the ports of both releases, and of several Istio takes
// that of the listener, which at a gateway need not be one of them.
func (a *app) impliedPort(service string) any {
	serving := a.service(service)
	ports := mapsAt(serving.Object, "spec", "ports")
	coming, stable := a.coming.find(objects.KeyOf(serving)), a.stable.find(objects.KeyOf(serving))
	if len(ports) != 1 || coming == nil || stable == nil {
		return nil
	}
	spec := mapAt(copyOf(coming).Object, "spec")
	keepPorts(spec, stable)
	if len(listAt(spec, "ports")) == 1 {
		return nil
	}
	return at(ports[0], "port")
}

// versions of one of the app's Services: as it is before promotion, and after it. Nil: that release has none.
func (a *app) versions(service string) (before, after *unstructured.Unstructured) {
	s := a.service(service)
	if s != a.made {
		return a.stable.find(objects.KeyOf(s)), a.coming.find(objects.KeyOf(s))
	}
	of := func(said environments.Service, workload *unstructured.Unstructured) *unstructured.Unstructured {
		if said.Port <= 0 {
			return nil
		}
		c := copyOf(s)
		setAt(c.Object, servicePorts(said, workload), "spec", "ports")
		return c
	}
	if plan := a.in.State.StablePlan; plan != nil {
		before = of(plan.Service, a.servingWorkload())
	}
	return before, of(a.in.Plan.Service, a.workload)
}

// movesPort reports whether the only port of one of the app's Services has another number after promotion. The Service is applied before
// the routes, so that one of them would name a port that is not there. As long as both tracks are there, a gateway's routes name none to
// the stable one: Istio takes the only one that there is, whichever that is by then. A sidecar would take the port that the caller asked
// for, so there is no such way inside the mesh. Keeping both ports on the Service is none either: its ports would need other names, and
// until its EndpointSlices have those too, nothing is behind them.
func (a *app) movesPort(service string) bool {
	if a.split == nil {
		return false
	}
	before, after := a.versions(service)
	if before == nil || after == nil {
		return false
	}
	old, ports := mapsAt(before.Object, "spec", "ports"), mapsAt(after.Object, "spec", "ports")
	return len(old) == 1 && len(ports) == 1 && at(old[0], "port") != at(ports[0], "port")
}

// leavingPorts are the ports of one of the app's Services that routes have to name until promotion, and that have no such number after it.
func (r *meshRouting) leavingPorts(service string) (numbers []string) {
	before, after := r.app.versions(service)
	if r.app.split == nil || before == nil || after == nil {
		return nil
	}
	ports := mapsAt(after.Object, "spec", "ports")
	for _, p := range mapsAt(before.Object, "spec", "ports") {
		number, _ := intAt(p, "port")
		stays := slices.ContainsFunc(ports, func(q map[string]any) bool { return at(q, "port") == at(p, "port") })
		if !stays && r.namesPort(service, number) {
			numbers = append(numbers, strconv.Itoa(number))
		}
	}
	return numbers
}

// namesPort reports whether a route to one of the app's Services has to name a port, be it the release's or a generated one.
func (r *meshRouting) namesPort(service string, port int) bool {
	moves := r.app.movesPort(service)
	if !r.brought {
		places, err := r.places()
		return err == nil && service == r.main && slices.ContainsFunc(places, func(p place) bool { return p.port == port && !(moves && r.outside(p)) })
	}
	for _, obj := range r.app.serving {
		if objects.GroupKind(obj) != virtualService {
			continue
		}
		for _, route := range routesOf(obj) {
			if moves && atGateways(obj, route) {
				continue
			}
			for _, d := range mapsAt(route, "route") {
				name, _, ok := r.app.serviceOf(stringAt(d, "destination", "host"), obj)
				if number, said := intAt(d, "destination", "port", "number"); ok && said && name == service && number == port {
					return true
				}
			}
		}
	}
	return false
}

// factor is what the weights of a route are multiplied by, so that the canary's parts are whole numbers: rounded, the
// canary would get all or nothing of a destination whose weight is 1. It is 0 when no destination points at the app.
func (r *meshRouting) factor(destinations []map[string]any, vs *unstructured.Unstructured) (int, error) {
	factor := 0
	for _, d := range destinations {
		if _, _, ok := r.app.serviceOf(stringAt(d, "destination", "host"), vs); !ok {
			continue
		}
		whole, err := weightOf(d, len(destinations) == 1)
		if err != nil {
			return 0, err
		}
		factor = max(factor, 1)
		if whole*r.app.in.State.Weight%100 != 0 {
			factor = 100
		}
	}
	return factor, nil
}

// maxWeight keeps the weights of a route within 32 bits when they are multiplied.
const maxWeight = 1_000_000

// weightOf is the weight of a destination as Istio takes it: an only one gets everything, whatever its weight says, and
// one of several that says nothing gets nothing.
func weightOf(destination map[string]any, only bool) (int, error) {
	if at(destination, "weight") == nil {
		if only {
			return 100, nil
		}
		return 0, nil
	}
	weight, ok := intAt(destination, "weight")
	if !ok || weight < 0 || weight > maxWeight {
		return 0, fmt.Errorf("weight %v of host %s, expected a whole number from 0 to %d", at(destination, "weight"),
			stringAt(destination, "destination", "host"), maxWeight)
	}
	if only && weight == 0 {
		return 100, nil
	}
	return weight, nil
}

// rulesFor returns the DestinationRules of a release for one of the app's Services.
func (a *app) rulesFor(release list, service string) list {
	var rules list
	for _, obj := range release {
		if objects.GroupKind(obj) == destinationRule {
			if name, _, ok := a.serviceOf(stringAt(obj.Object, "spec", "host"), obj); ok && name == service {
				rules = append(rules, obj)
			}
		}
	}
	return rules
}

// canarySubset reports whether the canary of a Service has a subset: the release under way has to define it.
func (a *app) canarySubset(service, subset string) bool {
	for _, rule := range a.rulesFor(a.coming, service) {
		for _, s := range mapsAt(rule.Object, "spec", "subsets") {
			if stringAt(s, "name") == subset {
				return true
			}
		}
	}
	return false
}

// leavesOut reports whether the stable track's share of a Service goes without a subset for as long as there is a canary. A promotion
// writes pods, rules and routes one after the other, and pods take their time to start: in between, the rules of one release would
// select among the pods of the other. A subset that has none of those, as one by version, has nobody to answer, and one that only one
// of the releases defines does not exist. Without it the share goes to whichever of the track's pods there are.
func (a *app) leavesOut(service, subset string) bool {
	selects := func(rules, pods list) bool {
		for _, rule := range a.rulesFor(rules, service) {
			for _, s := range mapsAt(rule.Object, "spec", "subsets") {
				if stringAt(s, "name") != subset {
					continue
				}
				selector := labels.SelectorFromSet(textsAt(s, "labels"))
				return slices.ContainsFunc(pods, func(obj *unstructured.Unstructured) bool {
					return isWorkload(obj) && serviceSelector(a.service(service)).Matches(objects.PodLabels(obj)) && selector.Matches(objects.PodLabels(obj))
				})
			}
		}
		return false
	}
	if !selects(a.stable, a.stable) && !selects(a.coming, a.coming) {
		return false // it is of nobody's rules here, or of pods that are not the app's
	}
	return !selects(a.stable, a.coming) || !selects(a.coming, a.stable)
}

// canaryRule copies a DestinationRule of one of the app's Services for its canary, so that a subset or a mutual TLS
// setting that a route counts on is there too.
func (a *app) canaryRule(rule *unstructured.Unstructured) []*unstructured.Unstructured {
	name, rest, ok := a.serviceOf(stringAt(rule.Object, "spec", "host"), rule)
	if !ok {
		return nil
	}
	c := canaryCopy(rule)
	setAt(c.Object, canaryHost(name, rest), "spec", "host")
	for _, subset := range mapsAt(c.Object, "spec", "subsets") {
		set := mapAt(subset, "labels")
		for k, v := range set {
			if value, rewritten := a.split.rewritten[k]; rewritten && v == a.split.stable[0][k] {
				set[k] = value
			}
		}
	}
	return one(c)
}
