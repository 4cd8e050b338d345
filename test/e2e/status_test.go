package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// TestStatusRepository: status branches and commands move to a repository of their own with all that they said. From then on the
// environment repository is only read: commands are found and answered in the other, and so is a rollback that it refuses.
func TestStatusRepository(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.slowly()
	w.install()
	w.ask(0, "Ann", "hold", app+": held*")
	w.ask(0, "Ann", "unhold", app+": *")
	w.stop()
	before := w.history(w.statusBranch())

	logs := w.name + "-status"
	w.must(w.bed.Git.CreateRepo(logs))
	w.status = w.bed.Git.URL(logs)
	w.git("", "-C", w.bed.Git.Path(w.name), "push", "-q", w.bed.Git.Path(logs),
		"refs/heads/sluice/status/*:refs/heads/sluice/status/*", "refs/heads/sluice/commands/*:refs/heads/sluice/commands/*")
	w.further = fmt.Sprintf("  status: {url: %q, %s}\n", w.status, credentials)
	w.found(fmt.Sprintf("status: {repository: %q}\n", w.status))
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.start()

	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	w.must(w.bed.Git.DenyPushes(w.name, "", "this repository is read by bots, and written by people"))
	w.ask(0, "Ann", "pause", app+": paused*")
	w.ask(0, "Ann", "resume", app+": resumed*")
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.says("not reverted in git: ")

	if now := w.history(w.statusBranch()); len(now) <= len(before) || !slices.ContainsFunc(now, func(c gitsync.Commit) bool { return c.Hash == before[0].Hash }) {
		t.Errorf("the log was not gone on with: %d commits before, %d now", len(before), len(now))
	}
	if out, code := w.sluice("log", "--limit", "0"); code != 0 || !strings.Contains(out, "0.0.130") || !strings.Contains(out, "installed") {
		t.Errorf("sluice log ends with %d and says\n%s", code, out)
	}
	w.status = ""
	if left := w.history(w.statusBranch()); left[0].Hash != before[0].Hash {
		t.Errorf("the environment repository was written to: %s", left[0].Subject())
	}
}
