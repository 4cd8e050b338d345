package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// What users and the audit log see of a rollout that nothing disturbs.
var (
	goodStory = []string{
		"InstallStarted 0 0.0.129", "Installed 0 0.0.129",
		"RolloutStarted 0 0.0.130", "Advanced 10 0.0.130", "Advanced 20 0.0.130", "Advanced 30 0.0.130",
		"Advanced 40 0.0.130", "Advanced 50 0.0.130", "PromotionStarted 50 0.0.130", "Promoted 0 0.0.130",
	}
	goodShares = []int{0, 10, 20, 30, 40, 50, 0}
	badStory   = []string{
		"InstallStarted 0 0.0.129", "Installed 0 0.0.129",
		"RolloutStarted 0 0.0.130", "Advanced 10 0.0.130",
		"CheckFailed 10 0.0.130", "CheckFailed 10 0.0.130", "CheckFailed 10 0.0.130", "CheckFailed 10 0.0.130",
		"RollbackStarted 0 0.0.130", "RolledBack 0 0.0.130", "RollbackCommitted 0 0.0.130",
	}
)

// moment is a state to kill the agent in.
type moment struct {
	name string
	is   func(rollout.State) bool
	// seen is the canary's share that users are to see besides; 0: whatever they see.
	seen int
}

func inPhase(p rollout.Phase) moment {
	return moment{name: string(p), is: func(s rollout.State) bool { return s.Phase == p }}
}

// atWeight is when the canary is to get a share; held says that users are to see it besides.
func atWeight(weight int, held bool) moment {
	m := moment{name: "Analyzing", is: func(s rollout.State) bool { return s.Phase == rollout.Analyzing && s.Weight == weight }}
	if held {
		m.seen = weight
	}
	return m
}

// drained is when the canary track is to go.
func drained(p rollout.Phase) moment {
	return moment{name: string(p) + ", drained", is: func(s rollout.State) bool { return s.Phase == p && s.Drained }}
}

// TestKilledWhilePromoting kills the agent as soon as a state is saved, so mostly before it is acted upon.
func TestKilledWhilePromoting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.killIn(inPhase(rollout.Installing))
	w.awaitEvent(rollout.Installed, "0.0.129", 1)
	unserved := w.bed.Traffic.Counts(w.name, w.host()).Unserved
	w.bump("0.0.130")
	for _, m := range []moment{
		inPhase(rollout.Starting), atWeight(10, false), atWeight(20, true), atWeight(40, false), atWeight(50, true),
		inPhase(rollout.Promoting), inPhase(rollout.Draining), drained(rollout.Draining),
		{name: "the end", is: func(s rollout.State) bool { return s.Phase == rollout.Idle }},
	} {
		w.killIn(m)
	}
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.settled()
	w.toldAs(goodStory)
	w.stepsLasted(time.Second)
	if got := w.canaryShares(); !slices.Equal(got, goodShares) {
		t.Errorf("users saw the canary's share as %v, want %v", got, goodShares)
	}
	if n := w.bed.Traffic.Counts(w.name, w.host()).Unserved; n > unserved {
		t.Errorf("%d requests found no pod during the rollout", n-unserved)
	}
}

func TestKilledWhileRollingBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	before, stable := w.file("main", requirements), w.pods(app)
	bad := w.bump("0.0.130")
	for _, m := range []moment{
		inPhase(rollout.Starting), atWeight(10, true),
		{name: "failing", is: func(s rollout.State) bool { return s.Phase == rollout.Analyzing && s.FailedChecks == 2 }},
		inPhase(rollout.RollingBack), drained(rollout.RollingBack),
		{name: "git to be told", is: func(s rollout.State) bool { return s.Phase == rollout.Idle && s.LastSeq > 2 }},
	} {
		w.killIn(m)
	}
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.settled()
	w.toldAs(badStory)
	w.samePods(stable)
	if got, want := w.canaryShares(), []int{0, 10, 0}; !slices.Equal(got, want) {
		t.Errorf("users saw the canary's share as %v, want %v", got, want)
	}
	w.rolledBackOnce(bad, before)
}

