package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestUnpreparableObject: an object that can't be sent keeps no other from being applied and looked at, lets a canary that
// is left go, lets its mended successor in, and goes with the app.
func TestUnpreparableObject(t *testing.T) {
	r := newRig(t)
	broken := func(value string) project.Desired {
		d := r.whole()
		d.Stable = append(d.Stable, r.objects("apiVersion: v1\nkind: Secret\nmetadata: {name: odd}\nstringData: {port: "+value+"}")...)
		return d
	}
	with := broken("8080")
	with.Canary = r.objects(deployment("web-canary", "web:2", 1))
	with.CanaryWorkloads = with.Canary
	for _, d := range []project.Desired{with, broken("8080")} {
		phase := rollout.Analyzing
		if len(d.Canary) == 0 {
			phase = rollout.RollingBack
		}
		res, err := r.Apply(t.Context(), r.app, rollout.State{Phase: phase}, d)
		if err == nil || !strings.Contains(err.Error(), "Secret "+r.ns+"/odd") || strings.Contains(err.Error(), "8080") {
			t.Errorf("the fault: %v", err)
		}
		if len(d.Canary) == 0 && !strings.Contains(actions(res), "Deployment web-canary deleted") {
			t.Errorf("the canary stays: %s", actions(res))
		}
		seen := r.observe(d)
		if seen.Applied || !strings.Contains(seen.Pending, "odd") || strings.Contains(seen.Pending, "8080") {
			t.Errorf("seen: %+v", seen)
		}
	}
	eventually(t, time.Minute, func() (bool, string) {
		seen := r.observe(broken("8080"))
		return seen.Stable.Available && !seen.Stable.Ready, seen.Stable.Message
	})
	r.apply(rollout.Updating, broken(`"8080"`))
	r.awaitReady(broken(`"8080"`))
	r.get(secrets, "odd")
	// While it is not known where the traffic leads, a canary stays, whether the routing is not planned or left over.
	bare := broken("8080")
	bare.Routing = nil
	for range 2 {
		if _, err := r.Apply(t.Context(), r.app, rollout.State{Phase: rollout.Starting}, with); err == nil {
			t.Error("no fault")
		}
		res, err := r.Apply(t.Context(), r.app, rollout.State{Phase: rollout.RollingBack}, bare)
		if err == nil || strings.Contains(actions(res), "deleted") {
			t.Errorf("without routing: %s, %v", actions(res), err)
		}
		bare.Stable = append(bare.Stable, with.Routing...)
	}
	r.apply(rollout.Updating, broken(`"8080"`))
	// And once more broken, in place of one that is there: that stays, until the app goes.
	if _, err := r.Apply(t.Context(), r.app, rollout.State{}, broken("8080")); err == nil {
		t.Error("no fault")
	}
	r.get(secrets, "odd")
	eventually(t, time.Minute, func() (bool, string) {
		res := r.apply(rollout.Removing, project.Desired{})
		return r.observe(project.Desired{}).Applied, actions(res)
	})
}

