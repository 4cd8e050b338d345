package e2e

import (
	"bufio"
	"cmp"
	"context"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// small is a chart of a Deployment, a Service and a ConfigMap.
func small() *chart.Chart {
	return &chart.Chart{
		Metadata: &chart.Metadata{APIVersion: "v2", Name: "small", Version: "1.0.0"},
		Templates: []*chart.File{{Name: "templates/all.yaml", Data: []byte(`apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {greeting: hello}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, labels: {app: {{ .Release.Name }}}}
spec:
  replicas: 1
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      containers: [{name: app, image: small:1, envFrom: [{configMapRef: {name: {{ .Release.Name }}}}]}]
`)}},
	}
}

// smallApps is a list of so many apps of a version of that chart.
func (w *world) smallApps(n int, version string) string {
	list := strings.Builder{}
	list.WriteString("dependencies:\n")
	for i := range n {
		fmt.Fprintf(&list, "- name: small\n  alias: app-%d\n  version: %s\n  repository: %s\n", i, version, w.bed.Charts.URL())
	}
	return list.String()
}

// appsFlag is how many apps a benchmark of many has.
var appsFlag = flag.Int("apps", 0, "number of apps in a benchmark of many; 0: the benchmark's own")

// BenchmarkThousandApps installs 1,000 apps, or as many as -apps says, of three objects and a pod each, with an agent that is a process of its
// own, lets it rest, and restarts it. The control plane, its controllers and the played pods share the machine.
//
//	go test -run=^$ -bench=ThousandApps -benchtime=1x ./test/e2e
func BenchmarkThousandApps(b *testing.B) {
	apps := cmp.Or(*appsFlag, 1000)
	for b.Loop() {
		w := newWorld(b)
		w.interval = 30 * time.Second // as it is by default
		w.must(w.bed.Charts.AddChart(small()))
		w.commit("many apps", map[string]string{requirements: w.smallApps(apps, "1.0.0"), "env/values.yaml": "{}\n"})

		begin := time.Now()
		w.start()
		w.awaitFor(10*time.Minute, time.Second, "all apps to be ready", func() (bool, string) {
			n := w.ready()
			return n == apps, fmt.Sprint(n)
		})
		b.ReportMetric(time.Since(begin).Seconds(), "cold-ready-s")
		w.awaitFor(10*time.Minute, time.Second, "git to tell of all apps", func() (bool, string) {
			n := w.installed()
			return n == apps, fmt.Sprint(n)
		})
		b.ReportMetric(time.Since(begin).Seconds(), "cold-told-s")
		w.rests()
		b.ReportMetric(float64(len(w.requests(begin)))/float64(apps), "cold-requests/app")
		b.ReportMetric(float64(len(w.writes(begin)))/float64(apps), "cold-writes/app")
		b.ReportMetric(w.memory("VmHWM"), "cold-peak-RSS-MB")
		b.Logf("a cold sync asks\n%s", w.tally(begin))

		w.idle(b, "idle")

		w.stop()
		begin = time.Now()
		w.start()
		w.rests()
		b.ReportMetric(float64(len(w.requests(begin)))/float64(apps), "restart-requests/app")
		b.ReportMetric(float64(len(w.writes(begin))), "restart-writes")
		w.idle(b, "restarted-idle")
		w.stop()
	}
}

// BenchmarkCanaries runs 300 canaries at once, or as many as -apps says, of three steps at an interval of ten seconds, with the built-in checks of real
// traffic. It reports how late the steps come that were no longer than their interval by what the checks said, and what it
// costs.
//
//	go test -run=^$ -bench=Canaries -benchtime=1x ./test/e2e -scrape 2s
func BenchmarkCanaries(b *testing.B) {
	const interval = 10 * time.Second
	apps := cmp.Or(*appsFlag, 300)
	for b.Loop() {
		w := newWorld(b)
		w.checkInterval = 0 // the policy's own
		for _, version := range []string{"1.0.0", "1.0.1"} {
			c := small()
			c.Metadata.Version = version
			c.Templates[0].Data = []byte(strings.ReplaceAll(string(c.Templates[0].Data), "small:1", "small:"+version))
			w.must(w.bed.Charts.AddChart(c))
		}
		files := map[string]string{requirements: w.smallApps(apps, "1.0.0"), "env/values.yaml": "{}\n"}
		files["sluice.yaml"] = w.file("main", "sluice.yaml") + fmt.Sprintf(`rollout:
  analysis:
    interval: %s
    maxWeight: 30
    stepWeight: 10
    metrics:
    - {name: request-success-rate, interval: %[1]s, thresholdRange: {min: 99}}
    - {name: request-duration, interval: %[1]s, thresholdRange: {max: 500}}
`, interval)
		w.commit("many apps", files)
		begin := time.Now()
		w.start()
		w.awaitFor(10*time.Minute, time.Second, "all apps to be ready", func() (bool, string) {
			n := w.ready()
			return n == apps, fmt.Sprint(n)
		})
		b.ReportMetric(time.Since(begin).Seconds(), "cold-ready-s")
		w.rests()
		b.ReportMetric(float64(len(w.requests(begin)))/float64(apps), "cold-requests/app")
		b.ReportMetric(w.memory("VmHWM"), "cold-peak-RSS-MB")
		cold := w.tally(begin)
		for n := range apps {
			w.bed.Traffic.SetRate(w.name, fmt.Sprintf("app-%d", n), 10)
		}

		begin, used := time.Now(), w.cpu()
		w.commit("all at once", map[string]string{requirements: w.smallApps(apps, "1.0.1")})
		var steps []time.Duration
		w.awaitFor(15*time.Minute, 15*time.Second, "all canaries to be promoted", func() (bool, string) {
			var promoted int
			steps, promoted = w.steps()
			return promoted == apps, fmt.Sprint(promoted, " promoted, ", len(steps), " steps")
		})
		b.ReportMetric(time.Since(begin).Seconds(), "all-promoted-s")
		b.ReportMetric(float64(len(steps))/float64(apps), "steps/app")
		slices.Sort(steps)
		for name, share := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1} {
			late := steps[min(len(steps)-1, int(share*float64(len(steps))))] - interval
			b.ReportMetric(late.Seconds(), "late-s-"+name)
		}
		b.ReportMetric((w.cpu() - used).Seconds(), "agent-cpu-s")
		b.ReportMetric(w.memory("VmHWM"), "peak-RSS-MB")
		b.ReportMetric(float64(len(w.requests(begin)))/float64(apps), "requests/app")
		// Not by Logf, which shows the first lines only.
		fmt.Fprintf(os.Stderr, "a cold sync of %d apps asks\n%stheir canaries ask\n%sand git tells of\n%s", apps, cold, w.tally(begin), w.told())
		w.stop()
	}
}

