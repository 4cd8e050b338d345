package project

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// bumps are, for each field of a policy, what a new release's may say otherwise. A field without a row is a fault: somebody has to think of
// what it does to users before promotion.
var bumps = map[string][]func(*rollout.Plan){
	"strategy":          {func(p *rollout.Plan) { p.Strategy = environments.StrategyRolling }},
	"provider":          {func(p *rollout.Plan) { p.Provider = "kubernetes" }, func(p *rollout.Plan) { p.Provider = "istio" }},
	"target":            {func(p *rollout.Plan) { p.Target.Name = "api" }, func(p *rollout.Plan) { p.Target.Kind = "Deployment" }},
	"steps":             {func(p *rollout.Plan) { p.Steps = []rollout.Step{{Exposure: rollout.Exposure{Weight: 7}}} }},
	"stepBack":          {func(p *rollout.Plan) { p.StepBack = 3 }},
	"interval":          {func(p *rollout.Plan) { p.Interval = 7 }},
	"deadline":          {func(p *rollout.Plan) { p.Deadline = 7 }},
	"rollbackWindow":    {func(p *rollout.Plan) { p.RollbackWindow = 7 }},
	"threshold":         {func(p *rollout.Plan) { p.Threshold = 7 }},
	"inconclusiveLimit": {func(p *rollout.Plan) { p.InconclusiveLimit = 7 }},
	"metrics":           {func(p *rollout.Plan) { p.Metrics = []environments.Metric{{Name: "x"}} }},
	"webhooks":          {func(p *rollout.Plan) { p.Webhooks = []environments.Webhook{{Name: "x"}} }},
	"skipAnalysis":      {func(p *rollout.Plan) { p.SkipAnalysis = true }},
	"approval":          {func(p *rollout.Plan) { p.Approval = []rollout.Moment{rollout.AtBegin} }},
	"fourEyes":          {func(p *rollout.Plan) { p.FourEyes = true }},
	"suspend":           {func(p *rollout.Plan) { p.Suspend = true }},

	"service.name":          {func(p *rollout.Plan) { p.Service.Name = "other" }, func(p *rollout.Plan) { p.Service.Name = "" }},
	"service.port":          {func(p *rollout.Plan) { p.Service.Port = 8080 }},
	"service.portName":      {func(p *rollout.Plan) { p.Service.PortName = "http2" }},
	"service.targetPort":    {func(p *rollout.Plan) { p.Service.TargetPort = "9999" }},
	"service.appProtocol":   {func(p *rollout.Plan) { p.Service.AppProtocol = "tcp" }},
	"service.portDiscovery": {func(p *rollout.Plan) { p.Service.PortDiscovery = true }},
	"service.gateways":      {func(p *rollout.Plan) { p.Service.Gateways = []string{"other"} }, func(p *rollout.Plan) { p.Service.Gateways = nil }},
	"service.hosts":         {func(p *rollout.Plan) { p.Service.Hosts = []string{"other.example.com"} }, func(p *rollout.Plan) { p.Service.Hosts = nil }},
	"service.delegation":    {func(p *rollout.Plan) { p.Service.Delegation = true }},
	"service.timeout":       {func(p *rollout.Plan) { p.Service.Timeout = "7s" }},
	"service.retries":       {func(p *rollout.Plan) { p.Service.Retries = map[string]any{"attempts": int64(7)} }},
	"service.headers": {func(p *rollout.Plan) {
		p.Service.Headers = map[string]any{"request": map[string]any{"remove": []any{"x"}}}
	}},
	"service.match":      {func(p *rollout.Plan) { p.Service.Match = []any{map[string]any{"uri": map[string]any{"prefix": "/x"}}} }},
	"service.rewrite":    {func(p *rollout.Plan) { p.Service.Rewrite = map[string]any{"uri": "/x"} }},
	"service.corsPolicy": {func(p *rollout.Plan) { p.Service.CorsPolicy = map[string]any{"allowMethods": []any{"GET"}} }},
	"service.trafficPolicy": {func(p *rollout.Plan) {
		p.Service.TrafficPolicy = map[string]any{"connectionPool": map[string]any{"http": map[string]any{"http1MaxPendingRequests": int64(7)}}}
	}},
	"service.labels":      {func(p *rollout.Plan) { p.Service.Labels = map[string]string{"x": "y"} }},
	"service.annotations": {func(p *rollout.Plan) { p.Service.Annotations = map[string]string{"x": "y"} }},
}

