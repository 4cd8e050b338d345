package project

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluice-cd/sluice/render/objects"
)

// split tells an app's canary pods from all others by their labels. Canary pods carry the labels that Target's pods
// have, but for the rewritten ones.
//
// Invariants: no selector of a Service, of what sends traffic as a Service does, or of a workload of either release matches the canary labels, and
// the canary selectors that retarget makes match them and the pods of no workload of either release. The split depends
// on the two releases alone, not on the phase, so the canary workload stays the same object from start to end.
type split struct {
	// stable are the labels of the app's own pods: Target's first, then the stable release's.
	stable []labels.Set
	canary labels.Set
	// rewritten holds the canary's value for each label that was rewritten.
	rewritten map[string]string
}

// owned is a label selector with the object that it belongs to.
type owned struct {
	labels.Selector
	owner string
}

// newSplit finds the labels of the canary made of workload. Where it joins the stable track's Services its pods carry the labels
// that those select, and one more. The selector of the stable workload matches them then too; its controller leaves them alone,
// since they have one of their own.
func newSplit(workload *unstructured.Unstructured, stable, target list, joins bool) (*split, error) {
	pod := objects.PodLabels(workload)
	own, err := workloadSelector(workload)
	if err != nil {
		return nil, err
	}
	if !own.Matches(pod) || own.Empty() {
		return nil, fmt.Errorf("%s: spec.selector %q, expected one that matches the labels of its own pods",
			describe(workload), own)
	}
	s := &split{stable: []labels.Set{pod}}
	if joins {
		s.rewritten = joinedLabel
	} else if s.rewritten, err = apart(pod, stable, target); err != nil {
		return nil, fmt.Errorf("keeping canary pods of %s apart: %w", describe(workload), err)
	}
	s.canary = rewrite(pod, s.rewritten)
	if old := stable.find(objects.KeyOf(workload)); old != nil {
		s.stable = append(s.stable, objects.PodLabels(old))
	}
	return s, s.verify(workload, stable, target)
}

// apart are the labels to rewrite so that no selector of the releases matches.
func apart(pod labels.Set, releases ...list) (map[string]string, error) {
	avoid, err := podSelectors(releases...)
	if err != nil {
		return nil, err
	}
	return rewrites(pod, avoid)
}

// verify makes sure that the canary workload's selector would not adopt anybody's pods: a release may have pods that
// already carry the canary's labels.
func (s *split) verify(workload *unstructured.Unstructured, releases ...list) error {
	selector, err := objects.Selector(s.retarget(objects.PodSelector(workload)))
	if err != nil {
		return fmt.Errorf("rewriting the selector of %s: %w", describe(workload), err)
	}
	for _, release := range releases {
		for _, obj := range release {
			if isWorkload(obj) && selector.Matches(objects.PodLabels(obj)) {
				return fmt.Errorf("pods of %s carry labels (%s) that would make them canary pods of %s",
					describe(obj), selector, describe(workload))
			}
		}
	}
	return nil
}

// podSelectors are the selectors that must not match canary pods: those of every Service and workload, and of
// what sends traffic to pods as Services do.
func podSelectors(releases ...list) ([]owned, error) {
	var all []owned
	for _, release := range releases {
		for _, obj := range release {
			var selector labels.Selector
			var err error
			switch {
			case isWorkload(obj):
				selector, err = workloadSelector(obj)
			case isService(obj):
				selector = serviceSelector(obj)
			case roleOf(obj).does == sends:
				selector = roleOf(obj).sendsTo(obj)
			default:
				continue
			}
			if err != nil {
				return nil, err
			}
			all = append(all, owned{selector, describe(obj)})
		}
	}
	return all, nil
}

// serviceSelector is the selector of a Service; one without a selector selects nothing.
func serviceSelector(service *unstructured.Unstructured) labels.Selector {
	set := textsAt(service.Object, "spec", "selector")
	if len(set) == 0 || stringAt(service.Object, "spec", "type") == "ExternalName" {
		return labels.Nothing()
	}
	return labels.SelectorFromSet(set)
}

// workloadSelector is the selector of a workload, which older API versions derive from the pods' labels.
func workloadSelector(workload *unstructured.Unstructured) (labels.Selector, error) {
	selector, err := objects.Selector(objects.PodSelector(workload))
	if err != nil {
		return nil, fmt.Errorf("reading spec.selector of %s: %w", describe(workload), err)
	}
	return selector, nil
}

// maxExact is the number of labels up to which every combination is tried. Charts need one, seldom two.
const maxExact = 3

