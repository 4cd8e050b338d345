package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// Observe compares the cluster with what is desired, and looks at the workloads of both tracks. It writes
// nothing. An object that can't be prepared, or looked at, is pending, and keeps nothing else from being looked at; an
// error says that the API server does not answer, or that a workload can't be looked at, without which nobody knows how
// the tracks are. Workloads cost a request only when their status has changed since the last look; pods are listed only
// for workloads that are not ready, whose news the function given to OnChange is told of.
//
// A track is ready when its workloads are and all its objects are as desired; the routing's count with the stable track's.
// The canary track is not while the workload of a canary before is on it: a Service may select the pods of both.
// A track without workloads is ready. A workload that is to have no pods is ready and available.
func (c *Client) Observe(ctx context.Context, app delivery.App, d project.Desired) (delivery.Seen, error) {
	plan := c.plan(app, d)
	m := c.of(app)
	var seen delivery.Seen
	pending, err := c.pending(ctx, m, plan)
	if err != nil {
		return delivery.Seen{}, err
	}
	var others []string
	for _, i := range c.leftovers(m, plan) {
		if len(plan) > 0 && c.kept(m, i.key()) {
			continue // it goes, or is another app's, when that is known; nothing waits for it
		}
		pending[i.key()] = "not deleted yet"
		if i.Track == trackCanary && objects.Workload(i.key().GroupKind()) {
			others = append(others, is(i.key(), pending[i.key()]))
		}
	}
	seen.Applied, seen.Pending = len(pending) == 0, some(pending)
	seen.Exposed = !slices.ContainsFunc(plan, func(p planned) bool {
		return pending[p.key] != "" && (p.track == trackRouting || objects.Workload(p.key.GroupKind()))
	})
	if seen.Stable, err = c.track(ctx, m, app, trackStable, d.StableWorkloads, pending); err != nil {
		return delivery.Seen{}, err
	}
	if seen.Canary, err = c.track(ctx, m, app, trackCanary, d.CanaryWorkloads, pending); err != nil {
		return delivery.Seen{}, err
	}
	unready(&seen.Stable, amiss(plan, pending, trackStable, trackRouting))
	unready(&seen.Canary, append(amiss(plan, pending, trackCanary), others...))
	if len(d.Outgoing) > 0 {
		out, err := c.track(ctx, m, app, trackStable, d.Outgoing, pending)
		if err != nil {
			return delivery.Seen{}, err
		}
		seen.Stable.Available = out.Available
	}
	if len(d.CanaryWorkloads) == 0 {
		seen.Canary = rollout.Track{}
	}
	return seen, nil
}

// pending finds what is planned and not in the cluster as planned.
func (c *Client) pending(ctx context.Context, m *memory, plan []planned) (map[objects.Key]string, error) {
	out := map[objects.Key]string{}
	for _, p := range plan {
		why, err := c.difference(ctx, m, p)
		switch {
		case err != nil && (away(err) || ctx.Err() != nil):
			return nil, err
		case err != nil:
			why = "not to be looked at: " + err.Error()
		}
		if why != "" {
			out[p.key] = why
		}
	}
	return out, nil
}

// difference says how an object differs from what is desired; empty: it does not.
func (c *Client) difference(ctx context.Context, m *memory, p planned) (string, error) {
	if p.fault != nil {
		return "not to be applied: " + p.fault.Error(), nil //nolint:nilerr // that is how it differs
	}
	i := c.item(m, p.key)
	if i.Applied != "" && i.Applied != p.hash && p.crds != objects.CRDsCreate {
		return "not applied yet", nil
	}
	t, err := c.target(ctx, p.object.GroupVersionKind(), p.key.Namespace)
	if why := outOfReach(err); why != "" {
		return why, nil
	}
	if err != nil {
		return "", objectError("reading", p.key, err)
	}
	l, exists := t.feed.get(p.key)
	switch {
	case !exists && c.expired(m, p):
		return "", nil
	case !exists:
		return "missing", nil
	case l.leaving:
		return "being deleted", nil
	case c.unchanged(m, p, l):
		return "", nil
	}
	obj, err := t.resource.Get(ctx, p.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "missing", nil
	}
	if err != nil {
		return "", objectError("reading", p.key, err)
	}
	l = t.feed.record(obj)
	if isCRD(p) {
		leave, err := c.leaveCRD(ctx, m, t, p, obj)
		switch {
		case leave:
			return "", nil
		case err != nil:
			return err.Error(), nil //nolint:nilerr // that is how it differs
		}
	}
	same, err := c.asDesired(ctx, t, p, obj)
	if err != nil {
		return "", err
	}
	if l.leaving || !same {
		return "changed by somebody else" + changer(c.cfg.FieldManager, p.object, obj), nil
	}
	c.learn(m, p, l)
	return "", nil
}

