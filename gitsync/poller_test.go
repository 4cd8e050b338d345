package gitsync

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// newTestPoller polls answers, one after the other and then the last one again, and records when it was asked.
func newTestPoller(interval time.Duration, answers ...any) (p *Poller, askedAt func() []time.Duration) {
	var mu sync.Mutex
	var asked []time.Duration
	begin := time.Now()
	p = &Poller{interval: interval, nudged: make(chan struct{}, 1)}
	p.fetch = func(context.Context) (*Snapshot, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, time.Since(begin))
		a := answers[min(len(asked), len(answers))-1]
		if err, ok := a.(error); ok {
			return nil, err
		}
		return &Snapshot{Commit: a.(string)}, nil
	}
	return p, func() []time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(asked)
	}
}

func TestPollerCallsBackOncePerCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		p, asked := newTestPoller(time.Minute, "a", "a", boom, "a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var got string
		err := p.Run(ctx, func(s *Snapshot, err error) error {
			if err != nil {
				got += "!"
				return nil //nolint:nilerr // whatever it returns, there is no snapshot to hand over again
			}
			got += s.Commit
			return nil
		})
		if got != "a!b" || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q, %v", got, err)
		}
		if n := len(asked()); n < 55 || n > 66 {
			t.Errorf("%d polls in an hour", n)
		}
	})
}

// A commit that could not be read is handed over again, later each time, and then no more.
func TestPollerCallsBackAgainForWhatWasNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := newTestPoller(10*time.Second, "a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		calls := 0
		_ = p.Run(ctx, func(*Snapshot, error) error {
			if calls++; calls < 4 {
				return errors.New("a pack is lost")
			}
			return nil
		})
		if calls != 4 {
			t.Errorf("called back %d times, want 4", calls)
		}
	})
}

func TestPollerBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, asked := newTestPoller(10*time.Second, errors.New("down"))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		_ = p.Run(ctx, func(*Snapshot, error) error { return nil })
		a := asked()
		want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60}
		for i, w := range want {
			w *= time.Second
			if got := a[i+1] - a[i]; got < w*9/10 || got > w*11/10 {
				t.Errorf("delay %d is %v, want %v", i, got, w)
			}
		}
	})
}

func TestPollerIsNudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, asked := newTestPoller(time.Hour, "a")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- p.Run(ctx, func(*Snapshot, error) error { return nil }) }()
		for range 1000 { // a flood
			p.Nudge()
		}
		synctest.Wait()
		if len(asked()) != 1 {
			t.Errorf("%d polls at once", len(asked()))
		}
		<-time.After(10 * time.Second)
		synctest.Wait()
		if n := len(asked()); n != 2 {
			t.Errorf("%d polls, want one at the start and one for the nudges", n)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}