// steps are how long each weight of each app stood until the next step, or the promotion, was decided; and how many apps were
// promoted.
func (w *world) steps() (lasted []time.Duration, promoted int) {
	w.Helper()
	since := map[string]time.Time{}
	for _, c := range slices.Backward(w.history(w.statusBranch())) {
		e, ok := audit.ParseMessage(c.Message)
		if !ok {
			continue
		}
		switch e.Type {
		case rollout.Advanced, rollout.PromotionStarted:
			if at := since[e.App]; !at.IsZero() {
				lasted = append(lasted, e.Time.Sub(at))
			}
			since[e.App] = e.Time
		case rollout.Promoted:
			promoted++
			delete(since, e.App)
		default:
			delete(since, e.App)
		}
	}
	return lasted, promoted
}

// idle measures an agent that has nothing to do for a minute, in which it looks at the branch twice.
func (w *world) idle(b *testing.B, name string) {
	w.Helper()
	const minute = 60
	begin, used := time.Now(), w.cpu()
	w.intervals(minute)
	b.ReportMetric(float64(w.cpu()-used)/float64(time.Since(begin))*100, name+"-%-of-a-core")
	b.ReportMetric(float64(len(w.writes(begin))), name+"-writes")
	b.ReportMetric(w.memory("VmRSS"), name+"-RSS-MB")
}

// BenchmarkDecisiveFailure makes a canary fail beyond doubt in the middle of its analysis, and reports how long after
// Prometheus shows that the canary has no traffic any more, in seconds: at most the check's interval and one.
//
//	go test -run=^$ -bench=DecisiveFailure -benchtime=5x ./test/e2e
func BenchmarkDecisiveFailure(b *testing.B) {
	for _, interval := range []time.Duration{time.Second, 5 * time.Second} {
		b.Run(interval.String(), func(b *testing.B) {
			var sum, worst float64
			for range b.N {
				took := decisiveFailure(b, interval).Seconds()
				sum, worst = sum+took, max(worst, took)
			}
			b.ReportMetric(sum/float64(b.N), "s-to-zero")
			b.ReportMetric(worst, "s-to-zero-at-worst")
			b.ReportMetric((interval + time.Second).Seconds(), "s-allowed")
		})
	}
}