// TestKindThatCannotBeRead: a kind whose conversion webhook does not answer keeps no track from being judged, and no other
// object from being applied or removed.
func TestKindThatCannotBeRead(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	group := strings.ReplaceAll(r.ns, "-", "") + ".example.com"
	crd := func(conversion string) string {
		return `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.` + group + `}
spec:
  group: ` + group + `
  scope: Namespaced
  names: {plural: things, singular: thing, kind: Thing, listKind: ThingList}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
  - {name: v2, served: true, storage: false, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
  conversion: ` + conversion
	}
	thing := "apiVersion: " + group + "/v2\nkind: Thing\nmetadata: {name: odd}\nspec: {a: 1}"
	all := func(conversion string) project.Desired {
		d := d
		d.Stable = append(r.objects(crd(conversion)+"\n---\n"+thing), d.Stable...)
		return d
	}
	r.apply(rollout.Installing, all("{strategy: None}"))
	r.awaitReady(d)

	// From now on the server can't convert what it has stored as v1 to v2. A client that remembers nothing has to.
	away := all("{strategy: Webhook, webhook: {conversionReviewVersions: [v1], clientConfig: {url: 'https://127.0.0.1:1/convert'}}}")
	// No namespace of the cluster could be deleted while it is like this.
	defer func() {
		mend := []byte(`{"spec":{"conversion":{"strategy":"None","webhook":null}}}`)
		if _, err := r.dyn.Resource(crds).Patch(t.Context(), "things."+group, types.MergePatchType, mend, metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	}()
	_, _ = r.Apply(t.Context(), r.app, rollout.State{}, away) // looked at below
	clients := 1
	eventually(t, time.Minute, func() (bool, string) {
		clients++ // one that listed before the server had noticed would go on as if nothing were
		r.restart(fmt.Sprint(clients))
		seen := r.observe(away)
		return !seen.Applied && seen.Exposed && strings.Contains(seen.Pending, "Thing") && seen.Stable.Available, seen.Pending + seen.Stable.Message
	})
	next := away
	next.Canary = r.objects(deployment("web-canary", "web:2", 1))
	next.CanaryWorkloads = next.Canary
	if res, err := r.Apply(t.Context(), r.app, rollout.State{Phase: rollout.Starting}, next); err == nil || !strings.Contains(actions(res), "Deployment web-canary created") {
		t.Errorf("%s, %v", actions(res), err)
	}
	eventually(t, time.Minute, func() (bool, string) {
		seen := r.observe(next)
		return seen.Canary.Available, seen.Canary.Message
	})
	// The canary goes although the odd one is as it was.
	if res, err := r.Apply(t.Context(), r.app, rollout.State{Phase: rollout.RollingBack}, away); err == nil || !strings.Contains(actions(res), "Deployment web-canary deleted") {
		t.Errorf("%s, %v", actions(res), err)
	}
	// When the kind can be converted again, all is as it was.
	whole := all("{strategy: None}")
	eventually(t, time.Minute, func() (bool, string) {
		_, err := r.Apply(t.Context(), r.app, rollout.State{}, whole)
		seen := r.observe(whole)
		return err == nil && seen.Applied && seen.Stable.Ready, fmt.Sprint(err, seen.Pending)
	})
}

// TestRoutingThatCannotBeDeleted: what it may lead to stays as long as it does, unless the whole app is to go.
func TestRoutingThatCannotBeDeleted(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	under := d
	under.Canary = r.objects(deployment("web-canary", "web:2", 1))
	under.CanaryWorkloads = under.Canary
	r.apply(rollout.Starting, under)
	forbid := func() (allow func()) {
		allow = r.forbid("networking.istio.io", "virtualservices")
		eventually(t, time.Minute, func() (bool, string) { // the policy takes a moment to be enforced
			err := r.dyn.Resource(virtual).Namespace(r.ns).Delete(t.Context(), "web", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
			return err != nil, "it can be deleted"
		})
		return allow
	}
	allow := forbid()
	d.Routing = nil
	if res, err := r.Apply(t.Context(), r.app, rollout.State{}, d); err == nil || len(res.Changes) > 0 {
		t.Errorf("%s, %v", actions(res), err)
	}
	allow()
	eventually(t, time.Minute, func() (bool, string) {
		_, err := r.Apply(t.Context(), r.app, rollout.State{}, d)
		return err == nil && r.observe(d).Applied, fmt.Sprint(err)
	})
	r.apply(rollout.Starting, under)
	allow = forbid()
	if res, err := r.Apply(t.Context(), r.app, rollout.State{Phase: rollout.Removing}, project.Desired{}); err == nil ||
		!strings.Contains(actions(res), "Deployment web-canary deleted") {
		t.Errorf("removing: %s, %v", actions(res), err)
	}
	allow()
	eventually(t, time.Minute, func() (bool, string) {
		_, err := r.Apply(t.Context(), r.app, rollout.State{Phase: rollout.Removing}, project.Desired{})
		return err == nil && r.observe(project.Desired{}).Applied, fmt.Sprint(err)
	})
}

// forbid lets nobody delete objects of a resource in the rig's namespace until allow is called.
func (r *rig) forbid(group, resource string) (allow func()) {
	r.t.Helper()
	api := r.kube.AdmissionregistrationV1()
	meta := metav1.ObjectMeta{Name: r.ns}
	rule := admissionv1.NamedRuleWithOperations{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Delete},
		Rule:       admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: []string{resource}},
	}}
	_, err := api.ValidatingAdmissionPolicies().Create(r.t.Context(), &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: meta,
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{rule}},
			Validations:      []admissionv1.Validation{{Expression: "false"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = api.ValidatingAdmissionPolicyBindings().Create(r.t.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: meta,
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: r.ns, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{
				MatchLabels: map[string]string{"kubernetes.io/metadata.name": r.ns},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	allow = sync.OnceFunc(func() {
		ctx := context.WithoutCancel(r.t.Context())
		_ = api.ValidatingAdmissionPolicyBindings().Delete(ctx, r.ns, metav1.DeleteOptions{})
		_ = api.ValidatingAdmissionPolicies().Delete(ctx, r.ns, metav1.DeleteOptions{})
	})
	r.t.Cleanup(allow)
	return allow
}
