package cluster_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/cli"
	"helm.sh/helm/v3/pkg/release"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	rendered "github.com/sluice-cd/sluice/render/release"
)

// helm is the real Helm on the rig's namespace.
func (r *rig) helm() *action.Configuration {
	r.t.Helper()
	settings := cli.New()
	settings.KubeConfig = shared.Kubeconfig
	settings.SetNamespace(r.ns)
	settings.QPS, settings.BurstLimit = 1000, 1000
	cfg := &action.Configuration{}
	if err := cfg.Init(settings.RESTClientGetter(), r.ns, "secret", func(string, ...any) {}); err != nil {
		r.t.Fatal(err)
	}
	return cfg
}

func helmChart(version, templates string) *chart.Chart {
	return &chart.Chart{
		Metadata:  &chart.Metadata{APIVersion: "v2", Name: "web", Version: version, AppVersion: version},
		Templates: []*chart.File{{Name: "templates/all.yaml", Data: []byte(templates)}},
	}
}

// rendered is a release as package render gives it, as far as this package uses it.
func (r *rig) rendered(version, manifest string) *rendered.Release {
	return &rendered.Release{
		Name: "web", Namespace: r.ns, Version: version, Manifest: manifest, Objects: r.objects(manifest),
		Digest: fmt.Sprintf("%064x", len(manifest)*1000+len(version)+int(version[len(version)-1])),
		Config: map[string]any{"a": "b"}, Chart: helmChart(version, manifest),
		Hooks: []rendered.Hook{{Name: "test", Kind: "Pod", Events: []string{"test"}, Manifest: "apiVersion: v1\nkind: Pod\nmetadata: {name: test}"}},
	}
}

func history(t *testing.T, cfg *action.Configuration) string {
	t.Helper()
	list, err := action.NewHistory(cfg).Run("web")
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list, func(a, b *release.Release) int { return a.Version - b.Version })
	var out []string
	for _, rel := range list {
		out = append(out, fmt.Sprintf("%d %s %s %q", rel.Version, rel.Chart.Metadata.Version, rel.Info.Status, rel.Info.Description))
	}
	return strings.Join(out, "\n")
}

