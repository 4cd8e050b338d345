package environments

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"
)

func TestSteps(t *testing.T) {
	for _, tt := range []struct {
		step, limit int
		weights     []int
		want        []int
	}{
		{step: 10, limit: 50, want: []int{10, 20, 30, 40, 50}},
		{step: 20, limit: 50, want: []int{20, 40, 50}},
		{step: 60, limit: 50, want: []int{50}},
		{step: 100, limit: 100, want: []int{100}},
		{step: 33, want: []int{33, 66, 99, 100}},
		{step: 50, limit: 900, want: []int{50, 100}},
		{step: 9223372036854775807, limit: 50, want: []int{50}},
		{step: 0, limit: 50, want: nil},
		{step: -5, limit: 50, want: nil},
		{weights: []int{1, 5, 60, 80}, limit: 50, want: []int{1, 5, 50}},
		{weights: []int{10, 20}, limit: 100, want: []int{10, 20}},
		{weights: []int{0, 10, 5, 10, 20}, want: []int{10, 20}},
	} {
		p := Policy{Analysis: Analysis{StepWeight: tt.step, StepWeights: tt.weights, MaxWeight: tt.limit}}
		if got := p.Steps(); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("step %d weights %v max %d: %v, want %v", tt.step, tt.weights, tt.limit, got, tt.want)
		}
	}
}

// TestNumbersArriveAsTheyDo gives one policy in every type in which numbers arrive.
func TestNumbersArriveAsTheyDo(t *testing.T) {
	for _, number := range []any{float64(20), float32(20), 20, int32(20), int64(20), uint64(20), json.Number("20"), "20", "20.0"} {
		canary := map[string]any{
			"progressDeadlineSeconds": number,
			"service":                 map[string]any{"port": number, "targetPort": number},
			"analysis": map[string]any{
				"interval": number, "threshold": number, "stepWeight": number, "maxWeight": number,
				"metrics": []any{map[string]any{"name": "request-duration", "threshold": number, "interval": number}},
			},
		}
		p, err := ResolvePolicy(&Environment{}, &App{}, Said{Values: map[string]any{"canary": canary}})
		if err != nil {
			t.Errorf("%T: %v", number, err)
			continue
		}
		got := fmt.Sprint(p.ProgressDeadline, p.Service.Port, p.Analysis.Interval, p.Analysis.Threshold, p.Steps(),
			p.Analysis.Metrics[0].Interval, *p.Analysis.Metrics[0].Max)
		if want := "20s 20 20s 20 [20] 20s 20"; got != want {
			t.Errorf("%T: %s, want %s", number, got, want)
		}
	}
}

func TestDurations(t *testing.T) {
	for _, tt := range []struct {
		text any
		want time.Duration
	}{
		{"60s", time.Minute},
		{"1m30s", 90 * time.Second},
		{"1s", time.Second},
		{"250ms", 250 * time.Millisecond},
		{"90", 90 * time.Second},
		{90.5, 90500 * time.Millisecond},
		{"", 0},
		{"soon", -1},
		{"-1s", -1},
		{0, -1},
		{-5, -1},
		{1e300, -1},
		{"9000000h", -1},
		{true, -1},
		{[]any{}, -1},
		{"1d", -1},
	} {
		d := &decoder{}
		got := d.duration(fieldPath{"interval"}, tt.text)
		if len(d.faults) > 0 {
			got = -1
		}
		if got != tt.want {
			t.Errorf("%v: %v, want %v", tt.text, got, tt.want)
		}
	}
}

func TestWithInterval(t *testing.T) {
	p := Policy{Analysis: Analysis{Interval: time.Minute, Metrics: []Metric{{Name: "a", Interval: time.Minute}, {Name: "b", Interval: time.Millisecond}}}}
	q := p.WithInterval(time.Second)
	if q.Analysis.Interval != time.Second || q.Analysis.Metrics[0].Interval != time.Second || q.Analysis.Metrics[1].Interval != time.Millisecond {
		t.Errorf("%+v", q.Analysis)
	}
	if p.Analysis.Metrics[0].Interval != time.Minute {
		t.Error("the original has changed")
	}
}

func TestNearest(t *testing.T) {
	known := []string{"stepWeight", "stepWeights", "interval", "threshold"}
	for written, want := range map[string]string{
		"stepWeigth": "stepWeight or stepWeights",
		"Interval":   "interval",
		"treshold":   "threshold",
		"x":          "interval, stepWeight, stepWeights or threshold",
	} {
		if got := nearestOf(written, known); got != want {
			t.Errorf("%s: %s, want %s", written, got, want)
		}
	}
}
