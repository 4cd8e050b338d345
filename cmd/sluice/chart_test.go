package main

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-cd/sluice/deploy"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/generated"
)

const chartSchema = "../../deploy/chart/values.schema.json"

// What the chart says itself, and what has no place in a pod.
var notInChart = []string{"apiVersion", "kind", "dataDir", "kubeconfig", "context", "allowCredentialPlugins", "listen", "leaderElection"}

// The chart's values take the agent's configuration, so its schema knows the same fields.
// UPDATE_SCHEMA=1 go test ./cmd/sluice -run TestChartSchema writes them there.
func TestChartSchema(t *testing.T) {
	text, err := os.ReadFile(chartSchema)
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	schema["$defs"].(map[string]any)["config"] = configSchema{told: comments(t), without: notInChart}.of(reflect.TypeFor[config](), "config")
	generated.Check(t, "UPDATE_SCHEMA", chartSchema, indentedJSON(t, schema))
}

// Alert rules ask only for metrics that the agent has, and for types of events that there are.
func TestChartAlertsKnowTheMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	newEventMetrics(r).observe("production", "web", rollout.Event{Type: rollout.RolledBack})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, f := range families {
		known[f.GetName()] = true
	}
	described := make(chan *prometheus.Desc, 20)
	(&healthMetrics{}).Describe(described)
	close(described)
	for d := range described {
		known[regexp.MustCompile(`fqName: "(\w+)"`).FindStringSubmatch(d.String())[1]] = true
	}
	text, err := deploy.Release{Name: "sluice", Namespace: "sluice", Values: chartValues + "prometheusRule: {enabled: true}\n"}.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	asked := regexp.MustCompile(`\b(?:sluice|process)_[a-z_]+`).FindAllString(text, -1)
	if len(asked) == 0 {
		t.Fatal("the alert rules ask for no metric")
	}
	for _, name := range asked {
		if !known[name] {
			t.Errorf("an alert rule asks for %s, which the agent does not have", name)
		}
	}
	for _, m := range regexp.MustCompile(`type="(\w+)"`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains([]rollout.EventType{rollout.RolledBack, rollout.Degraded, rollout.Stalled}, rollout.EventType(m[1])) {
			t.Errorf("an alert rule asks for events of type %s, which there are none of", m[1])
		}
	}
}

const chartValues = `
config:
  prometheus: {address: "http://prometheus:9090"}
  environments:
  - {name: production, repository: {url: "https://git.example.com/production.git"}}
`

// What the chart makes of its values, the agent reads.
func TestChartConfigurationIsRead(t *testing.T) {
	objects, err := deploy.Release{Name: "sluice", Namespace: "sluice", Values: chartValues}.Objects()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.GetKind() != "ConfigMap" {
			continue
		}
		file := t.TempDir() + "/agent.yaml"
		if err := os.WriteFile(file, []byte(o.Object["data"].(map[string]any)["agent.yaml"].(string)), 0o600); err != nil {
			t.Fatal(err)
		}
		c, at, err := readConfig(file)
		if err != nil {
			t.Fatal(err)
		}
		c.complete(func(field, problem, _ string) { t.Errorf("%s: %s", field, problem) })
		for _, fault := range at.faults {
			t.Error(fault)
		}
		if !c.LeaderElection || c.DataDir != "/var/lib/sluice" || len(c.Environments) != 1 {
			t.Errorf("the agent reads it as %+v", c)
		}
		return
	}
	t.Fatal("the chart has no configuration")
}

// The chart and the doctor agree on the oldest cluster.
func TestChartAgreesOnKubernetes(t *testing.T) {
	text, err := os.ReadFile("../../deploy/chart/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if want := `kubeVersion: ">=` + oldestKubernetes + `-0"`; !strings.Contains(string(text), want) {
		t.Errorf("the chart does not say %s", want)
	}
}
