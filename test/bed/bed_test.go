package bed_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// shared is the bed of all tests here.
var shared *bed.Bed

func TestMain(m *testing.M) {
	if dir := os.Getenv(starterVariable); dir != "" {
		os.Exit(starter(dir))
	}
	os.Exit(bedtest.Main(m, &shared))
}

// starterVariable makes the test program start a bed in the directory that it names, and nothing else.
const starterVariable = "SLUICE_BED_STARTER"

// starter starts a bed, says which processes its servers are, and is there until it is killed.
func starter(dir string) int {
	b, err := bed.Start(context.Background(), bed.Options{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(b.PIDs()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {}
}

// eventually asks until the answer is right, and fails with the last answer.
func eventually(t testing.TB, within time.Duration, ask func() (ok bool, state string)) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, state := ask()
		if ok {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after %s: %s", within, state)
		case <-tick.C:
		}
	}
}

func newClient() (*kubernetes.Clientset, error) { return kubernetes.NewForConfig(shared.REST()) }

func client(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	c, err := newClient()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newNamespace(ctx context.Context, c *kubernetes.Clientset) (string, error) {
	ns, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "bed-"}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return ns.Name, nil
}

// namespace makes one for the test and removes it afterwards.
func namespace(t *testing.T, c *kubernetes.Clientset) string {
	t.Helper()
	ns, err := newNamespace(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), ns, metav1.DeleteOptions{})
	})
	return ns
}

func deploy(t *testing.T, c *kubernetes.Clientset, ns, name, image string, replicas int32, rate float64) {
	t.Helper()
	if err := create(t.Context(), c, ns, name, image, replicas, rate); err != nil {
		t.Fatal(err)
	}
}

// create creates a Deployment and a Service of the same name.
func create(ctx context.Context, c *kubernetes.Clientset, ns, name, image string, replicas int32, rate float64) error {
	labels := map[string]string{"app": name}
	if _, err := c.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}},
			},
		},
	}, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := c.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"bed.sluice.dev/requests-per-second": fmt.Sprint(rate)}},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{})
	return err
}

func awaitReady(t *testing.T, c *kubernetes.Clientset, ns, name string, replicas int32) {
	t.Helper()
	eventually(t, time.Minute, func() (bool, string) {
		d, err := c.AppsV1().Deployments(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		return d.Status.ReadyReplicas == replicas && d.Status.UpdatedReplicas == replicas,
			fmt.Sprintf("deployment %s has %d of %d replicas ready", name, d.Status.ReadyReplicas, replicas)
	})
}

// query asks Prometheus for the value of an expression with one series.
func query(t *testing.T, expression string) (float64, error) {
	t.Helper()
	response, err := http.Get(shared.PrometheusURL + "/api/v1/query?query=" + url.QueryEscape(expression))
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if len(answer.Data.Result) != 1 {
		return 0, fmt.Errorf("%d series", len(answer.Data.Result))
	}
	return strconv.ParseFloat(answer.Data.Result[0].Value[1].(string), 64)
}

// successRate is Flagger's query.
func successRate(ns, workload string) string {
	series := fmt.Sprintf(`istio_requests_total{reporter="destination",destination_workload_namespace=%q,destination_workload=~%q`, ns, workload)
	return fmt.Sprintf(`sum(rate(%s,response_code!~"5.*"}[2s])) / sum(rate(%s}[2s])) * 100`, series, series)
}

func latency(ns, workload string) string {
	return fmt.Sprintf(`histogram_quantile(0.99, sum(rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_workload_namespace=%q,destination_workload=~%q}[2s])) by (le))`, ns, workload)
}

func awaitValue(t *testing.T, expression string, low, high float64) {
	t.Helper()
	eventually(t, 30*time.Second, func() (bool, string) {
		v, err := query(t, expression)
		return err == nil && v >= low && v <= high, fmt.Sprintf("%s = %v, %v; want %v to %v", expression, v, err, low, high)
	})
}

func TestDeploymentBecomesReadyAndIsMeasured(t *testing.T) {
	c := client(t)
	ns := namespace(t, c)
	shared.Behaviours.Set("measured:2", behaviour.Behaviour{ErrorRate: .25, LatencyMillis: 700})
	deploy(t, c, ns, "good", "registry.example/team/measured:1", 3, 100)
	deploy(t, c, ns, "bad", "registry.example/team/measured:2", 2, 100)
	awaitReady(t, c, ns, "good", 3)
	awaitReady(t, c, ns, "bad", 2)
	awaitValue(t, successRate(ns, "good"), 100, 100)
	awaitValue(t, latency(ns, "good"), 10, 25)
	awaitValue(t, successRate(ns, "bad"), 74, 76)
	awaitValue(t, latency(ns, "bad"), 500, 1000)
	if counts := shared.Traffic.Counts(ns, "good"); counts.Failed != counts.Unserved {
		t.Errorf("users of the good version saw errors: %+v", counts)
	}
}

func TestBadVersionsDoNotBecomeReady(t *testing.T) {
	c := client(t)
	ns := namespace(t, c)
	shared.Behaviours.Set("crashing:1", behaviour.Behaviour{Ready: behaviour.Crashing})
	deploy(t, c, ns, "crashing", "crashing:1", 2, 0)
	eventually(t, 30*time.Second, func() (bool, string) {
		pods, err := c.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		for _, p := range pods.Items {
			if len(p.Status.ContainerStatuses) == 0 {
				continue
			}
			s := p.Status.ContainerStatuses[0]
			if s.RestartCount >= 2 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff" && !s.Ready {
				return true, ""
			}
		}
		return false, "no pod crashes"
	})
	// The version is repaired while it runs.
	shared.Behaviours.Set("crashing:1", behaviour.Healthy)
	awaitReady(t, c, ns, "crashing", 2)
}

