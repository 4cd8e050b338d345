package analysis

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func number(f float64) *float64 { return &f }

func success(t testing.TB, limit float64) Check {
	t.Helper()
	c, err := BuiltIn("", SuccessRate, Vars{Namespace: "jx-production", Target: "croc-hunter-java-canary"}, time.Minute, &limit, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func duration(t testing.TB, limit float64) Check {
	t.Helper()
	c, err := BuiltIn("", Duration, Vars{Namespace: "jx-production", Target: "croc-hunter-java-canary"}, 30*time.Second, nil, &limit)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEvaluateOneCheck(t *testing.T) {
	rate, p99 := success(t, 99), duration(t, 500)
	faults := Check{Name: "errors", Max: number(5)}
	value := func(v float64) Sample { return Sample{Value: v, Present: true, Requests: 600} }
	tests := []struct {
		name     string
		check    Check
		sample   Sample
		outcome  Outcome
		decisive bool
		reason   string
	}{
		{"a good rate", rate, value(99.5), Pass, false, "success rate 99.50% >= 99%"},
		{"equal to the least passes", rate, value(99), Pass, false, "success rate 99.00% >= 99%"},
		{"equal but for rounding passes", rate, value(math.Nextafter(99, 0)), Pass, false, "success rate 99.00% >= 99%"},
		{"a bad rate", rate, value(69.166), Fail, false, "success rate 69.17% < 99%"},
		{"the text never equals the limit that was missed", rate, value(98.9999), Fail, false, "success rate 98.9999% < 99%"},
		{"at half it is not decisive", rate, value(50), Fail, false, "success rate 50.00% < 99%"},
		{"below half it is", rate, value(49.9), Fail, true, "success rate 49.90% < 99%"},
		{"but not on a handful of requests", rate, Sample{Value: 0, Present: true, Requests: 9.5}, Fail, false, "success rate 0.00% < 99%"},
		{"ten are enough", rate, Sample{Value: 0, Present: true, Requests: 10}, Fail, true, "success rate 0.00% < 99%"},
		{"a limit below half has no decisive failure", success(t, 50), value(1), Fail, false, "success rate 1.00% < 50%"},

		{"fast enough", p99, value(230.4), Pass, false, "request duration P99 230ms <= 500ms"},
		{"equal to the most passes", p99, value(500), Pass, false, "request duration P99 500ms <= 500ms"},
		{"too slow", p99, value(1515.2), Fail, false, "request duration P99 1515ms > 500ms"},
		{"hardly too slow", p99, value(500.3), Fail, false, "request duration P99 500.3ms > 500ms"},
		{"infinite is a value", p99, value(math.Inf(1)), Fail, false, "request duration P99 infinite > 500ms"},
		{"infinite is more than any least", rate, value(math.Inf(1)), Pass, false, "success rate infinite >= 99%"},

		{"too many", faults, value(5.1), Fail, false, "errors 5.10 > 5"},
		{"no traffic asked, none needed", faults, Sample{Value: 4, Present: true, Requests: -1}, Pass, false, "errors 4.00 <= 5"},
		{"small numbers stay visible", Check{Name: "ratio", Max: number(0.0001)}, value(0.00012), Fail, false, "ratio 0.00012 > 0.0001"},
		{"large numbers stay short", Check{Name: "bytes", Max: number(1e6)}, value(1e300), Fail, false, "bytes 1e+300 > 1000000"},
		{"between two limits", Check{Name: "load", Min: number(1), Max: number(4.5)}, value(2), Pass, false, "load 2.00 within 1 to 4.5"},
		{"no limits", Check{Name: "load"}, value(2), Pass, false, "load 2.00"},
		{
			"decisive above",
			Check{Name: "errors", Max: number(5), DecisiveAbove: number(100)},
			value(101), Fail, true, "errors 101.00 > 5",
		},

		{"no requests", rate, Sample{Value: 0, Present: true}, Inconclusive, false, "success rate: no requests in 1m"},
		{"half a request", rate, Sample{Value: 0, Present: true, Requests: 0.5}, Inconclusive, false, "success rate: less than one request in 1m"},
		{"requests unknown", rate, Sample{Value: 0, Present: true, Requests: math.NaN()}, Inconclusive, false, "success rate: the number of requests is not known in 1m"},
		{"no series", p99, Sample{Requests: 20}, Inconclusive, false, "request duration P99: no data in 30s"},
		{"not a number", p99, value(math.NaN()), Inconclusive, false, "request duration P99: no data in 30s"},
		{
			"the server is down",
			rate,
			Sample{Err: errors.New(`Post "http://sluice:hunter2@prometheus:9090/api/v1/query": connection refused`)},
			Inconclusive, false,
			`success rate: no answer: Post "http://xxxxx@prometheus:9090/api/v1/query": connection refused`,
		},
		{"an error outweighs a value", faults, Sample{Value: 9, Present: true, Err: errors.New("busy")}, Inconclusive, false, "errors: no answer: busy"},
		{"a part of the store is away", rate, Sample{Value: 100, Present: true, Requests: 20, Warnings: []string{"store eu-1 is away: token=hunter2", "x"}}, Inconclusive, false, "success rate: the answer may not be whole: store eu-1 is away: token=xxxxx"},
		{"a bad value of a part fails nothing", rate, Sample{Value: 0, Present: true, Requests: 20, Warnings: []string{"partial"}}, Inconclusive, false, "success rate: the answer may not be whole: partial"},
		{"a limit that is none", Check{Name: "load", Max: number(math.NaN())}, value(2), Inconclusive, false, "load: its limit is not a number"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := Evaluate([]Check{tt.check}, []Sample{tt.sample}, at)
			if v.Outcome != tt.outcome || v.Decisive != tt.decisive || v.Reason != tt.reason || !v.At.Equal(at) {
				t.Errorf("got %s decisive=%t %q, want %s decisive=%t %q", v.Outcome, v.Decisive, v.Reason,
					tt.outcome, tt.decisive, tt.reason)
			}
			r := v.Results[0]
			if r.Check != tt.check.Name || r.Outcome != tt.outcome || r.Decisive != tt.decisive || r.Reason != tt.reason {
				t.Errorf("the result differs from the verdict: %+v", r)
			}
			if (r.Value != nil) != (tt.outcome != Inconclusive && !math.IsInf(tt.sample.Value, 0)) {
				t.Errorf("value = %v", r.Value)
			}
			if _, err := json.Marshal(v); err != nil {
				t.Errorf("a verdict must fit in JSON: %v", err)
			}
		})
	}
}

func TestEvaluateSeveral(t *testing.T) {
	rate, p99 := success(t, 99), duration(t, 500)
	good := Sample{Value: 100, Present: true, Requests: 50}
	slow := Sample{Value: 1515, Present: true, Requests: 50}
	broken := Sample{Value: 69.17, Present: true, Requests: 50}
	down := Sample{Err: errors.New("connection refused")}
	tests := []struct {
		name    string
		checks  []Check
		samples []Sample
		outcome Outcome
		reason  string
	}{
		{"none", nil, nil, Pass, "without a check"},
		{"samples nobody asked for", nil, []Sample{broken}, Pass, "without a check"},
		{"all good", []Check{rate, p99}, []Sample{good, good}, Pass, "success rate 100.00% >= 99%; request duration P99 100ms <= 500ms"},
		{"all bad", []Check{rate, p99}, []Sample{broken, slow}, Fail, "success rate 69.17% < 99%; request duration P99 1515ms > 500ms"},
		{"one bad", []Check{rate, p99}, []Sample{good, slow}, Fail, "request duration P99 1515ms > 500ms"},
		{"one unknown", []Check{rate, p99}, []Sample{down, good}, Inconclusive, "success rate: no answer: connection refused"},
		{"bad outweighs unknown", []Check{rate, p99}, []Sample{down, slow}, Fail, "request duration P99 1515ms > 500ms"},
		{"a sample short", []Check{rate, p99}, []Sample{good}, Inconclusive, "request duration P99: no answer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := Evaluate(tt.checks, tt.samples, at)
			if v.Outcome != tt.outcome || v.Reason != tt.reason {
				t.Errorf("got %s %q, want %s %q", v.Outcome, v.Reason, tt.outcome, tt.reason)
			}
			if len(v.Results) != len(tt.checks) {
				t.Errorf("%d results for %d checks", len(v.Results), len(tt.checks))
			}
		})
	}
}

// naive is Evaluate said another way: it counts, and it has no reasons.
func naive(checks []Check, samples []Sample) (Outcome, bool) {
	var failed, unknown, decisive int
	for i, c := range checks {
		s := Sample{Err: errors.New("none")}
		if i < len(samples) {
			s = samples[i]
		}
		counted := s.Requests >= 1 && s.Requests <= math.MaxFloat64
		known := s.Err == nil && len(s.Warnings) == 0 && s.Present && s.Value == s.Value && (c.Traffic == "" || counted)
		known = known && (c.Min == nil || *c.Min == *c.Min) && (c.Max == nil || *c.Max == *c.Max)
		if !known {
			unknown++
			continue
		}
		under := func(limit *float64) bool { return limit != nil && clearlyLess(s.Value, *limit) }
		over := func(limit *float64) bool { return limit != nil && clearlyLess(*limit, s.Value) }
		if !under(c.Min) && !over(c.Max) {
			continue
		}
		failed++
		enough := c.DecisiveRequests <= 0 || c.Traffic != "" && s.Requests >= c.DecisiveRequests
		if enough && (under(c.DecisiveBelow) || over(c.DecisiveAbove)) {
			decisive++
		}
	}
	outcome := Pass
	if unknown > 0 {
		outcome = Inconclusive
	}
	if failed > 0 {
		outcome = Fail
	}
	return outcome, decisive > 0
}

func clearlyLess(a, b float64) bool {
	if math.IsInf(a, 0) || math.IsInf(b, 0) || math.IsInf(b-a, 0) {
		return a < b
	}
	return b-a > 1e-9*math.Max(math.Abs(a), math.Abs(b))
}

// rounds makes checks and samples of any bytes, 44 of them for each pair.
func rounds(data []byte) (checks []Check, samples []Sample) {
	for len(data) >= 44 && len(checks) < 8 {
		float := func(i int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(data[i:])) }
		optional := func(bit byte, f float64) *float64 {
			if data[0]&bit == 0 {
				return nil
			}
			return &f
		}
		c := Check{
			Name: "check", Min: optional(1, float(4)), Max: optional(2, float(12)),
			DecisiveBelow: optional(4, float(20)), DecisiveAbove: optional(8, float(20)),
			DecisiveRequests: float64(data[1]),
			Unit:             []string{"", "%", "ms"}[data[2]%3],
		}
		if data[0]&16 != 0 {
			c.Traffic = "requests"
		}
		s := Sample{Value: float(28), Requests: float(36), Present: data[0]&32 != 0}
		if data[0]&64 != 0 {
			s.Err = errors.New(string(data[3:12]))
		}
		if data[1]&128 != 0 {
			s.Warnings = []string{string(data[12:20])}
		}
		checks = append(checks, c)
		if data[0]&128 == 0 || data[3]&1 == 0 {
			samples = append(samples, s)
		}
		data = data[44:]
	}
	return checks, samples
}

