package sim

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// cluster is what the API server holds, and the controllers behind it. Objects are replaced, never written to.
type cluster struct {
	objects map[string]*unstructured.Unstructured
	// saved is the agent's state as JSON, nil when there is none; inventory is saved with it.
	saved     []byte
	inventory []string
	// touched: the saved state is not the one that the agent knows: somebody else has written or deleted it, or the answer to
	// a write of the agent's was lost.
	touched bool
	// direct is the command that somebody has left beside the saved state, directID its name; empty: there is none.
	direct, directID string
	// told is the state that the Helm records say.
	told string
	// records are the Helm records, by their revision less one.
	records []record
	pods    []*pods
}

// pods are those of one template of one Deployment.
type pods struct {
	deployment string
	image      string
	labels     map[string]any
	since      time.Time
	ready      bool
	crashing   bool
	// downUntil is when pods that flap are back.
	downUntil time.Time
}

// record is a Helm record.
type record struct {
	id     rollout.Release
	status status
}

// status of a Helm record.
type status string

const (
	pending      status = "pending"
	deployed     status = "deployed"
	uninstalling status = "uninstalling"
	over         status = "over"
)

// settle makes the records say what the state says.
func (c *cluster) settle(s rollout.State) {
	for i := range c.records {
		r := &c.records[i]
		switch n := i + 1; {
		case s.Phase == rollout.Removing && (n == s.Stable.Revision || n == s.Target.Revision):
			r.status = uninstalling
		case n == s.Stable.Revision:
			r.status = deployed
		case n == s.Target.Revision:
			r.status = pending
		default:
			r.status = over
		}
	}
}

// losable: there is a state, and the records say the same. Where it is lost between its saving and that, two accidents at
// once, what it had just promoted is taken for what was under way.
func (c *cluster) losable() bool { return c.saved != nil && c.told == string(c.saved) }

// found is what is left of an app whose state is gone.
func (c *cluster) found() rollout.Found {
	f := rollout.Found{Lost: len(c.records) > 0, Revision: len(c.records)}
	for i, r := range c.records {
		id := r.id
		id.Revision = i + 1
		switch r.status {
		case deployed:
			f.Stable = id
		case pending, uninstalling:
			f.Target, f.Removing = id, r.status == uninstalling
		case over:
		}
	}
	if f.Target.Revision < f.Stable.Revision {
		f.Target, f.Removing = rollout.Release{}, false
	}
	if !f.Lost {
		return f
	}
	// The objects that carry the app's labels, which in this world are all. Routing comes last, and goes first.
	rank := func(k string) int {
		switch o := c.objects[k]; {
		case o.GetKind() == "VirtualService":
			return 2
		case isCanary(o.GetName()):
			return 1
		}
		return 0
	}
	c.inventory = slices.Sorted(maps.Keys(c.objects))
	slices.SortStableFunc(c.inventory, func(x, y string) int { return rank(x) - rank(y) })
	f.Canary = slices.ContainsFunc(c.inventory, func(k string) bool { return rank(k) == 1 })
	return f
}

func newCluster() *cluster { return &cluster{objects: map[string]*unstructured.Unstructured{}} }

func keyOf(o *unstructured.Unstructured) string { return o.GetKind() + " " + o.GetName() }

// all that is desired, in the order of application.
func all(d project.Desired) []*unstructured.Unstructured {
	return slices.Concat(d.Stable, d.Canary, d.Routing)
}

// holds reports whether an object is there as desired.
func (c *cluster) holds(o *unstructured.Unstructured) bool {
	live := c.objects[keyOf(o)]
	return live != nil && (live == o || reflect.DeepEqual(live.Object, o.Object))
}

// left says what there is still of the app; empty: nothing.
func (c *cluster) left() string {
	switch {
	case c.saved != nil:
		return "its state"
	case len(c.records) > 0:
		return "a Helm record"
	case len(c.objects) > 0:
		return fmt.Sprint(slices.Sorted(maps.Keys(c.objects)))
	}
	return ""
}

// leftovers of the inventory, newest first.
func (c *cluster) leftovers(d project.Desired) []string {
	var out []string
	for _, k := range slices.Backward(c.inventory) {
		if !slices.ContainsFunc(all(d), func(o *unstructured.Unstructured) bool { return keyOf(o) == k }) {
			out = append(out, k)
		}
	}
	return out
}

func (c *cluster) intend(keys []string) {
	for _, k := range keys {
		if !slices.Contains(c.inventory, k) {
			c.inventory = append(c.inventory, k)
		}
	}
}

