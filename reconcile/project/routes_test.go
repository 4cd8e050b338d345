package project

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
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
