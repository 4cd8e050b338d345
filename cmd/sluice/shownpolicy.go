package main

import (
	"encoding/json"
	"time"

	"github.com/sluice-cd/sluice/environments"
)

// shownPolicy is a policy as programs read it: durations are as people write them in one, such as "1m0s", and left out where they are 0,
// the default. Saved states have their own form.
type shownPolicy environments.Policy

// MarshalJSON implements json.Marshaler.
func (p *shownPolicy) MarshalJSON() ([]byte, error) {
	type policy environments.Policy
	type analysis environments.Analysis
	type metric struct {
		environments.Metric
		Interval string `json:"interval,omitempty"`
	}
	var metrics []metric
	for _, m := range p.Analysis.Metrics {
		metrics = append(metrics, metric{m, asWritten(m.Interval)})
	}
	type judged struct {
		analysis
		Interval string   `json:"interval,omitempty"`
		Metrics  []metric `json:"metrics,omitempty"`
	}
	return json.Marshal(struct {
		policy
		ProgressDeadline string `json:"progressDeadline,omitempty"`
		RollbackWindow   string `json:"rollbackWindow,omitempty"`
		Analysis         judged `json:"analysis"`
	}{policy(*p), asWritten(p.ProgressDeadline), asWritten(p.RollbackWindow), judged{analysis(p.Analysis), asWritten(p.Analysis.Interval), metrics}})
}

func asWritten(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
