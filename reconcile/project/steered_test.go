package project

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestSteered(t *testing.T) {
	canary := func(kind, target, namespace, phase string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": map[string]any{"name": "c", "namespace": namespace},
			"spec":   map[string]any{"targetRef": map[string]any{"kind": kind, "name": target}},
			"status": map[string]any{"phase": phase},
		}}
	}
	release := []*unstructured.Unstructured{{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web", "namespace": "ns"},
	}}, canary("Deployment", "web", "ns", "")}
	for _, test := range []struct {
		name string
		live *unstructured.Unstructured
		want string
	}{
		{"at rest", canary("Deployment", "web", "ns", "Succeeded"), "kubectl -n ns delete canary c --cascade=orphan"},
		{"never used", canary("Deployment", "web", "ns", "Initialized"), "--cascade=orphan"},
		{"failed", canary("Deployment", "web", "ns", "Failed"), `its phase is "Failed", in which web-primary may serve another release`},
		{"under way", canary("Deployment", "web", "ns", "Progressing"), "wait until it is Succeeded"},
		{"another workload", canary("Deployment", "other", "ns", "Succeeded"), ""},
		{"another kind", canary("DaemonSet", "web", "ns", "Succeeded"), ""},
		{"another namespace", canary("Deployment", "web", "other", "Succeeded"), ""},
		{"something else", &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Service"}}, ""},
	} {
		got := Steered(release, []*unstructured.Unstructured{test.live})
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// TestScalesCopy: a scaler of the copy that Flagger serves from would size nothing once the app serves from its own workload, which a
// release with a workload of that name is no case of. Where it is for the workload, the number of pods is left to it, and the cluster
// gives it as many as the primary has.
func TestScalesCopy(t *testing.T) {
	deployment := func(name string) *unstructured.Unstructured {
		return object("apps/v1", "Deployment", name, map[string]any{
			"replicas": int64(1), "selector": map[string]any{"matchLabels": map[string]any{"app": name}},
			"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": name}}, "spec": map[string]any{}},
		})
	}
	scaler := func(apiVersion, kind, of string) *unstructured.Unstructured {
		return object(apiVersion, kind, "web", map[string]any{"scaleTargetRef": map[string]any{"kind": "Deployment", "name": of}})
	}
	for _, test := range []struct {
		apiVersion, kind, of string
		beside               bool
		want                 string
	}{
		{"autoscaling/v2", "HorizontalPodAutoscaler", "web-primary", false, "HorizontalPodAutoscaler web scales Deployment web-primary, the copy that Flagger serves from: without Flagger nothing would size web; expected web in its spec.scaleTargetRef"},
		{"keda.sh/v1alpha1", "ScaledObject", "web-primary", false, "ScaledObject web scales Deployment web-primary"},
		{"autoscaling/v2", "HorizontalPodAutoscaler", "web-primary", true, ""},
		{"autoscaling/v2", "HorizontalPodAutoscaler", "web", false, ""},
		{"keda.sh/v1alpha1", "ScaledObject", "web", false, ""},
	} {
		release := []*unstructured.Unstructured{deployment("web"), scaler(test.apiVersion, test.kind, test.of)}
		if test.beside {
			release = append(release, deployment("web-primary"))
		}
		if got := ScalesCopy(release); (got == "") != (test.want == "") || !strings.HasPrefix(got, test.want) {
			t.Errorf("%s of %s: %q, want %q", test.kind, test.of, got, test.want)
		}
		d, err := Project(Input{App: "web", Namespace: "ns", Stable: release})
		if err != nil {
			t.Fatal(err)
		}
		_, said, _ := unstructured.NestedFieldNoCopy(d.StableWorkloads[0].Object, "spec", "replicas")
		if said != (test.of != "web") {
			t.Errorf("%s of %s: replicas are applied: %t", test.kind, test.of, said)
		}
	}
}