// asDesired reports whether applying an object would change nothing. The server is asked: only it knows its defaults, its
// units, and which lists are owned whole.
func (c *Client) asDesired(ctx context.Context, t target, p planned, live *unstructured.Unstructured) (bool, error) {
	if owned, err := ownedBy(c.cfg.FieldManager, live); err != nil || owned == nil {
		return false, err
	}
	opts := metav1.ApplyOptions{FieldManager: c.cfg.FieldManager, Force: true, DryRun: []string{metav1.DryRunAll}}
	applied, err := t.resource.Apply(ctx, p.key.Name, p.object, opts)
	if err != nil {
		return false, objectError("comparing", p.key, err)
	}
	return reflect.DeepEqual(content(live), content(applied)), nil
}

// content is an object without its status and what the server keeps of each write.
func content(o *unstructured.Unstructured) map[string]any {
	out := maps.Clone(o.Object)
	delete(out, "status")
	meta, _ := out["metadata"].(map[string]any)
	meta = maps.Clone(meta)
	for _, field := range []string{"managedFields", "resourceVersion", "generation"} {
		delete(meta, field)
	}
	out["metadata"] = meta
	return out
}

// away reports whether an error is no answer of the API server. Whatever it answers about one object or one kind, such as
// that a conversion webhook does not, keeps no others from being looked at.
func away(err error) bool {
	var request *url.Error
	return errors.As(err, &request)
}

// outOfReach says why objects of a kind can't be looked at, where that is for good; empty: for no such reason. One such
// object keeps no others from being looked at and applied.
func outOfReach(err error) string {
	switch {
	case meta.IsNoMatchError(err):
		return "its kind is not served"
	case apierrors.IsForbidden(err):
		return "not to be read with the agent's rights"
	default:
		return ""
	}
}

// changer names who changed an object, as far as it shows: another release that has the object too, or whoever wrote
// last.
func changer(manager string, desired, live *unstructured.Unstructured) string {
	want, now := desired.GetAnnotations(), live.GetAnnotations()
	name, namespace := now[releaseNameAnnotation], now[releaseNamespaceAnnotation]
	if name != "" && (name != want[releaseNameAnnotation] || namespace != want[releaseNamespaceAnnotation]) {
		return " (it says that it belongs to Helm release " + namespace + "/" + name + ")"
	}
	var last metav1.ManagedFieldsEntry
	for _, m := range live.GetManagedFields() {
		if m.Subresource == "" && !isOurs(m, manager) && m.Time != nil && (last.Time == nil || !m.Time.Before(last.Time)) {
			last = m
		}
	}
	if last.Manager == "" {
		return ""
	}
	return " (" + last.Manager + ")"
}

// track sums up its workloads. It is as good as its worst.
func (c *Client) track(ctx context.Context, m *memory, app delivery.App, t track, workloads []*unstructured.Unstructured, pending map[objects.Key]string) (rollout.Track, error) {
	sum := rollout.Track{Ready: true, Available: true}
	var messages []string
	for _, w := range workloads {
		p := c.planOne(app, t, w)
		// News that comes while we look must not be missed.
		c.waitFor(m, p.key, true)
		one, err := c.workload(ctx, p, pending[p.key])
		if err != nil {
			return sum, err
		}
		// A canary that takes traffic must not be out of sight for a moment.
		c.waitFor(m, p.key, !one.Ready || t == trackCanary)
		sum.Ready, sum.Available, sum.Failed = sum.Ready && one.Ready, sum.Available && one.Available, sum.Failed || one.Failed
		if one.Message != "" {
			messages = append(messages, one.Message)
		}
	}
	sum.Message = strings.Join(messages, "; ")
	return sum, nil
}

// amiss says what is planned for some tracks and not as desired.
func amiss(plan []planned, pending map[objects.Key]string, tracks ...track) []string {
	var out []string
	for _, p := range plan {
		if why := pending[p.key]; why != "" && slices.Contains(tracks, p.track) {
			out = append(out, is(p.key, why))
		}
	}
	return out
}

// unready takes back that a track is ready while something is amiss with its objects: a workload can be up without the
// Service that leads to it.
func unready(sum *rollout.Track, amiss []string) {
	if sum.Ready && len(amiss) > 0 {
		sum.Ready, sum.Available = false, true
		sum.Message = firstOf(amiss, 3)
	}
}

// waitFor asks for every news of a workload, or no longer for more than changes by others.
func (c *Client) waitFor(m *memory, k objects.Key, wait bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if wait {
		m.waiting[k] = true
	} else {
		delete(m.waiting, k)
	}
}

// workload looks at one. Pending says why it is not applied as desired; what it shows then is another release's
// readiness, or none.
func (c *Client) workload(ctx context.Context, p planned, pending string) (rollout.Track, error) {
	t, err := c.target(ctx, p.object.GroupVersionKind(), p.key.Namespace)
	if why := outOfReach(err); why != "" {
		return rollout.Track{Message: is(p.key, why)}, nil
	}
	if err != nil {
		return rollout.Track{}, err
	}
	l, exists := t.feed.get(p.key)
	if !exists {
		return rollout.Track{Message: is(p.key, "missing")}, nil
	}
	one, known := c.health.get(p.key, l)
	if !known {
		obj, err := t.resource.Get(ctx, p.key.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return rollout.Track{Message: is(p.key, "missing")}, nil
		}
		if err != nil {
			return rollout.Track{}, objectError("reading", p.key, err)
		}
		if one, err = c.assessed(ctx, p.key, t.feed.record(obj), obj); err != nil {
			return rollout.Track{}, err
		}
	}
	if pending != "" {
		one.Ready, one.Failed = false, false
		one.Message = is(p.key, pending)
	}
	return one, nil
}

