package cluster_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/lookup"
)

// TestLookup: templates are told of their app's namespace, and of Secrets those alone that its release has made.
func TestLookup(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(configs)})
	for name, annotations := range map[string]map[string]string{
		"theirs": {"meta.helm.sh/release-name": "billing", "meta.helm.sh/release-namespace": r.ns},
		"helms":  {"meta.helm.sh/release-name": "web", "meta.helm.sh/release-namespace": r.ns},
		"hers":   nil,
		"left":   {"sluice.dev/adopt": "true"},
	} {
		o := r.objects("apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + "}\nstringData: {password: x}")[0]
		o.SetAnnotations(annotations)
		if _, err := r.dyn.Resource(secrets).Namespace(r.ns).Create(t.Context(), o, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	state := r.objects("apiVersion: v1\nkind: Secret\nmetadata: {name: sluice.web, labels: {sluice.dev/app: web, sluice.dev/environment: production}}\ntype: sluice.dev/state.v1")[0]
	if _, err := r.dyn.Resource(secrets).Namespace(r.ns).Create(t.Context(), state, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		q lookup.Question
		// found are names, withheld is the beginning of why not.
		found, withheld string
	}{
		{lookup.Question{APIVersion: "v1", Kind: "Secret", Namespace: r.ns, Name: "web"}, "web", ""},
		{lookup.Question{APIVersion: "v1", Kind: "Secret", Namespace: r.ns, Name: "helms"}, "helms", ""},
		{lookup.Question{APIVersion: "v1", Kind: "Secret", Namespace: r.ns, Name: "left"}, "left", ""},
		{lookup.Question{APIVersion: "v1", Kind: "Secret", Namespace: r.ns, Name: "theirs"}, "", "it is not of release web"},
		{lookup.Question{APIVersion: "v1", Kind: "Secret", Namespace: r.ns, Name: "hers"}, "", "it is not of release web"},
		{lookup.Question{APIVersion: "v1", Kind: "Secret", Namespace: r.ns, Name: "sluice.web"}, "", "it is not of release web"},
		{lookup.Question{APIVersion: "v1", Kind: "Secret", Namespace: r.ns, Name: "none"}, "", ""},
		{lookup.Question{APIVersion: "v1", Kind: "Secret", Namespace: r.ns}, "helms left web", ""},
		{lookup.Question{APIVersion: "v1", Kind: "ConfigMap", Namespace: r.ns, Name: "web"}, "web", ""},
		{lookup.Question{APIVersion: "v1", Kind: "ConfigMap", Namespace: "kube-system"}, "", "it is not in the app's namespace " + r.ns},
		{lookup.Question{APIVersion: "v1", Kind: "Secret"}, "", "it is not in the app's namespace " + r.ns},
		{lookup.Question{APIVersion: "v1", Kind: "Namespace", Name: r.ns}, "", "it lives in no namespace"},
		{lookup.Question{APIVersion: "example.com/v1", Kind: "Toy", Namespace: r.ns, Name: "a"}, "", ""},
	} {
		f, err := r.Lookup(t.Context(), r.app, c.q)
		var names []string
		for _, o := range f.Objects {
			if !o.Own || o.GetManagedFields() != nil {
				t.Errorf("%s: %s is not its own", c.q, o.GetName())
			}
			names = append(names, o.GetName())
		}
		if got := strings.Join(names, " "); err != nil || got != c.found || !strings.HasPrefix(f.Withheld, c.withheld) || (c.withheld == "") != (f.Withheld == "") {
			t.Errorf("%s: found %q, withheld %q, %v", c.q, got, f.Withheld, err)
		}
	}
	// Git says in which namespace an app is; agent.yaml says whether it may be.
	other, err := cluster.New(t.Context(), cluster.Config{Allow: allow.Rules{Own: "another"}, REST: shared.REST(), Namespace: r.ns, Environment: "production"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := other.Lookup(t.Context(), r.app, lookup.Question{APIVersion: "v1", Kind: "ConfigMap", Namespace: r.ns, Name: "web"})
	if err != nil || !strings.Contains(f.Withheld, "is not allowed by agent.yaml") {
		t.Errorf("in a namespace that is not allowed: %+v, %v", f, err)
	}
}
