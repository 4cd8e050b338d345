package cluster

import (
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

// FuzzTakeOver: whatever the server sends, nothing panics, and what was put right once is right.
func FuzzTakeOver(f *testing.F) {
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
		entries, err := takeOver("sluice", l, d)
		if err != nil || entries == nil {
			return
		}
		l.SetManagedFields(entries)
		if again, err := takeOver("sluice", l, d); err != nil || again != nil {
			t.Errorf("a second time: %v, %v", again, err)
		}
	})
}