func FuzzEvaluate(f *testing.F) {
	seed := make([]byte, 88)
	seed[0] = 1 | 4 | 16 | 32
	binary.LittleEndian.PutUint64(seed[4:], math.Float64bits(99))
	binary.LittleEndian.PutUint64(seed[20:], math.Float64bits(50))
	binary.LittleEndian.PutUint64(seed[28:], math.Float64bits(12.5))
	binary.LittleEndian.PutUint64(seed[36:], math.Float64bits(100))
	f.Add(seed)
	f.Add([]byte{})
	f.Add([]byte(strings.Repeat("\xff", 200)))
	f.Fuzz(func(t *testing.T, data []byte) {
		checks, samples := rounds(data)
		v := Evaluate(checks, samples, at)
		outcome, decisive := naive(checks, samples)
		if v.Outcome != outcome || v.Decisive != decisive {
			t.Fatalf("got %s decisive=%t, want %s decisive=%t: %+v %+v", v.Outcome, v.Decisive, outcome, decisive, checks, samples)
		}
		if v.Reason == "" || strings.ContainsAny(v.Reason, "\n\r") {
			t.Fatalf("reason %q", v.Reason)
		}
		if v.Decisive && v.Outcome != Fail {
			t.Fatalf("decisive, but %s", v.Outcome)
		}
		if _, err := json.Marshal(v); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(v, Evaluate(checks, samples, at)) {
			t.Fatal("asked twice, two verdicts")
		}
	})
}
