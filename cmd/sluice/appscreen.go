package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// appScreen is all that git says of one app, for a person.
type appScreen struct {
	audit.Status
	app audit.Record
	// events of the app, newest first.
	events []logEntry
	now    time.Time
}

// readApp reads the one app of a report, and what the log tells of it.
func readApp(ctx context.Context, repo *gitsync.Repo, tip *gitsync.Snapshot, st statusReport, now time.Time) (appScreen, error) {
	history, err := repo.Commits(ctx, tip.Commit, "", 0)
	if err != nil {
		return appScreen{}, err
	}
	app := st.Apps[0]
	return appScreen{Status: st.Status, app: app, events: entries(history, []string{app.App}, 0), now: now}, nil
}

// print implements report; it has no JSON.
func (s appScreen) print(w io.Writer, _ bool) error {
	s.draw(newCanvas(w))
	return nil
}

func (s appScreen) faulty() bool { return s.Faults() != "" || s.app.Fault != "" }

const (
	// indentLabel is where what is told begins, indentCheck where it does below.
	indentLabel = 16
	// mostEvents and mostRejected are shown.
	mostEvents, mostRejected = 5, 3
)

// fact is a row of the screen.
func fact(c canvas, s style, label string, items ...span) {
	c.row(indentLabel, span{"  " + label, s}, items...)
}

// draw shows the screen.
func (s appScreen) draw(c canvas) {
	r := s.app
	where := s.Environment
	if s.Cluster != "" {
		where += "/" + s.Cluster
	}
	seen := "as of " + instant(s.Updated, s.now)
	if s.Commit != "" {
		seen += fmt.Sprintf(", commit %.10s", s.Commit)
	}
	c.row(0, span{text: cell(r.App) + gap}, span{text: where}, span{text: seen})
	if s.Faults() != "" {
		fact(c, bad, "environment", span{text: "error: " + s.Faults()})
	}
	if s.Silent(s.now) {
		fact(c, bad, "agent", span{text: silence(s.Status)})
	}
	s.drawServes(c)
	s.drawRollout(c)
	s.drawObstacles(c)
	s.drawEnded(c)
	for i, e := range s.events[:min(len(s.events), mostEvents)] {
		label := ""
		if i == 0 {
			label = "recent"
		}
		at := fmt.Sprintf("%-*s%s  ", indentLabel, "  "+label, clock(e.Time, s.now))
		c.row(len(at), span{text: at}, span{brief(e), verdictOf(e)})
	}
}

func (s appScreen) drawServes(c canvas) {
	r := s.app
	if r.Serves.Name() == "" {
		what := "nothing yet"
		if r.Gone() {
			what = "nothing: removed from git"
		}
		fact(c, plain, "serves", span{text: what})
		return
	}
	since := ""
	if at := s.servesSince(); !at.IsZero() {
		since = "since " + instant(at, s.now)
	}
	fact(c, plain, "serves", span{text: r.Serves.Name()}, span{text: since}, span{text: askedBy(r.Serves)})
}

// servesSince is when the log says that what serves took over; zero: it does not say.
func (s appScreen) servesSince() time.Time {
	for _, e := range s.events {
		began := e.Type == rollout.Installed || e.Type == rollout.Promoted || e.Type == rollout.Applied && e.Rollout == 0
		if began && e.To.Digest == s.app.Serves.Digest {
			return e.Time
		}
	}
	return time.Time{}
}

// askedBy is the commit that asked for a release, and its author.
func askedBy(r audit.Release) string {
	if r.Commit == "" {
		return ""
	}
	text := fmt.Sprintf("commit %.10s", r.Commit)
	if r.By != "" {
		text += " by " + r.By
	}
	return text
}

func (s appScreen) drawRollout(c canvas) {
	r := s.app
	if r.Target.Name() == "" {
		return
	}
	p := r.Progress
	course := spaced(r.Phase)
	if p.Steps > 0 && r.Phase == string(rollout.Analyzing) {
		course = fmt.Sprintf("step %d of %d", p.Step, p.Steps)
	}
	items := []span{{text: r.Target.Name()}, {text: course}}
	if p.Steps > 0 || r.Weight > 0 {
		items = append(items, span{text: bar(r.Weight) + " " + rollout.Percent(r.Weight)})
	}
	if p.Threshold > 0 {
		failed := span{text: fmt.Sprintf("failed checks %d of %d", p.FailedChecks, p.Threshold)}
		if p.FailedChecks > 0 {
			failed.style = bad
		}
		items = append(items, span{text: s.nextCheck()}, failed)
	}
	label := "rolling out"
	if r.Serves.Name() == "" {
		label = "installing"
	}
	fact(c, plain, label, append(items, span{text: askedBy(r.Target)})...)
	if r.Stalled != "" {
		fact(c, heed, "stalled", span{text: r.Stalled})
	}
	for _, check := range r.Checks {
		mark := span{"    no verdict", heed}
		switch analysis.Outcome(check.Outcome) {
		case analysis.Pass:
			mark = span{"    pass", good}
		case analysis.Fail:
			mark = span{"    fail", bad}
		case analysis.Inconclusive:
		}
		c.row(indentLabel, mark, span{text: check.Name}, span{text: check.Reason})
	}
}