// assessed judges a workload, and remembers that until it changes where its pods can't change it.
func (c *Client) assessed(ctx context.Context, k objects.Key, l live, obj *unstructured.Unstructured) (rollout.Track, error) {
	one, err := c.assess(ctx, k, obj)
	// Pods go on without their workload's status saying so.
	if err == nil && (one.Ready || outdated(obj)) {
		c.health.put(k, l, one)
	}
	return one, err
}

// outdated: the workload's controller has not seen its newest spec, so that its status is of an older one.
func outdated(obj *unstructured.Unstructured) bool {
	return statusInt(obj, "observedGeneration") < obj.GetGeneration()
}

// assess judges a workload by its status, and by its pods when it is not ready. While its controller has not seen the newest
// spec it is not ready, and the pods that the status counts are those of an older one. They serve all the same: a canary's pods
// change only while it has no traffic, so what is new then is their number.
func (c *Client) assess(ctx context.Context, k objects.Key, obj *unstructured.Unstructured) (rollout.Track, error) {
	result, err := status.Compute(obj)
	if err != nil {
		return rollout.Track{}, fmt.Errorf("judging the status of %s: %w", k, err)
	}
	one := rollout.Track{
		Ready: result.Status == status.CurrentStatus, Available: available(obj), Failed: result.Status == status.FailedStatus,
	}
	if n := leastPods(obj); one.Ready && statusInt(obj, "readyReplicas") < n {
		one.Ready = false
		one.Message = is(k, fmt.Sprintf("to have %d pods, as its scaler has it, and has %d", n, statusInt(obj, "readyReplicas")))
		return one, nil
	}
	if one.Ready {
		one.Available = one.Available || wantedPods(obj) == 0
		return one, nil
	}
	one.Message = fmt.Sprintf("%s %s: %s", k.Kind, k.Name, result.Message)
	if !objects.Workload(k.GroupKind()) || outdated(obj) {
		return one, nil
	}
	pods, err := c.newestPods(ctx, k, obj)
	if apierrors.IsForbidden(err) {
		return one, nil
	}
	if err != nil {
		return rollout.Track{}, err
	}
	sum := judgePods(pods, wantedPods(obj))
	if why := conditionMessage(obj, "ReplicaFailure"); why != "" && int64(len(pods)) < wantedPods(obj) {
		// A quota or an admission webhook leaves no pods that could say what is wrong.
		sum.message += ": " + why
	}
	if one.Failed {
		sum.message += " (" + result.Message + ")"
	}
	one.Failed = one.Failed || sum.failed
	one.Message = sum.message
	return one, nil
}

// available reports whether at least one pod can take traffic.
func available(obj *unstructured.Unstructured) bool {
	switch objects.KeyOf(obj).GroupKind() {
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}, schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		return statusInt(obj, "availableReplicas") > 0
	case schema.GroupKind{Group: "apps", Kind: "DaemonSet"}:
		return statusInt(obj, "numberAvailable") > 0
	default:
		result, err := status.Compute(obj)
		return err == nil && result.Status == status.CurrentStatus
	}
}

func statusInt(obj *unstructured.Unstructured, field string) int64 {
	n, _, _ := unstructured.NestedInt64(obj.Object, "status", field)
	return n
}

// leastPods is with how many pods a scaled canary is ready.
func leastPods(obj *unstructured.Unstructured) int64 {
	n, err := strconv.ParseInt(obj.GetAnnotations()[project.LeastAnnotation], 10, 32)
	if err != nil {
		return 0
	}
	return n
}

// wantedPods is how many pods a workload is to have.
func wantedPods(obj *unstructured.Unstructured) int64 {
	if obj.GetKind() == "DaemonSet" {
		return statusInt(obj, "desiredNumberScheduled")
	}
	n, found, err := unstructured.NestedInt64(obj.Object, "spec", "replicas")
	if !found || err != nil {
		return 1
	}
	return n
}

// some names at most three of the objects.
func some(pending map[objects.Key]string) string {
	var parts []string
	for k, why := range pending {
		parts = append(parts, k.String()+": "+why)
	}
	return firstOf(parts, 3)
}

// healthCache keeps judgements of workloads that hold for as long as their resourceVersion stays.
type healthCache struct {
	mu      sync.Mutex
	entries map[objects.Key]judged
}

type judged struct {
	uid     types.UID
	version string
	track   rollout.Track
}

func newHealthCache() *healthCache { return &healthCache{entries: map[objects.Key]judged{}} }

func (h *healthCache) get(k objects.Key, l live) (rollout.Track, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j, ok := h.entries[k]
	return j.track, ok && j.uid == l.uid && j.version == l.version
}

func (h *healthCache) put(k objects.Key, l live, t rollout.Track) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries[k] = judged{uid: l.uid, version: l.version, track: t}
}

func (h *healthCache) forget(k objects.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.entries, k)
}
