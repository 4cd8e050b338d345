package cluster_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
)

// TestTwice: what Helm installs with an entry twice is taken over and gets its next version, with what counts for the kubelet.
func TestTwice(t *testing.T) {
	r := newRig(t)
	helm := bedtest.Helm(t, shared, r.ns)
	app := strings.Replace(deployment("web", "web:1", 1), "env: [{name: MODE, value: fast}]",
		"env: [{name: MODE, value: slow}, {name: MORE, value: x}, {name: MODE, value: fast}]", 1)
	app = strings.Replace(app, "ports: [{containerPort: 8080}]", "ports: [{name: http, containerPort: 8080}, {name: other, containerPort: 8080}]", 1)
	named := strings.Replace(service, "targetPort: 8080", "targetPort: http", 1)
	chart := t.TempDir()
	for name, text := range map[string]string{
		"Chart.yaml": "apiVersion: v2\nname: web\nversion: 1.0.0\n", "templates/a.yaml": app + "\n---\n" + named,
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(chart, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(chart, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	helm("install", "web", chart, "--create-namespace")
	container := func() string {
		list, _, _ := unstructured.NestedSlice(r.get(deployments, "web").Object, "spec", "template", "spec", "containers")
		c := list[0].(map[string]any)
		return fmt.Sprint(c["env"], c["ports"])
	}
	const once = "[map[name:MORE value:x] map[name:MODE value:fast]] [map[containerPort:8080 name:http protocol:TCP]]"
	if has := container(); has == once || !strings.Contains(has, "slow") {
		t.Fatalf("Helm has %s", has)
	}
	d := project.Desired{Stable: r.objects(app + "\n---\n" + named)}
	d.StableWorkloads = workloads(d.Stable)
	r.apply(rollout.Idle, d)
	if has := container(); has != once {
		t.Errorf("taken over it has %s", has)
	}
	if seen := r.observe(d); !seen.Applied {
		t.Errorf("pending: %s", seen.Pending)
	}
	next := project.Desired{Stable: r.objects(strings.Replace(app, "web:1", "web:2", 1) + "\n---\n" + named)}
	next.StableWorkloads = workloads(next.Stable)
	if err := r.Try(t.Context(), r.app, next); err != nil {
		t.Error(err)
	}
	r.apply(rollout.Idle, next)
	if has := container(); has != once {
		t.Errorf("the next version has %s", has)
	}
	if seen := r.observe(next); !seen.Applied {
		t.Errorf("pending: %s", seen.Pending)
	}
}
