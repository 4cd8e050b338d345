package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/render/objects"
)

// adoptAnnotation on an object lets an app have it that did not make it.
const adoptAnnotation = "sluice.dev/adopt"

// notOursError says whose an object is.
type notOursError struct{ whose string }

// Is implements errors.Is.
func (*notOursError) Is(target error) bool { return target == delivery.ErrNotOurs }

func (e *notOursError) Error() string {
	return e.whose + `; expected none of that name, or the annotation ` + adoptAnnotation + `: "true" on it, which leaves it to this app`
}

// Existing implements delivery.Objects. Objects that the app has already cost nothing, nor do those that are not there.
func (c *Client) Existing(ctx context.Context, app delivery.App, desired []*unstructured.Unstructured) (taken []string, refused error) {
	m := c.of(app)
	faults := c.meetAll(ctx, m, desired, func(key objects.Key, live *unstructured.Unstructured) {
		if live.GetAnnotations()[adoptAnnotation] == "true" {
			taken = append(taken, key.String())
		}
	})
	return taken, errors.Join(faults...)
}

// Has implements delivery.Objects, with the agent's own rights and nothing of the object but its metadata.
func (c *Client) Has(ctx context.Context, k objects.Key) (bool, error) {
	mapping, err := c.kinds.mapper.RESTMapping(k.GroupKind())
	if err != nil {
		return false, fmt.Errorf("looking up kind %s: %w", k.GroupKind(), err)
	}
	_, err = c.metadata.Resource(mapping.Resource).Namespace(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil && !apierrors.IsForbidden(err):
		return false, objectError("looking for", k, err)
	}
	return true, nil
}

// meetAll reads those of some objects that exist and are not known to be the app's, and passes on the ones that it may have.
func (c *Client) meetAll(ctx context.Context, m *memory, desired []*unstructured.Unstructured, visit func(objects.Key, *unstructured.Unstructured)) (refused []error) {
	for _, o := range desired {
		p := c.planOne(m.app, trackStable, o)
		if c.item(m, p.key).UID != "" || p.key.GroupKind() == objects.CRD {
			continue // CRDs are left as they are where they are somebody else's
		}
		t, err := c.target(ctx, p.object.GroupVersionKind(), p.key.Namespace)
		if err != nil {
			continue // a kind that is not there yet, or can't be looked at: applying tells
		}
		if _, exists := t.feed.get(p.key); !exists {
			continue
		}
		live, err := t.resource.Get(ctx, p.key.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			refused = append(refused, objectError("reading", p.key, err))
		case c.whose(m, live) != "":
			refused = append(refused, objectError("applying", p.key, &notOursError{c.whose(m, live)}))
		default:
			visit(p.key, live)
		}
	}
	return refused
}

// whose says to whom an object belongs that exists; empty: the app may have it. It is the app's, if it is one of this
// environment, where apps settle it among themselves; if Helm made it for the same release; or if somebody has said so. The
// namespace of the app is everybody's who lives there.
func (c *Client) whose(m *memory, live *unstructured.Unstructured) string {
	labels, annotations := live.GetLabels(), live.GetAnnotations()
	environment := labels[environmentLabel]
	name, namespace := annotations[releaseNameAnnotation], annotations[releaseNamespaceAnnotation]
	same := namespace == m.app.Namespace && (name == m.app.ReleaseName || m.app.SharedName != "" && name == m.app.SharedName)
	switch {
	case annotations[adoptAnnotation] == "true", environment == labelValue(c.cfg.Environment), environment == "" && same,
		objects.KeyOf(live).GroupKind() == objects.Namespace && live.GetName() == m.app.Namespace:
		return ""
	case environment != "":
		return "it belongs to app " + labels[appLabel] + " of environment " + environment
	case name != "":
		return fmt.Sprintf("it belongs to Helm release %s/%s", namespace, name)
	default:
		return "it is there already" + madeBy(live)
	}
}

// madeBy names who has written an object.
func madeBy(live *unstructured.Unstructured) string {
	var names []string
	for _, m := range live.GetManagedFields() {
		if m.Subresource == "" && !slices.Contains(names, m.Manager) {
			names = append(names, m.Manager)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return ", made by " + strings.Join(names, ", ")
}
