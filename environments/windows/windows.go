// Package windows says when the clock lets rollouts begin and get on: spans of time that begin by a cron expression, in a time
// zone, in which that is allowed or denied. Denied wins.
//
// It is pure: every answer is for an instant that the caller names. Values may be used by any number of goroutines.
package windows

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Set are the windows of an environment or of an app. The zero Set is always open.
type Set struct {
	// Allow: outside of all of these nothing begins and nothing gets on; none: the whole time is allowed. Deny: nor in any of these.
	Allow, Deny []Window
	// Overrun is what becomes of what is under way when a window closes.
	Overrun Overrun
}

// Overrun is what becomes of a rollout that is under way when a window closes. A rollback ends in any case.
type Overrun string

const (
	// Hold keeps its weight where it is until the window opens again. The default.
	Hold Overrun = "Hold"
	// Finish lets what has begun go on to its end.
	Finish Overrun = "Finish"
)

// Window is a span of time that comes again and again.
type Window struct {
	// Schedule is a cron expression of five fields, or a macro such as @daily: when it begins, on the clocks of the time zone.
	Schedule string
	// Duration is its length, by a clock that knows no summer time.
	Duration time.Duration
	// Zone is an IANA name such as Europe/Berlin; empty: UTC.
	Zone string
	// Reason says what it is for, for people; may be empty.
	Reason string

	starts   cron.Schedule
	location *time.Location
}

// MaxDuration is the length of the longest window: a year.
const MaxDuration = 366 * 24 * time.Hour

var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// ErrZone is returned for a time zone that is none.
var ErrZone = errors.New("no time zone")

// New makes a window. An error says what is wrong with its schedule, or is ErrZone.
func New(schedule string, d time.Duration, zone, reason string) (Window, error) {
	w := Window{Schedule: schedule, Duration: d, Zone: cmp.Or(zone, "UTC"), Reason: reason}
	if zone == "Local" { // which is the zone of whatever machine the agent runs on
		return w, ErrZone
	}
	var err error
	if w.location, err = time.LoadLocation(w.Zone); err != nil {
		return w, ErrZone
	}
	if strings.Contains(schedule, "TZ=") {
		return w, errors.New("it names a time zone")
	}
	if w.starts, err = parser.Parse(schedule); err != nil {
		return w, err
	}
	if _, regular := w.starts.(*cron.SpecSchedule); !regular {
		return w, errors.New("@every begins whenever the agent does")
	}
	if w.starts.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return w, errors.New("no day is like that")
	}
	return w, nil
}

// shift is more than clocks are ever put forward or back.
const shift = 3 * time.Hour

// beginnings calls yield with when the window begins at or after an instant, until that returns false. It begins once for each
// time that the clocks of its zone show, or would show had they not been put forward: the library by itself leaves those out.
// They come in the order of the clocks, which is the order of time but for what is within a shift.
func (w Window) beginnings(from time.Time, yield func(time.Time) bool) {
	for clock := w.starts.Next(clocks(from.In(w.location)).Add(-shift)); !clock.IsZero(); clock = w.starts.Next(clock) {
		y, m, d := clock.Date()
		if begins := time.Date(y, m, d, clock.Hour(), clock.Minute(), 0, 0, w.location); !begins.Before(from) && !yield(begins) {
			return
		}
	}
}

// clocks is what they show, as if it were UTC.
func clocks(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}

// at reports whether the window is open. next is when that may change at the earliest.
func (w Window) at(t time.Time) (open bool, next time.Time) {
	w.beginnings(t.Add(-w.Duration).Add(1), func(begins time.Time) bool {
		switch {
		case !begins.After(t):
			open, next = true, begins.Add(w.Duration)
			return false
		case next.IsZero() || begins.Before(next):
			next = begins
		}
		return begins.Before(next.Add(shift)) // an earlier one may come later
	})
	return open, next
}

// State is what a Set says of an instant.
type State struct {
	Open bool
	// Reason says why it is closed, for people.
	Reason string
	// Next is when that may change at the earliest; zero: never.
	Next time.Time
}

// At is what the windows say of an instant.
func (s *Set) At(t time.Time) State {
	if s == nil {
		return State{Open: true}
	}
	out := State{Open: len(s.Allow) == 0}
	for _, w := range s.Allow {
		open, next := w.at(t)
		out.Open = out.Open || open
		out.Next = earliest(out.Next, next)
	}
	if !out.Open {
		out.Reason = "no window is open"
	}
	for _, w := range s.Deny {
		open, next := w.at(t)
		if open {
			out.Open = false
			out.Reason = "no rollout may start or advance in " + w.String()
		}
		out.Next = earliest(out.Next, next)
	}
	return out
}

// String is what people call it: its reason, or else its schedule.
func (w Window) String() string {
	if w.Reason != "" {
		return w.Reason
	}
	return fmt.Sprintf("the window %q of %s", w.Schedule, w.Duration)
}

func earliest(x, y time.Time) time.Time {
	if x.IsZero() || !y.IsZero() && y.Before(x) {
		return y
	}
	return x
}

// maxChanges is how many instants at which it may change Change looks at: windows that follow one another without a gap are one.
const maxChanges = 1000

// Change is when what is open is closed, or the other way round, for the first time after an instant; zero: not in a long time.
func Change(t time.Time, sets ...*Set) time.Time {
	open, next := all(t, sets)
	for range maxChanges {
		if next.IsZero() {
			return next
		}
		was := next
		var is bool
		if is, next = all(next, sets); is != open {
			return was
		}
	}
	return time.Time{}
}

// all reports whether all sets are open, and when that may change.
func all(t time.Time, sets []*Set) (open bool, next time.Time) {
	open = true
	for _, s := range sets {
		state := s.At(t)
		open = open && state.Open
		next = earliest(next, state.Next)
	}
	return open, next
}
