package e2e

import (
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestBadRepository breaks the environment in the middle of a rollout, which goes on.
func TestBadRepository(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// file gets text appended.
		file, text string
		// app whose record tells of the fault; empty: the environment's page does.
		app string
		// want is in the fault.
		want []string
	}{
		{
			name: "no such version", file: requirements, app: "broken",
			text: "- name: " + app + "\n  alias: broken\n  version: 9.9.9\n  repository: CHARTS\n",
			want: []string{"broken", "9.9.9"},
		},
		{
			name: "unknown field", file: "sluice.yaml",
			text: "rolout: {}\n",
			want: []string{"sluice.yaml:5", "rolout"},
		},
		{
			name: "broken YAML", file: requirements,
			text: "- name: [\n",
			want: []string{requirements},
		},
		{
			name: "path traversal", file: requirements, app: "broken",
			text: "- name: broken\n  version: 1.0.0\n  repository: file://../../../etc\n",
			want: []string{requirements + ":", "leaves the repository"},
		},
		{
			name: "no such chart", file: requirements, app: "broken",
			text: "- name: broken\n  version: 1.0.0\n  repository: CHARTS\n",
			want: []string{"broken", "CHARTS", "not found"},
		},
		{
			name: "link out", file: requirements, app: "broken",
			text: "- name: broken\n  version: 1.0.0\n  repository: file://../charts/broken\n",
			want: []string{"charts/broken", "symbolic link"},
		},
		{
			name: "huge archive", file: requirements, app: "huge",
			text: "- name: huge\n  version: 1.0.0\n  repository: CHARTS\n",
			want: []string{"huge", "larger than the limit of 10 MiB"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.traps()
			w.install()
			w.bump("0.0.130")
			w.awaitEvent(rollout.Advanced, "0.0.130", 1)
			good := w.file("main", c.file)
			here := func(text string) string { return strings.ReplaceAll(text, "CHARTS", w.bed.Charts.URL()) }
			w.commit("break it", map[string]string{c.file: good + here(c.text)})

			page, record := "README.md", "environment.yaml"
			if c.app != "" {
				record = "apps/" + c.app + ".yaml"
			}
			w.await("the fault on the status branch", func() (bool, string) {
				text := w.file(w.statusBranch(), record)
				return strings.Contains(text, "error: "), text
			})
			out, code := w.sluice("status")
			if code != 3 {
				t.Errorf("sluice status ends with %d, want 3", code)
			}
			for _, want := range c.want {
				for where, text := range map[string]string{
					page: w.file(w.statusBranch(), page), record: w.file(w.statusBranch(), record), "sluice status": out,
				} {
					if want = here(want); !strings.Contains(text, want) {
						t.Errorf("%s does not say %q:\n%s", where, want, text)
					}
				}
			}
			w.awaitEvent(rollout.Promoted, "0.0.130", 1)
			w.toldAs(goodStory)

			w.commit("mend it", map[string]string{c.file: good})
			w.await("the fault to be gone", func() (bool, string) {
				out, code := w.sluice("status")
				return code == 0, out
			})
		})
	}
}

// traps lays out what some of the cases step into: a chart in the repository with a link out of it, and an archive of
// 100 MB in the chart repository.
func (w *world) traps() {
	w.Helper()
	w.git(`commit refs/heads/main
committer A Person <person@example.com> 1700000000 +0000
data 5
traps
from refs/heads/main^0
M 100644 inline charts/broken/Chart.yaml
data <<END
apiVersion: v2
name: broken
version: 1.0.0
END
M 120000 inline charts/broken/templates
data 14
../../../../..
`, "fast-import", "--quiet")
	w.must(w.bed.Charts.AddChart(&chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: "huge", Version: "1.0.0"}}))
	w.bed.Charts.SetHuge("huge-1.0.0.tgz", 100<<20)
}