func TestReleaseRecordsAreHelms(t *testing.T) {
	r := newRig(t)
	cfg := r.helm()
	one, two, three := r.rendered("1.0.1", deployment("web", "web:1", 1)), r.rendered("1.0.2", deployment("web", "web:2", 1)), r.rendered("1.0.3", deployment("web", "web:3", 1))
	add := func(rel *rendered.Release) rollout.Release {
		t.Helper()
		n, err := r.AddRelease(t.Context(), r.app, rollout.Release{Digest: rel.Digest}, rel, 0)
		if err != nil {
			t.Fatal(err)
		}
		return rollout.Release{Version: rel.Version, Digest: rel.Digest, Revision: n}
	}
	settle := func(s rollout.State) {
		t.Helper()
		if err := r.SettleReleases(t.Context(), r.app, s); err != nil {
			t.Fatal(err)
		}
	}
	first := add(one)
	if again := add(one); again != first {
		t.Errorf("a second call made revision %d", again.Revision)
	}
	settle(rollout.State{Phase: rollout.Installing, Target: first})
	settle(rollout.State{Stable: first})
	second := add(two)
	settle(rollout.State{Phase: rollout.Starting, Stable: first, Target: second})
	if got, want := history(t, cfg), `1 1.0.1 deployed "Install complete"
2 1.0.2 pending-upgrade "Preparing upgrade"`; got != want {
		t.Errorf("history:\n%s\nwant:\n%s", got, want)
	}
	settle(rollout.State{Stable: first, Rejected: []rollout.Rejection{{Release: second, Reason: "success rate 69.17% < 99%"}}})
	third := add(three)
	settle(rollout.State{Phase: rollout.Promoting, Stable: first, Target: third})
	settle(rollout.State{Stable: third})
	if got, want := history(t, cfg), `1 1.0.1 superseded "Install complete"
2 1.0.2 failed "Rolled back: success rate 69.17% < 99%"
3 1.0.1 superseded "Rollback to 1"
4 1.0.3 deployed "Upgrade complete"`; got != want {
		t.Errorf("history:\n%s\nwant:\n%s", got, want)
	}
	list := action.NewList(cfg)
	rels, err := list.Run()
	if err != nil || len(rels) != 1 || rels[0].Version != 4 || rels[0].Info.Status != release.StatusDeployed || rels[0].Config["a"] != "b" {
		t.Errorf("helm list = %+v, %v", rels, err)
	}
	rel, err := action.NewGet(cfg).Run("web")
	if err != nil || rel.Manifest != three.Manifest || len(rel.Hooks) != 1 || rel.Info.FirstDeployed.IsZero() {
		t.Errorf("helm get = %+v, %v", rel, err)
	}

	began := r.flush()
	settle(rollout.State{Stable: third})
	r.flush()
	if q := r.requests(began); len(q) > 0 {
		t.Errorf("settling what is settled made requests: %v", q)
	}
	r.restart("2")
	objs, err := r.ReleaseObjects(t.Context(), r.app, 1)
	if err != nil || len(objs) != 1 || objs[0].GetNamespace() != r.ns || !strings.Contains(fmt.Sprint(objs[0].Object), "web:1") {
		t.Errorf("objects of revision 1: %v, %v", objs, err)
	}
	if found, err := r.Adopt(t.Context(), r.app); err != nil || found.Stable != third {
		t.Errorf("adopting our own: %+v, %v; want %+v", found, err, third)
	}
	began = r.flush()
	settle(rollout.State{Stable: third})
	r.flush()
	if q := r.writes(began); len(q) > 0 {
		t.Errorf("settling after a restart wrote: %v", q)
	}

	for i := range 12 {
		s := add(r.rendered(fmt.Sprintf("1.1.%d", i), deployment("web", "web:4", 1)))
		settle(rollout.State{Phase: rollout.Starting, Stable: third, Target: s})
	}
	got := strings.Split(history(t, cfg), "\n")
	if len(got) != 10 || !strings.HasPrefix(got[0], "4 1.0.3 deployed") || !strings.HasPrefix(got[9], "16 1.1.11 pending-upgrade") {
		t.Errorf("history of 16:\n%s", strings.Join(got, "\n"))
	}
	if err := r.DeleteState(t.Context(), delivery.Saved{App: r.app}); err != nil {
		t.Fatal(err)
	}
	if rels, _ := action.NewList(cfg).Run(); len(rels) > 0 {
		t.Error("a removed app is still in helm list")
	}
}

// TestOutdatedAPIVersions keeps what was applied, not what the chart said.
func TestOutdatedAPIVersions(t *testing.T) {
	r := newRig(t)
	rel := r.rendered("1.0.1", deployment("web", "web:1", 1))
	rel.Manifest = strings.Replace(rel.Manifest, "apps/v1", "extensions/v1beta1", 1)
	n, err := r.AddRelease(t.Context(), r.app, rollout.Release{Digest: rel.Digest}, rel, 0)
	if err != nil {
		t.Fatal(err)
	}
	objs, err := r.ReleaseObjects(t.Context(), r.app, n)
	if err != nil || objs[0].GetAPIVersion() != "apps/v1" {
		t.Errorf("objects: %v, %v", objs, err)
	}
}

