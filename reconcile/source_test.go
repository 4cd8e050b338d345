package reconcile

import (
	"errors"
	"testing"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestPastRelease: a release whose Helm record is gone is rendered again from its commit, by those who render, and kept as
// long as the state names it. What could not be rendered is tried again when it is asked for again.
func TestPastRelease(t *testing.T) {
	charts, _ := serveCharts(t, 2)
	var commits []map[string]string
	for n := range 2 {
		commits = append(commits, map[string]string{
			"env/Chart.yaml":        "apiVersion: v1\nname: env\nversion: 0.0.1\n",
			"env/requirements.yaml": "dependencies:\n- {name: app, version: " + bumped(n+1) + ", repository: " + charts + "}\n",
		})
	}
	a, snapshots := readerOf(t, commits)
	a.reads(snapshots[0])
	a.Render(t.Context())
	w, ok := a.begin("app")
	if !ok || w.facts.Desired == nil {
		t.Fatal(w.facts.Fault)
	}
	first := w.facts.Desired.ID
	a.apps["app"].saved.State.Stable = first
	a.reads(snapshots[1])
	a.Render(t.Context())

	again := func(r rollout.Release) error {
		_, err := a.Again(t.Context(), "app", r)
		return err
	}
	if err := again(first); !errors.Is(err, delivery.ErrOrdered) {
		t.Errorf("not rendered yet: %v", err)
	}
	if !a.Render(t.Context()) {
		t.Error("nobody renders it")
	}
	if past, err := a.Again(t.Context(), "app", first); err != nil || len(past.Objects) == 0 {
		t.Errorf("rendered: %d objects, %v", len(past.Objects), err)
	}
	if err := again(first); err != nil || a.Render(t.Context()) {
		t.Errorf("rendered once more, %v", err)
	}

	other := rollout.Release{Version: "9", Digest: "sha256:other", Commit: first.Commit}
	for range 2 {
		if err := again(other); !errors.Is(err, delivery.ErrOrdered) {
			t.Errorf("ordered: %v", err)
		}
		a.Render(t.Context())
		if err := again(other); err == nil || errors.Is(err, delivery.ErrOrdered) {
			t.Errorf("its commit renders something else: %v", err)
		}
	}

	s := a.apps["app"].saved
	s.State.Stable = rollout.Release{Digest: "sha256:new"}
	a.decided(t.Context(), "app", delivery.Decision{Moved: true, Saved: s})
	if n := len(a.apps["app"].past); n > 0 {
		t.Errorf("%d releases are kept that the state does not name", n)
	}
}

// TestSharedTemplates: a release that has named templates of another app is rendered again when that app changes; an app that has
// none is not.
func TestSharedTemplates(t *testing.T) {
	commit := func(label string) map[string]string {
		files := map[string]string{
			"env/Chart.yaml": "apiVersion: v2\nname: env\nversion: 0.0.1\ndependencies:\n- {name: common, version: 1.0.0}\n" +
				"- {name: shop, version: 1.0.0}\n- {name: mail, version: 1.0.0}\n",
			"env/charts/common/Chart.yaml":           "apiVersion: v2\ntype: library\nname: common\nversion: 1.0.0\n",
			"env/charts/common/templates/_l.tpl":     `{{ define "common.labels" }}{a: ` + label + `}{{ end }}`,
			"env/charts/shop/templates/a.yaml":       "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop, labels: {{ include \"common.labels\" . }}}\n",
			"env/charts/mail/templates/a.yaml":       "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mail}\n",
			"env/charts/shop/templates/_helpers.tpl": "",
		}
		for _, name := range []string{"shop", "mail"} {
			files["env/charts/"+name+"/Chart.yaml"] = "apiVersion: v2\nname: " + name + "\nversion: 1.0.0\n"
		}
		return files
	}
	a, snapshots := readerOf(t, []map[string]string{commit("one"), commit("two")})
	settle := func() {
		for !a.renders.Idle() {
			a.Render(t.Context())
		}
	}
	label := func(name string) string {
		w, ok := a.begin(name)
		if !ok || w.facts.Desired == nil {
			t.Fatalf("%s: %v", name, w.facts.Fault)
		}
		return w.facts.Desired.Release.Objects[0].GetLabels()["a"]
	}
	a.reads(snapshots[0])
	settle()
	mail := a.apps["mail"].rendered
	if got := label("shop"); got != "one" {
		t.Errorf("got the label %q", got)
	}
	a.reads(snapshots[1])
	if !a.apps["shop"].awaited() || a.apps["mail"].awaited() {
		t.Error("what the other app's templates have to do with is not waited for, or what they have not is")
	}
	settle()
	if got := label("shop"); got != "two" || a.apps["mail"].rendered != mail {
		t.Errorf("got the label %q", got)
	}
}
