package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// Each way to be bad ends the same, but for the reason.
func TestBadVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		does   behaviour.Behaviour
		policy string
		// reason holds what the rollback's reason has to say.
		reason []string
		// seen is the largest share of the traffic that it got.
		seen int
	}{
		{
			name: "slow", does: behaviour.Behaviour{LatencyMillis: 900},
			reason: []string{"request duration P99", "> 500ms"}, seen: 10,
		},
		{
			name: "crashing", does: behaviour.Behaviour{Ready: behaviour.Crashing},
			reason: []string{"the canary failed", "CrashLoopBackOff"},
		},
		{
			name: "never ready", does: behaviour.Behaviour{Ready: behaviour.NeverReady},
			policy: "    progressDeadlineSeconds: 6\n",
			reason: []string{"the canary was not ready within 6s", "0 of 2 pods ready"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.commit("policy", map[string]string{"env/values.yaml": w.values("hello", 2) + c.policy})
			w.behave("0.0.130", c.does)
			w.install()
			before, stable := w.file("main", requirements), w.pods(app)
			bad := w.bump("0.0.130")
			started := w.awaitEvent(rollout.RollbackStarted, "0.0.130", 1)
			for _, part := range c.reason {
				if !strings.Contains(started.Reason, part) {
					t.Errorf("rolled back because of %q, which does not say %q", started.Reason, part)
				}
			}
			w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
			w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
			if got := slices.Max(w.canaryShares()); got != c.seen {
				t.Errorf("users saw the canary at %d %%, want %d", got, c.seen)
			}
			w.samePods(stable)
			w.rolledBackOnce(bad, before)
			w.servesGit()
		})
	}
}

// longer is a policy of ten steps, so that there is a middle to do something in.
const longer = "    canaryAnalysis: {stepWeight: 5}\n"

func TestRevertInGitAborts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("policy", map[string]string{"env/values.yaml": w.values("hello", 2) + longer})
	w.install()
	before, stable := w.file("main", requirements), w.pods(app)
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	revert := w.commit("Revert \"chore: promote\"", map[string]string{requirements: before})
	aborted := w.awaitEvent(rollout.Aborted, "0.0.130", 1)
	if aborted.Weight != 0 || !strings.Contains(aborted.Reason, "0.0.129") {
		t.Errorf("aborted at weight %d because of %q", aborted.Weight, aborted.Reason)
	}
	w.settled()
	w.samePods(stable)
	if tip := w.history("main")[0]; tip.Hash != revert {
		t.Errorf("the newest commit of the environment branch is %q", tip.Message)
	}
	// What was aborted has not failed: whoever asks for it again gets it.
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	for _, e := range w.events() {
		switch e.Type {
		case rollout.RollbackStarted, rollout.RollbackCommitted, rollout.RollbackProposed, rollout.RollbackSkipped, rollout.RolledBack:
			t.Errorf("the audit log tells of %s", e.Type)
		}
	}
}

// course is what was decided. Checks without data only hold what is there; on a machine that is too busy to scrape
// every second some have none.
func course(list []audit.Entry) []audit.Entry {
	return slices.DeleteFunc(list, func(e audit.Entry) bool { return e.Type == rollout.Inconclusive })
}

func TestThirdVersionSupersedes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("policy", map[string]string{"env/values.yaml": w.values("hello", 2) + longer})
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 2)
	w.bump("0.0.131")
	w.awaitEvent(rollout.Promoted, "0.0.131", 1)
	got := story(course(w.events()))
	at := slices.Index(got, "Superseded 0 0.0.130")
	if at < 0 {
		t.Fatalf("nothing was superseded: %v", got)
	}
	want := []string{"RolloutStarted 0 0.0.131"}
	for weight := 5; weight <= 50; weight += 5 {
		want = append(want, fmt.Sprintf("Advanced %d 0.0.131", weight))
	}
	want = append(want, "PromotionStarted 50 0.0.131", "Promoted 0 0.0.131")
	if !slices.Equal(got[at+1:], want) {
		t.Errorf("after it was superseded came\n%v, want\n%v", got[at+1:], want)
	}
	w.settled()
}

