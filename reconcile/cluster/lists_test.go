package cluster_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// changing are objects with lists that the API server owns whole, beside lists and maps that it merges.
const changing = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME, labels: {a: x, b: z}}
spec:
  hosts: [NAME]
  http:
  - match: [{uri: {prefix: /v1}, headers: {x-beta: {exact: "1"}}}]
    fault: {abort: {httpStatus: 503, percentage: {value: 100}}}
    timeout: 1s
    retries: {attempts: 2, perTryTimeout: 1s}
    route: [{destination: {host: web}, weight: 90}, {destination: {host: web-canary}, weight: 10}]
  - route: [{destination: {host: web}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: NAME}
spec:
  host: NAME
  subsets:
  - {name: one, labels: {app: web, version: v1}, trafficPolicy: {connectionPool: {http: {http1MaxPendingRequests: 1}}}}
  - {name: two, labels: {app: web}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: NAME}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{podSelector: {matchLabels: {role: a}}}, {namespaceSelector: {}, podSelector: {}}]
    ports: [{port: 80, protocol: TCP}, {port: 81}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: NAME}
rules:
- {apiGroups: [""], resources: [configmaps, secrets], verbs: [get, list], resourceNames: [one, two]}
- {apiGroups: [apps], resources: [deployments], verbs: [get]}
---
apiVersion: v1
kind: Service
metadata: {name: NAME, annotations: {a: x}}
spec:
  selector: {app: web, extra: "1"}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: admin, port: 81}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: NAME}
data: {a: "1", b: "2", c: "3"}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: NAME}
spec:
  tls: [{hosts: [a.example.com, b.example.com], secretName: tls}]
  rules:
  - host: a.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}, {path: /b, pathType: Exact, backend: {service: {name: web, port: {number: 80}}}}]}
`

// TestWhatIsTakenAwayGoes: after a release that takes something away, whatever it is, an object is as it would be had it
// been made anew. The oracle is the server: the same object, applied under another name.
func TestWhatIsTakenAwayGoes(t *testing.T) {
	r := newRig(t)
	seed := rand.Uint64()
	dice := rand.New(rand.NewPCG(seed, 1))
	named := func(text, name string) []*unstructured.Unstructured {
		return r.objects(strings.ReplaceAll(text, "NAME", name))
	}
	oracle := delivery.App{Name: "oracle", Namespace: r.ns, ReleaseName: "web"}
	tried, differed := 0, 0
	for n := range 60 {
		name := fmt.Sprint("web-", n)
		before := named(changing, name)
		pick := dice.IntN(len(before))
		had := before[pick]
		taken := had.DeepCopy()
		what := takeAway(dice, taken.Object)
		r.apply(rollout.Idle, project.Desired{Stable: []*unstructured.Unstructured{had}})
		d := project.Desired{Stable: []*unstructured.Unstructured{taken}}
		if _, err := r.Apply(t.Context(), r.app, rollout.State{}, d); err != nil {
			continue // what is left is no object that the server takes
		}
		fresh := taken.DeepCopy()
		fresh.SetName(name + "-fresh")
		if _, err := r.Apply(t.Context(), oracle, rollout.State{}, project.Desired{Stable: []*unstructured.Unstructured{fresh}}); err != nil {
			t.Fatalf("seed %d: the oracle: %v", seed, err)
		}
		tried++
		live, want := r.read(taken), r.read(fresh)
		if !reflect.DeepEqual(live, want) {
			t.Errorf("seed %d: %s without %s is\n%s\nwant\n%s", seed, had.GetKind(), what, text(live), text(want))
		}
		if !r.observe(d).Applied {
			t.Errorf("seed %d: %s without %s is not seen as applied", seed, had.GetKind(), what)
		}
		if !reflect.DeepEqual(had.Object, taken.Object) {
			differed++
		}
		// Whatever somebody puts into it is seen, too, and goes.
		if _, routed, _ := unstructured.NestedSlice(taken.Object, "spec", "http"); routed {
			r.edit(virtual, name, `{"spec":{"http":[{"timeout":"9s","route":[{"destination":{"host":"web"}}]}]}}`)
			eventually(t, time.Minute, func() (bool, string) { return !r.observe(d).Applied, "a hand edit is not seen" })
			r.apply(rollout.Idle, d)
			if live := r.read(taken); !reflect.DeepEqual(live, want) {
				t.Errorf("seed %d: after a hand edit it is\n%s", seed, text(live))
			}
		}
	}
	if tried < 20 || differed < 20 {
		t.Errorf("only %d of 60 objects were tried, %d changed", tried, differed)
	}
}

// takeAway removes a field, or an item of a list, somewhere below the metadata and the kind, and says which.
func takeAway(dice *rand.Rand, o map[string]any) string {
	var places []func() string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k := range v {
				switch path + "." + k {
				case ".apiVersion", ".kind", ".metadata", ".metadata.name", ".metadata.namespace":
				default:
					places = append(places, func() string { delete(v, k); return path + "." + k })
				}
				walk(path+"."+k, v[k])
			}
		case []any:
			for i := range v {
				walk(fmt.Sprintf("%s[%d]", path, i), v[i])
			}
		}
	}
	walk("", o)
	return places[dice.IntN(len(places))]()
}

// read is an object's content without what is the server's, or its name's.
func (r *rig) read(o *unstructured.Unstructured) map[string]any {
	r.t.Helper()
	gvk := o.GroupVersionKind()
	plural := map[string]string{"NetworkPolicy": "networkpolicies", "Ingress": "ingresses"}[gvk.Kind]
	if plural == "" {
		plural = strings.ToLower(gvk.Kind) + "s"
	}
	live := r.get(gvk.GroupVersion().WithResource(plural), o.GetName()).DeepCopy()
	for _, field := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "name"} {
		unstructured.RemoveNestedField(live.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(live.Object, "metadata", "labels", "sluice.dev/app")
	for _, field := range []string{"clusterIP", "clusterIPs"} {
		unstructured.RemoveNestedField(live.Object, "spec", field)
	}
	return live.Object
}

func text(v any) string {
	b, _ := json.MarshalIndent(v, "", " ")
	return string(b)
}
