package project

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// Warnings tells which live objects outside the release treat the app's canary otherwise than its stable track: they
// select stable pods by a label that canary pods have rewritten, route to the app's Service past the weights, or scale
// the workload. live may hold any objects, those of the release too; kinds that do not matter are passed over.
//
// It looks at the canary of in.Target or, without one, of the stable release, whatever the phase, so that plan can
// warn before anything starts; a policy without canaries has no warnings. Those of the projection come first, then one
// for each object, in the order of live.
func Warnings(in Input, live []*unstructured.Unstructured) ([]string, error) {
	warnings, err := warnings(in, live)
	if err != nil {
		return nil, fmt.Errorf("looking for objects that would miss the canary of app %s: %w", in.App, err)
	}
	return warnings, nil
}

func warnings(in Input, live []*unstructured.Unstructured) ([]string, error) {
	if !in.Plan.Canary() {
		return nil, nil
	}
	in.State = rollout.State{Phase: rollout.Starting, StablePlan: in.State.StablePlan}
	if len(in.Target) == 0 {
		in.Target = in.Stable
	}
	stable, target := applied(in.Stable), applied(in.Target)
	if w, err := FindTarget(target, in.Plan.Target); w == nil || err != nil {
		return nil, err
	}
	// A first install is looked at as if it served already.
	if len(stable) == 0 {
		in.Stable, stable = in.Target, target
	}
	projected, err := project(in)
	if err != nil {
		return nil, err
	}
	a, err := newApp(in, tracks{release: stable, serving: stable, coming: target})
	if err != nil {
		return nil, err
	}
	if a.split, err = newSplit(a.workload, stable, target, a.provider.joins); err != nil {
		return nil, err
	}
	known := map[objects.Key]bool{}
	for _, objs := range [][]*unstructured.Unstructured{stable, target, projected.Canary, projected.Routing} {
		for _, obj := range objs {
			known[objects.KeyOf(obj)] = true
		}
	}
	all := slices.Clone(projected.Warnings)
	for _, obj := range live {
		if obj == nil || known[objects.KeyOf(obj)] {
			continue
		}
		known[objects.KeyOf(obj)] = true // it may be there twice
		if w := a.warning(obj); w != "" {
			all = append(all, fmt.Sprintf("%s in %s, which is not of the release, %s", describe(obj), obj.GetNamespace(), w))
		}
	}
	return all, nil
}

// WarningKinds are the kinds of objects that Warnings looks at.
func WarningKinds() []schema.GroupKind {
	kinds := GeneratedKinds()
	for gk, r := range roles {
		if r.does == selects {
			kinds = append(kinds, gk)
		}
	}
	slices.SortFunc(kinds, func(x, y schema.GroupKind) int { return strings.Compare(x.String(), y.String()) })
	for _, s := range scalerFields {
		kinds = append(kinds, s.GroupKind)
	}
	return kinds
}

// EverywhereKinds are those of WarningKinds that matter in whichever namespace they are: a host is one mesh's or one gateway's.
func EverywhereKinds() []schema.GroupKind { return []schema.GroupKind{destinationRule, virtualService} }

// warning says what an object outside the release does; empty when it does not matter to the canary.
func (a *app) warning(obj *unstructured.Unstructured) string {
	gk := objects.GroupKind(obj)
	if r := roleOf(obj); r.does == selects {
		return a.selectionWarning(obj, r)
	}
	if s, ok := scalerOf(gk); ok {
		if !s.scales(obj, a.workload) {
			return ""
		}
		if s.replicas {
			return fmt.Sprintf("scales %s: the chart's replicas would be applied against it, and the canary is not scaled", describe(a.workload))
		}
		return fmt.Sprintf("sizes the pods of %s, but would not size its canary's", describe(a.workload))
	}
	if !isService(obj) {
		return a.router.warns(obj)
	}
	if sameNamespace(obj, a.workload) && a.split.misses(serviceSelector(obj)) {
		return a.missing()
	}
	return ""
}

func (a *app) selectionWarning(obj *unstructured.Unstructured, r role) string {
	selector, err := r.selector(obj)
	if err != nil {
		return "has a selector that cannot be read"
	}
	if r.reaches(obj, a.workload) && a.split.misses(selector) {
		return a.missing()
	}
	if obj.GetKind() == "NetworkPolicy" && a.missesPeers(obj) {
		return fmt.Sprintf("names pods of %s as peers, but would miss its canary's, which carry %s", describe(a.workload), a.split)
	}
	return ""
}

func (a *app) missing() string {
	return fmt.Sprintf("selects pods of %s, but would miss its canary's, which carry %s", describe(a.workload), a.split)
}

// missesPeers reports whether a network policy names stable pods as peers in a way that leaves out canary pods. One of
// another namespace does so only through a namespaceSelector, whose namespaces are taken to be the app's.
func (a *app) missesPeers(policy *unstructured.Unstructured) bool {
	near := sameNamespace(policy, a.workload)
	for _, list := range peerLists(policy) {
		for _, peer := range mapsAt(list.rule, list.field) {
			if !near && mapAt(peer, "namespaceSelector") == nil {
				continue
			}
			if missed, err := a.missed(mapAt(peer, "podSelector")); err == nil && missed {
				return true
			}
		}
	}
	return false
}
