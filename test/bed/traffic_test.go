package bed_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	networking "istio.io/api/networking/v1alpha3"
	istio "istio.io/client-go/pkg/apis/networking/v1"
	"istio.io/client-go/pkg/clientset/versioned"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// split is a VirtualService of the host web over web and web-canary.
func split(canary int32) *istio.VirtualService {
	to := func(host string, weight int32) *networking.HTTPRouteDestination {
		return &networking.HTTPRouteDestination{Destination: &networking.Destination{Host: host}, Weight: weight}
	}
	return &istio.VirtualService{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: networking.VirtualService{Hosts: []string{"web"}, Http: []*networking.HTTPRoute{
			{Route: []*networking.HTTPRouteDestination{to("web", 100-canary), to("web-canary", canary)}},
		}},
	}
}

func TestUsersFollowTheVirtualService(t *testing.T) {
	c := client(t)
	routes, err := versioned.NewForConfig(shared.REST())
	if err != nil {
		t.Fatal(err)
	}
	ns := namespace(t, c)
	shared.Behaviours.Set("web:2", behaviour.Behaviour{ErrorRate: .5})
	deploy(t, c, ns, "web-canary", "web:2", 1, 0)
	deploy(t, c, ns, "web", "web:1", 3, 0)
	awaitReady(t, c, ns, "web", 3)
	awaitReady(t, c, ns, "web-canary", 1)
	shared.Traffic.SetRate(ns, "web", 200)

	canaryShare := func(want float64) {
		t.Helper()
		eventually(t, 10*time.Second, func() (bool, string) {
			history := shared.Traffic.History(ns, "web")
			if len(history) == 0 {
				return false, "no history"
			}
			last := history[len(history)-1]
			return math.Abs(last.ByWorkload["web-canary"]-want) < 1e-6 && last.Unserved == 0, fmt.Sprintf("shares are %+v, want %v", last, want)
		})
	}
	canaryShare(0)
	services := routes.NetworkingV1().VirtualServices(ns)
	if _, err := services.Create(t.Context(), split(10), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	canaryShare(.1)
	for _, weight := range []int32{20, 30} {
		patch, err := json.Marshal(map[string]any{"spec": &split(weight).Spec})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := services.Patch(t.Context(), "web", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		canaryShare(float64(weight) / 100)
	}
	awaitValue(t, successRate(ns, "web"), 100, 100)
	awaitValue(t, successRate(ns, "web-canary"), 45, 55)

	var canary []float64
	for _, shares := range shared.Traffic.History(ns, "web") {
		canary = append(canary, shares.ByWorkload["web-canary"])
	}
	if got := fmt.Sprint(canary); got != "[0 0.1 0.2 0.3]" {
		t.Errorf("the canary's shares were %s", got)
	}
	if counts := shared.Traffic.Counts(ns, "web"); counts.Unserved != 0 || counts.Failed == 0 {
		t.Errorf("counts: %+v", counts)
	}

	// The canary goes away while it has users.
	if err := c.AppsV1().Deployments(ns).Delete(t.Context(), "web-canary", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() (bool, string) {
		counts := shared.Traffic.Counts(ns, "web")
		return counts.Unserved > 0, fmt.Sprintf("%+v", counts)
	})
	awaitValue(t, fmt.Sprintf(`sum(rate(istio_requests_total{reporter="source",destination_service_namespace=%q,response_code="503",response_flags="UH"}[2s]))`, ns), 50, 70)
	shared.Traffic.SetRate(ns, "web", 0)
}
