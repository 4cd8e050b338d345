package project

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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
	return r, err
}

func (r *meshRouting) service() string { return r.main }

// replicas: a canary has as many as its release asks for, whatever its share.
func (r *meshRouting) replicas() (n int, ok bool) { return 0, false }

// warnings: rules that the release brings stand before those of the policy.
func (r *meshRouting) warnings() []string {
	if brought := r.app.rulesFor(r.app.serving, r.main); len(brought) > 0 && len(r.app.in.Plan.Service.TrafficPolicy) > 0 && r.main != "" {
		return []string{fmt.Sprintf("service.trafficPolicy does not apply to Service %s: the release brings %s",
			r.main, describe(brought[0]))}
	}
	return nil
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
		if name := r.routesTo(obj); name != "" {
			return fmt.Sprintf("routes to Service %s, past the weights of the canary", name)
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
		shared, err := r.share(mapsAt(route, "route"), c)
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
// whose weights add up to its own. It returns nil when none does.
func (r *meshRouting) share(destinations []map[string]any, vs *unstructured.Unstructured) ([]any, error) {
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
		if subset := stringAt(d, "destination", "subset"); subset != "" && !r.app.canarySubset(name, subset) {
			delete(mapAt(canary, "destination"), "subset")
		}
		d["weight"], canary["weight"] = int64(whole-part), int64(part)
		result = append(result, d, canary)
	}
	return result, nil
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

// generate returns the routing objects that the release does not bring.
func (r *meshRouting) generate() ([]*unstructured.Unstructured, error) {
	if r.main == "" {
		return nil, nil
	}
	made, err := r.destinationRules()
	if err != nil || r.brought {
		return made, err
	}
	vs := r.app.newObject(istioVersion, "VirtualService", r.main)
	if other := r.app.serving.find(objects.KeyOf(vs)); other != nil {
		return nil, fmt.Errorf("%s does not route to the app's Service %s, expected it to do so or to have another name",
			describe(other), r.main)
	}
	r.app.addMetadata(vs)
	spec, err := r.virtualService()
	if err != nil {
		return nil, err
	}
	vs.Object["spec"] = spec
	return append(made, vs), nil
}

// virtualService is the spec of the generated VirtualService, as Flagger makes it.
func (r *meshRouting) virtualService() (map[string]any, error) {
	s := r.app.in.Plan.Service
	spec := map[string]any{}
	if !s.Delegation {
		hosts := slices.Clone(s.Hosts)
		if !slices.Contains(hosts, r.main) && !slices.Contains(hosts, "*") {
			hosts = append(hosts, r.main)
		}
		gateways := s.Gateways
		if len(gateways) == 0 {
			gateways = []string{mesh}
		}
		spec["hosts"], spec["gateways"] = anyList(hosts), anyList(gateways)
	}
	routes, err := r.routes()
	if err != nil {
		return nil, err
	}
	if strings.EqualFold(s.AppProtocol, "TCP") {
		spec["tcp"] = routes
	} else {
		spec["http"] = routes
	}
	return spec, nil
}

// mesh is Istio's word for the sidecars, where it lists gateways.
const mesh = "mesh"

// routes of the generated VirtualService. One names the port that the policy means. Inside the mesh, where the Service
// has several or the policy discovers them, a request has to keep the port that it came for, so there the destination
// names none; at a gateway it has to name one, since the gateway's own port says nothing about the Service's. With both
// there are two routes.
func (r *meshRouting) routes() ([]any, error) {
	s := r.app.in.Plan.Service
	inside := !s.Delegation && (len(s.Gateways) == 0 || slices.Contains(s.Gateways, mesh))
	outside := slices.DeleteFunc(slices.Clone(s.Gateways), func(name string) bool { return name == mesh })
	keep := inside && (s.PortDiscovery || len(mapsAt(r.app.service(r.main).Object, "spec", "ports")) > 1)
	if keep && len(outside) == 0 {
		return []any{r.route(0)}, nil
	}
	port, err := r.port()
	if err != nil {
		return nil, err
	}
	if !keep {
		return []any{r.route(port)}, nil
	}
	var routes []any
	for _, route := range []map[string]any{restrict(r.route(port), outside), restrict(r.route(0), []string{mesh})} {
		if route != nil {
			routes = append(routes, route)
		}
	}
	return routes, nil
}

// route is a route of the generated VirtualService to a port of the app; 0: none is named.
func (r *meshRouting) route(port int) map[string]any {
	s := r.app.in.Plan.Service
	if strings.EqualFold(s.AppProtocol, "TCP") {
		return tcpRoute(s, r.destinations(port))
	}
	return httpRoute(s, r.destinations(port))
}

// restrict makes a route one for some gateways, in place; nil when its matches name none of them.
func restrict(route map[string]any, gateways []string) map[string]any {
	matches := mapsAt(route, "match")
	if len(matches) == 0 {
		matches = []map[string]any{{}}
	}
	var kept []any
	for _, match := range matches {
		var names []any
		for _, name := range gateways {
			if own := listAt(match, "gateways"); len(own) == 0 || slices.Contains(own, any(name)) {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			match["gateways"] = names
			kept = append(kept, match)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	route["match"] = kept
	return route
}

func httpRoute(s environments.Service, destinations []any) map[string]any {
	route := map[string]any{"route": destinations}
	if len(s.Match) > 0 {
		route["match"] = copyValue(s.Match)
	}
	for field, value := range map[string]map[string]any{"retries": s.Retries, "headers": s.Headers, "corsPolicy": s.CorsPolicy} {
		if len(value) > 0 {
			route[field] = copyMap(value)
		}
	}
	if len(s.Rewrite) > 0 {
		rewrite := copyMap(s.Rewrite)
		// Flagger's type is for the Gateway API; Istio refuses it.
		delete(rewrite, "type")
		route["rewrite"] = rewrite
	}
	if s.Timeout != "" {
		route["timeout"] = s.Timeout
	}
	return route
}

// l4Match are the fields of a match that Istio knows for TCP.
var l4Match = []string{"destinationSubnets", "port", "sourceSubnet", "sourceLabels", "gateways", "sourceNamespace"}

func tcpRoute(s environments.Service, destinations []any) map[string]any {
	route := map[string]any{"route": destinations}
	var matches []any
	for _, match := range mapsAt(map[string]any{"match": copyValue(s.Match)}, "match") {
		maps.DeleteFunc(match, func(field string, _ any) bool { return !slices.Contains(l4Match, field) })
		if len(match) > 0 {
			matches = append(matches, match)
		}
	}
	if len(matches) > 0 {
		route["match"] = matches
	}
	return route
}

// destinations of the generated route: the stable track alone at rest, both tracks in a rollout.
func (r *meshRouting) destinations(port int) []any {
	weight := r.app.in.State.Weight
	if r.app.split == nil {
		return []any{weighted(r.main, port, 100)}
	}
	return []any{weighted(r.main, port, 100-weight), weighted(canaryName(r.main), port, weight)}
}

func weighted(host string, port, weight int) map[string]any {
	destination := map[string]any{"host": host}
	if port > 0 {
		destination["port"] = map[string]any{"number": int64(port)}
	}
	return map[string]any{"destination": destination, "weight": int64(weight)}
}

// port is the Service's port that the policy means. Flagger makes the Service, so its service.port may be anything;
// charts that were written for it, the talk's among them, say there what their pods listen on. So it is the port of that
// number, else the one that leads to it, else the only one; without a service.port the first.
func (r *meshRouting) port() (int, error) {
	wanted := r.app.in.Plan.Service.Port
	service := r.app.service(r.main)
	var ports, leading []int
	for _, p := range mapsAt(service.Object, "spec", "ports") {
		number, ok := intAt(p, "port")
		if !ok {
			continue
		}
		ports = append(ports, number)
		if r.app.containerPort(p) == wanted {
			leading = append(leading, number)
		}
	}
	switch {
	case len(ports) == 0:
		return 0, fmt.Errorf("%s has no port, expected one in spec.ports", describe(service))
	case wanted <= 0:
		return ports[0], nil
	case slices.Contains(ports, wanted):
		return wanted, nil
	case len(leading) > 0:
		return leading[0], nil
	case len(ports) == 1:
		return ports[0], nil
	default:
		return 0, fmt.Errorf("service.port is %d, which %s does not have, expected one of %v", wanted, describe(service), ports)
	}
}

// destinationRules carries the policy's trafficPolicy to both tracks.
func (r *meshRouting) destinationRules() ([]*unstructured.Unstructured, error) {
	policy := r.app.in.Plan.Service.TrafficPolicy
	if len(policy) == 0 {
		return nil, nil
	}
	var hosts []string
	if len(r.app.rulesFor(r.app.serving, r.main)) == 0 {
		hosts = append(hosts, r.main)
	}
	if r.app.split != nil && len(r.app.rulesFor(r.app.coming, r.main)) == 0 {
		hosts = append(hosts, canaryName(r.main))
	}
	var rules []*unstructured.Unstructured
	for _, host := range hosts {
		rule := r.app.newObject(istioVersion, "DestinationRule", host)
		if other := r.app.serving.find(objects.KeyOf(rule)); other != nil {
			return nil, fmt.Errorf("%s is not for Service %s, expected it to be so or to have another name", describe(other), host)
		}
		r.app.addMetadata(rule)
		rule.Object["spec"] = map[string]any{"host": host, "trafficPolicy": copyMap(policy)}
		rules = append(rules, rule)
	}
	return rules, nil
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
