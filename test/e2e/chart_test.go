package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
)

// variant publishes the app's chart, edited, as a version that no other test uses.
func (w *world) variant(version string, edit func(*chart.Chart)) {
	w.Helper()
	root, err := bed.FindRoot()
	w.must(err)
	c, err := loader.Load(filepath.Join(root, "cmd/sluice/demo/charts", app))
	w.must(err)
	c.Metadata.Version, c.Metadata.AppVersion = version, version
	edit(c)
	w.must(w.bed.Charts.AddChart(c))
}

// template is a template of the chart.
func template(c *chart.Chart, name string) *chart.File {
	for _, t := range c.Templates {
		if t.Name == "templates/"+name {
			return t
		}
	}
	t := &chart.File{Name: "templates/" + name}
	c.Templates = append(c.Templates, t)
	return t
}

// A release that can't come by a rollout is a fault before anything is touched, and going back in git is enough.
func TestChangedSelectorIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.variant("0.1.0", func(c *chart.Chart) {
		d := template(c, "deployment.yaml")
		text := strings.Replace(string(d.Data), "    matchLabels:\n", "    matchLabels:\n      tier: web\n", 1)
		d.Data = []byte(strings.Replace(text, "      labels:\n", "      labels:\n        tier: web\n", 1))
	})
	w.install()
	w.bump("0.1.0")
	w.await("the fault on the status branch", func() (bool, string) {
		text := w.file(w.statusBranch(), "apps/"+app+".yaml")
		return strings.Contains(text, "which Kubernetes refuses"), text
	})
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	for _, e := range w.events() {
		if e.To.Version == "0.1.0" {
			t.Errorf("the audit log tells of a rollout: %s", e.Type)
		}
	}
}

// Passwords that a chart makes up stay what they are when the agent is restarted and renders them anew.
func TestRandomValuesSurviveARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.variant("0.1.1", func(c *chart.Chart) {
		template(c, "secret.yaml").Data = []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: made-up}\n" +
			"stringData: {password: {{ randAlphaNum 20 | quote }}}\n")
	})
	w.bump("0.1.1")
	w.start()
	w.awaitEvent(rollout.Installed, "0.1.1", 1)
	before, err := w.kube.CoreV1().Secrets(w.name).Get(t.Context(), "made-up", metav1.GetOptions{})
	w.must(err)
	w.stop()
	w.must(w.kube.CoreV1().Services(w.name).Delete(t.Context(), app, metav1.DeleteOptions{}))
	w.start()
	// Everything is applied in one go: when the Service is back, the Secret would have been touched.
	w.await("the Service to be back", func() (bool, string) {
		return w.object("", "v1", "services", app) != nil, "away"
	})
	after, err := w.kube.CoreV1().Secrets(w.name).Get(t.Context(), "made-up", metav1.GetOptions{})
	w.must(err)
	if before.ResourceVersion != after.ResourceVersion {
		t.Errorf("the Secret was changed; its password is the same: %t", string(before.Data["password"]) == string(after.Data["password"]))
	}
}

// What outside the release would miss the canary is told when the rollout begins.
func TestWarnsOfWhatMissesTheCanary(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	_, err := w.kube.PolicyV1().PodDisruptionBudgets(w.name).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "by-hand"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
	}, metav1.CreateOptions{})
	w.must(err)
	w.bump("0.0.130")
	e := w.awaitEvent(rollout.RolloutStarted, "0.0.130", 1)
	if !strings.Contains(e.Reason, "PodDisruptionBudget by-hand") || !strings.Contains(e.Reason, "would miss its canary's") {
		t.Errorf("the rollout's reason is %q", e.Reason)
	}
}