// nextCheck is when the checks are looked at again, where that is a matter of time.
func (s appScreen) nextCheck() string {
	r := s.app
	if r.Phase != string(rollout.Analyzing) || r.Paused != "" || r.Waiting != "" {
		return ""
	}
	interval := time.Duration(r.Progress.IntervalSeconds * float64(time.Second))
	if left := r.Updated.Add(interval).Sub(s.now); left > 0 {
		return "next check in " + lasting(left)
	}
	return "next check is due"
}

// drawObstacles tells what keeps the app from getting on, and what to do.
func (s appScreen) drawObstacles(c canvas) {
	r := s.app
	command := func(verb string) span { return span{text: "sluice " + verb + " " + r.App + " --reason WHY"} }
	if r.Degraded != "" {
		fact(c, bad, "degraded", span{text: r.Degraded})
	}
	if r.Fault != "" {
		fact(c, bad, "error", span{text: r.Fault})
		fact(c, plain, "", span{text: "fix it in git; the running release is not affected"})
	}
	if r.Paused != "" {
		fact(c, heed, "paused", span{text: "by " + r.Paused})
		fact(c, plain, "", span{text: "to continue:"}, command("resume"))
	}
	if r.Held != "" {
		fact(c, heed, "held", span{text: "by " + r.Held})
		fact(c, plain, "", span{text: "to allow the next rollout:"}, command("unhold"))
	}
	if r.Waiting == "" {
		return
	}
	shut := func(gate string) bool { return strings.Contains(r.Waiting, "gate "+gate+" is closed") }
	if shut(rollout.SuspendGate) {
		fact(c, heed, "suspended", span{text: r.Waiting})
		fact(c, plain, "", span{text: "to continue: remove suspend: true from the policy"})
		return
	}
	fact(c, heed, "waiting", span{text: r.Waiting})
	if shut(rollout.ApprovalGate) {
		fact(c, plain, "", span{text: "to approve it:"}, command("approve"))
	}
}

// drawEnded tells of releases that do not serve, and what became of them in git.
func (s appScreen) drawEnded(c canvas) {
	r := s.app
	last := r.Last.Became() != "" && r.Target.Name() == "" && r.Last.Release.Name() != r.Serves.Name()
	if last {
		fact(c, bad, "last", span{text: ending(r)})
		if r.Rollback != "" {
			fact(c, plain, "", span{text: fmt.Sprintf("reverted in git by commit %.10s; to try it again:", r.Rollback)},
				span{text: fmt.Sprintf("git revert %.10s && git push", r.Rollback)})
		}
	}
	label := "rejected"
	for i, no := range slices.Backward(r.Rejected) {
		if len(r.Rejected)-i > mostRejected {
			return
		}
		if last && no.Release.Digest == r.Last.Release.Digest && no.Release.Commit == r.Last.Release.Commit {
			continue // it was just told
		}
		fact(c, plain, label, span{text: no.Release.Name()}, span{text: no.Reason}, span{text: askedBy(no.Release)})
		label = ""
	}
}

// bar shows a weight.
func bar(weight int) string {
	const width = 30
	full := min(max(weight, 0), 100) * width / 100
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}

// spaced writes RollingBack as "rolling back".
func spaced(phase string) string {
	var b strings.Builder
	for i, r := range phase {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte(' ')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// brief tells an event to who knows of which app it is: between which releases a rollout goes is said where it begins and ends.
func brief(e logEntry) string {
	text := strings.TrimPrefix(audit.Describe(e.App, e.Event), e.App+": ")
	if e.Type == rollout.RolloutStarted || audit.Ends(e.Type) {
		return text
	}
	return strings.Replace(text, " ("+e.From.Name()+" -> "+e.To.Name()+")", "", 1)
}

// verdictOf is what to think of an event.
func verdictOf(e logEntry) style {
	switch {
	case audit.Level(e.Type) >= slog.LevelWarn:
		return bad
	case audit.Ends(e.Type):
		return good
	default:
		return plain
	}
}
