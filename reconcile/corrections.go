package reconcile

import "time"

const (
	// freeCorrections are made at once; only a fight gets further within calm.
	freeCorrections = 5
	// longestTruce bounds the pause between two corrections of a fight.
	longestTruce = 30 * time.Second
	// calm is how long nobody must have changed anything until a fight is over.
	calm = 2 * time.Minute
)

// corrections tell drift, which is corrected at once, from a fight with somebody who changes the same objects back
// each time: another controller, another environment that renders them too. A fight goes on ever more slowly, and is
// called one.
type corrections struct {
	// row is how many were made, each within calm of the one before.
	row  int
	last time.Time
}

// made counts a correction.
func (c *corrections) made(now time.Time) {
	if !c.fresh(now) {
		c.row = 0
	}
	c.row++
	c.last = now
}

// fight reports whether somebody keeps changing what was corrected.
func (c *corrections) fight(now time.Time) bool { return c.fresh(now) && c.row > freeCorrections }

// over is when the fight ends if nobody changes anything any more.
func (c *corrections) over() time.Time { return c.last.Add(calm) }

// next is when to correct again; in the past unless there is a fight.
func (c *corrections) next(now time.Time) time.Time {
	if !c.fight(now) {
		return now
	}
	return c.last.Add(min(time.Second<<min(c.row-freeCorrections-1, 5), longestTruce))
}

func (c *corrections) fresh(now time.Time) bool { return c.row > 0 && now.Before(c.over()) }
