package main

import (
	"fmt"
	"io"
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
	start    time.Time
	// bar is the line at the bottom of a terminal; empty: none is shown.
	bar string
	// rest is the part of a line that Write has not seen the end of.
	rest string
}

func newNarrator(w io.Writer) *narrator {
	f, ok := w.(*os.File)
	return &narrator{w: w, terminal: ok && term.IsTerminal(int(f.Fd())), start: time.Now()}
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
	n.say("%-10s  %s", e.environment, audit.Describe(e.app, e.Event))
	n.mu.Lock()
	defer n.mu.Unlock()
	n.erase()
	n.bar = bar(e)
	n.draw()
}

// bar shows the canary's share of the traffic while a rollout is under way.
func bar(e demoEvent) string {
	if ends[e.Type] && e.Type != rollout.Degraded || e.To.IsZero() {
		return ""
	}
	const width = 40
	full := e.Weight * width / 100
	return fmt.Sprintf("%s  %s -> %s  [%s%s] %d %%", e.environment, e.From.Version, e.To.Version,
		strings.Repeat("#", full), strings.Repeat(".", width-full), e.Weight)
}

// Write prints whole lines, for what reports its progress to a writer.
func (n *narrator) Write(p []byte) (int, error) {
	n.mu.Lock()
	text := n.rest + string(p)
	end := strings.LastIndexByte(text, '\n') + 1
	n.rest = text[end:]
	n.mu.Unlock()
	for line := range strings.Lines(text[:end]) {
		n.say("%s", strings.TrimRight(line, "\n"))
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
		fmt.Fprint(n.w, n.bar)
	}
}
