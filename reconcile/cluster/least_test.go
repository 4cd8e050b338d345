package cluster_test

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestScaledCanary: a canary that is scaled begins with the least that its scaler leaves it, is not ready with fewer, and has as
// many from then on as the scaler says.
func TestScaledCanary(t *testing.T) {
	r := newRig(t)
	stable := r.objects(service + "\n---\n" + deployment("web", "web:1", 1))
	canary := r.objects(deployment("web-canary", "web:2", 0))
	unstructured.RemoveNestedField(canary[0].Object, "spec", "replicas")
	canary[0].SetAnnotations(map[string]string{project.LeastAnnotation: "3"})
	d := project.Desired{Stable: stable, StableWorkloads: workloads(stable), Canary: canary, CanaryWorkloads: canary}
	r.apply(rollout.Starting, d)
	replicas := func() int64 {
		n, _, _ := unstructured.NestedInt64(r.get(deployments, "web-canary").Object, "spec", "replicas")
		return n
	}
	if n := replicas(); n != 3 {
		t.Fatalf("it begins with %d pods", n)
	}
	ready := func(want bool, says string) {
		t.Helper()
		eventually(t, time.Minute, func() (bool, string) {
			seen := r.observe(d).Canary
			return seen.Ready == want && strings.Contains(seen.Message, says), seen.Message
		})
	}
	ready(true, "")
	for n, want := range map[string]bool{"1": false, "5": true} {
		r.edit(deployments, "web-canary", `{"spec":{"replicas":`+n+`}}`) // as the scaler does
		says := ""
		if !want {
			says = "Deployment web-canary is to have 3 pods, as its scaler has it, and has 1"
		}
		ready(want, says)
		r.apply(rollout.Starting, d)
		if seen := r.observe(d); !seen.Applied {
			t.Errorf("pending: %s", seen.Pending)
		}
		if got := replicas(); got != map[string]int64{"1": 1, "5": 5}[n] {
			t.Errorf("the scaler has said %s, and it has %d", n, got)
		}
	}
}
