package delivery

import (
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

func TestLookAgain(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	plan := rollout.Plan{Deadline: time.Hour, Interval: time.Minute}
	for _, test := range []struct {
		name  string
		state rollout.State
		want  time.Duration
	}{
		{"a check that comes first", rollout.State{Phase: rollout.Analyzing, Since: ago(time.Minute), StepSince: ago(58 * time.Second)}, 2 * time.Second},
		{"news first", rollout.State{Phase: rollout.Analyzing, Since: ago(time.Second), StepSince: ago(time.Second)}, inFlightPoll},
		{"a due check that could not be asked", rollout.State{Phase: rollout.Analyzing, Since: ago(time.Hour), StepSince: ago(time.Hour)}, unapplied},
		{"installing", rollout.State{Phase: rollout.Installing, Since: ago(time.Second)}, inFlightPoll},
		{"installing for long", rollout.State{Phase: rollout.Installing, Since: ago(80 * time.Second)}, 10 * time.Second},
		{"installing for ever", rollout.State{Phase: rollout.Installing, Since: ago(30 * time.Minute)}, slowPoll},
	} {
		o := rollout.Observation{Now: now, Plan: plan}
		if got := lookAgain(test.state, o, now).Sub(now); got != test.want {
			t.Errorf("%s: in %v, want %v", test.name, got, test.want)
		}
	}
	if again := lookAgain(rollout.State{}, rollout.Observation{Now: now}, now); !again.IsZero() {
		t.Errorf("at rest: again at %v", again)
	}
}
