package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/iotest"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"plain, é, 日本 and 🙂\n\ttab":        "plain, é, 日本 and 🙂\n\ttab",
		"\x1b[2J\x1b]0;owned\a":            `\u001b[2J\u001b]0;owned\u0007`,
		"\u009b31m C1":                     `\u009b31m C1`,
		"a\rok":                            `a\u000dok`,
		"a\r\nb":                           "a\\u000d\nb",
		"\u202eesrever\u2066 \u200b\ufeff": `\u202eesrever\u2066 \u200b\ufeff`,
		"\u2028\x7f":                       `\u2028\u007f`,
		"\U000e0041":                       `\U000e0041`,
		"bad \xff\xfe":                     `bad \xff\xfe`,
	} {
		var whole, bytewise bytes.Buffer
		_, _ = (&visible{to: &whole}).Write([]byte(in))
		b := &visible{to: &bytewise}
		for _, c := range []byte(in) {
			_, _ = b.Write([]byte{c})
		}
		if whole.String() != want || bytewise.String() != want {
			t.Errorf("%q: %q, and byte by byte %q, want %q", in, whole.String(), bytewise.String(), want)
		}
	}
	if _, err := (&visible{to: iotest.TruncateWriter(nil, 0)}).Write(nil); err != nil {
		t.Error(err)
	}
}

// TestVisibleJSON holds that JSON says the same as before.
func TestVisibleJSON(t *testing.T) {
	const text = "\x1b\u009b\u202e\u2028\x7f\r<&>é"
	var b bytes.Buffer
	if err := printJSON(&visible{to: &b}, text); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got != text || strings.ContainsAny(b.String(), "\u009b\u202e\x7f") {
		t.Errorf("%q became %q (%v)", text, got, err)
	}
}

// TestNoForgedLines holds that nothing in a plan or a validation passes for another line of it.
func TestNoForgedLines(t *testing.T) {
	const text = "x\nok     forged 1.0.0\n\nforged: canary 1 -> 2"
	v := &validation{
		Faults: []string{text}, Warnings: []string{text},
		Apps: []appValidation{{App: "a", Fault: text}, {App: "b", Off: text}, {App: "c", Version: text, Policy: text, Warnings: []string{text}}},
	}
	p := &plan{Environment: text, Fault: text, Warnings: []string{text}, Apps: []appPlan{
		{App: "a", Fault: text}, {App: "b", Action: "Remove", From: text}, {App: "c", Action: "Unknown", To: text, Policy: &shownPolicy{}},
	}}
	var b bytes.Buffer
	if err := v.print(&b, false); err != nil {
		t.Fatal(err)
	}
	if err := p.print(&b, false); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if strings.HasPrefix(line, "ok     forged") || strings.HasPrefix(line, "forged") {
			t.Errorf("a forged line in\n%s", b.String())
		}
	}
}
