package rollout_test

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestStateOfBefore: a State that an earlier version has saved, in the middle of a rollout, is read as what it was, and
// written in the present form.
func TestStateOfBefore(t *testing.T) {
	text, err := os.ReadFile("testdata/states/0.json")
	if err != nil {
		t.Fatal(err)
	}
	var s rollout.State
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	if err := rollout.Check(s); err != nil {
		t.Error(err)
	}
	least := 99.0
	want := rollout.Plan{
		Strategy: environments.StrategyCanary, Target: environments.Target{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
		Service:  environments.Service{Name: "croc-hunter-java", Port: 80},
		Steps:    []rollout.Step{{rollout.Exposure{Weight: 20}}, {rollout.Exposure{Weight: 40}}, {rollout.Exposure{Weight: 60}}},
		StepBack: 25, Interval: 20 * time.Second, Deadline: 90 * time.Second, Threshold: 2, InconclusiveLimit: 3,
		Metrics: []environments.Metric{{Name: "request-success-rate", Interval: 20 * time.Second, Min: &least}},
	}
	if s.Plan == nil || !reflect.DeepEqual(*s.Plan, want) {
		t.Errorf("the policy comes to %+v, want %+v", s.Plan, want)
	}
	if s.Phase != rollout.Analyzing || s.Weight != 20 || s.Step != 1 || s.FailedChecks != 1 || s.Stalled != "no data (3 checks in a row)" || len(s.Outbox) != 1 || s.LastSeq != 27 {
		t.Errorf("read as %+v", s)
	}
	written, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var again rollout.State
	if err := json.Unmarshal(written, &again); err != nil || !reflect.DeepEqual(s, again) {
		t.Errorf("written as %s: %v", written, err)
	}
}

// TestStateOfLater: nobody knows what a form of a later version means.
func TestStateOfLater(t *testing.T) {
	s := rollout.State{LastSeq: 3}
	if err := json.Unmarshal([]byte(`{"schema":2,"lastSeq":9}`), &s); err == nil || s.LastSeq != 3 {
		t.Errorf("read as %+v, %v", s, err)
	}
}

// TestNumbers: a State whose numbers were made up is none: it could not tell its next event.
func TestNumbers(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"lastSeq": 7, "outbox": [{"seq": 7}]}`:  true,
		`{"lastSeq": -1}`:                         false,
		`{"lastSeq": 9223372036854775807}`:        false,
		`{"rollouts": -1}`:                        false,
		`{"lastSeq": 7, "outbox": [{"seq": 8}]}`:  false,
		`{"lastSeq": 7, "outbox": [{"seq": 0}]}`:  false,
		`{"lastSeq": -7, "outbox": [{"seq":-7}]}`: false,
	} {
		var s rollout.State
		if err := json.Unmarshal([]byte(text), &s); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}
