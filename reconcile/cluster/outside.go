package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// collection is what one LIST lists.
type collection struct {
	namespace string
	kind      schema.GroupKind
}

// Outside lists what lives in a namespace, or with none in all of them, of some kinds, as it was at most ten seconds ago. Kinds that
// the API server does not serve, or that the agent may not list, are left out; the error says which others could not be listed, and comes with
// all that could. The objects are shared: do not change them.
func (c *Client) Outside(ctx context.Context, namespace string, kinds []schema.GroupKind) ([]*unstructured.Unstructured, error) {
	objects, faults := make([][]*unstructured.Unstructured, len(kinds)), make([]error, len(kinds))
	var wg sync.WaitGroup
	for i, gk := range kinds {
		wg.Go(func() {
			objects[i], _, faults[i] = c.outside.get(collection{namespace, gk}, func() ([]*unstructured.Unstructured, error) {
				return c.list(ctx, namespace, gk)
			})
		})
	}
	wg.Wait()
	return slices.Concat(objects...), errors.Join(faults...)
}

// list lists one kind; nothing when there is none of it to be seen.
func (c *Client) list(ctx context.Context, namespace string, gk schema.GroupKind) ([]*unstructured.Unstructured, error) {
	mapping, err := c.kinds.mapper.RESTMapping(gk)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up kind %s: %w", gk, err)
	}
	list, err := c.dynamic.Resource(mapping.Resource).Namespace(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing %s in namespace %s: %w", mapping.Resource.GroupResource(), namespace, err)
	}
	objects := make([]*unstructured.Unstructured, len(list.Items))
	for i := range list.Items {
		objects[i] = &list.Items[i]
	}
	return objects, nil
}
