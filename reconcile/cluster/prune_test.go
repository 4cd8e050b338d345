package cluster_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

func TestPrune(t *testing.T) {
	r := newRig(t)
	keepers := `apiVersion: v1
kind: ConfigMap
metadata: {name: mine, annotations: {sluice.dev/prune: disabled}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: helms, annotations: {helm.sh/resource-policy: keep}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: goes}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: remade}`
	base := r.objects(service)
	all := project.Desired{Stable: append(base[:1:1], r.objects(keepers)...)}
	r.apply(rollout.Idle, all)
	remade := r.dyn.Resource(configMaps).Namespace(r.ns)
	if err := remade.Delete(t.Context(), "remade", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := remade.Create(t.Context(), r.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: remade}")[0], metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, func() (bool, string) {
		seen := r.observe(all)
		return strings.Contains(seen.Pending, "remade: changed by somebody else"), seen.Pending
	})
	if seen := r.observe(project.Desired{Stable: base}); seen.Applied {
		t.Error("applied while something is left to prune")
	}
	var got []string
	for _, c := range r.apply(rollout.Idle, project.Desired{Stable: base}).Changes {
		got = append(got, strings.TrimSuffix(fmt.Sprintf("%s %s %s", c.Key.Name, c.Action, c.Reason), " "))
	}
	want := []string{
		"remade left somebody else has made it anew",
		"goes deleted",
		"disk left objects of this kind are never deleted",
		"helms left helm.sh/resource-policy: keep",
		"mine left sluice.dev/prune: disabled",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if seen := r.observe(project.Desired{Stable: base}); !seen.Applied {
		t.Errorf("after prune: %+v", seen)
	}
}

func TestNothingDesiredDeletesNothing(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, r.whole())
	if _, err := r.Apply(t.Context(), r.app, rollout.State{}, project.Desired{}); err == nil {
		t.Error("an empty projection was accepted")
	}
	r.get(deployments, "web")

	res := r.apply(rollout.Removing, project.Desired{})
	if got, want := actions(res), "VirtualService web deleted, Deployment web deleted, Service web deleted, Secret web deleted, ConfigMap web deleted"; got != want {
		t.Errorf("removing: %s\nwant %s", got, want)
	}
	if seen := r.observe(project.Desired{}); !seen.Applied {
		t.Errorf("removed: %+v", seen)
	}
	if err := r.DeleteState(t.Context(), delivery.Saved{App: r.app}); err != nil {
		t.Fatal(err)
	}
	if states, _, err := r.LoadStates(t.Context()); err != nil || len(states) > 0 {
		t.Errorf("states = %v, %v", states, err)
	}
}

func TestFailureDeletesNothing(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, r.whole())
	bad := project.Desired{Stable: r.objects("apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: -1}]}")}
	if _, err := r.Apply(t.Context(), r.app, rollout.State{}, bad); err == nil {
		t.Fatal("no error")
	}
	r.get(deployments, "web")
}

