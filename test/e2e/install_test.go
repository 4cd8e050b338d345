package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/deploy"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// The agent has the rights that the chart gives it and no others, and delivers with them: an install, a rollback, a promotion,
// a removal. It is a process with the credentials of its ServiceAccount rather than a pod, because there is no kubelet here;
// the Deployment is only shown to the API server.
func TestInstalledByTheChart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installChart()
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3, Ready: behaviour.ReadySlowly, ReadyAfterSeconds: 3})
	w.install()
	w.await("the doctor to be content", func() (bool, string) {
		said, code := w.doctor()
		return code == 0 && !strings.Contains(said, "MISSING"), said
	})
	w.bump("0.0.130")
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
	w.bump("0.0.131")
	w.awaitEvent(rollout.Promoted, "0.0.131", 1)
	w.servesGit()
	w.removed()
	w.stop()

	used := map[string]bool{}
	requests, err := w.bed.Requests()
	w.must(err)
	for _, r := range requests {
		if r.User != w.serviceAccount() {
			continue
		}
		if r.Code == http.StatusForbidden {
			t.Errorf("the agent may not %s %s", r.Verb, r.Path)
		}
		used[r.Verb+" "+cluster.Right{Group: r.Group, Resource: r.Resource}.String()] = true
	}
	served := w.served()
	for _, right := range cluster.Rights() {
		for _, verb := range right.Verbs {
			// A server that streams a first list is not asked for one.
			streamed := verb == "list" && used["watch "+right.String()]
			if !used[verb+" "+right.String()] && !streamed && served[right.String()] {
				t.Errorf("the agent has the right to %s %s, %s, and did not use it", verb, right, right.Why)
			}
		}
	}
}

// Each thing that is taken away is told by the doctor, with what to do, and by its exit code.
func TestDoctorTellsWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.installChart()
	roles := schema.GroupVersionResource{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"}
	role := w.object(roles.Group, roles.Version, roles.Resource, "sluice")
	rules, _, err := unstructured.NestedSlice(role.Object, "rules")
	w.must(err)
	rules = slices.DeleteFunc(rules, func(r any) bool {
		return slices.Contains(r.(map[string]any)["resources"].([]any), any("deployments")) || slices.Contains(r.(map[string]any)["resources"].([]any), any("pods"))
	})
	w.must(unstructured.SetNestedSlice(role.Object, rules, "rules"))
	_, err = w.dyn.Resource(roles).Namespace(w.name).Update(context.Background(), role, metav1.UpdateOptions{})
	w.must(err)
	w.charts = fmt.Sprintf("url: %q, username: nobody, passwordFile: password", w.bed.Charts.URL())
	said, code := w.doctor()
	for _, want := range []string{
		"ok       Kubernetes v",
		"MISSING  " + w.name + ": may not list pods in namespace " + w.name + ", to say why pods are not ready; ",
		"MISSING  " + w.name + ": " + app + ": ",
		"ok       " + w.name + ": may push to ",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("the doctor does not say %q", want)
		}
	}
	if code != 3 {
		t.Errorf("the doctor ended with %d", code)
	}

	w.charts = ""
	said, code = w.doctor()
	if want := "MISSING  " + w.name + ": may not get, list, watch, create, patch, delete deployments.apps in namespace " + w.name + ", "; code != 3 || !strings.Contains(said, want) {
		t.Errorf("the doctor does not say %q", want)
	}
}

