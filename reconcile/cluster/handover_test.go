package cluster_test

import (
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// An object that moves from one app to another is handed over as it stands, whoever comes first and however late the other
// is rendered. The app that it leaves waits for nothing meanwhile, unless it is being removed.
func TestHandover(t *testing.T) {
	r := newRig(t)
	why, wait := "", false
	r.OnPrune(func(app string, k objects.Key) (string, bool) {
		if app != "web" || k.Name != "web" {
			t.Errorf("asked for %s of %s", k, app)
		}
		return why, wait
	})
	both := project.Desired{Stable: append(r.objects(service), r.objects(configs)...)}
	r.apply(rollout.Idle, both)
	before := r.get(configMaps, "web").GetUID()

	rest := project.Desired{Stable: r.objects(service)}
	why, wait = "app other may want it", true
	if res := actions(r.apply(rollout.Idle, rest)); res != "" {
		t.Errorf("while nobody knows: %s", res)
	}
	if seen := r.observe(rest); !seen.Applied {
		t.Errorf("it waits: %s", seen.Pending)
	}
	if seen := r.observe(project.Desired{}); seen.Applied {
		t.Error("it is gone, and its objects are there")
	}
	why, wait = "app other has it now", false
	if res := actions(r.apply(rollout.Idle, rest)); !strings.Contains(res, "ConfigMap web left") {
		t.Error(res)
	}
	other := delivery.App{Name: "other", Namespace: r.ns, ReleaseName: "other"}
	if _, err := r.Apply(t.Context(), other, rollout.State{}, project.Desired{Stable: r.objects(configs)}); err != nil {
		t.Fatal(err)
	}
	now := r.get(configMaps, "web")
	if now.GetUID() != before || now.GetAnnotations()["meta.helm.sh/release-name"] != "other" {
		t.Error("not handed over as it stood")
	}
}
