package cluster_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// awaitDirect waits until a command stands beside the app's state, or none does, and returns its name.
func (r *rig) awaitDirect(want string) (id string) {
	r.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if id, text := r.Direct("web"); text == want {
			return id
		}
	}
	_, text := r.Direct("web")
	r.t.Fatalf("waited for command %q; there is %q", want, text)
	return ""
}

// TestDirect: a command beside the state is seen, conflicts with what the agent knows, and is taken away by the state that has
// taken it, and by no other.
func TestDirect(t *testing.T) {
	r := newRig(t)
	asker, err := cluster.NewAsker(shared.REST(), r.ns, "production")
	if err != nil {
		t.Fatal(err)
	}
	const ask = "abort web"
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
	id := r.awaitDirect(ask)
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
	r.awaitDirect(ask)
	saved.State.LastDirect = id
	if _, err := r.SaveState(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	r.awaitDirect("")
	if taken, err := asker.Taken(t.Context(), "web"); err != nil || !taken {
		t.Errorf("taken: %v, %v", taken, err)
	}
}
