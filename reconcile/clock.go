package reconcile

import "time"

// Clock is the time that the loop goes by.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f on a goroutine of its own when d has passed, unless it is stopped before.
	AfterFunc(d time.Duration, f func()) (stop func())
}

// realClock is everybody's.
type realClock struct{}

func (realClock) Now() time.Time { return time.Now() } //nolint:forbidigo // the loop is the edge

func (realClock) AfterFunc(d time.Duration, f func()) (stop func()) {
	t := time.AfterFunc(d, f)
	return func() { t.Stop() }
}
