package reconcile

import (
	"context"
	"sync"
	"time"
)

// queue hands out app names, each to one worker at a time. A name added while its worker is busy is handed out
// again afterwards; a name added twice before that is handed out once. It is safe for concurrent use.
type queue struct {
	mu    sync.Mutex
	ready []string
	state map[string]mark
	timer map[string]*time.Timer
	// wake has room for one: a worker that takes a name passes the signal on while more are ready.
	wake chan struct{}
}

// mark says where a name stands; a name that is nowhere has no mark.
type mark int

const (
	queued mark = iota + 1
	running
	runningAndQueued
)

func newQueue() *queue {
	return &queue{state: map[string]mark{}, timer: map[string]*time.Timer{}, wake: make(chan struct{}, 1)}
}

// Add makes name ready now.
func (q *queue) Add(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.timer[name]; t != nil {
		t.Stop()
		delete(q.timer, name)
	}
	switch q.state[name] {
	case queued, runningAndQueued:
	case running:
		q.state[name] = runningAndQueued
	default:
		q.push(name)
	}
}

// AddAfter makes name ready after d; the latest call wins, and Add overrides it.
func (q *queue) AddAfter(name string, d time.Duration) {
	if d <= 0 {
		q.Add(name)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if t := q.timer[name]; t != nil {
		t.Stop()
	}
	q.timer[name] = time.AfterFunc(d, func() { q.Add(name) })
}

// Get waits for a name; ok is false when ctx is done.
func (q *queue) Get(ctx context.Context) (name string, ok bool) {
	for {
		select {
		case <-ctx.Done():
			return "", false
		case <-q.wake:
		}
		if name, ok := q.take(); ok {
			return name, true
		}
	}
}

// Done ends the work that Get began.
func (q *queue) Done(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	again := q.state[name] == runningAndQueued
	delete(q.state, name)
	if again {
		q.push(name)
	}
}

// Stop drops every timer.
func (q *queue) Stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, t := range q.timer {
		t.Stop()
		delete(q.timer, name)
	}
}

func (q *queue) push(name string) {
	q.state[name] = queued
	q.ready = append(q.ready, name)
	q.signal()
}

func (q *queue) take() (string, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.ready) == 0 {
		return "", false
	}
	name := q.ready[0]
	q.ready = q.ready[1:]
	q.state[name] = running
	if len(q.ready) > 0 {
		q.signal()
	}
	return name, true
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
