package deploy

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/reconcile/cluster"
)

var update = flag.Bool("update", false, "write the plain manifests")

const values = `
config:
  prometheus: {address: "http://prometheus.istio-system:9090"}
  environments:
  - name: production
    repository: {url: "https://git.example.com:8443/acme/production.git", username: bot, passwordFile: /etc/sluice-secrets/git/password}
    charts: [{url: "oci://registry.example.com:5001/acme"}]
  - name: staging
    namespace: stage
    repository: {url: "git@git.example.com:acme/staging.git", sshKeyFile: /etc/sluice-secrets/ssh/key, knownHostsFile: /etc/sluice-config/hosts/known_hosts}
secrets: [git, ssh]
configMaps: [hosts]
namespaces: [shared]
`

// objects of the chart, by "Kind namespace/name".
func objects(t *testing.T, more string) map[string]*unstructured.Unstructured {
	t.Helper()
	list, err := Release{Name: "sluice", Namespace: "ops", Values: values + more}.Objects()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*unstructured.Unstructured{}
	for _, o := range list {
		at := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
		if out[at] != nil {
			t.Errorf("%s stands twice", at)
		}
		out[at] = o
	}
	return out
}

// typed reads an object of the chart; fields that the type does not have are faults.
func typed[T any](t *testing.T, all map[string]*unstructured.Unstructured, at string) *T {
	t.Helper()
	o := all[at]
	if o == nil {
		t.Fatalf("the chart has no %s", at)
	}
	out := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, out, true); err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	return out
}

// granted are the single rights of rules: "get secrets", "list pods.metrics".
func granted(rules []rbacv1.PolicyRule) []string {
	var out []string
	for _, r := range rules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					out = append(out, verb+" "+cluster.Right{Group: group, Resource: resource}.String())
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// needed are the single rights that the agent needs in some places.
func needed(places ...cluster.Place) []string {
	var out []string
	for _, r := range cluster.Rights() {
		if slices.Contains(places, r.Place) {
			for _, verb := range r.Verbs {
				out = append(out, verb+" "+r.String())
			}
		}
	}
	return out
}

// charted are the single rights of the value rights.
func charted(t *testing.T) []string {
	t.Helper()
	text, err := files.ReadFile("chart/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Rights []struct{ APIGroups, Resources []string }
	}
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range v.Rights {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				right := cluster.ChartRight(group, resource)
				for _, verb := range right.Verbs {
					out = append(out, verb+" "+right.String())
				}
			}
		}
	}
	return out
}

func same(t *testing.T, what string, got []string, want ...[]string) {
	t.Helper()
	all := slices.Concat(want...)
	slices.Sort(all)
	all = slices.Compact(all)
	for _, r := range got {
		if !slices.Contains(all, r) {
			t.Errorf("%s gives a right that nobody needs: %s", what, r)
		}
	}
	for _, r := range all {
		if !slices.Contains(got, r) {
			t.Errorf("%s lacks the right to %s", what, r)
		}
	}
}

// The rights that the chart gives are those that the agent needs, and those that the value rights names.
func TestRights(t *testing.T) {
	all := objects(t, "")
	rules := func(at string) []string { return granted(typed[rbacv1.Role](t, all, at).Rules) }
	same(t, "the Role of the states", rules("Role jx-production/sluice"), needed(cluster.InStates, cluster.InApps), charted(t))
	same(t, "the Role of the states", rules("Role stage/sluice"), needed(cluster.InStates, cluster.InApps), charted(t))
	same(t, "the Role of apps", rules("Role shared/sluice"), needed(cluster.InApps), charted(t))
	same(t, "the ClusterRole", granted(typed[rbacv1.ClusterRole](t, all, "ClusterRole /ops-sluice").Rules), needed(cluster.InCluster))

	same(t, "the Role without rights", granted(typed[rbacv1.Role](t, objects(t, "rights: []\n"), "Role shared/sluice").Rules), needed(cluster.InApps))

	all = objects(t, "rbac: {scope: Cluster}\n")
	same(t, "the ClusterRole of scope Cluster", granted(typed[rbacv1.ClusterRole](t, all, "ClusterRole /ops-sluice").Rules),
		needed(cluster.InStates, cluster.InApps, cluster.InCluster), charted(t), []string{"create namespaces"})
	for at := range all {
		if strings.HasPrefix(at, "Role") {
			t.Errorf("with scope Cluster there is still %s", at)
		}
	}
}

// Each binding is for the agent, and each Role has one.
func TestBindings(t *testing.T) {
	all := objects(t, "")
	for _, namespace := range []string{"jx-production", "stage", "shared"} {
		b := typed[rbacv1.RoleBinding](t, all, "RoleBinding "+namespace+"/sluice")
		if got := fmt.Sprint(b.RoleRef.Kind, b.RoleRef.Name, b.Subjects); got != "Rolesluice[{ServiceAccount  sluice ops}]" {
			t.Errorf("the binding in %s says %s", namespace, got)
		}
	}
	if all["ServiceAccount ops/sluice"] == nil {
		t.Error("there is no ServiceAccount")
	}
}

// Rules for what few need are given as they are asked for, and not with wildcards.
func TestExtraRules(t *testing.T) {
	const escalate = `{apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [get, escalate]}`
	all := objects(t, "extraRules: ["+escalate+"]\nextraClusterRules: ["+escalate+"]\n")
	for _, rules := range [][]string{
		granted(typed[rbacv1.Role](t, all, "Role shared/sluice").Rules), granted(typed[rbacv1.ClusterRole](t, all, "ClusterRole /ops-sluice").Rules),
	} {
		if !slices.Contains(rules, "escalate roles.rbac.authorization.k8s.io") {
			t.Errorf("the rules are %v", rules)
		}
	}
}

