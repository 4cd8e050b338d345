package cluster_test

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestLoadStateAfterAConflict: whoever lost the race goes on from what the other has written.
func TestLoadStateAfterAConflict(t *testing.T) {
	r := newRig(t)
	first := r.Client
	saved, err := first.SaveState(t.Context(), delivery.Saved{App: r.app, State: rollout.State{Exposure: rollout.Exposure{Weight: 10}}})
	if err != nil {
		t.Fatal(err)
	}
	r.restart("2")
	if _, err := r.SaveState(t.Context(), delivery.Saved{App: r.app, State: rollout.State{Exposure: rollout.Exposure{Weight: 20}}}); err != nil {
		t.Fatal(err)
	}
	r.apply(rollout.Installing, r.whole())
	if _, err := first.SaveState(t.Context(), saved); !errors.Is(err, delivery.ErrConflict) {
		t.Fatalf("saving over another's state: %v", err)
	}
	now, found, err := first.LoadState(t.Context(), r.app)
	if err != nil || !found || now.State.Weight != 20 || now.App != r.app {
		t.Fatalf("loaded %+v, %t, %v", now, found, err)
	}
	now.State.Weight = 30
	if _, err := first.SaveState(t.Context(), now); err != nil {
		t.Errorf("saving after that: %v", err)
	}
	res, err := first.Apply(t.Context(), r.app, rollout.State{Phase: rollout.Removing}, project.Desired{})
	if err != nil || !strings.Contains(actions(res), "Deployment web deleted") {
		t.Errorf("the other's inventory was not taken over: %s, %v", actions(res), err)
	}
}

