package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

const (
	// establishPatience is how long a new CRD may take until its objects can be made.
	establishPatience = time.Minute
	establishPoll     = 100 * time.Millisecond
	// takeOverTries bounds how often a take-over that somebody else's write disturbed begins anew.
	takeOverTries = 5
)

// Action is what Apply did to an object.
type Action string

// The actions of Apply.
const (
	Created Action = "created"
	// Configured: the object was changed to what is desired.
	Configured Action = "configured"
	// Adopted: another tool's object is ours now, changed or not.
	Adopted Action = "adopted"
	// Recreated: the object can't be changed in place, and was deleted and made anew.
	Recreated Action = "recreated"
	// Deleted: the object was pruned.
	Deleted Action = "deleted"
	// Left: the object is no longer desired and stays in the cluster; Reason says why.
	Left Action = "left"
)

// Change is one object that Apply wrote, deleted or gave up.
type Change struct {
	Key    objects.Key
	Action Action
	Reason string
}

func (c Change) String() string {
	if c.Reason == "" {
		return c.Key.String() + " " + string(c.Action)
	}
	return c.Key.String() + " " + string(c.Action) + ": " + c.Reason
}

// Result is what Apply did, in order. A pass that finds nothing to do has no changes.
type Result struct {
	Changes []Change
}

func (r *Result) add(k objects.Key, a Action, reason string) {
	r.Changes = append(r.Changes, Change{Key: k, Action: a, Reason: reason})
}

// Apply makes the cluster hold what is desired of an app in the given state, which must have been saved: first
// namespaces and CRDs, then the stable track, the canary track, the routing, each in the order given, then it
// deletes what is no longer desired. Objects that are as desired cost no request.
//
// Objects fail one by one, and the others are applied all the same, with two exceptions. Routing waits while the
// rollout is on its way up and an object that it may refer to could not be made. After a failure nothing is deleted but
// what is left of a canary track, where there is routing, all of it is as desired, and none is left over: then no traffic
// leads there any more. Result holds what was done in any case.
func (c *Client) Apply(ctx context.Context, app delivery.App, s rollout.State, d project.Desired) (Result, error) {
	var r Result
	plan := c.plan(app, d)
	m := c.of(app)
	if len(plan) == 0 && s.Phase != rollout.Removing && len(c.items(m)) > 0 {
		return r, fmt.Errorf("applying %s: nothing at all is desired; its %d objects are not deleted for that", app.Name, len(c.items(m)))
	}
	if s.Phase != rollout.Removing {
		if err := c.cfg.Allow.Namespace(app.Namespace); err != nil {
			return r, fmt.Errorf("applying %s: %w", app.Name, err)
		}
		if err := c.ensureNamespace(ctx, app.Namespace); err != nil {
			return r, err
		}
	}
	plan, faults := c.claimed(m, plan)
	c.intend(m, plan)
	if c.mustSave(m) {
		if err := c.write(ctx, m, nil, ""); err != nil {
			return r, err
		}
	}
	complete, routed, failed := c.applyAll(ctx, m, s.Phase, plan, &r)
	faults = append(faults, failed...)
	switch {
	case complete && len(faults) == 0:
		faults = append(faults, c.prune(ctx, m, s.Phase, plan, all, &r)...)
	case routed && !slices.ContainsFunc(c.leftovers(m, plan), func(i item) bool { return i.Track == trackRouting }):
		faults = append(faults, c.prune(ctx, m, s.Phase, plan, onlyCanary, &r)...)
	}
	if c.mustSave(m) {
		if err := c.write(ctx, m, nil, ""); err != nil {
			faults = append(faults, err)
		}
	}
	return r, errors.Join(faults...)
}

// plan prepares everything desired in the order of application.
func (c *Client) plan(app delivery.App, d project.Desired) []planned {
	var first, rest []planned
	seen := map[objects.Key]bool{}
	names := sync.OnceValue(func() map[string]bool { return objects.PortNames(slices.Concat(d.Stable, d.Canary, d.Routing)) })
	for _, part := range []struct {
		track   track
		objects []*unstructured.Unstructured
	}{{trackStable, d.Stable}, {trackCanary, d.Canary}, {trackRouting, d.Routing}} {
		for _, o := range part.objects {
			once, _, fault := objects.Once(o, names)
			p := c.planOne(app, part.track, once)
			p.fault = cmp.Or(p.fault, fault)
			if seen[p.key] {
				p.fault = errors.New("it is desired twice")
			}
			seen[p.key] = true
			if gk := p.key.GroupKind(); gk == objects.CRD || gk == objects.Namespace {
				first = append(first, p)
			} else {
				rest = append(rest, p)
			}
		}
	}
	return append(first, rest...)
}

