package deploy

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// The alerts of docs/monitoring.md, for a Prometheus without its operator, are those of the chart, installed as the document has
// it. go test ./deploy -update writes them.
func TestDocumentedAlerts(t *testing.T) {
	list, err := Release{Name: "sluice", Namespace: "sluice", Values: values + "prometheusRule: {enabled: true}"}.Objects()
	if err != nil {
		t.Fatal(err)
	}
	var rules []byte
	for _, o := range list {
		if o.GetKind() == "PrometheusRule" {
			if rules, err = yaml.Marshal(o.Object["spec"]); err != nil {
				t.Fatal(err)
			}
		}
	}
	const file, begin, end = "../docs/monitoring.md", "```yaml\ngroups:\n", "```"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s has no block of rules", file)
	}
	want := before + "```yaml\n" + string(rules) + end + after
	switch {
	case want == string(text):
	case *update:
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s has other alerts than the chart; go test ./deploy -update writes them anew", file)
	}
}
