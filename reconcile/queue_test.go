package reconcile

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestQueueHandsOutOnceAndAgainAfterDone(t *testing.T) {
	q := newQueue(realClock{}.AfterFunc)
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
		q := newQueue(realClock{}.AfterFunc)
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
		q := newQueue(realClock{}.AfterFunc)
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

func TestQueueUrgentNamesGoFirst(t *testing.T) {
	q := newQueue(realClock{}.AfterFunc)
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		q.Add(name)
	}
	q.Urge("x")
	q.Urge("e")
	q.Urge("y")
	q.Urge("y")
	q.Add("x")
	var got []string
	for range 8 {
		name, _ := q.Get(t.Context())
		got = append(got, name)
	}
	// Every fourth turn is the common lane's, so that nothing waits for ever.
	if order := strings.Join(got, " "); order != "x e y a b c d f" {
		t.Errorf("handed out: %s", order)
	}
	if name, ok := q.take(); ok {
		t.Errorf("%q was handed out twice", name)
	}
}

// TestQueueDueNamesGoBeforeUrgentOnes: what begins does not delay what is under way, and neither is kept from its turn.
func TestQueueDueNamesGoBeforeUrgentOnes(t *testing.T) {
	q := newQueue(realClock{}.AfterFunc)
	q.Add("common")
	for _, name := range []string{"begins-1", "begins-2", "begins-3"} {
		q.Urge(name)
	}
	q.Due("check")
	q.Due("begins-3")
	q.Urge("check")
	var got []string
	for range 5 {
		name, _ := q.Get(t.Context())
		got = append(got, name)
	}
	if order := strings.Join(got, " "); order != "check begins-3 begins-1 common begins-2" {
		t.Errorf("handed out: %s", order)
	}
}

func TestQueueKeepsAWorkerFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(realClock{}.AfterFunc)
		defer q.Stop()
		q.Add("slow")
		q.Get(t.Context())
		q.Add("another")
		q.DueAfter("check", time.Second)
		start := time.Now()
		if name, _ := q.GetUrgent(t.Context()); name != "check" || time.Since(start) != time.Second {
			t.Errorf("got %q after %v, want the check when it is due", name, time.Since(start))
		}
		// What becomes urgent while its worker is busy is so afterwards.
		q.Urge("slow")
		q.Done("slow")
		if name, _ := q.GetUrgent(t.Context()); name != "slow" {
			t.Errorf("got %q, want slow", name)
		}
		if name, _ := q.Get(t.Context()); name != "another" {
			t.Errorf("got %q, want another", name)
		}
	})
}

// TestQueueKeepsWhatIsUrgentLater: a check that is due at a certain time gets its lane then, although news of its app has
// put it behind a thousand others meanwhile.
func TestQueueKeepsWhatIsUrgentLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(realClock{}.AfterFunc)
		defer q.Stop()
		q.DueAfter("canary", time.Minute)
		for n := range 1000 {
			q.Add(fmt.Sprint("app-", n))
		}
		q.Add("canary")
		begun := time.Now()
		if name, ok := q.GetUrgent(t.Context()); name != "canary" || !ok || time.Since(begun) != time.Minute {
			t.Errorf("urgent after %s: %q", time.Since(begun), name)
		}
		q.Done("canary")
		for n := range 1000 {
			if name, ok := q.take(); !ok || name == "canary" {
				t.Fatalf("%d: %q", n, name)
			}
		}
	})
}

// TestQueueForgetsTheTimerOfWhatItHandsOut: whoever looks at an app says anew when to look again.
func TestQueueForgetsTheTimerOfWhatItHandsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(realClock{}.AfterFunc)
		defer q.Stop()
		q.DueAfter("app", time.Minute)
		q.Add("app")
		if _, ok := q.take(); !ok {
			t.Fatal("nothing is ready")
		}
		q.Done("app")
		time.Sleep(time.Hour)
		if name, ok := q.take(); ok {
			t.Errorf("%q is ready again, and nobody asked", name)
		}
	})
}
