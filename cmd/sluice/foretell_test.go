package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/render/lookup"
)

// unmerged is an environment, and what a branch makes of it.
const unmerged = `
-- main/env/Chart.yaml --
apiVersion: v1
name: env
version: 0.0.1
-- main/env/requirements.yaml --
dependencies:
- {name: web, version: 1.0.0, repository: "file://../charts/web"}
- {name: outside, version: 1.0.0, repository: "file://../charts/outside"}
-- main/env/values.yaml --
web: {password: n3w-planted}
-- main/charts/web/Chart.yaml --
{apiVersion: v1, name: web, version: 1.0.0}
-- main/charts/web/templates/all.yaml --
apiVersion: v1
kind: Secret
metadata: {name: web}
stringData: {password: old-planted}
-- main/charts/outside/Chart.yaml --
{apiVersion: v1, name: outside, version: 1.0.0}
-- main/charts/outside/templates/all.yaml --
{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}
-- branch/charts/web/templates/all.yaml --
apiVersion: v1
kind: Secret
metadata: {name: web}
stringData: {password: "{{ .Values.password }}"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data:
  url: postgres://{{ .Values.password }}@db
  stolen: {{ (lookup "v1" "Secret" .Release.Namespace "db").data | toJson | quote }}
-- branch/charts/outside/templates/all.yaml --
{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: kube-system}}
`

// TestForecastOfTheUnmerged: what a branch renders may touch what its environment may, is told of nothing in the cluster, and has no
// Secret told to who can read the pull request.
func TestForecastOfTheUnmerged(t *testing.T) {
	dir := t.TempDir()
	origin := filepath.Join(dir, "origin")
	git := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", origin}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(branch string) {
		t.Helper()
		for _, f := range txtar.Parse([]byte(unmerged)).Files {
			if name, on := strings.CutPrefix(f.Name, branch+"/"); on {
				path := filepath.Join(origin, name)
				must(os.MkdirAll(filepath.Dir(path), 0o755))
				must(os.WriteFile(path, f.Data, 0o644))
			}
		}
		git("add", ".")
		git("commit", "-q", "-m", branch)
	}
	must(os.Mkdir(origin, 0o755))
	git("init", "-q", "-b", "main")
	write("main")
	git("checkout", "-q", "-b", "branch")
	write("branch")

	c := &config{}
	e := envConfig{Name: "production", Path: "."}
	charts, err := c.chartsOf(e, dir, nil)
	must(err)
	asked := false
	charts.Lookup = func(context.Context, delivery.App, lookup.Question) (lookup.Found, error) {
		asked = true
		o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "data": map[string]any{"p": "cluster-planted"}}}
		return lookup.Found{Objects: []lookup.Object{{Unstructured: o}}}, nil
	}
	repo, err := gitsync.Open(t.Context(), gitsync.Remote{URL: origin, AllowFile: true, Branch: "main"}, filepath.Join(dir, "git"))
	must(err)
	defer repo.Close()
	base, err := repo.Fetch(t.Context())
	must(err)
	head, err := repo.FetchBeside(t.Context(), "branch")
	must(err)

	f := newForeteller(e, charts).forecast(t.Context(), base, head)
	var lines []string
	for _, a := range f.Apps {
		lines = append(lines, a.Line)
	}
	all := f.Fault + strings.Join(lines, "\n") + f.Text
	if strings.Contains(all, "planted") || asked {
		t.Errorf("asked: %t; it tells\n%s", asked, all)
	}
	for _, want := range []string{
		"web: apply 1.0.0", "templates look up Secret jx-production/db and are told of nothing", "outside: error: ", "kube-system",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("it does not tell %q:\n%s", want, all)
		}
	}
	if charts.Lookup == nil {
		t.Error("the agent itself does not ask any more")
	}
	if unread := newForeteller(envConfig{Name: "production", Path: "nowhere"}, charts).forecast(t.Context(), base, head); unread.Fault == "" {
		t.Errorf("of what can't be read it says %+v", unread)
	}
}