// doctor examines what the agent would have.
func (w *world) doctor() (said string, code int) {
	w.Helper()
	cmd := exec.Command(program, append([]string{"doctor", "--config", w.configure()}, w.flags...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) || stderr.Len() > 0 {
		w.Fatalf("%v: %s", err, stderr.String())
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// serviceAccount is the agent's user name.
func (w *world) serviceAccount() string {
	return "system:serviceaccount:" + w.agentNamespace() + ":sluice"
}

func (w *world) agentNamespace() string { return w.name + "-agent" }

// installChart makes the chart's objects, and has the agent run with its ServiceAccount's credentials.
func (w *world) installChart() {
	w.Helper()
	ctx := context.Background()
	for _, name := range []string{w.name, "jx-" + w.name, w.agentNamespace()} {
		_, err := w.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) { // from an earlier installation, as no chart removes them
			w.must(err)
		}
	}
	for _, o := range w.chartObjects("") {
		w.create(ctx, o)
	}
	token, err := w.kube.CoreV1().ServiceAccounts(w.agentNamespace()).CreateToken(ctx, "sluice", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	w.must(err)
	w.flags = []string{"--kubeconfig", w.kubeconfig(token.Status.Token), "--leader-election"}
}

// chartObjects are what the chart renders for the world's agent, with further values.
func (w *world) chartObjects(values string) []*unstructured.Unstructured {
	w.Helper()
	objects, err := deploy.Release{Name: "sluice", Namespace: w.agentNamespace(), Values: fmt.Sprintf(`
config:
  prometheus: {address: %q}
  environments: [{name: %q, repository: {url: %q}}]
namespaces: [%q] # sluice.yaml says so
`, w.bed.PrometheusURL, w.name, w.bed.Git.URL(w.name), w.name) + values}.Objects()
	w.must(err)
	return objects
}

// create makes an object, and shows the API server only those that have a part in running pods.
func (w *world) create(ctx context.Context, o *unstructured.Unstructured) {
	w.Helper()
	opts := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	if runsPods(o) {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	mapping, err := w.mapper().RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
	w.must(err)
	_, err = w.dyn.Resource(mapping.Resource).Namespace(o.GetNamespace()).Create(ctx, o, opts)
	w.must(err)
	if o.GetNamespace() == "" {
		w.Cleanup(func() {
			_ = w.dyn.Resource(mapping.Resource).Delete(ctx, o.GetName(), metav1.DeleteOptions{})
		})
	}
}

// runsPods reports whether an object has a part in running pods, which the agent is not here.
func runsPods(o *unstructured.Unstructured) bool {
	return slices.Contains([]string{"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"}, o.GetKind())
}

func (w *world) mapper() *restmapper.DeferredDiscoveryRESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(w.kube.Discovery()))
}

// served are the resources that the API server has.
func (w *world) served() map[string]bool {
	w.Helper()
	_, lists, err := w.kube.Discovery().ServerGroupsAndResources()
	w.must(err)
	out := map[string]bool{}
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		w.must(err)
		for _, r := range list.APIResources {
			out[cluster.Right{Group: version.Group, Resource: r.Name}.String()] = true
		}
	}
	return out
}

// kubeconfig writes one for whoever has a token.
func (w *world) kubeconfig(token string) string {
	w.Helper()
	rest := w.bed.REST()
	c := clientcmdapi.NewConfig()
	c.Clusters["bed"] = &clientcmdapi.Cluster{Server: rest.Host, CertificateAuthority: rest.CAFile, CertificateAuthorityData: rest.CAData, InsecureSkipTLSVerify: rest.Insecure}
	c.AuthInfos["agent"] = &clientcmdapi.AuthInfo{Token: token}
	c.Contexts["bed"] = &clientcmdapi.Context{Cluster: "bed", AuthInfo: "agent"}
	c.CurrentContext = "bed"
	file := filepath.Join(w.dir, "agent.kubeconfig")
	w.must(clientcmd.WriteToFile(*c, file))
	w.must(os.Chmod(file, 0o600))
	return file
}

// The alert rules are read, and tried on series, by Prometheus's own code, which is in the module of the bed's servers.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	w := &world{TB: t}
	objects, err := deploy.Release{Name: "sluice", Namespace: "sluice", Values: `
config:
  prometheus: {address: "http://prometheus:9090"}
  environments: [{name: production, repository: {url: "https://git.example.com/production.git"}}]
prometheusRule: {enabled: true}
`}.Objects()
	w.must(err)
	rules := slices.IndexFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "PrometheusRule" })
	text, err := yaml.Marshal(objects[rules].Object["spec"])
	w.must(err)
	file := filepath.Join(t.TempDir(), "rules.yaml")
	w.must(os.WriteFile(file, text, 0o600))
	root, err := bed.FindRoot()
	w.must(err)
	cmd := exec.Command("go", "test", "-vet=off", "-count=1", "./rules", "-args", "-rules="+file)
	cmd.Dir = filepath.Join(root, "test/bed/servers")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}
