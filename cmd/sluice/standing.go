package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// standing is what an app's record says of the release that a plan is about. Git alone can't tell it: right after a rollback, git goes
// from the failed version to the good one, and nothing happens, for the good one serves.
type standing struct {
	// Serves is the version that serves; empty: none does.
	Serves string `json:"serves,omitempty"`
	// Already: it is what the commit asks for.
	Already bool `json:"already,omitempty"`
	// RollingOut is the version under way, Asked whether it is the one that the commit asks for, Weight the canary's share in percent.
	RollingOut string `json:"rollingOut,omitempty"`
	Asked      bool   `json:"asked,omitempty"`
	Weight     int    `json:"weight,omitempty"`
	// Rejected says that the release was rolled back; nil: it was not.
	Rejected *rejection `json:"rejected,omitempty"`
	// Paused, Held and Waiting say who or what keeps it from going on, as in status. Suspended: the policy does.
	Paused    string `json:"paused,omitempty"`
	Held      string `json:"held,omitempty"`
	Waiting   string `json:"waiting,omitempty"`
	Suspended bool   `json:"suspended,omitempty"`
}

// rejection is how the release that a commit asks for has failed.
type rejection struct {
	Version string `json:"version"`
	Reason  string `json:"reason,omitempty"`
	// At is when; zero where the record does not say any more.
	At time.Time `json:"at,omitzero"`
	// Again: the commit asks for it anew.
	Again bool `json:"again"`
}

// wish is the release that a commit asks for, as its app's record would name it.
type wish struct {
	commit    string
	suspended bool
	// is reports whether a release of the record is this one.
	is func(audit.Release) bool
}

// stand compares an app's record with what a commit asks for.
func stand(r audit.Record, w wish) standing {
	is := func(x audit.Release) bool { return x != audit.Release{} && w.is(x) }
	s := standing{
		Serves: r.Serves.Name(), Paused: r.Paused, Held: r.Held, Waiting: r.Waiting, Suspended: w.suspended,
	}
	if r.Phase != string(rollout.RollingBack) { // else it is as good as gone
		s.RollingOut, s.Asked, s.Weight = r.Target.Name(), is(r.Target), r.Weight
	}
	if s.Already = is(r.Serves); s.Already || s.Asked {
		return s
	}
	for _, x := range slices.Backward(r.Rejected) {
		if !is(x.Release) {
			continue
		}
		s.Rejected = &rejection{Version: x.Release.Name(), Reason: x.Reason, Again: x.Release.Commit != w.commit}
		if last := r.Last; last.Outcome == string(rollout.RolledBack) && last.Release == x.Release {
			s.Rejected.At = last.At
		}
		break
	}
	return s
}

// ends reports whether a release is under way that the commit ends by asking for what serves.
func (s standing) ends() bool { return s.Already && s.RollingOut != "" }

// final reports whether nothing comes of the commit.
func (s standing) final() bool {
	return s.Already && s.RollingOut == "" || s.Rejected != nil && !s.Rejected.Again && s.RollingOut == ""
}

// lines tell what is not in the headline of a plan. What only keeps a release from going on is nothing to an app that gets none.
func (s standing) lines() (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if s.Rejected != nil {
		add("%s", s.Rejected)
	}
	if s.final() {
		return lines
	}
	at := ""
	if s.Weight > 0 {
		at = " at " + rollout.Percent(s.Weight)
	}
	switch {
	case s.RollingOut == "" || s.Already:
	case s.Asked:
		add("rolling out now%s", at)
	default:
		add("%s is rolling out now%s; this commit replaces it", s.RollingOut, at)
	}
	if s.Suspended {
		add("suspended: no rollout starts or advances until suspend is removed from the policy")
	}
	if s.Held != "" {
		add("held by %s: no rollout starts until sluice unhold", s.Held)
	}
	if s.Paused != "" {
		add("paused by %s: it does not advance until sluice resume", s.Paused)
	}
	if s.Waiting != "" {
		add("waiting: %s", s.Waiting)
	}
	return lines
}

func (r *rejection) String() string {
	text := r.Version + " was rolled back"
	if !r.At.IsZero() {
		text += " on " + r.At.UTC().Format("2 Jan 2006 15:04 UTC")
	}
	if r.Reason != "" {
		text += ": " + r.Reason
	}
	if r.Again {
		return text + "; this commit tries again"
	}
	return text + "; to try again, make a new commit that asks for it, or run sluice retry"
}
