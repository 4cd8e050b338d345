package delivery

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	kube "github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

// App names an app and the Helm release that it is.
type App struct {
	// Name is unique in the environment.
	Name string `json:"name"`
	// Namespace of the Helm release, and of objects that name none.
	Namespace string `json:"namespace"`
	// ReleaseName of the Helm release.
	ReleaseName string `json:"releaseName"`
	// SharedName is the release name that the app has in common with others, by which Helm may have made its objects;
	// empty: none, and ReleaseName is its own.
	SharedName string `json:"sharedName,omitempty"`
}

// Saved is an app's state as the cluster holds it. The inventory beside it is the store's own business.
type Saved struct {
	App   App
	State rollout.State
}

// Seen is how the cluster stands against what is desired.
type Seen struct {
	// Applied: everything desired is in the cluster as desired, and nothing is left to prune.
	Applied bool
	// Exposed: users are led as the state says, whatever else is not as desired. The routing and the workloads of both tracks
	// are.
	Exposed bool
	// Pending names some objects that are not, for people; empty when Applied.
	Pending        string
	Stable, Canary rollout.Track
}

// Objects are an app's objects in the cluster.
type Objects interface {
	// Observe compares the cluster with what is desired and writes nothing. An object or a kind that can't be looked at
	// is pending; an error says that the cluster as a whole does not answer.
	Observe(ctx context.Context, app App, d project.Desired) (Seen, error)
	// Apply makes the cluster hold what is desired in a state that was saved, and returns how many objects it changed.
	Apply(ctx context.Context, app App, s rollout.State, d project.Desired) (changes int, err error)
	// Existing looks at what objects would take the place of. Refused names those that are not the app's to take, with
	// ErrNotOurs, and whose they are; taken names those that somebody has left to it.
	Existing(ctx context.Context, app App, desired []*unstructured.Unstructured) (taken []string, refused error)
	// Try asks the API server whether it would take what is desired, and changes nothing. What it refuses is told with ErrRefused,
	// of each object; another error says that it has not answered.
	Try(ctx context.Context, app App, d project.Desired) error
	Others
}

// Others are the objects that are there, whoever made them.
type Others interface {
	// Has reports whether an object is there; so it does where the agent may not see it.
	Has(ctx context.Context, k kube.Key) (bool, error)
	Outsiders
}

// Outsiders are the objects that are not of an app.
type Outsiders interface {
	// Outside lists what lives in a namespace, or with none in all of them, of some kinds. What can't be listed is left out; err
	// says why, for people, and comes with all the rest.
	Outside(ctx context.Context, namespace string, kinds []schema.GroupKind) ([]*unstructured.Unstructured, error)
}

// States keep each app's state in the cluster.
type States interface {
	// LoadState returns ErrBrokenState for a state that is not as it was written; found is false when there is none.
	LoadState(ctx context.Context, app App) (s Saved, found bool, err error)
	// Intend announces what is about to be desired of an app, so that SaveState saves it with the state.
	Intend(app App, d project.Desired)
	// SaveState returns ErrConflict when somebody else has written the state since it was loaded. When it returns nil
	// the state is in the cluster.
	SaveState(ctx context.Context, s Saved) (Saved, error)
	// DeleteState forgets an app whose objects are gone, and its records.
	DeleteState(ctx context.Context, s Saved) error
}

// Records keep the manifests of an app's releases.
type Records interface {
	// Adopt finds what there is of an app without a state. Of one whose state was lost it puts the objects into the
	// inventory.
	Adopt(ctx context.Context, app App) (rollout.Found, error)
	// AddRelease keeps a release, and what id says of it, under a revision later than after. One that it kept before, and
	// of which nothing has become yet, is not kept twice.
	AddRelease(ctx context.Context, app App, id rollout.Release, rel *release.Release, after int) (revision int, err error)
	// ReleaseObjects returns ErrReleaseLost for a release that is kept no longer. The objects are shared.
	ReleaseObjects(ctx context.Context, app App, revision int) ([]*unstructured.Unstructured, error)
	// SettleReleases makes the records say of their releases what the state says.
	SettleReleases(ctx context.Context, app App, s rollout.State) error
}

// Metrics answer checks; *prometheus.Client implements it.
type Metrics interface {
	Ask(ctx context.Context, checks []analysis.Check) []analysis.Sample
}

// Past is a release as the commit that asked for it has it, and the plan that its policy comes to there.
type Past struct {
	Objects []*unstructured.Unstructured
	Plan    rollout.Plan
}

// History renders a release again from the commit that asked for it.
type History interface {
	// Again never waits for a rendering: it returns ErrOrdered until there is one.
	Again(ctx context.Context, app string, r rollout.Release) (Past, error)
}
