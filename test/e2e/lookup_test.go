package e2e

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
)

// passwordChart keeps a password as most charts do that make one up.
var passwordChart = map[string]string{
	"Chart.yaml":  "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
	"values.yaml": "canary: {enabled: true, provider: kubernetes, analysis: {interval: 4s, stepWeights: [50], metrics: []}}\n",
	"templates/secret.yaml": `{{- $s := lookup "v1" "Secret" .Release.Namespace "shop-db" }}
apiVersion: v1
kind: Secret
metadata: {name: shop-db}
data:
  password: {{ if $s }}{{ index $s.data "password" }}{{ else }}{{ randAlphaNum 12 | b64enc }}{{ end }}
`,
	"templates/app.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers: [{name: shop, image: "demo.invalid/shop:{{ .Chart.Version }}", envFrom: [{secretRef: {name: shop-db}}]}]
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{port: 80}]}
`,
}

// TestLookupKeepsPassword: a chart that keeps its password by looking it up has the same one after it was taken over from Helm, in
// the canary of its next version, after that was promoted, and after the agent was restarted.
func TestLookupKeepsPassword(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	chart := t.TempDir()
	files := map[string]string{
		requirements:      "dependencies:\n- {name: shop, version: 1.0.0, repository: file://../charts/shop}\n",
		"env/values.yaml": "{}\n",
	}
	for name, text := range passwordChart {
		files["charts/shop/"+name] = text
		w.must(os.MkdirAll(filepath.Dir(filepath.Join(chart, name)), 0o755))
		w.must(os.WriteFile(filepath.Join(chart, name), []byte(text), 0o600))
	}
	helm := bedtest.Helm(t, w.bed, w.name)
	helm("install", "shop", chart, "--create-namespace")
	password := func(name string) string {
		s, err := w.kube.CoreV1().Secrets(w.name).Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			return ""
		}
		return string(s.Data["password"])
	}
	first := password("shop-db")
	w.commit("shop", files)
	w.start()
	same := func(when string) {
		t.Helper()
		if now := password("shop-db"); now != first || len(first) != 12 {
			t.Fatalf("%s the password is %q, and was %q", when, now, first)
		}
	}
	w.shopHas("1.0.0")
	same("taken over")
	asking, _ := w.sluice("validate", "--namespace", w.name, "--kubeconfig", w.bed.Kubeconfig)
	offline, _ := w.sluice("validate", "--namespace", w.name)
	const unasked = "/shop-db and are told of nothing: there is no cluster to ask"
	if strings.Contains(asking, unasked) || !strings.Contains(offline, unasked) {
		t.Errorf("validate says\n%s\nand without the cluster\n%s", asking, offline)
	}

	w.shopVersion("1.1.0", files[requirements])
	w.await("the canary's password", func() (bool, string) { return password("shop-db-canary") != "", "none" })
	if canary := password("shop-db-canary"); canary != first {
		t.Errorf("the canary's password is %q, and the stable one %q", canary, first)
	}
	w.shopHas("1.1.0")
	same("promoted")

	before := w.eventsOfShop("1.1.0")
	w.stop()
	w.start()
	w.shopVersion("1.2.0", files[requirements])
	w.shopHas("1.2.0")
	same("promoted after a restart")
	if now := w.eventsOfShop("1.1.0"); now != before {
		t.Errorf("after the restart 1.1.0 has %d events, and had %d", now, before)
	}
}

// shopVersion commits another version of the chart.
func (w *world) shopVersion(version, list string) {
	w.Helper()
	w.commit("shop "+version, map[string]string{
		requirements:             strings.Replace(list, "1.0.0", version, 1),
		"charts/shop/Chart.yaml": strings.Replace(passwordChart["Chart.yaml"], "1.0.0", version, 1),
	})
}

// eventsOfShop counts the events of a rollout to a version of shop.
func (w *world) eventsOfShop(version string) (n int) {
	w.Helper()
	for _, c := range w.history(w.statusBranch()) {
		if e, ok := audit.ParseMessage(c.Message); ok && e.App == "shop" && e.To.Version == version {
			n++
		}
	}
	return n
}

// shopHas waits until the app shop serves a version and has come to rest.
func (w *world) shopHas(version string) {
	w.Helper()
	serves := regexp.MustCompile(`serves:\s+version: "?` + regexp.QuoteMeta(version))
	w.await("shop "+version+" to serve", func() (bool, string) {
		if len(w.history(w.statusBranch())) == 0 {
			return false, "no status branch"
		}
		text := w.file(w.statusBranch(), "apps/shop.yaml")
		return serves.MatchString(text) && strings.Contains(text, "phase: Idle"), text
	})
}
