package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// remove takes a file off the environment branch.
func (w *world) remove(file string) {
	w.Helper()
	w.edit("chore: remove "+file, func(*gitsync.Snapshot) (map[string][]byte, error) { return map[string][]byte{file: nil}, nil })
}

// TestWindows: a window that closes in the middle of a rollout holds its weight, and neither it nor a freeze stops a rollback. A
// person lets one release pass, and the audit log says all of it.
func TestWindows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.slowly()
	w.install()
	settings := w.file("main", "sluice.yaml")
	windows := func(line string) { w.commit("chore: windows", map[string]string{"sluice.yaml": settings + line}) }

	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	now := time.Now().UTC()
	begins := now.Add(-2 * time.Minute).Truncate(time.Minute)
	windows(fmt.Sprintf("windows: {allow: [{schedule: %q, duration: %.0fs}]}\n",
		fmt.Sprintf("%d %d * * *", begins.Minute(), begins.Hour()), now.Add(2*time.Second).Sub(begins).Seconds()))
	waits := w.awaitEvent(rollout.Waiting, "0.0.130", 1)
	if waits.Weight < 10 || waits.Weight == 100 || waits.Reason != "gate window is closed: no window is open" {
		t.Errorf("it waits at %d %%: %s", waits.Weight, waits.Reason)
	}
	w.intervals(13) // two of the canary's
	if last := w.events()[len(w.events())-1]; last.Weight != waits.Weight {
		t.Errorf("it goes on: %+v", last)
	}
	if out, _ := w.sluice("windows"); !strings.Contains(out, "(all)  closed  ") {
		t.Errorf("windows says %s", out)
	}
	w.ask(0, "Ann", "override", app+": override by Ann (0.0.129 -> 0.0.130): may pass *: because")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)

	w.bump("0.0.131")
	if e := w.awaitEvent(rollout.Waiting, "0.0.131", 1); e.Weight != 0 {
		t.Errorf("it waits at %d %%", e.Weight)
	}
	w.commit("chore: freeze", map[string]string{"sluice.freeze": "the database is on fire\n"})
	windows("")
	w.await("the freeze to be what it waits for", func() (bool, string) {
		out, _ := w.sluice("status")
		return strings.Contains(out, "freeze"), out
	})
	w.ask(0, "Bob", "override", app+": override by Bob (0.0.130 -> 0.0.131): may pass freeze: because")
	w.awaitEvent(rollout.Advanced, "0.0.131", 1)
	w.ask(0, "Bob", "abort", app+": rolling back*: rolled back*")
	w.awaitEvent(rollout.RollbackCommitted, "0.0.131", 1)

	w.bump("0.0.132")
	w.awaitEvent(rollout.Waiting, "0.0.132", 1)
	w.intervals(2)
	w.remove("sluice.freeze")
	w.awaitEvent(rollout.RolloutStarted, "0.0.132", 1)
	for _, e := range w.events() {
		if e.To.Version == "0.0.132" && e.Type == rollout.Overridden {
			t.Errorf("an override is taken for another release: %+v", e)
		}
	}
}
