package rollout

import (
	"fmt"
	"strings"
	"time"
)

// Gate is something that must open before a rollout gets on: an approval, a window, a wave, a soak. A rollback asks none.
type Gate struct {
	Name string
	// At is the moment that it is asked at.
	At   Moment
	Open bool
	// Reason says why it is closed, for people.
	Reason string
	// NextChange is when time alone may change it; zero: never.
	NextChange time.Time
}

// Moment of a rollout.
type Moment string

// The moments at which gates are asked.
const (
	AtBegin     Moment = "begin"     // before an install or a rollout begins
	AtStep      Moment = "step"      // before the weight rises to the next step
	AtPromotion Moment = "promotion" // before the stable track gets the release
)

// closed says which gates are closed at a moment, and why; empty: none.
func (t *turn) closed(at Moment) string {
	_, reasons := t.o.closed(at)
	return strings.Join(reasons, "; ")
}

func (o Observation) closed(at Moment) (names, reasons []string) {
	for _, g := range o.Gates {
		if g.At == at && !g.Open {
			names = append(names, g.Name)
			reasons = append(reasons, because(fmt.Sprintf("gate %s is closed", g.Name), Track{Message: g.Reason}))
		}
	}
	return names, reasons
}

// open reports whether the gates of a moment are. That the app waits for others than before is an event; it is none that
// the reason of one changes.
func (t *turn) open(at Moment) bool {
	names, reasons := t.o.closed(at)
	waiting := strings.Join(names, ", ")
	if waiting != t.Waiting && waiting != "" {
		t.tell(Waiting, strings.Join(reasons, "; "))
	}
	t.Waiting = waiting
	return waiting == ""
}

// gateChanges are when time alone may open a gate that the app waits for.
func (t *turn) gateChanges() []time.Time {
	if t.Waiting == "" {
		return nil
	}
	var changes []time.Time
	for _, g := range t.o.Gates {
		if !g.Open {
			changes = append(changes, g.NextChange)
		}
	}
	return changes
}