func TestCanaryComesAndGoes(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	r.apply(rollout.Idle, d)
	with := r.whole()
	with.Canary = r.objects(deployment("web-canary", "web:2", 1))
	with.CanaryWorkloads = with.Canary
	if got := actions(r.apply(rollout.Starting, with)); got != "Deployment web-canary created" {
		t.Error(got)
	}
	eventually(t, time.Minute, func() (bool, string) {
		seen := r.observe(with)
		return seen.Canary.Ready && seen.Canary.Available && seen.Stable.Ready, fmt.Sprintf("%+v", seen)
	})
	// A finalizer holds the canary's Deployment for a while: it is not gone before it is.
	r.edit(deployments, "web-canary", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	r.apply(rollout.Idle, d)
	if seen := r.observe(d); seen.Applied {
		t.Errorf("with a finalizer: %+v", seen)
	}
	r.edit(deployments, "web-canary", `{"metadata":{"finalizers":null}}`)
	for {
		r.awaitCall()
		if got := actions(r.apply(rollout.Idle, d)); got != "" {
			t.Error(got)
		}
		if seen := r.observe(d); seen.Applied {
			return
		}
	}
}

// TestCanaryTakesAnothersPlace: a canary of another name is not ready before the one in whose place it comes is gone.
func TestCanaryTakesAnothersPlace(t *testing.T) {
	r := newRig(t)
	canary := func(name string) project.Desired {
		d := r.whole()
		d.Canary = r.objects(deployment(name, "web:2", 1))
		d.CanaryWorkloads = d.Canary
		return d
	}
	ready := func(d project.Desired) {
		t.Helper()
		eventually(t, time.Minute, func() (bool, string) {
			seen := r.observe(d)
			return seen.Canary.Ready, fmt.Sprintf("%+v", seen)
		})
	}
	r.apply(rollout.Idle, r.whole())
	first, second := canary("web-canary"), canary("front-canary")
	r.apply(rollout.Starting, first)
	ready(first)
	r.edit(deployments, "web-canary", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	r.apply(rollout.Starting, second)
	eventually(t, time.Minute, func() (bool, string) {
		canary := r.observe(second).Canary
		return canary.Available && canary.Message == "Deployment web-canary is not deleted yet", fmt.Sprintf("%+v", canary)
	})
	if canary := r.observe(second).Canary; canary.Ready || canary.Failed {
		t.Errorf("beside the canary before it: %+v", canary)
	}
	r.edit(deployments, "web-canary", `{"metadata":{"finalizers":null}}`)
	for !r.observe(second).Applied {
		r.awaitCall()
		r.apply(rollout.Starting, second)
	}
	ready(second)
}

func TestStatesOfTwoWriters(t *testing.T) {
	r := newRig(t)
	first := r.Client
	saved, err := first.SaveState(t.Context(), delivery.Saved{App: r.app, State: rollout.State{Exposure: rollout.Exposure{Weight: 10}, Reason: "100%"}})
	if err != nil {
		t.Fatal(err)
	}
	r.restart("2")
	second := r.Client
	states, _, err := second.LoadStates(t.Context())
	if err != nil || states["web"].State.Weight != 10 || states["web"].App != r.app {
		t.Fatalf("states = %+v, %v", states, err)
	}
	if _, err := second.SaveState(t.Context(), states["web"]); err != nil {
		t.Fatal(err)
	}
	if _, err := first.SaveState(t.Context(), saved); !errors.Is(err, delivery.ErrConflict) {
		t.Errorf("the first writer got %v", err)
	}
	if _, err := first.Apply(t.Context(), r.app, rollout.State{}, r.whole()); !errors.Is(err, delivery.ErrConflict) {
		t.Errorf("the first writer's Apply got %v", err)
	}
	if list, _ := r.dyn.Resource(deployments).Namespace(r.ns).List(t.Context(), metav1.ListOptions{}); len(list.Items) > 0 {
		t.Error("it applied something all the same")
	}
	if err := first.DeleteState(t.Context(), saved); !errors.Is(err, delivery.ErrConflict) {
		t.Errorf("the first writer's DeleteState got %v", err)
	}
}

func TestStatesOfOddNames(t *testing.T) {
	r := newRig(t)
	names := []string{"web", "Web", "web_1", "web-1", strings.Repeat("x", 120), strings.Repeat("x", 121), "ünïcode"}
	for i, n := range names {
		s := delivery.Saved{App: delivery.App{Name: n, Namespace: r.ns, ReleaseName: "x"}, State: rollout.State{Exposure: rollout.Exposure{Weight: i}}}
		if _, err := r.SaveState(t.Context(), s); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	states, _, err := r.LoadStates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		if states[n].State.Weight != i {
			t.Errorf("%s has weight %d, want %d", n, states[n].State.Weight, i)
		}
	}
}

// TestManyEvents: git may be away for thousands of events, which is more than a Secret holds as text.
func TestManyEvents(t *testing.T) {
	r := newRig(t)
	state := rollout.State{LastSeq: 10_000}
	for seq := range state.LastSeq {
		state.Outbox = append(state.Outbox, rollout.Event{
			Seq: seq + 1, Type: rollout.Advanced, Weight: int(seq % 50), Time: time.Unix(seq, 0).UTC(),
			Reason: fmt.Sprintf("success rate %d.%02d%% >= 99%%; request duration P99 %dms <= 500ms", 99, seq%100, seq%500),
		})
	}
	if _, err := r.SaveState(t.Context(), delivery.Saved{App: r.app, State: state}); err != nil {
		t.Fatal(err)
	}
	states, _, err := r.LoadStates(t.Context())
	if err != nil || !reflect.DeepEqual(states["web"].State, state) {
		t.Errorf("%d events come back, %v", len(states["web"].State.Outbox), err)
	}
	state.Outbox = state.Outbox[:1]
	state.LastSeq = 1
	if _, err := r.SaveState(t.Context(), delivery.Saved{App: r.app, State: state}); err != nil {
		t.Fatal(err)
	}
	if saved, _, err := r.LoadState(t.Context(), r.app); err != nil || !reflect.DeepEqual(saved.State, state) {
		t.Errorf("afterwards: %+v, %v", saved.State, err)
	}
}

// TestBrokenStates: one state that can't be read keeps no other from being read, and names its app.
func TestBrokenStates(t *testing.T) {
	r := newRig(t)
	names := []string{"good", "state", "inventory", "app"}
	for _, n := range names {
		if _, err := r.SaveState(t.Context(), delivery.Saved{App: delivery.App{Name: n, Namespace: r.ns, ReleaseName: n}}); err != nil {
			t.Fatal(err)
		}
		if n != "good" {
			patch := fmt.Sprintf(`{"data": {%q: "e30x"}}`, n)
			r.edit(configMaps.GroupVersion().WithResource("secrets"), "sluice.production."+n, patch)
		}
	}
	states, broken, err := r.LoadStates(t.Context())
	if err != nil || len(states) != 1 || states["good"].App.Name != "good" || len(broken) != 3 {
		t.Fatalf("states %v, broken %v, %v", states, broken, err)
	}
	for _, n := range names[1:] {
		if err := broken[n]; !errors.Is(err, delivery.ErrBrokenState) {
			t.Errorf("%s: %v", n, err)
		}
		if _, _, err := r.LoadState(t.Context(), delivery.App{Name: n}); !errors.Is(err, delivery.ErrBrokenState) {
			t.Errorf("read alone, %s: %v", n, err)
		}
	}
}

// TestCrashBeforeTheObjectsAreKnown applies a canary, forgets everything but what was saved before the first
// object was made, and changes course: nothing may be left behind.
func TestCrashBeforeTheObjectsAreKnown(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, r.whole())
	with := r.whole()
	with.Canary = r.objects(deployment("web-canary", "web:2", 1))
	r.apply(rollout.Starting, with)
	r.restart("2")
	got := actions(r.apply(rollout.Idle, r.whole()))
	if got != "Deployment web-canary deleted" {
		t.Errorf("after the crash: %q", got)
	}
}
