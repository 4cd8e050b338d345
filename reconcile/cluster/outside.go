package cluster

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Outside lists what lives in a namespace of some kinds. Kinds that the API server does not serve, or that the agent may
// not list, are left out; the error says which others could not be listed, and comes with all that could. Nothing is kept:
// each call asks the API server once for each kind, so call it when a rollout begins and not in every pass.
func (c *Client) Outside(ctx context.Context, namespace string, kinds []schema.GroupKind) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	var faults []error
	for _, gk := range kinds {
		mapping, err := c.kinds.mapper.RESTMapping(gk)
		if meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("looking up kind %s: %w", gk, err))
			continue
		}
		resource := c.dynamic.Resource(mapping.Resource)
		list, err := resource.Namespace(namespace).List(ctx, metav1.ListOptions{})
		switch {
		case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		case err != nil:
			faults = append(faults, fmt.Errorf("listing %s in namespace %s: %w", mapping.Resource.GroupResource(), namespace, err))
		default:
			for i := range list.Items {
				all = append(all, &list.Items[i])
			}
		}
	}
	return all, errors.Join(faults...)
}
