package cluster

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/render/objects"
)

// remakable returns an object that is there, and that has to be deleted and made anew because the API server changes it no more, if
// nothing is lost by that. Else the error says what stands against it; refused is what the API server said.
func (c *Client) remakable(ctx context.Context, m *memory, t target, p planned, refused error) (*unstructured.Unstructured, error) {
	if !immutable(refused.Error()) || !mayRemake(p) {
		return nil, refused
	}
	obj, err := t.resource.Get(ctx, p.key.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	why := spared(obj.GetAnnotations())
	switch {
	case c.whose(m, obj) != "":
		return nil, &notOursError{c.whose(m, obj)}
	case why == "" && len(obj.GetOwnerReferences()) > 0:
		why = "it belongs to " + obj.GetOwnerReferences()[0].Kind + " " + obj.GetOwnerReferences()[0].Name
	case why == "" && p.key.Kind == "Job":
		why = unfinished(obj)
	case why == "":
		why, err = c.inUse(ctx, p.key)
	}
	if err == nil && why != "" {
		err = errors.New("it can't be changed in place, and is not deleted and made anew: " + why)
	}
	return obj, err
}

// mayRemake: a Job's past is not lost with it, and what an immutable ConfigMap or Secret held is in the release before.
func mayRemake(p planned) bool {
	gk := p.key.GroupKind()
	return gk.Group == "batch" && gk.Kind == "Job" || gk.Group == "" && (gk.Kind == "ConfigMap" || gk.Kind == "Secret")
}

// unfinished says that a Job has still to run; empty: it is over, or nothing of it runs.
func unfinished(job *unstructured.Unstructured) string {
	if condition(job, "Complete") == "True" || condition(job, "Failed") == "True" {
		return ""
	}
	if suspended, _, _ := unstructured.NestedBool(job.Object, "spec", "suspend"); suspended {
		return ""
	}
	return "it still runs; expected it to finish first, or to be deleted by hand"
}

// inUse names a pod that uses a ConfigMap or Secret; empty: none does. What is immutable the kubelet reads once for all pods of a
// node: those that come would get what it was before.
func (c *Client) inUse(ctx context.Context, k objects.Key) (string, error) {
	pods, err := c.core.Pods(k.Namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return "", fmt.Errorf("listing the pods that may use it: %w", err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&pod.Spec)
		if err != nil {
			return "", fmt.Errorf("reading pod %s: %w", pod.Name, err)
		}
		if project.Uses(spec, k.Kind, k.Name) {
			return "pod " + pod.Name + " uses it, and would keep what it was; expected a name with a hash of its content in the chart", nil
		}
	}
	return "", nil
}

// remake deletes what remakable has found and makes it anew. An agent that dies in between finds it missing.
func (c *Client) remake(ctx context.Context, m *memory, t target, p planned, refused error) (*unstructured.Unstructured, error) {
	obj, err := c.remakable(ctx, m, t, p, refused)
	if err != nil {
		return nil, err
	}
	uid, policy := obj.GetUID(), metav1.DeletePropagationBackground
	err = t.resource.Delete(ctx, p.key.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &policy,
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("deleting what can't be changed in place: %w", err)
	}
	t.feed.missing(p.key, uid)
	return c.put(ctx, t, p)
}
