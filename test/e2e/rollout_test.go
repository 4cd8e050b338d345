package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/reconcile/audit"
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
	w.settled()
	if names := w.names("", "v1", "services"); !slices.Equal(names, []string{app}) {
		t.Errorf("services are %v", names)
	}
	secrets := strings.Join(w.names("", "v1", "secrets"), " ")
	if !strings.Contains(secrets, "sh.helm.release.v1."+app+".v1") {
		t.Errorf("there is no Helm release: %s", secrets)
	}
}

func TestGoodBump(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	unserved := w.bed.Traffic.Counts(w.name, w.host()).Unserved // before its first pods were ready
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
	w.settled()
	if got, want := w.canaryShares(), []int{0, 10, 20, 30, 40, 50, 0}; !slices.Equal(got, want) {
		t.Errorf("users saw the canary's share as %v, want %v", got, want)
	}
	if n := w.bed.Traffic.Counts(w.name, w.host()).Unserved; n > unserved {
		t.Errorf("%d requests found no pod during the rollout", n-unserved)
	}
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
	bad := w.bump("0.0.130")
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
	if got := slices.Max(w.canaryShares()); got != 10 {
		t.Errorf("users saw the canary at %d %%, want it held at 10", got)
	}
	w.samePods(stable)
	w.settled()
	if after := w.file("main", requirements); after != before {
		t.Errorf("the environment branch says\n%s, want what it said before:\n%s", after, before)
	}
	tip := w.history("main")[0]
	if !audit.IsOwn(tip.Message) || tip.Parents[0] != bad {
		t.Errorf("the newest commit is %q upon %v", tip.Message, tip.Parents)
	}
	// The rollback commit starts nothing, and asking again does.
	n := len(w.events())
	w.behave("0.0.130", behaviour.Behaviour{})
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	if got := story(w.events())[n]; got != "RolloutStarted 0 0.0.130" {
		t.Errorf("after the rollback came %q", got)
	}
}
