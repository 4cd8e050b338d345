package project

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// TestRoutePort: the generated routes go to ports that the chart's Service has, whatever service.port says.
func TestRoutePort(t *testing.T) {
	const (
		talk    = "[{port: 80, targetPort: 8080}]"
		named   = "[{port: 80, targetPort: http}, {port: 9090, targetPort: admin}]"
		several = "[{name: http, port: 80}, {name: admin, port: 9090}]"
	)
	for _, test := range []struct{ name, ports, service, want string }{
		{"the first", talk, "", "80"},
		{"as it says", talk, "port: 80", "80"},
		{"what the pods listen on, as the talk's chart says", talk, "port: 8080", "80"},
		{"that by name", named, "{port: 8081, gateways: [public]}", "9090"},
		{"the only one", talk, "port: 3000", "80"},
		{"none of several", named, "{port: 3000, gateways: [public]}", "error: service.port is 3000, which Service web does not have, expected one of [80 9090]"},
		{"several in the mesh keep their own", several, "port: 80", "any"},
		{"several at a gateway", several, "{port: 9090, gateways: [public]}", "9090"},
		{"several behind a delegating VirtualService", several, "{port: 80, delegation: true}", "80"},
		{"several in the mesh and at a gateway", several, "{port: 80, gateways: [mesh, public]}", "[public] 80; [mesh] any"},
		{
			"the same with matches", several, "{port: 80, gateways: [mesh, public, other], match: [{uri: {prefix: /}, gateways: [other]}, {port: 80}]}",
			"[other] [public other] 80; [mesh] any",
		},
		{"matches for a gateway only", several, "{port: 80, gateways: [mesh, public], match: [{gateways: [public]}]}", "[public] 80"},
		{"the same for TCP", several, "{port: 80, gateways: [mesh, public], appProtocol: TCP}", "[public] 80; [mesh] any"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := Input{App: "shop", Namespace: "ns", Plan: rollout.Plan{Strategy: environments.StrategyCanary}}
			if err := yaml.UnmarshalStrict([]byte(test.service), &in.Plan.Service); err != nil {
				t.Fatal(err)
			}
			in.Stable = parse(t, "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: ns}\nspec: {selector: {app: web}, ports: "+
				test.ports+"}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: ns}\n"+
				"spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: "+
				"[{name: web, ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 8081}]}]}}}")
			in.Target = in.Stable
			for _, phase := range []rollout.Phase{rollout.Idle, rollout.Analyzing} {
				in.State = rollout.State{Phase: phase, Exposure: rollout.Exposure{Weight: 10}}
				if got := routePorts(in); got != test.want {
					t.Errorf("%s: got %s, want %s", phase, got, test.want)
				}
			}
		})
	}
}

// routePorts lists the gateways that the routes of the generated VirtualService name, and the ports they lead to.
func routePorts(in Input) string {
	d, err := Project(in)
	if err != nil {
		return "error: " + strings.TrimPrefix(err.Error(), "projecting app shop: ")
	}
	var routes []string
	for _, route := range routesOf(d.Routing[len(d.Routing)-1]) {
		text := ""
		for _, match := range mapsAt(route, "match") {
			text += fmt.Sprint(listAt(match, "gateways")) + " "
		}
		ports := map[string]bool{}
		for _, destination := range mapsAt(route, "route") {
			port := "any"
			if number, ok := intAt(destination, "destination", "port", "number"); ok {
				port = fmt.Sprint(number)
			}
			if !ports[port] {
				text += port
			}
			ports[port] = true
		}
		routes = append(routes, text)
	}
	return strings.Join(routes, "; ")
}

// TestNowhereInBetween: Services are applied before routes. Whichever state follows upon another, each route of the one before that names a
// port of one of the app's Services names one that is still there, unless people were warned.
func TestNowhereInBetween(t *testing.T) {
	step := func(phase rollout.Phase, weight int, drained bool) rollout.State {
		return rollout.State{Phase: phase, Exposure: rollout.Exposure{Weight: weight}, Drained: drained}
	}
	promoted := []rollout.State{
		step(rollout.Idle, 0, false), step(rollout.Starting, 0, false), step(rollout.Analyzing, 50, false),
		step(rollout.Promoting, 50, false), step(rollout.Draining, 0, false), step(rollout.Draining, 0, true),
	}
	courses := map[string][]rollout.State{
		"promoted":    promoted,
		"rolled back": append(slices.Clone(promoted[:4]), step(rollout.RollingBack, 50, false), step(rollout.RollingBack, 0, true), step(rollout.Idle, 0, false)),
		"given up":    append(slices.Clone(promoted[:4]), step(rollout.RollingBack, 0, true), step(rollout.Idle, 0, false)),
	}
	for _, file := range glob(t, "testdata/*.txtar") {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		in := input(t, archive)
		if len(in.Target) == 0 {
			continue
		}
		warnings, err := Warnings(in, nil)
		if err != nil {
			continue
		}
		warned := strings.Contains(strings.Join(warnings, ""), "go unanswered")
		if expected := slices.Contains([]string{"service-changes.txtar", "policy-changes.txtar"}, filepath.Base(file)); warned != expected {
			t.Errorf("%s: warned of a gap: %t, want %t", file, warned, expected)
		}
		if warned {
			continue
		}
		for name, course := range courses {
			var before Desired
			for i, state := range course {
				in := in
				if state.StablePlan = in.State.StablePlan; state.Phase == rollout.Idle && state.StablePlan != nil {
					in.Plan = *state.StablePlan
				}
				in.State = state
				after, err := Project(in)
				if err != nil {
					break
				}
				if fault := leadsNowhere(slices.Concat(after.Stable, after.Canary, after.Routing), before.Routing); i > 0 && fault != "" {
					t.Errorf("%s, %s, on the way to %s: %s", file, name, state.Phase, fault)
				}
				before = after
			}
		}
	}
}

// leadsNowhere finds a route that names a port which the Service that it names does not have; empty: none.
func leadsNowhere(held, routing []*unstructured.Unstructured) string {
	for _, vs := range routing {
		if objects.GroupKind(vs) != virtualService {
			continue
		}
		for _, route := range routesOf(vs) {
			for _, d := range mapsAt(route, "route") {
				host, port := stringAt(d, "destination", "host"), at(d, "destination", "port", "number")
				i := slices.IndexFunc(held, func(o *unstructured.Unstructured) bool { return isService(o) && o.GetName() == host })
				if i < 0 || port == nil {
					continue
				}
				has := slices.ContainsFunc(mapsAt(held[i].Object, "spec", "ports"), func(p map[string]any) bool { return fmt.Sprint(at(p, "port")) == fmt.Sprint(port) })
				if !has {
					return fmt.Sprintf("%s leads to port %v of Service %s", describe(vs), port, host)
				}
			}
		}
	}
	return ""
}
