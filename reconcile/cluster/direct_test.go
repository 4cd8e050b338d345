package cluster_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// awaitDirect waits until there is a command by somebody beside the app's state; empty: none.
func (r *rig) awaitDirect(by string) *rollout.Command {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c := r.Direct("web"); c == nil && by == "" || c != nil && c.By == by {
			return c
		}
	}
	r.t.Fatalf("waited for a command by %q; there is %+v", by, r.Direct("web"))
	return nil
}

// TestDirect: a command beside the state is seen, conflicts with what the agent knows, and is taken away by the state that has
// taken it, and by no other.
func TestDirect(t *testing.T) {
	r := newRig(t)
	asker, err := cluster.NewAsker(shared.REST(), r.ns, "production")
	if err != nil {
		t.Fatal(err)
	}
	ask := audit.Request{App: "web", Kind: rollout.Abort, Reason: "it fails", By: "Ann <ann@example.com>", ID: "x1", Expires: time.Unix(1e9, 0)}
	if err := asker.Ask(t.Context(), "web", ask); err == nil || !strings.Contains(err.Error(), `has no app "web" here: there is no Secret sluice.production.web`) {
		t.Errorf("an app without a state: %v", err)
	}
	saved, err := r.SaveState(t.Context(), delivery.Saved{App: r.app, State: rollout.State{LastSeq: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if apps, err := asker.Apps(t.Context()); err != nil || len(apps) != 1 || apps[0] != "web" {
		t.Errorf("apps %v, %v", apps, err)
	}
	if err := asker.Ask(t.Context(), "web", ask); err != nil {
		t.Fatal(err)
	}
	if err := asker.Ask(t.Context(), "web", ask); !errors.Is(err, cluster.ErrAsked) {
		t.Errorf("asked once more: %v", err)
	}
	got := r.awaitDirect(ask.By)
	if want := (rollout.Command{ID: "x1", Kind: rollout.Abort, By: ask.By, Reason: "it fails", Expires: ask.Expires.UTC()}); *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	if _, err := r.SaveState(t.Context(), saved); !errors.Is(err, delivery.ErrConflict) {
		t.Errorf("saved past it: %v", err)
	}
	if saved, _, err = r.LoadState(t.Context(), r.app); err != nil {
		t.Fatal(err)
	}
	saved.State.LastSeq = 2
	if saved, err = r.SaveState(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	if taken, err := asker.Taken(t.Context(), "web"); err != nil || taken {
		t.Errorf("gone before it was taken: %v", err)
	}

	r.restart("2") // it is no less there for an agent that comes
	r.awaitDirect(ask.By)
	saved.State.LastDirect = "x1"
	if _, err := r.SaveState(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	r.awaitDirect("")
	if taken, err := asker.Taken(t.Context(), "web"); err != nil || !taken {
		t.Errorf("taken: %v, %v", taken, err)
	}

	// By hand, and not understood: somebody has to answer.
	patch := []byte(`{"metadata":{"annotations":{"sluice.dev/command":"x\n\nSluice-Command: pause"}}}`)
	if _, err := r.kube.CoreV1().Secrets(r.ns).Patch(t.Context(), "sluice.production.web", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if got = r.awaitDirect("somebody"); got.ID == "" || !strings.Contains(got.Unfit, "it has no trailer Sluice-App") {
		t.Errorf("got %+v", got)
	}
}
