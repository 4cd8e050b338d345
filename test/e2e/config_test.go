package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// greeting is what the app's configuration says in the cluster.
func (w *world) greeting(configMap string) string {
	w.Helper()
	o := w.object("", "v1", "configmaps", configMap)
	if o == nil {
		return ""
	}
	text, _, err := unstructured.NestedString(o.Object, "data", "GREETING")
	w.must(err)
	return text
}

func TestConfigurationCanaries(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	n, before := len(w.events()), w.pods(app)
	w.commit("greet in French", map[string]string{"env/values.yaml": w.values("bonjour", 2)})
	w.awaitEvent(rollout.Advanced, "0.0.129", 1)
	if canary := w.greeting(app + "-canary"); canary != "bonjour" {
		t.Errorf("the canary greets with %q", canary)
	}
	w.awaitEvent(rollout.Promoted, "0.0.129", 1)
	want := []string{
		"RolloutStarted 0 0.0.129", "Advanced 10 0.0.129", "Advanced 20 0.0.129", "Advanced 30 0.0.129",
		"Advanced 40 0.0.129", "Advanced 50 0.0.129", "PromotionStarted 50 0.0.129", "Promoted 0 0.0.129",
	}
	if got := story(course(w.events()))[n:]; !slices.Equal(got, want) {
		t.Errorf("the audit log says\n%v, want\n%v", got, want)
	}
	w.settled()
	if got := w.greeting(app); got != "bonjour" {
		t.Errorf("the app greets with %q", got)
	}
	for name := range w.pods(app) {
		if before[name] != "" {
			t.Errorf("pod %s still has the configuration that it started with", name)
		}
	}
}

func TestReplicasDoNotCanary(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	stable := w.pods(app)
	w.commit("one more", map[string]string{"env/values.yaml": w.values("hello", 3)})
	w.awaitEvent(rollout.Applied, "0.0.129", 1)
	w.await("three pods", func() (bool, string) {
		pods := w.pods(app)
		return len(pods) == 3, strings.Join(slices.Sorted(maps.Keys(pods)), ", ")
	})
	pods := w.pods(app)
	for name, uid := range stable {
		if pods[name] != uid {
			t.Errorf("pod %s was replaced", name)
		}
	}
	want := []string{"InstallStarted 0 0.0.129", "Installed 0 0.0.129", "Applied 0 0.0.129"}
	if got := story(w.events()); !slices.Equal(got, want) {
		t.Errorf("the audit log says %v, want %v", got, want)
	}
}

func TestHelmHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.behave("0.0.131", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	w.awaitHelmHistory("1 deployed 0.0.129")
	w.helmShows("1 deployed 0.0.129")
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.awaitHelmHistory("1 superseded 0.0.129", "2 deployed 0.0.130")
	w.helmShows("2 deployed 0.0.130")
	w.bump("0.0.131")
	w.awaitEvent(rollout.RollbackCommitted, "0.0.131", 1)
	w.awaitEvent(rollout.RolledBack, "0.0.131", 1)
	list := w.awaitHelmHistory("1 superseded 0.0.129", "2 superseded 0.0.130", "3 failed 0.0.131", "4 deployed 0.0.130")
	w.helmShows("4 deployed 0.0.130")
	for i, version := range []string{"0.0.129", "0.0.130", "0.0.131", "0.0.130"} {
		if manifest := list[i].Manifest; !strings.Contains(manifest, w.image+":"+version) {
			t.Errorf("the manifest of revision %d does not run %s:\n%s", i+1, version, manifest)
		}
	}
	if why := list[2].Info.Description; !strings.Contains(why, "success rate") {
		t.Errorf("revision 3 failed because of %q", why)
	}
}
