package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// wide is a chart in the repository with a ClusterRole of this name.
func wide(name string) map[string]string {
	return map[string]string{
		"charts/wide/Chart.yaml": "apiVersion: v2\nname: wide\nversion: 1.0.0\n",
		"charts/wide/templates/a.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: " + name + "}\n" +
			"rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n",
	}
}

// clusterRole is the one of a name; nil: there is none.
func (w *world) clusterRole(name string) metav1.Object {
	w.Helper()
	role, err := w.kube.RbacV1().ClusterRoles().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return role
}

// Two environments on one cluster with the same charts have what lives in a namespace side by side. What lives in none is the
// first one's: the second is refused it by name, nothing of the first changes, and a name of its own is the way out.
func TestTwoEnvironmentsOfTheSameCharts(t *testing.T) {
	t.Parallel()
	first, second := newWorld(t), newWorld(t)
	common, own := first.name+"-wide", second.name+"-wide"
	for _, w := range []*world{first, second} {
		w.allow = "namespaces: [" + w.name + "], clusterKinds: [ClusterRole]"
	}
	t.Cleanup(func() {
		for _, name := range []string{common, own} {
			_ = first.kube.RbacV1().ClusterRoles().Delete(context.Background(), name, metav1.DeleteOptions{})
		}
	})
	first.neighbours = []*world{second}
	first.install()
	second.awaitEvent(rollout.Installed, "0.0.129", 1)

	add := func(w *world) {
		files := wide(common)
		files[requirements] = w.file("main", requirements) + "- name: wide\n  version: 1.0.0\n  repository: file://../charts/wide\n"
		w.commit("chore: add wide", files)
	}
	add(first)
	first.await("the first to have its ClusterRole", func() (bool, string) { return first.clusterRole(common) != nil, "" })
	before := map[string]string{}
	note := func(into map[string]string) {
		into["ClusterRole"] = fmt.Sprint(first.clusterRole(common).GetUID(), first.clusterRole(common).GetResourceVersion())
		for _, o := range []*unstructured.Unstructured{first.object("", "v1", "configmaps", app), first.object("", "v1", "services", app)} {
			into[o.GetKind()] = fmt.Sprint(o.GetUID(), o.GetResourceVersion())
		}
	}
	first.quiet()
	note(before)

	add(second)
	second.await("the second to be refused", func() (bool, string) {
		text := second.file(second.statusBranch(), "README.md")
		fault := faultOf(text, "wide")
		return strings.Contains(fault, "ClusterRole "+common) && strings.Contains(fault, "of environment "+first.name), text
	})
	second.intervals(2)
	after := map[string]string{}
	if note(after); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the first's objects have changed: %v, before %v", after, before)
	}

	second.commit("fix: a name of its own", wide(own))
	second.await("the second to have its own", func() (bool, string) {
		text := second.file(second.statusBranch(), "README.md")
		return second.clusterRole(own) != nil && faultOf(text, "wide") == "", text
	})
	if now := first.clusterRole(common); now == nil || now.GetLabels()["sluice.dev/environment"] != first.name {
		t.Errorf("the first's ClusterRole is %v", now)
	}
}
