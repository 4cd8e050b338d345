package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"helm.sh/helm/v3/pkg/registry"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
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
