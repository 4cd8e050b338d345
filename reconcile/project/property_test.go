package project

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

var phases = []rollout.Phase{
	rollout.Idle, rollout.Installing, rollout.Updating, rollout.Starting, rollout.Analyzing,
	rollout.Promoting, rollout.Draining, rollout.RollingBack, rollout.Removing,
}

// FuzzProject projects made-up releases in every phase and checks what must hold of each projection.
func FuzzProject(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed, uint8(seed*7%101))
	}
	f.Fuzz(func(t *testing.T, seed uint64, weight uint8) {
		checkSeed(t, seed, int(weight)%101)
	})
}

// TestProperties runs many seeds, and makes sure that the releases made up are mostly ones that can be projected.
func TestProperties(t *testing.T) {
	const seeds = 300
	good := 0
	for seed := range uint64(seeds) {
		good += checkSeed(t, seed, int(seed%101))
	}
	if good < seeds/2 {
		t.Errorf("only %d of %d releases could be projected", good, seeds)
	}
}

// checkSeed returns 1 when the seed's releases could be given a canary.
func checkSeed(t *testing.T, seed uint64, weight int) int {
	t.Helper()
	in := madeUp(rand.New(rand.NewPCG(seed, 1)))
	var canary *unstructured.Unstructured
	for i, phase := range append(phases, rollout.Draining, rollout.RollingBack) {
		in.State = rollout.State{Phase: phase, Exposure: rollout.Exposure{Weight: weight}, Drained: i >= len(phases)}
		checkPure(t, in)
		d, err := Project(in)
		if err != nil {
			continue
		}
		c := checker{t, fmt.Sprintf("seed %d, %s at %d", seed, phase, weight), in, d}
		c.check()
		if len(d.CanaryWorkloads) == 1 {
			if canary != nil && !reflect.DeepEqual(canary, d.CanaryWorkloads[0]) {
				t.Errorf("%s: the canary workload is not the one of the phases before", c.at)
			}
			canary = d.CanaryWorkloads[0]
		}
	}
	if canary == nil {
		return 0
	}
	return 1
}

type checker struct {
	t  *testing.T
	at string
	in Input
	d  Desired
}

func (c *checker) check() {
	c.t.Helper()
	c.in.State.Stable, c.in.State.Target = rollout.Release{Digest: "stable"}, rollout.Release{Digest: "target"}
	if _, canary := c.in.State.Tracks(); canary.IsZero() {
		c.checkRest()
	} else {
		c.checkTracks()
	}
	c.checkRetained()
	c.checkWeights()
}

// checkRest: at rest everything is as rendered, but for the routing that was generated.
func (c *checker) checkRest() {
	c.t.Helper()
	if len(c.d.Canary)+len(c.d.CanaryWorkloads) > 0 {
		c.t.Errorf("%s: %d objects of a canary that should not be there", c.at, len(c.d.Canary))
	}
	stable, _ := c.in.State.Tracks()
	release := map[string][]*unstructured.Unstructured{"stable": c.in.Stable, "target": c.in.Target}[stable.Digest]
	got := append(slices.Clone(c.d.Stable), c.d.Routing...)
	for _, obj := range release {
		if !contains(got, obj) {
			c.t.Errorf("%s: %s is not as rendered", c.at, describe(obj))
		}
	}
	for _, obj := range c.d.Stable {
		if !contains(release, obj) && !c.retains(obj) {
			c.t.Errorf("%s: %s is not of the release", c.at, describe(obj))
		}
	}
}

// retains reports whether an object may be there because the release before has it and the rollout is not over.
func (c *checker) retains(obj *unstructured.Unstructured) bool {
	return c.in.State.Phase.Retains() && contains(c.in.Stable, obj) && list(c.in.Target).find(objects.KeyOf(obj)) == nil
}

// checkRetained: what pods of the release before may need is there until the rollout is over.
func (c *checker) checkRetained() {
	c.t.Helper()
	for _, obj := range c.in.Stable {
		if c.retains(obj) && !leads(obj) && !contains(c.d.Stable, obj) {
			c.t.Errorf("%s: %s is taken away too soon", c.at, describe(obj))
		}
	}
}

