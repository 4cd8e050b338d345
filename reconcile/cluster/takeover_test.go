package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// An app that another tool has led past its own workload, which is at zero, as Flagger does: its Service goes on leading to what serves until
// the app's own pods are ready, and they are as many as serve, where nothing but a scaler sizes them.
func TestServesUntilItIsTakenOver(t *testing.T) {
	for _, scaled := range []bool{false, true} {
		r := newRig(t)
		r.apply(rollout.Idle, project.Desired{Stable: r.objects(configs)}) // makes the namespace
		theirs := r.objects(service + "\n---\n" + deployment("web", "web:1", 0) + "\n---\n" + deployment("web-primary", "web:1", 3))
		marks := map[string]string{"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": r.ns}
		theirs[0].SetAnnotations(marks)
		theirs[1].SetAnnotations(marks)
		if err := unstructured.SetNestedField(theirs[0].Object, "web-primary", "spec", "selector", "app"); err != nil {
			t.Fatal(err)
		}
		for i, resource := range []string{"services", "deployments", "deployments"} {
			kind := deployments
			if resource == "services" {
				kind = services
			}
			if _, err := r.dyn.Resource(kind).Namespace(r.ns).Create(t.Context(), theirs[i], metav1.CreateOptions{FieldManager: "helm"}); err != nil {
				t.Fatal(err)
			}
		}
		objs := r.objects(configs + "\n---\n" + service + "\n---\n" + deployment("web", "web:1", 2))
		own, want := objs[len(objs)-1], int64(2)
		if scaled {
			unstructured.RemoveNestedField(own.Object, "spec", "replicas")
			want = 3
		}
		d := project.Desired{Stable: objs, StableWorkloads: workloads(objs)}
		_, err := r.Apply(t.Context(), r.app, rollout.State{}, d)
		if err == nil || !strings.Contains(err.Error(), "Service "+r.ns+"/web: it leads to app=web-primary until the app's own pods are ready: Deployment web is") {
			t.Errorf("scaled %v: %v", scaled, err)
		}
		leads := func() string {
			app, _, _ := unstructured.NestedString(r.get(services, "web").Object, "spec", "selector", "app")
			return app
		}
		if now := leads(); now != "web-primary" {
			t.Errorf("scaled %v: it leads to %s at once", scaled, now)
		}
		eventually(t, time.Minute, func() (bool, string) {
			_, err := r.Apply(t.Context(), r.app, rollout.State{}, d)
			ready, _, _ := unstructured.NestedInt64(r.get(deployments, "web").Object, "status", "readyReplicas")
			if now := leads(); err == nil && now == "web" && ready != want {
				t.Fatalf("scaled %v: it leads to %d pods", scaled, ready)
			}
			return err == nil && leads() == "web", leads()
		})
		if seen := r.observe(d); !seen.Applied {
			t.Errorf("scaled %v: pending: %s", scaled, seen.Pending)
		}
		r.edit(deployments, "web", `{"spec":{"replicas":5}}`) // as a scaler does
		// The agent hears of it a little later. What is its own again is not applied; what is the scaler's is, with pods for all of it.
		eventually(t, time.Minute, func() (bool, string) {
			ready, _, _ := unstructured.NestedInt64(r.get(deployments, "web").Object, "status", "readyReplicas")
			return ready == 5 && r.observe(d).Applied == scaled, fmt.Sprintf("scaled %v: its number of pods is whose? %d are ready", scaled, ready)
		})
	}
}
