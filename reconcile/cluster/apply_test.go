package cluster_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

func actions(r cluster.Result) string {
	var out []string
	for _, c := range r.Changes {
		out = append(out, c.Key.Kind+" "+c.Key.Name+" "+string(c.Action))
	}
	return strings.Join(out, ", ")
}

func TestApplyThenIdleThenRestart(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	got := actions(r.apply(rollout.Installing, d))
	want := "ConfigMap web created, Secret web created, Service web created, Deployment web created, VirtualService web created"
	if got != want {
		t.Fatalf("first apply: %s\nwant %s", got, want)
	}
	r.awaitReady(d)
	if seen := r.observe(d); !seen.Applied || seen.Pending != "" {
		t.Fatalf("after apply: %+v", seen)
	}
	if _, err := r.SaveState(t.Context(), delivery.Saved{App: r.app, State: rollout.State{Exposure: rollout.Exposure{Weight: 7}}}); err != nil {
		t.Fatal(err)
	}
	marks := r.get(deployments, "web")
	if marks.GetLabels()["app.kubernetes.io/managed-by"] != "Helm" ||
		marks.GetAnnotations()["meta.helm.sh/release-name"] != "web" || marks.GetAnnotations()["meta.helm.sh/release-namespace"] != r.ns {
		t.Errorf("marks of Helm are missing: %v %v", marks.GetLabels(), marks.GetAnnotations())
	}
	if labels, _, _ := unstructured.NestedStringMap(marks.Object, "spec", "template", "metadata", "labels"); len(labels) != 1 {
		t.Errorf("the pod template was given labels: %v", labels)
	}

	idle := r.flush()
	for range 3 {
		if res := r.apply(rollout.Idle, r.whole()); len(res.Changes) > 0 {
			t.Errorf("idle apply: %s", actions(res))
		}
		if !r.observe(d).Applied {
			t.Error("idle: not applied")
		}
	}
	r.flush()
	if q := r.requests(idle); len(q) > 0 {
		t.Errorf("idle passes made requests: %v", q)
	}

	r.restart("2")
	began := r.flush()
	if seen := r.observe(d); !seen.Applied || !seen.Stable.Ready {
		t.Errorf("after restart: %+v", seen)
	}
	r.apply(rollout.Idle, r.whole())
	r.flush()
	if q := r.writes(began); len(q) > 0 {
		t.Errorf("a restart wrote: %v", q)
	}
}

// TestRestartWithoutMarks is a crash after the objects were made and before the inventory could be saved again.
func TestRestartWithoutMarks(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	r.apply(rollout.Installing, d)
	r.awaitReady(d)
	r.restart("2")
	began := r.flush()
	if seen := r.observe(d); !seen.Applied {
		t.Errorf("after restart: %+v", seen)
	}
	if res := r.apply(rollout.Idle, d); len(res.Changes) > 0 {
		t.Errorf("after restart: %s", actions(res))
	}
	r.flush()
	if q := r.writes(began); len(q) > 0 {
		t.Errorf("a restart wrote: %v", q)
	}
}

func TestStatusIsNoChange(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	r.apply(rollout.Installing, d)
	r.awaitReady(d)
	r.apply(rollout.Idle, d)
	r.observe(d)
	r.drain()
	began := r.flush()
	for i := range 3 {
		r.editStatus(fmt.Sprintf(`{"status":{"conditions":[{"type":"Test","status":"True","message":"%d"}]}}`, i))
	}
	// A real change behind the others shows that the watch has brought them all.
	r.edit(configMaps, "web", `{"metadata":{"labels":{"by":"hand"}}}`)
	r.awaitCall()
	if res := r.apply(rollout.Idle, d); len(res.Changes) > 0 {
		t.Errorf("apply: %s", actions(res))
	}
	r.flush()
	if q := r.requests(began); !slices.Equal(q, []string{"get configmaps web", "patch configmaps web"}) {
		t.Errorf("status updates and a foreign label made requests: %v", q)
	}
}

