package e2e

import (
	"context"
	"slices"
	"testing"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

func TestPrometheusAwayHoldsTheWeight(t *testing.T) {
	w := newWorld(t)
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 2)
	w.must(w.bed.StopPrometheus())
	t.Cleanup(func() { _ = w.bed.StartPrometheus(context.Background()) })
	held := w.awaitEvent(rollout.Inconclusive, "0.0.130", 1)
	w.awaitEvent(rollout.Paused, "0.0.130", 1)
	shares := w.canaryShares()
	if got := shares[len(shares)-1]; got != held.Weight {
		t.Errorf("users saw the canary at %d %%, want it held at %d", got, held.Weight)
	}
	w.must(w.bed.StartPrometheus(context.Background()))
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	if got := w.canaryShares(); !slices.Equal(got, goodShares) {
		t.Errorf("users saw the canary's share as %v, want %v", got, goodShares)
	}
}

func TestGitAwayDoesNotDelayTheRollback(t *testing.T) {
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	before := w.file("main", requirements)
	bad := w.bump("0.0.130")
	w.awaitState(atWeight(10, false))
	w.must(w.bed.Git.Stop())
	t.Cleanup(func() { _ = w.bed.Git.Start() })
	w.awaitState(moment{"rolled back", func(s rollout.State) bool { return s.Phase == rollout.Idle && s.Revert != nil }})
	w.settled()
	w.must(w.bed.Git.Start())
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.toldAs(badStory)
	w.rolledBackOnce(bad, before)
}

func TestAPIServerRestart(t *testing.T) {
	w := newWorld(t)
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 2)
	w.must(w.bed.StopAPIServer())
	t.Cleanup(func() { _ = w.bed.StartAPIServer(context.Background()) })
	w.must(w.bed.StartAPIServer(context.Background()))
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.toldAs(goodStory)
	// What users saw is not asked: they watch the API server too, and may miss weights until they have it back.
	w.settled()
}
