package project

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// stampedApp is a Deployment with a ConfigMap that its pods use.
func stampedApp(image, greeting string) []*unstructured.Unstructured {
	return []*unstructured.Unstructured{
		{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "web", "namespace": "shop"},
			"data": map[string]any{"GREETING": greeting},
		}},
		{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "web", "namespace": "shop"},
			"spec": map[string]any{
				"selector": map[string]any{"matchLabels": map[string]any{"app": "web"}},
				"template": map[string]any{
					"metadata": map[string]any{"labels": map[string]any{"app": "web"}},
					"spec": map[string]any{"containers": []any{map[string]any{
						"name": "web", "image": image,
						"envFrom": []any{map[string]any{"configMapRef": map[string]any{"name": "web"}}},
					}}},
				},
			},
		}},
	}
}

func TestStampOnlyWhereNothingElseReplacesThePods(t *testing.T) {
	hello, bonjour := stampedApp("web:1", "hello"), stampedApp("web:1", "bonjour")
	if s := Stamp(hello, hello); s != "" {
		t.Errorf("equal releases have the stamp %q", s)
	}
	if s := Stamp(hello, stampedApp("web:2", "bonjour")); s != "" {
		t.Errorf("pods that another template replaces have the stamp %q", s)
	}
	there, back := Stamp(hello, bonjour), Stamp(bonjour, hello)
	if there == "" || back == "" || there == back {
		t.Errorf("stamps are %q there and %q back, want two that differ", there, back)
	}
	if again := Stamp(stampedApp("web:1", "salut"), bonjour); again != there {
		t.Errorf("the stamp of one configuration is %q and %q", there, again)
	}
}

func TestStampStaysAtRest(t *testing.T) {
	in := Input{App: "web", Namespace: "shop", Stable: stampedApp("web:1", "bonjour")}
	in.State.Stable = rollout.Release{Digest: "d", Stamp: "s"}
	d, err := Project(in)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := unstructured.NestedString(d.StableWorkloads[0].Object, "spec", "template", "metadata", "annotations", StampAnnotation)
	if err != nil || got != "s" {
		t.Errorf("the pod template has the stamp %q (%v), want s", got, err)
	}
	if _, found, _ := unstructured.NestedMap(in.Stable[1].Object, "spec", "template", "metadata", "annotations"); found {
		t.Error("the input was changed")
	}
}
