package cluster

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func object(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

// owned gives an object a record of what sluice has applied.
func owned(o *unstructured.Unstructured, fields string) *unstructured.Unstructured {
	o.SetManagedFields([]metav1.ManagedFieldsEntry{{
		Manager: "sluice", Operation: metav1.ManagedFieldsOperationApply, APIVersion: o.GetAPIVersion(),
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fields),
	}})
	return o
}

const (
	podDesired = `
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {a: b}}
spec:
  containers:
  - {name: c, image: i, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53}], resources: {requests: {cpu: "0.1"}}}
  nodeSelector: {}
`
	podLive = `
apiVersion: v1
kind: Pod
metadata: {name: p, uid: x, labels: {a: b, other: hand}}
spec:
  containers:
  - {name: sidecar, image: s}
  - {name: c, image: i, ports: [{containerPort: 53, protocol: TCP}, {containerPort: 53, protocol: UDP}], resources: {requests: {cpu: 100m}}}
  dnsPolicy: ClusterFirst
`
	podFields = `{"f:metadata":{"f:labels":{"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:name":{},"f:image":{},` +
		`"f:ports":{"k:{\"containerPort\":53,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}},"k:{\"containerPort\":53,\"protocol\":\"UDP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},` +
		`"f:resources":{"f:requests":{"f:cpu":{}}}}}}}`
)

func TestCovered(t *testing.T) {
	for _, test := range []struct {
		name                  string
		desired, live, fields string
		want                  bool
	}{
		{"as applied", podDesired, podLive, podFields, true},
		{"not ours", podDesired, podLive, `{}`, false},
		{
			"a field of ours was taken", podDesired, podLive,
			`{"f:metadata":{"f:labels":{"f:a":{}}}}`, false,
		},
		{
			"a field of ours is no longer desired", podDesired, podLive,
			podFields[:len(podFields)-1] + `,"f:status":{}}`, false,
		},
		{"another value", podDesired, strings.Replace(podLive, "image: i", "image: j", 1), podFields, false},
		{"another unit", podDesired, strings.Replace(podLive, "100m", "200m", 1), podFields, false},
		{"atomic list, equal", "apiVersion: v1\nspec: {http: [{a: 1}]}", "apiVersion: v1\nspec: {http: [{a: 1}]}", `{"f:spec":{"f:http":{}}}`, true},
		{"atomic list, longer", "apiVersion: v1\nspec: {http: [{a: 1}]}", "apiVersion: v1\nspec: {http: [{a: 1}, {b: 2}]}", `{"f:spec":{"f:http":{}}}`, false},
		{"atomic list, default filled in", "apiVersion: v1\nspec: {http: [{a: 1}]}", "apiVersion: v1\nspec: {http: [{a: 1, b: 2}]}", `{"f:spec":{"f:http":{}}}`, true},
		{"set", "apiVersion: v1\nmetadata: {finalizers: [x]}", "apiVersion: v1\nmetadata: {finalizers: [y, x]}", `{"f:metadata":{"f:finalizers":{"v:\"x\"":{}}}}`, true},
		{"set, gone", "apiVersion: v1\nmetadata: {finalizers: [x]}", "apiVersion: v1\nmetadata: {finalizers: [y]}", `{"f:metadata":{"f:finalizers":{"v:\"x\"":{}}}}`, false},
		{"a label is no quantity", "apiVersion: v1\nmetadata: {labels: {v: '1'}}", "apiVersion: v1\nmetadata: {labels: {v: '1000m'}}", `{"f:metadata":{"f:labels":{"f:v":{}}}}`, false},
		{"numbers", "apiVersion: v1\nspec: {size: 1}", "apiVersion: v1\nspec: {size: 1.0}", `{"f:spec":{"f:size":{}}}`, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			live := owned(object(t, test.live), test.fields)
			if got := covered("sluice", object(t, test.desired), live); got != test.want {
				t.Errorf("covered = %v", got)
			}
		})
	}
}

func TestTakeOverSparesThePodTemplate(t *testing.T) {
	live := object(t, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}")
	live.SetManagedFields([]metav1.ManagedFieldsEntry{
		{
			Manager: "terraform", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "apps/v1", FieldsType: "FieldsV1",
			FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:annotations":{"f:meta.helm.sh/release-name":{}},"f:labels":{"f:old":{}}},` +
				`"f:spec":{"f:replicas":{},"f:template":{"f:metadata":{"f:annotations":{"f:gone":{},"f:here":{}}}}}}`),
		},
		{
			Manager: "kube-controller-manager", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "apps/v1", Subresource: "status",
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:replicas":{}}}`),
		},
	})
	desired := object(t, "apiVersion: apps/v1\nkind: Deployment\nspec: {template: {metadata: {annotations: {here: x}}}}")
	got, err := takeOver("sluice", live, desired)
	if err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
	want := `{"f:metadata":{"f:annotations":{"f:meta.helm.sh/release-name":{}},"f:labels":{"f:old":{}}},"f:spec":{"f:template":{"f:metadata":{"f:annotations":{"f:here":{}}}}}}`
	if !isOurs(got[1], "sluice") || got[1].FieldsV1.GetRawString() != want {
		t.Errorf("got  %s\nwant %s", got[1].FieldsV1.GetRawString(), want)
	}
	live.SetManagedFields(got)
	if again, err := takeOver("sluice", live, desired); err != nil || again != nil {
		t.Errorf("a second time: %v, %v", again, err)
	}
}

// FuzzCovered: whatever the server sends, nothing panics.
func FuzzCovered(f *testing.F) {
	f.Add(podDesired, podLive, podFields)
	f.Add("apiVersion: v1\na: [1]", "a: {}", `{"f:a":{"i:0":{},"v:1":{},"k:{\"x\":1}":{".":{}}}}`)
	f.Fuzz(func(t *testing.T, desired, live, fields string) {
		d, l := &unstructured.Unstructured{}, &unstructured.Unstructured{}
		if yaml.Unmarshal([]byte(desired), &d.Object) != nil || yaml.Unmarshal([]byte(live), &l.Object) != nil || d.Object == nil || l.Object == nil {
			t.Skip()
		}
		if _, ok := l.Object["metadata"].(map[string]any); !ok {
			l.Object["metadata"] = map[string]any{}
		}
		if _, err := decodeFields(metav1.ManagedFieldsEntry{FieldsV1: metav1.NewFieldsV1(fields)}); err != nil {
			t.Skip()
		}
		owned(l, fields)
		covered("sluice", d, l)
		_, _ = takeOver("sluice", l, d)
	})
}
