package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// variant publishes the app's chart, edited, as a version that no other test uses.
func (w *world) variant(version string, edit func(*chart.Chart)) {
	w.Helper()
	w.must(w.bed.Charts.AddChart(w.edited(version, edit)))
}

// edited is the app's chart with changes.
func (w *world) edited(version string, edit func(*chart.Chart)) *chart.Chart {
	w.Helper()
	root, err := bed.FindRoot()
	w.must(err)
	c, err := loader.Load(filepath.Join(root, "test/demo/charts", app))
	w.must(err)
	c.Metadata.Version, c.Metadata.AppVersion = version, version
	edit(c)
	return c
}

// template is a template of the chart.
func template(c *chart.Chart, name string) *chart.File {
	for _, t := range c.Templates {
		if t.Name == "templates/"+name {
			return t
		}
	}
	t := &chart.File{Name: "templates/" + name}
	c.Templates = append(c.Templates, t)
	return t
}

// A release that can't come by a rollout is a fault before anything is touched, and going back in git is enough.
func TestChangedSelectorIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.variant("0.1.0", func(c *chart.Chart) {
		d := template(c, "deployment.yaml")
		text := strings.Replace(string(d.Data), "    matchLabels:\n", "    matchLabels:\n      tier: web\n", 1)
		d.Data = []byte(strings.Replace(text, "      labels:\n", "      labels:\n        tier: web\n", 1))
	})
	w.install()
	w.bump("0.1.0")
	w.await("the fault on the status branch", func() (bool, string) {
		text := w.file(w.statusBranch(), "apps/"+app+".yaml")
		return strings.Contains(text, "which Kubernetes refuses"), text
	})
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	for _, e := range w.events() {
		if e.To.Version == "0.1.0" {
			t.Errorf("the audit log tells of a rollout: %s", e.Type)
		}
	}
}

// Passwords that a chart makes up stay what they are when the agent is restarted and renders them anew.
func TestRandomValuesSurviveARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.variant("0.1.1", func(c *chart.Chart) {
		template(c, "secret.yaml").Data = []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: made-up}\n" +
			"stringData: {password: {{ randAlphaNum 20 | quote }}}\n")
	})
	w.bump("0.1.1")
	w.start()
	w.awaitEvent(rollout.Installed, "0.1.1", 1)
	before, err := w.kube.CoreV1().Secrets(w.name).Get(t.Context(), "made-up", metav1.GetOptions{})
	w.must(err)
	w.stop()
	w.must(w.kube.CoreV1().Services(w.name).Delete(t.Context(), app, metav1.DeleteOptions{}))
	w.start()
	// Everything is applied in one go: when the Service is back, the Secret would have been touched.
	w.await("the Service to be back", func() (bool, string) {
		return w.object("", "v1", "services", app) != nil, "away"
	})
	after, err := w.kube.CoreV1().Secrets(w.name).Get(t.Context(), "made-up", metav1.GetOptions{})
	w.must(err)
	if before.ResourceVersion != after.ResourceVersion {
		t.Errorf("the Secret was changed; its password is the same: %t", string(before.Data["password"]) == string(after.Data["password"]))
	}
}

// What outside the release would miss the canary is told when the rollout begins.
func TestWarnsOfWhatMissesTheCanary(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	_, err := w.kube.PolicyV1().PodDisruptionBudgets(w.name).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "by-hand"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
	}, metav1.CreateOptions{})
	w.must(err)
	w.bump("0.0.130")
	e := w.awaitEvent(rollout.RolloutStarted, "0.0.130", 1)
	if !strings.Contains(e.Reason, "PodDisruptionBudget by-hand") || !strings.Contains(e.Reason, "would miss its canary's") {
		t.Errorf("the rollout's reason is %q", e.Reason)
	}
}

const named = "{{ .Values.service.name }}"

