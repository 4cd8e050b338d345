package environments

import (
	"strings"
	"testing"
	"testing/fstest"
)

func TestStatusRepository(t *testing.T) {
	const repo = "https://git.example.com/status.git"
	for name, test := range map[string]struct{ settings, want, fault string }{
		"none":                 {"environment: production\n", "", ""},
		"one":                  {"status: {repository: \"" + repo + "\"}\n", repo, ""},
		"of a broken file":     {"stratgy: x\nstatus: {repository: \"" + repo + "\"}\n", repo, ""},
		"with credentials":     {"status: {repository: \"https://u:hunter2@git.example.com/x\"}\n", "", "sluice.yaml:1: status.repository: holds credentials"},
		"with another field":   {"status: {branch: x}\n", "", "status.branch"},
		"of a file of no YAML": {"status: {\n", "", "sluice.yaml"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := StatusRepository(fstest.MapFS{"sluice.yaml": {Data: []byte(test.settings)}}, ".")
			switch {
			case test.fault == "" && (err != nil || got != test.want):
				t.Errorf("%q, %v; want %q", got, err, test.want)
			case test.fault != "" && (err == nil || !strings.Contains(err.Error(), test.fault) || strings.Contains(err.Error(), "hunter2")):
				t.Errorf("error %v, want one with %q", err, test.fault)
			}
		})
	}
	env, err := upstreamOf(t, "status: {repository: \""+repo+"\"}\n")
	if err != nil || env.StatusRepository != repo {
		t.Errorf("%+v, %v", env, err)
	}
}
