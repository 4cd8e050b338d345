package project

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/rollout"
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

// warnings: rules that the release brings stand before those of the policy, and one route can't be for HTTP and TCP.
func (r *meshRouting) warnings() (out []string) {
	if r.main != "" && !r.brought && r.app.in.Plan.Service.AppProtocol == "" && !r.speaksTCP(place{}) {
		for _, port := range mapsAt(r.app.service(r.main).Object, "spec", "ports") {
			if takenForTCP(port) {
				out = append(out, fmt.Sprintf("Service %s has port %v beside others, which Istio takes for TCP: its connections stay with stable until promotion",
					r.main, at(port, "port")))
			}
		}
	}
	if brought := r.app.rulesFor(r.app.serving, r.main); len(brought) > 0 && len(r.app.in.Plan.Service.TrafficPolicy) > 0 && r.main != "" {
		out = append(out, fmt.Sprintf("service.trafficPolicy does not apply to Service %s: the release brings %s", r.main, describe(brought[0])))
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
		if port := r.app.impliedPort(name); port != nil && at(canary, "destination", "port") == nil {
			setAt(canary, map[string]any{"number": port}, "destination", "port")
		}
		if subset := stringAt(d, "destination", "subset"); subset != "" && !r.app.canarySubset(name, subset) {
			delete(mapAt(canary, "destination"), "subset")
		}
		if subset := stringAt(d, "destination", "subset"); subset != "" && r.app.leavesOut(name, subset) {
			delete(mapAt(d, "destination"), "subset")
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

// leavesOut reports whether a promotion would lead users to a subset that has no pods yet: the new release's rules are there at once,
// and until its own pods are ready, those of the release before serve. One that selects by version has none of them. The stable
// track's share goes without the subset until it is drained, to whichever pods there are.
func (a *app) leavesOut(service, subset string) bool {
	if a.in.State.Phase != rollout.Promoting {
		return false
	}
	for _, rule := range a.rulesFor(a.serving, service) {
		for _, s := range mapsAt(rule.Object, "spec", "subsets") {
			if stringAt(s, "name") != subset {
				continue
			}
			selector := labels.SelectorFromSet(textsAt(s, "labels"))
			return !slices.ContainsFunc(a.stable, func(obj *unstructured.Unstructured) bool {
				return isWorkload(obj) && serviceSelector(a.service(service)).Matches(objects.PodLabels(obj)) && selector.Matches(objects.PodLabels(obj))
			})
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
