package cluster

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// formerManagers are the tools that an object may have been deployed with before. Their fields become ours when
// we first apply it, or what a later release no longer says would stay for ever. Whoever else wrote Helm's or
// kubectl's marks has Helm or kubectl built in; those go by many names.
var formerManagers = []string{
	"helm", "helm-controller", "Tiller", "kubectl-client-side-apply", "kubectl", "kubectl-create", "kubectl-replace",
	"kustomize-controller", "argocd-controller", "jx", "before-first-apply",
}

var formerMarks = []fieldpath.Path{
	fieldpath.MakePathOrDie("metadata", "annotations", releaseNameAnnotation),
	fieldpath.MakePathOrDie("metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"),
}

// isFormer reports whether a record is of a tool that deployed the object before.
func isFormer(m metav1.ManagedFieldsEntry, fields *fieldpath.Set) bool {
	return slices.Contains(formerManagers, m.Manager) || slices.ContainsFunc(formerMarks, fields.Has)
}

// isOurs finds the record of what we have applied.
func isOurs(m metav1.ManagedFieldsEntry, manager string) bool {
	return m.Manager == manager && m.Operation == metav1.ManagedFieldsOperationApply && m.Subresource == ""
}

func decodeFields(m metav1.ManagedFieldsEntry) (*fieldpath.Set, error) {
	set := &fieldpath.Set{}
	if m.FieldsV1 == nil {
		return set, nil
	}
	if err := set.FromJSON(bytes.NewReader(m.FieldsV1.GetRawBytes())); err != nil {
		return nil, fmt.Errorf("decoding the fields of manager %s: %w", m.Manager, err)
	}
	return set, nil
}

// ownedBy returns what manager has applied to the object, in the API version in which it did; nil when nothing.
func ownedBy(manager string, live *unstructured.Unstructured) (*fieldpath.Set, string, error) {
	for _, m := range live.GetManagedFields() {
		if isOurs(m, manager) {
			set, err := decodeFields(m)
			return set, m.APIVersion, err
		}
	}
	return nil, "", nil
}

// takeOver returns the managed fields that the live object should have before desired is applied to it, or nil
// if they are right as they are. Two things are put right: what former tools applied becomes ours as long as we
// own nothing yet, so that applying removes what is not desired any more; and a replica count that is no longer
// desired is let go rather than removed, for it is in somebody else's hands now (a removed count would become 1).
// Pod templates are spared: of a former tool's fields in there only the desired ones become ours.
func takeOver(manager string, live, desired *unstructured.Unstructured) ([]metav1.ManagedFieldsEntry, error) {
	entries := live.GetManagedFields()
	changed := false
	if !slices.ContainsFunc(entries, func(m metav1.ManagedFieldsEntry) bool { return isOurs(m, manager) }) {
		merged, err := mergeFormer(manager, entries, desired)
		if err != nil {
			return nil, err
		}
		if merged != nil {
			entries, changed = merged, true
		}
	}
	released, err := releaseReplicas(manager, entries, desired)
	if err != nil {
		return nil, err
	}
	if released != nil {
		entries, changed = released, true
	}
	if !changed {
		return nil, nil
	}
	return entries, nil
}

// mergeFormer puts one record of ours in the place of those of former tools and our own; nil when there are no
// former tools.
func mergeFormer(manager string, entries []metav1.ManagedFieldsEntry, desired *unstructured.Unstructured) ([]metav1.ManagedFieldsEntry, error) {
	var kept []metav1.ManagedFieldsEntry
	var ours *metav1.ManagedFieldsEntry
	all := &fieldpath.Set{}
	found := false
	for _, m := range entries {
		if m.Subresource != "" {
			kept = append(kept, m)
			continue
		}
		set, err := decodeFields(m)
		if err != nil {
			return nil, err
		}
		own := isOurs(m, manager)
		former := !own && isFormer(m, set)
		if !own && !former {
			kept = append(kept, m)
			continue
		}
		found = found || former
		// A record in another API version can't be merged; without an owner its fields just stay.
		if m.APIVersion != desired.GetAPIVersion() {
			continue
		}
		all = all.Union(set)
		if ours == nil {
			ours = &metav1.ManagedFieldsEntry{
				Manager: manager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: m.APIVersion,
				Time: m.Time, FieldsType: "FieldsV1",
			}
		}
	}
	if !found || ours == nil {
		return nil, nil
	}
	if err := encodeFields(ours, spareTemplate(all, desired)); err != nil {
		return nil, err
	}
	return append(kept, *ours), nil
}