// renameDeployment gives the Deployment and its pods another name than the app's other objects.
func renameDeployment(c *chart.Chart) {
	d, s := template(c, "deployment.yaml"), template(c, "service.yaml")
	text := strings.ReplaceAll(string(d.Data), named, named+"-web")
	d.Data = []byte(strings.Replace(text, "configMapRef:\n                name: "+named+"-web", "configMapRef:\n                name: "+named, 1))
	s.Data = []byte(strings.Replace(string(s.Data), "selector:\n    app: "+named, "selector:\n    app: "+named+"-web", 1))
}

// renameAll gives all objects another name.
func renameAll(c *chart.Chart) {
	for _, t := range c.Templates {
		t.Data = []byte(strings.ReplaceAll(string(t.Data), named, named+"-web"))
	}
}

// values adds lines to the chart's own values.
func values(c *chart.Chart, lines string) {
	for _, f := range c.Raw {
		if f.Name == chartutil.ValuesfileName {
			f.Data = append(f.Data, lines...)
		}
	}
}

// slowly makes the chart's pods take their time.
func slowly(c *chart.Chart, seconds int) {
	values(c, fmt.Sprintf("behaviour: {ready: slow, readyAfterSeconds: %d}\n", seconds))
}

// routeUsers leads the app's users to its Service, which is the canary's routing's business where there is one.
func (w *world) routeUsers() {
	w.Helper()
	_, err := w.dyn.Resource(virtualServices).Namespace(w.name).Create(context.Background(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": map[string]any{"name": "users"},
		"spec": map[string]any{
			"hosts": []any{w.host()}, "gateways": []any{"istio-system/gateway"},
			"http": []any{map[string]any{"route": []any{map[string]any{"destination": map[string]any{"host": app}}}}},
		},
	}}, metav1.CreateOptions{})
	w.must(err)
	w.await("users to be served", func() (bool, string) {
		history := w.bed.Traffic.History(w.name, w.host())
		return len(history) > 0 && history[len(history)-1].Unserved == 0, fmt.Sprint(history)
	})
}

// servedAlways fails the test when users of the app found no ready pod at some time since.
func (w *world) servedAlways(since time.Time) {
	w.Helper()
	history := w.bed.Traffic.History(w.name, w.host())
	for i, h := range history {
		over := i+1 < len(history) && history[i+1].Time.Before(since)
		if h.Unserved > 0 && !over {
			w.Errorf("%.0f %% of the requests find no pod, %s after the bump: %v", h.Unserved*100, h.Time.Sub(since).Round(time.Millisecond), h.ByWorkload)
		}
	}
	if len(history) == 0 {
		w.Errorf("%s had no users", w.host())
	}
}

// A release that gives the Deployment another name, or all of its objects, takes over when its pods are ready: users are
// served all the time, and the old pods go when the rollout is over.
func TestRenamed(t *testing.T) {
	for _, test := range []struct {
		name, version string
		edit          func(*chart.Chart)
		rollout       string
		routing       []string
	}{
		{"deployment", "0.2.0", renameDeployment, "skipAnalysis: true", []string{"VirtualService/" + app}},
		{"all", "0.2.1", renameAll, "skipAnalysis: true", []string{"VirtualService/" + app + "-web"}},
		{"rolling", "0.2.2", renameDeployment, "strategy: Rolling", []string{"VirtualService/" + app}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.variant(test.version, func(c *chart.Chart) {
				test.edit(c)
				slowly(c, 3)
			})
			w.commit("strategy", map[string]string{"sluice.yaml": w.file("main", "sluice.yaml") +
				"apps: {" + app + ": {rollout: {" + test.rollout + "}}}\n"})
			w.install()
			begun := time.Now()
			w.bump(test.version)
			w.awaitEvent(rollout.Promoted, test.version, 1)
			w.await("the old Deployment to be gone", func() (bool, string) {
				names := w.names("apps", "v1", "deployments")
				return slices.Equal(names, []string{app + "-web"}), strings.Join(names, ", ")
			})
			w.servedAlways(begun)
			w.serves(test.routing...)
		})
	}
}