// gate holds the agent's first push to a branch inside the git server: after the agent decided what to
// write, before the branch moves.
type gate struct {
	w                *world
	arrived, release string
}

func (w *world) gate(branch string) *gate {
	w.Helper()
	g := &gate{w: w, arrived: filepath.Join(w.dir, "arrived"), release: filepath.Join(w.dir, "release")}
	w.must(syscall.Mkfifo(g.release, 0o600))
	hook := filepath.Join(w.bed.Git.Path(w.name), "hooks", "pre-receive")
	w.must(os.MkdirAll(filepath.Dir(hook), 0o755))
	w.must(os.WriteFile(hook, fmt.Appendf(nil, `#!/bin/sh
while read old new ref; do
  if [ "$ref" = 'refs/heads/%[3]s' ] && [ ! -e '%[1]s' ] && [ "$(git log -1 --format=%%an "$new")" = Sluice ]; then
    : > '%[1]s'
    read line < '%[2]s'
  fi
done
`, g.arrived, g.release, branch), 0o755))
	return g
}

// await waits until the agent's push is held.
func (g *gate) await() {
	g.w.Helper()
	g.w.await("the push to reach the git server", func() (bool, string) {
		_, err := os.Stat(g.arrived)
		return err == nil, fmt.Sprint(err)
	})
}

// open lets the push go on.
func (g *gate) open() {
	g.w.Helper()
	f, err := os.OpenFile(g.release, os.O_WRONLY, 0)
	g.w.must(err)
	_, err = f.WriteString("\n")
	g.w.must(err)
	g.w.must(f.Close())
}

func TestBumpWhileTheRollbackIsWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	g := w.gate("main")
	w.bump("0.0.130")
	g.await()
	newer := w.bump("0.0.131")
	g.open()
	skipped := w.awaitEvent(rollout.RollbackSkipped, "0.0.130", 1)
	if !strings.Contains(skipped.Reason, "0.0.131") {
		t.Errorf("the rollback commit was skipped because of %q", skipped.Reason)
	}
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.awaitEvent(rollout.Promoted, "0.0.131", 1)
	w.settled()
	if tip := w.history("main")[0]; tip.Hash != newer {
		t.Errorf("the newest commit of the environment branch is %q", tip.Message)
	}
}

// A status branch that does not take what it is told holds up no rollback, in the cluster or in git.
func TestStatusBranchHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	before := w.file("main", requirements)
	g := w.gate(w.statusBranch())
	bad := w.bump("0.0.130")
	g.await()
	w.await("the rollback commit", func() (bool, string) {
		tip := w.history("main")[0]
		return tip.Hash != bad, tip.Message
	})
	g.open()
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.rolledBackOnce(bad, before)
	w.settled()
}

// note appends a line to a file of the environment branch as one of several people, each with a clone of their own.
func (w *world) note(person, file, line string) error {
	wr, err := gitsync.NewWriter(gitsync.WriterConfig{
		Remote: w.remote("main"), Identity: gitsync.Identity{Name: person, Email: person + "@example.com"},
	}, filepath.Join(w.dir, "clones", person))
	if err != nil {
		return err
	}
	defer wr.Close()
	_, err = wr.Commit(context.Background(), func(tip *gitsync.Snapshot) (*gitsync.Change, error) {
		text, err := fs.ReadFile(tip.FS(), file)
		if err != nil {
			return nil, err
		}
		return &gitsync.Change{Files: map[string][]byte{file: append(text, line+"\n"...)}, Message: line}, nil
	})
	return err
}