// take deletes an object; pods go with their Deployment.
func (c *cluster) take(k string) {
	delete(c.objects, k)
	c.pods = slices.DeleteFunc(c.pods, func(p *pods) bool { return "Deployment "+p.deployment == k })
}

// remove takes an object that is no longer desired.
func (c *cluster) remove(k string) {
	c.take(k)
	c.inventory = slices.DeleteFunc(c.inventory, func(i string) bool { return i == k })
}

// seen is what cluster.Client.Observe tells.
type seen struct {
	applied        bool
	exposed        bool
	pending        string
	stable, canary rollout.Track
}

func (c *cluster) observe(d project.Desired) seen {
	pending := append(c.missing(all(d)), c.leftovers(d)...)
	s := seen{applied: len(pending) == 0, pending: strings.Join(pending, ", ")}
	s.exposed = len(c.missing(slices.Concat(d.Routing, d.StableWorkloads, d.CanaryWorkloads))) == 0
	s.stable = c.track(d.StableWorkloads, slices.Concat(d.Stable, d.Routing), false)
	if len(d.Outgoing) > 0 {
		s.stable.Available = c.track(d.Outgoing, nil, false).Available
	}
	if len(d.CanaryWorkloads) > 0 {
		s.canary = c.track(d.CanaryWorkloads, d.Canary, true)
		if slices.ContainsFunc(c.leftovers(d), func(k string) bool { return isCanary(k) && strings.HasPrefix(k, "Deployment ") }) {
			s.canary.Ready = false
		}
	}
	return s
}

// missing are the objects that are not there as desired.
func (c *cluster) missing(objects []*unstructured.Unstructured) []string {
	var out []string
	for _, o := range objects {
		if !c.holds(o) {
			out = append(out, keyOf(o))
		}
	}
	return out
}

// track is the health of a track: that of its worst workload, and none is ready while an object of the track is not as
// desired.
func (c *cluster) track(workloads, objects []*unstructured.Unstructured, canary bool) rollout.Track {
	sum := rollout.Track{Ready: true, Available: true}
	for _, w := range workloads {
		one := c.health(w, canary)
		sum.Ready, sum.Available, sum.Failed = sum.Ready && one.Ready, sum.Available && one.Available, sum.Failed || one.Failed
	}
	if missing := c.missing(objects); sum.Ready && len(missing) > 0 {
		sum.Ready, sum.Available = false, true
	}
	return sum
}

// health is that of one Deployment.
func (c *cluster) health(w *unstructured.Unstructured, canary bool) rollout.Track {
	live := c.objects[keyOf(w)]
	if live == nil {
		return rollout.Track{Message: "missing"}
	}
	var t rollout.Track
	var newest *pods
	for _, p := range c.podsOf(w.GetName()) {
		t.Available = t.Available || p.ready
		newest = p
	}
	current := newest != nil && newest.image == imageOf(live)
	if current {
		t.Ready = newest.ready && len(c.podsOf(w.GetName())) == 1
		t.Failed = newest.crashing
	}
	if canary && !current {
		t.Available = false
	}
	if !c.holds(w) {
		t.Ready, t.Failed = false, false
	}
	return t
}

func (c *cluster) podsOf(deployment string) []*pods {
	var out []*pods
	for _, p := range c.pods {
		if p.deployment == deployment {
			out = append(out, p)
		}
	}
	return out
}

// control is one turn of the controllers; lag tells how likely each is to be late.
func (c *cluster) control(now time.Time, late func() bool) (changed bool) {
	before := c.podsText()
	for _, d := range c.deployments() {
		if !late() {
			c.rollOut(d, now)
		}
	}
	for _, p := range c.pods {
		age := now.Sub(p.since)
		k := kind(strings.TrimPrefix(p.image, registry))
		p.ready = k != "crash" && k != "never" && age >= 5*time.Second && !now.Before(p.downUntil)
		p.crashing = k == "crash" && age >= 3*time.Second
	}
	return before != c.podsText()
}

// deployments that there are, in a certain order.
func (c *cluster) deployments() []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, k := range slices.Sorted(maps.Keys(c.objects)) {
		if strings.HasPrefix(k, "Deployment ") {
			out = append(out, c.objects[k])
		}
	}
	return out
}

// rollOut brings the newest pods up, and lets older ones go when those are ready.
func (c *cluster) rollOut(d *unstructured.Unstructured, now time.Time) {
	mine := c.podsOf(d.GetName())
	image := imageOf(d)
	i := slices.IndexFunc(mine, func(p *pods) bool { return p.image == image })
	var newest *pods
	if i < 0 {
		labels, _, _ := unstructured.NestedMap(d.Object, "spec", "template", "metadata", "labels")
		newest = &pods{deployment: d.GetName(), image: image, labels: labels, since: now}
	} else {
		newest = mine[i]
	}
	c.pods = slices.DeleteFunc(c.pods, func(p *pods) bool {
		return p == newest || p.deployment == newest.deployment && (newest.ready || !p.ready)
	})
	c.pods = append(c.pods, newest)
}

