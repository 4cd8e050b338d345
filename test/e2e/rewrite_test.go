package e2e

import (
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/reconcile"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// orphan forces a history upon the environment branch that begins anew with the files of another commit.
func (w *world) orphan(files string) string {
	w.Helper()
	hash := strings.TrimSpace(w.git("", "-c", "user.name=Eve", "-c", "user.email=eve@example.com", "commit-tree", "-m", "old", files+"^{tree}"))
	w.git("", "update-ref", "refs/heads/main", hash)
	return hash
}

// silent waits until sluice status says something no more.
func (w *world) silent(what string) {
	w.Helper()
	w.await("the status not to say "+what, func() (bool, string) {
		out, _ := w.sluice("status")
		return !strings.Contains(out, what), out
	})
}

// TestRewrittenHistory: a force-push of an unrelated history delivers nothing, a canary under way is judged all the same, and
// a restart forgets nothing; putting the branch back ends it, and so does a person who accepts it.
func TestRewrittenHistory(t *testing.T) {
	t.Parallel()
	const fault = "the branch was rewritten: it does not descend from commit "
	w := newWorld(t)
	w.behave("0.0.131", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	old := strings.TrimSpace(w.git("", "rev-parse", "main"))
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	failing := w.bump("0.0.131")
	w.awaitEvent(rollout.Advanced, "0.0.131", 1)
	eve := w.orphan(old)
	w.says(fault + failing[:10])
	if e := w.awaitEvent(rollout.RollbackStarted, "0.0.131", 1); !strings.Contains(e.Reason, "checks failed") {
		t.Errorf("the canary goes back because %q", e.Reason)
	}
	w.awaitEvent(rollout.RolledBack, "0.0.131", 1)
	w.settled()
	w.kill()
	w.start()
	w.intervals(3)
	w.says(fault + failing[:10])
	for _, e := range w.events() {
		if e.To.Version == "0.0.129" && e.Type == rollout.RolloutStarted {
			t.Errorf("the old version is delivered: %v", story(w.events()))
		}
	}

	w.git("", "update-ref", "refs/heads/main", failing)
	w.silent(fault)
	w.bump("0.0.132")
	last := w.awaitEvent(rollout.Promoted, "0.0.132", 1).To.Commit

	w.git("", "update-ref", "refs/heads/main", eve)
	w.says(fault + last[:10])
	w.sluice("accept", "--all", "--to", eve[:10], "--reason", "we begin anew")
	if asked := w.history(reconcile.CommandBranch(w.name))[0]; !strings.Contains(asked.Message, "Sluice-To: "+eve) {
		t.Errorf("the command names another commit: %s", asked.Message)
	}
	w.awaitEvent(rollout.Promoted, "0.0.129", 1)
	w.silent(fault)
	w.kill()
	w.start()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 2)
	w.kill()
	w.start()
	w.intervals(2)
	for _, c := range w.history(w.statusBranch()) {
		if strings.Contains(c.Message, "Sluice-Event: "+string(audit.Restored)) {
			t.Errorf("nobody has touched the status branch, and it is written again:\n%s", c.Message)
		}
	}
}

// TestDeletedStatusBranch: a status branch that somebody deletes is there again, without anything having happened.
func TestDeletedStatusBranch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	w.git("", "update-ref", "-d", "refs/heads/"+w.statusBranch())
	w.await("the branch to be written again", func() (bool, string) {
		if len(w.history(w.statusBranch())) == 0 {
			return false, "there is none"
		}
		text := w.file(w.statusBranch(), "README.md")
		return strings.Contains(text, "| ["+app+"](apps/"+app+".yaml) | 0.0.129 |"), text
	})
	if out, code := w.sluice("status"); code != 0 || !strings.Contains(out, "0.0.129") {
		t.Errorf("exits with %d and says %s", code, out)
	}
}
