package reconcile

import (
	"errors"
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
