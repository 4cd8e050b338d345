package delivery

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/mask"
	"github.com/sluice-cd/sluice/render/release"
)

// Delivery looks at apps. All its fields but Hooks and AnyQuery are required.
type Delivery struct {
	Objects Objects
	States  States
	Records Records
	Metrics Metrics
	History History
	// Hooks asks webhooks; nil: none is ever answered.
	Hooks Hooks
	// AnyQuery: what policies ask metrics for themselves may be of other namespaces than their app's.
	AnyQuery bool
	// Now is the clock.
	Now func() time.Time
	Log *slog.Logger
}

// Desired is what git asks of an app, rendered.
type Desired struct {
	ID      rollout.Release
	Release *release.Release
	Plan    rollout.Plan
	// TakenBack is what another cluster's rollback commit says, where that is the commit which asks for it.
	TakenBack *rollout.TakenBack
}

// Facts are what is known of an app when it is looked at.
type Facts struct {
	// Saved is the app and its state as it was last saved or loaded.
	Saved Saved
	// Removed: git is known not to list the app.
	Removed bool
	// Desired is nil while it is not known what git asks for; Fault says why, where that is for people to know.
	Desired *Desired
	Fault   error
	// Recorded is the newest event that git holds, Ahead its last number of an earlier incarnation of the app; see
	// rollout.Observation. Reverted is git's answer to the state's Revert.
	Recorded, Ahead int64
	Reverted        *rollout.Reverted
	// Commands are what people have asked since the state's LastCommand, oldest first; Gates are the app's.
	Commands []rollout.Command
	Gates    []rollout.Gate
	// Direct is what somebody has left beside the state; nil: nothing.
	Direct *rollout.Command
	// WatchedSince is since when the cluster has answered without a gap; zero: always.
	WatchedSince time.Time
	// Unfinished: the last decision was not acted upon to its end, or nobody knows.
	Unfinished bool
	// HoldCorrections: what others did to the objects is left as it is in this look.
	HoldCorrections bool
}

// Decision is what the first half of a look has brought.
type Decision struct {
	// Saved is the state as the cluster holds it now, but for when it was first seen to hold what was decided, which is saved with
	// what comes next. Moved: it is another than before, by these Events.
	Saved  Saved
	Moved  bool
	Events []rollout.Event
	// Unsure: it is not known whether the state was saved. It has to be loaded before the next look: what was answered by it
	// may not be asked again.
	Unsure bool
	// Fault says why what git asks for can't be delivered; nil: it can.
	Fault error
	// Again is when time alone could change the answer; zero: never.
	Again time.Time
	// Seen is how the cluster stood. Blind: it was not seen, whatever of it did not answer.
	Seen  Seen
	Blind bool
	// Gone: git does not list the app, and nothing of it is left.
	Gone bool

	// mask takes the app's values out of what is said of it.
	mask *mask.Mask
	// act: the projection is to be applied. It is not known for the reason in unprojected.
	act         bool
	projection  project.Desired
	unprojected error
}

// Acts reports whether there is anything for Act to do.
func (dec Decision) Acts() bool { return dec.act }

// Decide observes the cluster, asks rollout.Next, and saves what it answers. An error says that the look could not be
// finished and is to be repeated; the Decision tells how far it came. Neither repeats a value of the app, whoever has worded it.
func (d *Delivery) Decide(ctx context.Context, f Facts) (Decision, error) {
	l := &look{Delivery: d, Facts: f, app: f.Saved.App, state: f.Saved.State}
	if f.Desired != nil {
		l.mask = f.Desired.Release.Mask
	}
	dec, err := l.decide(ctx)
	dec.mask, dec.Fault = l.mask, l.mask.Error(dec.Fault)
	return dec, l.mask.Error(err)
}

// Act makes the cluster hold what was decided, and the Helm records say it too. It returns how many objects it changed.
func (d *Delivery) Act(ctx context.Context, dec Decision) (changes int, err error) {
	if !dec.act {
		return 0, nil
	}
	defer func() { err = dec.mask.Error(err) }()
	app, s := dec.Saved.App, dec.Saved.State
	if dec.unprojected != nil {
		return 0, dec.unprojected
	}
	// The records come first: what is deleted now would be missed by whoever goes back by what they said before. They keep
	// no traffic waiting.
	var faults []error
	if err := d.Records.SettleReleases(ctx, app, s); err != nil {
		faults = append(faults, fmt.Errorf("recording the releases of %s: %w", app.Name, err))
	}
	if changes, err = d.Objects.Apply(ctx, app, s, dec.projection); err != nil {
		faults = append(faults, fmt.Errorf("applying %s: %w", app.Name, err))
	}
	return changes, errors.Join(faults...)
}