// TestLostAnswer: the API server does what it was asked, and the answer is lost. The next write is ours to make, and
// overwrites nothing that a person has written in between, who leaves our mark in place.
func TestLostAnswer(t *testing.T) {
	for _, c := range []struct {
		name   string
		first  bool // the lost answer is that of the first write of all
		edit   string
		refuse bool
	}{
		{"the first write", true, "", false},
		{"a later write", false, "", false},
		{"edited after the first write", true, `{"stringData":{"state":"{\"weight\":5}"}}`, true},
		{"edited after a later write", false, `{"stringData":{"state":"{\"weight\":5}"}}`, true},
		{"the inventory edited", false, `{"stringData":{"inventory":"[]"}}`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			var lose atomic.Bool
			config := rest.CopyConfig(shared.REST())
			config.Wrap(func(next http.RoundTripper) http.RoundTripper {
				return roundTripper(func(q *http.Request) (*http.Response, error) {
					answer, err := next.RoundTrip(q)
					if err == nil && (q.Method == http.MethodPost || q.Method == http.MethodPatch) && lose.Swap(false) {
						_ = answer.Body.Close()
						return nil, errors.New("the answer is lost")
					}
					return answer, err
				})
			})
			client, err := cluster.New(t.Context(), cluster.Config{Allow: allow.Everything, REST: config, Namespace: r.ns, Environment: "production"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.SaveState(t.Context(), delivery.Saved{App: delivery.App{Name: "x", Namespace: r.ns}}); err != nil {
				t.Fatal(err) // makes the namespace
			}
			saved := delivery.Saved{App: r.app, State: rollout.State{Exposure: rollout.Exposure{Weight: 10}}}
			if !c.first {
				if _, err := client.SaveState(t.Context(), saved); err != nil {
					t.Fatal(err)
				}
				client.Intend(r.app, r.whole())
			}
			saved.State.Weight = 20
			lose.Store(true)
			if _, err := client.SaveState(t.Context(), saved); err == nil {
				t.Fatal("the answer was not lost")
			}
			if c.edit != "" {
				_, err := r.kube.CoreV1().Secrets(r.ns).Patch(t.Context(), "sluice.production.web", types.MergePatchType, []byte(c.edit), metav1.PatchOptions{})
				if err != nil {
					t.Fatal(err)
				}
			}
			saved.State.Weight = 30
			_, err = client.SaveState(t.Context(), saved)
			if errors.Is(err, delivery.ErrConflict) != c.refuse || !c.refuse && err != nil {
				t.Fatalf("err = %v", err)
			}
			// Whoever is refused goes on from what is there.
			if now, found, err := client.LoadState(t.Context(), r.app); err != nil || !found || !c.refuse && now.State.Weight != 30 {
				t.Errorf("loaded %+v, %t, %v", now, found, err)
			}
			if _, err = client.SaveState(t.Context(), saved); err != nil {
				t.Errorf("saving after that: %v", err)
			}
		})
	}
}

// A person's edit between two writes that were both answered is a conflict, too.
func TestEditedState(t *testing.T) {
	r := newRig(t)
	saved := delivery.Saved{App: r.app, State: rollout.State{Exposure: rollout.Exposure{Weight: 10}}}
	if _, err := r.SaveState(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	_, err := r.kube.CoreV1().Secrets(r.ns).Patch(t.Context(), "sluice.production.web", types.MergePatchType,
		[]byte(`{"stringData":{"state":"{\"weight\":5}"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.SaveState(t.Context(), saved); !errors.Is(err, delivery.ErrConflict) {
		t.Errorf("saving over a person's edit: %v", err)
	}
	if now, _, err := r.LoadState(t.Context(), r.app); err != nil || now.State.Weight != 5 {
		t.Errorf("loaded %+v, %v", now, err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// TestDeletedStateIsMadeAnew: a person deletes the Secret; what was in it, inventory included, is written again.
func TestDeletedStateIsMadeAnew(t *testing.T) {
	r := newRig(t)
	saved, err := r.SaveState(t.Context(), delivery.Saved{App: r.app, State: rollout.State{Exposure: rollout.Exposure{Weight: 10}}})
	if err != nil {
		t.Fatal(err)
	}
	r.apply(rollout.Installing, r.whole())
	if err := r.kube.CoreV1().Secrets(r.ns).Delete(t.Context(), "sluice.production.web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.SaveState(t.Context(), saved); !errors.Is(err, delivery.ErrConflict) {
		t.Fatalf("saving a deleted state: %v", err)
	}
	if _, found, err := r.LoadState(t.Context(), r.app); err != nil || found {
		t.Fatalf("found %t, %v", found, err)
	}
	if _, err := r.SaveState(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	r.restart("2")
	if got := actions(r.apply(rollout.Removing, project.Desired{})); !strings.Contains(got, "Deployment web deleted") {
		t.Errorf("the inventory was lost: %s", got)
	}
}

// TestLostState: the Secret is deleted while nobody runs. What there was is found by the Helm records and the labels: the
// canary goes, what serves stays, and so does what is another app's.
func TestLostState(t *testing.T) {
	r := newRig(t)
	keep := func(version, manifest, stamp string) rollout.Release {
		t.Helper()
		rel := r.rendered(version, manifest)
		id := rollout.Release{Version: version, Digest: rel.Digest, Commit: strings.Repeat("c", 40), Stamp: stamp}
		n, err := r.AddRelease(t.Context(), r.app, id, rel, 0)
		if err != nil {
			t.Fatal(err)
		}
		id.Revision = n
		return id
	}
	other := delivery.App{Name: "other", Namespace: r.ns, ReleaseName: "other"}
	alien := project.Desired{Stable: r.objects(strings.ReplaceAll(configs, "name: web", "name: other"))}
	if _, err := r.Apply(t.Context(), other, rollout.State{}, alien); err != nil {
		t.Fatal(err)
	}
	stable := keep("1.0.1", configs+"\n---\n"+service+"\n---\n"+deployment("web", "web:1", 1), "0123456789abcdef")
	d := r.whole()
	r.apply(rollout.Installing, d)
	if err := r.SettleReleases(t.Context(), r.app, rollout.State{Stable: stable}); err != nil {
		t.Fatal(err)
	}
	target := keep("1.0.2", deployment("web", "web:2", 1), "")
	under := d
	under.Canary = r.objects(strings.ReplaceAll(configs, "name: web", "name: web-canary") + "\n---\n" + deployment("web-canary", "web:2", 1))
	under.CanaryWorkloads = workloads(under.Canary)
	s := rollout.State{Phase: rollout.Analyzing, Stable: stable, Target: target, Exposure: rollout.Exposure{Weight: 50}, Peak: 50, Rollouts: 1}
	if _, err := r.SaveState(t.Context(), delivery.Saved{App: r.app, State: s}); err != nil {
		t.Fatal(err)
	}
	r.apply(s.Phase, under)
	if _, found := r.get(deployments, "web-canary").GetLabels()["sluice.dev/track"]; !found {
		t.Error("the canary carries no label of its track")
	}
	if pod, _, _ := unstructured.NestedStringMap(r.get(deployments, "web").Object, "spec", "template", "metadata", "labels"); pod["sluice.dev/app"] != "" {
		t.Errorf("pods would start anew for their labels: %v", pod)
	}
	if err := r.kube.CoreV1().Secrets(r.ns).Delete(t.Context(), "sluice.production.web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	r.restart("2")
	states, broken, err := r.LoadStates(t.Context())
	if lost, ok := states["web"]; err != nil || len(broken) > 0 || !ok || lost.App != r.app || lost.State.LastSeq != 0 {
		t.Fatalf("states %+v, broken %v, %v", states, broken, err)
	}
	found, err := r.Adopt(t.Context(), r.app)
	if want := (rollout.Found{Stable: stable, Target: target, Lost: true, Canary: true, Revision: 2}); err != nil || found != want {
		t.Fatalf("found %+v, %v; want %+v", found, err, want)
	}
	if seen := r.observe(d); seen.Applied {
		t.Error("the canary that is left over is not seen")
	}
	s, _ = rollout.Recover(found, rollout.Observation{Now: time.Now()})
	if _, err := r.SaveState(t.Context(), delivery.Saved{App: r.app, State: s}); err != nil {
		t.Fatal(err)
	}
	r.restart("3") // what was found is saved
	got := actions(r.apply(rollout.RollingBack, d))
	if !strings.Contains(got, "Deployment web-canary deleted") || !strings.Contains(got, "ConfigMap web-canary deleted") || strings.Contains(got, "other") {
		t.Errorf("giving the rollout up:\n%s", got)
	}
	if !r.observe(d).Applied {
		t.Errorf("pending: %s", r.observe(d).Pending)
	}
	s = rollout.State{Phase: rollout.Removing, Stable: stable}
	if err := r.SettleReleases(t.Context(), r.app, s); err != nil {
		t.Fatal(err)
	}
	if found, err = r.Adopt(t.Context(), r.app); err != nil || !found.Removing || found.Target != stable || !found.Stable.IsZero() {
		t.Errorf("lost in a removal: found %+v, %v", found, err)
	}
	got = actions(r.apply(rollout.Removing, project.Desired{}))
	if !strings.Contains(got, "Deployment web deleted") || !strings.Contains(got, "VirtualService web deleted") || strings.Contains(got, "other") {
		t.Errorf("removing:\n%s", got)
	}
}

// TestUpgradeByHand: helm upgrade copies the labels of our record to its own, which is its release all the same.
func TestUpgradeByHand(t *testing.T) {
	r := newRig(t)
	rel := r.rendered("1.0.1", configs)
	n, err := r.AddRelease(t.Context(), r.app, rollout.Release{Digest: rel.Digest}, rel, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := project.Desired{Stable: r.objects(configs)}
	r.apply(rollout.Installing, d)
	if err := r.SettleReleases(t.Context(), r.app, rollout.State{Stable: rollout.Release{Digest: rel.Digest, Revision: n}}); err != nil {
		t.Fatal(err)
	}
	upgrade := action.NewUpgrade(r.helm())
	upgrade.Namespace = r.ns
	if _, err := upgrade.Run("web", helmChart("1.0.2", strings.Replace(configs, "info", "debug", 1)), nil); err != nil {
		t.Fatal(err)
	}
	r.restart("2")
	found, err := r.Adopt(t.Context(), r.app)
	if err != nil || found.Lost || found.Stable.Version != "1.0.2" || found.Stable.Revision != 2 || found.Stable.Digest == rel.Digest {
		t.Errorf("found %+v, %v", found, err)
	}
}

// TestDeletedNamespaceIsMadeAnew deletes everything under the client's feet: objects, state, and Helm's records.
func TestDeletedNamespaceIsMadeAnew(t *testing.T) {
	r := newRig(t)
	saved, err := r.SaveState(t.Context(), delivery.Saved{App: r.app})
	if err != nil {
		t.Fatal(err)
	}
	objs := r.objects(configs)
	d := project.Desired{Stable: objs}
	r.apply(rollout.Installing, d)
	if err := r.kube.CoreV1().Namespaces().Delete(t.Context(), r.ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() (bool, string) {
		_, err := r.Apply(t.Context(), r.app, rollout.State{}, d)
		if errors.Is(err, delivery.ErrConflict) {
			_, _, err = r.LoadState(t.Context(), r.app)
		}
		if err != nil {
			return false, err.Error()
		}
		ns, err := r.kube.CoreV1().Namespaces().Get(t.Context(), r.ns, metav1.GetOptions{})
		return err == nil && ns.Status.Phase == corev1.NamespaceActive && r.observe(d).Applied, "not there again: " + r.observe(d).Pending
	})
	eventually(t, time.Minute, func() (bool, string) {
		_, err := r.SaveState(t.Context(), saved)
		if errors.Is(err, delivery.ErrConflict) {
			_, _, _ = r.LoadState(t.Context(), r.app)
		}
		return err == nil, fmt.Sprint(err)
	})
}

// TestMissingRights: an object that the agent may not touch is named, and keeps no other from being applied.
func TestMissingRights(t *testing.T) {
	r := newRig(t)
	if _, err := r.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "some"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets", "configmaps"}, Verbs: []string{"*"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"*"}},
	}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "some"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "some"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: r.ns}},
	}
	if _, err := r.kube.RbacV1().Roles(r.ns).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.kube.RbacV1().RoleBindings(r.ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config := rest.CopyConfig(shared.REST())
	config.Impersonate.UserName = r.ns
	c, err := cluster.New(t.Context(), cluster.Config{Allow: allow.Everything, REST: config, Namespace: r.ns, Environment: "production"})
	if err != nil {
		t.Fatal(err)
	}
	objs := r.objects(configs + "\n---\n" + service + "\n---\n" + deployment("web", "web:1", 0))
	d := project.Desired{Stable: objs, StableWorkloads: workloads(objs)}
	eventually(t, 30*time.Second, func() (bool, string) {
		res, err := c.Apply(t.Context(), r.app, rollout.State{Phase: rollout.Installing}, d)
		if err == nil || !strings.Contains(err.Error(), "applying Service "+r.ns+"/web") || !delivery.Refused(err) {
			t.Fatalf("err = %v", err)
		}
		_, getErr := r.kube.AppsV1().Deployments(r.ns).Get(t.Context(), "web", metav1.GetOptions{})
		return getErr == nil, fmt.Sprintf("%s, %v", actions(res), err)
	})
	seen, err := c.Observe(t.Context(), r.app, d)
	if err != nil || seen.Applied || seen.Pending != "Service "+r.ns+"/web: not to be read with the agent's rights" {
		t.Errorf("seen = %+v, %v", seen, err)
	}
	// An app in a namespace in which the agent may do nothing any more keeps it from starting as little.
	far := delivery.App{Name: "far", Namespace: "kube-public", ReleaseName: "far"}
	if _, err := c.SaveState(t.Context(), delivery.Saved{App: far, State: rollout.State{LastSeq: 1}}); err != nil {
		t.Fatal(err)
	}
	if states, broken, err := c.LoadStates(t.Context()); err != nil || len(broken) > 0 || states["far"].App != far {
		t.Errorf("states %+v, broken %v, %v", states, broken, err)
	}
}

// TestPodsThatAreNotAdmitted: where no pod can be made, the reason is in the Deployment's conditions alone.
func TestPodsThatAreNotAdmitted(t *testing.T) {
	r := newRig(t)
	if _, err := r.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	limits := &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "small"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
		Type: corev1.LimitTypeContainer, Max: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m")},
	}}}}
	if _, err := r.kube.CoreV1().LimitRanges(r.ns).Create(t.Context(), limits, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	objs := r.objects(deployment("web", "web:1", 1))
	d := project.Desired{Stable: objs, StableWorkloads: objs}
	r.apply(rollout.Installing, d)
	want := regexp.MustCompile(`^0 of 1 pods ready: Pod "web-\S+" is invalid: .*cpu limit of 10m`)
	eventually(t, 30*time.Second, func() (bool, string) {
		s := r.observe(d).Stable
		return want.MatchString(s.Message) && !s.Ready, s.Message
	})
}

// TestWhoChangedIt: a fight with another tool over one object names it.
func TestWhoChangedIt(t *testing.T) {
	r := newRig(t)
	d := project.Desired{Stable: r.objects(configs)}
	r.apply(rollout.Idle, d)
	awaitPending := func(want string) {
		t.Helper()
		eventually(t, 10*time.Second, func() (bool, string) {
			seen := r.observe(d)
			return seen.Pending == "ConfigMap "+r.ns+"/web: changed by somebody else ("+want+")", seen.Pending
		})
		r.apply(rollout.Idle, d)
	}
	r.edit(configMaps, "web", `{"data":{"level":"debug"}}`)
	awaitPending("kubectl-patch")

	r.edit(configMaps, "web", `{"metadata":{"annotations":{"meta.helm.sh/release-name":"other"}}}`)
	awaitPending("it says that it belongs to Helm release " + r.ns + "/other")
}