func TestAPIServerKeepsItsDataOverARestart(t *testing.T) {
	c := client(t)
	ns := namespace(t, c)
	deploy(t, c, ns, "kept", "kept:1", 1, 20)
	awaitReady(t, c, ns, "kept", 1)
	for _, stop := range []func() error{shared.StopAPIServer, shared.KillAPIServer} {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); err == nil {
			t.Error("a stopped API server answered")
		}
		if err := shared.StartAPIServer(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// The data are there and the controllers and players work on.
	if _, err := c.AppsV1().Deployments(ns).Patch(t.Context(), "kept", "application/merge-patch+json", []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, c, ns, "kept", 3)
}

func TestPrometheusKeepsItsDataOverARestart(t *testing.T) {
	if err := shared.StopPrometheus(); err != nil {
		t.Fatal(err)
	}
	if _, err := query(t, "vector(1)"); err == nil {
		t.Error("a stopped Prometheus answered")
	}
	if err := shared.StartPrometheus(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitValue(t, "vector(1)", 1, 1)
	awaitValue(t, `up{job="bed"}`, 1, 1)
}

func TestCustomResourcesAreServed(t *testing.T) {
	c := client(t)
	for groupVersion, want := range map[string][]string{
		"networking.istio.io/v1":       {"VirtualService", "DestinationRule", "Gateway", "ServiceEntry", "Sidecar"},
		"security.istio.io/v1":         {"AuthorizationPolicy", "PeerAuthentication"},
		"gateway.networking.k8s.io/v1": {"Gateway", "GatewayClass", "HTTPRoute", "GRPCRoute"},
	} {
		list, err := c.Discovery().ServerResourcesForGroupVersion(groupVersion)
		if err != nil {
			t.Errorf("%s: %v", groupVersion, err)
			continue
		}
		served := map[string]bool{}
		for _, r := range list.APIResources {
			served[r.Kind] = true
		}
		for _, kind := range want {
			if !served[kind] {
				t.Errorf("%s does not serve %s", groupVersion, kind)
			}
		}
	}
}

func TestAnnotatedPodsBehaveSo(t *testing.T) {
	c := client(t)
	ns := namespace(t, c)
	deploy(t, c, ns, "annotated", "annotated:1", 1, 0)
	awaitReady(t, c, ns, "annotated", 1)
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{%q:%q}}}}}`, behaviour.Annotation, `{"ready":"imagepull"}`)
	if _, err := c.AppsV1().Deployments(ns).Patch(t.Context(), "annotated", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() (bool, string) {
		pods, err := c.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		for _, p := range pods.Items {
			if s := p.Status.ContainerStatuses; len(s) > 0 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "ImagePullBackOff" {
				return true, ""
			}
		}
		return false, fmt.Sprintf("none of %d pods fails to pull its image", len(pods.Items))
	})
}

func TestAuditLogNamesTheClient(t *testing.T) {
	config := shared.REST()
	config.UserAgent = "audited"
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() (bool, string) {
		requests, err := shared.Requests()
		if err != nil {
			return false, err.Error()
		}
		n := 0
		for _, r := range requests {
			if r.UserAgent == "audited" && r.Verb == "list" && r.Resource == "nodes" {
				n++
			}
		}
		return n == 1, fmt.Sprintf("%d requests in the audit log", n)
	})
}

func TestRegistryAsksForPassword(t *testing.T) {
	for password, want := range map[string]int{bed.Password: 200, "wrong": 401} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+shared.RegistryAddr+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth(bed.User, password)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("password %s: %d, want %d", password, response.StatusCode, want)
		}
	}
}

func TestFindRootOutsideACheckout(t *testing.T) {
	root, err := bed.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "test", "bed", "servers", "go.mod")); err != nil {
		t.Error(err)
	}
	t.Chdir(t.TempDir())
	if _, err := bed.FindRoot(); !errors.Is(err, bed.ErrNotInCheckout) {
		t.Errorf("outside: %v", err)
	}
}
