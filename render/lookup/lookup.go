// Package lookup is what templates ask of the cluster, and what they are told, as values: whoever answers links no Helm.
package lookup

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Question is one call of Helm's function lookup. Without a name it is for a list.
type Question struct{ APIVersion, Kind, Namespace, Name string }

func (q Question) String() string {
	switch {
	case q.Name == "":
		return q.Kind + " objects in namespace " + q.Namespace
	case q.Namespace == "":
		return q.Kind + " " + q.Name
	default:
		return q.Kind + " " + q.Namespace + "/" + q.Name
	}
}

// Object is one that was found. Own: the release that asks has made it, so that it is no news to it.
type Object struct {
	*unstructured.Unstructured
	Own bool
}

// Found is what there is. It may be withheld, for the reason given; then the question is answered as if there were nothing.
type Found struct {
	Objects  []Object
	Withheld string
}

// Func answers. An error ends the rendering: to be told of nothing, where nobody knows, makes templates draw a new password.
type Func func(ctx context.Context, q Question) (Found, error)