// rewrites returns the labels to rewrite so that no selector matches: the fewest, and of several such sets the first
// in lexicographic order. Where more than maxExact labels are needed the set is minimal (no label of it could stay)
// but not necessarily the smallest.
func rewrites(pod labels.Set, avoid []owned) (map[string]string, error) {
	keys := deciding(pod, avoid)
	apart := func(set []string) bool { return matching(pod, set, avoid) == "" }
	for size := 1; size <= min(maxExact, len(keys)); size++ {
		if set := firstSubset(keys, size, apart); set != nil {
			return canaryValues(pod, set), nil
		}
	}
	if owner := matching(pod, keys, avoid); owner != "" {
		return nil, fmt.Errorf("%s selects them whatever labels are rewritten, expected a selector on label values", owner)
	}
	set := slices.Clone(keys)
	for i := len(set) - 1; i >= 0; i-- {
		if fewer := slices.Concat(set[:i], set[i+1:]); apart(fewer) {
			set = fewer
		}
	}
	return canaryValues(pod, set), nil
}

// deciding returns, sorted, the pod's labels that a matching selector asks for; rewriting another cannot help.
func deciding(pod labels.Set, avoid []owned) []string {
	seen := map[string]bool{}
	for _, selector := range avoid {
		if !selector.Matches(pod) {
			continue
		}
		requirements, _ := selector.Requirements()
		for _, r := range requirements {
			if pod.Has(r.Key()) {
				seen[r.Key()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// firstSubset returns the first subset of that size, in lexicographic order, that is good; nil when none is.
func firstSubset(keys []string, size int, good func([]string) bool) []string {
	var pick func(chosen []string, rest []string) []string
	pick = func(chosen, rest []string) []string {
		if len(chosen) == size {
			if good(chosen) {
				return chosen
			}
			return nil
		}
		for i := 0; i <= len(rest)-(size-len(chosen)); i++ {
			if found := pick(append(chosen[:len(chosen):len(chosen)], rest[i]), rest[i+1:]); found != nil {
				return found
			}
		}
		return nil
	}
	return pick(nil, keys)
}

// matching names the owner of the first selector that matches the pod with those labels rewritten; empty: none does.
func matching(pod labels.Set, keys []string, avoid []owned) string {
	canary := rewrite(pod, canaryValues(pod, keys))
	for _, selector := range avoid {
		if selector.Matches(canary) {
			return selector.owner
		}
	}
	return ""
}

func canaryValues(pod labels.Set, keys []string) map[string]string {
	values := make(map[string]string, len(keys))
	for _, k := range keys {
		values[k] = canaryValue(pod[k])
	}
	return values
}

func rewrite(pod labels.Set, values map[string]string) labels.Set {
	canary := maps.Clone(pod)
	maps.Copy(canary, values)
	return canary
}

// misses reports whether a selector matches stable pods of the app but not its canary's.
func (s *split) misses(selector labels.Selector) bool {
	if selector.Matches(s.canary) {
		return false
	}
	return slices.ContainsFunc(s.stable, func(pod labels.Set) bool { return selector.Matches(pod) })
}

// retargetLabels turns a set of labels that selects stable pods into one that selects canary pods only.
func (s *split) retargetLabels(set map[string]string) map[string]string {
	result := make(map[string]string, len(set))
	apart := false
	for k := range set {
		if value, ok := s.canary[k]; ok {
			result[k] = value
		}
		_, rewritten := s.rewritten[k]
		apart = apart || rewritten
	}
	if !apart {
		maps.Copy(result, s.rewritten)
	}
	return result
}

// retarget does the same for a metav1.LabelSelector. What it asks of labels that were not rewritten stays; an
// expression on a rewritten label becomes the label's canary value.
func (s *split) retarget(selector map[string]any) map[string]any {
	set := textsAt(selector, "matchLabels")
	if set == nil {
		set = map[string]string{}
	}
	var kept []any
	for _, expression := range mapsAt(selector, "matchExpressions") {
		if k := stringAt(expression, "key"); s.satisfies(expression) {
			kept = append(kept, copyMap(expression))
		} else if value, ok := s.canary[k]; ok {
			set[k] = value
		}
	}
	result := map[string]any{"matchLabels": anyMap(s.retargetLabels(set))}
	if len(kept) > 0 {
		result["matchExpressions"] = kept
	}
	return result
}

// satisfies reports whether canary pods meet one expression of a label selector.
func (s *split) satisfies(expression map[string]any) bool {
	selector, err := objects.Selector(map[string]any{"matchExpressions": []any{expression}})
	return err == nil && selector.Matches(s.canary)
}

// String lists the rewritten labels, for warnings.
func (s *split) String() string {
	parts := make([]string, 0, len(s.rewritten))
	for _, k := range slices.Sorted(maps.Keys(s.rewritten)) {
		parts = append(parts, k+"="+s.rewritten[k])
	}
	return strings.Join(parts, ", ")
}