func (c *cluster) podsText() string {
	var b strings.Builder
	for _, p := range c.pods {
		fmt.Fprintf(&b, "%s=%s,%v,%v ", p.deployment, strings.TrimPrefix(p.image, registry), p.ready, p.crashing)
	}
	return b.String()
}

func imageOf(d *unstructured.Unstructured) string {
	containers, _, _ := unstructured.NestedSlice(d.Object, "spec", "template", "spec", "containers")
	for _, c := range containers {
		image, _, _ := unstructured.NestedString(c.(map[string]any), "image")
		return image
	}
	return ""
}

// endpoints are the pods that a Service of the cluster selects.
func (c *cluster) endpoints(service string) []*pods {
	s := c.objects["Service "+service]
	if s == nil {
		return nil
	}
	selector, _, _ := unstructured.NestedMap(s.Object, "spec", "selector")
	var out []*pods
	for _, p := range c.pods {
		if matches(selector, p.labels) {
			out = append(out, p)
		}
	}
	return out
}

func matches(selector, labels map[string]any) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return len(selector) > 0
}

// up reports whether a Service selects pods that are ready.
func (c *cluster) up(service string) bool {
	return slices.ContainsFunc(c.endpoints(service), func(p *pods) bool { return p.ready })
}

// down reports whether pods flap.
func (c *cluster) down(now time.Time) bool {
	return slices.ContainsFunc(c.pods, func(p *pods) bool { return now.Before(p.downUntil) })
}

// leads reports whether a Service selects what a Deployment runs, be it up or not.
func (c *cluster) leads(service string) bool {
	s := c.objects["Service "+service]
	if s == nil {
		return false
	}
	selector, _, _ := unstructured.NestedMap(s.Object, "spec", "selector")
	return slices.ContainsFunc(c.deployments(), func(d *unstructured.Unstructured) bool {
		labels, _, _ := unstructured.NestedMap(d.Object, "spec", "template", "metadata", "labels")
		return matches(selector, labels)
	})
}

// share is one destination of a route.
type share struct {
	host   string
	weight int64
}

// shares are the weights that the cluster routes by; nil without a VirtualService.
func (c *cluster) shares() []share {
	vs := c.objects["VirtualService "+appName]
	if vs == nil {
		return nil
	}
	return sharesOf(vs)
}

func sharesOf(vs *unstructured.Unstructured) []share {
	var out []share
	routes, _, _ := unstructured.NestedSlice(vs.Object, "spec", "http")
	for _, r := range routes {
		list, _, _ := unstructured.NestedSlice(r.(map[string]any), "route")
		for _, d := range list {
			host, _, _ := unstructured.NestedString(d.(map[string]any), "destination", "host")
			weight, found, _ := unstructured.NestedInt64(d.(map[string]any), "weight")
			if !found && len(list) == 1 {
				weight = 100
			}
			out = append(out, share{host, weight})
		}
	}
	return out
}

// canaryWeight is the share that the cluster gives the canary.
func (c *cluster) canaryWeight() int64 {
	for _, s := range c.shares() {
		if s.host == canaryName {
			return s.weight
		}
	}
	return 0
}

// editWeight is a person's kubectl edit.
func (c *cluster) editWeight(weight int64) bool {
	vs := c.objects["VirtualService "+appName]
	if vs == nil || len(c.shares()) != 2 {
		return false
	}
	vs = vs.DeepCopy()
	routes, _, _ := unstructured.NestedSlice(vs.Object, "spec", "http")
	list, _, _ := unstructured.NestedSlice(routes[0].(map[string]any), "route")
	for _, d := range list {
		m := d.(map[string]any)
		host, _, _ := unstructured.NestedString(m, "destination", "host")
		m["weight"] = 100 - weight
		if host == canaryName {
			m["weight"] = weight
		}
	}
	routes[0].(map[string]any)["route"] = list
	vs.Object["spec"].(map[string]any)["http"] = routes
	c.objects[keyOf(vs)] = vs
	return true
}

// summary says of an object what a reader of the trace wants to know.
func summary(o *unstructured.Unstructured) string {
	switch o.GetKind() {
	case "Deployment":
		return trim(imageOf(o))
	case "VirtualService":
		return fmt.Sprint(sharesOf(o))
	default:
		return ""
	}
}
