package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// foreseen is a chart whose objects the cluster has something against, one each.
const foreseen = `apiVersion: v1
kind: ConfigMap
metadata: {name: theirs}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: before, labels: {app: shop}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate}
spec:
  parallelism: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: "demo.invalid/shop:{{ .Chart.Version }}"}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: report}
spec:
  schedule: "@yearly"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: c, envFrom: [{secretRef: {name: made}}]}]}}}}
---
apiVersion: v1
kind: Secret
metadata: {name: made, annotations: {helm.sh/hook: pre-install}}
---
apiVersion: example.com/v1
kind: Toy
metadata: {name: a}
`

// TestPlanAsksTheCluster: plan tells what the cluster would refuse, object by object, and touches nothing of it.
func TestPlanAsksTheCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx := context.Background()
	w.commit("shop", map[string]string{
		requirements:                   "dependencies:\n- {name: shop, version: 1.0.0, repository: file://../charts/shop}\n",
		"env/values.yaml":              "{}\n",
		"charts/shop/Chart.yaml":       "apiVersion: v2\nname: shop\nversion: 1.0.0\n",
		"charts/shop/templates/a.yaml": foreseen,
	})
	plan := func(kubeconfig string, more ...string) (refused, adopted, warnings []string, code int) {
		t.Helper()
		out, code := w.sluice("plan", append([]string{"--namespace", w.name, "--kubeconfig", kubeconfig, "--json", "shop"}, more...)...)
		var p struct {
			Apps []struct{ Refused, Adopted, Warnings []string }
		}
		if err := json.Unmarshal([]byte(out), &p); err != nil || len(p.Apps) != 1 {
			t.Fatalf("%v: %s", err, out)
		}
		return p.Apps[0].Refused, p.Apps[0].Adopted, p.Apps[0].Warnings, code
	}
	same := func(what string, got []string, want ...string) {
		t.Helper()
		ok := len(got) == len(want)
		for i := 0; ok && i < len(got); i++ {
			ok = strings.HasPrefix(got[i], want[i])
		}
		if !ok {
			t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	const noToy = `: looking up kind example.com/v1, Kind=Toy: no matches for kind "Toy" in version "example.com/v1"`

	refused, adopted, warnings, code := plan(w.bed.Kubeconfig)
	unmade := "Secret " + w.name + "/made is not there: pods need Secret made, which nothing of the release makes but its hook Secret made (pre-install)"
	same("refused in a cluster without its namespace", refused, "Toy "+w.name+"/a"+noToy, unmade)
	same("adopted there", adopted)
	if code != 3 || !slices.Contains(warnings, "not known: what the cluster would refuse in namespace "+w.name+", which is not there yet") {
		t.Errorf("exit code %d, %q", code, warnings)
	}

	_, err := w.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.name}}, metav1.CreateOptions{})
	w.must(err)
	for i, text := range strings.Split(strings.ReplaceAll(foreseen, "{{ .Chart.Version }}", "0"), "---\n")[:3] {
		o := parse(w, text)[0]
		o.SetNamespace(w.name)
		release := "shop"
		if i == 0 {
			release = "billing"
		}
		o.SetAnnotations(map[string]string{"meta.helm.sh/release-name": release, "meta.helm.sh/release-namespace": w.name})
		mapping, err := w.mapper().RESTMapping(o.GroupVersionKind().GroupKind())
		w.must(err)
		_, err = w.dyn.Resource(mapping.Resource).Namespace(w.name).Create(ctx, o, metav1.CreateOptions{FieldManager: "helm"})
		w.must(err)
	}
	before := w.versions()
	refused, adopted, _, code = plan(w.bed.Kubeconfig)
	same("refused", refused,
		"ConfigMap "+w.name+"/theirs: it belongs to Helm release "+w.name+"/billing; expected none of that name",
		"Job "+w.name+"/migrate: it can't be changed in place, and is not deleted and made anew: it still runs",
		"Toy "+w.name+"/a"+noToy, unmade)
	same("adopted", adopted, "ConfigMap "+w.name+"/before", "Job "+w.name+"/migrate")
	if code != 3 {
		t.Errorf("exit code %d", code)
	}

	forbidden := func(refused []string, _, _ []string, _ int) {
		t.Helper()
		if all := strings.Join(refused, "\n"); !strings.Contains(all, "ConfigMap "+w.name+"/before: ") ||
			!strings.Contains(all, `cannot patch resource "configmaps" in API group "" in the namespace "`+w.name+`"`) {
			t.Errorf("of rights that are missing it says\n%s", all)
		}
	}
	forbidden(plan(w.onlooker()))
	agent := filepath.Join(t.TempDir(), "agent.yaml")
	w.must(os.WriteFile(agent, []byte("apiVersion: sluice.dev/v1alpha1\nkind: Agent\nprometheus: {address: \"http://prometheus:9090\"}\n"+
		"environments:\n- name: "+w.name+"\n  namespace: "+w.name+"\n  repository: {url: \"https://git.example.com/production.git\"}\n"+
		"  allow: {serviceAccount: "+w.name+"/"+w.name+"-onlooker}\n"), 0o600))
	forbidden(plan(w.bed.Kubeconfig, "--agent-config", agent))
	if after := w.versions(); !maps.Equal(before, after) {
		t.Errorf("the cluster was touched: %v, before %v", after, before)
	}
}

// versions are the resourceVersions of what charts have made in the namespace.
func (w *world) versions() map[string]string {
	w.Helper()
	ctx, all := context.Background(), map[string]string{}
	configs, err := w.kube.CoreV1().ConfigMaps(w.name).List(ctx, metav1.ListOptions{})
	w.must(err)
	for _, o := range configs.Items {
		all["ConfigMap "+o.Name] = o.ResourceVersion
	}
	secrets, err := w.kube.CoreV1().Secrets(w.name).List(ctx, metav1.ListOptions{})
	w.must(err)
	for _, o := range secrets.Items {
		all["Secret "+o.Name] = o.ResourceVersion
	}
	jobs, err := w.kube.BatchV1().Jobs(w.name).List(ctx, metav1.ListOptions{})
	w.must(err)
	for _, o := range jobs.Items {
		all["Job "+o.Name] = string(o.UID) + " " + o.Spec.Template.Spec.Containers[0].Image
	}
	return all
}

// onlooker is the kubeconfig of somebody who may look at everything and change nothing.
func (w *world) onlooker() string {
	w.Helper()
	ctx, named := context.Background(), metav1.ObjectMeta{Name: w.name + "-onlooker"}
	_, err := w.kube.CoreV1().ServiceAccounts(w.name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: named}, metav1.CreateOptions{})
	w.must(err)
	_, err = w.kube.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: named, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"get", "list", "watch"}},
	}}, metav1.CreateOptions{})
	w.must(err)
	_, err = w.kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: named, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: named.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.name, Name: named.Name}},
	}, metav1.CreateOptions{})
	w.must(err)
	token, err := w.kube.CoreV1().ServiceAccounts(w.name).CreateToken(ctx, named.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	w.must(err)
	return w.kubeconfig(token.Status.Token)
}
