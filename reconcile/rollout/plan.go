package rollout

import (
	"time"

	"github.com/sluice-cd/sluice/environments"
)

// Defaults for a plan that does not say.
const (
	defaultInterval          = time.Minute
	defaultDeadline          = 10 * time.Minute
	defaultInconclusiveLimit = 10
	maxDrainDelay            = 30 * time.Second
	defaultRollbackWindow    = 24 * time.Hour
)

// Plan is how a release is delivered: what its policy comes to. Next and the projection follow it, and it is saved with the
// State, so that git may be away. The zero Plan is a rolling update with the defaults.
type Plan struct {
	Strategy environments.Strategy `json:"strategy,omitempty"`
	// Provider shares the traffic; empty: istio.
	Provider string `json:"provider,omitempty"`
	// Target is the workload under judgement; zero: the release's only workload.
	Target environments.Target `json:"target,omitzero"`
	// Service and the routing to it, where the chart brings none.
	Service environments.Service `json:"service,omitzero"`
	// Steps of the canary, their weights strictly rising; see steps.
	Steps []Step `json:"steps,omitempty"`
	// StepBack is the percentage by which a promotion gives traffic back to the stable track, an interval each; 0: at once.
	StepBack int `json:"stepBack,omitempty"`
	// Interval between checks, and the least time at each step; default 60 s.
	Interval time.Duration `json:"interval,omitempty"`
	// Deadline by which a track has to be ready; default 10 min.
	Deadline time.Duration `json:"deadline,omitempty"`
	// RollbackWindow is how long after a release was stable a person can go back to it at once; default 24 h.
	RollbackWindow time.Duration `json:"rollbackWindow,omitempty"`
	// Threshold is the number of failed checks that rolls back; default 1. InconclusiveLimit is the number of inconclusive
	// checks in a row that pauses; default 10.
	Threshold         int `json:"threshold,omitempty"`
	InconclusiveLimit int `json:"inconclusiveLimit,omitempty"`
	// Metrics are the checks.
	Metrics []environments.Metric `json:"metrics,omitempty"`
	// Webhooks are asked in the course of a rollout.
	Webhooks []environments.Webhook `json:"webhooks,omitempty"`
	// SkipAnalysis promotes a ready canary without judging it. Suspend keeps it from getting on.
	SkipAnalysis bool `json:"skipAnalysis,omitempty"`
	// Approval are the moments that a person has to approve; FourEyes: another one than who asked for the release.
	Approval []Moment `json:"approval,omitempty"`
	FourEyes bool     `json:"fourEyes,omitempty"`
	Suspend  bool     `json:"suspend,omitempty"`
}

// Step is one stage of a canary. What else than traffic a stage may ask for belongs here.
type Step struct {
	Exposure
}

// Exposure is what the canary gets of the users' requests.
type Exposure struct {
	// Weight is its share in percent.
	Weight int `json:"weight,omitempty"`
}

// NewPlan is what a policy comes to.
func NewPlan(p environments.Policy) Plan {
	plan := Plan{
		Strategy: p.Strategy, Provider: p.Provider, Target: p.Target, Service: p.Service, StepBack: p.Analysis.StepWeightPromotion,
		Interval: p.Analysis.Interval, Deadline: p.ProgressDeadline, RollbackWindow: p.RollbackWindow,
		Threshold: p.Analysis.Threshold, InconclusiveLimit: p.Analysis.InconclusiveLimit, Metrics: p.Analysis.Metrics, Webhooks: p.Analysis.Webhooks,
		SkipAnalysis: p.SkipAnalysis, Suspend: p.Suspend, FourEyes: p.Analysis.FourEyes,
	}
	for _, a := range p.Analysis.Approval {
		plan.Approval = append(plan.Approval, approvals[a])
	}
	weights := p.Steps()
	if len(weights) == 0 && p.Strategy == environments.StrategyCanary {
		weights = []int{positive(min(p.Analysis.MaxWeight, 100), 100)}
	}
	for _, w := range weights {
		plan.Steps = append(plan.Steps, Step{Exposure{Weight: w}})
	}
	return plan
}

var approvals = map[environments.Approval]Moment{environments.ApproveBegin: AtBegin, environments.ApprovePromote: AtPromotion}

// Hooks are the webhooks of a type.
func (p Plan) Hooks(of environments.HookType) (hooks []environments.Webhook) {
	for _, w := range p.Webhooks {
		if w.Type == of {
			hooks = append(hooks, w)
		}
	}
	return hooks
}

// Tells are the webhooks that are told of an event.
func (p Plan) Tells(e Event) []environments.Webhook {
	told := p.Hooks(environments.OnEvent)
	if e.Type == Promoted || e.Type == RolledBack || e.Type == Aborted {
		told = append(told, p.Hooks(environments.PostRollout)...)
	}
	return told
}

// Canary reports whether the release is judged beside the one that serves.
func (p Plan) Canary() bool { return p.Strategy == environments.StrategyCanary }

// Routed reports whether the policy leads users to the app, by hosts, gateways or a Service, also where nothing is judged: going from
// Canary to Rolling must not take that away.
func (p Plan) Routed() bool {
	return p.Public() || p.Service.Name != "" || p.Service.Port != 0
}

// Public reports whether the policy says hosts or gateways.
func (p Plan) Public() bool { return len(p.Service.Hosts) > 0 || len(p.Service.Gateways) > 0 }

func (p Plan) interval() time.Duration { return positive(p.Interval, defaultInterval) }

func (p Plan) deadline() time.Duration { return positive(p.Deadline, defaultDeadline) }

// drainDelay is how long a canary without traffic is kept for the requests that it still serves.
func (p Plan) drainDelay() time.Duration { return min(p.interval(), maxDrainDelay) }

func (p Plan) rollbackWindow() time.Duration {
	return positive(p.RollbackWindow, defaultRollbackWindow)
}

func (p Plan) threshold() int { return max(p.Threshold, 1) }

func (p Plan) inconclusiveLimit() int { return positive(p.InconclusiveLimit, defaultInconclusiveLimit) }

// steps are never none: all the traffic is the last step of them all.
func (p Plan) steps() []Step {
	if len(p.Steps) == 0 {
		return []Step{{Exposure{Weight: 100}}}
	}
	return p.Steps
}

// Progress is how far a canary is by its plan; zero where none is judged.
type Progress struct {
	// Step of Steps that it has; 0: it has no traffic yet.
	Step, Steps int
	// FailedChecks so far; the Threshold-th rolls back.
	FailedChecks, Threshold int
	// Interval between two looks at the checks.
	Interval time.Duration
}

// Progress is that of the canary under way.
func (s State) Progress() Progress {
	if !s.InFlight() || s.Stable.IsZero() || s.Plan == nil || !s.Plan.Canary() || s.Plan.SkipAnalysis {
		return Progress{}
	}
	p := Progress{FailedChecks: s.FailedChecks, Threshold: s.Plan.threshold(), Interval: s.Plan.interval()}
	for _, step := range s.Plan.steps() {
		p.Steps++
		if step.Weight <= s.Weight {
			p.Step++
		}
	}
	return p
}

func positive[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}