// Going back in the middle of the change of names is at once, since what served is still there.
func TestRenamedAndReverted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.variant("0.2.3", func(c *chart.Chart) {
		renameDeployment(c)
		slowly(c, 5)
	})
	w.install()
	before, begun := w.pods(app), time.Now()
	w.bump("0.2.3")
	w.awaitEvent(rollout.PromotionStarted, "0.2.3", 1)
	w.bump("0.0.129")
	w.awaitEvent(rollout.Aborted, "0.2.3", 1)
	w.settled()
	w.samePods(before)
	w.servedAlways(begun)
	w.servesGit()
}

// A condition that the environment says nothing of is the chart's own to decide, as in Helm: a version that is off by its
// own values is as good as taken off the list.
func TestSwitchedOffByItsChart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.variant("0.3.0", func(c *chart.Chart) { values(c, "enabled: false\n") })
	w.commit("a condition", map[string]string{requirements: w.file("main", requirements) + "  condition: " + app + ".enabled\n"})
	w.install()
	w.bump("0.3.0")
	w.await("the app to be removed", func() (bool, string) {
		list := w.events()
		last := list[len(list)-1]
		return last.Type == rollout.Removed, fmt.Sprint(last.Type)
	})
	if names := w.names("apps", "v1", "deployments"); len(names) > 0 {
		t.Errorf("Deployments %v are left", names)
	}
	if out := w.render(); out != "" {
		t.Errorf("render prints %s", out)
	}
	w.bump("0.0.130")
	w.awaitEvent(rollout.Installed, "0.0.130", 1)
	w.servesGit()
}

// An object that can't be made ready to be applied is told on the status branch, as one that the cluster refuses is: of a first
// release when it is applied, of a later one before anything is touched. A version that mends it gets in, and an app with such an
// object can be removed.
func TestUnpreparableObject(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.variant("0.1.2", func(c *chart.Chart) {
		template(c, "secret.yaml").Data = []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: numbers}\nstringData: {port: 8080}\n")
	})
	w.bump("0.1.2")
	w.start()
	w.awaitEvent(rollout.InstallStarted, "0.1.2", 1)
	w.awaitFault("stringData.port is not a string")
	w.bump("0.0.129")
	w.awaitEvent(rollout.Installed, "0.0.129", 1)
	w.bump("0.1.2") // as a canary
	w.awaitFault("stringData.port is not a string")
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.servesGit()
	w.bump("0.1.2")
	w.awaitFault("stringData.port is not a string")
	for _, e := range w.events() {
		if e.Type == rollout.RolloutStarted && e.To.Version == "0.1.2" {
			t.Error("a rollout to it began")
		}
	}
	w.removed()
}

// awaitFault waits until the status branch tells of a fault of the app.
func (w *world) awaitFault(text string) {
	w.Helper()
	w.await("the fault on the status branch", func() (bool, string) {
		record := w.file(w.statusBranch(), "apps/"+app+".yaml")
		return strings.Contains(record, text), record
	})
}

