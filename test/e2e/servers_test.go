package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

func TestPrometheusAwayHoldsTheWeight(t *testing.T) {
	w := newWorld(t)
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 2)
	w.must(w.bed.StopPrometheus())
	t.Cleanup(func() { _ = w.bed.StartPrometheus(context.Background()) })
	held := w.awaitEvent(rollout.Inconclusive, "0.0.130", 1)
	w.awaitEvent(rollout.Stalled, "0.0.130", 1)
	shares := w.canaryShares()
	if got := shares[len(shares)-1]; got != held.Weight {
		t.Errorf("users saw the canary at %d %%, want it held at %d", got, held.Weight)
	}
	w.must(w.bed.StartPrometheus(context.Background()))
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	at := slices.Index(goodStory, fmt.Sprintf("Advanced %d 0.0.130", held.Weight)) + 1
	w.toldAs(slices.Insert(slices.Clone(goodStory), at,
		fmt.Sprintf("Stalled %d 0.0.130", held.Weight)))
	if got := w.canaryShares(); !slices.Equal(got, goodShares) {
		t.Errorf("users saw the canary's share as %v, want %v", got, goodShares)
	}
}

func TestGitAwayDoesNotDelayTheRollback(t *testing.T) {
	w := newWorld(t)
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	w.install()
	before, stable := w.file("main", requirements), w.pods(app)
	bad := w.bump("0.0.130")
	w.awaitState(atWeight(10, false))
	w.must(w.bed.Git.Stop())
	t.Cleanup(func() { _ = w.bed.Git.Start() })
	w.awaitState(moment{name: "rolled back", is: func(s rollout.State) bool { return s.Phase == rollout.Idle && s.Revert != nil }})
	w.settled()
	if got, want := w.canaryShares(), []int{0, 10, 0}; !slices.Equal(got, want) {
		t.Errorf("while git was away users saw the canary's share as %v, want %v", got, want)
	}
	w.samePods(stable)
	w.must(w.bed.Git.Start())
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.toldAs(badStory)
	w.rolledBackOnce(bad, before)
	w.servesGit()
}

// The API server ends once as told to and once by a crash, and is away for a while both times.
func TestAPIServerRestart(t *testing.T) {
	w := newWorld(t)
	w.install()
	w.bump("0.0.130")
	t.Cleanup(func() { _ = w.bed.StartAPIServer(context.Background()) })
	for n, stop := range []func() error{w.bed.StopAPIServer, w.bed.KillAPIServer} {
		w.awaitEvent(rollout.Advanced, "0.0.130", 2*n+1)
		w.must(stop())
		w.intervals(2)
		w.must(w.bed.StartAPIServer(context.Background()))
	}
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.toldAs(goodStory)
	w.stepsLasted(time.Second)
	// What users saw is not asked: they watch the API server too, and may miss weights until they have it back.
	w.servesGit()
}

// A chart host that takes requests and never answers holds up nobody but the apps that need it: neither the steps of a
// canary nor another app's release.
func TestChartHostHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must(w.bed.Charts.AddChart(small()))
	answers := make(chan struct{})
	target, err := url.Parse(w.bed.Charts.URL())
	w.must(err)
	charts := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.SetBasicAuth(bed.User, bed.Password)
	}}
	host := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		select {
		case <-answers:
			charts.ServeHTTP(rw, r)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(host.Close)

	w.chartHosts = []string{host.URL}
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	const stuck = 12 // more than there are workers
	list := w.file("main", requirements)
	for n := range stuck {
		list += fmt.Sprintf("- {name: small, alias: stuck-%d, version: 1.0.0, repository: %q}\n", n, host.URL)
	}
	list += fmt.Sprintf("- {name: small, alias: quick, version: 1.0.0, repository: %q}\n", w.bed.Charts.URL())
	w.commit("more apps", map[string]string{requirements: list})
	w.await("the app that needs nothing of that host", func() (bool, string) {
		names := w.names("apps", "v1", "deployments")
		return slices.Contains(names, "quick"), strings.Join(names, ", ")
	})
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.toldAs(goodStory)
	if readme := w.file(w.statusBranch(), "README.md"); strings.Contains(readme, host.URL) {
		t.Errorf("the host was given up before the others got their turn:\n%s", readme)
	}

	close(answers)
	w.await("the apps of that host", func() (bool, string) {
		n := w.installed()
		return n == stuck+2, fmt.Sprint(n)
	})
}
