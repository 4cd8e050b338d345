package cluster

import (
	"bytes"
	"fmt"
	"slices"

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

var adoptPath = fieldpath.MakePathOrDie("metadata", "annotations", adoptAnnotation)

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

// ownedBy returns what manager has applied to the object; nil when nothing.
func ownedBy(manager string, live *unstructured.Unstructured) (*fieldpath.Set, error) {
	for _, m := range live.GetManagedFields() {
		if isOurs(m, manager) {
			return decodeFields(m)
		}
	}
	return nil, nil
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
	// Whoever has left the object to us has said so for good: it is not deleted with the app.
	all = all.Difference(fieldpath.NewSet(adoptPath))
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
