package cluster_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestTry: what the API server would refuse is known from asking, whatever it is that stands against it, and nothing is changed
// by that.
func TestTry(t *testing.T) {
	r := newRig(t)
	const job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: migrate}\nspec:\n  parallelism: 0\n  template:\n    spec:\n      restartPolicy: Never\n" +
		"      containers: [{name: c, image: \"migrate:1\"}]"
	const claim = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db}\nspec:\n  serviceName: db\n  replicas: 0\n" +
		"  selector: {matchLabels: {app: db}}\n  template:\n    metadata: {labels: {app: db}}\n    spec: {containers: [{name: c, image: db}]}\n" +
		"  volumeClaimTemplates:\n  - metadata: {name: data}\n    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}"
	const fixed = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fixed}\nimmutable: true\ndata: {a: b}"
	const used = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: used}\nimmutable: true\ndata: {c: d}"
	uses := strings.Replace(deployment("web", "web:1", 1), "ports:", "envFrom: [{configMapRef: {name: used}}]\n        ports:", 1)
	serving := strings.Join([]string{configs, service, uses, job, claim, fixed, used}, "\n---\n")
	before := project.Desired{Stable: r.objects(serving)}
	before.StableWorkloads = workloads(before.Stable)
	r.apply(rollout.Idle, before)
	eventually(t, time.Minute, func() (bool, string) { return len(r.pods()) > 0, "no pods" })
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{"count/deployments.apps": resource.MustParse("1")},
	}}
	quota, err := r.kube.CoreV1().ResourceQuotas(r.ns).Create(t.Context(), quota, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	quota.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard, Used: quota.Spec.Hard} // the bed has no controller that counts
	if _, err := r.kube.CoreV1().ResourceQuotas(r.ns).UpdateStatus(t.Context(), quota, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	nowhere := r.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: web}")
	nowhere[0].SetNamespace("nowhere-" + r.ns)
	with := func(old, now string) project.Desired {
		t.Helper()
		if !strings.Contains(serving, old) {
			t.Fatalf("no %q", old)
		}
		return project.Desired{Stable: r.objects(strings.Replace(serving, old, now, 1))}
	}
	beside := func(text string) project.Desired {
		return project.Desired{Stable: before.Stable, Canary: r.objects(text)}
	}
	for name, c := range map[string]struct {
		d project.Desired
		// refused says what against; empty: nothing. requests are what it may cost.
		refused  string
		requests int
	}{
		"what is there":             {before, "", 0},
		"another image":             {with("web:1", "web:2"), "", 1},
		"a Job's template":          {with("migrate:1", "migrate:2"), "Job " + r.ns + "/migrate: it can't be changed in place, and is not deleted and made anew: it still runs; expected it to finish first", 1},
		"a map that no pod uses":    {with("{a: b}", "{a: c}"), "", 1},
		"a claim's template":        {with("1Gi", "2Gi"), "StatefulSet " + r.ns + "/db: spec.volumeClaimTemplates: ", 1},
		"a map that pods use":       {with("{c: d}", "{c: e}"), "ConfigMap " + r.ns + "/used: it can't be changed in place, and is not deleted and made anew: pod web-", 1},
		"a value that is none":      {with("replicas: 1", "replicas: -1"), "spec.replicas", 1},
		"a list's key twice":        {with("containers:\n", "containers:\n      - {name: side, image: side, env: [{name: A, value: '1'}, {name: A, value: '2'}]}\n"), "", 1},
		"a list's key twice, used":  {with("containers:\n", "containers:\n      - {name: side, image: side, env: [{name: A, value: '1'}, {name: A, value: '$(A)2'}]}\n"), "env A of container side is there twice", 0},
		"an address twice":          {with("containers:\n", "hostAliases: [{ip: 10.0.0.1}, {ip: 10.0.0.1}]\n      containers:\n"), "duplicate entries for key", 1},
		"a canary":                  {beside(strings.ReplaceAll(configs, "name: web", "name: web-canary")), "", 2},
		"a canary past a quota":     {beside(deployment("web-canary", "web:2", 1)), "exceeded quota: few", 1},
		"a kind that is not served": {beside("apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: a}"), "Thing " + r.ns + "/a: ", 0},
		"a kind that comes along": {project.Desired{Stable: append(r.objects("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n"+
			"metadata: {name: toys."+r.ns+".example.com}\nspec:\n  group: "+r.ns+".example.com\n  scope: Namespaced\n  names: {plural: toys, singular: toy, kind: Toy}\n"+
			"  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]\n---\n"+
			"apiVersion: "+r.ns+".example.com/v1\nkind: Toy\nmetadata: {name: a}"), before.Stable...)}, "", 1},
		"a namespace that is not there": {project.Desired{Stable: before.Stable, Canary: nowhere}, "nowhere", 1},
	} {
		began := r.flush()
		err := r.Try(t.Context(), r.app, c.d)
		r.flush()
		switch {
		case c.refused == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.refused != "" && (!errors.Is(err, delivery.ErrRefused) || !delivery.Refused(err) || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s: %v, want %q", name, err, c.refused)
		}
		if q := r.writes(began); len(q) > 0 {
			t.Errorf("%s: wrote %v", name, q)
		}
		tried := 0
		for _, q := range r.requests(began) {
			if strings.HasPrefix(q, "try ") {
				tried++
			}
		}
		if tried != c.requests {
			t.Errorf("%s: %d dry runs of %v, want %d", name, tried, r.requests(began), c.requests)
		}
	}
	if seen := r.observe(before); !seen.Applied {
		t.Errorf("something was changed: %s", seen.Pending)
	}
}
