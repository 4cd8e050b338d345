package traffic

import (
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// bounds are the upper bounds of Istio's latency buckets, in milliseconds.
var bounds = []float64{
	.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000,
}

// labelNames are those of Istio's standard metrics that queries use.
var labelNames = []string{
	"reporter", "source_workload", "source_workload_namespace", "source_app",
	"destination_workload", "destination_workload_namespace", "destination_app", "destination_version",
	"destination_service", "destination_service_name", "destination_service_namespace",
	"request_protocol", "response_code", "response_flags", "connection_security_policy",
}

var (
	requestsDesc = prometheus.NewDesc("istio_requests_total",
		"Requests, as the sidecars of the traffic model counted them.", labelNames, nil)
	durationDesc = prometheus.NewDesc("istio_request_duration_milliseconds",
		"Latency of requests, as the sidecars of the traffic model measured it.", labelNames, nil)
)

// seriesKey is one series of each metric. Series are per group and not, as in
// Istio, per pod: sums over them are the same.
type seriesKey struct {
	reporter string
	group    group
	code     int
}

// series is cumulative.
type series struct {
	count   uint64
	sum     float64
	buckets []uint64 // by bound, not yet cumulated over bounds
}

// counters are all series. Not safe for concurrent use.
type counters map[seriesKey]*series

// add counts a batch where sidecars do: at the server and at its client. Nobody
// but the client counts a request that reaches no server.
func (c counters) add(b batch) {
	if b.share.group.workload == "" {
		c.observe(seriesKey{"source", b.share.group, 503}, b.total)
		return
	}
	for _, reporter := range []string{"destination", "source"} {
		c.observe(seriesKey{reporter, b.share.group, 500}, b.failed)
		c.observe(seriesKey{reporter, b.share.group, 200}, b.total-b.failed)
	}
}

func (c counters) observe(key seriesKey, n int) {
	if n == 0 {
		return
	}
	s := c[key]
	if s == nil {
		s = &series{buckets: make([]uint64, len(bounds))}
		c[key] = s
	}
	latency := key.group.behaviour.LatencyMillis
	s.count += uint64(n)
	s.sum += float64(n) * latency
	if i, _ := slices.BinarySearch(bounds, latency); i < len(bounds) {
		s.buckets[i] += uint64(n)
	}
}

// forget drops the series of workloads that have no pods any more: with the
// pods their sidecars went, and a new one starts at zero.
func (c counters) forget(exists func(namespace, workload string) bool) {
	maps.DeleteFunc(c, func(key seriesKey, _ *series) bool {
		return key.group.workload != "" && !exists(key.group.namespace, key.group.workload)
	})
}

// collect writes every series.
func (c counters) collect(metrics chan<- prometheus.Metric) {
	// Groups that differ only in behaviour report as the same sidecar.
	merged := map[string]*series{}
	values := map[string][]string{}
	for key, s := range c {
		labels := key.labels()
		id := fmt.Sprint(labels)
		if merged[id] == nil {
			merged[id], values[id] = &series{buckets: make([]uint64, len(bounds))}, labels
		}
		m := merged[id]
		m.count += s.count
		m.sum += s.sum
		for i := range s.buckets {
			m.buckets[i] += s.buckets[i]
		}
	}
	for id, s := range merged {
		metrics <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(s.count), values[id]...)
		metrics <- prometheus.MustNewConstHistogram(durationDesc, s.count, s.sum, s.cumulated(), values[id]...)
	}
}

func (s *series) cumulated() map[float64]uint64 {
	buckets, sum := make(map[float64]uint64, len(bounds)), uint64(0)
	for i, n := range s.buckets {
		sum += n
		buckets[bounds[i]] = sum
	}
	return buckets
}

// labels are the values of labelNames.
func (k seriesKey) labels() []string {
	workload, namespace, flags, security := k.group.workload, k.group.namespace, "-", "none"
	if workload == "" {
		workload, namespace, flags = "unknown", "unknown", "UH" // no healthy upstream
	}
	if k.reporter == "source" {
		security = "unknown"
	}
	version := k.group.version
	if version == "" {
		version = "unknown"
	}
	return []string{
		k.reporter, "bed-users", "bed", "bed-users",
		workload, namespace, workload, version,
		k.group.service + "." + k.group.serviceNS + ".svc.cluster.local", k.group.service, k.group.serviceNS,
		"http", fmt.Sprint(k.code), flags, security,
	}
}
