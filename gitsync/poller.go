package gitsync

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// firstRetry is the delay after a failed poll; it doubles up to maxRetry, or the interval if that is longer.
	firstRetry = time.Second
	maxRetry   = time.Minute
	// nudgeGap is the least time between two polls, whoever asks for them.
	nudgeGap = 500 * time.Millisecond
)

// Poller fetches a branch at an interval, and sooner when it is nudged.
type Poller struct {
	interval time.Duration
	fetch    func(context.Context) (*Snapshot, error)
	nudged   chan struct{}
}

// NewPoller polls with fetch, such as [Repo.Fetch], every interval, 10 % more or less so that many agents do not ask at once;
// default one minute.
func NewPoller(fetch func(context.Context) (*Snapshot, error), interval time.Duration) *Poller {
	if interval <= 0 {
		interval = time.Minute
	}
	return &Poller{interval: interval, fetch: fetch, nudged: make(chan struct{}, 1)}
}

// Nudge asks for a poll now, as a webhook does. It never blocks; nudges that come faster than the poller polls
// are one.
func (p *Poller) Nudge() {
	select {
	case p.nudged <- struct{}{}:
	default:
	}
}

// Run polls until ctx ends, and returns why it did. It calls back, one call at a time, with each new Snapshot and
// with each error. After errors it polls again sooner than usual at first, and then at growing distances. So it does when
// the callback returns an error for a Snapshot, which it is given again then: what it could not read may be back.
func (p *Poller) Run(ctx context.Context, callback func(*Snapshot, error) error) error {
	var last *Snapshot
	failures := 0
	for {
		snap, err := p.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			failures++
			_ = callback(nil, err)
		case last != nil && last.Commit == snap.Commit:
			failures = 0
		case callback(snap, nil) != nil:
			failures++
			last = nil
		default:
			failures, last = 0, snap
		}
		if err := p.wait(ctx, failures); err != nil {
			return err
		}
	}
}

func (p *Poller) wait(ctx context.Context, failures int) error {
	delay := jitter(p.delay(failures))
	gap := time.NewTimer(min(delay, nudgeGap))
	defer gap.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-gap.C:
	}
	if delay <= nudgeGap {
		return nil
	}
	rest := time.NewTimer(delay - nudgeGap)
	defer rest.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-rest.C:
	case <-p.nudged:
	}
	return nil
}

// delay until the next poll after so many failures in a row.
func (p *Poller) delay(failures int) time.Duration {
	if failures == 0 {
		return p.interval
	}
	return min(firstRetry<<min(failures-1, 16), max(maxRetry, p.interval))
}

// jitter is d, 10 % more or less.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1) //nolint:gosec // no secret
}