// TestKilledAfterEachPush kills the agent as soon as git holds an event, so mostly before it has learned that.
func TestKilledAfterEachPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	before := w.file("main", requirements)
	bad := w.bump("0.0.130")
	for n := 3; n < len(badStory); n++ {
		w.await("another event in git", func() (bool, string) { return len(w.events()) >= n, "" })
		w.kill()
		w.start()
	}
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.toldAs(badStory)
	w.rolledBackOnce(bad, before)
}

// TestKilledWhileUpdating is about an app without a canary: each version is updated to at once. In the end git drops it.
func TestKilledWhileUpdating(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{Ready: behaviour.ReadySlowly, ReadyAfterSeconds: 2})
	w.commit("policy", map[string]string{"env/values.yaml": w.values("hello", 2) + "    enable: false\n"})
	w.install()
	w.bump("0.0.130")
	w.killIn(inPhase(rollout.Updating))
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.servesGit()
	w.commit("drop it", map[string]string{requirements: "dependencies: []\n"})
	w.killIn(inPhase(rollout.Removing))
	w.killIn(moment{name: "git to be told", is: func(s rollout.State) bool { return s.Phase == rollout.Idle && s.LastSeq > 4 }})
	w.awaitEvent(rollout.Removed, "", 1)
	w.toldAs([]string{
		"InstallStarted 0 0.0.129", "Installed 0 0.0.129", "RolloutStarted 0 0.0.130", "Promoted 0 0.0.130", "Removed 0 ",
	})
	w.serves()
}

// TestLostState deletes the state in every phase while nobody runs. Each time the rollout is given up, which git is told, and
// begins anew; users are served all the while, and in the end nothing is left of any canary.
func TestLostState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.loseIn(inPhase(rollout.Installing))
	w.awaitEvent(rollout.Installed, "0.0.129", 1)
	unserved := w.bed.Traffic.Counts(w.name, w.host()).Unserved
	w.bump("0.0.130")
	for n, m := range []moment{
		inPhase(rollout.Starting), atWeight(10, false), atWeight(50, true), inPhase(rollout.Promoting), inPhase(rollout.Draining),
	} {
		w.loseIn(m)
		w.awaitEvent(rollout.Recovered, "0.0.130", n+1)
	}
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.settled()
	w.serves("VirtualService/" + app)
	// Helm keeps ten: each recovery went back, which is a record of its own.
	w.awaitHelmHistory("3 superseded 0.0.129", "4 failed 0.0.130", "5 superseded 0.0.129", "6 failed 0.0.130", "7 superseded 0.0.129",
		"8 failed 0.0.130", "9 superseded 0.0.129", "10 failed 0.0.130", "11 superseded 0.0.129", "12 deployed 0.0.130")
	w.behave("0.0.131", behaviour.Behaviour{ErrorRate: 0.3})
	w.bump("0.0.131")
	w.loseIn(inPhase(rollout.RollingBack))
	w.awaitEvent(rollout.Recovered, "0.0.131", 1)
	w.awaitEvent(rollout.RollbackCommitted, "0.0.131", 1)
	w.awaitEvent(rollout.RolledBack, "0.0.131", 1)
	w.settled()
	w.servesGit()
	if n := w.bed.Traffic.Counts(w.name, w.host()).Unserved; n > unserved {
		t.Errorf("%d requests found no pod", n-unserved)
	}
}

// loseIn waits for the moment, kills the agent, deletes the state, and starts the agent again.
func (w *world) loseIn(m moment) {
	w.Helper()
	w.killIn(m, func() {
		w.must(w.kube.CoreV1().Secrets(w.stateNamespace()).Delete(w.Context(), w.stateName(), metav1.DeleteOptions{}))
	})
}

// Nobody's requests say nothing of a release: it is held, told as stalled, and goes on when users are back.
func TestNoTrafficHoldsTheWeight(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	w.bed.Traffic.SetRate(w.name, w.host(), 0)
	w.bump("0.0.130")
	w.awaitEvent(rollout.Inconclusive, "0.0.130", 1)
	w.awaitEvent(rollout.Stalled, "0.0.130", 1)
	w.bed.Traffic.SetRate(w.name, w.host(), 200)
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.toldAs(slices.Insert(slices.Clone(goodStory), 4, "Stalled 10 0.0.130"))
}