// TestPolicyWaitsForPromotion: whatever a new release's policy says otherwise, users are led as by the one before until the promotion, and
// after a rollback; or the rollout is refused before it begins.
func TestPolicyWaitsForPromotion(t *testing.T) {
	for _, field := range slices.Concat(fieldsOf(reflect.TypeFor[rollout.Plan](), ""), fieldsOf(reflect.TypeFor[environments.Service](), "service.")) {
		if _, ok := bumps[field]; !ok && field != "service" {
			t.Errorf("%s has no row", field)
		}
	}
	served := rollout.Plan{
		Strategy: environments.StrategyCanary, Target: environments.Target{Name: "web"},
		Service: environments.Service{Name: "web", Port: 80, Hosts: []string{"web.example.com"}, Gateways: []string{"public", "mesh"}, Timeout: "3s"},
	}
	inMesh, byPods, rolling := served, served, served
	inMesh.Service.Hosts, inMesh.Service.Gateways = nil, nil
	byPods.Provider = "kubernetes"
	rolling.Strategy = environments.StrategyRolling
	for name, before := range map[string]rollout.Plan{"gateway": served, "mesh": inMesh, "pods": byPods, "rolling": rolling} {
		for _, field := range slices.Sorted(maps.Keys(bumps)) {
			for i, bump := range bumps[field] {
				after := before
				after.Strategy = environments.StrategyCanary
				bump(&after)
				checkWaits(t, fmt.Sprintf("%s, %s %d", name, field, i), before, after, name != "rolling")
			}
		}
	}
}

// fieldsOf are the names of a struct's fields, as policies say them.
func fieldsOf(of reflect.Type, prefix string) (names []string) {
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		names = append(names, prefix+name)
	}
	return names
}

// checkWaits holds each state before the promotion, and those of the way back, against what serves at rest.
func checkWaits(t *testing.T, name string, before, after rollout.Plan, brings bool) {
	t.Helper()
	release := func(version string) []*unstructured.Unstructured {
		var objs []*unstructured.Unstructured
		for _, app := range []string{"web", "api"} {
			pod := map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": app}}, "spec": map[string]any{"containers": []any{
				map[string]any{"name": app, "image": "web:" + version, "ports": []any{map[string]any{"name": "http", "containerPort": int64(8080)}}},
			}}}
			objs = append(objs, object("apps/v1", "Deployment", app, map[string]any{
				"replicas": int64(2), "selector": map[string]any{"matchLabels": map[string]any{"app": app}}, "template": pod,
			}))
			if brings || app == "api" {
				objs = append(objs, object("v1", "Service", app, map[string]any{
					"selector": map[string]any{"app": app}, "ports": []any{map[string]any{"name": "http", "port": int64(80), "targetPort": "http"}},
				}))
			}
		}
		return objs
	}
	in := Input{App: "web", Namespace: "ns", Stable: release("1"), Target: release("2"), Plan: after, State: rollout.State{StablePlan: &before}}
	if err := Check(in); err != nil {
		return // nothing begins
	}
	rest := in
	rest.Plan, rest.State = before, rollout.State{}
	want := users(t, name, rest)
	states := []rollout.State{{Phase: rollout.RollingBack, Drained: true}}
	if after.Canary() {
		states = append(states, rollout.State{Phase: rollout.Starting}, rollout.State{Phase: rollout.Analyzing}, rollout.State{Phase: rollout.RollingBack})
	}
	for _, state := range states {
		state.StablePlan = &before
		in.State = state
		got := users(t, name, in)
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if !reflect.DeepEqual(got[key], want[key]) {
				t.Errorf("%s: %s: %s is %v, want %v", name, state.Phase, key, got[key], want[key])
			}
		}
		for key := range got {
			// A route that leads to the Service as the Service does by itself changes nothing.
			if _, was := want[key]; !was && fmt.Sprint(got[key]) != "map[gateways:[mesh] hosts:[web] http:[map[route:[map[destination:map[host:web port:map[number:80]]]]]]]" {
				t.Errorf("%s: %s: %s is new: %v", name, state.Phase, key, got[key])
			}
		}
	}
}

// users is what leads users: the specs of Services, routes and rules for what serves, without the canary's share.
func users(t *testing.T, name string, in Input) map[string]any {
	t.Helper()
	d, err := Project(in)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	seen := map[string]any{}
	for _, obj := range slices.Concat(d.Stable, d.Routing) {
		if !leads(obj) || strings.HasSuffix(obj.GetName(), canarySuffix) {
			continue
		}
		c := copyOf(obj)
		for _, route := range routesOf(c) {
			var kept []any
			for _, d := range mapsAt(route, "route") {
				if strings.HasSuffix(stringAt(d, "destination", "host"), canarySuffix) {
					continue
				}
				if delete(d, "weight"); at(d, "destination", "port") == nil { // the only one, which moves
					setAt(d, int64(80), "destination", "port", "number")
				}
				kept = append(kept, d)
			}
			route["route"] = kept
		}
		if objects.GroupKind(c) == virtualService {
			mergeSplit(c)
		}
		seen[describe(c)] = c.Object["spec"]
	}
	return seen
}

// mergeSplit makes one route again of those that a port that moves has made of it: one for the gateways, one for the mesh.
func mergeSplit(vs *unstructured.Unstructured) {
	http := mapsAt(vs.Object, "spec", "http")
	if len(http) != 2 {
		return
	}
	for _, route := range http {
		delete(route, "match")
	}
	if reflect.DeepEqual(http[0], http[1]) {
		setAt(vs.Object, []any{http[0]}, "spec", "http")
	}
}
