package analysis

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// The built-in metrics, in Flagger's words and in those of its early releases.
const (
	// SuccessRate is the share of requests that did not end with a 5xx status, in percent.
	SuccessRate = "request-success-rate"
	// Duration is the 99th percentile of the request duration, in milliseconds.
	Duration = "request-duration"

	oldSuccessRate = "istio_requests_total"
	oldDuration    = "istio_request_duration_seconds_bucket"
)

// DefaultWindow is the window of a metric that says none.
const DefaultWindow = 60 * time.Second

// Metric is one metric of a policy.
type Metric struct {
	// Name of a built-in metric, or any name where Query is set.
	Name string
	// Provider of the traffic, whose telemetry is asked for what is built in; empty: istio.
	Provider string
	// Query is PromQL with variables, see [Expand]; empty: built in. It wins over a built-in metric of the name.
	Query string
	// Window of the query; 0: [DefaultWindow].
	Window time.Duration
	// Min and Max still pass; nil: unlimited.
	Min, Max *float64
}

// Vars fill the variables of a query.
type Vars struct {
	// Namespace of the app.
	Namespace string
	// Target is the workload under judgement, such as croc-hunter-java-canary.
	Target string
	// Service that users address.
	Service string
	// Name of the app.
	Name string
	// Anywhere: a query of the policy's own may ask for other namespaces, too.
	Anywhere bool
}

// NewCheck makes a metric ready to be asked. The error names the metric and says what is wrong with it: no such
// built-in metric and no query, an unknown variable, or a value that its place in the query cannot hold.
func NewCheck(m Metric, v Vars) (Check, error) {
	if m.Query != "" {
		return Custom(m.Name, m.Query, v, m.Window, m.Min, m.Max)
	}
	return BuiltIn(m.Provider, m.Name, v, m.Window, m.Min, m.Max)
}

// Custom is a check with a query of the policy's own, which sees the app's namespace alone unless it may look Anywhere. There is
// no telling how much traffic is behind it, so it has no Traffic, and no failure of it is decisive.
func Custom(name, query string, v Vars, window time.Duration, lower, upper *float64) (Check, error) {
	window = orDefault(window)
	expanded, err := Expand(query, v, window)
	if err != nil {
		return Check{}, fmt.Errorf("expanding the query of metric %q: %w", name, err)
	}
	if !v.Anywhere {
		if expanded, err = ownOnly(expanded, v.Namespace); err != nil {
			return Check{}, fmt.Errorf("the query of metric %q: %w", name, err)
		}
	}
	return Check{Name: name, Query: expanded, Min: lower, Max: upper, Window: window}, nil
}

// BuiltIn is the check of a built-in metric: what the provider of the traffic counts and measures of the target workload.
// A success rate below 50 %, with at least 10 requests in the window, is decisive where the limit asks for more.
func BuiltIn(provider, name string, v Vars, window time.Duration, lower, upper *float64) (Check, error) {
	measured, ok := telemetry[cmp.Or(provider, "istio")]
	if !ok {
		return Check{}, fmt.Errorf("metric %q has no query, and nobody knows what provider %q measures", name, provider)
	}
	b, ok := measured.metrics[name]
	switch {
	case len(measured.metrics) == 0:
		return Check{}, fmt.Errorf("metric %q has no query, and provider %s measures nothing by itself; expected a query", name, provider)
	case !ok:
		return Check{}, fmt.Errorf("metric %q is not built in and has no query; built in are %s and %s",
			name, SuccessRate, Duration)
	}
	window = orDefault(window)
	filled := strings.NewReplacer("{{ interval }}", Interval(window))
	c := Check{
		Name: name, Label: b.label, Unit: b.unit, Min: lower, Max: upper, Window: window,
		Query: filled.Replace(b.query), Traffic: filled.Replace(measured.traffic),
		Series: Series{
			NamespaceLabel: measured.namespace, Namespace: v.Namespace,
			WorkloadLabel: measured.workload, Workload: v.Target,
		},
	}
	if b.decisiveBelow > 0 && lower != nil && *lower > b.decisiveBelow {
		limit := b.decisiveBelow
		c.DecisiveBelow = &limit
		c.DecisiveRequests = decisiveRequests
	}
	return c, nil
}

func orDefault(window time.Duration) time.Duration {
	if window <= 0 {
		return DefaultWindow
	}
	return window
}

// decisiveRequests is the number of requests in the window that makes a broken release sure to be broken.
const decisiveRequests = 10

// The series of the workloads under judgement, seen from their own Istio sidecars, grouped by workload. Flagger asks for one
// workload a query, by an anchored regular expression, which for a name is equality; the values are the same.
const (
	istioNamespace = "destination_workload_namespace"
	istioWorkload  = "destination_workload"

	ofThem = `reporter="destination",` + istioNamespace + `=~"{{ namespaces }}",` + istioWorkload + `=~"{{ workloads }}"`
	each   = istioNamespace + `, ` + istioWorkload

	trafficQuery = `sum by (` + each + `) (increase(istio_requests_total{` + ofThem + `}[{{ interval }}]))`
	allRate      = `sum by (` + each + `) (rate(istio_requests_total{` + ofThem + `}[{{ interval }}]))`
	goodRate     = `sum by (` + each + `) (rate(istio_requests_total{` + ofThem + `,response_code!~"5.*"}[{{ interval }}]))`
	// Without "or" a release that answers nothing but errors would have no success rate at all.
	successRateQuery = `(` + goodRate + ` or 0 * ` + allRate + `) / ` + allRate + ` * 100`
	durationQuery    = `histogram_quantile(0.99, sum by (` + each + `, le) (rate(istio_request_duration_milliseconds_bucket{` + ofThem +
		`}[{{ interval }}])))`
)

type builtInMetric struct {
	label, unit, query string
	// decisiveBelow is the value below which one failure is enough, where the limit is above it; 0: none.
	decisiveBelow float64
}

// measurements are what a provider measures: the built-in metrics, and the number of requests behind them, each grouped by
// two labels.
type measurements struct {
	metrics             map[string]builtInMetric
	traffic             string
	namespace, workload string
}

// telemetry is what there is of each provider. Plain Kubernetes measures no requests.
var telemetry = map[string]measurements{
	"istio":      {istioMetrics, trafficQuery, istioNamespace, istioWorkload},
	"kubernetes": {},
}

var istioMetrics = func() map[string]builtInMetric {
	rate := builtInMetric{label: "success rate", unit: "%", query: successRateQuery, decisiveBelow: 50}
	duration := builtInMetric{label: "request duration P99", unit: "ms", query: durationQuery}
	return map[string]builtInMetric{
		SuccessRate: rate, oldSuccessRate: rate,
		Duration: duration, oldDuration: duration,
	}
}()
