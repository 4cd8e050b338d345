package analysis

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// leastRequests is the number of requests in the window below which a check says nothing. The counters are
// extrapolated, so a lone request may count as a little more or less than one.
const leastRequests = 1

// tolerance is the relative distance from a limit that still counts as equal to it: quotients of rates are
// rounded, and 99 of 100 requests must pass a limit of 99%.
const tolerance = 1e-9

// Evaluate judges a round of checks by the samples that answer them, in the same order. A check without a sample
// is inconclusive; samples without a check are ignored. Any Fail makes the verdict Fail, else any Inconclusive
// makes it Inconclusive, else it is Pass, as it is with no checks at all. Values equal to a limit pass.
func Evaluate(checks []Check, samples []Sample, at time.Time) Verdict {
	var results []Result
	for i, c := range checks {
		r := missing(c)
		if i < len(samples) {
			r = judge(c, samples[i])
		}
		results = append(results, r)
	}
	return Sum(results, at)
}

// Sum is the verdict of results, whoever has them.
func Sum(results []Result, at time.Time) Verdict {
	v := Verdict{Outcome: Pass, Reason: "without a check", At: at}
	if len(results) == 0 {
		return v
	}
	v.Results = results
	for _, r := range results {
		v.Outcome = worse(v.Outcome, r.Outcome)
		v.Decisive = v.Decisive || r.Decisive
	}
	v.Reason = reasons(v.Results, v.Outcome)
	return v
}

// missing is the result of a check that nobody answered.
func missing(c Check) Result {
	return inconclusive(c, "no answer")
}

// judge compares one sample with the limits of its check.
func judge(c Check, s Sample) Result {
	if why := ignorance(c, s); why != "" {
		return inconclusive(c, why)
	}
	r := Result{Check: c.Name, Outcome: Pass}
	if !math.IsInf(s.Value, 0) {
		value := s.Value
		r.Value = &value
	}
	switch {
	case c.Min != nil && below(s.Value, *c.Min):
		r.Outcome = Fail
		r.Reason = c.compare(s.Value, "<", *c.Min)
	case c.Max != nil && below(*c.Max, s.Value):
		r.Outcome = Fail
		r.Reason = c.compare(s.Value, ">", *c.Max)
	default:
		r.Reason = c.within(s.Value)
	}
	r.Decisive = r.Outcome == Fail && beyondDoubt(c, s)
	return r
}

// ignorance says why a sample tells nothing about its check; empty: it tells something.
func ignorance(c Check, s Sample) string {
	switch {
	case s.Err != nil:
		return "no answer: " + Line(s.Err.Error())
	case c.Traffic != "" && (math.IsNaN(s.Requests) || math.IsInf(s.Requests, 0)):
		return "the number of requests is not known" + c.window()
	case c.Traffic != "" && s.Requests <= 0:
		return "no requests" + c.window()
	case c.Traffic != "" && s.Requests < leastRequests:
		return "less than one request" + c.window()
	case !s.Present || math.IsNaN(s.Value):
		return "no data" + c.window()
	case len(s.Warnings) > 0:
		return "the answer may not be whole: " + Line(s.Warnings[0])
	case c.Min != nil && math.IsNaN(*c.Min), c.Max != nil && math.IsNaN(*c.Max):
		return "its limit is not a number"
	}
	return ""
}

// beyondDoubt reports whether a failed sample is so far out that one failure is enough.
func beyondDoubt(c Check, s Sample) bool {
	if c.DecisiveRequests > 0 && (c.Traffic == "" || s.Requests < c.DecisiveRequests) {
		return false
	}
	return c.DecisiveBelow != nil && below(s.Value, *c.DecisiveBelow) ||
		c.DecisiveAbove != nil && below(*c.DecisiveAbove, s.Value)
}

// below reports whether a is less than b by more than rounding explains.
func below(a, b float64) bool {
	return a < b && !(math.Abs(a-b) <= tolerance*max(math.Abs(a), math.Abs(b)) && !math.IsInf(a-b, 0))
}

func inconclusive(c Check, why string) Result {
	return Result{Check: c.Name, Outcome: Inconclusive, Reason: c.label() + ": " + why}
}

func worse(a, b Outcome) Outcome {
	switch {
	case a == Fail || b == Fail:
		return Fail
	case a == Inconclusive || b == Inconclusive:
		return Inconclusive
	default:
		return Pass
	}
}

// reasons joins the reasons of the results that have the given outcome.
func reasons(results []Result, o Outcome) string {
	var all []string
	for _, r := range results {
		if r.Outcome == o {
			all = append(all, r.Reason)
		}
	}
	return strings.Join(all, "; ")
}

func (c Check) label() string {
	if c.Label != "" {
		return c.Label
	}
	return c.Name
}

func (c Check) window() string {
	if c.Window <= 0 {
		return ""
	}
	return " in " + Interval(c.Window)
}

// compare says "success rate 69.17% < 99%".
func (c Check) compare(value float64, op string, limit float64) string {
	return fmt.Sprintf("%s %s %s %s", c.label(), c.figure(value, &limit), op, c.limit(limit))
}

// within says how a value that passed stands to its limits.
func (c Check) within(value float64) string {
	switch {
	case c.Min != nil && c.Max != nil:
		return fmt.Sprintf("%s %s within %s to %s", c.label(), c.figure(value, nil), c.limit(*c.Min), c.limit(*c.Max))
	case c.Min != nil:
		return fmt.Sprintf("%s %s >= %s", c.label(), c.figure(value, nil), c.limit(*c.Min))
	case c.Max != nil:
		return fmt.Sprintf("%s %s <= %s", c.label(), c.figure(value, nil), c.limit(*c.Max))
	default:
		return fmt.Sprintf("%s %s", c.label(), c.figure(value, nil))
	}
}
