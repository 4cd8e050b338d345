package reconcile

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"
)

// stuckAfter is how long one piece of work may take at most: more than any deadline that it has itself, the longest of which are
// those of a fetch from git and of a look at an app, five minutes each.
const stuckAfter = 15 * time.Minute

// Pulse is what the goroutines of an environment are at, for whoever watches the process. That git or a server is away is no
// stop: whoever waits for them gives up and begins again. It has a lock of its own, so that it can be asked when all else hangs. It
// is safe for concurrent use; nil keeps nothing.
type Pulse struct {
	now func() time.Time

	mu     sync.Mutex
	id     int
	doings map[int]doing
	// handed is how many turns the queues had given at the time since, after which none was seen to be given though some wait.
	handed map[*queue]progress
	counts PulseCounts
}

type doing struct {
	what  string
	since time.Time
}

type progress struct {
	turns int
	since time.Time
}

// PulseCounts are what has been done since the process began to deliver the environment.
type PulseCounts struct {
	// Fetched is when git was last reached, and what it has read; zero: never.
	Fetched time.Time
	// PushFailures are the tries to write to git that failed.
	PushFailures int64
	// Renders are the releases that were rendered, or found to be, and RenderTime what they took together.
	Renders    int64
	RenderTime time.Duration
}

// NewPulse makes one that goes by a clock.
func NewPulse(now func() time.Time) *Pulse {
	return &Pulse{now: now, doings: map[int]doing{}, handed: map[*queue]progress{}}
}

// begin says that something is being done, until over is called.
func (p *Pulse) begin(what string) (over func()) {
	if p == nil {
		return func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.id++
	id := p.id
	p.doings[id] = doing{what, p.now()}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.doings, id)
	}
}

// count changes the counts.
func (p *Pulse) count(change func(*PulseCounts, time.Time)) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.counts, p.now())
}

// Counts are what has been done so far.
func (p *Pulse) Counts() PulseCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// stuck says what has not come to an end in a time in which it must have, and which of the queues hand out nothing.
func (p *Pulse) stuck(queues map[string]*queue) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	var long []doing
	for _, d := range p.doings {
		if now.Sub(d.since) > stuckAfter {
			long = append(long, d)
		}
	}
	for name, q := range queues {
		waiting, turns := q.progress()
		if last := p.handed[q]; waiting == 0 || last.turns != turns || last.since.IsZero() {
			p.handed[q] = progress{turns, now}
		} else if now.Sub(last.since) > stuckAfter {
			long = append(long, doing{fmt.Sprintf("%s, where %d wait", name, waiting), last.since})
		}
	}
	slices.SortFunc(long, func(x, y doing) int { return cmp.Or(x.since.Compare(y.since), cmp.Compare(x.what, y.what)) })
	var out []string
	for _, d := range long {
		out = append(out, fmt.Sprintf("%s since %s", d.what, d.since.UTC().Format(time.RFC3339)))
	}
	return out
}

// Stuck says which parts of the loop have not moved for too long, each with what it is at and since when; none: all do, or have
// nothing to do. It has to be asked now and then.
func (a *Agent) Stuck() []string {
	return a.pulse.stuck(map[string]*queue{"the queue of looks": a.queue, "the queue of renders": a.renders})
}

// Pulse of the environment.
func (a *Agent) Pulse() *Pulse { return a.pulse }
