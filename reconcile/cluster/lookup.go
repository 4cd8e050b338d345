package cluster

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/render/lookup"
	"github.com/sluice-cd/sluice/render/objects"
)

// maxLookup bounds a list that templates ask for.
const maxLookup = 500

// Lookup answers what the templates of an app ask: of its own namespace, and of Secrets those alone that its release has made.
// Whoever may write a chart could read everybody's else.
func (c *Client) Lookup(ctx context.Context, app delivery.App, q lookup.Question) (lookup.Found, error) {
	gvk := schema.FromAPIVersionAndKind(q.APIVersion, q.Kind)
	mapping, err := c.kinds.mapping(gvk)
	switch {
	case meta.IsNoMatchError(err):
		return lookup.Found{}, nil
	case err != nil:
		return lookup.Found{}, err
	case mapping.Scope.Name() != meta.RESTScopeNameNamespace:
		return lookup.Found{Withheld: "it lives in no namespace"}, nil
	case q.Namespace != app.Namespace:
		return lookup.Found{Withheld: "it is not in the app's namespace " + app.Namespace}, nil
	}
	if err := c.cfg.Allow.Namespace(app.Namespace); err != nil {
		return lookup.Found{Withheld: err.Error()}, nil //nolint:nilerr // that is why
	}
	secret := gvk.GroupKind() == objects.Secret
	live, err := c.lookup(ctx, mapping, q)
	switch {
	case apierrors.IsNotFound(err):
		return lookup.Found{}, nil
	case apierrors.IsForbidden(err) && !secret:
		return lookup.Found{Withheld: withoutValues(err.Error())}, nil
	case err != nil:
		return lookup.Found{}, fmt.Errorf("asking the API server: %w", err)
	}
	var found lookup.Found
	for i := range live {
		own := c.made(app, &live[i])
		if secret && !own {
			if q.Name != "" {
				found.Withheld = "it is not of release " + app.ReleaseName + ", and Secrets of others are not told"
			}
			continue
		}
		live[i].SetManagedFields(nil)
		found.Objects = append(found.Objects, lookup.Object{Unstructured: &live[i], Own: own})
	}
	return found, nil
}

// lookup reads one object, or lists some.
func (c *Client) lookup(ctx context.Context, mapping *meta.RESTMapping, q lookup.Question) ([]unstructured.Unstructured, error) {
	resource := c.acting.Resource(mapping.Resource).Namespace(q.Namespace)
	if q.Name == "" {
		list, err := resource.List(ctx, metav1.ListOptions{Limit: maxLookup})
		if err != nil {
			return nil, err
		}
		if list.GetContinue() != "" {
			return nil, fmt.Errorf("there are more than %d", maxLookup)
		}
		return list.Items, nil
	}
	live, err := resource.Get(ctx, q.Name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return []unstructured.Unstructured{*live}, nil
}

// made reports whether an object is of the app's release, or is left to it. States and Helm's records are nobody's.
func (c *Client) made(app delivery.App, live *unstructured.Unstructured) bool {
	if kind, _, _ := unstructured.NestedString(live.Object, "type"); kind == helmSecretType || kind == stateSecretType {
		return false
	}
	labels, annotations := live.GetLabels(), live.GetAnnotations()
	if environment := labels[environmentLabel]; environment != "" {
		return environment == labelValue(c.cfg.Environment) && labels[appLabel] == labelValue(app.Name)
	}
	return annotations[adoptAnnotation] == "true" ||
		annotations[releaseNameAnnotation] == app.ReleaseName && annotations[releaseNamespaceAnnotation] == app.Namespace
}
