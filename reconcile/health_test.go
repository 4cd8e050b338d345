package reconcile

import (
	"cmp"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

func TestHealth(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 3, 1, 12, 0, s, 0, time.UTC) }
	owed := func(seconds ...int) delivery.Saved {
		var s rollout.State
		for _, n := range seconds {
			s.Outbox = append(s.Outbox, rollout.Event{Time: at(n)})
		}
		return delivery.Saved{State: s}
	}
	a := &Agent{apps: map[string]*app{
		"fine": {}, "gone": {gone: true, fault: errors.New("no more")}, "broken": {broken: true},
		"faulty": {fault: errors.New("bad"), saved: owed(5, 6)}, "late": {saved: owed(3, 9)},
	}}
	if got, want := a.Health(), (Health{Apps: 4, Faults: 2, Untold: at(3)}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	a = &Agent{envFault: errors.New("no list")}
	if got, want := a.Health(), (Health{Faults: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// What a canary gets is what its saved state says, so that an agent that has seen no event yet tells the same.
func TestCourses(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 3, 1, 12, 0, s, 0, time.UTC) }
	a := &Agent{apps: map[string]*app{
		"new": {}, "gone": {gone: true},
		"begun":   {saved: delivery.Saved{State: rollout.State{Since: at(7), LastCheck: at(2), Exposure: rollout.Exposure{Weight: 10}}}},
		"checked": {saved: delivery.Saved{State: rollout.State{Since: at(2), LastCheck: at(9), Exposure: rollout.Exposure{Weight: 20}}}},
	}}
	got := a.Courses()
	slices.SortFunc(got, func(x, y Course) int { return cmp.Compare(x.App, y.App) })
	if want := []Course{{"begun", 10, at(7)}, {"checked", 20, at(9)}, {"new", 0, time.Time{}}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
