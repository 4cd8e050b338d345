package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

var (
	canaries    = schema.GroupVersionResource{Group: "flagger.app", Version: "v1beta1", Resource: "canaries"}
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	services    = schema.GroupVersionResource{Version: "v1", Resource: "services"}
)

// canaryKind is the definition of Flagger's Canary, as far as nobody here looks at its fields.
const canaryKind = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: canaries.flagger.app}
spec:
  group: flagger.app
  names: {kind: Canary, listKind: CanaryList, plural: canaries, singular: canary}
  scope: Namespaced
  versions:
  - name: v1beta1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
`

const canaryTemplate = `apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: croc-hunter-java}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: croc-hunter-java}
  service:
    port: 80
    targetPort: 8080
    hosts: {{ toJson .Values.canary.service.hosts }}
    gateways: {{ toJson .Values.canary.service.gateways }}
  analysis: {interval: 60s, threshold: 5, maxWeight: 50, stepWeight: 10}
`

// TestComingFromFlagger: an app that Flagger steers is taken over as docs/flagger.md has it. While Flagger has it, it is a fault, and
// nothing is touched. Then users are served all the time, by the primary's pods until the app's own are there, and a canary follows.
func TestComingFromFlagger(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.define(canaryKind)
	flagged := func(c *chart.Chart) { template(c, "canary.yaml").Data = []byte(canaryTemplate) }
	// Pods take their time, so that who does not wait for them is seen.
	w.behave("0.4.0", behaviour.Behaviour{Ready: behaviour.ReadySlowly, ReadyAfterSeconds: 3})
	w.variant("0.4.0", flagged)
	w.variant("0.4.1", flagged)
	values, err := chartutil.ReadValues([]byte(w.file("main", "env/values.yaml")))
	w.must(err)
	w.helmInstalled(app, w.edited("0.4.0", flagged), values[app].(map[string]any))
	w.flaggered("0.4.0")
	w.bed.Traffic.SetRate(w.name, app, 50) // who calls the Service, beside who comes by the gateway
	begin := time.Now()
	primary := w.pods(app + "-primary")
	routed := w.object(virtualServices.Group, virtualServices.Version, virtualServices.Resource, app).GetResourceVersion()

	w.bump("0.4.0")
	w.start()
	w.await("the status branch", func() (bool, string) { return len(w.history(w.statusBranch())) > 0, w.log.tail(500) })
	w.awaitFault("Flagger steers Deployment croc-hunter-java by Canary " + w.name + "/croc-hunter-java; expected that it has let go: kubectl -n " +
		w.name + " delete canary croc-hunter-java --cascade=orphan")
	if now := w.object(virtualServices.Group, virtualServices.Version, virtualServices.Resource, app).GetResourceVersion(); now != routed {
		t.Error("the VirtualService was touched")
	}
	if pods := w.pods(app); len(pods) > 0 {
		t.Errorf("there are pods %v", pods)
	}

	orphan := metav1.DeletePropagationOrphan
	w.must(w.dyn.Resource(canaries).Namespace(w.name).Delete(ctx, app, metav1.DeleteOptions{PropagationPolicy: &orphan}))
	w.awaitFault("VirtualService " + w.name + "/croc-hunter-java: it is there already, made by flagger")
	leave := []byte(`{"metadata":{"annotations":{"sluice.dev/adopt":"true"}}}`)
	_, err = w.dyn.Resource(virtualServices).Namespace(w.name).Patch(ctx, app, types.MergePatchType, leave, metav1.PatchOptions{})
	w.must(err)
	w.must(w.dyn.Resource(services).Namespace(w.name).Delete(ctx, app+"-canary", metav1.DeleteOptions{}))
	w.must(w.dyn.Resource(destinationRules).Namespace(w.name).Delete(ctx, app+"-canary", metav1.DeleteOptions{}))
	w.await("the app's own pods to serve", func() (bool, string) {
		history := w.bed.Traffic.History(w.name, app)
		now := history[len(history)-1]
		return now.ByWorkload[app] == 1, fmt.Sprint(now)
	})
	w.await("no fault any more", func() (bool, string) {
		text := w.file(w.statusBranch(), "README.md")
		return faultOf(text, app) == "", text
	})
	if now := w.pods(app + "-primary"); !maps.Equal(now, primary) {
		t.Errorf("the primary's pods were %v, and are %v", primary, now)
	}
	own := w.pods(app)
	for _, kind := range []schema.GroupVersionResource{deployments, services, destinationRules, {Version: "v1", Resource: "configmaps"}} {
		w.must(w.dyn.Resource(kind).Namespace(w.name).Delete(ctx, app+"-primary", metav1.DeleteOptions{}))
	}
	w.samePods(own)

	w.bump("0.4.1")
	w.awaitEvent(rollout.Promoted, "0.4.1", 1)
	w.settled()
	w.servedAlways(begin)
	w.calledAlways(begin)
}

// calledAlways fails the test when who calls the app's Service found no ready pod at some time since.
func (w *world) calledAlways(since time.Time) {
	w.Helper()
	for _, h := range w.bed.Traffic.History(w.name, app) {
		if h.Unserved > 0 && h.Time.After(since) {
			w.Errorf("who calls the Service finds no pod: %v", h)
		}
	}
}

// TestComingFromJenkinsX: the apps of one umbrella release, as jx installs an environment, are taken over as docs/jenkins-x.md has it:
// no pod is restarted, nobody is unserved, and a canary follows. The records of the umbrella's release go without its objects.
func TestComingFromJenkinsX(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const second = "croc-two"
	list := w.file("main", requirements)
	repository := "  repository: " + w.bed.Charts.URL() + "\n"
	text := w.file("main", "env/values.yaml") + second + ":\n  service: {name: " + second + "}\n  image: {repository: demo.invalid/" + w.image +
		"}\n  canary: {enable: false, service: {hosts: [two.example.com]}}\n"
	w.found("releaseName: jx\n")
	w.commit("two apps", map[string]string{
		requirements:      list + "- name: " + app + "\n  alias: " + second + "\n  version: 0.0.129\n" + repository,
		"env/values.yaml": text,
	})
	umbrella := &chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: "env", Version: "0.0.1", Dependencies: []*chart.Dependency{
		{Name: app, Version: "0.0.129"}, {Name: app, Version: "0.0.129", Alias: second},
	}}}
	umbrella.AddDependency(w.edited("0.0.129", func(*chart.Chart) {}))
	values, err := chartutil.ReadValues([]byte(text))
	w.must(err)
	w.helmInstalled("jx", umbrella, values)
	for _, name := range []string{app, second} {
		mark := []byte(`{"metadata":{"labels":{"gitops.jenkins-x.io/pipeline":"namespaces"}}}`)
		_, err := w.dyn.Resource(deployments).Namespace(w.name).Patch(t.Context(), name, types.MergePatchType, mark, metav1.PatchOptions{FieldManager: "jx"})
		w.must(err)
	}
	w.bed.Traffic.SetRate(w.name, app, 50)
	w.await("what jx has installed to serve", func() (bool, string) {
		history := w.bed.Traffic.History(w.name, app)
		return len(history) > 0 && history[len(history)-1].ByWorkload[app] == 1 && len(w.pods(second)) == 2, fmt.Sprint(history)
	})
	begin, first, others := time.Now(), w.pods(app), w.pods(second)

	w.install()
	w.await("both to be taken over", func() (bool, string) {
		var names []string
		for _, name := range []string{app, second} {
			names = append(names, w.object("apps", "v1", "deployments", name).GetAnnotations()["meta.helm.sh/release-name"])
		}
		return slices.Equal(names, []string{app, second}), strings.Join(names, ", ")
	})
	w.must(w.kube.CoreV1().Secrets(w.name).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "owner=helm,name=jx"}))
	w.samePods(first)
	if now := w.pods(second); !maps.Equal(now, others) {
		t.Errorf("pods were replaced: %v became %v", others, now)
	}
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.calledAlways(begin)
	if now := w.pods(second); !maps.Equal(now, others) {
		t.Errorf("the other app's pods were replaced: %v became %v", others, now)
	}
}

var destinationRules = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"}

// define adds a kind to the API server, if it is not there.
func (w *world) define(definition string) {
	w.Helper()
	crd := parse(w, definition)[0]
	if _, err := w.dyn.Resource(crds).Create(context.Background(), crd, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		w.Fatal(err)
	}
	w.await(crd.GetName()+" to be served", func() (bool, string) {
		now, err := w.dyn.Resource(crds).Get(context.Background(), crd.GetName(), metav1.GetOptions{})
		w.must(err)
		conditions, _, _ := unstructured.NestedSlice(now.Object, "status", "conditions")
		return slices.ContainsFunc(conditions, func(c any) bool {
			m := c.(map[string]any)
			return m["type"] == "Established" && m["status"] == "True"
		}), fmt.Sprint(conditions)
	})
}

// helmInstalled has the real Helm install a chart under a release name.
func (w *world) helmInstalled(release string, c *chart.Chart, values map[string]any) {
	w.Helper()
	install := action.NewInstall(w.helm())
	install.ReleaseName, install.Namespace, install.CreateNamespace = release, w.name, true
	_, err := install.Run(c, values)
	w.must(err)
}

// flaggered leaves the app as Flagger has it when it is at rest.
func (w *world) flaggered(version string) {
	w.Helper()
	ctx, asFlagger := context.Background(), metav1.PatchOptions{FieldManager: "flagger"}
	patch := func(resource schema.GroupVersionResource, merge string, subresources ...string) {
		_, err := w.dyn.Resource(resource).Namespace(w.name).Patch(ctx, app, types.MergePatchType, []byte(merge), asFlagger, subresources...)
		w.must(err)
	}
	canary := w.object(canaries.Group, canaries.Version, canaries.Resource, app)
	text, err := os.ReadFile("testdata/flagger/made.yaml")
	w.must(err)
	yes := true
	owner := metav1.OwnerReference{
		APIVersion: canary.GetAPIVersion(), Kind: canary.GetKind(), Name: app, UID: canary.GetUID(), Controller: &yes, BlockOwnerDeletion: &yes,
	}
	image := fmt.Sprintf("demo.invalid/%s:%s", w.image, version)
	for _, o := range parse(w, strings.NewReplacer("IMAGE", image, "HOST", w.host()).Replace(string(text))) {
		o.SetOwnerReferences([]metav1.OwnerReference{owner})
		mapping, err := w.mapper().RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		w.must(err)
		_, err = w.dyn.Resource(mapping.Resource).Namespace(w.name).Create(ctx, o, metav1.CreateOptions{FieldManager: "flagger"})
		w.must(err)
	}
	w.await("the primary to be ready", func() (bool, string) {
		d := w.object("apps", "v1", "deployments", app+"-primary")
		n, _, _ := unstructured.NestedInt64(d.Object, "status", "readyReplicas")
		return n == 2, fmt.Sprint(n)
	})
	patch(deployments, `{"spec":{"replicas":0}}`)
	patch(services, `{"spec":{"selector":{"app":"`+app+`-primary"}}}`)
	patch(canaries, `{"status":{"phase":"Succeeded"}}`, "status")
	w.await("the primary alone to serve", func() (bool, string) {
		history := w.bed.Traffic.History(w.name, w.host())
		if len(history) == 0 {
			return false, "no users"
		}
		now := history[len(history)-1]
		return now.ByWorkload[app+"-primary"] == 1 && len(w.pods(app)) == 0, fmt.Sprint(now)
	})
}
