package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// attack is one chart of a hostile repository, and what the status branch has to say of it. PROD in a template is the
// namespace of the environment that is attacked.
type attack struct{ name, template, want string }

var attacks = []attack{
	// These ended the agent, or took all of its memory or time.
	{"cycle", `{{ $d := dict }}{{ $_ := set $d "a" $d }}{{ $d }}`, "of stack"},
	{"nested", `{{ tpl (repeat 400000 "{{if 1}}") . }}`, "of stack"},
	{"until", `{{ $x := until 2000000000 }}`, "of memory"},
	{"flood", `{{ range until 10000000 }}{{ repeat 1000 "aaaaaaaaaa" }}{{ end }}`, "the templates"},
	{"totoml", `{{ $d := dict }}{{ $_ := set $d "a" $d }}{{ toToml $d }}`, "the templates"},
	{"deepcopy", `{{ $d := dict }}{{ $_ := set $d "a" $d }}{{ $x := deepCopy $d }}`, "the templates"},
	{"selftpl", `{{ tpl (index .Values "a") (dict "Values" (dict "a" (index .Values "a")) "Template" .Template) }}`, "the templates"},
	{"spin", `{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}`, "did not come to an end"},
	{"fields", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: fields}\ndata: {{ printf \"{a: [%s]}\" (repeat 1100000 \"1,\") }}", "over the limit"},
	{"deep", `a: {{ repeat 3000000 "[" }}`, "exceeded max depth"},
	// These wrote what is not theirs.
	{"admin", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: pwn}\n" +
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}", "ClusterRoleBinding pwn is not allowed"},
	{"dns", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: coredns, namespace: kube-system}\ndata: {Corefile: evil}", "ConfigMap coredns in namespace kube-system is not allowed"},
	{"neighbour", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + app + ", namespace: PROD}\ndata: {evil: \"1\"}", "is not allowed"},
	{"namespace", "apiVersion: v1\nkind: Namespace\nmetadata: {name: PROD, labels: {evil: \"1\"}}", "Namespace PROD is not allowed"},
	{"state", "apiVersion: v1\nkind: Secret\ntype: sluice.dev/state.v1\nmetadata: {name: sluice.DEV." + app + "}\nstringData: {state: \"{}\"}", "keeps the state of an app"},
	{"record", "apiVersion: v1\nkind: Secret\nmetadata: {name: sh.helm.release.v1." + app + ".v9}\nstringData: {release: x}", "Helm record"},
	{"record2", "apiVersion: v1\nkind: Secret\nmetadata: {name: x, labels: {owner: helm, name: " + app + "}}\nstringData: {release: x}", "Helm record"},
	{"lease", "apiVersion: coordination.k8s.io/v1\nkind: Lease\nmetadata: {name: sluice-PROD}\nspec: {holderIdentity: x, leaseDurationSeconds: 2000000000}", "elects its leader"},
	{"byhand", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: by-hand}\ndata: {a: evil}", "made by kubectl-create"},
	{"hook", "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingWebhookConfiguration\nmetadata: {name: pwn}\nwebhooks: []", "ValidatingWebhookConfiguration pwn is not allowed"},
	{"crd", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: pwns.example.com}\nspec: {group: example.com}", "is not allowed"},
	{"volume", "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: pwn}\nspec: {hostPath: {path: /}}", "PersistentVolume pwn is not allowed"},
	{"spy", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: spy}\nspec: {selector: {matchLabels: {app: spy}}, template: {metadata: {labels: {app: spy}}, " +
		"spec: {containers: [{name: spy, image: demo.invalid/spy}]}}}\n---\napiVersion: flagger.app/v1beta1\nkind: Canary\nmetadata: {name: spy}\n" +
		"spec: {targetRef: {kind: Deployment, name: spy}, service: {port: 80}, analysis: {interval: 1m, threshold: 1, maxWeight: 50, stepWeight: 10, " +
		"metrics: [{name: spy, thresholdRange: {max: 1}, query: 'sum(istio_requests_total{destination_workload_namespace=\"PROD\"})'}]}}", `it asks for namespace "PROD"`},
	{"list", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: evil, namespace: PROD}}", "is not allowed"},
}

