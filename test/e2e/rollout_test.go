package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

func TestFirstInstallNeverCanaries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	if got, want := story(w.events()), []string{"InstallStarted 0 0.0.129", "Installed 0 0.0.129"}; !slices.Equal(got, want) {
		t.Errorf("the audit log says %v, want %v", got, want)
	}
	w.servesGit()
	w.awaitHelmHistory("1 deployed 0.0.129")
	w.helmShows("1 deployed 0.0.129")
	if got := w.canaryShares(); !slices.Equal(got, []int{0}) {
		t.Errorf("users saw the canary's share as %v", got)
	}
	var record []string
	for _, r := range w.writes(w.begun) {
		if r.Name == "sh.helm.release.v1."+app+".v1" {
			record = append(record, r.Verb)
		}
	}
	if want := []string{"create", "update"}; !slices.Equal(record, want) {
		t.Errorf("the Helm record was written by %v, want %v: pending, and then deployed", record, want)
	}
}

func TestGoodBump(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	unserved := w.bed.Traffic.Counts(w.name, w.host()).Unserved // before its first pods were ready
	weights := w.watchWeights()
	cause := w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	want := []string{
		"RolloutStarted 0 0.0.130", "Advanced 10 0.0.130", "Advanced 20 0.0.130", "Advanced 30 0.0.130",
		"Advanced 40 0.0.130", "Advanced 50 0.0.130", "PromotionStarted 50 0.0.130", "Promoted 0 0.0.130",
	}
	list := course(w.events())
	if got := story(list)[2:]; !slices.Equal(got, want) {
		t.Errorf("the audit log says\n%v, want\n%v", got, want)
	}
	for _, e := range list[2:] {
		if e.To.Commit != cause {
			t.Errorf("event %d was caused by %s, want %s", e.Seq, e.To.Commit, cause)
		}
	}
	w.servesGit()
	weights.were(0, 10, 20, 30, 40, 50, 0)
	if got := w.canaryShares(); !slices.Equal(got, goodShares) {
		t.Errorf("users saw the canary's share as %v, want %v", got, goodShares)
	}
	if n := w.bed.Traffic.Counts(w.name, w.host()).Unserved; n > unserved {
		t.Errorf("%d requests found no pod during the rollout", n-unserved)
	}
	w.awaitHelmHistory("1 superseded 0.0.129", "2 deployed 0.0.130")
	w.helmShows("2 deployed 0.0.130")
	if !strings.Contains(w.file(w.statusBranch(), "README.md"), "0.0.130") {
		t.Error("the status branch's page does not tell of 0.0.130")
	}
}

func TestBadBumpIsRolledBackInGit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	before, stable := w.file("main", requirements), w.pods(app)
	weights := w.watchWeights()
	bad := w.bump("0.0.130")
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
	weights.were(0, 10, 0)
	if got, want := w.canaryShares(), []int{0, 10, 0}; !slices.Equal(got, want) {
		t.Errorf("users saw the canary's share as %v, want %v", got, want)
	}
	w.samePods(stable)
	w.rolledBackOnce(bad, before)
	w.servesGit()
	w.quiet()
	w.intervals(3) // the agent sees its own commit, and starts nothing
	w.toldAs(badStory)
	// Asking again does.
	w.behave("0.0.130", behaviour.Behaviour{})
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.toldAs(append(slices.Clone(badStory), goodStory[2:]...))
	w.servesGit()
}