func (c *Client) planOne(app delivery.App, t track, o *unstructured.Unstructured) planned {
	object, fault := prepare(app, c.owned(app.Name, t), o)
	namespaced, known := c.Namespaced(object.GroupVersionKind())
	switch {
	case known && !namespaced:
		object.SetNamespace("")
	case known && object.GetNamespace() == "":
		object.SetNamespace(app.Namespace)
	}
	hash, err := hashOf(object)
	return planned{
		key: objects.KeyOf(object), version: object.GroupVersionKind().Version, hash: hash, track: t, object: object, fault: cmp.Or(fault, err),
		crds: o.GetAnnotations()[objects.CRDsAnnotation],
	}
}

// claimed drops what belongs to another app: silently for CRDs, which several charts may bring along, else with
// an error.
func (c *Client) claimed(m *memory, plan []planned) ([]planned, []error) {
	taken := c.claimAll(m, plan)
	if len(taken) == 0 {
		return plan, nil
	}
	var ours []planned
	var faults []error
	for _, p := range plan {
		owner, other := taken[p.key]
		switch {
		case !other:
			ours = append(ours, p)
		case p.key.GroupKind() != objects.CRD:
			faults = append(faults, &ObjectError{
				Key: p.key, Verb: "applying", text: fmt.Sprintf("it belongs to app %s already", owner),
				err: errors.New("belongs to another app"),
			})
		}
	}
	return ours, faults
}

// Intend puts what is about to be desired of an app into its inventory, so that the SaveState that follows saves
// both. Without it Apply saves the inventory itself before it creates anything, which is one request more.
func (c *Client) Intend(app delivery.App, d project.Desired) {
	c.intend(c.of(app), c.plan(app, d))
}

// intend completes the inventory, which must be saved before anything new of it is created.
func (c *Client) intend(m *memory, plan []planned) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range plan {
		i, known := m.items[p.key]
		if known && i.Track == p.track {
			continue
		}
		if cl := c.claims[p.key]; cl.owner != "" && cl.owner != m.app.Name {
			continue
		}
		i.Group, i.Version, i.Kind, i.Namespace, i.Name = p.key.Group, p.version, p.key.Kind, p.key.Namespace, p.key.Name
		i.Track = p.track
		m.put(i)
		m.unsaved = m.unsaved || !known
	}
}

func (c *Client) mustSave(m *memory) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.unsaved
}

// outcome is how an object stands after it was to be applied.
type outcome int

const (
	// settled: it is as desired.
	settled outcome = iota
	// leaving: it is being deleted, and will be made anew when it is gone.
	leaving
	// refused: it exists, and is not as desired.
	refused
	// absent: it could not be made.
	absent
)

// applyAll applies the plan. Complete tells that all of it is in the cluster as desired, routed that there is routing and
// all of that is. Without any, what leads to a canary may be an object of the stable track, and nobody knows.
func (c *Client) applyAll(ctx context.Context, m *memory, phase rollout.Phase, plan []planned, r *Result) (complete, routed bool, faults []error) {
	complete, routed = true, slices.ContainsFunc(plan, func(p planned) bool { return p.track == trackRouting })
	missing := false
	for i, p := range plan {
		if p.track == trackRouting && missing && phase.Rising() {
			return false, false, append(faults, fmt.Errorf("routing of %s waits for the objects that it refers to", m.app.Name))
		}
		out, err := refused, c.heldBack(ctx, m, plan, p)
		if err == nil {
			out, err = c.applyOne(ctx, m, p, r)
		}
		if err != nil {
			faults = append(faults, err)
		}
		complete = complete && out == settled
		routed = routed && (out == settled || p.track != trackRouting)
		missing = missing || out == leaving || out == absent
		if ctx.Err() != nil {
			return false, false, faults
		}
		lastCRD := p.key.GroupKind() == objects.CRD && (i+1 == len(plan) || plan[i+1].key.GroupKind() != objects.CRD)
		if lastCRD {
			if err := c.established(ctx, plan[:i+1], r); err != nil {
				return false, false, append(faults, err)
			}
		}
	}
	return complete, routed, faults
}

