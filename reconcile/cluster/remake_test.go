package cluster_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestRemake: what Kubernetes changes no more is made anew where nothing is lost by that, and stays as it is else; the fault says
// what to do, and doing it helps.
func TestRemake(t *testing.T) {
	r := newRig(t)
	jobs := schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
	job := func(name, more string) string {
		return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: " + name + "}\nspec:\n  " + more + "\n  template:\n    spec:\n" +
			"      restartPolicy: Never\n      containers: [{name: c, image: \"shop:1\"}]"
	}
	const fixed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fixed}\nimmutable: true\ndata: {a: b}"
	const secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: fixed}\nimmutable: true\nstringData: {a: hunter2}"
	const kept = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: kept\n  annotations: {helm.sh/resource-policy: keep}\nimmutable: true\ndata: {a: b}"
	serving := strings.Join([]string{job("done", "completions: 0"), job("held", "suspend: true"), job("runs", "parallelism: 0"), fixed, secret, kept}, "\n---\n")
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(serving)})
	eventually(t, time.Minute, func() (bool, string) {
		_, over := r.get(jobs, "done").Object["status"].(map[string]any)["completionTime"]
		return over, "the Job is not over"
	})
	next := strings.NewReplacer("shop:1", "shop:2", "{a: b}", "{a: c}", "hunter2", "hunter3").Replace(serving)
	d := project.Desired{Stable: r.objects(next)}
	tried := r.Try(t.Context(), r.app, d)
	res, err := r.Apply(t.Context(), r.app, rollout.State{}, d)
	for _, err := range []error{tried, err} {
		if err == nil {
			t.Fatal("nothing is refused")
		}
		lines := strings.Split(err.Error(), "\n")
		slices.Sort(lines)
		if len(lines) != 2 || !strings.HasSuffix(lines[0], "ConfigMap "+r.ns+"/kept: it can't be changed in place, and is not deleted and made anew: helm.sh/resource-policy: keep") ||
			!strings.HasSuffix(lines[1], "Job "+r.ns+"/runs: it can't be changed in place, and is not deleted and made anew: it still runs; expected it to finish first, or to be deleted by hand") {
			t.Errorf("refused: %v", err)
		}
	}
	if got := actions(res); got != "Job done recreated, Job held recreated, ConfigMap fixed recreated, Secret fixed recreated" {
		t.Errorf("did %q", got)
	}
	if a := r.get(configMaps, "fixed").Object["data"].(map[string]any)["a"]; a != "c" {
		t.Errorf("the map says %v", a)
	}

	r.edit(jobs, "runs", `{"spec":{"suspend":true}}`)
	r.edit(configMaps, "kept", `{"metadata":{"annotations":{"helm.sh/resource-policy":null}}}`)
	d.Stable = r.objects(strings.Replace(next, "  annotations: {helm.sh/resource-policy: keep}\n", "", 1))
	eventually(t, time.Minute, func() (bool, string) {
		_, err := r.Apply(t.Context(), r.app, rollout.State{}, d)
		return err == nil, "it is still refused"
	})
	if seen := r.observe(d); !seen.Applied {
		t.Errorf("pending: %s", seen.Pending)
	}
}

// TestJobThatGoesByItself: a Job that Kubernetes has deleted because it was over is not made again, by an agent that was restarted
// neither, until a release wants another one. One that somebody has deleted and that would have stayed is.
func TestJobThatGoesByItself(t *testing.T) {
	r := newRig(t)
	jobs := schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}
	job := func(name, more, version string) string {
		return "apiVersion: batch/v1\nkind: Job\nmetadata: {name: " + name + "}\nspec:\n  completions: 0\n" + more + "  template:\n    spec:\n" +
			"      restartPolicy: Never\n      containers: [{name: c, image: \"shop:" + version + "\"}]"
	}
	both := func(version string) project.Desired {
		return project.Desired{Stable: r.objects(job("goes", "  ttlSecondsAfterFinished: 3600\n", version) + "\n---\n" + job("stays", "", version))}
	}
	r.apply(rollout.Idle, both("1"))
	background := metav1.DeletePropagationBackground
	for _, name := range []string{"goes", "stays"} {
		if err := r.dyn.Resource(jobs).Namespace(r.ns).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, time.Minute, func() (bool, string) {
		seen := r.observe(both("1"))
		return seen.Pending == "Job "+r.ns+"/stays: missing", seen.Pending
	})
	if got := actions(r.apply(rollout.Idle, both("1"))); got != "Job stays created" {
		t.Errorf("did %q", got)
	}
	if seen := r.observe(both("1")); !seen.Applied {
		t.Errorf("pending: %s", seen.Pending)
	}
	r.restart("2")
	if seen := r.observe(both("1")); !seen.Applied {
		t.Errorf("pending after a restart: %s", seen.Pending)
	}
	if got := actions(r.apply(rollout.Idle, both("2"))); got != "Job goes created, Job stays recreated" {
		t.Errorf("of another release: %q", got)
	}
}
