package cluster_test

import (
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// An object that somebody else made is neither changed nor, later, deleted, until he leaves it to the app. It names its owner.
func TestSomebodyElsesObjects(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(service)}) // makes the namespace
	byHand := r.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}\ndata: {level: theirs}")[0]
	helms := r.objects("apiVersion: v1\nkind: Secret\nmetadata: {name: web}\nstringData: {a: b}")[0]
	helms.SetAnnotations(map[string]string{"meta.helm.sh/release-name": "billing", "meta.helm.sh/release-namespace": r.ns})
	if _, err := r.dyn.Resource(configMaps).Namespace(r.ns).Create(t.Context(), byHand, metav1.CreateOptions{FieldManager: "kubectl-create"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.dyn.Resource(secrets).Namespace(r.ns).Create(t.Context(), helms, metav1.CreateOptions{FieldManager: "helm"}); err != nil {
		t.Fatal(err)
	}
	both := project.Desired{Stable: append(r.objects(service), r.objects(configs)...)}
	for name, err := range map[string]error{
		"before": func() error { _, err := r.Existing(t.Context(), r.app, both.Stable); return err }(),
		"on the way": func() error {
			_, err := r.Apply(t.Context(), r.app, rollout.State{}, both)
			return err
		}(),
	} {
		for _, want := range []string{
			"ConfigMap " + r.ns + "/web: it is there already, made by kubectl-create; expected none of that name, or the annotation sluice.dev/adopt",
			"Secret " + r.ns + "/web: it belongs to Helm release " + r.ns + "/billing",
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q is missing in %v", name, want, err)
			}
		}
	}
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(service)})
	if data := r.get(configMaps, "web").Object["data"]; data.(map[string]any)["level"] != "theirs" {
		t.Errorf("it was changed: %v", data)
	}
	r.get(secrets, "web")

	r.edit(configMaps, "web", `{"metadata":{"annotations":{"sluice.dev/adopt":"true"}}}`)
	r.edit(secrets, "web", `{"metadata":{"annotations":{"sluice.dev/adopt":"true"}}}`)
	taken, err := r.Existing(t.Context(), r.app, both.Stable)
	slices.Sort(taken)
	if want := []string{"ConfigMap " + r.ns + "/web", "Secret " + r.ns + "/web"}; err != nil || !slices.Equal(taken, want) {
		t.Errorf("takes over %q, %v", taken, err)
	}
	r.apply(rollout.Idle, both)
	if data := r.get(configMaps, "web").Object["data"]; data.(map[string]any)["level"] == "theirs" {
		t.Errorf("it is not as git says: %v", data)
	}
	// It was there before the app, and stays when the app no longer wants it.
	res := actions(r.apply(rollout.Idle, project.Desired{Stable: r.objects(service)}))
	if !strings.Contains(res, "ConfigMap web left") || !strings.Contains(res, "Secret web left") {
		t.Error(res)
	}
}

// Two environments want one object: the first has it, and the second is told whose it is. A definition of a kind serves
// both, as the first has it.
func TestTwoEnvironmentsWantOneObject(t *testing.T) {
	r := newRig(t)
	crd := func(versions string) string {
		return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things." + r.ns + ".example.com}\n" +
			"spec:\n  group: " + r.ns + ".example.com\n  scope: Namespaced\n  names: {plural: things, singular: thing, kind: Thing}\n  versions: [" + versions + "]"
	}
	const v1 = "{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}"
	const v2 = "{name: v1, served: true, storage: false, schema: {openAPIV3Schema: {type: object}}}, " +
		"{name: v2, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}"
	first := project.Desired{Stable: r.objects(crd(v1) + "\n---\n" + configs)}
	r.apply(rollout.Idle, first)
	other, err := cluster.New(t.Context(), cluster.Config{Allow: allow.Everything, REST: shared.REST(), Namespace: r.ns, Environment: "staging"})
	if err != nil {
		t.Fatal(err)
	}
	app := delivery.App{Name: "web", Namespace: r.ns, ReleaseName: "web"}
	second := project.Desired{Stable: r.objects(crd(v2) + "\n---\n" + configs)}
	if _, err := other.Existing(t.Context(), app, second.Stable); err == nil || !strings.Contains(err.Error(), "it belongs to app web of environment production") {
		t.Errorf("error: %v", err)
	}
	res, err := other.Apply(t.Context(), app, rollout.State{}, second)
	if err == nil || strings.Contains(err.Error(), "CustomResourceDefinition") || len(res.Changes) > 0 {
		t.Errorf("changes %v, error %v", res.Changes, err)
	}
	if seen := r.observe(first); !seen.Applied {
		t.Errorf("the first: %+v", seen)
	}
	seen, err := other.Observe(t.Context(), app, second)
	if err != nil || strings.Contains(seen.Pending, "CustomResourceDefinition") {
		t.Errorf("a definition that is left as it is: %+v, %v", seen, err)
	}
	// The first may go on to the new version.
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(crd(v2) + "\n---\n" + configs)})
}

// Has sees what anybody has made, in any namespace, as soon as it is there.
func TestHas(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(service)}) // makes the namespace
	k := objects.Key{Kind: "Secret", Namespace: r.ns, Name: "cert"}
	has := func(want bool) {
		t.Helper()
		if there, err := r.Has(t.Context(), k); err != nil || there != want {
			t.Errorf("there: %t, %v, want %t", there, err, want)
		}
	}
	has(false)
	byHand := r.objects("apiVersion: v1\nkind: Secret\nmetadata: {name: cert}")[0]
	if _, err := r.dyn.Resource(secrets).Namespace(r.ns).Create(t.Context(), byHand, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	has(true)
	k.Namespace = "nowhere-" + r.ns
	has(false)
}