// target is where an object's requests go.
type target struct {
	resource dynamic.ResourceInterface
	feed     *feed
	// clusterWide: the kind lives in no namespace.
	clusterWide bool
}

// target finds the resource of a kind in a namespace, and the feed that watches it.
func (c *Client) target(ctx context.Context, gvk schema.GroupVersionKind, namespace string) (target, error) {
	mapping, err := c.kinds.mapping(gvk)
	if err != nil {
		return target{}, err
	}
	clusterWide := mapping.Scope.Name() != meta.RESTScopeNameNamespace
	if clusterWide {
		namespace = ""
	}
	f, err := c.watches.feed(ctx, gvk.GroupKind(), mapping.Resource, namespace)
	if err != nil {
		return target{}, err
	}
	return target{resource: c.acting.Resource(mapping.Resource).Namespace(namespace), feed: f, clusterWide: clusterWide}, nil
}

// applyOne makes one object as desired.
func (c *Client) applyOne(ctx context.Context, m *memory, p planned, r *Result) (out outcome, err error) {
	t, err := c.target(ctx, p.object.GroupVersionKind(), p.key.Namespace)
	if err != nil && c.item(m, p.key).Applied != "" {
		return refused, objectError("applying", p.key, err) // it can't be looked at, and was there when it could
	}
	if err != nil {
		return absent, objectError("applying", p.key, err)
	}
	p.fault = cmp.Or(p.fault, c.cfg.Allow.Object(p.object, t.clusterWide))
	l, exists := t.feed.get(p.key)
	switch {
	case p.fault != nil && exists:
		return refused, objectError("applying", p.key, p.fault)
	case p.fault != nil:
		return absent, objectError("applying", p.key, p.fault)
	}
	if exists && c.unchanged(m, p, l) || !exists && c.expired(m, p) {
		return settled, nil
	}
	c.setBusy(m, p.key)
	defer func() { c.setIdle(m, p.key, t.feed, out == settled) }()
	failed, action, before := absent, Created, ""
	switch {
	case exists && !isCRD(p) && c.untouched(m, p, l):
		failed, action, before = refused, Configured, l.version
	case exists:
		failed = refused
		met, err := c.meet(ctx, m, t, p)
		if err != nil || met.done {
			return met.outcome, err
		}
		action, before = met.action, met.version
	}
	sent := p
	switch {
	case !exists:
		sent.object = begun(p.object)
	case c.item(m, p.key).Applied == "":
		if sent.object, err = c.scaledUp(ctx, t, p); err != nil {
			return failed, objectError("taking over", p.key, err)
		}
	}
	got, err := c.put(ctx, t, sent)
	if p.crds == objects.CRDsCreate && apierrors.IsConflict(err) {
		return settled, nil // somebody else was first
	}
	if err != nil && exists {
		if got, err = c.remake(ctx, m, t, p, err); err == nil {
			action, before = Recreated, ""
		}
	}
	if err != nil {
		return failed, objectError("applying", p.key, err)
	}
	if !exists {
		// The watch may not have seen it yet. If another tool had made it, its fields become ours now.
		if got, action, err = c.meetLate(ctx, t, p, got); err != nil {
			return refused, err
		}
	}
	if sent.object != p.object {
		// The number was for the beginning; from now on it is the scaler's.
		if _, err := c.takeOver(ctx, t, p, got); err != nil && !apierrors.IsConflict(err) {
			return refused, objectError("letting go of the replicas of", p.key, err)
		}
	}
	l = t.feed.record(got)
	c.learn(m, p, l)
	if objects.Workload(p.key.GroupKind()) && outdated(got) {
		_, _ = c.assessed(ctx, p.key, l, got) // for the next look, which asks itself where this fails
	}
	if action == Adopted || got.GetResourceVersion() != before {
		r.add(p.key, action, "") // else the server found nothing to write
	}
	return settled, nil
}

// begun is a workload as it is made first: one that a scaler sizes has the least that this leaves it, for it may take a while.
func begun(o *unstructured.Unstructured) *unstructured.Unstructured {
	n := leastPods(o)
	if _, said, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", "replicas"); n == 0 || said {
		return o
	}
	return sized(o, n)
}