// look is one look at one app.
type look struct {
	*Delivery
	Facts
	app App
	// state is the saved one, or the recovered one, with the policy that its projection follows now.
	state rollout.State
	// recovered are the events of a recovery.
	recovered []rollout.Event
	// mask takes the values of every release that was looked at out of what is said.
	mask *mask.Mask
	// masked has the numbers of the releases that were read from their records, whose objects the mask knows.
	masked []int
}

func (l *look) decide(ctx context.Context) (dec Decision, err error) {
	dec.Saved, dec.Fault, dec.Blind = l.Saved, l.Fault, true
	if err := l.adopt(ctx); err != nil {
		return l.unfinished(dec, err)
	}
	if l.state.Plan == nil && !l.Removed {
		return dec, nil // nothing is known of this app yet but its fault
	}
	if len(l.recovered) > 0 {
		return l.recover(ctx, dec)
	}
	before, err := l.look(ctx, &dec)
	if err != nil {
		return l.unfinished(dec, err)
	}
	if l.takesOver() {
		if _, err := l.leftToUs(ctx, brought(before)); err != nil {
			return l.unfinished(dec, err)
		}
	}
	o, err := l.observation(ctx, dec.Seen)
	if err != nil {
		return l.unfinished(dec, err)
	}
	l.tell(&o)
	l.confirmBegin(&o)
	unprepared := l.prepare(ctx, &o)
	l.confirmCourse(&o)
	l.check(ctx, before, &o)
	next, events := rollout.Next(l.state, o)
	if l.Removed && over(next) {
		return l.forget(ctx, dec)
	}
	if err := l.save(ctx, &dec, next, before); err != nil {
		return l.unfinished(dec, err)
	}
	if dec.Moved {
		dec.Events = events
	}
	dec.Again = lookAgain(next, o, l.Now())
	dec.act = dec.Moved || (l.Unfinished || !dec.Seen.Applied) && !l.HoldCorrections
	return l.told(dec, unprepared)
}

// unfinished is a decision that an error kept from being made. What somebody has to put right is the app's fault; a
// cluster that is away is waited for in silence.
func (l *look) unfinished(dec Decision, err error) (Decision, error) {
	var unfit *unfitError
	if Refused(err) || errors.As(err, &unfit) {
		dec.Fault = err
	}
	return dec, err
}

// told adds to a decision why what git asks for could not be taken over. An unfitError is git's to mend; anything else is
// tried again.
func (l *look) told(dec Decision, unprepared error) (Decision, error) {
	var unfit *unfitError
	if errors.As(unprepared, &unfit) {
		if dec.Fault == nil {
			dec.Fault = unprepared
		}
		return dec, nil
	}
	if unprepared != nil && dec.Fault == nil {
		return l.unfinished(dec, unprepared)
	}
	return dec, unprepared
}

// adopt makes a state for an app that has none, of what there is of it in the cluster, and takes over the policy.
func (l *look) adopt(ctx context.Context) error {
	s := l.state
	if s.LastSeq > 0 || !s.Stable.IsZero() || s.Phase != rollout.Idle {
		l.govern()
		return nil
	}
	found, err := l.Records.Adopt(ctx, l.app)
	if err != nil {
		return fmt.Errorf("looking for what there is of %s already: %w", l.app.Name, err)
	}
	known := l.known()
	if found.Lost && !found.Removing {
		if found.Plan, err = l.remember(ctx, cmp.Or(found.Stable, found.Target)); err != nil {
			return err
		}
		if l.Desired == nil && found.Plan != nil {
			known.Plan = *found.Plan
		}
	}
	l.state, l.recovered = rollout.Recover(found, known)
	l.govern()
	if l.state.Plan == nil || l.fits(ctx) {
		return nil
	}
	// The policy under which the release came is not known, and that of what git asks for now does not fit it. Mostly that is
	// because it names another workload, and the release has but one.
	plan := *l.state.Plan
	plan.Target = environments.Target{}
	for _, stable := range []*rollout.Plan{l.state.StablePlan, nil} {
		if l.state.Plan, l.state.StablePlan = &plan, stable; l.fits(ctx) {
			return nil
		}
	}
	// Then nobody knows what a canary of it was; whatever it is, it goes.
	if !found.Stable.IsZero() {
		found.Target = rollout.Release{}
	}
	l.state, l.recovered = rollout.Recover(found, known)
	if l.govern(); found.Plan != nil && l.fits(ctx) {
		return nil
	}
	found.Plan = nil
	l.state, l.recovered = rollout.Recover(found, l.known())
	plan.Strategy = environments.StrategyRolling
	l.state.Plan = &plan
	return nil
}