func TestReleaseThatDoesNotFit(t *testing.T) {
	r := newRig(t)
	rel := r.rendered("1.0.1", deployment("web", "web:1", 1))
	noise := make([]byte, 2<<20)
	x := uint32(1)
	for i := range noise {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	rel.Chart.Files = []*chart.File{{Name: "noise", Data: noise}}
	if _, err := r.AddRelease(t.Context(), r.app, rollout.Release{Digest: rel.Digest}, rel, 0); !errors.Is(err, delivery.ErrReleaseTooLarge) {
		t.Errorf("err = %v", err)
	}
}

func TestSomebodyElsesOperation(t *testing.T) {
	r := newRig(t)
	cfg := r.helm()
	rel := &release.Release{
		Name: "web", Namespace: r.ns, Version: 1, Chart: helmChart("1.0.0", ""),
		Info: &release.Info{Status: release.StatusPendingInstall},
	}
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(configs)}) // makes the namespace
	if err := cfg.Releases.Create(rel); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Adopt(t.Context(), r.app); !errors.Is(err, delivery.ErrHelmBusy) {
		t.Errorf("Adopt: %v", err)
	}
	if _, err := r.AddRelease(t.Context(), r.app, rollout.Release{}, r.rendered("1.0.1", configs), 0); !errors.Is(err, delivery.ErrHelmBusy) {
		t.Errorf("AddRelease: %v", err)
	}
}

// TestAdoptFromHelm takes over what the real Helm installed and upgraded: no pod restarts, and what a later
// release no longer says goes away although we have never applied it.
func TestAdoptFromHelm(t *testing.T) {
	r := newRig(t)
	if _, err := r.SaveState(t.Context(), delivery.Saved{App: delivery.App{Name: "x", Namespace: r.ns, ReleaseName: "x"}}); err != nil {
		t.Fatal(err) // makes the namespace
	}
	cfg := r.helm()
	manifest := configs + "\n---\n" + service + "\n---\n" + deployment("web", "web:1", 2)
	install := action.NewInstall(cfg)
	install.ReleaseName, install.Namespace = "web", r.ns
	if _, err := install.Run(helmChart("1.0.0", strings.Replace(manifest, "web:1", "web:0", 1)), nil); err != nil {
		t.Fatal(err)
	}
	upgrade := action.NewUpgrade(cfg)
	upgrade.Namespace = r.ns
	if _, err := upgrade.Run("web", helmChart("1.0.1", manifest), nil); err != nil {
		t.Fatal(err)
	}
	// A restart by hand must survive, too.
	r.edit(deployments, "web", `{"spec":{"template":{"metadata":{"annotations":{"kubectl.kubernetes.io/restartedAt":"2026-01-01T00:00:00Z"}}}}}`)

	found, err := r.Adopt(t.Context(), r.app)
	if err != nil || found.Lost || found.Stable.Revision != 2 || found.Stable.Version != "1.0.1" || found.Stable.Digest == "" {
		t.Fatalf("found %+v, %v", found, err)
	}
	objs, err := r.ReleaseObjects(t.Context(), r.app, found.Stable.Revision)
	if err != nil {
		t.Fatal(err)
	}
	d := project.Desired{Stable: objs, StableWorkloads: workloads(objs)}
	eventually(t, time.Minute, func() (bool, string) {
		s := r.observe(d).Stable
		return len(r.pods()) == 2 && s.Available, fmt.Sprintf("%d pods, %+v", len(r.pods()), s)
	})
	settled := r.get(deployments, "web")
	eventually(t, time.Minute, func() (bool, string) {
		settled = r.get(deployments, "web")
		updated, _, _ := unstructured.NestedInt64(settled.Object, "status", "updatedReplicas")
		observed, _, _ := unstructured.NestedInt64(settled.Object, "status", "observedGeneration")
		return updated == 2 && observed == settled.GetGeneration() && len(r.pods()) == 2, "helm's upgrade is not through"
	})
	pods := r.pods()
	if got, want := actions(r.apply(rollout.Idle, d)), "ConfigMap web adopted, Secret web adopted, Service web adopted, Deployment web adopted"; sorted(got) != sorted(want) {
		t.Errorf("adopting: %s", got)
	}
	now := r.get(deployments, "web")
	if now.GetGeneration() != settled.GetGeneration() {
		t.Errorf("adopting changed the Deployment's spec: generation %d, then %d", settled.GetGeneration(), now.GetGeneration())
	}
	for _, m := range now.GetManagedFields() {
		if m.Manager == "helm" {
			t.Error("helm still has fields")
		}
	}
	r.awaitReady(d)
	if fmt.Sprint(pods) != fmt.Sprint(r.pods()) {
		t.Errorf("pods changed: %v, then %v", pods, r.pods())
	}

	// The next release drops a key and a label that Helm had applied.
	next := strings.Replace(strings.Replace(manifest, `, port: "8080"`, "", 1), "labels: {app: web}\nspec", "labels: {}\nspec", 1)
	nextObjs := r.objects(next)
	r.apply(rollout.Idle, project.Desired{Stable: nextObjs})
	data, _, _ := unstructured.NestedStringMap(r.get(configMaps, "web").Object, "data")
	if len(data) != 1 {
		t.Errorf("the ConfigMap still has %v", data)
	}
	if _, ok := r.get(deployments, "web").GetLabels()["app"]; ok {
		t.Error("the label is still there")
	}
}

