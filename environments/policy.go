package environments

import "time"

// Strategy says how a release replaces the one that serves.
type Strategy string

const (
	// StrategyRolling applies the release and waits until it is ready; no canary, no analysis.
	StrategyRolling Strategy = "Rolling"
	// StrategyCanary moves traffic to the release step by step while checks pass.
	StrategyCanary Strategy = "Canary"
)

// Providers are what can share traffic between a canary and what serves. How they do it is package project's to know, and what
// they measure package analysis's.
var Providers = []string{"istio", "kubernetes"}

// Policy is the delivery policy of one app, in Flagger's words with every default filled in.
// The zero Policy is a plain rolling update with no deadline.
type Policy struct {
	// Source names the places that say something, the nearest to the environment's owner first, as plan shows them:
	// "apps.<app>.rollout in sluice.yaml, over canary: in the values"; "default" where nobody does.
	Source   string   `json:"source"`
	Strategy Strategy `json:"strategy"`
	// Provider shares the traffic, one of Providers; empty: istio.
	Provider string `json:"provider,omitempty"`
	// Target is the workload under judgement; empty: the release's only workload.
	Target Target `json:"target,omitzero"`
	// SkipAnalysis promotes a ready canary without judging it.
	SkipAnalysis bool `json:"skipAnalysis,omitempty"`
	// Suspend stops the rollout where it stands.
	Suspend bool `json:"suspend,omitempty"`
	// ProgressDeadline is how long a track may take to become ready; default 600 s, 0 means the default.
	ProgressDeadline time.Duration `json:"progressDeadline"`
	// RollbackWindow is how long after a release was stable sluice rollback goes back to it at once; 0 means the default, 24 h.
	RollbackWindow time.Duration `json:"rollbackWindow,omitempty"`
	Service        Service       `json:"service,omitzero"`
	Analysis       Analysis      `json:"analysis,omitzero"`
	// Ignored are the paths of fields that were understood and have no effect here, such as analysis.alerts.
	Ignored []string `json:"ignored,omitempty"`
}

// Target names a workload.
type Target struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Name       string `json:"name,omitempty"`
}

// Analysis is how a canary is judged and how its weight rises.
type Analysis struct {
	// Interval between checks, and the least time at each step; default 60 s.
	Interval time.Duration `json:"interval"`
	// Threshold is the number of failed checks, over the whole rollout, that rolls back; default 1.
	Threshold int `json:"threshold"`
	// InconclusiveLimit is the number of inconclusive checks in a row after which the rollout pauses
	// and says so; default 10. Inconclusive checks never count as failed.
	InconclusiveLimit int `json:"inconclusiveLimit"`
	// MaxWeight in percent; default 100.
	MaxWeight int `json:"maxWeight"`
	// StepWeight in percent; used when StepWeights is empty.
	StepWeight  int   `json:"stepWeight,omitempty"`
	StepWeights []int `json:"stepWeights,omitempty"`
	// StepWeightPromotion in percent: traffic goes back to the promoted stable track in such steps,
	// one an interval; 0: at once.
	StepWeightPromotion int `json:"stepWeightPromotion,omitempty"`
	// Metrics are the checks. A canary whose policy says none has its provider's built-in ones; "metrics: []" says that
	// nothing is checked.
	Metrics []Metric `json:"metrics,omitempty"`
	// Webhooks are asked in the course of a rollout. A Policy is told to people, and these hold what is not theirs to know.
	Webhooks []Webhook `json:"-"`
	// Approval is what a person has to approve: ApproveBegin, ApprovePromote.
	Approval []Approval `json:"approval,omitempty"`
	// FourEyes: who asked for a release, by the commit in git, can't approve it.
	FourEyes bool `json:"fourEyes,omitempty"`
}

// Approval is a moment of a rollout that a person has to approve.
type Approval string

// The moments that can be approved.
const (
	ApproveBegin   Approval = "begin"   // before an install or a rollout begins
	ApprovePromote Approval = "promote" // before the canary's release takes the place of the stable one
)

// Metric is one check as the policy says it.
type Metric struct {
	// Name: request-success-rate (or istio_requests_total), request-duration (or
	// istio_request_duration_seconds_bucket, whose limit is in milliseconds all the same), or any name with a Query.
	// A decoded policy always has the first spelling.
	Name string `json:"name"`
	// Interval is the window of the query; default 60 s.
	Interval time.Duration `json:"interval"`
	// Min and Max are the limits that still pass; nil: unlimited.
	Min *float64 `json:"min,omitempty"`
	Max *float64 `json:"max,omitempty"`
	// Query is PromQL, the policy's own or a MetricTemplate's, in which {{ namespace }}, {{ target }}, {{ service }}, {{ name }} and {{ interval }} are replaced.
	Query string `json:"query,omitempty"`
}

// Service is the routing that the policy asks for, in Flagger's fields. The fields whose shape is Istio's
// own are kept as the YAML said them and put into the generated objects untouched.
type Service struct {
	// Name of the app's Service; empty: the release's Service that selects the target, or the target's name.
	Name          string            `json:"name,omitempty"`
	Port          int               `json:"port,omitempty"`
	PortName      string            `json:"portName,omitempty"`
	TargetPort    string            `json:"targetPort,omitempty"`
	AppProtocol   string            `json:"appProtocol,omitempty"`
	PortDiscovery bool              `json:"portDiscovery,omitempty"`
	Gateways      []string          `json:"gateways,omitempty"`
	Hosts         []string          `json:"hosts,omitempty"`
	Delegation    bool              `json:"delegation,omitempty"`
	Timeout       string            `json:"timeout,omitempty"`
	Retries       map[string]any    `json:"retries,omitempty"`
	Headers       map[string]any    `json:"headers,omitempty"`
	Match         []any             `json:"match,omitempty"`
	Rewrite       map[string]any    `json:"rewrite,omitempty"`
	CorsPolicy    map[string]any    `json:"corsPolicy,omitempty"`
	TrafficPolicy map[string]any    `json:"trafficPolicy,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}
