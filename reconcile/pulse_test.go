package reconcile

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/environments"
)

// TestStuck: work that does not come to an end is told by its name, and so is a queue that hands out nothing; neither where it
// moves, nor where there is nothing to do.
func TestStuck(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r := newRecorder(t)
	r.pulse = NewPulse(func() time.Time { return now })
	expect := func(when string, want ...string) {
		t.Helper()
		if got := r.Stuck(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	expect("at rest")
	over := r.pulse.begin("looking at web")
	done := r.pulse.begin("writing to git")
	r.queue.Add("api")
	expect("just begun")
	now = now.Add(stuckAfter / 2)
	done()
	expect("half the time later")
	now = now.Add(stuckAfter)
	expect("much later", "looking at web since 2026-03-01T12:00:00Z", "the queue of looks, where 1 wait since 2026-03-01T12:00:00Z")
	over()
	if !r.queue.one(t.Context(), func(context.Context, string) {}) {
		t.Fatal("nothing waits")
	}
	expect("it moves again")
	now = now.Add(2 * stuckAfter)
	expect("and rests")
}

// TestHangingWriter: what the loop is at is known from outside, also where it holds whatever it holds.
func TestHangingWriter(t *testing.T) {
	r := newRecorder(t)
	begun, end := make(chan struct{}), make(chan struct{})
	news := make(chan struct{}, 1)
	news <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		left <- r.write(ctx, news, func(context.Context) error {
			close(begun)
			<-end
			return nil
		}, nil)
	}()
	<-begun
	start := time.Now()
	r.pulse.now = func() time.Time { return start.Add(2 * stuckAfter) }
	if got := r.Stuck(); len(got) != 1 || !strings.HasPrefix(got[0], "writing to git since ") {
		t.Errorf("got %q", got)
	}
	close(end)
	cancel()
	<-left
	if got := r.Stuck(); len(got) != 0 {
		t.Errorf("at its end: %q", got)
	}
}

// TestEndlessEnvironment: reading an environment is given up after a while, and not tried again; the next commit is read.
func TestEndlessEnvironment(t *testing.T) {
	made, calls := 0, 0
	r := &reading{timeout: time.Millisecond, fresh: func() *environments.Loader { made++; return &environments.Loader{} }}
	end := make(chan struct{})
	defer close(end)
	hangs := func(*environments.Loader) (*environments.Environment, error) { calls++; <-end; return nil, nil }
	for range 2 {
		if _, err := r.load("c1", hangs); err == nil || !strings.Contains(err.Error(), "takes longer than 1ms") {
			t.Errorf("got %v", err)
		}
	}
	r.timeout = time.Minute
	env, err := r.load("c2", func(*environments.Loader) (*environments.Environment, error) {
		return &environments.Environment{Name: "x"}, nil
	})
	if err != nil || env.Name != "x" || made != 2 || calls != 1 {
		t.Errorf("the next commit: %+v, %v; %d loaders, %d tries", env, err, made, calls)
	}
}
