package main

import (
	"bytes"
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
)

const chartSchema = "../../deploy/chart/values.schema.json"

// What the chart says itself, and what has no place in a pod.
var notInChart = []string{"apiVersion", "kind", "dataDir", "kubeconfig", "context", "allowCredentialPlugins", "listen", "leaderElection"}

// requiredInChart are the fields that an agent can't be without, by the path of what they are in.
var requiredInChart = map[string][]string{
	"config":                         {"environments", "prometheus"},
	"config.prometheus":              {"address"},
	"config.charts":                  {"url"},
	"config.environments":            {"name", "repository"},
	"config.environments.charts":     {"url"},
	"config.environments.repository": {"url"},
}

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
	schema["$defs"].(map[string]any)["config"] = schemaOf(reflect.TypeFor[config](), "config")
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(schema); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("UPDATE_SCHEMA") != "" {
		if err := os.WriteFile(chartSchema, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(text, want.Bytes()) {
		t.Errorf("%s does not know the fields of agent.yaml as they are; UPDATE_SCHEMA=1 go test ./cmd/sluice -run TestChartSchema writes them", chartSchema)
	}
}

// schemaOf is the JSON schema of a type of the configuration.
func schemaOf(t reflect.Type, at string) map[string]any {
	switch {
	case t == reflect.TypeFor[duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9.]+(ns|us|ms|s|m|h))+$`}
	case t.Kind() == reflect.String:
		return map[string]any{"type": "string"}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": "boolean"}
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int64:
		return map[string]any{"type": "integer"}
	case t.Kind() == reflect.Float64:
		return map[string]any{"type": "number"}
	case t.Kind() == reflect.Pointer:
		return schemaOf(t.Elem(), at)
	case t.Kind() == reflect.Slice:
		list := map[string]any{"type": "array", "items": schemaOf(t.Elem(), at)}
		if at == "config.environments" {
			list["minItems"] = 1
		}
		return list
	case t.Kind() == reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem(), at)}
	case t.Kind() == reflect.Struct:
		properties := map[string]any{}
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if at == "config" && slices.Contains(notInChart, name) {
				continue
			}
			properties[name] = schemaOf(f.Type, at+"."+name)
		}
		out := map[string]any{"type": "object", "additionalProperties": false, "properties": properties}
		if required := requiredInChart[at]; required != nil {
			out["required"] = required
			for _, name := range required {
				if p := properties[name].(map[string]any); p["type"] == "string" {
					p["minLength"] = 1
				}
			}
		}
		return out
	default:
		panic("no schema for " + t.String() + " at " + at)
	}
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
