package feedback

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/clusters"
)

// Forecast is what would come of a pull request, in words that may be told.
type Forecast struct {
	// Apps that would change, with what would happen to each in one line.
	Apps []ForecastApp
	// Text tells all of it, but for so many lines that were left out at its end.
	Text    string
	LeftOut int
	// Fault is why nothing can be told; empty: it can.
	Fault string
	// Again: not all of it could be told, which may be better later.
	Again bool
}

// ForecastApp is one app of a Forecast.
type ForecastApp struct{ App, Line string }

// A flood of pull requests is bounded: so many have a forecast, and so many of these are made in one look, each in this time. One
// that could not tell everything is made again after a while.
const (
	maxForecasts   = 20
	forecastsALook = 2
	forecastTime   = time.Minute
	forecastAgain  = 10 * time.Minute
	// maxParted bounds the commits that are walked to where a pull request has left the branch.
	maxParted = 10_000
)

// foretold is a forecast that was made, and what of it was told.
type foretold struct {
	Forecast
	// head was compared with base, where it has left the branch when that was at tip.
	head, base, tip string
	at              time.Time
	// merged: the branch has it already, though the forge still calls it open. What was foretold stays.
	merged bool
	// comment is what the pull request says.
	comment string
}

// forecasts keeps the comments that tell what would come of open pull requests, of which the newest come first.
func (r *Reporter) forecasts(ctx context.Context, open []forge.Pull, tip *gitsync.Snapshot, own clusters.Cluster) error {
	if r.cfg.Forecast == nil {
		return nil
	}
	r.tooMany(open)
	open = open[:min(len(open), maxForecasts)]
	kept := make(map[int]foretold, len(open))
	var faults []error
	left := forecastsALook
	for _, p := range open {
		f, known := r.foretold[p.Number]
		if stale := !known || f.head != p.Commit || f.Again && r.cfg.Now().Sub(f.at) > forecastAgain; stale || f.tip != tip.Commit {
			made, err := r.foretell(ctx, p, f, stale, &left, tip)
			faults = append(faults, err)
			if made != nil {
				f, known = *made, true
			}
		}
		if !known {
			continue
		}
		if !f.merged {
			faults = append(faults, r.sayForecast(ctx, p, &f, tip, own))
		}
		kept[p.Number] = f
	}
	r.foretold = kept
	return errors.Join(faults...)
}

// tooMany logs how many pull requests get no forecast, when that changes.
func (r *Reporter) tooMany(open []forge.Pull) {
	out := max(0, len(open)-maxForecasts)
	if out != r.leftOut && out > 0 {
		r.cfg.Log.Warn("too many pull requests are open: the oldest get no forecast", "open", len(open), "without", out)
	}
	r.leftOut = out
}

// foretell brings a forecast up to date: one that is not stale is made again only if the pull request is now to be compared with
// another commit. nil: it has to wait for its turn, or there is nothing to compare.
func (r *Reporter) foretell(ctx context.Context, p forge.Pull, was foretold, stale bool, left *int, tip *gitsync.Snapshot) (*foretold, error) {
	if *left <= 0 {
		return nil, nil
	}
	head, err := r.head(ctx, p)
	if head == nil {
		return nil, err
	}
	now := foretold{head: head.Commit, tip: tip.Commit, at: r.cfg.Now(), comment: was.comment}
	base, err := r.branch.MergeBase(tip.Commit, head.Commit, maxParted)
	switch {
	case err != nil:
		now.Fault = err.Error()
		return &now, nil
	case base.Commit == head.Commit:
		now.merged, now.Forecast, now.base = true, was.Forecast, was.base
		return &now, nil
	case !stale && base.Commit == was.base:
		was.tip, was.merged = tip.Commit, false
		return &was, nil
	}
	*left--
	working, cancel := context.WithTimeout(ctx, r.forecastTime)
	defer cancel()
	now.Forecast, now.base = r.cfg.Forecast(working, base, head).bounded(), base.Commit
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case working.Err() != nil:
		// What went wrong was that it was told to stop.
		now.Forecast = Forecast{Fault: fmt.Sprintf("it was not made in %s", r.forecastTime), Again: true}
	}
	return &now, nil
}

