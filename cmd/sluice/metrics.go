package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// eventMetrics turns the event stream into metrics; it knows nothing else.
type eventMetrics struct {
	events *prometheus.CounterVec
}

func newEventMetrics(r *prometheus.Registry) *eventMetrics {
	m := &eventMetrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_events_total", Help: "Events of rollouts, by type.",
	}, []string{"environment", "app", "type"})}
	r.MustRegister(m.events, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *eventMetrics) observe(environment, app string, e rollout.Event) {
	m.events.WithLabelValues(environment, app, string(e.Type)).Inc()
}

// healthMetrics tell how each environment stands when they are asked for. What the agent's states say does not depend on which
// events this process has seen: after a restart and on a new leader it is right at once, and of apps that are gone nothing stays.
type healthMetrics struct{ environments []*environment }

var (
	appsDesc   = prometheus.NewDesc("sluice_apps", "Apps that are delivered, or waited for.", []string{"environment"}, nil)
	faultsDesc = prometheus.NewDesc("sluice_errors",
		"Apps that can't be delivered as git says, and one more where the environment can't be read.", []string{"environment"}, nil)
	untoldDesc = prometheus.NewDesc("sluice_untold_event_timestamp_seconds",
		"When the oldest event happened that git does not hold; absent where it holds all.", []string{"environment"}, nil)
	weightDesc = prometheus.NewDesc("sluice_canary_weight",
		"Share of the traffic that the canary gets, in percent; 0 at rest.", []string{"environment", "app"}, nil)
	decidedDesc = prometheus.NewDesc("sluice_last_decision_timestamp_seconds",
		"When the app's phase or weight was decided, or its checks last counted.", []string{"environment", "app"}, nil)
)

var (
	fetchDesc = prometheus.NewDesc("sluice_last_fetch_timestamp_seconds",
		"When the environment repository was last read; absent where it never was.", []string{"environment"}, nil)
	pushFailuresDesc = prometheus.NewDesc("sluice_git_write_failures_total", "Tries to write to git that failed.", []string{"environment"}, nil)
	renderDesc       = prometheus.NewDesc("sluice_render_seconds",
		"Releases that were rendered, found or given up, and the time that it took.", []string{"environment"}, nil)
	deathsDesc = prometheus.NewDesc("sluice_render_worker_deaths_total",
		"Charts that brought the process which renders them to its end.", []string{"environment"}, nil)
)

// Describe implements prometheus.Collector.
func (*healthMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{appsDesc, faultsDesc, untoldDesc, weightDesc, decidedDesc, fetchDesc, pushFailuresDesc, renderDesc, deathsDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector. A replica that waits for the lease tells nothing.
func (m *healthMetrics) Collect(out chan<- prometheus.Metric) {
	for _, e := range m.environments {
		if e.standby.Load() {
			continue
		}
		h := e.agent.Load().Health()
		tell := func(d *prometheus.Desc, v float64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, e.Name)
		}
		tell(appsDesc, float64(h.Apps))
		tell(faultsDesc, float64(h.Faults))
		if !h.Untold.IsZero() {
			tell(untoldDesc, float64(h.Untold.UnixNano())/1e9)
		}
		for _, c := range e.agent.Load().Courses() {
			out <- prometheus.MustNewConstMetric(weightDesc, prometheus.GaugeValue, float64(c.Weight), e.Name, c.App)
			if !c.Decided.IsZero() {
				out <- prometheus.MustNewConstMetric(decidedDesc, prometheus.GaugeValue, float64(c.Decided.UnixNano())/1e9, e.Name, c.App)
			}
		}
		c := e.agent.Load().Pulse().Counts()
		if !c.Fetched.IsZero() {
			tell(fetchDesc, float64(c.Fetched.UnixNano())/1e9)
		}
		out <- prometheus.MustNewConstMetric(pushFailuresDesc, prometheus.CounterValue, float64(c.PushFailures), e.Name)
		out <- prometheus.MustNewConstSummary(renderDesc, uint64(c.Renders), c.RenderTime.Seconds(), nil, e.Name)
		out <- prometheus.MustNewConstMetric(deathsDesc, prometheus.CounterValue, float64(e.charts.Renderer.Deaths()), e.Name)
	}
}
