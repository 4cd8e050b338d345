package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// rollout says policies in sluice.yaml: the environment's, and the app's; empty: none.
func (w *world) rollout(environment, ofApp string) {
	w.Helper()
	var text strings.Builder
	for line := range strings.Lines(w.file("main", "sluice.yaml")) {
		if !strings.HasPrefix(line, "rollout:") && !strings.HasPrefix(line, "apps:") {
			text.WriteString(line)
		}
	}
	if environment != "" {
		text.WriteString("rollout: {" + environment + "}\n")
	}
	if ofApp != "" {
		text.WriteString("apps: {" + app + ": {rollout: {" + ofApp + "}}}\n")
	}
	w.commit("policy", map[string]string{"sluice.yaml": text.String()})
}

// leads fails the test unless the generated VirtualService has the app's hosts and gateways.
func (w *world) leads(when string) {
	w.Helper()
	vs := w.live()["VirtualService/"+app]
	if vs == nil {
		w.Fatalf("%s: users have no VirtualService", when)
	}
	spec, _ := vs.Object["spec"].(map[string]any)
	hosts, _ := spec["hosts"].([]any)
	gateways, _ := spec["gateways"].([]any)
	if len(hosts) == 0 || hosts[0] != w.host() || len(gateways) != 1 {
		w.Errorf("%s: hosts %v and gateways %v", when, hosts, gateways)
	}
}

// unbegun fails the test when a rollout to a version begins within a few looks.
func (w *world) unbegun(version, why string) {
	w.Helper()
	w.intervals(3)
	for _, e := range w.events() {
		if e.Type == rollout.RolloutStarted && e.To.Version == version {
			w.Errorf("%s: a rollout to %s began", why, version)
		}
	}
	w.leads(why)
}

// TestPaused: whichever of the ways that the documents name stops an app, or makes a rolling update of its canary, users keep
// their hosts and gateways, nobody goes unserved, and there is a way on.
func TestPaused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	w.leads("installed")
	begun := time.Now()

	w.rollout("", "suspend: true")
	w.bump("0.0.130")
	w.says("gate suspend is closed: the policy says suspend: true")
	w.unbegun("0.0.130", "suspended for the app")
	w.rollout("suspend: true", "")
	w.unbegun("0.0.130", "suspended for the environment")
	w.rollout("", "")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)

	w.ask(0, "Ann", "hold", app+": held by Ann, no rollout starts (*): because")
	w.bump("0.0.131")
	w.says("held by Ann: because")
	w.unbegun("0.0.131", "held")
	w.ask(0, "Bob", "unhold", app+": hold ended by Bob (*): because")
	w.awaitEvent(rollout.Promoted, "0.0.131", 1)
	w.settled()

	w.rollout("", "strategy: Rolling")
	w.intervals(3)
	w.leads("at rest, Rolling")
	w.bump("0.0.132")
	w.awaitEvent(rollout.Promoted, "0.0.132", 1)
	w.intervals(3)
	w.leads("promoted, Rolling")

	w.rollout("", "")
	w.commit("no canary", map[string]string{"env/values.yaml": w.values("hello", 2) + "    enable: false\n"})
	w.intervals(3)
	w.leads("switched off in the values")
	w.bump("0.0.129")
	w.awaitEvent(rollout.Promoted, "0.0.129", 1)
	w.intervals(3)
	w.leads("promoted, switched off in the values")
	w.servesGit()
	w.servedAlways(begun)
}
