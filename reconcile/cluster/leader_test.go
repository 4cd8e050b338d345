package cluster_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/cluster"
)

func TestLeadersDoNotOverlap(t *testing.T) {
	r := newRig(t)
	var leading atomic.Int32
	lead := func(started chan<- struct{}, hold <-chan struct{}) func(context.Context) error {
		return func(ctx context.Context) error {
			if leading.Add(1) > 1 {
				t.Error("two lead at once")
			}
			close(started)
			<-ctx.Done()
			<-hold // it takes its time to stop
			leading.Add(-1)
			return nil
		}
	}
	hold, started1, started2 := make(chan struct{}), make(chan struct{}), make(chan struct{})
	ctx1, stop1 := context.WithCancel(t.Context())
	defer stop1()
	ctx2, stop2 := context.WithCancel(t.Context())
	done1, done2 := make(chan error, 1), make(chan error, 1)
	go func() { done1 <- r.Lead(ctx1, "sluice", "one", lead(started1, hold)) }()
	<-started1
	go func() { done2 <- r.Lead(ctx2, "sluice", "two", lead(started2, closed())) }()
	stop1()
	select {
	case <-done1:
		t.Error("Lead returned before the leader had")
	case <-started2:
		t.Error("the second leads while the first is stopping")
	case <-time.After(time.Second):
	}
	close(hold)
	if err := <-done1; err != nil {
		t.Errorf("the first ended with %v", err)
	}
	select {
	case <-started2:
	case <-time.After(10 * time.Second):
		t.Fatal("the lease was not given back")
	}
	stop2()
	if err := <-done2; err != nil {
		t.Errorf("the second ended with %v", err)
	}
}

func closed() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestLeadReturnsItsError(t *testing.T) {
	r := newRig(t)
	boom := errors.New("boom")
	if err := r.Lead(t.Context(), "sluice", "one", func(context.Context) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("err = %v", err)
	}
}

func TestCandidateStops(t *testing.T) {
	r := newRig(t)
	started := make(chan struct{})
	go func() {
		_ = r.Lead(t.Context(), "sluice", "one", func(ctx context.Context) error { close(started); <-ctx.Done(); return nil })
	}()
	<-started
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := r.Lead(ctx, "sluice", "two", func(context.Context) error { return errors.New("it led") })
	if err != nil && !errors.Is(err, cluster.ErrLeaseLost) {
		t.Errorf("err = %v", err)
	}
}
