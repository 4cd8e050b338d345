package reconcile

import (
	"context"
	"sync"
	"time"
)

// commonShare is which of the names handed out to workers that take both lanes is a common one, where both wait.
const commonShare = 4

// queue hands out app names, each to one worker at a time. A name added while its worker is busy is handed out
// again afterwards; a name added twice before that is handed out once. It is safe for concurrent use.
//
// There are three lanes. Due is what the time has come for, such as a check: it must not stand behind a hundred rollouts that
// begin, nor what begins behind a thousand apps that a commit has changed. Some turns go to the common lane all the same.
type queue struct {
	// schedule calls a function later, unless it is stopped.
	schedule func(time.Duration, func()) (stop func())
	mu       sync.Mutex
	lanes    [due + 1]lane
	turns    int
	// handed counts the names that were handed out.
	handed int
	state  map[string]mark
	timer  map[string]timer
	timers int
}

// rank is a lane, the lowest first.
type rank int

const (
	common rank = iota
	urgent
	due
)

// timer adds a name to a lane later.
type timer struct {
	stop func()
	rank rank
	// id tells a timer from the one that it takes the place of, which may be firing already.
	id int
}

// lane is one line of names. A name that has changed lanes is skipped in the old one.
type lane struct {
	names []string
	// wake has room for one: a worker that takes a name passes the signal on while more wait.
	wake chan struct{}
}

// mark says where a name stands; the zero mark: nowhere.
type mark struct {
	running, queued bool
	rank            rank
}

func newQueue(schedule func(time.Duration, func()) (stop func())) *queue {
	q := &queue{schedule: schedule, state: map[string]mark{}, timer: map[string]timer{}}
	for i := range q.lanes {
		q.lanes[i].wake = make(chan struct{}, 1)
	}
	return q
}

// Add makes name ready now.
func (q *queue) Add(name string) { q.add(name, common) }

// Urge makes name ready now, before all that was only added.
func (q *queue) Urge(name string) { q.add(name, urgent) }

// Due makes name ready now, before all others.
func (q *queue) Due(name string) { q.add(name, due) }

func (q *queue) add(name string, r rank) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if r >= q.timer[name].rank {
		q.stop(name)
	}
	m := q.state[name]
	if m.queued && m.rank >= r {
		return
	}
	m.queued, m.rank = true, r
	q.state[name] = m
	if !m.running {
		q.push(name, r)
	}
}

// stop drops a name's timer.
func (q *queue) stop(name string) {
	if t, ok := q.timer[name]; ok {
		t.stop()
		delete(q.timer, name)
	}
}

// AddAfter makes name ready after d; the latest call of AddAfter and DueAfter wins. Due overrides both. Add and Urge override
// AddAfter only: what is due at a certain time stays so, however long the other lanes are by then. A name that is handed out
// has no timer any more: whoever looks at it says when to look again.
func (q *queue) AddAfter(name string, d time.Duration) { q.after(name, d, common) }

// DueAfter is AddAfter for what a rollout under way waits for.
func (q *queue) DueAfter(name string, d time.Duration) { q.after(name, d, due) }

func (q *queue) after(name string, d time.Duration, r rank) {
	if d <= 0 {
		q.add(name, r)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stop(name)
	q.timers++
	id := q.timers
	q.timer[name] = timer{q.schedule(d, func() { q.fire(name, id) }), r, id}
}

// fire is the end of a timer.
func (q *queue) fire(name string, id int) {
	q.mu.Lock()
	t := q.timer[name]
	if t.id == id {
		delete(q.timer, name)
	}
	q.mu.Unlock()
	if t.id == id {
		q.add(name, t.rank)
	}
}

// Get waits for a name; ok is false when ctx is done.
func (q *queue) Get(ctx context.Context) (name string, ok bool) {
	return q.next(ctx, q.lanes[common].wake, q.take)
}

// GetUrgent is Get for a worker that is kept free for what is urgent or due.
func (q *queue) GetUrgent(ctx context.Context) (name string, ok bool) {
	return q.next(ctx, nil, q.takeUrgent)
}

// next takes a name as soon as there is one, and tries when a lane wakes it; a nil lane never does.
func (q *queue) next(ctx context.Context, common <-chan struct{}, take func() (string, bool)) (name string, ok bool) {
	for {
		select {
		case <-ctx.Done():
			return "", false
		case <-common:
		case <-q.lanes[urgent].wake:
		case <-q.lanes[due].wake:
		}
		if name, ok := take(); ok {
			return name, true
		}
	}
}

// serve does what is to be done for each name that get hands out, until ctx is done.
func serve(ctx context.Context, get func(context.Context) (string, bool), do func(context.Context, string)) {
	for {
		name, ok := get(ctx)
		if !ok {
			return
		}
		do(ctx, name)
	}
}

// one does it for the name whose turn it is, and reports whether there was one.
func (q *queue) one(ctx context.Context, do func(context.Context, string)) bool {
	name, ok := q.take()
	if ok {
		do(ctx, name)
	}
	return ok
}

// Done ends the work that Get began.
func (q *queue) Done(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.state[name]
	if !m.queued {
		delete(q.state, name)
		return
	}
	m.running = false
	q.state[name] = m
	q.push(name, m.rank)
}

// Idle reports whether no name is ready, or handed out.
func (q *queue) Idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.state) == 0
}

// progress is how many names are ready, and how many were handed out so far.
func (q *queue) progress() (waiting, handed int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.state {
		if m.queued && !m.running {
			waiting++
		}
	}
	return waiting, q.handed
}

// Stop drops every timer.
func (q *queue) Stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name := range q.timer {
		q.stop(name)
	}
}

func (q *queue) push(name string, r rank) {
	l := &q.lanes[r]
	l.names = append(l.names, name)
	l.signal()
}

func (q *queue) take() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.turns++; q.turns%commonShare == 0 {
		return q.first(common, due, urgent)
	}
	return q.first(due, urgent, common)
}

func (q *queue) takeUrgent() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.first(due, urgent)
}

// first takes a name from the first lane that has one, and has the next worker look for more.
func (q *queue) first(order ...rank) (name string, ok bool) {
	for _, r := range order {
		if !ok {
			name, ok = q.from(r)
		}
	}
	if ok {
		q.handed++
	}
	for i := range q.lanes {
		q.lanes[i].signal()
	}
	return name, ok
}

// from takes the lane's first name that still waits in it.
func (q *queue) from(r rank) (string, bool) {
	l := &q.lanes[r]
	for len(l.names) > 0 {
		name := l.names[0]
		l.names = l.names[1:]
		if m := q.state[name]; m.queued && !m.running && m.rank == r {
			q.state[name] = mark{running: true}
			q.stop(name)
			return name, true
		}
	}
	return "", false
}

// signal wakes a worker if a name waits.
func (l *lane) signal() {
	if len(l.names) == 0 {
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