func TestDriftIsCorrected(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	r.apply(rollout.Idle, d)
	r.awaitReady(d)
	for _, test := range []struct {
		name   string
		break_ func()
		check  func() bool
	}{
		{"weight", func() {
			r.edit(virtual, "web", `{"spec":{"http":[{"name":"main","route":[{"destination":{"host":"web"},"weight":100}]}]}}`)
		}, func() bool {
			http, _, _ := unstructured.NestedSlice(r.get(virtual, "web").Object, "spec", "http")
			return strings.Contains(fmt.Sprint(http), "weight:90")
		}},
		{"route added to an atomic list", func() {
			r.edit(virtual, "web", `{"spec":{"http":[{"name":"main","route":[{"destination":{"host":"web"},"weight":90},{"destination":{"host":"web-canary"},"weight":10}]},{"name":"more","route":[{"destination":{"host":"x"}}]}]}}`)
		}, func() bool {
			http, _, _ := unstructured.NestedSlice(r.get(virtual, "web").Object, "spec", "http")
			return len(http) == 1
		}},
		{
			"label", func() { r.edit(deployments, "web", `{"metadata":{"labels":{"app":"other"}}}`) },
			func() bool { return r.get(deployments, "web").GetLabels()["app"] == "web" },
		},
		{"image", func() {
			r.edit(deployments, "web", `{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"web:evil"}]}}}}`)
		}, func() bool {
			c, _, _ := unstructured.NestedSlice(r.get(deployments, "web").Object, "spec", "template", "spec", "containers")
			return strings.Contains(fmt.Sprint(c), "image:web:1 ") && strings.Contains(fmt.Sprint(c), "MODE")
		}},
		{
			"data", func() { r.edit(configMaps, "web", `{"data":{"level":"debug"}}`) },
			func() bool {
				v, _, _ := unstructured.NestedString(r.get(configMaps, "web").Object, "data", "level")
				return v == "info"
			},
		},
		{
			"data removed", func() { r.edit(configMaps, "web", `{"data":{"level":null}}`) },
			func() bool {
				v, _, _ := unstructured.NestedString(r.get(configMaps, "web").Object, "data", "level")
				return v == "info"
			},
		},
		{
			"service port", func() { r.edit(services, "web", `{"spec":{"selector":{"app":"nobody"}}}`) },
			func() bool {
				v, _, _ := unstructured.NestedString(r.get(services, "web").Object, "spec", "selector", "app")
				return v == "web"
			},
		},
		{"deleted", func() {
			if err := r.dyn.Resource(deployments).Namespace(r.ns).Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}, func() bool { return r.get(deployments, "web").GetName() == "web" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			r.drain()
			began := time.Now()
			test.break_()
			// A Deployment that is not ready calls, too.
			for r.awaitCall(); r.observe(d).Applied; {
				r.awaitCall()
			}
			r.apply(rollout.Idle, d)
			if !test.check() {
				t.Error("not corrected")
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			if seen := r.observe(d); !seen.Applied {
				t.Errorf("after correction: %+v", seen)
			}
		})
	}
}

func TestForeignFieldsAreLeftAlone(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	r.apply(rollout.Idle, d)
	r.edit(deployments, "web", `{"metadata":{"annotations":{"team":"blue"}}}`)
	r.edit(configMaps, "web", `{"data":{"extra":"1","level":"debug"}}`)
	r.apply(rollout.Idle, d)
	eventually(t, 5*time.Second, func() (bool, string) {
		r.apply(rollout.Idle, d)
		data, _, _ := unstructured.NestedStringMap(r.get(configMaps, "web").Object, "data")
		return data["level"] == "info" && data["extra"] == "1", fmt.Sprint(data)
	})
	if r.get(deployments, "web").GetAnnotations()["team"] != "blue" {
		t.Error("an annotation of somebody else is gone")
	}
}

func TestFieldsThatAreNoLongerDesiredGo(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, r.whole())
	d := r.whole()
	unstructured.RemoveNestedField(d.Stable[0].Object, "data", "port")
	unstructured.RemoveNestedField(d.Stable[1].Object, "stringData")
	if got, want := actions(r.apply(rollout.Idle, d)), "ConfigMap web configured, Secret web configured"; got != want {
		t.Errorf("apply: %s, want %s", got, want)
	}
	data, _, _ := unstructured.NestedStringMap(r.get(configMaps, "web").Object, "data")
	if len(data) != 1 {
		t.Errorf("ConfigMap has %v", data)
	}
	secret := r.get(configMaps.GroupVersion().WithResource("secrets"), "web")
	if left, _ := secret.Object["data"].(map[string]any); len(left) != 0 {
		t.Error("the Secret still has its key")
	}
}

// TestReplicasAreLetGo hands a Deployment to an autoscaler: its count must stay, not become the default of 1.
func TestReplicasAreLetGo(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	r.apply(rollout.Idle, d)
	unstructured.RemoveNestedField(d.Stable[3].Object, "spec", "replicas")
	r.apply(rollout.Idle, d)
	if n, _, _ := unstructured.NestedInt64(r.get(deployments, "web").Object, "spec", "replicas"); n != 2 {
		t.Errorf("replicas became %d", n)
	}
	r.edit(deployments, "web", `{"spec":{"replicas":5}}`)
	eventually(t, 5*time.Second, func() (bool, string) {
		seen := r.observe(d)
		res := r.apply(rollout.Idle, d)
		n, _, _ := unstructured.NestedInt64(r.get(deployments, "web").Object, "spec", "replicas")
		return n == 5 && len(res.Changes) == 0 && seen.Applied, fmt.Sprint(n, actions(res), seen)
	})
}

func TestImmutableFieldsAreNamed(t *testing.T) {
	r := newRig(t)
	d := project.Desired{Stable: r.objects(deployment("web", "web:1", 1) + "\n---\n" + service)}
	r.apply(rollout.Idle, d)
	next := project.Desired{Stable: r.objects(
		strings.ReplaceAll(deployment("web", "web:1", 1), "{app: web}", "{app: other}") + "\n---\n" +
			service + "\n  clusterIP: 10.0.0.77")}
	_, err := r.Apply(t.Context(), r.app, rollout.State{}, next)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"applying Deployment " + r.ns + "/web: spec.selector: ", "Service " + r.ns + "/web: spec.clusterIP",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q:\n%v", want, err)
		}
	}
	t.Log(err)
}

