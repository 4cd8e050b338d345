package cluster_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// definition is what a chart's crds/ folder brings along, with these versions: "v1 v2*" has two, of which v2 is stored; "v1-" is not
// served.
func (r *rig) definition(mark, versions string) project.Desired {
	r.t.Helper()
	var list []string
	for v := range strings.FieldsSeq(versions) {
		name := strings.Trim(v, "*-")
		list = append(list, fmt.Sprintf("{name: %s, served: %t, storage: %t, schema: {openAPIV3Schema: {type: object, description: %q}}}",
			name, !strings.HasSuffix(v, "-"), strings.HasSuffix(v, "*"), "as in "+versions))
	}
	d := project.Desired{Stable: r.objects(fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.%[1]s.example.com}
spec:
  group: %[1]s.example.com
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing}
  versions: [%s]
---
%s`, r.ns, strings.Join(list, ", "), configs))}
	objects.MarkCRD(d.Stable[0], mark)
	return d
}

// defined are the versions that the cluster has of it, as definition writes them.
func (r *rig) defined() string {
	r.t.Helper()
	live, err := r.dyn.Resource(crds).Get(r.t.Context(), "things."+r.ns+".example.com", metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	if a := live.GetAnnotations()[objects.CRDsAnnotation]; a != "" {
		r.t.Errorf("the API server was sent %s: %s", objects.CRDsAnnotation, a)
	}
	versions := live.Object["spec"].(map[string]any)["versions"].([]any)
	schema := versions[0].(map[string]any)["schema"].(map[string]any)["openAPIV3Schema"].(map[string]any)
	return strings.TrimPrefix(schema["description"].(string), "as in ")
}

// TestCRDsAreOnlyMade: by default what crds/ brings along is made, and left as it is from then on, whoever changes his mind.
func TestCRDsAreOnlyMade(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, r.definition(objects.CRDsCreate, "v1*"))
	second := r.definition(objects.CRDsCreate, "v1 v2*")
	if err := r.Try(t.Context(), r.app, second); err != nil {
		t.Error(err)
	}
	r.apply(rollout.Idle, second)
	if got := r.defined(); got != "v1*" {
		t.Errorf("it was changed to %s", got)
	}
	if seen := r.observe(second); !seen.Applied {
		t.Errorf("seen %+v", seen)
	}
	r.restart("2")
	r.apply(rollout.Idle, second)
	if got := r.defined(); got != "v1*" {
		t.Errorf("another process changed it to %s", got)
	}
	// Who asks for it has it replaced, and who asks no longer keeps what is there.
	replacing := r.definition(objects.CRDsCreateReplace, "v1 v2*")
	if seen := r.observe(replacing); seen.Applied {
		t.Error("it is said to be as asked for")
	}
	r.apply(rollout.Idle, replacing)
	if got := r.defined(); got != "v1 v2*" {
		t.Errorf("it is %s", got)
	}
	if seen := r.observe(replacing); !seen.Applied {
		t.Errorf("seen %+v", seen)
	}
	r.apply(rollout.Idle, r.definition(objects.CRDsCreate, "v1*"))
	if got := r.defined(); got != "v1 v2*" {
		t.Errorf("it was set back to %s", got)
	}
	// It stays when the app goes.
	res := actions(r.apply(rollout.Idle, project.Desired{Stable: r.objects(configs)}))
	if !strings.Contains(res, "CustomResourceDefinition things."+r.ns+".example.com left") {
		t.Error(res)
	}
}

// TestCRDsAreNotSetBack: no version goes in which objects may be stored. When nothing is stored in it any more, it does.
func TestCRDsAreNotSetBack(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, r.definition(objects.CRDsCreateReplace, "v1*"))
	r.apply(rollout.Idle, r.definition(objects.CRDsCreateReplace, "v1 v2*"))
	for versions, want := range map[string]string{
		"v1*":     "objects may be stored in version v2, which this chart's definition does not have",
		"v2*":     "objects may be stored in version v1, which this chart's definition does not have",
		"v1- v2*": "objects may be stored in version v1, which is served and would be no longer",
	} {
		d := r.definition(objects.CRDsCreateReplace, versions)
		err := r.Try(t.Context(), r.app, d)
		if !errors.Is(err, delivery.ErrRefused) || !strings.Contains(err.Error(), "things."+r.ns+".example.com") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is tried: %v", versions, err)
		}
		if _, err := r.Apply(t.Context(), r.app, rollout.State{}, d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is applied: %v", versions, err)
		}
		if seen := r.observe(d); seen.Applied {
			t.Errorf("%s is seen: %+v", versions, seen)
		}
		if got := r.defined(); got != "v1 v2*" {
			t.Fatalf("it was set back to %s", got)
		}
	}
	migrated := []byte(`{"status": {"storedVersions": ["v2"]}}`)
	name := "things." + r.ns + ".example.com"
	if _, err := r.dyn.Resource(crds).Patch(t.Context(), name, types.MergePatchType, migrated, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	next := r.definition(objects.CRDsCreateReplace, "v2*")
	if err := r.Try(t.Context(), r.app, next); err != nil {
		t.Error(err)
	}
	r.apply(rollout.Idle, next)
	if got := r.defined(); got != "v2*" {
		t.Errorf("it is %s", got)
	}
}

// TestCRDsOfTwoEnvironments: who has a definition keeps it. Another environment that wants to replace it is told whose it is, unless
// it is as both want it; and gets on by taking it as it is.
func TestCRDsOfTwoEnvironments(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, r.definition(objects.CRDsCreateReplace, "v1*"))
	other, err := cluster.New(t.Context(), cluster.Config{Allow: allow.Everything, REST: shared.REST(), Namespace: r.ns, Environment: "staging"})
	if err != nil {
		t.Fatal(err)
	}
	app := delivery.App{Name: "other", Namespace: r.ns, ReleaseName: "other"}
	alone := func(d project.Desired) project.Desired { return project.Desired{Stable: d.Stable[:1]} }
	const want = "it belongs to app web of environment production"
	newer := alone(r.definition(objects.CRDsCreateReplace, "v1 v2*"))
	if err := other.Try(t.Context(), app, newer); !errors.Is(err, delivery.ErrRefused) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "crds: Create") {
		t.Errorf("it is tried: %v", err)
	}
	if _, err := other.Apply(t.Context(), app, rollout.State{}, newer); !errors.Is(err, delivery.ErrNotOurs) || !strings.Contains(err.Error(), want) {
		t.Errorf("it is applied: %v", err)
	}
	for _, d := range []project.Desired{alone(r.definition(objects.CRDsCreateReplace, "v1*")), alone(r.definition(objects.CRDsCreate, "v1 v2*"))} {
		if err := other.Try(t.Context(), app, d); err != nil {
			t.Error(err)
		}
		if _, err := other.Apply(t.Context(), app, rollout.State{}, d); err != nil {
			t.Error(err)
		}
		if seen, err := other.Observe(t.Context(), app, d); err != nil || !seen.Applied {
			t.Errorf("seen %+v, %v", seen, err)
		}
		if got := r.defined(); got != "v1*" {
			t.Fatalf("it was changed to %s", got)
		}
	}
	if seen := r.observe(r.definition(objects.CRDsCreateReplace, "v1*")); !seen.Applied {
		t.Errorf("the first: %+v", seen)
	}
}
