package delivery

import (
	"errors"
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestRefused(t *testing.T) {
	gr := schema.GroupResource{Group: "apps", Resource: "deployments"}
	for _, test := range []struct {
		err  error
		want bool
	}{
		{errors.New("connection refused"), false},
		{apierrors.NewServiceUnavailable("starting"), false},
		{apierrors.NewTooManyRequests("later", 1), false},
		{fmt.Errorf("saving: %w", ErrConflict), false},
		{fmt.Errorf("observing: %w", apierrors.NewForbidden(gr, "web", errors.New("no right"))), true},
		{fmt.Errorf("adopting: %w", ErrHelmBusy), true},
		{errors.Join(errors.New("connection refused"), apierrors.NewBadRequest("bad")), true},
	} {
		if got := Refused(test.err); got != test.want {
			t.Errorf("%v: refused %t", test.err, got)
		}
	}
}
