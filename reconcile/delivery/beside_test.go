package delivery

import (
	"context"
	"errors"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// lists are what there is of each namespace.
type lists map[string]error

func (l lists) Outside(_ context.Context, namespace string, kinds []schema.GroupKind) (all []*unstructured.Unstructured, err error) {
	for _, gk := range kinds {
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(gk.WithVersion("v1"))
		o.SetNamespace(namespace)
		all = append(all, o)
	}
	return all, l[namespace]
}

// TestBeside: routing counts in whichever namespace it is, and what can't be listed of one place hides nothing of the other.
func TestBeside(t *testing.T) {
	away := errors.New("away")
	for _, fails := range []lists{{}, {"": away}, {"production": away}} {
		all, err := Beside(t.Context(), fails, "production")
		if len(fails) > 0 != errors.Is(err, away) {
			t.Errorf("%v: %v", fails, err)
		}
		seen := map[string]int{}
		for _, o := range all {
			if o.GetKind() == "VirtualService" || o.GetKind() == "Service" {
				seen[o.GetKind()+" "+o.GetNamespace()]++
			}
		}
		if len(seen) != 3 || seen["VirtualService "] != 1 || seen["VirtualService production"] != 1 || seen["Service production"] != 1 {
			t.Errorf("%v: listed %v", fails, seen)
		}
	}
}
