package render

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
)

var (
	// callsTpl finds what tpl is given in a text.
	callsTpl = regexp.MustCompile(`\btpl\b([^{}]*)`)
	valueRef = regexp.MustCompile(`\.Values((?:\.\w+)+)`)
)

// checkEndless refuses values with a text that leads back to itself by way of tpl. Helm counts how deep include is
// nested but not tpl, and the stack that overflows then takes the whole process along. Only what is spelled out,
// such as .Values.a.b, is seen.
func checkEndless(c *chart.Chart, values map[string]any) error {
	if slices.ContainsFunc(c.Templates, func(f *chart.File) bool { return bytes.Contains(f.Data, []byte("tpl")) }) {
		texts := tplTexts{}
		texts.collect("", values)
		for _, at := range slices.Sorted(maps.Keys(texts)) {
			if texts.reach(at, at, map[string]bool{}) {
				return fmt.Errorf("the value %s of chart %s leads back to itself by way of tpl", strings.TrimPrefix(at, "."), c.Name())
			}
		}
	}
	for _, sub := range c.Dependencies() {
		if own, ok := values[sub.Name()].(map[string]any); ok {
			if err := checkEndless(sub, own); err != nil {
				return err
			}
		}
	}
	return nil
}

// tplTexts are the values that call tpl, by their path (.a.b), with the paths of the values that they give it.
type tplTexts map[string][]string

func (t tplTexts) collect(at string, v any) {
	switch v := v.(type) {
	case string:
		for _, call := range callsTpl.FindAllStringSubmatch(v, -1) {
			for _, ref := range valueRef.FindAllStringSubmatch(call[1], -1) {
				t[at] = append(t[at], ref[1])
			}
		}
	case map[string]any:
		for k, e := range v {
			t.collect(at+"."+k, e)
		}
	case []any:
		for i, e := range v {
			t.collect(at+"."+strconv.Itoa(i), e)
		}
	}
}

// reach reports whether tpl comes from one text to another. A reference to a table leads to all texts in it.
func (t tplTexts) reach(from, to string, seen map[string]bool) bool {
	for _, ref := range t[from] {
		for next := range t {
			if next != ref && !strings.HasPrefix(next, ref+".") || seen[next] {
				continue
			}
			seen[next] = true
			if next == to || t.reach(next, to, seen) {
				return true
			}
		}
	}
	return false
}