// sayForecast keeps the comment of one forecast.
func (r *Reporter) sayForecast(ctx context.Context, p forge.Pull, f *foretold, tip *gitsync.Snapshot, own clusters.Cluster) error {
	where := Parted{Branch: r.branch.Remote().Branch, Base: f.base, Head: f.head, Moved: f.base != tip.Commit}
	body := Foretold(r.cfg.Names, where, f.Forecast, r.judged[p.Number].back, own.Records)
	if f.comment == body {
		return nil
	}
	err := r.cfg.Forge.Comment(ctx, p.Number, forecastMarker(r.cfg.Names), body)
	if errors.Is(err, forge.ErrNotFound) {
		err = nil // it was deleted
	}
	if err == nil {
		f.comment = body
	}
	return err
}

// forecastMarker begins the comment; every cluster has its own.
func forecastMarker(n audit.Names) string {
	return "<!-- sluice: forecast of " + strings.TrimPrefix(contextOf(n), "sluice/") + " -->"
}

// Parted says between which commits a pull request was compared.
type Parted struct {
	// Branch is the one that Head has left at Base. Moved: it has gone on since.
	Branch, Base, Head string
	Moved              bool
}

// maxForecast bounds the text of a forecast, so that the comment is within what every forge takes.
const maxForecast = 36_000

// The list of apps before it is bounded too: how many, and the characters of each line.
const (
	maxListed = 25
	maxLine   = 200
)

// Foretold is the comment that tells a forecast, in Markdown. It is pure.
func Foretold(names audit.Names, at Parted, f Forecast, back string, records []audit.Record) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("**Forecast for %s**: what merging %.10s would do\n", strings.TrimPrefix(contextOf(names), "sluice/"), at.Head)
	for _, app := range f.Apps[:min(len(f.Apps), maxListed)] {
		line("- %s", cell(shortened(app.Line)))
	}
	if more := len(f.Apps) - maxListed; more > 0 {
		line("- and %d more", more)
	}
	switch {
	case f.Fault != "":
		line("No forecast: %s", cell(f.Fault))
	case len(f.Apps) == 0:
		line("No app changes.")
	}
	if back != "" {
		line("\n**Rolled back before**: %s", cell(back))
	}
	for _, r := range records {
		if held := cmp.Or(r.Held, r.Paused); held != "" && f.has(r.App) {
			line("\n**On hold**: %s: %s", cell(r.App), cell(held))
		}
	}
	if f.Text != "" || f.LeftOut > 0 {
		fence := fenceFor(f.Text)
		line("\n<details><summary>Details</summary>\n\n%stext\n%s\n%s", fence, f.Text, fence)
		if f.LeftOut > 0 {
			line("\n%d more lines: run `sluice plan` to see them.", f.LeftOut)
		}
		line("\n</details>")
	}
	if at.Base != "" {
		line("\n%.10s is compared with %.10s, where it left `%s`.%s", at.Head, at.Base, at.Branch, moved(at))
	}
	return b.String()
}

func moved(at Parted) string {
	if at.Moved {
		return " That branch has moved on since; this does not include it."
	}
	return ""
}

func (f Forecast) has(app string) bool {
	for _, a := range f.Apps {
		if a.App == app {
			return true
		}
	}
	return false
}

// bounded keeps of the text what a comment can have, in whole lines.
func (f Forecast) bounded() Forecast {
	f.Text = strings.TrimRight(f.Text, "\n")
	if len(f.Text) > maxForecast {
		end := max(0, strings.LastIndexByte(f.Text[:maxForecast], '\n'))
		f.LeftOut = 1 + strings.Count(strings.TrimPrefix(f.Text[end:], "\n"), "\n")
		f.Text = f.Text[:end]
	}
	if strings.Contains(f.Text, strings.Repeat("`", maxFence)) {
		f.Text = strings.ReplaceAll(f.Text, "`", "'")
	}
	return f
}

// maxFence bounds the fence around the text.
const maxFence = 40

// shortened bounds a line of the list; the text has all of it.
func shortened(line string) string {
	if all := []rune(line); len(all) > maxLine {
		return string(all[:maxLine-1]) + "…"
	}
	return line
}

// fenceFor is a fence of code that nothing in a text ends.
func fenceFor(text string) string {
	longest, run := 2, 0
	for _, c := range text {
		if c != '`' {
			run = 0
			continue
		}
		run++
		longest = max(longest, run)
	}
	return strings.Repeat("`", longest+1)
}