func (c *checker) checkTracks() {
	c.t.Helper()
	if len(c.d.CanaryWorkloads) != 1 {
		c.t.Fatalf("%s: %d canary workloads", c.at, len(c.d.CanaryWorkloads))
	}
	workload := c.d.CanaryWorkloads[0]
	canary := objects.PodLabels(workload)
	stable := slices.Concat(c.in.Stable, c.in.Target, c.d.Stable, c.d.Routing)
	avoid, err := podSelectors(stable)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, selector := range avoid {
		if selector.Matches(canary) {
			c.t.Errorf("%s: %s (%s) selects canary pods %s", c.at, selector.owner, selector, canary)
		}
	}
	selectors, err := podSelectors(c.d.Canary)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, selector := range selectors {
		if !selector.Matches(canary) {
			c.t.Errorf("%s: %s (%s) of the canary track does not select canary pods %s", c.at, selector.owner, selector, canary)
		}
		if other := list(stable).selects(selector.Selector); other != nil {
			c.t.Errorf("%s: %s (%s) of the canary track selects pods of %s", c.at, selector.owner, selector, describe(other))
		}
	}
	c.checkFewest(canary)
}

// checkFewest compares the labels that were rewritten with the answer of a search through all sets.
func (c *checker) checkFewest(canary labels.Set) {
	c.t.Helper()
	source, err := FindTarget(c.in.Target, c.in.Plan.Target)
	if err != nil {
		c.t.Fatal(err)
	}
	pod := objects.PodLabels(source)
	avoid, _ := podSelectors(c.in.Stable, c.in.Target)
	got := 0
	for k := range pod {
		if canary[k] != pod[k] {
			got++
		}
	}
	keys := slices.Sorted(maps.Keys(pod))
	for set := range 1 << len(keys) {
		var chosen []string
		for i, k := range keys {
			if set&(1<<i) != 0 {
				chosen = append(chosen, k)
			}
		}
		if len(chosen) < got && matching(pod, chosen, avoid) == "" {
			c.t.Errorf("%s: %d labels rewritten (%s), %s would do", c.at, got, canary, chosen)
			return
		}
	}
}

// checkWeights: both tracks have Services, the canary's part of what pointed at the app is exactly its weight, and every
// route's weights add up to what they were, if need be a hundred times.
func (c *checker) checkWeights() {
	c.t.Helper()
	all := slices.Concat(c.d.Stable, c.d.Canary, c.d.Routing)
	stable, coming := c.in.State.Tracks()
	release := map[string][]*unstructured.Unstructured{"stable": c.in.Stable, "target": c.in.Target}[stable.Digest]
	for _, obj := range c.d.Routing {
		if objects.GroupKind(obj) != virtualService {
			continue
		}
		var rendered []map[string]any
		if brought := list(release).find(objects.KeyOf(obj)); brought != nil {
			rendered = routesOf(brought)
		}
		for i, route := range routesOf(obj) {
			sum, want := 0, 100
			if rendered != nil {
				want = sumOf(mapsAt(rendered[i], "route"))
			}
			weights := map[string]int{}
			for _, d := range mapsAt(route, "route") {
				host := stringAt(d, "destination", "host")
				if list(all).find(objects.Key{Kind: "Service", Namespace: "ns", Name: host}) == nil && host != "elsewhere" {
					c.t.Errorf("%s: %s routes to %s, which is not there", c.at, describe(obj), host)
				}
				weight, _ := intAt(d, "weight")
				weights[host] += weight
			}
			if sum = sumOf(mapsAt(route, "route")); sum != want && sum != 100*want {
				c.t.Errorf("%s: weights of route %d of %s add up to %d, want %d", c.at, i, describe(obj), sum, want)
			}
			web, canary := weights["web"], weights["web-canary"]
			if !coming.IsZero() && canary*100 != (web+canary)*c.in.State.Weight {
				c.t.Errorf("%s: route %d of %s gives the canary %d of %d", c.at, i, describe(obj), canary, web+canary)
			}
		}
	}
}

// sumOf adds the weights of a route up; an only destination without one has them all.
func sumOf(destinations []map[string]any) int {
	if len(destinations) == 1 && at(destinations[0], "weight") == nil {
		return 100
	}
	sum := 0
	for _, d := range destinations {
		weight, _ := intAt(d, "weight")
		sum += weight
	}
	return sum
}

