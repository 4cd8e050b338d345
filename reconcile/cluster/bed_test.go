package cluster_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
)

var shared *bed.Bed

func TestMain(m *testing.M) { os.Exit(bedtest.Main(m, &shared)) }

// rig is one client on the bed, with a namespace of its own.
type rig struct {
	t   *testing.T
	ns  string
	app delivery.App
	*cluster.Client
	kube *kubernetes.Clientset
	dyn  dynamic.Interface
	// agent is the client's user agent, by which its requests are found in the audit log.
	agent string

	mu    sync.Mutex
	calls []string
	woken chan struct{}
}

var (
	rigs   int
	rigsMu sync.Mutex
)

func newRig(t *testing.T) *rig {
	t.Helper()
	bedtest.Need(t, shared)
	rigsMu.Lock()
	rigs++
	n := rigs
	rigsMu.Unlock()
	config := rest.CopyConfig(shared.REST())
	config.QPS = -1
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, ns: fmt.Sprintf("cluster-%d", n), kube: kube, dyn: dyn, woken: make(chan struct{}, 1000),
	}
	r.app = delivery.App{Name: "web", Namespace: r.ns, ReleaseName: "web"}
	t.Cleanup(func() {
		_ = kube.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), r.ns, metav1.DeleteOptions{})
	})
	r.restart("1")
	return r
}

// restart gives the rig a new client that remembers nothing, as a restarted agent would have.
func (r *rig) restart(version string, configure ...func(*cluster.Config)) {
	r.t.Helper()
	r.agent = "sluice/" + r.ns + "-" + version
	cfg := cluster.Config{
		Allow: allow.Everything,
		REST:  shared.REST(), Namespace: r.ns, Environment: "production", Version: r.ns + "-" + version,
	}
	for _, f := range configure {
		f(&cfg)
	}
	c, err := cluster.New(r.t.Context(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	c.OnChange(func(app string) {
		r.mu.Lock()
		r.calls = append(r.calls, app)
		r.mu.Unlock()
		select {
		case r.woken <- struct{}{}:
		default:
		}
	})
	r.Client = c
	if _, _, err := c.LoadStates(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) apply(phase rollout.Phase, d project.Desired) cluster.Result {
	r.t.Helper()
	res, err := r.Apply(r.t.Context(), r.app, rollout.State{Phase: phase}, d)
	if err != nil {
		r.t.Fatalf("applying: %v", err)
	}
	return res
}

func (r *rig) observe(d project.Desired) delivery.Seen {
	r.t.Helper()
	seen, err := r.Observe(r.t.Context(), r.app, d)
	if err != nil {
		r.t.Fatalf("observing: %v", err)
	}
	return seen
}

// requests of the present client, watches and lists of watches left out, since a moment. A dry run is a try.
func (r *rig) requests(since time.Time) []string {
	r.t.Helper()
	all, err := shared.Requests()
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, q := range all {
		if q.UserAgent == r.agent && !q.Time.Before(since) && q.Verb != "watch" && q.Resource != "" {
			verb := q.Verb
			if strings.Contains(q.Path, "dryRun=") {
				verb = "try"
			}
			out = append(out, strings.TrimSpace(verb+" "+q.Resource+" "+q.Name))
		}
	}
	return out
}

func (r *rig) writes(since time.Time) []string {
	return slices.DeleteFunc(r.requests(since), func(s string) bool {
		return strings.HasPrefix(s, "get ") || strings.HasPrefix(s, "list ") || strings.HasPrefix(s, "try ")
	})
}

// flush makes sure that the audit log holds everything up to now, and returns now.
func (r *rig) flush() time.Time {
	r.t.Helper()
	eventually(r.t, 10*time.Second, func() (bool, string) {
		name := fmt.Sprintf("flush-%d", time.Now().UnixNano())
		_, _ = r.kube.CoreV1().ConfigMaps(r.ns).Get(r.t.Context(), name, metav1.GetOptions{})
		all, err := shared.Requests()
		if err != nil {
			return false, err.Error()
		}
		return slices.ContainsFunc(all, func(q bed.Request) bool { return q.Name == name }), "audit log lags"
	})
	return time.Now()
}

func eventually(t *testing.T, within time.Duration, ask func() (ok bool, state string)) {
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

// objects parses YAML documents and puts them into the rig's namespace.
func (r *rig) objects(text string) []*unstructured.Unstructured {
	r.t.Helper()
	var out []*unstructured.Unstructured
	for _, doc := range strings.Split(text, "\n---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			r.t.Fatal(err)
		}
		if k := o.GetKind(); k != "CustomResourceDefinition" && k != "Namespace" && k != "ClusterRole" {
			o.SetNamespace(r.ns)
		}
		out = append(out, o)
	}
	return out
}

var (
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	services    = schema.GroupVersionResource{Version: "v1", Resource: "services"}
	configMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	secrets     = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	crds        = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	virtual     = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}
)

func (r *rig) get(resource schema.GroupVersionResource, name string) *unstructured.Unstructured {
	r.t.Helper()
	o, err := r.dyn.Resource(resource).Namespace(r.ns).Get(r.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return o
}

// edit is what a person does with kubectl patch.
func (r *rig) edit(resource schema.GroupVersionResource, name, patch string) {
	r.t.Helper()
	_, err := r.dyn.Resource(resource).Namespace(r.ns).Patch(r.t.Context(), name, types.MergePatchType, []byte(patch),
		metav1.PatchOptions{FieldManager: "kubectl-patch"})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) awaitReady(d project.Desired) {
	r.t.Helper()
	eventually(r.t, time.Minute, func() (bool, string) {
		seen := r.observe(d)
		return seen.Stable.Ready, fmt.Sprintf("%+v", seen)
	})
}

func (r *rig) pods() map[types.UID]string {
	r.t.Helper()
	list, err := r.kube.CoreV1().Pods(r.ns).List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[types.UID]string{}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed {
			out[p.UID] = p.Name
		}
	}
	return out
}

// workloads finds the Deployments among objects, whose readiness is the track's.
func workloads(objs []*unstructured.Unstructured) []*unstructured.Unstructured {
	return slices.DeleteFunc(slices.Clone(objs), func(o *unstructured.Unstructured) bool {
		return o.GetKind() != "Deployment" && o.GetKind() != "StatefulSet" && o.GetKind() != "DaemonSet"
	})
}

func deployment(name, image string, replicas int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  labels: {app: %[1]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers:
      - name: app
        image: %[2]s
        ports: [{containerPort: 8080}]
        env: [{name: MODE, value: fast}]
        resources: {requests: {cpu: "0.1", memory: 64Mi}}`, name, image, replicas)
}

const service = `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]`

const virtualService = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - name: main
    route:
    - {destination: {host: web}, weight: 90}
    - {destination: {host: web-canary}, weight: 10}`

const configs = `apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {level: info, port: "8080"}
---
apiVersion: v1
kind: Secret
metadata: {name: web}
stringData: {password: swordfish}`

// whole is an app with one of everything.
func (r *rig) whole() project.Desired {
	objs := r.objects(configs + "\n---\n" + service + "\n---\n" + deployment("web", "web:1", 2))
	return project.Desired{Stable: objs, StableWorkloads: workloads(objs), Routing: r.objects(virtualService)}
}
