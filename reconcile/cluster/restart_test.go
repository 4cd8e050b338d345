package cluster_test

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestAPIServerRestart: a client outlives an API server that goes away, and sees what happened meanwhile.
func TestAPIServerRestart(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	r.apply(rollout.Idle, d)
	r.awaitReady(d)
	if err := shared.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	changed := r.whole()
	unstructured.RemoveNestedField(changed.Stable[0].Object, "data", "port")
	if _, err := r.Apply(t.Context(), r.app, rollout.State{}, changed); err == nil {
		t.Error("applied without an API server")
	}
	if err := shared.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.edit(virtual, "web", `{"spec":{"http":[{"name":"main","route":[{"destination":{"host":"web"},"weight":100}]}]}}`)
	eventually(t, time.Minute, func() (bool, string) {
		_, err := r.Apply(t.Context(), r.app, rollout.State{}, changed)
		http, _, _ := unstructured.NestedSlice(r.get(virtual, "web").Object, "spec", "http")
		data, _, _ := unstructured.NestedStringMap(r.get(configMaps, "web").Object, "data")
		return len(data) == 1 && len(http[0].(map[string]any)["route"].([]any)) == 2, fmt.Sprintf("%v; %v %v", err, http, data)
	})
	if seen := r.observe(changed); !seen.Applied {
		t.Errorf("after the restart: %+v", seen)
	}
}
