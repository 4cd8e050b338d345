package analysis

import (
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// TestOwnOnly: whatever a query selects is of the app's own namespace, in whichever way it asks.
func TestOwnOnly(t *testing.T) {
	const other = `it asks for namespace "prod", and may see "dev" alone`
	for query, want := range map[string]string{
		"vector(1)":           "vector(1)",
		`up{namespace="dev"}`: `up{namespace="dev"}`,
		`sum(rate(errors{exported_namespace=~"dev", code="500"}[1m]))`: `sum(rate(errors{exported_namespace=~"dev", code="500"}[1m]))`,
		`up{kubernetes_namespace="dev",namespace="prod"}`:              `up{kubernetes_namespace="dev",namespace="prod"}`,
		"up":                                              `up{namespace="dev"}`,
		`istio_requests_total`:                            `istio_requests_total{destination_workload_namespace="dev"}`,
		`{__name__=~"istio_.+"}`:                          `{__name__=~"istio_.+",namespace="dev"}`,
		`up{namespace=~"dev|prod"}`:                       `up{namespace="dev",namespace=~"dev|prod"}`,
		`up{namespace!="dev"}`:                            `up{namespace!="dev",namespace="dev"}`,
		`up{namespace!~"x"} or down`:                      `up{namespace!~"x",namespace="dev"} or down{namespace="dev"}`,
		`absent(up) * on() group_left() down`:             `absent(up{namespace="dev"}) * on () group_left () down{namespace="dev"}`,
		`max_over_time(up[5m:1m] @ 100 offset 1h)`:        `max_over_time(up{namespace="dev"}[5m:1m] @ 100.000 offset 1h)`,
		`histogram_quantile(scalar(q), rate(b[1m]))`:      `histogram_quantile(scalar(q{namespace="dev"}), rate(b{namespace="dev"}[1m]))`,
		`label_replace(up, "namespace", "dev", "x", "y")`: `label_replace(up{namespace="dev"}, "namespace", "dev", "x", "y")`,
		`topk(1, -(up))`:                                  `topk(1, -(up{namespace="dev"}))`,

		`up{namespace="prod"}`:                                        other,
		`up{namespace=~"prod"}`:                                       other,
		`sum(up) + down{namespace="prod"}`:                            other,
		`istio_requests_total{destination_workload_namespace="prod"}`: other,
		`sum(`:              "it is no PromQL: 1:5: parse error: unclosed left parenthesis",
		`info(up)`:          `it is no PromQL: 1:1: parse error: function "info" is not enabled`,
		`keep_last(up[1m])`: `it is no PromQL: 1:1: parse error: unknown function with name "keep_last"`,
	} {
		got, err := ownOnly(query, "dev")
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.HasPrefix(got, want)) {
			t.Errorf("%s\n got %s\nwant %s", query, got, want)
		}
	}
}

// TestAnywhere: who may look anywhere is asked for no PromQL that Prometheus alone knows.
func TestAnywhere(t *testing.T) {
	const query = `keep_last_value(up{namespace="prod"})`
	c, err := Custom("m", query, Vars{Namespace: "dev", Anywhere: true}, 0, nil, nil)
	if err != nil || c.Query != query {
		t.Errorf("got %q, %v", c.Query, err)
	}
	if _, err = Custom("m", query, Vars{Namespace: "dev"}, 0, nil, nil); err == nil || !strings.HasPrefix(err.Error(), `the query of metric "m": it is no PromQL`) {
		t.Errorf("got %v", err)
	}
}

// FuzzOwnOnly: what comes out can be parsed, and each selector in it is of the namespace by equality.
func FuzzOwnOnly(f *testing.F) {
	for _, query := range []string{
		"up", `a{namespace=~"x|dev"} or b @ end()`, "rate(x[5m:]) / on(a) y offset -1m", `{"a.b", x="y"}`, `count_values("namespace", a)`,
		`sum without(namespace)(a{namespace!=""}) unless b`, `histogram_quantile(0.9, x) > bool scalar(y)`, `a{namespace="prod"}`,
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got, err := ownOnly(query, "dev")
		if err != nil {
			return
		}
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(got)
		if err != nil {
			t.Fatalf("%q becomes %q: %v", query, got, err)
		}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if v, ok := n.(*parser.VectorSelector); ok && !slices.ContainsFunc(v.LabelMatchers, func(m *labels.Matcher) bool {
				return slices.Contains(namespaceLabels, m.Name) && m.Value == "dev" && (m.Type == labels.MatchEqual || m.Type == labels.MatchRegexp)
			}) {
				t.Errorf("%q becomes %q, of which %s is not of the namespace", query, got, v)
			}
			return nil
		})
	})
}
