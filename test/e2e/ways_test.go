package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/registry"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// TestSSHAndOCI delivers from a repository that is reached by SSH and a chart that is pulled from an OCI registry.
func TestSSHAndOCI(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	oci := w.push("0.0.129", "0.0.130")
	known := filepath.Join(w.dir, "known_hosts")
	w.must(os.WriteFile(known, []byte(w.bed.Git.KnownHosts()), 0o600))
	w.repository = fmt.Sprintf("url: %q, sshKeyFile: %q, knownHostsFile: %q", w.bed.Git.SSHURL(w.name), w.bed.Git.ClientKeyPath, known)
	w.charts = fmt.Sprintf("url: %q, username: %s, passwordFile: password", oci, bed.User)
	w.commit("charts from the registry", map[string]string{
		requirements: "dependencies:\n- name: " + app + "\n  version: 0.0.129\n  repository: " + oci + "\n",
	})
	w.install()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.toldAs(goodStory)
}

// Without a mesh, traffic is shared by pods: the canary's join the Service of the stable ones, and checks are the policy's own.
func TestPlainKubernetes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	requests := func(more string) string {
		return `sum(rate(istio_requests_total{destination_workload_namespace="{{ namespace }}",destination_workload="{{ target }}"` + more + `}[{{ interval }}]))`
	}
	w.commit("policy", map[string]string{"env/values.yaml": fmt.Sprintf(`%s:
  replicaCount: 4
  image: {repository: demo.invalid/%s}
  canary:
    provider: kubernetes
    service: {hosts: [%s]}
    canaryAnalysis:
      stepWeight: null
      maxWeight: null
      stepWeights: [20, 50]
      metrics:
      - name: answers
        thresholdRange: {min: 99}
        query: '100 * %s / %s'
`, app, w.image, w.host(), requests(`,response_code!~"5.*"`), requests(""))})
	w.install()
	w.routeUsers()

	begin := time.Now()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.toldAs([]string{
		"InstallStarted 0 0.0.129", "Installed 0 0.0.129", "RolloutStarted 0 0.0.130", "Advanced 20 0.0.130", "Advanced 50 0.0.130",
		"PromotionStarted 50 0.0.130", "Promoted 0 0.0.130",
	})
	started := w.awaitEvent(rollout.RolloutStarted, "0.0.130", 1)
	if !strings.Contains(started.Reason, "traffic is shared by pods: 20% is 1 of 5 (20%), 50% is 4 of 8 (50%)") {
		t.Errorf("the rollout began with the words %q", started.Reason)
	}
	if shares := w.canaryShares(); !slices.Contains(shares, 20) || !slices.Contains(shares, 50) {
		t.Errorf("users saw the canary's share as %v", shares)
	}
	w.settled()

	before := w.file("main", requirements)
	w.behave("0.0.131", behaviour.Behaviour{ErrorRate: 0.3})
	bad := w.bump("0.0.131")
	w.awaitEvent(rollout.RollbackCommitted, "0.0.131", 1)
	w.awaitEvent(rollout.RolledBack, "0.0.131", 1)
	w.rolledBackOnce(bad, before)
	w.settled()
	w.servedAlways(begin)
	if names := w.names("networking.istio.io", "v1", "virtualservices"); !slices.Equal(names, []string{"users"}) {
		t.Errorf("there are VirtualServices %v", names)
	}
}

// push puts versions of the app's chart into the registry, as helm push does, and returns where they are.
func (w *world) push(versions ...string) (repository string) {
	w.Helper()
	client, err := registry.NewClient(registry.ClientOptPlainHTTP(), registry.ClientOptBasicAuth(bed.User, bed.Password))
	w.must(err)
	for _, version := range versions {
		archive, err := os.ReadFile(filepath.Join(w.bed.Dir, "charts", app+"-"+version+".tgz"))
		w.must(err)
		_, err = client.Push(archive, w.bed.RegistryAddr+"/charts/"+app+":"+version)
		w.must(err)
	}
	return "oci://" + w.bed.RegistryAddr + "/charts"
}