// killIn waits for the moment, kills the agent right then, lets others act while it is down, and starts it again.
func (w *world) killIn(m moment, others ...func()) {
	w.Helper()
	w.awaitState(m)
	if m.seen > 0 {
		w.awaitFor(patience, 10*time.Millisecond, "users to see it", func() (bool, string) {
			shares := w.canaryShares()
			return len(shares) > 0 && shares[len(shares)-1] == m.seen, fmt.Sprint(shares)
		})
	}
	w.kill()
	for _, act := range others {
		act()
	}
	w.start()
}

// awaitState waits until the saved state is as the moment has it. It watches, so no state passes unseen.
func (w *world) awaitState(m moment) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	seen, err := w.kube.CoreV1().Secrets(w.stateNamespace()).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + w.stateName()})
	w.must(err)
	defer seen.Stop()
	var last rollout.State
	for e := range seen.ResultChan() {
		secret, ok := e.Object.(*corev1.Secret)
		if !ok {
			continue
		}
		last = rollout.State{}
		w.must(json.Unmarshal(secret.Data["state"], &last))
		if m.is(last) {
			return
		}
	}
	w.Fatalf("waited for the moment %q; the state is %q at weight %d", m.name, last.Phase, last.Weight)
}

// stateName is the Secret that holds the app's state.
func (w *world) stateName() string { return "sluice." + w.name + "." + app }

// stateNamespace is where the agent keeps states: unless it is one of several clusters it is told no namespace, only the environment's
// apps are.
func (w *world) stateNamespace() string {
	if w.cluster != "" {
		return w.namespace
	}
	return "jx-" + w.name
}

// toldAs fails the test when the audit log tells another story.
func (w *world) toldAs(want []string) {
	w.Helper()
	got := story(course(w.events()))
	// The rollback commit does not wait for the canary to drain, so either of the two may be the first.
	for i := range len(got) - 1 {
		if strings.HasPrefix(got[i], string(rollout.RollbackCommitted)) && strings.HasPrefix(got[i+1], string(rollout.RolledBack)) {
			got[i], got[i+1] = got[i+1], got[i]
		}
	}
	if !slices.Equal(got, want) {
		w.Errorf("the audit log says\n%v, want\n%v", got, want)
	}
}

// stepsLasted fails the test when a weight was judged sooner than an interval after it was decided.
func (w *world) stepsLasted(interval time.Duration) {
	w.Helper()
	var since time.Time
	for _, e := range w.events() {
		if took := e.Time.Sub(since); !since.IsZero() && took < interval {
			w.Errorf("%s %d came after %s", e.Type, e.Weight, took)
		}
		if since = (time.Time{}); e.Type == rollout.Advanced {
			since = e.Time
		}
	}
}

// rolledBackOnce fails the test unless the branch's newest commit is the one rollback commit, upon the bad one, and
// takes back that one's one line.
func (w *world) rolledBackOnce(bad, before string) {
	w.Helper()
	if after := w.file("main", requirements); after != before {
		w.Errorf("the environment branch says\n%s, want what it said before:\n%s", after, before)
	}
	tip := w.history("main")[0]
	if !audit.IsOwn(tip.Message) || !slices.Equal(tip.Parents, []string{bad}) {
		w.Errorf("the newest commit is %q upon %v", tip.Message, tip.Parents)
	}
	did, undone := w.lines("show", "-R", bad), w.lines("show", tip.Hash)
	if len(undone) != 2 || !slices.Equal(undone, did) {
		w.Errorf("git show of the rollback commit changes %q, want %q", undone, did)
	}
}

// lines that git shows as removed and as added.
func (w *world) lines(show ...string) []string {
	w.Helper()
	var changed []string
	for line := range strings.Lines(w.git("", append(show, "--format=", "--unified=0")...)) {
		header := strings.HasPrefix(line, "---") || strings.HasPrefix(line, "+++")
		if !header && (line[0] == '-' || line[0] == '+') {
			changed = append(changed, line)
		}
	}
	return changed
}