// sized is a workload with a number of pods.
func sized(o *unstructured.Unstructured, n int64) *unstructured.Unstructured {
	o = o.DeepCopy()
	spec, _ := o.Object["spec"].(map[string]any)
	spec["replicas"] = n
	return o
}

// untouched: the object is as we left it, and only we want something else of it now. Then nothing is to be put right before it
// is applied. A workload's replicas may be somebody else's by now, and are looked at all the same.
func (c *Client) untouched(m *memory, p planned, l live) bool {
	i := c.item(m, p.key)
	return i.Applied != "" && i.Mark == l.mark && i.UID == l.uid && !l.leaving && !objects.Workload(p.key.GroupKind())
}

// patch is one server-side apply. It takes over fields from whoever has them: what a release says, holds; but for a definition that
// is only made where there is none.
func (c *Client) patch(ctx context.Context, t target, p planned) (*unstructured.Unstructured, error) {
	got, err := c.put(ctx, t, p)
	if err != nil {
		return nil, objectError("applying", p.key, err)
	}
	return got, nil
}

// put is patch with the API server's own words, which may repeat values.
func (c *Client) put(ctx context.Context, t target, p planned) (*unstructured.Unstructured, error) {
	opts := metav1.ApplyOptions{FieldManager: c.cfg.FieldManager, Force: p.crds != objects.CRDsCreate}
	got, err := t.resource.Apply(ctx, p.key.Name, p.object, opts)
	if err != nil {
		c.lostNamespace(err)
	}
	return got, err
}

// unchanged: neither we nor anybody else want anything of the object.
func (c *Client) unchanged(m *memory, p planned, l live) bool {
	if l.leaving || p.crds == objects.CRDsCreate {
		return !l.leaving // there it is
	}
	i := c.item(m, p.key)
	other := i.Other && p.crds == "" // stays as it is, whatever is wanted of it
	return (other || i.Applied == p.hash && i.Mark == l.mark) && i.UID == l.uid
}

// expired: a Job is missing that was made as it is desired, and that Kubernetes deletes by itself some time after it has finished. Made
// again it would run again.
func (c *Client) expired(m *memory, p planned) bool {
	gk := p.key.GroupKind()
	_, goes, _ := unstructured.NestedFieldNoCopy(p.object.Object, "spec", "ttlSecondsAfterFinished")
	i := c.item(m, p.key)
	return gk.Group == "batch" && gk.Kind == "Job" && goes && i.UID != "" && i.Applied == p.hash
}

// meeting is what came of looking at an object before applying it.
type meeting struct {
	// done: there is nothing to apply, for the reason in outcome.
	done    bool
	outcome outcome
	// action that applying will be, if the object's resourceVersion does not stay version.
	action  Action
	version string
}

// meet looks at an object that exists before it is applied.
func (c *Client) meet(ctx context.Context, m *memory, t target, p planned) (meeting, error) {
	for range takeOverTries {
		obj, err := t.resource.Get(ctx, p.key.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return meeting{action: Created}, nil
		}
		if err != nil {
			return meeting{outcome: refused}, objectError("reading", p.key, err)
		}
		l := t.feed.record(obj)
		if l.leaving {
			return meeting{done: true, outcome: leaving}, nil
		}
		if isCRD(p) {
			leave, err := c.leaveCRD(ctx, m, t, p, obj)
			switch {
			case leave:
				return meeting{done: true, outcome: settled}, nil
			case err != nil:
				return meeting{done: true, outcome: refused}, objectError("applying", p.key, err)
			}
		}
		if whose := c.whose(m, obj); whose != "" {
			return meeting{done: true, outcome: refused}, objectError("applying", p.key, &notOursError{whose})
		}
		adopting, err := c.takeOver(ctx, t, p, obj)
		switch {
		case apierrors.IsConflict(err):
			continue
		case err != nil:
			return meeting{outcome: refused}, objectError("taking over", p.key, err)
		case adopting:
			return meeting{action: Adopted}, nil
		}
		return meeting{action: Configured, version: obj.GetResourceVersion()}, nil
	}
	return meeting{outcome: refused}, objectError("taking over", p.key, errors.New("somebody else keeps changing it"))
}

