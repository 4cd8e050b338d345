package reconcile

import (
	"fmt"
	"maps"
	"strings"
	"testing"
)

// TestBadRepositories gives an environment one bad app or file. What is wrong has to be said in words that lead to the
// place, and where the rest can be read it goes on.
func TestBadRepositories(t *testing.T) {
	charts, files := serveCharts(t, 1)
	files["/index.yaml"] = append(files["/index.yaml"], "  huge: [{version: 1.0.0, urls: [huge.tgz]}]\n"...)
	files["/huge.tgz"] = make([]byte, 100<<20)
	entry := func(name, version, repository string) string {
		return fmt.Sprintf("- {name: %s, alias: bad, version: %s, repository: %q}\n", name, version, repository)
	}
	const list = "env/requirements.yaml"
	for name, tt := range map[string]struct {
		// entry is added to the list of apps; file is written with the text. A link is a symbolic link.
		entry, file, text string
		link              bool
		// all: nothing of the environment can be read.
		all  bool
		want []string
	}{
		"missing chart": {entry: entry("gone", "1.0.0", charts), want: []string{"chart gone 1.0.0 from " + charts, "no chart of that name"}},
		"wrong version": {entry: entry("app", "9.9.9", charts), want: []string{"no version 9.9.9; nearest are 1.0.1, 1.0.0"}},
		"no version":    {entry: entry("app", "latest", charts), want: []string{`"latest"`}},
		"huge archive":  {entry: entry("huge", "1.0.0", charts), want: []string{"chart huge 1.0.0", "chart archive is larger than the limit of 10 MiB"}},
		"traversal":     {entry: entry("bad", "1.0.0", "file://../../../etc"), want: []string{list + ":", "leaves the repository"}},
		"link out": {
			entry: entry("bad", "1.0.0", "file://../charts/bad"), file: "charts/bad", text: "../../../etc", link: true, want: []string{"charts/bad", "symlink leads out of the repository"},
		},
		"link in a chart": {
			entry: entry("bad", "1.0.0", "file://../charts/bad"), file: "charts/bad/values.yaml", text: "/etc/passwd", link: true, want: []string{"symbolic link", "charts/bad/values.yaml"},
		},
		"broken template": {
			entry: entry("bad", "1.0.0", "file://../charts/bad"), file: "charts/bad/templates/a.yaml", text: "a: {{ .Values.x.y }}\n", want: []string{"env/charts/bad/templates/a.yaml:1"},
		},
		"broken values": {entry: entry("app", "1.0.0", charts), file: "env/bad/values.yaml", text: "a: [\n", want: []string{"env/bad/values.yaml"}},
		"unknown field of a policy": {
			entry: entry("app", "1.0.0", charts), file: "env/bad/values.yaml", text: "canary: {enable: true, colour: blue}\n", want: []string{"env/bad/values.yaml:1", "colour"},
		},
		"query that can't be asked": {
			entry: entry("app", "1.0.0", charts), file: "env/bad/values.yaml", text: "canary: {enable: true, service: {port: 80}, canaryAnalysis: {" +
				"interval: 1m, threshold: 1, maxWeight: 50, stepWeight: 10, metrics: [{name: mine, thresholdRange: {max: 1}, query: '{{ target }}_total'}]}}\n",
			want: []string{"mine", "{{ target }}"},
		},
		"broken list":   {entry: "- name: [\n", all: true, want: []string{list}},
		"unknown field": {file: "sluice.yaml", text: "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nrolout: {}\n", all: true, want: []string{"sluice.yaml:3", "rolout"}},
	} {
		t.Run(name, func(t *testing.T) {
			tree := map[string]string{
				"env/Chart.yaml":         "apiVersion: v1\nname: env\nversion: 0.0.1\n",
				list:                     "dependencies:\n- {name: app, alias: good, version: 1.0.0, repository: " + charts + "}\n" + tt.entry,
				"charts/bad/Chart.yaml":  "apiVersion: v2\nname: bad\nversion: 1.0.0\n",
				"charts/bad/values.yaml": "x: 1\n",
			}
			if tt.file != "" {
				maps.DeleteFunc(tree, func(name, _ string) bool { return strings.HasPrefix(name, tt.file+"/") })
				tree[tt.file] = tt.text
			}
			var in strings.Builder
			in.WriteString("commit refs/heads/main\ncommitter Bob <bob@example.com> 1700000000 +0000\ndata 1\nc\n")
			for name, text := range tree {
				mode := "100644"
				if tt.link && name == tt.file {
					mode = "120000"
				}
				fmt.Fprintf(&in, "M %s inline %s\ndata %d\n%s\n", mode, name, len(text), text)
			}
			s, err := openRepository(t, importRepository(t, in.String())).Fetch(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			a := newReader(t)
			a.reads(s)
			faults := map[string]error{"bad": a.envFault}
			for name, ap := range a.apps {
				_, _, faults[name] = a.renderer.Release(t.Context(), a.source, ap.input)
			}
			if (a.envFault != nil) != tt.all || faults["good"] != nil || !tt.all && a.apps["good"] == nil {
				t.Errorf("the environment: %v; the good app: %v", a.envFault, faults["good"])
			}
			if faults["bad"] == nil {
				t.Fatal("nothing is wrong")
			}
			for _, want := range tt.want {
				if !strings.Contains(faults["bad"].Error(), want) {
					t.Errorf("fault %v\nwant %q", faults["bad"], want)
				}
			}
		})
	}
}
