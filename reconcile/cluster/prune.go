package cluster

import (
	"context"
	"errors"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

const (
	pruneAnnotation  = "sluice.dev/prune"
	policyAnnotation = "helm.sh/resource-policy"
)

// leftovers of the inventory are not desired any more: routing first, so that nothing points at what goes, and
// then the newest first.
func (c *Client) leftovers(m *memory, plan []planned) []item {
	desired := make(map[objects.Key]bool, len(plan))
	for _, p := range plan {
		desired[p.key] = true
	}
	var out []item
	for _, i := range c.items(m) {
		if !desired[i.key()] {
			out = append(out, i)
		}
	}
	slices.Reverse(out)
	slices.SortStableFunc(out, func(x, y item) int { return y.Track.pruneOrder() - x.Track.pruneOrder() })
	return out
}

// pruneOrder is the higher the sooner a track's leftovers go.
func (t track) pruneOrder() int {
	if t == trackRouting {
		return 1
	}
	return 0
}

// What prune may delete.
func all(item) bool          { return true }
func onlyCanary(i item) bool { return i.Track == trackCanary }

// prune deletes the leftovers that it may. An object stays in the inventory until it is seen to be gone. Of an app that is
// being removed everything goes, and only then may nothing be desired. Else nothing goes while routing is left that could not
// be deleted: it may lead to what would go.
func (c *Client) prune(ctx context.Context, m *memory, phase rollout.Phase, plan []planned, may func(item) bool, r *Result) []error {
	if len(plan) == 0 && phase != rollout.Removing {
		return nil
	}
	var faults []error
	leads := false // there is routing that could not be deleted
	for _, i := range c.leftovers(m, plan) {
		if !may(i) {
			continue
		}
		if i.Track != trackRouting && leads {
			break
		}
		if err := c.pruneOne(ctx, m, i, r); err != nil {
			faults = append(faults, err)
			leads = leads || i.Track == trackRouting && phase != rollout.Removing
		}
	}
	return faults
}

func (c *Client) pruneOne(ctx context.Context, m *memory, i item, r *Result) error {
	k := i.key()
	if c.wantedElsewhere(m.app.Name, k) {
		c.giveUp(m, k, r, "another app has it now")
		return nil
	}
	if c.onPrune != nil && i.Track == trackStable {
		why, wait := c.onPrune(m.app.Name, k)
		c.keeps(m, k, wait)
		switch {
		case wait:
			return nil
		case why != "":
			c.giveUp(m, k, r, why)
			return nil
		}
	}
	if objects.Irreplaceable(k.GroupKind()) {
		c.giveUp(m, k, r, irreplaceable)
		return nil
	}
	t, err := c.target(ctx, schema.GroupVersionKind{Group: i.Group, Version: i.Version, Kind: i.Kind}, i.Namespace)
	if meta.IsNoMatchError(err) {
		c.forgetItem(m, k)
		return nil
	}
	if err != nil {
		return objectError("deleting", k, err)
	}
	l, exists := t.feed.get(k)
	if !exists {
		c.forgetItem(m, k)
		return nil
	}
	if l.leaving {
		return nil
	}
	return c.remove(ctx, m, t, i, r)
}

// remove deletes one object unless something speaks against it.
func (c *Client) remove(ctx context.Context, m *memory, t target, i item, r *Result) error {
	k := i.key()
	obj, err := t.resource.Get(ctx, k.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		c.forgetItem(m, k)
		return nil
	}
	if err != nil {
		return objectError("reading", k, err)
	}
	if why := c.keep(m.app, i, obj); why != "" {
		c.giveUp(m, k, r, why)
		return nil
	}
	uid, policy := obj.GetUID(), metav1.DeletePropagationBackground
	err = t.resource.Delete(ctx, k.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &policy,
	})
	switch {
	case apierrors.IsConflict(err):
		return objectError("deleting", k, errors.New("it has just been made anew"))
	case err != nil && !apierrors.IsNotFound(err):
		return objectError("deleting", k, err)
	}
	r.add(k, Deleted, "")
	return c.confirmGone(ctx, m, t, k, uid)
}

// confirmGone lets go of an object that was deleted, or waits for the watch's word when something holds it.
func (c *Client) confirmGone(ctx context.Context, m *memory, t target, k objects.Key, uid types.UID) error {
	obj, err := t.resource.Get(ctx, k.Name, metav1.GetOptions{})
	if err == nil && obj.GetUID() == uid {
		t.feed.record(obj)
		return nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return objectError("reading", k, err)
	}
	t.feed.missing(k, uid)
	c.forgetItem(m, k)
	return nil
}

// keep says why an object must not be deleted; empty: it may.
func (c *Client) keep(app delivery.App, i item, obj *unstructured.Unstructured) string {
	annotations := obj.GetAnnotations()
	name, namespace := annotations[releaseNameAnnotation], annotations[releaseNamespaceAnnotation]
	ours, err := ownedBy(c.cfg.FieldManager, obj)
	switch {
	case i.UID != "" && i.UID != obj.GetUID():
		return "somebody else has made it anew"
	case spared(annotations) != "":
		return spared(annotations)
	case err != nil || ours == nil:
		return "it was never applied by us"
	case name != "" && name != app.ReleaseName, namespace != "" && namespace != app.Namespace:
		return "it belongs to Helm release " + namespace + "/" + name
	default:
		return ""
	}
}

// Stays says why an object outlives its app, as far as it says itself; empty: it is deleted with the app.
func Stays(o *unstructured.Unstructured) string {
	if objects.Irreplaceable(objects.GroupKind(o)) {
		return irreplaceable
	}
	return spared(o.GetAnnotations())
}

// irreplaceable is why a CRD, a Namespace or a volume stays.
const irreplaceable = "objects of this kind are never deleted"

// spared says by which mark somebody keeps an object from being deleted; empty: by none.
func spared(annotations map[string]string) string {
	switch {
	case annotations[pruneAnnotation] == "disabled":
		return pruneAnnotation + ": disabled"
	case annotations[adoptAnnotation] == "true":
		return "it was there before, " + adoptAnnotation
	case annotations[policyAnnotation] == "keep":
		return policyAnnotation + ": keep"
	default:
		return ""
	}
}

func (c *Client) wantedElsewhere(app string, k objects.Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.claims[k]
	return cl.owner != "" && cl.owner != app || cl.contender != ""
}

// giveUp takes an object that stays in the cluster out of the inventory.
func (c *Client) giveUp(m *memory, k objects.Key, r *Result, why string) {
	c.forgetItem(m, k)
	r.add(k, Left, why)
}

func (c *Client) forgetItem(m *memory, k objects.Key) {
	c.health.forget(k)
	c.mu.Lock()
	defer c.mu.Unlock()
	m.drop(k)
	delete(m.waiting, k)
	c.release(m.app.Name, k)
}
