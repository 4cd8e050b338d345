package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// narrator tells the demo's story: plain lines in a pipe; in a terminal the same lines above one that shows how far
// the present rollout is. It is safe for concurrent use.
type narrator struct {
	mu       sync.Mutex
	w        io.Writer
	terminal bool
	// colour is for what ends a rollout, well or badly.
	colour bool
	// width of the terminal in columns, asked for each time, for it may change.
	width func() int
	start time.Time
	// bar is the line at the bottom of a terminal; empty: none is shown.
	bar string
	// rest is the part of a line that Write has not seen the end of.
	rest string
}

func newNarrator(w io.Writer) *narrator {
	n := &narrator{w: w, start: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		n.terminal, n.colour = true, os.Getenv("NO_COLOR") == ""
		n.width = func() int {
			columns, _, err := term.GetSize(int(f.Fd()))
			if err != nil || columns < 1 {
				return 80
			}
			return columns
		}
	}
	return n
}

// say prints a line with the time since the start.
func (n *narrator) say(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.line(fmt.Sprintf("%7.1fs  ", time.Since(n.start).Seconds()) + fmt.Sprintf(format, args...))
}

func (n *narrator) heading(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	n.bar = ""
	n.line("")
	n.line("== " + text)
}

// block prints text indented, as it is.
func (n *narrator) block(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for line := range strings.Lines(text) {
		n.line("    " + strings.TrimRight(line, "\n"))
	}
}

// event tells one event.
func (n *narrator) event(e demoEvent) {
	n.say("%-13s  %s", e.place, n.painted(e.Event, words(e)))
	n.show(bar(e))
}

// words of an event: the demo has one app, and from where to where a rollout goes is said when it begins and when it ends.
func words(e demoEvent) string {
	text := strings.TrimPrefix(audit.Describe(e.app, e.Event), demoApp+": ")
	if e.Type == rollout.RolloutStarted || audit.Ends(e.Type) {
		return text
	}
	return strings.Replace(text, " ("+e.From.Version+" -> "+e.To.Version+")", "", 1)
}

const (
	green  = "\x1b[32m"
	red    = "\x1b[31m"
	normal = "\x1b[m"
)

// painted has what happened in colour, and why it did not.
func (n *narrator) painted(e rollout.Event, text string) string {
	paint := ""
	switch {
	case audit.Level(e.Type) >= slog.LevelWarn:
		paint = red
	case audit.Ends(e.Type):
		paint = green
	}
	if !n.colour || paint == "" {
		return text
	}
	what, why, _ := strings.Cut(text, ": ")
	if why != "" {
		why = ": " + why
	}
	return paint + what + normal + why
}

// show puts a line at the bottom of a terminal in place of the one that is there.
func (n *narrator) show(bar string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	n.bar = bar
	n.draw()
}

// bar shows the canary's share of the traffic while a rollout is under way.
func bar(e demoEvent) string {
	if audit.Ends(e.Type) || e.To.IsZero() {
		return ""
	}
	const width = 30
	full := e.Weight * width / 100
	return fmt.Sprintf("%-13s  %s -> %s  [%s%s] %s", e.place, e.From.Version, e.To.Version,
		strings.Repeat("#", full), strings.Repeat(".", width-full), rollout.Percent(e.Weight))
}

// Write prints whole lines, for what reports its progress to a writer. Indented ones are details of the one before, which
// follow one another fast: a terminal shows the newest at its bottom.
func (n *narrator) Write(p []byte) (int, error) {
	n.mu.Lock()
	text := n.rest + string(p)
	end := strings.LastIndexByte(text, '\n') + 1
	n.rest = text[end:]
	n.mu.Unlock()
	for line := range strings.Lines(text[:end]) {
		line = strings.TrimRight(line, "\n")
		detail := strings.TrimPrefix(line, "  ")
		if !n.terminal || detail == line {
			n.show("")
			n.say("%s", line)
			continue
		}
		n.show(detail)
	}
	return len(p), nil
}

func (n *narrator) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	n.bar = ""
}

func (n *narrator) line(text string) {
	n.erase()
	fmt.Fprintln(n.w, text)
	n.draw()
}

func (n *narrator) erase() {
	if n.terminal && n.bar != "" {
		fmt.Fprint(n.w, "\r\x1b[K")
	}
}

func (n *narrator) draw() {
	if n.terminal && n.bar != "" {
		// A line that wraps could not be erased.
		fmt.Fprintf(n.w, "%.*s", n.width()-1, n.bar)
	}
}
