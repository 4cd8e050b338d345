package main

import (
	"bytes"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/generated"
)

// tell is a piece of the story, with all that a narrator can be asked to say.
func tell(n *narrator) {
	n.heading("Starting")
	fmt.Fprint(n, "building: 200 packages\n  56 packages compiled, 10s\n  99 packages")
	fmt.Fprint(n, " compiled, 20s\nbuilt\n")
	from, to := rollout.Release{Version: "0.0.129", Digest: "a"}, rollout.Release{Version: "0.0.130", Digest: "b"}
	n.event(demoEvent{"production", demoApp, rollout.Event{Type: rollout.Advanced, From: from, To: to, Weight: 50, Reason: "the canary is ready"}})
	n.say("a word between")
	n.event(demoEvent{"production", demoApp, rollout.Event{Type: rollout.Promoted, From: from, To: to}})
	n.block("one\ntwo\n")
	n.close()
}

var times = regexp.MustCompile(`(?m)^ +\d+\.\d+s`)

func TestNarratorInAPipe(t *testing.T) {
	var b bytes.Buffer
	tell(newNarrator(&b))
	const want = `
== Starting
 0.0s  building: 200 packages
 0.0s    56 packages compiled, 10s
 0.0s    99 packages compiled, 20s
 0.0s  built
 0.0s  production     advanced to 50%: the canary is ready
 0.0s  a word between
 0.0s  production     promoted (0.0.129 -> 0.0.130)
    one
    two
`
	if got := times.ReplaceAllString(b.String(), " 0.0s"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// A terminal shows the newest detail and the present weight at its bottom, never in two lines, and keeps neither.
func TestNarratorInATerminal(t *testing.T) {
	for _, width := range []int{20, 60, 80, 160} {
		var b bytes.Buffer
		n := newNarrator(&b)
		n.terminal, n.width = true, func() int { return width }
		tell(n)
		kept := screen(t, b.String(), width)
		for _, line := range strings.Split(kept, "\n") {
			if strings.Contains(line, "packages compiled") || strings.Contains(line, "[#") {
				t.Errorf("%d columns: a progress line was kept: %q", width, line)
			}
		}
		for _, shown := range []string{"99 packages compiled", "production     0.0.129 -> 0.0.130  [###############...............] 50%"} {
			if shown = shown[:min(len(shown), width-1)]; !strings.Contains(b.String(), shown) {
				t.Errorf("%d columns: %q was never shown", width, shown)
			}
		}
		for _, said := range []string{"built", "a word between", "promoted (0.0.129 -> 0.0.130)", "    two"} {
			if !strings.Contains(kept, said) {
				t.Errorf("%d columns: %q was not kept", width, said)
			}
		}
	}
}

// screen is what a terminal keeps of text: a line that is erased is gone. What is erased must not have wrapped.
func screen(t *testing.T, text string, width int) string {
	t.Helper()
	const erase = "\r\x1b[K"
	var kept strings.Builder
	line := ""
	for text != "" {
		switch {
		case strings.HasPrefix(text, erase):
			if len(line) >= width {
				t.Errorf("%d columns: %q wraps and is erased", width, line)
			}
			line, text = "", text[len(erase):]
		case text[0] == '\n':
			kept.WriteString(line + "\n")
			line, text = "", text[1:]
		default:
			line, text = line+text[:1], text[1:]
		}
	}
	return kept.String() + line
}

// TestStory: the whole story, as a pipe has it and in colour. A terminal keeps the same of it, whatever its width.
func TestStory(t *testing.T) {
	story := func(width int, colour bool) string {
		var b bytes.Buffer
		n := newNarrator(&b)
		n.terminal, n.width, n.colour = width > 0, func() int { return width }, colour
		narrate(n)
		text := b.String()
		if width > 0 {
			text = screen(t, text, width)
		}
		return strings.ReplaceAll(times.ReplaceAllString(text, "    0.0s"), "\x1b", "^")
	}
	plain, coloured := story(0, false), story(80, true)
	for _, width := range []int{60, 80, 160} {
		if got := story(width, false); got != plain {
			t.Errorf("a terminal of %d columns keeps\n%s", width, got)
		}
		if got := story(width, true); got != coloured {
			t.Errorf("with colours a terminal of %d columns keeps\n%s", width, got)
		}
	}
	generated.Check(t, "UPDATE_STORY", filepath.Join("testdata", "story.golden"), plain+"\n== in colour ==\n\n"+coloured)
}

// narrate tells the story with events as an agent has written them.
func narrate(n *narrator) {
	d := &demo{out: n, places: []place{"staging", "production"}, ended: map[string]rollout.Event{}}
	release := func(version string) rollout.Release { return rollout.Release{Version: version, Digest: version} }
	from, to := rollout.Release{}, release(demoFirst)
	hear := func(p place, typ rollout.EventType, weight int, reason string) {
		d.hear(demoEvent{p, demoApp, rollout.Event{Type: typ, Rollout: 1, From: from, To: to, Weight: weight, Reason: reason}})
	}
	n.block(d.introduction())
	n.heading(headFirst)
	hear("staging", rollout.Installed, 0, "")
	hear("production", rollout.Installed, 0, "")
	n.heading(headGood)
	from, to = to, release(demoGood)
	hear("staging", rollout.Promoted, 0, "")
	hear("production", rollout.RolloutStarted, 0, "")
	hear("production", rollout.Advanced, 10, "the canary is ready")
	for weight := 20; weight <= 50; weight += 10 {
		hear("production", rollout.Advanced, weight, "success rate 100.00% >= 99%")
	}
	hear("production", rollout.PromotionStarted, 50, "success rate 100.00% >= 99%")
	hear("production", rollout.Promoted, 0, "")
	n.heading(headBad)
	from, to = to, release(demoBad)
	hear("production", rollout.RolloutStarted, 0, "")
	hear("production", rollout.Advanced, 10, "the canary is ready")
	hear("production", rollout.CheckFailed, 10, "success rate 69.17% < 99% (failed check 1 of 2)")
	hear("production", rollout.RollbackStarted, 0, "success rate 69.17% < 99% (2 of 2 checks failed)")
	hear("production", rollout.RolledBack, 0, "success rate 69.17% < 99% (2 of 2 checks failed)")
	d.seen()
	n.close()
}

// What ends well or badly is in colour, its reason is not; nothing is where nobody wants colours.
func TestColour(t *testing.T) {
	for typ, want := range map[rollout.EventType]string{
		rollout.Promoted:   "\x1b[32mit happened\x1b[m: why",
		rollout.RolledBack: "\x1b[31mit happened\x1b[m: why",
		rollout.Advanced:   "it happened: why",
	} {
		n := narrator{colour: true}
		if got := n.painted(rollout.Event{Type: typ}, "it happened: why"); got != want {
			t.Errorf("%s: %q, want %q", typ, got, want)
		}
		n.colour = false
		if got := n.painted(rollout.Event{Type: typ}, "it happened: why"); got != "it happened: why" {
			t.Errorf("%s without colours: %q", typ, got)
		}
	}
}
