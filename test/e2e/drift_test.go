package e2e

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// soon is how long a hand edit may last.
const soon = 5 * time.Second

func TestHandEditsAreUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	stable := w.pods(app)

	w.patch("apps", "v1", "deployments", app, `{"metadata":{"labels":{"app":"mine"}}}`)
	w.undone("the label", func() (bool, string) {
		now := w.object("apps", "v1", "deployments", app).GetLabels()["app"]
		return now == app, now
	})
	w.samePods(stable)

	uid := w.object("apps", "v1", "deployments", app).GetUID()
	w.must(w.kube.AppsV1().Deployments(w.name).Delete(context.Background(), app, metav1.DeleteOptions{}))
	w.undone("the Deployment", func() (bool, string) {
		o := w.object("apps", "v1", "deployments", app)
		return o != nil && o.GetUID() != uid, "not there again"
	})
	if got := story(w.events()); len(got) != 2 {
		t.Errorf("the audit log says %v, want nothing of the hand edits", got)
	}
}

func TestHandEditedWeightIsUndone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	w.bed.Traffic.SetRate(w.name, w.host(), 0) // the weight stays
	w.bump("0.0.130")
	w.awaitEvent(rollout.Inconclusive, "0.0.130", 1)
	const everything = `{"spec":{"http":[{"route":[{"destination":{"host":"` + app + `-canary"},"weight":100}]}]}}`
	name := w.names("networking.istio.io", "v1", "virtualservices")[0]
	w.bed.Traffic.SetRate(w.name, w.host(), 100)
	w.patch("networking.istio.io", "v1", "virtualservices", name, everything)
	w.undone("the weight", func() (bool, string) {
		shares := w.canaryShares()
		return slices.Contains(shares, 100) && shares[len(shares)-1] <= 50, "as edited"
	})
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	if got, want := w.canaryShares(), []int{0, 10, 100, 10, 20, 30, 40, 50, 0}; !slices.Equal(got, want) {
		t.Errorf("users saw the canary's share as %v, want %v", got, want)
	}
}

func TestIdleAgentWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{})
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.settled()
	w.quiet()

	since, pushes := time.Now(), len(w.history(w.statusBranch()))
	// What changes no app, in git and in the cluster, is looked at and left alone.
	w.commit("docs: say hello", map[string]string{"README.md": "Hello.\n"})
	w.commit("docs: explain", map[string]string{"env/values.yaml": "# The same values.\n" + w.values("hello", 2)})
	w.patch("apps", "v1", "deployments", app, `{"metadata":{"annotations":{"example.com/note":"mine"}}}`)
	w.intervals(5)
	w.wroteNothing("while idle", since)

	w.stop()
	since = time.Now()
	w.start()
	w.await("the agent to look at its app again", func() (bool, string) {
		return slices.ContainsFunc(w.requests(since), func(r bed.Request) bool { return r.Resource == "deployments" }), ""
	})
	w.intervals(5)
	w.wroteNothing("after a restart", since)
	if n := len(w.history(w.statusBranch())); n != pushes {
		t.Errorf("%d commits came to the status branch", n-pushes)
	}
}

// patch edits an object as a person does with kubectl.
func (w *world) patch(group, version, resource, name, merge string) {
	w.Helper()
	_, err := w.dyn.Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}).Namespace(w.name).
		Patch(context.Background(), name, types.MergePatchType, []byte(merge), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	w.must(err)
}

// undone waits for a hand edit to be undone, and fails the test when that was not soon.
func (w *world) undone(what string, f func() (bool, string)) {
	w.Helper()
	begin := time.Now()
	w.await(what+" to be put back", f)
	if took := time.Since(begin); took > soon {
		w.Errorf("%s was put back after %s, want %s at most", what, took, soon)
	}
}

// requests of the agent about its app and its state since a time.
func (w *world) requests(since time.Time) []bed.Request {
	w.Helper()
	all, err := w.bed.Requests()
	w.must(err)
	return slices.DeleteFunc(all, func(r bed.Request) bool {
		return r.Time.Before(since) || !strings.HasPrefix(r.UserAgent, "sluice/") ||
			r.Namespace != w.name && r.Namespace != w.stateNamespace()
	})
}

func (w *world) writes(since time.Time) []bed.Request {
	w.Helper()
	return slices.DeleteFunc(w.requests(since), func(r bed.Request) bool {
		return slices.Contains([]string{"get", "list", "watch"}, r.Verb) || strings.Contains(r.Path, "dryRun=")
	})
}

func (w *world) wroteNothing(when string, since time.Time) {
	w.Helper()
	for _, r := range w.writes(since) {
		w.Errorf("%s: %s %s (%d)", when, r.Verb, r.Path, r.Code)
	}
}

// quiet waits until the agent's last word about a rollout is saved.
func (w *world) quiet() {
	w.Helper()
	w.awaitState(moment{name: "at rest, all told", is: func(s rollout.State) bool {
		return s.Phase == rollout.Idle && len(s.Outbox) == 0 && s.Revert == nil
	}})
	w.await("the agent to rest", func() (bool, string) {
		return len(w.writes(time.Now().Add(-2*time.Second))) == 0, "it writes"
	})
}

// intervals lets n intervals of looking at the branch pass: that nothing happens shows only so.
func (w *world) intervals(n int) {
	w.Helper()
	end := time.Now().Add(time.Duration(n) * time.Second)
	w.awaitFor(time.Until(end)+patience, 100*time.Millisecond, "time to pass", func() (bool, string) { return time.Now().After(end), "" })
}

// A saved state that can't be read leaves its app alone, says so, and is got over by deleting it: what serves is taken
// over as it is, and the audit log goes on where it was.
func TestBrokenState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	before := w.pods(app)
	w.stop()
	secrets, err := w.kube.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{
		LabelSelector: "sluice.dev/app=" + app + ",sluice.dev/environment=" + w.name, FieldSelector: "type=sluice.dev/state.v1",
	})
	w.must(err)
	if len(secrets.Items) != 1 {
		t.Fatalf("%d states", len(secrets.Items))
	}
	state := &secrets.Items[0]
	state.Data["state"] = []byte(`{"phase": 7}`)
	_, err = w.kube.CoreV1().Secrets(state.Namespace).Update(t.Context(), state, metav1.UpdateOptions{})
	w.must(err)
	w.bump("0.0.130")
	w.start()
	w.await("the fault on the status branch", func() (bool, string) {
		text := w.file(w.statusBranch(), "apps/"+app+".yaml")
		return strings.Contains(text, "be read in Secret "+state.Namespace+"/"+state.Name), text
	})
	w.samePods(before)
	w.must(w.kube.CoreV1().Secrets(state.Namespace).Delete(t.Context(), state.Name, metav1.DeleteOptions{}))
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.servesGit()
}