// remember finds the plan of a release whose state was lost: that of the commit which asked for it. Where git does not tell, it stays
// unknown, and what git asks for now has to do; one that is still to be read is waited for.
func (l *look) remember(ctx context.Context, r rollout.Release) (*rollout.Plan, error) {
	if r.IsZero() || l.Removed || l.Desired != nil && l.Desired.ID.Digest == r.Digest {
		return nil, nil // it is not needed, or known
	}
	past, err := l.History.Again(ctx, l.app.Name, r)
	switch {
	case errors.Is(err, ErrOrdered):
		return nil, fmt.Errorf("reading the policy of release %s of %s, whose state is lost: %w", r.Version, l.app.Name, err)
	case err != nil:
		l.Log.Warn("the policy of what serves is not known: that of what git asks for now is taken for it", "app", l.app.Name, "release", r.Version,
			"error", l.mask.Error(err))
		return nil, nil
	default:
		return &past.Plan, nil
	}
}

// takesOver reports whether what serves is another tool's yet. What is saved next is acted upon, whatever is refused of what git
// asks for, so that before it is saved all of it has to be left to the app.
func (l *look) takesOver() bool {
	return len(l.recovered) == 0 && l.Saved.State.Stable.IsZero() && !l.state.Stable.IsZero()
}

// known is what a recovery takes of an observation.
func (l *look) known() rollout.Observation {
	o := rollout.Observation{Now: l.Now(), Removed: l.Removed, Recorded: l.Recorded, Ahead: l.Ahead}
	if l.Desired != nil {
		o.Plan = l.Desired.Plan
	}
	return o
}

// fits reports whether the policy fits the releases, as far as they can be read.
func (l *look) fits(ctx context.Context) bool {
	_, err := l.project(ctx, l.state)
	var unfit *unfitError
	return !errors.As(err, &unfit)
}

// govern gives the state the policy that its projection follows.
func (l *look) govern() {
	if l.Desired != nil {
		l.state = l.state.Governed(l.Desired.ID, l.Desired.Plan)
	}
}

// recover saves what was recovered before anything new may begin. What follows from it is for the next look.
func (l *look) recover(ctx context.Context, dec Decision) (Decision, error) {
	before, err := l.project(ctx, l.state)
	if err != nil {
		return l.unfinished(dec, err)
	}
	if err := l.save(ctx, &dec, l.state, before); err != nil {
		return l.unfinished(dec, err)
	}
	dec.Events, dec.act, dec.Blind = l.recovered, true, false
	return dec, nil
}

// look compares the cluster with the projection of the saved state.
func (l *look) look(ctx context.Context, dec *Decision) (project.Desired, error) {
	before, err := l.project(ctx, l.state)
	if err != nil {
		if l.Removed {
			// What is to go needs no projection, and must not wait for one.
			return before, nil
		}
		return before, err
	}
	seen, err := l.Objects.Observe(ctx, l.app, before)
	if err != nil {
		return before, fmt.Errorf("observing %s: %w", l.app.Name, err)
	}
	seen.Pending = l.mask.Text(seen.Pending)
	seen.Stable.Message, seen.Canary.Message = l.mask.Text(seen.Stable.Message), l.mask.Text(seen.Canary.Message)
	l.Log.Debug("observed", "app", l.app.Name, "phase", l.state.Phase, "weight", l.state.Weight, "applied", seen.Applied,
		"pending", seen.Pending, "stable", seen.Stable.Message, "canary", seen.Canary.Message)
	dec.Seen, dec.Blind = seen, false
	return before, nil
}

// over reports whether nothing is left of an app that git does not list, not even a word to git.
func over(s rollout.State) bool {
	return s.Phase == rollout.Idle && s.Stable.IsZero() && len(s.Outbox) == 0
}

// forget ends an app that git no longer lists, whose objects are gone, and whose last word is in the audit log. One that
// was never saved has nothing to forget.
func (l *look) forget(ctx context.Context, dec Decision) (Decision, error) {
	if saved := l.Saved.State; saved.LastSeq > 0 || !saved.Stable.IsZero() {
		if err := l.States.DeleteState(ctx, l.Saved); err != nil {
			return l.unfinished(dec, fmt.Errorf("forgetting %s: %w", l.app.Name, err))
		}
	}
	dec.Saved, dec.Gone, dec.Fault = Saved{App: l.app}, true, nil
	return dec, nil
}

