package traffic

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	networking "istio.io/api/networking/v1alpha3"
	istio "istio.io/client-go/pkg/apis/networking/v1"
	corev1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// cluster builds a world of Services in the namespace shop.
type cluster struct {
	services []*corev1.Service
	pods     []*corev1.Pod
	slices   []*discovery.EndpointSlice
	routes   worldRoutes
	table    behaviour.Table
}

// service adds a Service with pods of the workloads, by name and number; a
// number of 0 adds one pod that is not ready.
func (c *cluster) service(name string, workloads map[string]int) {
	c.services = append(c.services, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}})
	slice := &discovery.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, Labels: map[string]string{discovery.LabelServiceName: name},
	}}
	for _, workload := range slices.Sorted(maps.Keys(workloads)) {
		for i := range max(workloads[workload], 1) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: fmt.Sprintf("%s-%s-%d", name, workload, i),
				Labels: map[string]string{"track": workload},
				OwnerReferences: []metav1.OwnerReference{{
					Kind: "StatefulSet", Name: workload, Controller: new(true),
				}},
			}}
			c.pods = append(c.pods, pod)
			slice.Endpoints = append(slice.Endpoints, discovery.Endpoint{
				Conditions: discovery.EndpointConditions{Ready: new(workloads[workload] > 0)},
				TargetRef:  &corev1.ObjectReference{Namespace: "shop", Name: pod.Name},
			})
		}
	}
	c.slices = append(c.slices, slice)
}

func (c *cluster) virtualService(age time.Duration, spec *networking.VirtualService) {
	c.routes.virtualServices = append(c.routes.virtualServices, &istio.VirtualService{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: fmt.Sprint("vs-", len(c.routes.virtualServices)),
			CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age)),
		},
		Spec: *spec.DeepCopy(),
	})
}

func (c *cluster) httpRoute(t *testing.T, spec string) {
	t.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"namespace": "shop", "name": "route"}}}
	var content map[string]any
	if err := yaml.Unmarshal([]byte(spec), &content); err != nil {
		t.Fatal(err)
	}
	object.Object["spec"] = content
	routes := readHTTPRoutes([]runtime.Object{object})
	if len(routes) != 1 {
		t.Fatalf("the route does not read: %s", spec)
	}
	c.routes.httpRoutes = append(c.routes.httpRoutes, routes...)
}

func (c *cluster) world() *world {
	return newWorld(c.services, c.pods, nil, c.slices, c.routes, &c.table)
}

// written writes shares as "part workload", with "!" for nobody and "+" for
// mirrored ones.
func written(shares []share) string {
	var parts []string
	for _, s := range shares {
		name := s.group.workload
		if name == "" {
			name = "!" + s.group.service
		}
		if s.mirrored {
			name = "+" + name
		}
		parts = append(parts, fmt.Sprintf("%.3g %s", s.part, name))
	}
	return strings.Join(parts, ", ")
}

func to(host string, weight int32) *networking.HTTPRouteDestination {
	return &networking.HTTPRouteDestination{Destination: &networking.Destination{Host: host}, Weight: weight}
}

func subset(host, name string, weight int32) *networking.HTTPRouteDestination {
	return &networking.HTTPRouteDestination{Destination: &networking.Destination{Host: host, Subset: name}, Weight: weight}
}

