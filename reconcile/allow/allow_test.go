package allow

import (
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func object(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestObject(t *testing.T) {
	own := Rules{Own: "jx-dev"}
	wide := Rules{Own: "jx-dev", Namespaces: []string{"shared"}, ClusterKinds: []string{"ClusterRole", "Policy.kyverno.io"}}
	for _, tt := range []struct {
		rules   Rules
		object  string
		cluster bool
		want    string
	}{
		{own, "{kind: ConfigMap, apiVersion: v1, metadata: {name: a, namespace: jx-dev}}", false, ""},
		{own, "{kind: Deployment, apiVersion: apps/v1, metadata: {name: web, namespace: jx-prod}}", false, "Deployment web in namespace jx-prod is not allowed by agent.yaml, allow.namespaces; it would have to hold jx-prod"},
		{own, "{kind: ClusterRoleBinding, apiVersion: rbac.authorization.k8s.io/v1, metadata: {name: pwn}}", true, "ClusterRoleBinding pwn is not allowed by agent.yaml, allow.clusterKinds; it would have to hold ClusterRoleBinding.rbac.authorization.k8s.io"},
		// The cluster knows better than the object where it lives.
		{own, "{kind: Widget, apiVersion: example.com/v1, metadata: {name: w, namespace: jx-dev}}", true, "Widget w is not allowed by agent.yaml, allow.clusterKinds; it would have to hold Widget.example.com"},
		{wide, "{kind: ConfigMap, apiVersion: v1, metadata: {name: a, namespace: shared}}", false, ""},
		{wide, "{kind: ClusterRole, apiVersion: rbac.authorization.k8s.io/v1, metadata: {name: a}}", true, ""},
		{wide, "{kind: Policy, apiVersion: kyverno.io/v1, metadata: {name: a}}", true, ""},
		{wide, "{kind: Policy, apiVersion: example.com/v1, metadata: {name: a}}", true, "Policy a is not allowed by agent.yaml, allow.clusterKinds; it would have to hold Policy.example.com"},
		{Everything, "{kind: Namespace, apiVersion: v1, metadata: {name: a}}", true, ""},
		{Rules{}, "{kind: ConfigMap, apiVersion: v1, metadata: {name: a, namespace: b}}", false, "ConfigMap a in namespace b is not allowed by agent.yaml, allow.namespaces; it would have to hold b"},
		// What is Sluice's own nobody else may write, whatever the rules.
		{Everything, "{kind: Secret, apiVersion: v1, type: sluice.dev/state.v1, metadata: {name: a, namespace: b}}", false, "Secret a is not allowed: it is Sluice's own, which keeps the state of an app there"},
		{Everything, "{kind: Secret, apiVersion: v1, metadata: {name: sluice.prod.web, namespace: b}}", false, "Secret sluice.prod.web is not allowed: it is Sluice's own, which keeps the state of an app there"},
		{Everything, "{kind: Secret, apiVersion: v1, metadata: {name: sh.helm.release.v1.web.v1, namespace: b}}", false, "Secret sh.helm.release.v1.web.v1 is not allowed: it would be taken for the Helm record of a release"},
		{Everything, "{kind: Secret, apiVersion: v1, type: helm.sh/release.v1, metadata: {name: x, namespace: b}}", false, "Secret x is not allowed: it would be taken for the Helm record of a release"},
		{Everything, "{kind: Secret, apiVersion: v1, metadata: {name: x, namespace: b, labels: {owner: helm}}}", false, "Secret x is not allowed: it would be taken for the Helm record of a release"},
		{Everything, "{kind: Lease, apiVersion: coordination.k8s.io/v1, metadata: {name: sluice-prod, namespace: b}}", false, "Lease sluice-prod is not allowed: it is Sluice's own, which elects its leader by it"},
		{Everything, "{kind: Lease, apiVersion: coordination.k8s.io/v1, metadata: {name: other, namespace: b}}", false, ""},
	} {
		err := tt.rules.Object(object(t, tt.object), tt.cluster)
		var refused *Error
		if tt.want == "" && err != nil || tt.want != "" && (!errors.As(err, &refused) || err.Error() != tt.want) {
			t.Errorf("%s:\ngot  %v\nwant %s", tt.object, err, tt.want)
		}
	}
}

func TestWebhook(t *testing.T) {
	r := Rules{Webhooks: []string{"loadtester.test", "gate.test:8080", "https://hooks.example.com/team"}}
	for address, want := range map[string]bool{
		"http://loadtester.test/": true, "http://LOADTESTER.test:8080/gate/check": true, "http://gate.test:8080/": true,
		"https://hooks.example.com/team/a": true,
		"http://gate.test/":                false, "http://loadtester.test.evil.com/": false, "http://evil.com/loadtester.test": false,
		"http://hooks.example.com/team/a": false, "https://hooks.example.com/teams": false, "https://hooks.example.com/team/../x": false,
		"https://hooks.example.com/team/%2e%2e/x": false, "https://hooks.example.com/team/..%2fx": false, "https://hooks.example.com/team%2fa": false,
		"http://loadtester.test@evil.com/": false, "::": false, "": false,
	} {
		if err := r.Webhook("load", address); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
		if err := (Rules{}).Webhook("load", address); err == nil {
			t.Errorf("without a rule %s is allowed", address)
		}
	}
	const want = "webhook load is not allowed by agent.yaml, allow.webhooks; it would have to hold hooks.test"
	if err := r.Webhook("load", "https://hooks.test/T0K3N?key=s3cret"); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := Everything.Webhook("load", "http://x/"); err != nil {
		t.Error(err)
	}
}

func TestRepository(t *testing.T) {
	r := Rules{ChartRepositories: []string{"https://charts.example.com/team", "oci://registry.example.com/charts/"}}
	for address, want := range map[string]bool{
		"https://charts.example.com/team": true, "https://charts.example.com/team/": true,
		"https://CHARTS.example.com/team/a": true, "oci://registry.example.com/charts/web": true,
		"https://charts.example.com/teams": false, "https://charts.example.com": false, "http://charts.example.com/team": false,
		"https://charts.example.com.evil.com/team": false, "https://charts.example.com@evil.com/team": false,
		"https://charts.example.com/team/../other": false, "https://charts.example.com/team/%2e%2e/other": false,
		"https://charts.example.com:8443/team": false, "oci://registry.example.com/charts-of-others": false, "::": false,
	} {
		if err := r.Repository(address); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
		if err := (Rules{}).Repository(address); err != nil {
			t.Errorf("without a rule, %s: %v", address, err)
		}
	}
	if err := (Rules{ChartRepositories: []string{}}).Repository("https://charts.example.com"); err == nil {
		t.Error("an empty list allows a repository")
	}
}
