package objects

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What is said of a definition goes to nobody, and leaves the definition as the chart has it.
func TestUnmarked(t *testing.T) {
	crd := func(annotations map[string]any) *unstructured.Unstructured {
		meta := map[string]any{"name": "things.example.com"}
		if annotations != nil {
			meta["annotations"] = annotations
		}
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": meta,
		}}
	}
	for _, annotations := range []map[string]any{nil, {"a": "b"}} {
		plain, marked := crd(annotations), crd(annotations).DeepCopy()
		MarkCRD(marked, CRDsCreate)
		if marked.GetAnnotations()[CRDsAnnotation] != CRDsCreate {
			t.Error("it is not marked")
		}
		before := marked.DeepCopy()
		if got := Unmarked(marked); !equal(got, plain) || !equal(marked, before) {
			t.Errorf("%v becomes %v, and what was given %v", annotations, got.Object, marked.Object)
		}
		if Unmarked(plain) != plain {
			t.Error("one without a mark is copied")
		}
	}
}
