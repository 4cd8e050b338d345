package environments

import (
	"fmt"
	"testing"
)

// TestUnknownName: the nearest name is what was expected, else all, as far as anybody reads them.
func TestUnknownName(t *testing.T) {
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("service-%04d", i)
	}
	for _, c := range []struct {
		name  string
		known []string
		want  string
	}{
		{"croc-hunter", []string{"web", "croc-hunter-java"}, `there is no app "croc-hunter" in this environment; expected croc-hunter-java`},
		{"xyz", []string{"shop", "api"}, `there is no app "xyz" in this environment; expected api or shop`},
		{"xyz", nil, `there is no app "xyz" in this environment`},
		{"x", many, `there is no app "x" in this environment; expected service-0000, service-0001, service-0002, service-0003, service-0004, ` +
			`service-0005, service-0006, service-0007, service-0008, service-0009 or one of 990 more`},
	} {
		if got := UnknownName("app", c.name, "environment", c.known).Error(); got != c.want {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
}
