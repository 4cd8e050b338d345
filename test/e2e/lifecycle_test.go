package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart/loader"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// The agent is a process here, and no pod: the tests start and end it where a kubelet would, in a kubelet's order.

// newInstalled is a world whose agent has the chart's rights, and serves. It also returns how many requests found no pod so far.
func newInstalled(t *testing.T) (w *world, unserved int) {
	t.Helper()
	w = newWorld(t)
	w.checkInterval = 4 * time.Second // so that it is still the middle when the agent has ended
	w.installChart()
	w.install()
	return w, w.bed.Traffic.Counts(w.name, w.host()).Unserved
}

// wentWell fails the test unless users saw the shares of a good canary, and no more requests found no pod.
func (w *world) wentWell(unserved int) {
	w.Helper()
	if got := w.canaryShares(); !slices.Equal(got, goodShares) {
		w.Errorf("users saw the canary's share as %v, want %v", got, goodShares)
	}
	if n := w.bed.Traffic.Counts(w.name, w.host()).Unserved - unserved; n > 0 {
		w.Errorf("%d requests found no pod", n)
	}
}

// TestUpgradedInMidRollout: helm upgrade with another configuration, while a canary has traffic. The new agent stands by until the
// old one has ended by SIGTERM; it goes on by its own configuration, and no step is lost, doubled or shortened.
func TestUpgradedInMidRollout(t *testing.T) {
	t.Parallel()
	w, unserved := newInstalled(t)
	before := w.leader()
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 1)
	w.upgradeChart("image: {tag: v2.0.0}\nreplicas: 1\n")
	w.checkInterval = 6 * time.Second
	w.replaced()
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.settled()
	w.toldAs(goodStory)
	w.stepsLasted(4 * time.Second)
	w.wentWell(unserved)
	last, next := w.awaitEvent(rollout.Advanced, "0.0.130", 5), w.awaitEvent(rollout.PromotionStarted, "0.0.130", 1)
	if took := next.Time.Sub(last.Time); took < w.checkInterval {
		t.Errorf("the last step took %s; the new configuration says %s", took, w.checkInterval)
	}
	if after := w.leader(); after == before {
		t.Errorf("%s still leads", after)
	}
	w.servesGit()
}

// TestUninstalledInMidRollout: helm uninstall takes the agent and its rights, and nothing of the apps. Users are served by both
// tracks, as they were; the audit log stays; and an agent that is installed later goes on with the same rollout.
func TestUninstalledInMidRollout(t *testing.T) {
	t.Parallel()
	w, unserved := newInstalled(t)
	w.bump("0.0.130")
	w.awaitEvent(rollout.Advanced, "0.0.130", 2)
	w.uninstallChart()
	told, objects, pods := story(w.events()), w.left(), w.pods(app)
	w.intervals(5)
	if now := w.left(); !slices.Equal(now, objects) {
		t.Errorf("of the app there is %v, and was %v", now, objects)
	}
	if now := story(w.events()); !slices.Equal(now, told) {
		t.Errorf("the audit log says %v, and said %v", now, told)
	}
	w.samePods(pods)
	w.installChart()
	w.start()
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	w.settled()
	w.toldAs(goodStory)
	w.stepsLasted(w.checkInterval)
	w.wentWell(unserved)
	w.servesGit()
}

// TestDeliversItself: the agent's own chart is an app of the environment, and a new version of it comes by the agent. What stands for
// the kubelet ends the old process when the Deployment is of the new version, which is in the middle of that very rollout.
func TestDeliversItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root, err := bed.FindRoot()
	w.must(err)
	for _, v := range []string{"1.0.0", "2.0.0"} {
		c, err := loader.Load(filepath.Join(root, "deploy/chart"))
		w.must(err)
		c.Metadata.Version, c.Metadata.AppVersion = v, v
		w.must(w.bed.Charts.AddChart(c))
	}
	entry := func(version string) string {
		return "- name: sluice\n  version: " + version + "\n  repository: " + w.bed.Charts.URL() + "\n"
	}
	list := w.file("main", requirements)
	w.commit("Sluice delivers Sluice", map[string]string{
		requirements: list + entry("1.0.0"),
		"env/values.yaml": w.values("hello", 2) + fmt.Sprintf(`sluice:
  config:
    prometheus: {address: %q}
    environments: [{name: %q, namespace: %q, repository: {url: %q}}]
`, w.bed.PrometheusURL, w.name, w.name, w.bed.Git.URL(w.name)),
	})
	w.bed.Behaviours.Set("sluice:2.0.0", behaviour.Behaviour{Ready: behaviour.ReadySlowly, ReadyAfterSeconds: 10})
	w.flags = []string{"--leader-election"}
	w.allow = "namespaces: [" + w.name + "], clusterKinds: [ClusterRole, ClusterRoleBinding]"
	t.Cleanup(func() {
		w.stop() // or it would put them back
		_ = w.kube.RbacV1().ClusterRoleBindings().Delete(context.Background(), w.name+"-sluice", metav1.DeleteOptions{})
		_ = w.kube.RbacV1().ClusterRoles().Delete(context.Background(), w.name+"-sluice", metav1.DeleteOptions{})
	})
	w.install()
	w.awaitOwn(rollout.Installed, "1.0.0")
	before := w.leader()
	w.edit("chore: promote sluice to version 2.0.0", func(*gitsync.Snapshot) (map[string][]byte, error) {
		return map[string][]byte{requirements: []byte(list + entry("2.0.0"))}, nil
	})
	w.await("the agent's own Deployment to be of the new version", func() (bool, string) {
		d, err := w.kube.AppsV1().Deployments(w.name).Get(t.Context(), "sluice", metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		image := d.Spec.Template.Spec.Containers[0].Image
		return strings.HasSuffix(image, ":2.0.0"), image
	})
	w.replaced()
	if told := w.own(); slices.Contains(told, "Promoted 0 2.0.0") {
		t.Errorf("the rollout was over before the old agent had ended: %v", told)
	}
	w.awaitOwn(rollout.Promoted, "2.0.0")
	if after := w.leader(); after == before {
		t.Errorf("%s still leads", after)
	}
	want := []string{"InstallStarted 0 1.0.0", "Installed 0 1.0.0", "RolloutStarted 0 2.0.0", "Promoted 0 2.0.0"}
	if got := w.own(); !slices.Equal(got, want) {
		t.Errorf("of the agent the audit log says %v, want %v", got, want)
	}
	w.bump("0.0.130") // by the new one
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
}

