package cluster

import (
	"context"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/render/objects"
)

// Try implements delivery.Objects. Objects that are in the cluster as desired cost nothing, each other one a request.
func (c *Client) Try(ctx context.Context, app delivery.App, d project.Desired) error {
	return errors.Join(c.try(ctx, app, d)...)
}

func (c *Client) try(ctx context.Context, app delivery.App, d project.Desired) (faults []error) {
	m, plan := c.of(app), c.plan(app, d)
	for _, p := range plan {
		if err := c.tryOne(ctx, m, p, plan); err != nil {
			faults = append(faults, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return faults
}

func (c *Client) tryOne(ctx context.Context, m *memory, p planned, plan []planned) error {
	if p.fault != nil {
		return refusal(p, p.fault)
	}
	t, err := c.target(ctx, p.object.GroupVersionKind(), p.key.Namespace)
	switch {
	case meta.IsNoMatchError(err) && brings(plan, p):
		return nil // nobody can tell before its definition is there
	case err != nil:
		return refusedOf(p, err)
	}
	if err := c.cfg.Allow.Object(p.object, t.clusterWide); err != nil {
		return refusal(p, err)
	}
	l, exists := t.feed.get(p.key)
	switch {
	case exists && (l.leaving || c.unchanged(m, p, l)):
		return nil
	case exists && isCRD(p):
		if leave, err := c.tryCRD(ctx, m, t, p); leave || err != nil {
			return err
		}
	}
	opts := metav1.ApplyOptions{FieldManager: c.cfg.FieldManager, Force: true, DryRun: []string{metav1.DryRunAll}}
	_, err = t.resource.Apply(ctx, p.key.Name, p.object, opts)
	if apierrors.IsNotFound(err) && (p.key.Namespace == m.app.Namespace || bringsNamespace(plan, p.key.Namespace)) {
		return nil // it will be there
	}
	if exists && err != nil {
		_, err = c.remakable(ctx, m, t, p, err)
	}
	return refusedOf(p, err)
}

// refusedOf is nil where an error says nothing about the object itself.
func refusedOf(p planned, err error) error {
	switch {
	case err == nil, apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), strings.Contains(err.Error(), "does not support dry run"):
		return nil
	case away(err), apierrors.IsTooManyRequests(err), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err), apierrors.IsServiceUnavailable(err),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return objectError("trying", p.key, err) // it is no answer
	}
	return refusal(p, err)
}

// refusedError is an answer that somebody has to do something about, whatever status it came with.
type refusedError struct{ error }

// Is implements errors.Is.
func (refusedError) Is(target error) bool { return target == delivery.ErrRefused }

func (e refusedError) Unwrap() error { return e.error }

func refusal(p planned, err error) error { return refusedError{objectError("trying", p.key, err)} }

// brings reports whether the definition of an object's kind is among what is planned.
func brings(plan []planned, p planned) bool {
	for _, q := range plan {
		if q.key.GroupKind() != objects.CRD {
			continue
		}
		group, _, _ := unstructured.NestedString(q.object.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(q.object.Object, "spec", "names", "kind")
		if group == p.key.Group && kind == p.key.Kind {
			return true
		}
	}
	return false
}

// bringsNamespace reports whether a namespace is among what is planned.
func bringsNamespace(plan []planned, name string) bool {
	for _, q := range plan {
		if q.key.GroupKind() == objects.Namespace && q.key.Name == name {
			return true
		}
	}
	return false
}