func encodeFields(m *metav1.ManagedFieldsEntry, set *fieldpath.Set) error {
	b, err := set.ToJSON()
	if err != nil {
		return fmt.Errorf("encoding the fields of manager %s: %w", m.Manager, err)
	}
	m.FieldsV1 = metav1.NewFieldsV1(string(b))
	return nil
}

// spareTemplate drops what lies in the pod template and is not desired, so that applying does not remove it.
func spareTemplate(set *fieldpath.Set, desired *unstructured.Unstructured) *fieldpath.Set {
	drop := &fieldpath.Set{}
	set.Iterate(func(p fieldpath.Path) {
		if len(p) < 3 || !isField(p[0], "spec") || !isField(p[1], "template") {
			return
		}
		if _, ok := resolve(desired.Object, p); !ok {
			drop.Insert(p.Copy())
		}
	})
	return set.Difference(drop)
}

func isField(pe fieldpath.PathElement, name string) bool {
	return pe.FieldName != nil && *pe.FieldName == name
}

var replicasPath = fieldpath.MakePathOrDie("spec", "replicas")

// releaseReplicas lets go of spec.replicas when it is ours and not desired; nil when there is nothing to let go.
func releaseReplicas(manager string, entries []metav1.ManagedFieldsEntry, desired *unstructured.Unstructured) ([]metav1.ManagedFieldsEntry, error) {
	if _, found, _ := unstructured.NestedFieldNoCopy(desired.Object, "spec", "replicas"); found {
		return nil, nil
	}
	for i, m := range entries {
		if !isOurs(m, manager) {
			continue
		}
		set, err := decodeFields(m)
		if err != nil {
			return nil, err
		}
		if !set.Has(replicasPath) {
			return nil, nil
		}
		out := slices.Clone(entries)
		return out, encodeFields(&out[i], set.Difference(fieldpath.NewSet(replicasPath)))
	}
	return nil, nil
}

// resolve follows a path of managed fields into an object.
func resolve(v any, p fieldpath.Path) (any, bool) {
	for _, pe := range p {
		var ok bool
		if v, ok = child(v, pe); !ok {
			return nil, false
		}
	}
	return v, true
}

// child is the field, or the item of a list, that a path element names. An item may leave out key fields that
// have a default, as a container's port leaves out its protocol.
func child(v any, pe fieldpath.PathElement) (any, bool) {
	switch {
	case pe.FieldName != nil:
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		c, ok := m[*pe.FieldName]
		return c, ok
	case pe.Key != nil:
		list, _ := v.([]any)
		for _, item := range list {
			if m, ok := item.(map[string]any); ok && hasKey(m, *pe.Key) {
				return item, true
			}
		}
	case pe.Value != nil:
		list, _ := v.([]any)
		for _, item := range list {
			if value.Equals(value.NewValueInterface(item), *pe.Value) {
				return item, true
			}
		}
	case pe.Index != nil:
		if list, _ := v.([]any); *pe.Index >= 0 && *pe.Index < len(list) {
			return list[*pe.Index], true
		}
	}
	return nil, false
}

func hasKey(item map[string]any, key value.FieldList) bool {
	some := false
	for _, f := range key {
		v, ok := item[f.Name]
		if !ok {
			continue
		}
		if !value.Equals(value.NewValueInterface(v), f.Value) {
			return false
		}
		some = true
	}
	return some
}

// covered reports whether applying desired would change nothing: we own exactly its fields, and they have its
// values. Ownership shows what values alone can't, such as a route that somebody added to an atomic list. It may
// say false where the server would find nothing to do (it knows no defaults and no units), never true where the
// server would.
func covered(manager string, desired, live *unstructured.Unstructured) bool {
	set, version, err := ownedBy(manager, live)
	if err != nil || set == nil || version != desired.GetAPIVersion() {
		return false
	}
	return mapCovered(top(desired), top(live), set, false)
}

// top is an object without the fields whose ownership the server does not track.
func top(o *unstructured.Unstructured) map[string]any {
	out := make(map[string]any, len(o.Object))
	for k, v := range o.Object {
		switch k {
		case "apiVersion", "kind":
		case "metadata":
			m, _ := v.(map[string]any)
			meta := map[string]any{}
			for k, v := range m {
				if k != "name" && k != "namespace" {
					meta[k] = v
				}
			}
			out[k] = meta
		default:
			out[k] = v
		}
	}
	return out
}