func TestErrorsKeepSecrets(t *testing.T) {
	r := newRig(t)
	bad := r.objects(`apiVersion: v1
kind: Secret
metadata: {name: web}
type: Opaque
data: {password: "not base64 swordfish!"}
---
apiVersion: v1
kind: Secret
metadata: {name: web2}
stringData: {password: {nested: swordfish}}`)
	for _, o := range bad {
		_, err := r.Apply(t.Context(), r.app, rollout.State{}, project.Desired{Stable: []*unstructured.Unstructured{o}})
		if err == nil || strings.Contains(err.Error(), "swordfish") {
			t.Errorf("err = %v", err)
		}
	}
}

func TestCRDThenItsObjects(t *testing.T) {
	r := newRig(t)
	group := r.ns + ".example.com"
	crd := fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.%[1]s}
spec:
  group: %[1]s
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, x-kubernetes-preserve-unknown-fields: true}}}}`, group)
	widget := fmt.Sprintf("apiVersion: %s/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}", group)
	before, err := r.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before.APIVersions.Has(group + "/v1/Widget") {
		t.Fatal("it is there already")
	}
	// The object stands before its definition on purpose.
	d := project.Desired{Stable: r.objects(widget + "\n---\n" + crd)}
	r.apply(rollout.Idle, d)
	eventually(t, 10*time.Second, func() (bool, string) {
		after, err := r.Capabilities(t.Context())
		return err == nil && after.APIVersions.Has(group+"/v1/Widget"), fmt.Sprint(err)
	})
	if ns, known := r.Namespaced(d.Stable[0].GroupVersionKind()); !ns || !known {
		t.Errorf("Namespaced = %v, %v", ns, known)
	}
	// The definition stays when it is no longer desired; its object goes.
	rest := project.Desired{Stable: r.objects(configs)}
	res := actions(r.apply(rollout.Idle, rest))
	if !strings.Contains(res, "CustomResourceDefinition widgets."+group+" left") || !strings.Contains(res, "Widget w deleted") {
		t.Error(res)
	}
}

func TestTwoAppsWantOneObject(t *testing.T) {
	r := newRig(t)
	other := delivery.App{Name: "other", Namespace: r.ns, ReleaseName: "other"}
	d := project.Desired{Stable: r.objects(configs)}
	r.apply(rollout.Idle, d)
	_, err := r.Apply(t.Context(), other, rollout.State{}, d)
	var refused *cluster.ObjectError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "belongs to app web") {
		t.Fatalf("err = %v", err)
	}
	// When the first lets go of it, it is handed over as it stands.
	before := r.get(configMaps, "web").GetUID()
	res := r.apply(rollout.Idle, project.Desired{Stable: r.objects(service)})
	if got := actions(res); !strings.Contains(got, "ConfigMap web left") {
		t.Error(got)
	}
	if _, err := r.Apply(t.Context(), other, rollout.State{}, d); err != nil {
		t.Fatal(err)
	}
	now := r.get(configMaps, "web")
	if now.GetUID() != before || now.GetAnnotations()["meta.helm.sh/release-name"] != "other" {
		t.Error("not handed over as it stood")
	}
}

func TestRoutingWaitsForWhatItRefersTo(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	d.Canary = r.objects("apiVersion: v1\nkind: Service\nmetadata: {name: web-canary}\nspec: {ports: [{port: -1}]}")
	_, err := r.Apply(t.Context(), r.app, rollout.State{Phase: rollout.Starting}, d)
	if err == nil || !strings.Contains(err.Error(), "waits for the objects") {
		t.Errorf("err = %v", err)
	}
	list, _ := r.dyn.Resource(virtual).Namespace(r.ns).List(t.Context(), metav1.ListOptions{})
	if len(list.Items) > 0 {
		t.Error("routing was applied before the canary's Service")
	}
	// On the way back nothing may keep traffic from leaving the canary.
	if _, err = r.Apply(t.Context(), r.app, rollout.State{Phase: rollout.RollingBack}, d); err == nil {
		t.Error("the fault is gone")
	}
	r.get(virtual, "web")
}

func (r *rig) editStatus(patch string) {
	r.t.Helper()
	_, err := r.dyn.Resource(deployments).Namespace(r.ns).Patch(r.t.Context(), "web", "application/merge-patch+json", []byte(patch),
		metav1.PatchOptions{FieldManager: "kubectl-patch"}, "status")
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) drain() {
	for {
		select {
		case <-r.woken:
		default:
			return
		}
	}
}

func (r *rig) awaitCall() {
	r.t.Helper()
	select {
	case <-r.woken:
	case <-time.After(5 * time.Second):
		r.t.Fatal("nobody was told of the change")
	}
}
