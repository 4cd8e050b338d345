package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// What an environment may not touch is refused on the way to the API server, object by object, whatever the object says of
// where it lives: the cluster knows better. Nothing else of the app waits for it.
func TestWallBeforeTheCluster(t *testing.T) {
	r := newRig(t)
	group := r.ns + ".example.com"
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(fmt.Sprintf(`apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: walls.%[1]s}
spec:
  group: %[1]s
  scope: Cluster
  names: {plural: walls, singular: wall, kind: Wall}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]`, group))})
	r.restart("2", func(c *cluster.Config) { c.Allow = allow.Rules{Own: r.ns} })
	hostile := r.objects(fmt.Sprintf(`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: pwn-%[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: pwn-%[1]s}
---
apiVersion: %[2]s/v1
kind: Wall
metadata: {name: pwn-%[1]s, namespace: %[1]s}
---
apiVersion: v1
kind: Secret
type: sluice.dev/state.v1
metadata: {name: pwn}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: sluice-production}`, r.ns, group))
	hostile[1].SetNamespace("default")
	_, err := r.Apply(t.Context(), r.app, rollout.State{}, project.Desired{Stable: append(hostile, r.objects(configs)...)})
	for _, want := range []string{
		"ClusterRoleBinding pwn-" + r.ns + " is not allowed by agent.yaml, allow.clusterKinds",
		"ConfigMap pwn-" + r.ns + " in namespace default is not allowed by agent.yaml, allow.namespaces",
		"Wall pwn-" + r.ns + " is not allowed by agent.yaml, allow.clusterKinds",
		"Secret pwn is not allowed", "Lease sluice-production is not allowed",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
	if _, err := r.kube.RbacV1().ClusterRoleBindings().Get(t.Context(), "pwn-"+r.ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a ClusterRoleBinding: %v", err)
	}
	if _, err := r.kube.CoreV1().ConfigMaps("default").Get(t.Context(), "pwn-"+r.ns, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a ConfigMap of another namespace: %v", err)
	}
	r.get(configMaps, "web")

	elsewhere := delivery.App{Name: "other", Namespace: "elsewhere-" + r.ns, ReleaseName: "other"}
	if _, err := r.Apply(t.Context(), elsewhere, rollout.State{}, project.Desired{Stable: r.objects(configs)}); err == nil {
		t.Error("an app lives in a namespace that is not allowed")
	}
	if _, err := r.kube.CoreV1().Namespaces().Get(t.Context(), elsewhere.Namespace, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a namespace was made: %v", err)
	}
	// Without what is not allowed the app is as git says.
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(configs)})
}

// What charts render is written as the environment's ServiceAccount, and so with its rights.
func TestServiceAccount(t *testing.T) {
	r := newRig(t)
	r.apply(rollout.Idle, project.Desired{Stable: r.objects(configs)}) // makes the namespace
	r.restart("2", func(c *cluster.Config) { c.ServiceAccount = r.ns + "/deployer" })
	d := project.Desired{Stable: r.objects(service)}
	if _, err := r.Apply(t.Context(), r.app, rollout.State{}, d); !apierrors.IsForbidden(err) ||
		!strings.Contains(err.Error(), "system:serviceaccount:"+r.ns+":deployer") {
		t.Fatalf("error: %v", err)
	}
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "deployer"}, Rules: []rbacv1.PolicyRule{{
		APIGroups: []string{""}, Resources: []string{"services", "configmaps", "secrets"}, Verbs: []string{"get", "create", "patch", "delete"},
	}}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "deployer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "deployer"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "deployer", Namespace: r.ns}},
	}
	if _, err := r.kube.RbacV1().Roles(r.ns).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.kube.RbacV1().RoleBindings(r.ns).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, func() (bool, string) {
		_, err := r.Apply(t.Context(), r.app, rollout.State{}, d)
		return err == nil, fmt.Sprint(err)
	})
}
