package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	kube "github.com/sluice-cd/sluice/render/objects"
)

// unfitError says why what git asks for could not be carried through. Only another commit can help.
type unfitError struct{ err error }

func (e *unfitError) Error() string { return e.err.Error() }
func (e *unfitError) Unwrap() error { return e.err }

// prepare looks at what Next is about to take over: whether it could be carried through from what serves, what people are
// to be warned of, and that its manifests are kept under a number. Whatever stands against that makes it unfit, and is
// returned; it never keeps Next from being asked, which has a canary to judge.
func (l *look) prepare(ctx context.Context, o *rollout.Observation) error {
	if !l.state.Takes(*o) {
		return nil
	}
	err := l.fit(ctx, o)
	if err == nil {
		o.Desired, err = l.number(ctx, o.Desired)
	}
	if err != nil {
		o.Unfit = l.mask.Text(err.Error())
	}
	return err
}

// fit reports why a rollout to what git asks for could not be carried through from what serves: once it is saved there
// would be no way back out. Of one that could, it gathers what people are to be warned of.
func (l *look) fit(ctx context.Context, o *rollout.Observation) error {
	s := l.state
	if err := Moved(l.app.Name, l.app.Namespace, l.Desired.Release.Namespace); err != nil {
		return &unfitError{err}
	}
	stable, err := l.objects(ctx, s.Stable)
	if err != nil {
		return err
	}
	in := project.Input{
		App: l.app.Name, Namespace: l.app.Namespace, Stable: stable, Target: l.Desired.Release.Objects, Plan: l.Desired.Plan,
		State: rollout.State{Stable: s.Stable, Target: l.Desired.ID, StablePlan: s.ServingPlan()},
	}
	rolls := !s.Stable.IsZero() && (s.InFlight() || o.FromStable == rollout.ChangePods)
	all, unfit := project.Trial(in, rolls && in.Plan.Canary())
	objs := brought(all)
	if len(objs) == 0 { // nobody knows what the release comes to
		objs = project.Applied(in.Target)
	}
	if o.Taken, err = l.leftToUs(ctx, objs); err != nil {
		return err // whoever has the objects may let go of them
	}
	if err := l.supplied(ctx); err != nil {
		return fmt.Errorf("beginning a rollout to %s: %w", o.Desired.Name(), err)
	}
	if s.Stable.IsZero() {
		return nil // nothing serves that could be kept
	}
	if rolls {
		if err := project.Check(in); err != nil {
			return &unfitError{fmt.Errorf("beginning a rollout to %s: %w", o.Desired.Name(), err)}
		}
	}
	if unfit != nil {
		return &unfitError{unfit}
	}
	// The API server is asked about all that a rollout would bring, before any of it is there. What it refuses may be another
	// commit's to mend, or somebody's in the cluster.
	if err := l.Objects.Try(ctx, l.app, all); err != nil {
		return fmt.Errorf("beginning a rollout to %s: %w", l.Desired.ID.Name(), err)
	}
	if rolls {
		o.Warnings = append(o.Warnings, l.mask.Texts(kube.Twice(in.Target))...)
	}
	if in.Plan.Canary() && o.FromStable == rollout.ChangePods {
		o.Warnings = append(o.Warnings, l.mask.Texts(l.warnings(ctx, in))...)
	}
	return nil
}

// brought are all objects of a projection.
func brought(d project.Desired) []*unstructured.Unstructured {
	return slices.Concat(d.Stable, d.Canary, d.Routing)
}

// leftToUs reports who else has some objects, or steers them; nil: nobody. Taken are those that somebody has left to the app.
func (l *look) leftToUs(ctx context.Context, objs []*unstructured.Unstructured) (taken []string, err error) {
	canaries, _ := l.Objects.Outside(ctx, l.app.Namespace, []schema.GroupKind{project.FlaggerCanary}) // who may not list them is told so by the doctor
	if steered := project.Steered(objs, canaries); steered != "" {
		return nil, fmt.Errorf("%w: %s", ErrNotOurs, steered)
	}
	if scales := project.ScalesCopy(objs); scales != "" {
		return nil, fmt.Errorf("%w: %s", ErrNotOurs, scales)
	}
	return l.Objects.Existing(ctx, l.app, objs)
}

// Moved refuses that an app changes its namespace; nil: it does not. Objects can't move: its own would be deleted while
// their successors have yet to start.
func Moved(app, from, to string) error {
	if from == to {
		return nil
	}
	return fmt.Errorf("%s lives in namespace %s, and git now says %s: what serves would be deleted before its successor is ready. "+
		"Expected namespace %[2]s; to move it, list the chart a second time under another name with the new namespace, and take "+
		"%[1]s off the list when that one serves", app, from, to)
}

// warnings tell of live objects that would not treat the canary like the stable pods. What can't be listed is told as
// well: it is no reason not to begin.
func (l *look) warnings(ctx context.Context, in project.Input) []string {
	live, unlisted := Beside(ctx, l.Objects, l.app.Namespace)
	warnings, err := project.Warnings(in, live)
	for _, err := range []error{err, unlisted} {
		if err != nil {
			warnings = append(warnings, "what else is in the cluster is not known: "+err.Error())
		}
	}
	return warnings
}

// Beside lists what lives beside an app and may matter to its canary.
func Beside(ctx context.Context, objs Outsiders, namespace string) ([]*unstructured.Unstructured, error) {
	here, err := objs.Outside(ctx, namespace, project.WarningKinds())
	everywhere, more := objs.Outside(ctx, "", project.EverywhereKinds())
	return slices.Concat(here, everywhere), errors.Join(err, more)
}

// number gives a release the stamp that makes its pods known from those that serve, keeps its manifests, and gives it the
// number of their record.
func (l *look) number(ctx context.Context, r rollout.Release) (rollout.Release, error) {
	s := l.state
	if !s.Stable.IsZero() {
		old, err := l.objects(ctx, s.Stable)
		if err != nil {
			return r, err
		}
		switch project.Compare(old, l.Desired.Release.Objects) {
		case rollout.ChangePods:
			r.Stamp = project.Stamp(old, l.Desired.Release.Objects)
		case rollout.ChangePlain, rollout.ChangeNone:
			r.Stamp = s.Stable.Stamp // the pods stay
		}
	}
	n, err := l.Records.AddRelease(ctx, l.app, r, l.Desired.Release, max(s.Stable.Revision, s.Target.Revision))
	if err != nil {
		return r, fmt.Errorf("keeping release %s of %s: %w", r.Version, l.app.Name, err)
	}
	r.Revision = n
	return r, nil
}