func TestWritersRaceWithTheRollback(t *testing.T) {
	t.Parallel()
	const notes = 6
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	before := w.file("main", requirements)
	g := w.gate("main")
	bad := w.bump("0.0.130")
	g.await()
	// The agent's push has lost the race before it goes on, and both people write while it tries again.
	w.must(w.note("first", requirements, "# first 0"))
	var people sync.WaitGroup
	for _, person := range []string{"first", "second"} {
		people.Go(func() {
			for i := 1; i <= notes; i++ {
				if err := w.note(person, requirements, fmt.Sprintf("# %s %d", person, i)); err != nil {
					t.Errorf("%s writing note %d: %v", person, i, err)
				}
			}
		})
	}
	g.open()
	people.Wait()
	committed := w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)

	after := w.file("main", requirements)
	lines := map[string]int{}
	for _, line := range strings.Split(after, "\n") {
		if strings.HasPrefix(line, "# first") || strings.HasPrefix(line, "# second") {
			lines[line]++
			after = strings.Replace(after, line+"\n", "", 1)
		}
	}
	want := map[string]int{"# first 0": 1}
	for i := 1; i <= notes; i++ {
		want[fmt.Sprintf("# first %d", i)], want[fmt.Sprintf("# second %d", i)] = 1, 1
	}
	if !maps.Equal(lines, want) {
		t.Errorf("of the people's edits are left %v, want %v", lines, want)
	}
	if after != before {
		t.Errorf("without them the environment branch says\n%s, want what it said before:\n%s", after, before)
	}
	var own []string
	since := 0
	for _, c := range w.history("main") {
		if len(c.Parents) > 1 {
			t.Errorf("commit %q is a merge", c.Message)
		}
		if c.Hash == bad {
			break
		}
		since++
		if audit.IsOwn(c.Message) {
			own = append(own, c.Hash)
		}
	}
	if !slices.Equal(own, []string{committed.Commit}) || since != 2*notes+2 {
		t.Errorf("%d commits followed the bad one, of which the agent's are %v; want %d, and %s", since, own, 2*notes+2, committed.Commit)
	}
}

func TestProtectedBranch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("policy", map[string]string{"env/values.yaml": w.values("hello", 2) + longer})
	w.install()
	before := w.file("main", requirements)
	bad := w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	w.must(w.bed.Git.DenyPushes(w.name, "refs/heads/main", "GH006: Protected branch update failed for refs/heads/main."))
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	told := w.awaitEvent(rollout.RollbackProposed, "0.0.130", 1)
	branch := "sluice/rollback/" + w.name + "/" + app + "-" + bad[:10]
	proposed := w.history(branch)[0]
	if told.Branch != branch || told.Commit != proposed.Hash {
		t.Errorf("the audit log tells of branch %q and commit %q, want %s and %s", told.Branch, told.Commit, branch, proposed.Hash)
	}
	if out, code := w.sluice("status"); code != 0 || !strings.Contains(out, "waits to be merged: branch "+branch) {
		t.Errorf("sluice status exits with %d and says\n%s", code, out)
	}
	if !audit.IsOwn(proposed.Message) || !slices.Equal(proposed.Parents, []string{bad}) {
		t.Errorf("the branch's newest commit is %q upon %v", proposed.Message, proposed.Parents)
	}
	if got := w.file(branch, requirements); got != before {
		t.Errorf("branch %s says\n%s, want what was before:\n%s", branch, got, before)
	}
	if tip := w.history("main")[0]; tip.Hash != bad {
		t.Errorf("the protected branch's newest commit is %q", tip.Message)
	}
	// Somebody merges it: nothing is rolled out by that, and what is asked for next is.
	n := len(w.events())
	w.must(w.bed.Git.DenyPushes(w.name, "refs/heads/main", ""))
	w.commit("Merge the rollback", map[string]string{requirements: before})
	w.bump("0.0.131")
	w.awaitEvent(rollout.Promoted, "0.0.131", 1)
	if got := story(w.events())[n]; got != "RolloutStarted 0 0.0.131" {
		t.Errorf("after the rollback came %q", got)
	}
}