// A repository that attacks its agent, its neighbour and the cluster in every way that is known has faults of its own, each
// with its reason; its neighbour's canary gets its steps in time, nothing of it is touched, and the agent lives. It has the
// machine for itself: what the attacks take of it would be taken from other tests.
func TestHostileNeighbour(t *testing.T) {
	prod, dev := newWorld(t), newWorld(t)
	dev.allow = "namespaces: [" + dev.name + "]"
	prod.neighbours = []*world{dev}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	prod.must(err)
	defer silent.Close()
	prod.chartHosts = []string{"http://" + silent.Addr().String()}
	prod.install()
	dev.awaitEvent(rollout.Installed, "0.0.129", 1)
	byHand := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "by-hand"}, "data": map[string]any{"a": "ours"},
	}}
	_, err = dev.dyn.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace(dev.name).Create(t.Context(), byHand, metav1.CreateOptions{FieldManager: "kubectl-create"})
	prod.must(err)
	before := prod.object("", "v1", "configmaps", app)
	pid := prod.agent.Process.Pid

	files := map[string]string{}
	list := dev.file("main", requirements)
	fill := strings.NewReplacer("PROD", prod.name, "DEV", dev.name)
	for _, a := range attacks {
		dir := "charts/" + a.name
		files[dir+"/Chart.yaml"] = "apiVersion: v2\nname: " + a.name + "\nversion: 1.0.0\n"
		files[dir+"/values.yaml"] = "a: '{{ tpl (index .Values \"a\") . }}'\n"
		files[dir+"/templates/a.yaml"] = fill.Replace(a.template)
		list += "- name: " + a.name + "\n  version: 1.0.0\n  repository: file://../charts/" + a.name + "\n"
	}
	list += "- name: silent\n  version: 1.0.0\n  repository: http://" + silent.Addr().String() + "/charts\n"
	list += "- name: inside\n  version: 1.0.0\n  repository: http://169.254.169.254/latest/meta-data\n"
	files[requirements] = list

	prod.bump("0.0.130")
	prod.awaitEvent(rollout.RolloutStarted, "0.0.130", 1)
	dev.commit("chore: new charts", files)
	prod.awaitEvent(rollout.Promoted, "0.0.130", 1)
	var last time.Time
	var longest time.Duration
	for _, e := range prod.events() {
		if e.Type == rollout.Advanced && !last.IsZero() {
			longest = max(longest, e.Time.Sub(last))
		}
		last = e.Time
	}
	t.Logf("the longest step of the neighbour took %s, and its interval is %s", longest, prod.checkInterval)
	if longest > prod.checkInterval+5*time.Second {
		t.Errorf("a step took %s", longest)
	}

	for _, a := range append([]attack{{name: "inside", want: "refusing to ask 169.254.169.254"}}, attacks...) {
		dev.awaitFor(5*time.Minute, time.Second, "the fault of "+a.name, func() (bool, string) {
			text := dev.file(dev.statusBranch(), "README.md")
			return strings.Contains(faultOf(text, a.name), fill.Replace(a.want)), fmt.Sprintf("%s\n%s", faultOf(text, a.name), text)
		})
	}
	if now := prod.object("", "v1", "configmaps", app); now.GetUID() != before.GetUID() || now.Object["data"].(map[string]any)["evil"] != nil {
		t.Errorf("production's ConfigMap: %v", now.Object)
	}
	if hand := dev.object("", "v1", "configmaps", "by-hand"); hand.Object["data"].(map[string]any)["a"] != "ours" {
		t.Errorf("what was made by hand: %v", hand.Object)
	}
	if prod.agent.Process.Pid != pid || prod.agent.ProcessState != nil {
		t.Error("the agent has ended")
	}
	leave := []byte(`{"metadata":{"annotations":{"sluice.dev/adopt":"true"}}}`)
	_, err = dev.kube.CoreV1().ConfigMaps(dev.name).Patch(t.Context(), "by-hand", types.MergePatchType, leave, metav1.PatchOptions{})
	prod.must(err)
	dev.await("what was made by hand to be left to its app", func() (bool, string) {
		text := dev.file(dev.statusBranch(), "README.md")
		return faultOf(text, "byhand") == "", text
	})
	// What dev has that is good goes on, and the rest is gone with what asked for it.
	dev.commit("chore: only what is good", map[string]string{requirements: dev.listWithout(list)})
	dev.bump("0.0.130")
	dev.awaitEvent(rollout.Promoted, "0.0.130", 1)
	dev.await("no fault any more", func() (bool, string) {
		text := dev.file(dev.statusBranch(), "README.md")
		return !strings.Contains(text, "## Errors"), text
	})
}

// faultOf is the line of an app's fault in the README of a status branch.
func faultOf(readme, name string) string {
	for _, line := range strings.Split(readme, "\n") {
		if strings.HasPrefix(line, "- ["+name+"]") {
			return line
		}
	}
	return ""
}

// listWithout is the list of apps as newWorld made it.
func (w *world) listWithout(list string) string {
	at := strings.Index(list, "- name: "+attacks[0].name)
	return list[:at]
}
