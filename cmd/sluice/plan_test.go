package main

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/render/mask"
)

// TestPlanMasksSecretsEverywhere holds that what a Secret holds is not shown of another object either, and that the change is.
func TestPlanMasksSecretsEverywhere(t *testing.T) {
	objects := func(password string) []*unstructured.Unstructured {
		var out []*unstructured.Unstructured
		for _, text := range []string{
			"{apiVersion: v1, kind: Secret, metadata: {name: db}, stringData: {password: " + password + "}}",
			"{apiVersion: v1, kind: ConfigMap, metadata: {name: web}, data: {mode: calm, url: 'postgres://app:" + password + "@db'}}",
		} {
			o := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
				t.Fatal(err)
			}
			out = append(out, o)
		}
		return out
	}
	from, to := objects("0ldP4ss"), objects("n3wP4ss")
	changes := objectChanges(from, to, mask.New(mask.Source{Objects: append(from, to...)}))
	if len(changes) != 2 {
		t.Fatalf("%d changes, want 2", len(changes))
	}
	for _, c := range changes {
		if strings.Contains(c.Diff, "P4ss") {
			t.Errorf("%s", c.Diff)
		}
	}
	if d := changes[1].Diff; !strings.Contains(d, "-  url: postgres://app:***@db\n+  url: postgres://app:***@db\n") || !strings.Contains(d, "mode: calm") {
		t.Errorf("%s", d)
	}
}
