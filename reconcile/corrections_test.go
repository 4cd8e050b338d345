package reconcile

import (
	"testing"
	"time"
)

func TestCorrectionsOfOccasionalDriftAreMadeAtOnce(t *testing.T) {
	var c corrections
	now := time.Now()
	for range 100 {
		if c.fight(now) || c.next(now).After(now) {
			t.Fatal("drift every two minutes is taken for a fight")
		}
		c.made(now)
		now = now.Add(calm)
	}
}

// TestCorrectionsOfAFightSlowDown plays somebody who undoes each correction at once.
func TestCorrectionsOfAFightSlowDown(t *testing.T) {
	var c corrections
	start := time.Now()
	now := start
	made := 0
	for now.Before(start.Add(10 * time.Minute)) {
		if next := c.next(now); next.After(now) {
			now = next
			continue
		}
		c.made(now)
		if made++; made > freeCorrections && !c.fight(now) {
			t.Fatalf("correction %d after %v is not called a fight", made, now.Sub(start))
		}
		now = now.Add(time.Millisecond)
	}
	if made < 20 || made > 35 {
		t.Errorf("%d corrections in ten minutes of fight", made)
	}
	if over := c.over(); c.fight(over) || c.next(over).After(over) {
		t.Error("the fight goes on after a calm")
	}
}
