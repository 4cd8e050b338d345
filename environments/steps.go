package environments

import "time"

// Steps are the canary's weights in percent, in order and strictly rising: StepWeights, or every multiple of
// StepWeight, clamped to MaxWeight, so that a step of 20 with a maximum of 50 gives 20, 40, 50. With StepWeight the
// last is always MaxWeight. Nil when the policy has no steps.
func (p Policy) Steps() []int {
	limit := p.Analysis.MaxWeight
	if limit <= 0 || limit > 100 {
		limit = 100
	}
	var steps []int
	add := func(weight int) {
		weight = min(weight, limit)
		if len(steps) == 0 && weight > 0 || len(steps) > 0 && weight > steps[len(steps)-1] {
			steps = append(steps, weight)
		}
	}
	if len(p.Analysis.StepWeights) > 0 {
		for _, w := range p.Analysis.StepWeights {
			add(w)
		}
		return steps
	}
	if p.Analysis.StepWeight <= 0 {
		return nil
	}
	for w := 0; w < limit; {
		w = min(w+min(p.Analysis.StepWeight, limit), limit)
		add(w)
	}
	return steps
}

// WithInterval returns the policy with another interval between checks. The windows of its metrics are capped to
// it as well, so that a demonstration at one second does not look back over a minute of the previous release.
func (p Policy) WithInterval(interval time.Duration) Policy {
	p.Analysis.Interval = interval
	metrics := make([]Metric, len(p.Analysis.Metrics))
	for i, m := range p.Analysis.Metrics {
		m.Interval = min(m.Interval, interval)
		metrics[i] = m
	}
	p.Analysis.Metrics = metrics
	return p
}
