package rollout

import (
	"testing"
	"time"
)

func TestRecover(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	stable, target := Release{Version: "1", Digest: "1", Revision: 4}, Release{Version: "2", Digest: "2", Revision: 7}
	for _, c := range []struct {
		name    string
		found   Found
		removed bool
		want    State
		event   EventType
	}{
		{"nothing", Found{}, false, State{}, ""},
		{"another tool's", Found{Stable: stable, Revision: 4}, false, State{Stable: stable}, ""},
		{"another tool's is not ours to remove", Found{Stable: stable, Revision: 4}, true, State{}, ""},
		{"at rest", Found{Lost: true, Stable: stable, Revision: 5}, false, State{Stable: stable, Rollouts: 5}, Recovered},
		{
			"a canary",
			Found{Lost: true, Stable: stable, Target: target, Canary: true, Revision: 7},
			false,
			State{Phase: RollingBack, Stable: stable, Target: target, Peak: 100, Rollouts: 7, Outcome: Recovered},
			Recovered,
		},
		{
			"no canary, or none any more",
			Found{Lost: true, Stable: stable, Target: target, Revision: 7},
			false,
			State{Phase: RollingBack, Stable: stable, Target: target, Drained: true, Rollouts: 7, Outcome: Recovered},
			Recovered,
		},
		{
			"a first install",
			Found{Lost: true, Target: target, Revision: 7},
			false,
			State{Phase: Installing, Target: target, Rollouts: 7},
			InstallStarted,
		},
		{"failed installs", Found{Lost: true, Revision: 3}, true, State{Rollouts: 3}, ""},
		{
			"to be removed",
			Found{Lost: true, Stable: stable, Target: target, Canary: true, Revision: 7},
			true,
			State{Phase: Removing, Stable: stable, Target: target, Rollouts: 7},
			"",
		},
		{
			"half removed",
			Found{Lost: true, Target: target, Removing: true, Revision: 7},
			true,
			State{Phase: Removing, Target: target, Rollouts: 7},
			"",
		},
		{
			"half removed, and listed again",
			Found{Lost: true, Target: target, Removing: true, Revision: 7},
			false,
			State{Phase: Removing, Target: target, Rollouts: 7},
			"",
		},
	} {
		got, events := Recover(c.found, Observation{Removed: c.removed, Now: now, Recorded: 7})
		if err := Check(got); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.event != "" && (len(events) != 1 || events[0].Type != c.event || events[0].From != c.found.Stable || events[0].To != got.Target) ||
			c.event == "" && len(events) > 0 {
			t.Errorf("%s: events %+v", c.name, events)
		}
		if len(events) > 0 && events[0].Seq != 8 {
			t.Errorf("%s: event %d, and the log has 7", c.name, events[0].Seq)
		}
		w := c.want
		if got.Phase != w.Phase || got.Stable != w.Stable || got.Target != w.Target || got.Weight != 0 || got.Peak != w.Peak ||
			got.Drained != w.Drained || got.Rollouts != w.Rollouts || got.Outcome != w.Outcome {
			t.Errorf("%s: got %+v, want %+v", c.name, got, w)
		}
	}
}
