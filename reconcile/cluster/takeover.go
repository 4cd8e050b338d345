package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/render/objects"
)

// What another tool has made to serve goes on serving while an app is taken over: its Services lead to where they led until the
// app's own pods are ready, and these are as many as served.

// heldBack says why a Service can't be taken over yet that leads elsewhere than the app would have it, as Flagger's lead to a copy of
// the workload; nil: it can.
func (c *Client) heldBack(ctx context.Context, m *memory, plan []planned, p planned) error {
	if p.key.GroupKind() != (schema.GroupKind{Kind: "Service"}) || c.item(m, p.key).Applied != "" {
		return nil
	}
	t, err := c.target(ctx, p.object.GroupVersionKind(), p.key.Namespace)
	if err != nil {
		return nil //nolint:nilerr // applying tells
	}
	if _, exists := t.feed.get(p.key); !exists {
		return nil
	}
	live, err := t.resource.Get(ctx, p.key.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return objectError("reading", p.key, err)
	}
	led, leads := selectorOf(live), selectorOf(p.object)
	owned, err := ownedBy(c.cfg.FieldManager, live)
	if err != nil || owned != nil || len(led) == 0 || len(leads) == 0 || maps.Equal(led, leads) {
		return nil //nolint:nilerr // taking over tells
	}
	for _, w := range plan {
		if !objects.Workload(w.key.GroupKind()) || w.key.Namespace != p.key.Namespace || !labels.SelectorFromSet(leads).Matches(objects.PodLabels(w.object)) {
			continue
		}
		if why, err := c.notReady(ctx, m, w); err != nil || why != "" {
			return objectError("taking over", p.key, errors.Join(err, fmt.Errorf("it leads to %s until the app's own pods are ready: %s",
				labels.FormatLabels(led), why)))
		}
	}
	return nil
}

func selectorOf(service *unstructured.Unstructured) map[string]string {
	set, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
	return set
}

// notReady says why a workload's pods are not those that the app is to have; empty: they are.
func (c *Client) notReady(ctx context.Context, m *memory, p planned) (why string, err error) {
	if c.item(m, p.key).Applied == "" {
		return is(p.key, "not taken over yet"), nil
	}
	pending, err := c.difference(ctx, m, p)
	if err != nil {
		return "", err
	}
	one, err := c.workload(ctx, p, pending)
	c.waitFor(m, p.key, !one.Ready)
	if err != nil || one.Ready {
		return "", err
	}
	return one.Message, nil
}

// scaledUp is a workload that Flagger has scaled to zero, as it is applied first: with as many pods as serve in its place. Where a
// scaler sizes it nobody else would give it any, for a HorizontalPodAutoscaler leaves one alone that is at zero.
func (c *Client) scaledUp(ctx context.Context, t target, p planned) (*unstructured.Unstructured, error) {
	if _, said, _ := unstructured.NestedFieldNoCopy(p.object.Object, "spec", "replicas"); said || !objects.Workload(p.key.GroupKind()) {
		return p.object, nil
	}
	live, err := t.resource.Get(ctx, p.key.Name, metav1.GetOptions{})
	if err != nil || wantedPods(live) > 0 {
		return p.object, err
	}
	primary, err := t.resource.Get(ctx, project.FlaggerPrimary(p.key.Name), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return p.object, nil
	}
	if err != nil || wantedPods(primary) == 0 {
		return p.object, err
	}
	return sized(p.object, wantedPods(primary)), nil
}