// own is what the audit log tells of the agent's own app, oldest first.
func (w *world) own() []string {
	w.Helper()
	var list []audit.Entry
	for _, c := range slices.Backward(w.history(w.statusBranch())) {
		if e, ok := audit.ParseMessage(c.Message); ok && e.App == "sluice" && e.Seq > 0 {
			list = append(list, e)
		}
	}
	return story(list)
}

func (w *world) awaitOwn(t rollout.EventType, version string) {
	w.Helper()
	w.await(fmt.Sprintf("%s of sluice %s in the audit log", t, version), func() (bool, string) {
		told := w.own()
		return slices.Contains(told, fmt.Sprintf("%s 0 %s", t, version)), strings.Join(told, ", ")
	})
}

// replaced starts another agent and then ends the one that leads, as a Deployment that is rolled does. A pod has a cache of its own.
func (w *world) replaced() {
	w.Helper()
	old, before := w.agent, w.leader()
	w.flags = append(w.flags, "--data-dir", w.TempDir())
	w.start()
	w.intervals(3) // it stands by
	if now := w.leader(); now != before {
		w.Errorf("%s leads while %s is there", now, before)
	}
	w.must(old.Process.Signal(syscall.SIGTERM))
	if err := old.Wait(); err != nil {
		w.Errorf("the old agent ended by SIGTERM: %v", err)
	}
}

// leader is who holds the environment's Lease.
func (w *world) leader() string {
	w.Helper()
	list, err := w.kube.CoordinationV1().Leases(w.stateNamespace()).List(context.Background(), metav1.ListOptions{})
	w.must(err)
	if len(list.Items) != 1 || list.Items[0].Spec.HolderIdentity == nil {
		w.Fatalf("the Leases are %v", list.Items)
	}
	return *list.Items[0].Spec.HolderIdentity
}

// upgradeChart makes the chart's objects what further values ask for, as helm upgrade does.
func (w *world) upgradeChart(values string) {
	w.Helper()
	for _, o := range w.chartObjects(values) {
		opts := metav1.ApplyOptions{FieldManager: "helm", Force: true}
		if runsPods(o) {
			opts.DryRun = []string{metav1.DryRunAll}
		}
		mapping, err := w.mapper().RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		w.must(err)
		_, err = w.dyn.Resource(mapping.Resource).Namespace(o.GetNamespace()).Apply(context.Background(), o.GetName(), o, opts)
		w.must(err)
	}
}

// uninstallChart deletes the chart's objects, and the pod with them, as helm uninstall does.
func (w *world) uninstallChart() {
	w.Helper()
	objects := slices.DeleteFunc(w.chartObjects(""), runsPods)
	for _, o := range slices.Backward(objects) {
		mapping, err := w.mapper().RESTMapping(o.GroupVersionKind().GroupKind(), o.GroupVersionKind().Version)
		w.must(err)
		w.must(w.dyn.Resource(mapping.Resource).Namespace(o.GetNamespace()).Delete(context.Background(), o.GetName(), metav1.DeleteOptions{}))
	}
	w.stop()
}

// left are the app's objects, by kind and name with their uid.
func (w *world) left() []string {
	w.Helper()
	var out []string
	for name, o := range w.live() {
		out = append(out, name+" "+string(o.GetUID()))
	}
	slices.Sort(out)
	return out
}
