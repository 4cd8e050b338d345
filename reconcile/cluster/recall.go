package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/render/manifest"
)

// trackLabel says, beside appLabel and environmentLabel, which track of the app an object is of. The three are on every
// object that is applied, and on nothing that its pods are made from.
const trackLabel = "sluice.dev/track"

// owned are the labels by which an object is found again when the inventory is lost.
func (c *Client) owned(app string, t track) map[string]string {
	if t == trackStable {
		t = "stable"
	}
	return map[string]string{appLabel: labelValue(app), environmentLabel: labelValue(c.cfg.Environment), trackLabel: string(t)}
}

func trackOf(label string) track {
	switch t := track(label); t {
	case trackCanary, trackRouting:
		return t
	default:
		return trackStable
	}
}

// recall fills the inventory of an app whose state was lost with the objects that carry its labels and that we have
// applied, of the kinds that releases have and that a rollout makes. Kinds that may not be listed are left out. It reports
// whether there are any of a canary track.
func (c *Client) recall(ctx context.Context, app delivery.App, releases ...[]*unstructured.Unstructured) (canary bool, err error) {
	kinds, namespaces := project.GeneratedKinds(), []string{app.Namespace}
	for _, o := range slices.Concat(releases...) {
		if gk := o.GroupVersionKind().GroupKind(); !slices.Contains(kinds, gk) {
			kinds = append(kinds, gk)
		}
		if ns := o.GetNamespace(); ns != "" && !slices.Contains(namespaces, ns) {
			namespaces = append(namespaces, ns)
		}
	}
	var found []item
	for _, gk := range kinds {
		more, err := c.labelled(ctx, app, gk, namespaces)
		if err != nil {
			return false, fmt.Errorf("looking for the objects of %s: %w", app.Name, err)
		}
		found = append(found, more...)
	}
	// Prune goes backwards, so that objects go in an order in which nothing is left pointing at what is gone.
	rank := map[track]int{trackStable: 0, trackCanary: 1, trackRouting: 2}
	slices.SortStableFunc(found, func(x, y item) int {
		return cmp.Or(rank[x.Track]-rank[y.Track], manifest.OrderOf(x.key().GroupKind())-manifest.OrderOf(y.key().GroupKind()))
	})
	m := c.of(app)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range found {
		if owner := c.claims[i.key()].owner; owner != "" && owner != app.Name {
			continue
		}
		c.claims[i.key()] = claim{owner: app.Name, contender: c.claims[i.key()].contender}
		m.put(i)
		m.unsaved = true
		canary = canary || i.Track == trackCanary
	}
	return canary, nil
}

// labelled are an app's objects of one kind.
func (c *Client) labelled(ctx context.Context, app delivery.App, gk schema.GroupKind, namespaces []string) ([]item, error) {
	mapping, err := c.kinds.mapper.RESTMapping(gk)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up kind %s: %w", gk, err)
	}
	if mapping.Scope.Name() != meta.RESTScopeNameNamespace {
		namespaces = []string{""}
	}
	owned := c.owned(app.Name, trackStable)
	delete(owned, trackLabel)
	var out []item
	for _, ns := range namespaces {
		list, err := c.metadata.Resource(mapping.Resource).Namespace(ns).
			List(ctx, metav1.ListOptions{LabelSelector: labels.Set(owned).String()})
		if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing %s in %q: %w", mapping.Resource.GroupResource(), ns, err)
		}
		for i := range list.Items {
			o := &list.Items[i]
			// Controllers copy labels to what they make.
			if slices.ContainsFunc(o.ManagedFields, func(f metav1.ManagedFieldsEntry) bool { return isOurs(f, c.cfg.FieldManager) }) {
				out = append(out, item{
					Group: gk.Group, Version: mapping.GroupVersionKind.Version, Kind: gk.Kind, Namespace: o.Namespace, Name: o.Name,
					Track: trackOf(o.Labels[trackLabel]), UID: o.UID,
				})
			}
		}
	}
	return out, nil
}

// orphans are the apps that have Helm records of ours and no state: their states were lost, and git may not list them any
// more. They are looked for where states are kept and where the known apps live: there we may list Secrets, or should.
func (c *Client) orphans(ctx context.Context, known map[string]delivery.Saved, broken map[string]error) ([]delivery.App, error) {
	namespaces := []string{c.cfg.Namespace}
	for _, s := range known {
		if !slices.Contains(namespaces, s.App.Namespace) {
			namespaces = append(namespaces, s.App.Namespace)
		}
	}
	var out []delivery.App
	for _, ns := range namespaces {
		found, err := c.recorded(ctx, ns)
		if apierrors.IsForbidden(err) && ns != c.cfg.Namespace {
			continue // what is amiss with one app's namespace keeps no other app from being delivered
		}
		if err != nil {
			return nil, fmt.Errorf("listing the Helm records of %s: %w", c.cfg.Environment, err)
		}
		for _, app := range found {
			_, saved := known[app.Name]
			if _, unread := broken[app.Name]; !saved && !unread {
				out = append(out, app)
			}
		}
	}
	return out, nil
}

// recorded are the apps that the Helm records of ours in a namespace say are there.
func (c *Client) recorded(ctx context.Context, namespace string) ([]delivery.App, error) {
	opts := metav1.ListOptions{
		Limit: statePage,
		LabelSelector: labels.Set{"owner": "helm", environmentLabel: labelValue(c.cfg.Environment)}.String() +
			",status in (deployed,pending-install,pending-upgrade,uninstalling)",
		FieldSelector: fields.OneTermEqualSelector("type", helmSecretType).String(),
	}
	seen := map[delivery.App]bool{}
	var out []delivery.App
	for {
		list, err := c.metadata.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(namespace).List(ctx, opts)
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			s := &list.Items[i]
			app := delivery.App{Name: s.Labels[appLabel], Namespace: s.Namespace, ReleaseName: s.Labels["name"]}
			if app.Name != "" && app.ReleaseName != "" && s.Labels[digestLabel] != "" && !seen[app] {
				seen[app] = true
				out = append(out, app)
			}
		}
		if opts.Continue = list.Continue; opts.Continue == "" {
			return out, nil
		}
	}
}
