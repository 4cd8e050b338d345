package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// The times of the Lease. Whoever leads stops at the latest renewDeadline after the last renewal that worked;
// others take over leaseDuration after it at the earliest.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// ErrLeaseLost is returned by Lead when another may lead from now on.
var ErrLeaseLost = errors.New("the lease was lost")

// Lead waits until this process is the one that leads under the given name, and then runs lead. The context
// that lead gets is cancelled when ctx is, and, when the lease can't be renewed, before anybody else can lead.
// Lead returns only after lead has returned; the lease is given back then, not earlier, so two never overlap. It
// returns lead's error, ErrLeaseLost, or nil when ctx ended first. Id must differ between processes.
func (c *Client) Lead(ctx context.Context, name, id string, lead func(context.Context) error) error {
	if err := c.ensureNamespace(ctx, c.cfg.Namespace); err != nil {
		return err
	}
	// The election outlives ctx until lead has returned.
	election, stop := context.WithCancel(context.WithoutCancel(ctx))
	election = klog.NewContext(election, logr.FromSlogHandler(c.cfg.Log.Handler()))
	defer stop()

	started := make(chan context.Context, 1)
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: name, Namespace: c.cfg.Namespace},
			Client:     c.leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: id},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Name:            name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) { started <- leading },
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("preparing the election of %s: %w", name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		elector.Run(election)
	}()
	err = runLed(ctx, started, ended, lead)
	stop()
	<-ended
	return err
}

// runLed waits for leadership and runs lead for as long as it lasts.
func runLed(ctx context.Context, started <-chan context.Context, ended <-chan struct{}, lead func(context.Context) error) error {
	select {
	case <-ctx.Done():
		return nil
	case <-ended:
		return ErrLeaseLost
	case leading := <-started:
		// Leading ends with the lease, ctx with the process.
		both, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(leading, cancel)()
		err := lead(both)
		if leading.Err() != nil && ctx.Err() == nil {
			return errors.Join(ErrLeaseLost, err)
		}
		return err
	}
}
