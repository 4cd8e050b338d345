package cluster

import (
	"cmp"
	"context"
	"errors"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/render/objects"
)

// Foreseen is what the cluster has to say of a release before it is asked for.
type Foreseen struct {
	// Refused is what stands against it, object by object: it is somebody else's, the API server would not take it, its kind is
	// not served, or a right is missing.
	Refused []string
	// Adopted are the objects of others that would become the app's: of the same Helm release, or left to it.
	Adopted []string
	// Unknown is what nobody can tell yet, for people.
	Unknown []string
}

// Foresee asks, by dry runs, what would become of all that a rollout brings, see [project.Trial]. It changes nothing, and needs
// the rights that applying it takes. An error says that the cluster has not answered, and comes with what was learned until then.
func (c *Client) Foresee(ctx context.Context, app delivery.App, d project.Desired) (Foreseen, error) {
	var f Foreseen
	if _, err := c.core.Namespaces().Get(ctx, app.Namespace, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		f.Unknown = append(f.Unknown, "what the cluster would refuse in namespace "+app.Namespace+", which is not there yet")
	}
	refused := c.meetAll(ctx, c.of(app), slices.Concat(d.Stable, d.Canary, d.Routing), func(key objects.Key, live *unstructured.Unstructured) {
		if live.GetLabels()[environmentLabel] == "" && key.GroupKind() != objects.Namespace {
			f.Adopted = append(f.Adopted, key.String())
		}
	})
	var unanswered error
	known := map[objects.Key]bool{}
	for _, err := range append(refused, c.try(ctx, app, d)...) {
		var about *ObjectError
		switch {
		case !errors.As(err, &about) || !errors.Is(err, delivery.ErrRefused) && !errors.Is(err, delivery.ErrNotOurs):
			unanswered = cmp.Or(unanswered, err)
		case !known[about.Key]:
			known[about.Key] = true
			f.Refused = append(f.Refused, about.Key.String()+": "+about.text)
		}
	}
	return f, unanswered
}
