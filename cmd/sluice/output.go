package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// visible is where all output goes: charts, git and servers have a hand in it, and none of them may drive the terminal, or the
// page of a forge, that shows it. Control characters, C1 among them, and what turns the direction of a text or has no width
// come out as \u001b, which in JSON says the same as the character.
type visible struct {
	to io.Writer
	// rest is the beginning of a character whose end is yet to be written.
	rest []byte
}

// Write implements io.Writer.
func (v *visible) Write(p []byte) (int, error) {
	text := append(v.rest, p...)
	v.rest = nil
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1 && !utf8.FullRune(text):
			v.rest, size = append([]byte{}, text...), len(text)
		case r == utf8.RuneError && size == 1:
			out = fmt.Appendf(out, `\x%02x`, text[0])
		case hidden(r) && r > 0xffff:
			out = fmt.Appendf(out, `\U%08x`, r)
		case hidden(r):
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = append(out, text[:size]...)
		}
		text = text[size:]
	}
	if _, err := v.to.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// hidden reports whether a terminal would do something else with a character than to show it.
func hidden(r rune) bool {
	return r != '\n' && r != '\t' && unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp)
}

// asIs is the writer behind a visible one that leads to a file or to a pipe: what a program reads has to be byte for byte
// what it is.
func asIs(w io.Writer) io.Writer {
	v, ok := w.(*visible)
	if !ok {
		return w
	}
	if f, ok := v.to.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			return w
		}
	}
	return v.to
}

// tell prints one thing on a line. What of it comes on further lines is indented, so that no text of somebody's passes for a line
// of ours.
func tell(w io.Writer, format string, args ...any) error {
	_, err := io.WriteString(w, indented(fmt.Sprintf(format, args...))+"\n")
	return err
}

// indented is a text whose lines after the first are indented.
func indented(text string) string {
	return strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n         ")
}

// cell is a text for one cell of a table.
func cell(text string) string { return strings.Join(strings.Fields(text), " ") }