// quantityMaps are the fields whose entries Kubernetes writes back in a unit of its own: 0.1 CPU becomes 100m.
var quantityMaps = map[string]bool{"requests": true, "limits": true, "capacity": true, "hard": true, "overhead": true}

// quantityFields are single fields of that kind.
var quantityFields = map[string]bool{"sizeLimit": true, "divisor": true, "averageValue": true}

func nodeCovered(desired, live any, owned *fieldpath.Set, quantities bool) bool {
	switch d := desired.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		return ok && mapCovered(d, l, owned, quantities)
	case []any:
		l, ok := live.([]any)
		return ok && listCovered(d, l, owned)
	default:
		return false
	}
}

func mapCovered(desired, live map[string]any, owned *fieldpath.Set, quantities bool) bool {
	for name, d := range desired {
		l, ok := live[name]
		if !ok {
			if empty(d) {
				continue
			}
			return false
		}
		q := quantities || quantityMaps[name] || quantityFields[name]
		if !elementCovered(d, l, fieldpath.FieldNameElement(name), owned, q) {
			return false
		}
	}
	return wanted(desired, owned)
}

func listCovered(desired, live []any, owned *fieldpath.Set) bool {
	for _, d := range desired {
		pe, ok := elementOf(d, owned)
		if !ok {
			return false
		}
		l, ok := child(live, pe)
		if !ok || !elementCovered(d, l, pe, owned, false) {
			return false
		}
	}
	return wanted(desired, owned)
}

// elementCovered compares a field or an item that pe names in its parent. What has owned fields below it is
// compared by those, anything else is owned whole.
func elementCovered(desired, live any, pe fieldpath.PathElement, owned *fieldpath.Set, quantities bool) bool {
	if below, ok := owned.Children.Get(pe); ok {
		return nodeCovered(desired, live, below, quantities)
	}
	return owned.Members.Has(pe) && contains(live, desired, quantities)
}

// elementOf finds the path element by which we own an item of a list.
func elementOf(item any, owned *fieldpath.Set) (found fieldpath.PathElement, ok bool) {
	list := []any{item}
	// The library's iterators can't be left early.
	look := func(pe fieldpath.PathElement) {
		if _, is := child(list, pe); is && pe.Index == nil && !ok {
			found, ok = pe, true
		}
	}
	owned.Children.Iterate(look)
	owned.Members.Iterate(look)
	return found, ok
}

// wanted reports whether everything that we own at this place is desired.
func wanted(desired any, owned *fieldpath.Set) bool {
	all := true
	look := func(pe fieldpath.PathElement) {
		_, ok := child(desired, pe)
		all = all && ok
	}
	owned.Members.Iterate(look)
	owned.Children.Iterate(look)
	return all
}

// empty values may be dropped by the server.
func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	default:
		return false
	}
}

// contains reports whether live has everything that desired says. Lists have equal length; a map may have more
// fields, since the server fills in defaults.
func contains(live, desired any, quantities bool) bool {
	switch d := desired.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok {
			return false
		}
		for k, v := range d {
			lv, ok := l[k]
			if !ok && empty(v) {
				continue
			}
			if !ok || !contains(lv, v, quantities || quantityMaps[k] || quantityFields[k]) {
				return false
			}
		}
		return true
	case []any:
		l, ok := live.([]any)
		if !ok || len(l) != len(d) {
			return false
		}
		for i := range d {
			if !contains(l[i], d[i], false) {
				return false
			}
		}
		return true
	case nil:
		return live == nil
	default:
		return scalar(live, desired) || quantities && sameQuantity(live, desired)
	}
}

func sameQuantity(x, y any) bool {
	qx, errX := resource.ParseQuantity(fmt.Sprint(x))
	qy, errY := resource.ParseQuantity(fmt.Sprint(y))
	return errX == nil && errY == nil && qx.Cmp(qy) == 0
}

func scalar(x, y any) bool {
	if fx, ok := number(x); ok {
		fy, ok := number(y)
		return ok && fx == fy
	}
	return reflect.DeepEqual(x, y)
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case int:
		return float64(n), true
	case int32:
		return float64(n), true
	case float64:
		return n, true
	default:
		return 0, false
	}
}