func TestRoute(t *testing.T) {
	everyone := &networking.StringMatch{MatchType: &networking.StringMatch_Prefix{Prefix: "/"}}
	insider := map[string]*networking.StringMatch{"cookie": {MatchType: &networking.StringMatch_Exact{Exact: "insider"}}}
	split := []*networking.HTTPRoute{{Route: []*networking.HTTPRouteDestination{to("web", 90), to("web-canary", 10)}}}
	for _, c := range []struct {
		name  string
		host  string
		build func(*cluster)
		want  string
	}{
		{"no VirtualService: evenly over ready pods", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 3, "b": 1, "c": 0})
		}, "0.75 a, 0.25 b"},
		{"no ready pod", "web", func(c *cluster) { c.service("web", map[string]int{"a": 0}) }, "1 !web"},
		{"no such host", "nowhere", func(*cluster) {}, "1 !nowhere"},
		{"weights", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 4})
			c.service("web-canary", map[string]int{"b": 1})
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"web"}, Http: split})
		}, "0.9 a, 0.1 b"},
		{"weight on an empty track", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 4})
			c.service("web-canary", map[string]int{"b": 0})
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"web.shop.svc.cluster.local"}, Http: split})
		}, "0.1 !web-canary, 0.9 a"},
		{"weight on a service that is not there", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 4})
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"web.shop"}, Http: split})
		}, "0.1 !web-canary, 0.9 a"},
		{"weight left out of the only destination", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 1})
			c.service("other", map[string]int{"b": 1})
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"web"}, Http: []*networking.HTTPRoute{
				{Route: []*networking.HTTPRouteDestination{to("other", 0)}},
			}})
		}, "1 b"},
		{"subsets", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 3, "b": 1})
			c.routes.destinationRules = []*istio.DestinationRule{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "shop"},
				Spec: networking.DestinationRule{Host: "web", Subsets: []*networking.Subset{
					{Name: "stable", Labels: map[string]string{"track": "a"}}, {Name: "canary", Labels: map[string]string{"track": "b"}},
				}},
			}}
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"web"}, Http: []*networking.HTTPRoute{
				{Route: []*networking.HTTPRouteDestination{subset("web", "stable", 70), subset("web", "canary", 20), subset("web", "unknown", 10)}},
			}})
		}, "0.1 !web, 0.7 a, 0.2 b"},
		{"plain users do not match headers", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 1})
			c.service("web-canary", map[string]int{"b": 1})
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"web"}, Http: []*networking.HTTPRoute{
				{Match: []*networking.HTTPMatchRequest{{Headers: insider}}, Route: []*networking.HTTPRouteDestination{to("web-canary", 100)}},
				{Match: []*networking.HTTPMatchRequest{{Uri: everyone}}, Route: []*networking.HTTPRouteDestination{to("web", 100)}},
			}})
		}, "1 a"},
		{"the mirror gets a copy", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 1})
			c.service("web-canary", map[string]int{"b": 1})
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"web"}, Http: []*networking.HTTPRoute{{
				Route:  []*networking.HTTPRouteDestination{to("web", 100)},
				Mirror: &networking.Destination{Host: "web-canary"}, MirrorPercentage: &networking.Percent{Value: 50},
			}}})
		}, "1 a, 0.5 +b"},
		{"a gateway's VirtualService is not for clients in the mesh", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 1})
			c.service("web-canary", map[string]int{"b": 1})
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"web"}, Gateways: []string{"front"}, Http: split})
		}, "1 a"},
		{"an outside host", "web.example.com", func(c *cluster) {
			c.service("web", map[string]int{"a": 1})
			c.service("web-canary", map[string]int{"b": 1})
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"*.example.com"}, Gateways: []string{"front"}, Http: split})
		}, "0.9 a, 0.1 b"},
		{"the oldest VirtualService wins", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 1})
			c.service("web-canary", map[string]int{"b": 1})
			c.virtualService(0, &networking.VirtualService{Hosts: []string{"web"}, Http: []*networking.HTTPRoute{
				{Route: []*networking.HTTPRouteDestination{to("web-canary", 100)}},
			}})
			c.virtualService(time.Hour, &networking.VirtualService{Hosts: []string{"web"}, Http: split})
		}, "0.9 a, 0.1 b"},
		{"an HTTPRoute of a Service", "web", func(c *cluster) {
			c.service("web", map[string]int{"a": 1})
			c.service("web-canary", map[string]int{"b": 1})
			c.httpRoute(t, `
parentRefs: [{group: "", kind: Service, name: web, port: 80}]
rules:
- matches: [{headers: [{name: x-canary, value: always}]}]
  backendRefs: [{name: web-canary, port: 80}]
- matches: [{path: {type: PathPrefix, value: /}}]
  backendRefs: [{name: web, port: 80, weight: 60}, {name: web-canary, port: 80, weight: 40}]
  filters: [{type: RequestMirror, requestMirror: {percent: 10, backendRef: {name: web-canary, port: 80}}}]
`)
		}, "0.6 a, 0.1 +b, 0.4 b"},
		{"an HTTPRoute of a gateway", "web.example.com", func(c *cluster) {
			c.service("web", map[string]int{"a": 1})
			c.httpRoute(t, `
parentRefs: [{name: front}]
hostnames: [web.example.com]
rules: [{backendRefs: [{name: web, port: 80}, {name: missing, port: 80}]}]
`)
		}, "0.5 !missing, 0.5 a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var cluster cluster
			c.build(&cluster)
			if got := written(cluster.world().route("shop", c.host)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestFlowGivesEachItsPart(t *testing.T) {
	shares := []share{
		{group: group{workload: "a"}, part: .9},
		{group: group{workload: "b", behaviour: behaviour.Behaviour{ErrorRate: .3}}, part: .1},
		{group: group{workload: "c"}, part: .25, mirrored: true},
	}
	for _, rate := range []float64{3, 7.5, 50, 1000} {
		var f flow
		f.reroute(shares)
		total, failed := map[string]int{}, map[string]int{}
		for range 2000 { // of 50 ms
			for _, b := range f.take(rate, 50*time.Millisecond) {
				total[b.share.group.workload] += b.total
				failed[b.share.group.workload] += b.failed
			}
		}
		n := rate * 100
		for workload, want := range map[string]float64{"a": .9 * n, "b": .1 * n, "c": .25 * n} {
			if got := float64(total[workload]); got < want-1 || got > want+1 {
				t.Errorf("rate %v: %s got %v requests, want %v", rate, workload, got, want)
			}
		}
		if sum := total["a"] + total["b"]; float64(sum) < n-1 || float64(sum) > n {
			t.Errorf("rate %v: %d requests in all, want %v", rate, sum, n)
		}
		if got, want := float64(failed["b"]), .03*n; got < want-1 || got > want+1 {
			t.Errorf("rate %v: b failed %v requests, want %v", rate, got, want)
		}
	}
}

func TestNobodyServesIsAnError(t *testing.T) {
	var f flow
	f.reroute([]share{{group: group{service: "web"}, part: 1}})
	batches := f.take(10, time.Second)
	if len(batches) != 1 || batches[0].total != 10 || batches[0].failed != 10 {
		t.Errorf("%+v", batches)
	}
}
