package cluster

import (
	"context"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/render/objects"
)

// Need is a right that is needed in a namespace; empty: in the whole cluster.
type Need struct {
	Namespace string
	Right
}

// ChartNeeds are the rights to hold objects in the given namespace, and in those that they name. Kinds that the API server
// does not serve are returned apart.
func (c *Client) ChartNeeds(namespace string, list []*unstructured.Unstructured) (needs []Need, unknown []schema.GroupKind, err error) {
	seen := map[collection]bool{}
	for _, o := range list {
		at := collection{namespace: o.GetNamespace(), kind: objects.GroupKind(o)}
		if at.namespace == "" {
			at.namespace = namespace
		}
		if seen[at] {
			continue
		}
		seen[at] = true
		mapping, err := c.kinds.mapping(o.GroupVersionKind())
		switch {
		case meta.IsNoMatchError(err):
			unknown = append(unknown, at.kind)
			continue
		case err != nil:
			return nil, nil, err
		case mapping.Scope.Name() != meta.RESTScopeNameNamespace:
			at.namespace = ""
		}
		needs = append(needs, Need{at.namespace, ChartRight(mapping.Resource.Group, mapping.Resource.Resource)})
	}
	return needs, unknown, nil
}

// RoutingNeeds are the rights to hold what a rollout makes by a provider of traffic in a namespace, see ChartNeeds.
func (c *Client) RoutingNeeds(namespace, provider string) (needs []Need, unknown []schema.GroupKind, err error) {
	for _, gk := range project.GeneratedBy(provider) {
		mapping, err := c.kinds.mapper.RESTMapping(gk)
		switch {
		case meta.IsNoMatchError(err):
			unknown = append(unknown, gk)
		case err != nil:
			return nil, nil, fmt.Errorf("looking up kind %s: %w", gk, err)
		default:
			needs = append(needs, Need{namespace, ChartRight(mapping.Resource.Group, mapping.Resource.Resource)})
		}
	}
	return needs, unknown, nil
}

// Lacking asks the API server which of some rights its user has not. Of each it returns the verbs that are missing. Of what the
// server does not have nothing is missing.
func (c *Client) Lacking(ctx context.Context, needs []Need) ([]Need, error) {
	var lacking []Need
	for _, n := range needs {
		if _, err := c.kinds.mapper.ResourceFor(schema.GroupVersionResource{Group: n.Group, Resource: n.Resource}); meta.IsNoMatchError(err) {
			continue
		}
		var verbs []string
		for _, verb := range n.Verbs {
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: n.Namespace, Verb: verb, Group: n.Group, Resource: n.Resource,
				},
			}}
			answer, err := c.access.SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("asking for the right to %s %s: %w", verb, n.Right, err)
			}
			if !answer.Status.Allowed {
				verbs = append(verbs, verb)
			}
		}
		if n.Verbs = verbs; len(verbs) > 0 {
			lacking = append(lacking, n)
		}
	}
	return lacking, nil
}
