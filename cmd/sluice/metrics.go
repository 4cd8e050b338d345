package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// eventMetrics turns the event stream into metrics; it knows nothing else.
type eventMetrics struct {
	events *prometheus.CounterVec
	weight *prometheus.GaugeVec
	last   *prometheus.GaugeVec
}

func newEventMetrics(r *prometheus.Registry) *eventMetrics {
	labels := []string{"environment", "app"}
	m := &eventMetrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sluice_events_total", Help: "Events of rollouts, by type.",
		}, append(labels, "type")),
		weight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_canary_weight", Help: "Share of the traffic that the canary gets, in percent.",
		}, labels),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sluice_last_event_timestamp_seconds", Help: "When the app's newest event happened.",
		}, labels),
	}
	r.MustRegister(m.events, m.weight, m.last, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *eventMetrics) observe(environment, app string, e rollout.Event) {
	m.events.WithLabelValues(environment, app, string(e.Type)).Inc()
	m.weight.WithLabelValues(environment, app).Set(float64(e.Weight))
	m.last.WithLabelValues(environment, app).Set(float64(e.Time.UnixNano()) / 1e9)
}
