package reconcile

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestQueueHandsOutOnceAndAgainAfterDone(t *testing.T) {
	q := newQueue()
	ctx := t.Context()
	q.Add("a")
	q.Add("a")
	if name, _ := q.Get(ctx); name != "a" {
		t.Fatalf("got %q, want a", name)
	}
	if name, ok := q.take(); ok {
		t.Fatalf("%q was handed out twice", name)
	}
	q.Add("a")
	if name, ok := q.take(); ok {
		t.Fatalf("%q was handed out while its worker was busy", name)
	}
	q.Done("a")
	if name, _ := q.Get(ctx); name != "a" {
		t.Fatalf("what was added meanwhile came back as %q", name)
	}
}

func TestQueueWakesEveryWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		got := make(chan string, 2)
		for range 2 {
			go func() {
				name, _ := q.Get(t.Context())
				got <- name
			}()
		}
		synctest.Wait()
		q.Add("a")
		q.Add("b")
		if x, y := <-got, <-got; x == y {
			t.Fatalf("both waiters got %q", x)
		}
	})
}

func TestQueueTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		defer q.Stop()
		start := time.Now()
		q.AddAfter("a", time.Hour)
		q.AddAfter("a", time.Minute)
		q.Get(t.Context())
		if d := time.Since(start); d != time.Minute {
			t.Errorf("handed out after %v, want the latest timer's minute", d)
		}
		q.Done("a")
		q.AddAfter("a", time.Hour)
		q.Add("a")
		q.Get(t.Context())
		q.Done("a")
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour)
		defer cancel()
		if name, ok := q.Get(ctx); ok {
			t.Errorf("%q came again from a timer that Add overrode", name)
		}
	})
}