func sorted(s string) string {
	parts := strings.Split(s, ", ")
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// TestAdoptFromKubectl takes over what is left to the app from client-side apply, whose annotation and removed fields go.
func TestAdoptFromKubectl(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(service)})
	o := r.objects(deployment("web", "web:1", 1))[0]
	o.SetAnnotations(map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{}", "old": "1", "sluice.dev/adopt": "true"})
	if _, err := r.dyn.Resource(deployments).Namespace(r.ns).Create(t.Context(), o, metav1.CreateOptions{FieldManager: "kubectl-client-side-apply"}); err != nil {
		t.Fatal(err)
	}
	before := r.get(deployments, "web")
	d := project.Desired{Stable: append(r.objects(service), r.objects(deployment("web", "web:1", 1))...)}
	if got := actions(r.apply(rollout.Idle, d)); got != "Deployment web adopted" {
		t.Error(got)
	}
	now := r.get(deployments, "web")
	if a := now.GetAnnotations(); a["old"] != "" || a["kubectl.kubernetes.io/last-applied-configuration"] != "" {
		t.Errorf("annotations left: %v", a)
	}
	// The generation rises with the annotations; what counts is the spec.
	if fmt.Sprint(now.Object["spec"]) != fmt.Sprint(before.Object["spec"]) {
		t.Errorf("the spec was changed: %v\nbefore: %v", now.Object["spec"], before.Object["spec"])
	}
}

// TestLostRecords deletes Helm's records, as helm uninstall does. The release that served is said to be lost, and no
// other ever goes by its number.
func TestLostRecords(t *testing.T) {
	r := newRig(t)
	one, two := r.rendered("1.0.1", configs), r.rendered("1.0.2", service)
	n, err := r.AddRelease(t.Context(), r.app, rollout.Release{Digest: one.Digest}, one, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SettleReleases(t.Context(), r.app, rollout.State{Stable: rollout.Release{Version: "1.0.1", Digest: one.Digest, Revision: n}}); err != nil {
		t.Fatal(err)
	}
	if err := r.kube.CoreV1().Secrets(r.ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "owner=helm"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ReleaseObjects(t.Context(), r.app, n); !errors.Is(err, delivery.ErrReleaseLost) {
		t.Errorf("reading it: %v", err)
	}
	next, err := r.AddRelease(t.Context(), r.app, rollout.Release{Digest: two.Digest}, two, n)
	if err != nil || next != n+1 {
		t.Errorf("the next revision is %d, %v; want %d", next, err, n+1)
	}
	objs, err := r.ReleaseObjects(t.Context(), r.app, next)
	if err != nil || len(objs) != 1 || objs[0].GetKind() != "Service" {
		t.Errorf("objects of the next: %v, %v", objs, err)
	}
}