// madeUp makes two releases of one app up: labels and selectors from a small set, so that they overlap often.
func madeUp(r *rand.Rand) Input {
	pod := someLabels(r, 1+r.IntN(5))
	in := Input{App: "web", Namespace: "ns", Plan: rollout.Plan{Strategy: environments.StrategyCanary}}
	in.Plan.Target = environments.Target{Kind: "Deployment", Name: "web"}
	if r.IntN(2) == 0 {
		in.Plan.Service = environments.Service{Port: 80, TrafficPolicy: map[string]any{
			"connectionPool": map[string]any{"http": map[string]any{"http1MaxPendingRequests": 1 + r.IntN(3)}},
		}}
	}
	// web routes whatever else selects its pods.
	in.Plan.Service.Name = "web"
	in.Plan.Service.Port = 80
	services := r.IntN(4)
	brought := r.IntN(3) == 0
	in.Stable = madeRelease(r, pod, services, brought)
	if r.IntN(3) == 0 {
		pod = maps.Clone(pod)
		pod["version"] = "2"
	}
	in.Target = madeRelease(r, pod, services, brought != (r.IntN(8) == 0))
	return in
}

func madeRelease(r *rand.Rand, pod map[string]string, services int, brought bool) []*unstructured.Unstructured {
	var objs []*unstructured.Unstructured
	for i := range services {
		name := []string{"web", "web2", "metrics", "other"}[i]
		selector := someOf(r, pod)
		if name == "other" {
			selector = someLabels(r, 2)
		}
		objs = append(objs, object("v1", "Service", name, map[string]any{
			"selector": anyMap(selector), "ports": []any{map[string]any{"port": int64(80)}},
		}))
	}
	objs = append(objs, madeDeployment(r, "web", pod))
	if r.IntN(3) == 0 {
		objs = append(objs, madeDeployment(r, "worker", someLabels(r, 3)))
	}
	if brought {
		w := int64(r.IntN(101))
		objs = append(objs, object("networking.istio.io/v1beta1", "VirtualService", "mine", map[string]any{"http": []any{
			map[string]any{"route": []any{destination("web", nil)}},
			map[string]any{"route": []any{destination("web", w), destination("elsewhere", 100-w)}},
			map[string]any{"route": []any{destination("web", int64(1)), destination("elsewhere", int64(r.IntN(3)))}},
		}}))
	}
	return objs
}

func madeDeployment(r *rand.Rand, name string, pod map[string]string) *unstructured.Unstructured {
	selector := map[string]any{"matchLabels": anyMap(someOf(r, pod))}
	if r.IntN(4) == 0 {
		k := slices.Sorted(maps.Keys(pod))[0]
		selector = map[string]any{"matchExpressions": []any{
			map[string]any{"key": k, "operator": "In", "values": []any{pod[k], "x"}},
			map[string]any{"key": k, "operator": "Exists"},
			map[string]any{"key": "absent", "operator": "NotIn", "values": []any{"x"}},
		}}
	}
	return object("apps/v1", "Deployment", name, map[string]any{
		"replicas": int64(2),
		"selector": selector,
		"template": map[string]any{"metadata": map[string]any{"labels": anyMap(pod)}, "spec": map[string]any{}},
	})
}

func destination(host string, weight any) map[string]any {
	d := map[string]any{"destination": map[string]any{"host": host}}
	if weight != nil {
		d["weight"] = weight
	}
	return d
}

func object(apiVersion, kind, name string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name, "namespace": "ns"}, "spec": spec,
	}}
}

func someLabels(r *rand.Rand, n int) map[string]string {
	set := map[string]string{}
	for range n {
		k := []string{"app", "app.kubernetes.io/name", "tier", "team", "track", "version"}[r.IntN(6)]
		set[k] = []string{"a", "b", "a-canary"}[min(r.IntN(12), 2)%3]
	}
	return set
}

func someOf(r *rand.Rand, set map[string]string) map[string]string {
	keys := slices.Sorted(maps.Keys(set))
	some := map[string]string{}
	for range 1 + r.IntN(2) {
		k := keys[r.IntN(len(keys))]
		some[k] = set[k]
	}
	return some
}
