package cluster

import (
	"context"
	"fmt"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/render/objects"
)

// isCRD reports whether an object defines a kind. Such definitions serve a whole cluster, and what is stored by them outlives any
// release: they are never deleted, nor taken from who has them, nor set back.
func isCRD(p planned) bool { return p.key.GroupKind() == objects.CRD }

// leaveCRD decides about a definition that exists: whether it is left as it is, which is then remembered, or why it can't be what is
// desired. Neither: it is the app's to apply.
func (c *Client) leaveCRD(ctx context.Context, m *memory, t target, p planned, live *unstructured.Unstructured) (leave bool, err error) {
	whose := c.whose(m, live)
	switch {
	case p.crds == objects.CRDsCreate:
		return true, nil
	case whose == "":
		return false, setBack(live, p.object)
	case p.crds == objects.CRDsCreateReplace && !c.serves(ctx, t, p, live):
		return false, fmt.Errorf("it is another one than this chart has, and %w; crds: %s in sluice.yaml takes it as it is",
			&notOursError{whose}, objects.CRDsCreate)
	}
	c.learnOther(m, p, t.feed.record(live))
	return true, nil
}

// serves reports whether applying a definition would leave it as it is.
func (c *Client) serves(ctx context.Context, t target, p planned, live *unstructured.Unstructured) bool {
	opts := metav1.ApplyOptions{FieldManager: c.cfg.FieldManager, Force: true, DryRun: []string{metav1.DryRunAll}}
	applied, err := t.resource.Apply(ctx, p.key.Name, p.object, opts)
	return err == nil && reflect.DeepEqual(live.Object["spec"], applied.Object["spec"])
}

// tryCRD looks at a definition that exists before a release begins; leave: nothing of it is tried.
func (c *Client) tryCRD(ctx context.Context, m *memory, t target, p planned) (leave bool, err error) {
	live, err := t.resource.Get(ctx, p.key.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return true, refusedOf(p, err)
	}
	if leave, err = c.leaveCRD(ctx, m, t, p, live); err != nil {
		return true, refusal(p, err)
	}
	return leave, nil
}

// setBack says why a definition can't follow another one: objects may be stored in a version that it does not have, or does not serve
// any more. The first the API server refuses as well, in words that name neither.
func setBack(live, desired *unstructured.Unstructured) error {
	stored, _, _ := unstructured.NestedStringSlice(live.Object, "status", "storedVersions")
	was, will := servedVersions(live), servedVersions(desired)
	for _, v := range stored {
		served, has := will[v]
		switch {
		case !has:
			return fmt.Errorf("objects may be stored in version %s, which this chart's definition does not have; expected one that has it,"+
				" or that status.storedVersions of the definition lists it no longer, as after a migration of its objects", v)
		case was[v] && !served:
			return fmt.Errorf("objects may be stored in version %s, which is served and would be no longer; expected a definition that serves it,"+
				" or that status.storedVersions of the definition lists it no longer, as after a migration of its objects", v)
		}
	}
	return nil
}

// servedVersions are the versions of a definition, and whether each is served.
func servedVersions(crd *unstructured.Unstructured) map[string]bool {
	versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
	out := map[string]bool{}
	for _, v := range versions {
		version, _ := v.(map[string]any)
		name, _ := version["name"].(string)
		served, _ := version["served"].(bool)
		out[name] = served
	}
	return out
}