func decisiveFailure(b *testing.B, interval time.Duration) time.Duration {
	w := newWorld(b)
	w.checkInterval = interval
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 1})
	// What the agent asks, and what makes an answer decisive: less than 50 % of at least 10 requests.
	series := fmt.Sprintf(`istio_requests_total{reporter="destination",destination_workload_namespace=%q,destination_workload=%q`, w.name, app+"-canary")
	window := fmt.Sprintf("[%ds]", int(interval.Seconds()))
	visible := fmt.Sprintf(`sum(rate(%[1]s,response_code!~"5.*"}%[2]s)) / sum(rate(%[1]s}%[2]s)) < 0.5 and sum(increase(%[1]s}%[2]s)) >= 10`, series, window)
	w.await("Prometheus to show the failure", func() (bool, string) { return w.holds(visible), "" })
	seen := time.Now()
	w.await("the canary to have no traffic", func() (bool, string) {
		shares := w.canaryShares()
		return shares[len(shares)-1] == 0, fmt.Sprint(shares)
	})
	history := w.bed.Traffic.History(w.name, w.host())
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.stop()
	return history[len(history)-1].Time.Sub(seen)
}

// holds reports whether Prometheus has an answer to a comparison.
func (w *world) holds(comparison string) bool {
	w.Helper()
	response, err := http.Get(w.bed.PrometheusURL + "/api/v1/query?query=" + url.QueryEscape(comparison))
	w.must(err)
	defer response.Body.Close()
	text := bufio.NewScanner(response.Body)
	return text.Scan() && strings.Contains(text.Text(), `"value"`)
}

// ready counts the apps whose pod is ready.
func (w *world) ready() (n int) {
	w.Helper()
	list, err := w.kube.AppsV1().Deployments(w.name).List(context.Background(), metav1.ListOptions{ResourceVersion: "0"})
	w.must(err)
	for i := range list.Items {
		n += int(list.Items[i].Status.ReadyReplicas)
	}
	return n
}

// installed counts the apps whose installation is in the audit log.
func (w *world) installed() (n int) {
	w.Helper()
	for _, c := range w.history(w.statusBranch()) {
		if e, ok := audit.ParseMessage(c.Message); ok && e.Type == rollout.Installed {
			n++
		}
	}
	return n
}

// rests waits until the agent has asked nothing for some seconds.
func (w *world) rests() {
	w.Helper()
	w.awaitFor(5*time.Minute, 5*time.Second, "the agent to rest", func() (bool, string) {
		since := time.Now().Add(-5 * time.Second)
		all := slices.DeleteFunc(w.requests(since), func(r bed.Request) bool { return r.Verb == "watch" })
		return len(all) == 0 && len(w.requests(w.begun)) > 0, fmt.Sprintf("%d requests in 5 s", len(all))
	})
}

// told counts the events in the audit log by their type.
func (w *world) told() string {
	w.Helper()
	counts := map[string]int{}
	for _, c := range w.history(w.statusBranch()) {
		if e, ok := audit.ParseMessage(c.Message); ok {
			counts[string(e.Type)]++
		}
	}
	return ranked(counts)
}

// tally counts the agent's requests by what they are.
func (w *world) tally(since time.Time) string {
	w.Helper()
	counts := map[string]int{}
	for _, r := range w.requests(since) {
		counts[strings.TrimSuffix(r.Verb+" "+r.Resource+"/"+r.Subresource, "/")]++
	}
	return ranked(counts)
}

// ranked are counts as lines, the highest first.
func ranked(counts map[string]int) string {
	kinds := slices.SortedFunc(maps.Keys(counts), func(x, y string) int { return cmp.Or(counts[y]-counts[x], strings.Compare(x, y)) })
	var lines strings.Builder
	for _, kind := range kinds {
		fmt.Fprintf(&lines, "%6d %s\n", counts[kind], kind)
	}
	return lines.String()
}

// cpu is the processor time that the agent's threads have used.
func (w *world) cpu() (used time.Duration) {
	w.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", w.agent.Process.Pid))
	w.must(err)
	for _, file := range threads {
		text, err := os.ReadFile(file)
		w.must(err)
		ns, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(ns, 10, 64)
		w.must(err)
		used += time.Duration(n)
	}
	return used
}

// memory of the agent, in MB: VmRSS at present, VmHWM at most so far.
func (w *world) memory(field string) float64 {
	w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.agent.Process.Pid))
	w.must(err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.Atoi(strings.Fields(value)[0])
			w.must(err)
			return float64(kb) / 1024
		}
	}
	w.Fatalf("there is no %s on %s", field, runtime.GOOS)
	return 0
}
