package main

import (
	"encoding/json"

	"github.com/sluice-cd/sluice/environments"
)

// shownPolicy is a policy as programs read it: durations are numbers of seconds, by names that say so, and left out where they are 0,
// the default. Saved states have their own form.
type shownPolicy environments.Policy

// MarshalJSON implements json.Marshaler.
func (p *shownPolicy) MarshalJSON() ([]byte, error) {
	type policy environments.Policy
	type analysis environments.Analysis
	type metric struct {
		environments.Metric
		// What has the name of an embedded field hides it.
		Interval        *struct{} `json:"interval,omitempty"`
		IntervalSeconds float64   `json:"intervalSeconds,omitempty"`
	}
	var metrics []metric
	for _, m := range p.Analysis.Metrics {
		metrics = append(metrics, metric{Metric: m, IntervalSeconds: m.Interval.Seconds()})
	}
	type judged struct {
		analysis
		Interval        *struct{} `json:"interval,omitempty"`
		IntervalSeconds float64   `json:"intervalSeconds,omitempty"`
		Metrics         []metric  `json:"metrics,omitempty"`
	}
	return json.Marshal(struct {
		policy
		ProgressDeadline        *struct{} `json:"progressDeadline,omitempty"`
		ProgressDeadlineSeconds float64   `json:"progressDeadlineSeconds,omitempty"`
		RollbackWindow          *struct{} `json:"rollbackWindow,omitempty"`
		RollbackWindowSeconds   float64   `json:"rollbackWindowSeconds,omitempty"`
		Analysis                judged    `json:"analysis"`
	}{
		policy: policy(*p), ProgressDeadlineSeconds: p.ProgressDeadline.Seconds(), RollbackWindowSeconds: p.RollbackWindow.Seconds(),
		Analysis: judged{analysis: analysis(p.Analysis), IntervalSeconds: p.Analysis.Interval.Seconds(), Metrics: metrics},
	})
}
