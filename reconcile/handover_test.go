package reconcile

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

// What an app no longer wants stays while another one may want it, and for good when it does. Whoever waits is looked at
// when that is known.
func TestWhatStays(t *testing.T) {
	moved := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "moved", "namespace": "ns"},
	}}
	a := newReader(t)
	k := objects.KeyOf(moved)
	expect := func(when, want string, wantWait bool) {
		t.Helper()
		if why, wait := a.stays("from", k); why != want || wait != wantWait {
			t.Errorf("%s: %q, %v", when, why, wait)
		}
	}
	expect("before git was read", "app of a commit may want it, which is not rendered yet", true)
	a.unsynced, a.wants = map[string]bool{}, nil
	a.apps["from"] = &app{name: "from"}
	to := &app{name: "to", input: &environments.App{Name: "to", Digest: "2"}}
	a.apps["to"] = to
	expect("while it is rendered", "app to may want it, which is not rendered yet", true)

	a.rendered("to", order{input: to.input}, rendering{
		input: "2", desired: &delivery.Desired{Release: &release.Release{Objects: []*unstructured.Unstructured{moved}}},
	}, nil)
	if !a.apps["from"].unfinished {
		t.Error("nobody looks again")
	}
	expect("when it is", "app to has it now", false)
	if why, _ := a.stays("to", k); why != "" {
		t.Errorf("the other itself: %q", why)
	}
	a.rendered("to", order{input: to.input}, rendering{
		input: "2", desired: &delivery.Desired{Release: &release.Release{}},
	}, nil)
	expect("when nobody wants it", "", false)
}