func TestRefusedValues(t *testing.T) {
	for _, tc := range []struct{ values, want string }{
		{"", "config"},
		{values + "replica: 3\n", "replica"},
		{values + "extraRules: [{apiGroups: [apps], resources: [deployments], verbs: ['*']}]\n", "extraRules"},
		{values + "extraRules: [{apiGroups: ['*'], resources: [deployments], verbs: [get]}]\n", "extraRules"},
		{values + "rights: [{apiGroups: [apps], resources: ['*']}]\n", "rights"},
		{values + "rights: [{apiGroups: [apps], resources: [deployments], verbs: [get]}]\n", "verbs"},
		{values + "image: {digest: latest}\n", "digest"},
		{values + "serviceAccount: {create: false}\n", "serviceAccount.name: missing"},
		{strings.Replace(values, "passwordFile:", "password:", 1), "password"},
		{strings.Replace(values, "  prometheus:", "  leaderElection: false\n  prometheus:", 1), "leaderElection"},
	} {
		_, err := Release{Name: "sluice", Namespace: "ops", Values: tc.values}.Manifest()
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("of the values\n%s\nthe chart says %v; want a word of %s", tc.values, err, tc.want)
		}
	}
}

// The pods fit the profile "restricted" of the Pod Security Standards, and can write nowhere but where they have room.
func TestDeployment(t *testing.T) {
	d := typed[appsv1.Deployment](t, objects(t, ""), "Deployment ops/sluice")
	pod := d.Spec.Template.Spec
	c := pod.Containers[0]
	security, sandbox := pod.SecurityContext, c.SecurityContext
	if !*security.RunAsNonRoot || *security.RunAsUser != 65532 || security.SeccompProfile.Type != "RuntimeDefault" {
		t.Errorf("the pod runs as %+v", security)
	}
	if *sandbox.AllowPrivilegeEscalation || !*sandbox.ReadOnlyRootFilesystem || len(sandbox.Capabilities.Drop) != 1 || sandbox.Capabilities.Drop[0] != "ALL" {
		t.Errorf("the container runs as %+v", sandbox)
	}
	if *d.Spec.Replicas != 2 || c.LivenessProbe == nil || c.ReadinessProbe == nil || c.Resources.Limits.Memory().IsZero() || len(pod.TopologySpreadConstraints) != 2 {
		t.Errorf("the Deployment is %+v", d.Spec)
	}
	volumes := map[string]bool{}
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	var mounted []string
	for _, m := range c.VolumeMounts {
		if !volumes[m.Name] {
			t.Errorf("there is no volume %s", m.Name)
		}
		mounted = append(mounted, m.MountPath)
	}
	want := []string{"/etc/sluice", "/var/lib/sluice", "/tmp", "/etc/sluice-secrets/git", "/etc/sluice-secrets/ssh", "/etc/sluice-config/hosts"}
	if !slices.Equal(mounted, want) {
		t.Errorf("the container has %v, want %v", mounted, want)
	}
	changed := typed[appsv1.Deployment](t, objects(t, "image: {tag: v2}\n"), "Deployment ops/sluice")
	if got := changed.Spec.Template.Spec.Containers[0].Image; got != "registry.example.com/sluice:v2" {
		t.Errorf("the image is %s", got)
	}
}

// What policies let out is what the configuration reaches: https, the API server, Prometheus, git with a port of its own, ssh.
func TestNetworkPolicy(t *testing.T) {
	all := objects(t, "networkPolicy: {ports: [5000]}\n")
	o := all["NetworkPolicy ops/sluice"]
	if o == nil {
		t.Fatal("there is no NetworkPolicy")
	}
	egress, _, _ := unstructured.NestedSlice(o.Object, "spec", "egress")
	var ports []string
	for _, rule := range egress {
		for _, p := range rule.(map[string]any)["ports"].([]any) {
			ports = append(ports, fmt.Sprint(p.(map[string]any)["port"]))
		}
	}
	if want := []string{"53", "53", "443", "6443", "9090", "5001", "8443", "22", "5000"}; !slices.Equal(ports, want) {
		t.Errorf("the agent reaches %v, want %v", ports, want)
	}
}

func TestSwitchedOff(t *testing.T) {
	all := objects(t, "replicas: 1\nnetworkPolicy: {enabled: false}\nrbac: {create: false}\nserviceAccount: {create: false, name: theirs}\n")
	for at := range all {
		if !slices.Contains([]string{"ConfigMap ops/sluice", "Deployment ops/sluice", "Service ops/sluice"}, at) {
			t.Errorf("there is still %s", at)
		}
	}
	if got := typed[appsv1.Deployment](t, all, "Deployment ops/sluice").Spec.Template.Spec.ServiceAccountName; got != "theirs" {
		t.Errorf("the agent runs as %s", got)
	}
}

func TestNotes(t *testing.T) {
	got, err := Release{Name: "sluice", Namespace: "ops", Values: values}.Notes()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kubectl -n ops exec deploy/sluice -- /sluice doctor", "jx-production, stage, shared", "--environment staging"} {
		if !strings.Contains(got, want) {
			t.Errorf("the notes don't say %q:\n%s", want, got)
		}
	}
}

// The plain manifests are what the chart renders. go test ./deploy -update writes them.
func TestPlainManifests(t *testing.T) {
	const file = "manifests/sluice.yaml"
	given, err := os.ReadFile("manifests/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want, err := Release{Name: "sluice", Namespace: "sluice", Values: string(given)}.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	want = "# Rendered from deploy/chart with manifests/values.yaml: go test ./deploy says when it is not so any more.\n" + want
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the chart renders; go test ./deploy -update writes it anew", file)
	}
}
