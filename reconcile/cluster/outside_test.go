package cluster_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestOutside: what lives outside is listed once for many apps that ask at the same time, kinds that are not served are passed
// over, and a listing that failed is made again by the next who asks.
func TestOutside(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Installing, project.Desired{Stable: r.objects(strings.ReplaceAll(changing, "NAME", "some"))})
	kinds := append(project.WarningKinds(), schema.GroupKind{Group: "nobody.example.com", Kind: "Nothing"})
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := r.Outside(stopped, r.ns, kinds); err == nil || !strings.Contains(err.Error(), "listing services in namespace "+r.ns) {
		t.Errorf("of a server that does not answer: %v", err)
	}
	since := r.flush()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			objects, err := r.Outside(t.Context(), r.ns, kinds)
			if err != nil {
				t.Error(err)
			}
			var found []string
			for _, o := range objects {
				if o.GetName() == "some" {
					found = append(found, o.GetKind())
				}
			}
			slices.Sort(found)
			if got := strings.Join(found, " "); got != "DestinationRule NetworkPolicy Service VirtualService" {
				t.Errorf("found %s", got)
			}
		})
	}
	wg.Wait()
	r.flush()
	lists := map[string]int{}
	for _, q := range r.requests(since) {
		if strings.HasPrefix(q, "list ") {
			lists[q]++
		}
	}
	for q, n := range lists {
		if n > 3 { // the server may refuse the first ones of a kind that it has not listed itself yet
			t.Errorf("%s: %d times", q, n)
		}
	}
	if len(lists) < 4 {
		t.Errorf("listed %v", lists)
	}
}
