package audit

import "testing"

// TestLinesStayApart holds that several faults on lines of their own can be told from each other on one.
func TestLinesStayApart(t *testing.T) {
	for text, want := range map[string]string{
		"one":                              "one",
		"a: missing\nb: is no name\n":      "a: missing; b: is no name",
		"a.yaml: cannot be read:\n  tab\n": "a.yaml: cannot be read: tab",
		"a;\r\n\n \nb":                     "a; b",
		"\n\nlate":                         "late",
	} {
		if got := onOneLine(text); got != want || onOneLine(got) != want {
			t.Errorf("onOneLine(%q) = %q, want %q", text, got, want)
		}
	}
}
