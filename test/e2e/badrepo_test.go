package e2e

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.install()
			w.bump("0.0.130")
			w.awaitEvent(rollout.Advanced, "0.0.130", 1)
			good := w.file("main", c.file)
			w.commit("break it", map[string]string{c.file: good + strings.ReplaceAll(c.text, "CHARTS", w.bed.Charts.URL())})

			page, record := "README.md", "environment.yaml"
			if c.app != "" {
				record = "apps/" + c.app + ".yaml"
			}
			w.await("the fault on the status branch", func() (bool, string) {
				text := w.file(w.statusBranch(), record)
				return strings.Contains(text, "fault: "), text
			})
			out, code := w.status()
			if code != 3 {
				t.Errorf("sluice status ends with %d, want 3", code)
			}
			for _, want := range c.want {
				for where, text := range map[string]string{
					page: w.file(w.statusBranch(), page), record: w.file(w.statusBranch(), record), "sluice status": out,
				} {
					if !strings.Contains(text, want) {
						t.Errorf("%s does not say %q:\n%s", where, want, text)
					}
				}
			}
			w.awaitEvent(rollout.Promoted, "0.0.130", 1)
			w.toldAs(goodStory)

			w.commit("mend it", map[string]string{c.file: good})
			w.await("the fault to be gone", func() (bool, string) {
				out, code := w.status()
				return code == 0, out
			})
		})
	}
}

// status is what the command prints, and its exit code.
func (w *world) status() (out string, code int) {
	w.Helper()
	cmd := exec.Command(program, "status", "--repo", w.bed.Git.URL(w.name), "--username", "sluice",
		"--password-file", filepath.Join(w.dir, "password"), "--environment", w.name)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}