// save saves a state that has changed, and with it what it brings in the inventory.
func (l *look) save(ctx context.Context, dec *Decision, next rollout.State, before project.Desired) error {
	dec.projection = before
	if onlyNoted(l.Saved.State, next) {
		dec.Saved.State = next
		return nil
	}
	if dec.Moved = !sameState(l.Saved.State, acknowledged(l.Saved.State, next)); !dec.Moved {
		return nil
	}
	dec.projection, dec.unprojected = l.project(ctx, next)
	if old := l.state; dec.unprojected == nil && (next.Phase != old.Phase || next.Target.Digest != old.Target.Digest) {
		l.States.Intend(l.app, dec.projection) // saves Apply a request
	}
	saved, err := l.States.SaveState(ctx, Saved{App: l.app, State: next})
	if err != nil {
		dec.Moved, dec.Unsure = false, !errors.Is(err, ErrConflict) && !Refused(err)
		return fmt.Errorf("saving the state of %s: %w", l.app.Name, err)
	}
	dec.Saved = saved
	return nil
}

// onlyNoted reports whether next has nothing new but that the cluster was seen to hold what was decided. That is kept in memory
// and saved with what comes next: an agent that dies before sees it again, and the step is a little longer by that.
func onlyNoted(saved, next rollout.State) bool {
	if !saved.StepSince.IsZero() || next.StepSince.IsZero() {
		return false
	}
	next.StepSince = time.Time{}
	return sameState(saved, acknowledged(saved, next))
}

// acknowledged is next with the outbox that is saved, where next has only lost events that git holds by now and there is more
// to come: what git was told is not worth a write of its own. Whoever reads the saved outbox again knows it by its numbers.
func acknowledged(saved, next rollout.State) rollout.State {
	if next.InFlight() && next.LastSeq == saved.LastSeq && len(next.Outbox) < len(saved.Outbox) {
		next.Outbox = saved.Outbox
	}
	return next
}

// sameState compares states as they are saved.
func sameState(x, y rollout.State) bool {
	bx, errX := json.Marshal(x)
	by, errY := json.Marshal(y)
	return errX == nil && errY == nil && string(bx) == string(by)
}

// project computes what the cluster should hold in the given state.
func (l *look) project(ctx context.Context, s rollout.State) (project.Desired, error) {
	if stable, canary := s.Tracks(); stable.IsZero() && canary.IsZero() {
		return project.Desired{}, nil // so that nothing has to be known of what is to go
	}
	stable, err := l.objects(ctx, s.Stable)
	if err != nil {
		return project.Desired{}, err
	}
	target, err := l.objects(ctx, s.Target)
	if err != nil {
		return project.Desired{}, err
	}
	d, err := project.Project(project.Input{
		App: l.app.Name, Namespace: l.app.Namespace, Stable: stable, Target: target, Plan: *s.Plan, State: s,
	})
	if err != nil {
		return d, &unfitError{err}
	}
	return d, nil
}

// objects of a release: as rendered when it is the one that git asks for, else as its Helm record holds them, so that git
// and the chart repository may be away.
func (l *look) objects(ctx context.Context, r rollout.Release) ([]*unstructured.Unstructured, error) {
	switch d := l.Desired; {
	case r.IsZero():
		return nil, nil
	case d != nil && d.ID.Digest == r.Digest && (r.Revision == 0 || len(d.Release.Volatile) == 0):
		// A release with random passwords in it is read from its record once it has one: rendered again, by an agent
		// that was restarted, they would be others.
		return d.Release.Objects, nil
	}
	objs, err := l.Records.ReleaseObjects(ctx, l.app, r.Revision)
	if errors.Is(err, ErrReleaseLost) {
		lost := err
		var past Past
		if past, err = l.History.Again(ctx, l.app.Name, r); err != nil && !errors.Is(err, ErrOrdered) {
			err = errors.Join(lost, err)
		}
		objs = past.Objects
	}
	if err != nil {
		return nil, fmt.Errorf("reading release %s (revision %d) of %s: %w", r.Version, r.Revision, l.app.Name, err)
	}
	if !slices.Contains(l.masked, r.Revision) {
		l.masked = append(l.masked, r.Revision)
		l.mask = l.mask.With(mask.Source{
			Settings: true, Objects: objs, Names: []string{l.app.Name, l.app.ReleaseName, l.app.Namespace, r.Version},
		})
	}
	return objs, nil
}
