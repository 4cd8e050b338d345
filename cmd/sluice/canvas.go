package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// style is how a terminal shows a text: an escape sequence, or nothing.
type style string

// The colours say what to think of it: good, bad, and somebody should know.
const (
	plain style = ""
	good  style = "\x1b[32m"
	bad   style = "\x1b[31m"
	heed  style = "\x1b[33m"
	// unstyled ends a style.
	unstyled = "\x1b[m"
	// emptied is an empty screen.
	emptied = "\x1b[H\x1b[2J"
)

// span is a text of one style.
type span struct {
	text  string
	style style
}

// canvas is what a screen is drawn on: a terminal, a file or a pipe.
type canvas struct {
	// w escapes whatever would drive a terminal, which is for raw alone to do.
	w, raw io.Writer
	// width in columns; 0: lines are as long as they are.
	width          int
	terminal, tint bool
}

// newCanvas finds out what a command prints to.
func newCanvas(w io.Writer) canvas {
	c := canvas{w: w}
	v, ok := w.(*visible)
	if !ok {
		return c
	}
	c.raw = v.to
	f, ok := v.to.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return c
	}
	c.terminal, c.tint = true, os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if columns, _, err := term.GetSize(int(f.Fd())); err == nil {
		c.width = columns
	}
	return c
}

// put writes a text.
func (c canvas) put(s span) {
	if s.style == plain || !c.tint {
		_, _ = io.WriteString(c.w, s.text)
		return
	}
	_, _ = io.WriteString(c.raw, string(s.style))
	_, _ = io.WriteString(c.w, s.text)
	_, _ = io.WriteString(c.raw, unstyled)
}

// gap is between two items of a row.
const gap = "   "

// leastRoom is the number of columns that a text gets on however narrow a terminal.
const leastRoom = 24

// row writes a label and items that follow it, each on the same line if it fits there, else below the first.
func (c canvas) row(indent int, label span, items ...span) {
	c.put(label)
	at := utf8.RuneCountInString(label.text)
	if at < indent {
		c.put(span{text: strings.Repeat(" ", indent-at)})
		at = indent
	}
	first := true
	for _, item := range items {
		text := cell(item.text)
		if text == "" {
			continue
		}
		size := utf8.RuneCountInString(text)
		switch {
		case first:
		case c.width == 0 || at+len(gap)+size <= c.width:
			c.put(span{text: gap})
			at += len(gap)
		default:
			at = c.below(indent)
		}
		first = false
		for i, line := range c.folded(text, indent) {
			if i > 0 {
				at = c.below(indent)
			}
			c.put(span{line, item.style})
			at += utf8.RuneCountInString(line)
		}
	}
	c.put(span{text: "\n"})
}

// below begins a line.
func (c canvas) below(indent int) int {
	c.put(span{text: "\n" + strings.Repeat(" ", indent)})
	return indent
}

// folded cuts a text between words into lines that fit beside an indent.
func (c canvas) folded(text string, indent int) []string {
	room := max(c.width-indent, leastRoom)
	if c.width == 0 {
		return []string{text}
	}
	var lines []string
	var line string
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) <= room:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	return append(lines, line)
}

// lasting is a length of time as people say it: one number.
func lasting(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0 s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	default:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	}
}

// instant is a time with its age.
func instant(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s UTC (%s ago)", clock(t, now), lasting(now.Sub(t)))
}

// clock is a time in UTC, with its date where that is not today's.
func clock(t, now time.Time) string {
	t, now = t.UTC(), now.UTC()
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}