// meetLate takes over an object that turned out to exist when it was applied.
func (c *Client) meetLate(ctx context.Context, t target, p planned, got *unstructured.Unstructured) (*unstructured.Unstructured, Action, error) {
	for range takeOverTries {
		entries, err := mergeFormer(c.cfg.FieldManager, got.GetManagedFields(), p.object)
		if err != nil {
			return nil, "", objectError("taking over", p.key, err)
		}
		if entries == nil {
			return got, Created, nil
		}
		err = c.setManagers(ctx, t, p.key, got, entries)
		if err == nil {
			got, err = c.patch(ctx, t, p)
			return got, Adopted, err
		}
		if !apierrors.IsConflict(err) {
			return nil, "", objectError("taking over", p.key, err)
		}
		if got, err = t.resource.Get(ctx, p.key.Name, metav1.GetOptions{}); err != nil {
			return nil, "", objectError("reading", p.key, err)
		}
	}
	return nil, "", objectError("taking over", p.key, errors.New("somebody else keeps changing it"))
}

// takeOver puts the managed fields right, see takeOver, and reports whether another tool's became ours.
func (c *Client) takeOver(ctx context.Context, t target, p planned, obj *unstructured.Unstructured) (bool, error) {
	had, err := ownedBy(c.cfg.FieldManager, obj)
	if err != nil {
		return false, err
	}
	entries, err := takeOver(c.cfg.FieldManager, obj, p.object)
	if err != nil || entries == nil {
		return had == nil && err == nil, err
	}
	return had == nil, c.setManagers(ctx, t, p.key, obj, entries)
}

// setManagers replaces the managed fields and nothing else, if the object is still the one that was read.
func (c *Client) setManagers(ctx context.Context, t target, k objects.Key, obj *unstructured.Unstructured, entries []metav1.ManagedFieldsEntry) error {
	patch, err := json.Marshal([]map[string]any{
		{"op": "replace", "path": "/metadata/managedFields", "value": entries},
		// Replaced rather than tested: the server then answers with a conflict.
		{"op": "replace", "path": "/metadata/resourceVersion", "value": obj.GetResourceVersion()},
	})
	if err != nil {
		return fmt.Errorf("encoding managed fields: %w", err)
	}
	got, err := t.resource.Patch(ctx, k.Name, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: c.cfg.FieldManager})
	if err == nil {
		t.feed.record(got)
	}
	return err
}

// established waits until the CRDs among the objects that were just written are served.
func (c *Client) established(ctx context.Context, plan []planned, r *Result) error {
	written := map[objects.Key]bool{}
	for _, ch := range r.Changes {
		written[ch.Key] = true
	}
	ctx, cancel := context.WithTimeout(ctx, establishPatience)
	defer cancel()
	for _, p := range plan {
		if p.key.GroupKind() != objects.CRD || !written[p.key] {
			continue
		}
		if err := c.waitEstablished(ctx, p); err != nil {
			return objectError("waiting for", p.key, err)
		}
	}
	return nil
}

// waitEstablished waits until the server has accepted a CRD and lists its kind.
func (c *Client) waitEstablished(ctx context.Context, p planned) error {
	t, err := c.target(ctx, p.object.GroupVersionKind(), "")
	if err != nil {
		return err
	}
	err = wait.PollUntilContextCancel(ctx, establishPoll, true, func(ctx context.Context) (bool, error) {
		obj, err := t.resource.Get(ctx, p.key.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if condition(obj, "NamesAccepted") == "False" {
			return false, errors.New("its names are taken by another CRD")
		}
		return condition(obj, "Established") == "True" && c.kinds.lists(obj), nil
	})
	if err != nil && ctx.Err() != nil {
		return errors.New("it is not established yet")
	}
	return err
}

// condition returns the status of a condition; empty when there is none.
func condition(o *unstructured.Unstructured, kind string) string {
	status, _ := findCondition(o, kind)
	return status
}

// conditionMessage is what a condition says while it is true; empty while it is not.
func conditionMessage(o *unstructured.Unstructured, kind string) string {
	if status, message := findCondition(o, kind); status == "True" {
		return message
	}
	return ""
}

func findCondition(o *unstructured.Unstructured, kind string) (status, message string) {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, item := range list {
		if m, ok := item.(map[string]any); ok && m["type"] == kind {
			status, _ = m["status"].(string)
			message, _ = m["message"].(string)
			return strings.TrimSpace(status), message
		}
	}
	return "", ""
}