// TestJobThatChanges: a Job's template can't be changed. While the Job runs that is known before the canary comes, and what serves
// stays; once it has finished the Job is made anew, by itself.
func TestJobThatChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	migrate := w.image + "-migrate"
	for _, version := range []string{"0.1.7", "0.1.8"} {
		w.variant(version, func(c *chart.Chart) {
			template(c, "job.yaml").Data = []byte("apiVersion: batch/v1\nkind: Job\nmetadata: {name: migrate}\nspec:\n  template:\n    spec:\n" +
				"      restartPolicy: Never\n      containers: [{name: c, image: \"demo.invalid/" + migrate + ":{{ .Chart.Version }}\"}]\n")
		})
	}
	w.bed.Behaviours.Set(migrate+":0.1.7", behaviour.Behaviour{Ready: behaviour.ReadySlowly, ReadyAfterSeconds: 20})
	w.bump("0.1.7")
	w.start()
	w.awaitEvent(rollout.Installed, "0.1.7", 1)
	w.bump("0.1.8")
	w.awaitFault("it still runs")
	for _, e := range w.events() {
		if e.To.Version == "0.1.8" {
			t.Errorf("the audit log tells of a rollout: %s", e.Type)
		}
	}
	w.awaitEvent(rollout.Promoted, "0.1.8", 1)
	job := w.object("batch", "v1", "jobs", "migrate")
	if job == nil {
		t.Fatal("there is no Job")
	}
	containers, _, _ := unstructured.NestedSlice(job.Object, "spec", "template", "spec", "containers")
	if got := containers[0].(map[string]any)["image"]; got != "demo.invalid/"+migrate+":0.1.8" {
		t.Errorf("the Job runs %v", got)
	}
	w.bump("0.0.130")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.servesGit()
}

// TestRefusedInPromotion: somebody forbids in mid-rollout what the promotion needs. What served goes on serving, and it goes back in
// git, too. Asked for again the release does not even begin, until that is allowed; then it does by itself.
func TestRefusedInPromotion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.commit("policy", map[string]string{"env/values.yaml": w.values("hello", 2) + "    progressDeadlineSeconds: 10\n"})
	w.install()
	before, stable := w.file("main", requirements), w.pods(app)
	begun := time.Now()
	bad := w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 2)
	allow := w.freeze(app, "images are frozen")
	defer allow()
	w.awaitEvent(rollout.PromotionStarted, "0.0.130", 1)
	w.awaitFault("images are frozen")
	started := w.awaitEvent(rollout.RollbackStarted, "0.0.130", 1)
	if !strings.Contains(started.Reason, "the promotion failed: the stable track was not ready within 10s") {
		t.Errorf("rolled back because of %q", started.Reason)
	}
	w.awaitEvent(rollout.RolledBack, "0.0.130", 1)
	w.awaitEvent(rollout.RollbackCommitted, "0.0.130", 1)
	w.samePods(stable)
	w.rolledBackOnce(bad, before)
	w.settled()
	w.servesGit()

	w.bump("0.0.130")
	w.awaitFault("images are frozen")
	w.intervals(3)
	if told := story(w.events()); strings.Count(strings.Join(told, "\n"), "RolloutStarted") != 1 {
		t.Errorf("a rollout began of which the promotion is forbidden: %s", told)
	}
	allow()
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.servedAlways(begun)
	w.servesGit()
}

// freeze lets nobody change the pods of a Deployment until allow is called.
func (w *world) freeze(name, message string) (allow func()) {
	w.Helper()
	api, ctx := w.kube.AdmissionregistrationV1(), context.Background()
	_, err := api.ValidatingAdmissionPolicies().Create(ctx, &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: w.name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"*"}, Resources: []string{"deployments"}},
			}}}},
			Validations: []admissionv1.Validation{{
				Expression: fmt.Sprintf("object.metadata.name != %q || object.spec.template == oldObject.spec.template", name), Message: message,
			}},
		},
	}, metav1.CreateOptions{})
	w.must(err)
	_, err = api.ValidatingAdmissionPolicyBindings().Create(ctx, &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: w.name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: w.name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{
				MatchLabels: map[string]string{"kubernetes.io/metadata.name": w.name},
			}},
		},
	}, metav1.CreateOptions{})
	w.must(err)
	return sync.OnceFunc(func() {
		_ = api.ValidatingAdmissionPolicyBindings().Delete(ctx, w.name, metav1.DeleteOptions{})
		_ = api.ValidatingAdmissionPolicies().Delete(ctx, w.name, metav1.DeleteOptions{})
	})
}

