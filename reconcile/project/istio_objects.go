package project

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/golang/protobuf/jsonpb" //nolint:staticcheck // as istiod reads them: durations such as 1m are none of protojson's
	"google.golang.org/protobuf/runtime/protoiface"
	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
	istioapi "istio.io/client-go/pkg/apis/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/sluice-cd/sluice/render/objects"
)

// What is generated for Istio is made of Istio's own types, so that no field is misspelled, by us or by a policy.

// generate returns the routing objects that the release does not bring.
func (r *meshRouting) generate() ([]*unstructured.Unstructured, error) {
	plan := r.app.in.leading()
	if r.main == "" || r.app.split == nil && !plan.Canary() && !plan.Public() {
		return nil, nil // nothing is shared, and a Service leads to the pods by itself
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
	var typed istioapi.VirtualService
	if err := r.virtualService(&typed.Spec); err != nil {
		return nil, err
	}
	if err := setSpec(vs, &typed.Spec); err != nil {
		return nil, err
	}
	// The type leaves out a weight of 0. It is ours to say, or whoever sets another would be left alone.
	for _, route := range routesOf(vs) {
		for _, d := range mapsAt(route, "route") {
			if _, said := d["weight"]; !said {
				d["weight"] = int64(0)
			}
		}
	}
	return append(made, vs), nil
}

// setSpec gives an object a spec of Istio's types.
func setSpec(obj *unstructured.Unstructured, spec json.Marshaler) error {
	text, err := spec.MarshalJSON()
	if err != nil {
		return fmt.Errorf("encoding %s: %w", describe(obj), err)
	}
	var plain map[string]any
	if err := utiljson.Unmarshal(text, &plain); err != nil {
		return fmt.Errorf("encoding %s: %w", describe(obj), err)
	}
	obj.Object["spec"] = plain
	return nil
}

// decode reads what a field of the policy's service section says into Istio's type for it.
func decode[T any, P interface {
	*T
	protoiface.MessageV1
}](field string, said any) (P, error) {
	text, err := json.Marshal(copyValue(said))
	into := P(new(T))
	if err == nil {
		err = (&jsonpb.Unmarshaler{}).Unmarshal(bytes.NewReader(text), into)
	}
	if err != nil {
		return nil, fmt.Errorf("service.%s: %w, expected Istio's %s", field, err, strings.TrimPrefix(fmt.Sprintf("%T", into), "*v1alpha3."))
	}
	return into, nil
}

// decodeSome is decode for a section that may be left out.
func decodeSome[T any, P interface {
	*T
	protoiface.MessageV1
}](field string, said map[string]any) (P, error) {
	if len(said) == 0 {
		return nil, nil
	}
	return decode[T, P](field, said)
}

// virtualService fills in the generated VirtualService, as Flagger makes it.
func (r *meshRouting) virtualService(spec *networking.VirtualService) error {
	s := r.app.says
	if !s.Delegation {
		spec.Hosts = slices.Clone(s.Hosts)
		if !slices.Contains(spec.Hosts, r.main) && !slices.Contains(spec.Hosts, "*") {
			spec.Hosts = append(spec.Hosts, r.main)
		}
		if spec.Gateways = slices.Clone(s.Gateways); len(spec.Gateways) == 0 {
			spec.Gateways = []string{mesh}
		}
		if slices.Contains(spec.Hosts, "*") && slices.Contains(spec.Gateways, mesh) {
			return errors.New("service.hosts has * for callers in the mesh: Istio refuses that, and else would lead all of them here; " +
				"expected service.gateways without mesh, or hosts by name")
		}
	}
	places, err := r.places()
	if err != nil {
		return err
	}
	for _, p := range places {
		if r.speaksTCP(p) {
			route, err := r.tcpRoute(p)
			if err != nil {
				return err
			}
			if route != nil {
				spec.Tcp = append(spec.Tcp, route)
			}
			continue
		}
		route, err := r.httpRoute(p)
		if err != nil {
			return err
		}
		if route != nil {
			spec.Http = append(spec.Http, route)
		}
		beside, err := r.connections(p)
		if err != nil {
			return err
		}
		spec.Tcp = append(spec.Tcp, beside...)
	}
	if len(spec.Http)+len(spec.Tcp) == 0 {
		return errors.New("no route is left: each of service.match names gateways that service.gateways does not; expected one that it does, or none")
	}
	return nil
}

// connections are the routes for those ports of a place that Istio takes for TCP, where others are for HTTP: Istio passes over an HTTP
// route for them.
func (r *meshRouting) connections(p place) (routes []*networking.TCPRoute, err error) {
	if p.port > 0 || r.app.says.AppProtocol != "" {
		return nil, nil
	}
	for _, port := range mapsAt(r.app.service(r.main).Object, "spec", "ports") {
		number, ok := intAt(port, "port")
		if !ok || !takenForTCP(port) {
			continue
		}
		route, err := r.tcpRoute(place{p.gateways, number})
		if err != nil {
			return nil, err
		}
		if route == nil {
			continue
		}
		if len(route.Match) == 0 {
			route.Match = []*networking.L4MatchAttributes{{}}
		}
		for _, match := range route.Match {
			match.Port = uint32(number)
		}
		routes = append(routes, route)
	}
	return routes, nil
}

// speaksTCP reports whether Istio would pass over an HTTP route for a place: by what the policy says, else by the Service's ports.
func (r *meshRouting) speaksTCP(p place) bool {
	if said := r.app.says.AppProtocol; said != "" {
		return strings.EqualFold(said, "TCP")
	}
	ports := slices.DeleteFunc(mapsAt(r.app.service(r.main).Object, "spec", "ports"), func(port map[string]any) bool {
		number, _ := intAt(port, "port")
		return p.port > 0 && number != p.port
	})
	return len(ports) > 0 && !slices.ContainsFunc(ports, func(port map[string]any) bool { return !takenForTCP(port) })
}

// takenForTCP reports whether Istio takes a Service's port for one without HTTP: its appProtocol says so, else its name, up to the first
// dash (istio.io/docs/ops/configuration/traffic-management/protocol-selection).
func takenForTCP(port map[string]any) bool {
	name, _, _ := strings.Cut(stringAt(port, "name"), "-")
	return slices.Contains([]string{"tcp", "mongo", "mysql", "redis"}, strings.ToLower(cmp.Or(stringAt(port, "appProtocol"), name)))
}

// mesh is Istio's word for the sidecars, where it lists gateways.
const mesh = "mesh"

// place is where a route is for: some gateways (nil: all of the VirtualService) and the port of the app that its
// destinations name (0: none).
type place struct {
	gateways []string
	port     int
}

// places of the routes of the generated VirtualService. One names the port that the policy means. Inside the mesh, where
// the Service has several or the policy discovers them, a request has to keep the port that it came for, so there the
// destination names none; at a gateway it has to name one, since the gateway's own port says nothing about the Service's.
// With both there are two routes, as where the Service's only port moves, which only a gateway's can leave out.
func (r *meshRouting) places() ([]place, error) {
	s := r.app.says
	inside := !s.Delegation && (len(s.Gateways) == 0 || slices.Contains(s.Gateways, mesh))
	outside := slices.DeleteFunc(slices.Clone(s.Gateways), func(name string) bool { return name == mesh })
	keep := inside && (s.PortDiscovery || len(mapsAt(r.app.service(r.main).Object, "spec", "ports")) > 1)
	if keep && len(outside) == 0 {
		return []place{{}}, nil
	}
	port, err := r.port()
	if err != nil {
		return nil, err
	}
	switch {
	case keep:
		return []place{{outside, port}, {[]string{mesh}, 0}}, nil
	case inside && len(outside) > 0 && r.app.movesPort(r.main):
		return []place{{outside, port}, {[]string{mesh}, port}}, nil
	default:
		return []place{{port: port}}, nil
	}
}

// outside reports whether a place is for gateways alone.
func (r *meshRouting) outside(p place) bool {
	gateways := p.gateways
	if s := r.app.says; gateways == nil && !s.Delegation {
		gateways = s.Gateways
	}
	return len(gateways) > 0 && !slices.Contains(gateways, mesh)
}

// at restricts the gateways of a match to those of the place; ok is false when the match is for none of them.
func (p place) at(gateways []string) (restricted []string, ok bool) {
	if p.gateways == nil {
		return gateways, true
	}
	for _, name := range p.gateways {
		if len(gateways) == 0 || slices.Contains(gateways, name) {
			restricted = append(restricted, name)
		}
	}
	return restricted, len(restricted) > 0
}

// matchesAt reads the policy's matches into Istio's type for them, each restricted to the gateways of a place. of says
// what of a match counts, and whether anything does. ok is false when there are matches, and none is for the place.
func matchesAt[T any, P interface {
	*T
	protoiface.MessageV1
}](p place, said []any, of func(any) (fields any, some bool), gateways func(P) *[]string) (matches []P, ok bool, err error) {
	some := false
	for i, one := range said {
		fields, has := of(one)
		if !has {
			continue
		}
		some = true
		match, err := decode[T, P](fmt.Sprintf("match[%d]", i), fields)
		if err != nil {
			return nil, false, err
		}
		if names, ok := p.at(*gateways(match)); ok {
			*gateways(match) = names
			matches = append(matches, match)
		}
	}
	if !some && p.gateways != nil {
		match := P(new(T))
		*gateways(match) = p.gateways
		matches = append(matches, match)
	}
	return matches, !some || len(matches) > 0, nil
}

// httpRoute is the route for a place; nil when the policy's matches are for none of its gateways.
func (r *meshRouting) httpRoute(p place) (route *networking.HTTPRoute, err error) {
	s := r.app.says
	route = &networking.HTTPRoute{}
	gateways := func(m *networking.HTTPMatchRequest) *[]string { return &m.Gateways }
	var ok bool
	all := func(match any) (any, bool) { return match, true }
	if route.Match, ok, err = matchesAt(p, s.Match, all, gateways); err != nil || !ok {
		return nil, err
	}
	if route.Retries, err = decodeSome[networking.HTTPRetry]("retries", s.Retries); err != nil {
		return nil, err
	}
	if route.Headers, err = decodeSome[networking.Headers]("headers", s.Headers); err != nil {
		return nil, err
	}
	if route.CorsPolicy, err = decodeSome[networking.CorsPolicy]("corsPolicy", s.CorsPolicy); err != nil {
		return nil, err
	}
	// Flagger's type is for the Gateway API; Istio does not know it.
	rewrite := maps.Clone(s.Rewrite)
	delete(rewrite, "type")
	if route.Rewrite, err = decodeSome[networking.HTTPRewrite]("rewrite", rewrite); err != nil {
		return nil, err
	}
	if s.Timeout != "" {
		timeout, err := time.ParseDuration(s.Timeout)
		if err != nil {
			return nil, fmt.Errorf("service.timeout is %q, expected a duration such as 15s", s.Timeout)
		}
		route.Timeout = durationpb.New(timeout)
	}
	for _, d := range r.destinations(p) {
		route.Route = append(route.Route, &networking.HTTPRouteDestination{Destination: d.to, Weight: d.weight})
	}
	return route, nil
}

// l4Match are the fields of a match that Istio knows for TCP. Flagger passes over the others.
var l4Match = []string{"destinationSubnets", "port", "sourceSubnet", "sourceLabels", "gateways", "sourceNamespace"}

// tcpRoute is the route for a place; nil when the policy's matches are for none of its gateways.
func (r *meshRouting) tcpRoute(p place) (*networking.TCPRoute, error) {
	route := &networking.TCPRoute{}
	l4 := func(match any) (any, bool) {
		fields, _ := copyValue(match).(map[string]any)
		maps.DeleteFunc(fields, func(field string, _ any) bool { return !slices.Contains(l4Match, field) })
		return fields, len(fields) > 0
	}
	gateways := func(m *networking.L4MatchAttributes) *[]string { return &m.Gateways }
	var ok bool
	var err error
	if route.Match, ok, err = matchesAt(p, r.app.says.Match, l4, gateways); err != nil || !ok {
		return nil, err
	}
	for _, d := range r.destinations(p) {
		route.Route = append(route.Route, &networking.RouteDestination{Destination: d.to, Weight: d.weight})
	}
	return route, nil
}

// weighted is a destination with its share of a route.
type weighted struct {
	to     *networking.Destination
	weight int32
}

// destinations of the generated route: the stable track alone at rest, both tracks in a rollout.
func (r *meshRouting) destinations(p place) []weighted {
	to := func(host string, weight int) weighted {
		d := &networking.Destination{Host: host}
		if p.port > 0 {
			d.Port = &networking.PortSelector{Number: uint32(p.port)}
		}
		return weighted{d, int32(weight)}
	}
	if r.app.split == nil {
		return []weighted{to(r.main, 100)}
	}
	weight := r.app.in.State.Weight
	shared := []weighted{to(r.main, 100-weight), to(canaryName(r.main), weight)}
	if r.outside(p) && r.app.movesPort(r.main) {
		shared[0].to.Port = nil
	}
	return shared
}

// port is the Service's port that the policy means. Flagger makes the Service, so its service.port may be anything;
// charts that were written for it, the talk's among them, say there what their pods listen on. So it is the port of that
// number, else the one that leads to it, else the only one; without a service.port the first.
func (r *meshRouting) port() (int, error) {
	wanted := r.app.says.Port
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

// destinationRules carries the trafficPolicy of each track's policy to it.
func (r *meshRouting) destinationRules() ([]*unstructured.Unstructured, error) {
	var rules []*unstructured.Unstructured
	add := func(host string, policy map[string]any) error {
		traffic, err := decodeSome[networking.TrafficPolicy]("trafficPolicy", policy)
		if err != nil || traffic == nil {
			return err
		}
		rule := r.app.newObject(istioVersion, "DestinationRule", host)
		if other := r.app.serving.find(objects.KeyOf(rule)); other != nil {
			return fmt.Errorf("%s is not for Service %s, expected it to be so or to have another name", describe(other), host)
		}
		r.app.addMetadata(rule)
		rules = append(rules, rule)
		typed := istioapi.DestinationRule{Spec: networking.DestinationRule{Host: host, TrafficPolicy: traffic}}
		return setSpec(rule, &typed.Spec)
	}
	if len(r.app.rulesFor(r.app.serving, r.main)) == 0 {
		if err := add(r.main, r.app.says.TrafficPolicy); err != nil {
			return nil, err
		}
	}
	if r.app.split != nil && len(r.app.rulesFor(r.app.coming, r.main)) == 0 {
		// The canary is for the users who are given to it: what its release says of them holds for them at once.
		if err := add(canaryName(r.main), r.app.in.Plan.Service.TrafficPolicy); err != nil {
			return nil, err
		}
	}
	return rules, nil
}
