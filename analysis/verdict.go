package analysis

import "time"

// Outcome of a check and of a verdict.
type Outcome string

const (
	// Pass: every value is within its limits.
	Pass Outcome = "Pass"
	// Fail: at least one value is outside its limits.
	Fail Outcome = "Fail"
	// Inconclusive: nothing failed, but at least one check has no data or no answer.
	Inconclusive Outcome = "Inconclusive"
)

// Check is one metric test, ready to be asked.
type Check struct {
	// Name as the policy says it.
	Name string
	// Label names the value in reasons ("success rate"); default Name.
	Label string
	// Query is PromQL with everything filled in. It answers with one number or, where Series is set, with a series for
	// each of many workloads, which are filled in by Among.
	Query string
	// Traffic is PromQL for the number of requests in the window; empty: not asked. When it answers zero or
	// nothing, the check is inconclusive, whatever Query says.
	Traffic string
	// Series of the answers to Query and Traffic that counts; zero: there is but one.
	Series Series
	// Unit of the value for reasons: "%", "ms" or "".
	Unit string
	// Min and Max still pass; nil: unlimited.
	Min, Max *float64
	// DecisiveBelow and DecisiveAbove are limits so far out that one failure is enough to roll back; nil: none.
	DecisiveBelow, DecisiveAbove *float64
	// DecisiveRequests is the number of requests in the window without which no failure is decisive; 0: any.
	// It needs Traffic.
	DecisiveRequests float64
	// Window of the queries, for reasons; 0: not said.
	Window time.Duration
}

// Sample is what a metrics server answered for one check.
type Sample struct {
	// Value is meaningful when Present. NaN counts as not present.
	Value   float64
	Present bool
	// Requests seen in the window; -1 when not asked. It is ignored where the check has no Traffic.
	Requests float64
	// Err is why there is no answer (server down, time-out, query refused); nil otherwise.
	Err error
	// Warnings of the metrics server that its answer may be wrong, such as that a part of its store is away. With any
	// the check is inconclusive.
	Warnings []string
}

// Result is one check with its numbers.
type Result struct {
	Check   string  `json:"check"`
	Outcome Outcome `json:"outcome"`
	// Value is nil where there was none, and where it is infinite, which JSON cannot hold; Reason names it then.
	Value *float64 `json:"value,omitempty"`
	// Reason in numbers: "success rate 69.17% < 99%".
	Reason   string `json:"reason"`
	Decisive bool   `json:"decisive,omitempty"`
}

// Verdict is the sum of the results of one round of checks.
type Verdict struct {
	Outcome Outcome `json:"outcome"`
	// Decisive: one failure was beyond doubt.
	Decisive bool `json:"decisive,omitempty"`
	// Reason joins the reasons of the results that decided the outcome.
	Reason  string   `json:"reason"`
	Results []Result `json:"results,omitempty"`
	// At is when the round was asked.
	At time.Time `json:"at"`
}
