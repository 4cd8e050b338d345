package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// outsideFresh is how old a listing of what lives outside of releases may be. Warnings are given from it when a rollout begins,
// and many begin at once when one commit changes many apps.
const outsideFresh = 10 * time.Second

// outside keeps the listings for that long.
type outside struct {
	mu       sync.Mutex
	listings map[collection]*listing
}

// collection is what one LIST lists.
type collection struct {
	namespace string
	kind      schema.GroupKind
}

// listing is made once, by the first who asks for it; the others wait.
type listing struct {
	made    time.Time
	once    sync.Once
	objects []*unstructured.Unstructured
	err     error
}

// of finds a listing that is fresh, or a new one that is still to be made. It drops those that are not.
func (o *outside) of(c collection) *listing {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.listings, func(_ collection, l *listing) bool { return now.Sub(l.made) > outsideFresh })
	l := o.listings[c]
	if l == nil {
		l = &listing{made: now}
		o.listings[c] = l
	}
	return l
}

// drop makes the next who asks list again: what failed is not kept.
func (o *outside) drop(c collection, l *listing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.listings[c] == l {
		delete(o.listings, c)
	}
}

// Outside lists what lives in a namespace of some kinds, as it was at most ten seconds ago. Kinds that the API server does
// not serve, or that the agent may not list, are left out; the error says which others could not be listed, and comes with
// all that could. The objects are shared: do not change them.
func (c *Client) Outside(ctx context.Context, namespace string, kinds []schema.GroupKind) ([]*unstructured.Unstructured, error) {
	listings := make([]*listing, len(kinds))
	var wg sync.WaitGroup
	for i, gk := range kinds {
		what := collection{namespace, gk}
		l := c.outside.of(what)
		listings[i] = l
		wg.Go(func() {
			l.once.Do(func() {
				if l.objects, l.err = c.list(ctx, namespace, gk); l.err != nil {
					c.outside.drop(what, l)
				}
			})
		})
	}
	wg.Wait()
	var all []*unstructured.Unstructured
	var faults []error
	for _, l := range listings {
		all = append(all, l.objects...)
		faults = append(faults, l.err)
	}
	return all, errors.Join(faults...)
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