// TestConversionWebhookDies: a kind of the app that can't be read any more, from the middle of a rollout on and by an agent that
// has read nothing of it yet, keeps no failing canary from going back, in the cluster and in git.
func TestConversionWebhookDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	group := w.name + ".example.com"
	withThing := func(c *chart.Chart) {
		c.Files = append(c.Files, &chart.File{Name: "crds/things.yaml", Data: []byte(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.` + group + `}
spec:
  group: ` + group + `
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing, listKind: ThingList}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
  - {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`)})
		template(c, "thing.yaml").Data = []byte("apiVersion: " + group + "/v2\nkind: Thing\nmetadata: {name: odd}\nspec: {a: 1}\n")
	}
	good, bad := "0.1.5", "0.1.6"
	w.variant(good, withThing)
	w.variant(bad, withThing)
	w.checkInterval = 3 * time.Second // the agent is killed in the last step
	w.bump(good)
	w.start()
	w.awaitEvent(rollout.Installed, good, 1)
	before := w.file("main", requirements)
	commit := w.bump(bad)
	w.awaitEvent(rollout.Advanced, bad, 5) // at 50 %
	convert := func(conversion string) {
		_, err := w.dyn.Resource(crds).Patch(t.Context(), "things."+group, types.MergePatchType, []byte(`{"spec":{"conversion":`+conversion+`}}`), metav1.PatchOptions{})
		w.must(err)
	}
	convert(`{"strategy":"Webhook","webhook":{"conversionReviewVersions":["v1"],"clientConfig":{"url":"https://127.0.0.1:1/convert"}}}`)
	// No namespace of the cluster could be deleted while it is like this.
	mend := sync.OnceFunc(func() { convert(`{"strategy":"None","webhook":null}`) })
	defer mend()
	w.kill()
	w.behave(bad, behaviour.Behaviour{ErrorRate: 1})
	w.await("the kind to be unreadable", func() (bool, string) {
		_, err := w.dyn.Resource(schema.GroupVersionResource{Group: group, Version: "v2", Resource: "things"}).Namespace(w.name).
			Get(t.Context(), "odd", metav1.GetOptions{})
		return err != nil, "it can be read"
	})
	w.start()
	w.awaitEvent(rollout.RollbackStarted, bad, 1)
	w.await("the canary to have no traffic", func() (bool, string) {
		shares := w.canaryShares()
		return shares[len(shares)-1] == 0, fmt.Sprint(shares)
	})
	w.awaitEvent(rollout.RollbackCommitted, bad, 1)
	w.rolledBackOnce(commit, before)
	w.settled()
	mend()
	w.awaitEvent(rollout.RolledBack, bad, 1)
	w.object(group, "v2", "things", "odd")
}

// crds are what defines kinds.
var crds = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

// TestRemovedAppLeavesNothing: no object, no state, no Helm record, so that helm install of that name is welcome.
func TestRemovedAppLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.install()
	w.removed()
	w.helmInstall()
	w.commit("listed again", map[string]string{requirements: w.listed})
	w.awaitEvent(rollout.Installed, "0.0.129", 2)
	w.servesGit()
}

// helmInstall installs the app's chart by hand, and uninstalls it.
func (w *world) helmInstall() {
	w.Helper()
	root, err := bed.FindRoot()
	w.must(err)
	c, err := loader.Load(filepath.Join(root, "test/demo/charts", app))
	w.must(err)
	install := action.NewInstall(w.helm())
	install.ReleaseName, install.Namespace = app, w.name
	_, err = install.Run(c, nil)
	w.must(err)
	_, err = action.NewUninstall(w.helm()).Run(app)
	w.must(err)
}

// removed takes the app off the list and waits until nothing of it is left.
func (w *world) removed() {
	w.Helper()
	w.listed = w.file("main", requirements)
	w.commit("the app goes", map[string]string{requirements: "dependencies: []\n"})
	w.await("everything of the app to be gone", func() (bool, string) {
		secrets := w.names("", "v1", "secrets")
		deployments := w.names("apps", "v1", "deployments")
		left := append(secrets, deployments...)
		return len(left) == 0, strings.Join(left, ", ")
	})
}
