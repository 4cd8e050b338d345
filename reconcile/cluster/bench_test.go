package cluster_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
)

// BenchmarkThousandApps brings 1,000 apps of four objects to an empty namespace as the loop does (state saved,
// applied, observed, state saved), then makes idle passes over them, then restarts. Replicas are 0, so that the
// control plane's own work is small. It fails when an idle pass or a restart writes anything.
func BenchmarkThousandApps(b *testing.B) {
	bedtest.Need(b, shared)
	const apps = 1000
	for i := range b.N {
		ns := fmt.Sprintf("bench-%d-%d", i, time.Now().Unix())
		r := newBench(b, ns, apps)
		start := time.Now()
		r.each(b, func(n int) error { return r.cold(b, n) })
		cold := time.Since(start)
		_, total := r.count(b, start)
		b.ReportMetric(cold.Seconds(), "cold-s")
		b.ReportMetric(float64(total)/apps, "cold-requests/app")
		b.ReportMetric(heap(), "heap-MB")

		r.each(b, func(n int) error { return r.pass(b, n) }) // learns what controllers wrote
		start = time.Now()
		r.each(b, func(n int) error { return r.pass(b, n) })
		idle := time.Since(start)
		writes, total := r.count(b, start)
		b.ReportMetric(float64(idle.Microseconds())/apps, "idle-µs/app")
		if writes+total > 0 {
			b.Errorf("an idle pass made %d requests, %d of them writes", total, writes)
		}

		r.restart(b)
		start = time.Now()
		r.each(b, func(n int) error { return r.pass(b, n) })
		b.ReportMetric(time.Since(start).Seconds(), "restart-s")
		writes, total = r.count(b, start)
		b.ReportMetric(float64(total)/apps, "restart-reads/app")
		if writes > 0 {
			b.Errorf("a restart made %d writes", writes)
		}
	}
}

type bench struct {
	ns, agent string
	apps      int
	c         *cluster.Client
	docs      []string
	parsed    []project.Desired
}

func newBench(b *testing.B, ns string, apps int) *bench {
	r := &bench{ns: ns, apps: apps, parsed: make([]project.Desired, apps), docs: strings.Split(configs+"\n---\n"+service+"\n---\n"+deployment("web", "web:1", 0), "\n---\n")}
	r.restart(b)
	return r
}

func (r *bench) restart(b *testing.B) {
	r.agent = fmt.Sprintf("%s-%d", r.ns, time.Now().UnixNano())
	c, err := cluster.New(b.Context(), cluster.Config{Allow: allow.Everything, REST: rest.CopyConfig(shared.REST()), Namespace: r.ns, Environment: "bench", Version: r.agent, QPS: 2000, Burst: 2000})
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := c.LoadStates(b.Context()); err != nil {
		b.Fatal(err)
	}
	r.c = c
}

func (r *bench) each(b *testing.B, f func(n int) error) {
	var g errgroup.Group
	g.SetLimit(8)
	for n := range r.apps {
		g.Go(func() error { return f(n) })
	}
	if err := g.Wait(); err != nil {
		b.Fatal(err)
	}
}

func (r *bench) app(n int) (delivery.App, project.Desired) {
	name := fmt.Sprintf("app-%d", n)
	if d := r.parsed[n]; d.Stable != nil {
		return delivery.App{Name: name, Namespace: r.ns, ReleaseName: name}, d
	}
	var objs []*unstructured.Unstructured
	for _, doc := range r.docs {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(strings.ReplaceAll(doc, "web", name)), &o.Object); err != nil {
			panic(err)
		}
		o.SetNamespace(r.ns)
		objs = append(objs, o)
	}
	r.parsed[n] = project.Desired{Stable: objs, StableWorkloads: workloads(objs)}
	return delivery.App{Name: name, Namespace: r.ns, ReleaseName: name}, r.parsed[n]
}

func (r *bench) cold(b *testing.B, n int) error {
	app, d := r.app(n)
	r.c.Intend(app, d)
	if _, err := r.c.SaveState(b.Context(), delivery.Saved{App: app, State: rollout.State{Phase: rollout.Installing}}); err != nil {
		return err
	}
	if _, err := r.c.Apply(b.Context(), app, rollout.State{Phase: rollout.Installing}, d); err != nil {
		return err
	}
	if _, err := r.c.Observe(b.Context(), app, d); err != nil {
		return err
	}
	_, err := r.c.SaveState(b.Context(), delivery.Saved{App: app})
	return err
}

func (r *bench) pass(b *testing.B, n int) error {
	app, d := r.app(n)
	if _, err := r.c.Observe(b.Context(), app, d); err != nil {
		return err
	}
	_, err := r.c.Apply(b.Context(), app, rollout.State{}, d)
	return err
}

// count asks the audit log, after a request of our own has shown up in it.
func (r *bench) count(b *testing.B, since time.Time) (writes, total int) {
	b.Helper()
	until := time.Now()
	client, err := cluster.New(b.Context(), cluster.Config{Allow: allow.Everything, REST: shared.REST(), Namespace: r.ns, Environment: "flush", Version: "flush-" + r.agent})
	if err != nil {
		b.Fatal(err)
	}
	if _, _, err := client.LoadStates(b.Context()); err != nil {
		b.Fatal(err)
	}
	for seen := false; !seen; {
		all, err := shared.Requests()
		if err != nil {
			b.Fatal(err)
		}
		writes, total = 0, 0
		for _, q := range all {
			seen = seen || q.UserAgent == "sluice/flush-"+r.agent && q.Time.After(until.Add(-time.Second))
			if q.UserAgent != "sluice/"+r.agent || q.Time.Before(since) || q.Verb == "watch" || q.Resource == "" {
				continue
			}
			total++
			if q.Verb != "get" && q.Verb != "list" {
				writes++
			}
		}
	}
	return writes, total
}

func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc) / (1 << 20)
}
