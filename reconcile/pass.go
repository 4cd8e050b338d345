package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// inFlightPoll is how long a rollout goes without being looked at when nothing else calls for a look. Watches
// bring the news; this bounds the harm of one that was missed.
const inFlightPoll = 5 * time.Second

// slowPoll is the same for what has been under way for long and brings no news.
const slowPoll = 30 * time.Second

// passPatience is how long one pass may take: no server is waited for any longer.
const passPatience = 5 * time.Minute

// pass looks at one app once: observe, decide, save, apply. It returns when to look again, the zero time for
// when something changes.
func (a *Agent) pass(ctx context.Context, name string) (again time.Time, err error) {
	if err := a.mend(ctx, name); err != nil {
		return time.Time{}, a.blameRefusal(name, err)
	}
	w, ok := a.begin(name)
	if !ok {
		return time.Time{}, nil
	}
	loaded := w.saved.State
	asked, fault := a.refresh(ctx, &w)
	if errors.Is(fault, ErrSwitchedOff) {
		w.removed, fault = true, nil
	}
	if err := a.adopt(ctx, &w); err != nil {
		return time.Time{}, a.blameRefusal(name, err)
	}
	state := w.saved.State
	if w.removed && state.Phase == rollout.Idle && state.Stable.IsZero() && len(state.Outbox) == 0 {
		return time.Time{}, a.forget(ctx, &w)
	}
	if asked.release != nil && state.Stable.Digest == asked.id.Digest && state.Stable.Commit == "" {
		// What was adopted is what git says: now it is known since when.
		state.Stable.Commit = asked.id.Commit
	}
	if state.Policy = policyOf(state, asked); state.Policy == nil {
		// Nothing is known of this app yet but its fault.
		return time.Time{}, a.blame(name, fault)
	}
	before, err := a.project(ctx, &w, asked, state)
	if err != nil {
		return time.Time{}, a.blame(name, err)
	}
	seen, err := a.cluster.Observe(ctx, w.app, before)
	if err != nil {
		a.lostSight(name)
		return time.Time{}, a.blameRefusal(name, fmt.Errorf("observing %s: %w", name, err))
	}
	a.log.Debug("observed", "app", name, "phase", state.Phase, "weight", state.Weight, "applied", seen.Applied,
		"pending", seen.Pending, "stable", seen.Stable.Message, "canary", seen.Canary.Message)
	o, err := a.observation(ctx, &w, asked, state, before, seen)
	if err != nil {
		return time.Time{}, err
	}
	next, events := rollout.Next(state, o)
	if begins(state, next) {
		var unfit error
		if o, unfit, err = a.consider(ctx, &w, asked, next.Stable, o, *state.Policy); err != nil {
			return time.Time{}, err
		}
		if fault == nil {
			fault = unfit
		}
		next, events = rollout.Next(state, o)
	}
	next.Policy = policyOf(next, asked)
	moved := !sameState(loaded, next)
	var unprojected error
	d := before
	if moved {
		if d, unprojected, err = a.save(ctx, &w, asked, &next); err != nil {
			return time.Time{}, a.blameRefusal(name, err)
		}
		a.announce(name, events)
	}
	again = lookAgain(next, o, a.now())
	// Without a policy there is nothing to project: the app has just been removed.
	if next.Policy != nil && (moved || !seen.Applied && a.mayCorrect(name)) {
		if unprojected != nil {
			return again, a.blame(name, unprojected)
		}
		changes, err := a.apply(ctx, &w, next, d)
		if err != nil {
			return again, a.blame(name, err)
		}
		if !moved && changes > 0 {
			a.corrected(name)
		}
	}
	if moved {
		a.queue.Urge(name)
	}
	if fault == nil {
		if until, fight := a.fight(name, seen); fight != nil {
			// It does not keep the pass from being finished, so it is told and not returned.
			_ = a.blame(name, fight)
			return earliest(again, until), nil
		}
	}
	return again, a.blame(name, fault)
}

// begins reports whether a decision begins a rollout, or gives one another release to bring.
func begins(before, after rollout.State) bool {
	return !after.Stable.IsZero() && !after.Target.IsZero() && after.Target.Digest != before.Target.Digest
}

// consider looks at a rollout that is about to begin. One that could not be carried through from what serves is not
// begun: the wish is a fault, and the course is held, for once it is saved there would be no way back out. Of one that
// can, people are told what would treat its canary otherwise than what serves.
func (a *Agent) consider(ctx context.Context, w *work, asked desired, serving rollout.Release, o rollout.Observation, held environments.Policy) (_ rollout.Observation, unfit, err error) {
	stable, err := a.objects(ctx, w, asked, serving)
	if err != nil {
		return o, nil, err
	}
	in := project.Input{App: w.name, Namespace: w.app.Namespace, Stable: stable, Target: asked.release.Objects, Policy: asked.policy}
	if unfit = project.Check(in); unfit != nil {
		o.Desired, o.FromStable, o.FromTarget, o.Policy = rollout.Release{}, rollout.ChangeNone, rollout.ChangeNone, held
		return o, fmt.Errorf("beginning a rollout to %s: %w", asked.id.Version, unfit), nil
	}
	if in.Policy.Strategy != environments.StrategyCanary {
		return o, nil, nil // no canary to be missed by anything
	}
	live, err := a.cluster.Outside(ctx, w.app.Namespace, project.WarningKinds())
	if err != nil {
		return o, nil, err
	}
	o.Warnings, err = project.Warnings(in, live)
	return o, nil, err
}

// work in hand: what a pass knows of its app. It is the pass's own copy.
type work struct {
	app     delivery.App
	name    string
	input   *environments.App
	source  Source
	removed bool
	asked   desired
	unmet   unmet
	saved   delivery.Saved
	// recorded and reverted are git's answers.
	recorded int64
	reverted *rollout.Reverted
	// since is since when the cluster has answered without a gap.
	since time.Time
}

// begin takes the app's present facts; ok is false for an app that is no more.
func (a *Agent) begin(name string) (work, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[name]
	if ap == nil {
		return work{}, false
	}
	w := work{
		name: name, input: ap.input, source: a.source, removed: ap.removed, asked: ap.asked, unmet: ap.unmet,
		saved: ap.saved, recorded: ap.recorded, reverted: ap.reverted, app: ap.saved.App, since: ap.since,
	}
	if in := ap.input; in != nil && w.app.Name == "" {
		w.app = delivery.App{Name: name, Namespace: in.Namespace, ReleaseName: a.helmName(in)}
	}
	if w.app.Name == "" && ap.removed {
		a.leave(ap)
	}
	// Before the first snapshot an app is known from its state alone; that is enough to keep its course.
	return w, w.app.Name != ""
}

// adopt takes over what Helm, Flux or jx deployed before Sluice came, as the stable release.
func (a *Agent) adopt(ctx context.Context, w *work) error {
	s := &w.saved.State
	if s.LastSeq > 0 || !s.Stable.IsZero() || s.Phase != rollout.Idle || w.removed {
		return nil
	}
	found, err := a.cluster.Adopt(ctx, w.app)
	if err != nil {
		return fmt.Errorf("looking for a release of %s that is there already: %w", w.name, err)
	}
	s.Stable = found.Stable
	return nil
}

// lostSight notes that the cluster did not answer for an app: its deadlines begin anew when it does.
func (a *Agent) lostSight(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ap := a.apps[name]; ap != nil {
		ap.since = a.now()
	}
}

// mayCorrect reports whether what others did is to be put right now, rather than later in a fight.
func (a *Agent) mayCorrect(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	ap, now := a.apps[name], a.now()
	return ap == nil || !ap.corrections.next(now).After(now)
}

func (a *Agent) corrected(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ap := a.apps[name]; ap != nil {
		ap.corrections.made(a.now())
	}
}

// fight says that somebody keeps changing the app's objects, and when to look again; nil: nobody does. The words stay
// for as long as the fight lasts, whoever has the upper hand.
func (a *Agent) fight(name string, seen delivery.Seen) (again time.Time, fault error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ap, now := a.apps[name], a.now()
	if ap == nil || !ap.corrections.fight(now) {
		return time.Time{}, nil
	}
	if seen.Applied {
		var known *fightError
		if errors.As(ap.fault, &known) {
			return ap.corrections.over(), known
		}
		return ap.corrections.over(), nil
	}
	again = ap.corrections.next(now)
	if !again.After(now) {
		again = ap.corrections.over()
	}
	return again, &fightError{app: name, what: seen.Pending}
}

// fightError says that somebody keeps changing an app's objects.
type fightError struct{ app, what string }

func (e *fightError) Error() string {
	return fmt.Sprintf("keeping %s as git says: it is changed again each time it is put right: %s", e.app, e.what)
}

// policyOf is the policy that the projection of a state follows: that of the release under way, at rest that of the
// one that serves. The saved one stays as long as git asks for something else, or can't be read. Nil: none is known.
func policyOf(s rollout.State, asked desired) *environments.Policy {
	follows := s.Stable
	if s.InFlight() {
		follows = s.Target
	}
	if asked.release != nil && (s.Policy == nil || follows.IsZero() || asked.id.Digest == follows.Digest) {
		p := asked.policy
		return &p
	}
	return s.Policy
}

// project computes what the cluster should hold in the given state.
func (a *Agent) project(ctx context.Context, w *work, asked desired, s rollout.State) (project.Desired, error) {
	stable, err := a.objects(ctx, w, asked, s.Stable)
	if err != nil {
		return project.Desired{}, err
	}
	target, err := a.objects(ctx, w, asked, s.Target)
	if err != nil {
		return project.Desired{}, err
	}
	return project.Project(project.Input{
		App: w.name, Namespace: w.app.Namespace, Stable: stable, Target: target, Policy: *s.Policy, State: s,
	})
}

// objects of a release: as rendered when it is the one that git asks for, else as its Helm record holds them,
// so that git and the chart repository may be away.
func (a *Agent) objects(ctx context.Context, w *work, asked desired, r rollout.Release) ([]*unstructured.Unstructured, error) {
	switch {
	case r.IsZero():
		return nil, nil
	case asked.release != nil && asked.id.Digest == r.Digest && (r.Revision == 0 || len(asked.release.Volatile) == 0):
		// A release with random passwords in it is read from its record once it has one: rendered again, by an agent
		// that was restarted, they would be others.
		return asked.release.Objects, nil
	}
	objs, err := a.cluster.ReleaseObjects(ctx, w.app, r.Revision)
	if errors.Is(err, delivery.ErrReleaseLost) {
		lost := err
		if objs, err = a.renderAgain(ctx, w.name, r); err != nil {
			err = errors.Join(lost, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading release %s (revision %d) of %s: %w", r.Version, r.Revision, w.name, err)
	}
	return objs, nil
}

// renderAgain renders a release whose Helm record is gone from the commit that asked for it.
func (a *Agent) renderAgain(ctx context.Context, name string, r rollout.Release) ([]*unstructured.Unstructured, error) {
	if r.Commit == "" {
		return nil, errors.New("no commit is known that asked for it")
	}
	src := Source{}
	var err error
	if src.Snapshot, err = a.repo.At(r.Commit); err != nil {
		return nil, fmt.Errorf("reading the commit that asked for it: %w", err)
	}
	if src.Env, err = a.loader.Load(src.FS(), a.cfg.Path); err != nil {
		return nil, fmt.Errorf("reading the commit that asked for it: %w", err)
	}
	for i := range src.Env.Apps {
		if src.Env.Apps[i].Name != name {
			continue
		}
		rel, _, err := a.charts.Release(ctx, src, &src.Env.Apps[i])
		if err != nil {
			return nil, err
		}
		if rel.Digest != r.Digest {
			return nil, fmt.Errorf("commit %s renders something else by now", r.Commit)
		}
		return rel.Objects, nil
	}
	return nil, fmt.Errorf("commit %s does not list %s", r.Commit, name)
}

// observation gathers what Next may know.
func (a *Agent) observation(ctx context.Context, w *work, asked desired, s rollout.State, d project.Desired, seen delivery.Seen) (rollout.Observation, error) {
	o := rollout.Observation{
		Now: a.now(), Removed: w.removed, Policy: *s.Policy, Recorded: w.recorded, Reverted: w.reverted,
		Applied: seen.Applied, Stable: seen.Stable, Canary: seen.Canary, WatchedSince: w.since,
	}
	if asked.release != nil && !w.removed {
		o.Desired, o.Policy = asked.id, asked.policy
		var err error
		if o.FromStable, err = a.change(ctx, w, asked, s.Stable); err != nil {
			return o, err
		}
		if o.FromTarget, err = a.change(ctx, w, asked, s.Target); err != nil {
			return o, err
		}
	}
	// A check waits for a cluster that is not as desired, as after a hand edit, but not for long: an object that can't be
	// applied must not keep a failing canary from being judged.
	due := o.Now
	if !seen.Applied {
		due = due.Add(-inFlightPoll)
	}
	if s.CheckDue(o.Policy, due) {
		v, err := a.judge(ctx, w, d, o.Policy)
		if err != nil {
			return o, err
		}
		// Next trusts no verdict from its future, so the clock is read again.
		o.Verdict, o.Now = &v, a.now()
	}
	return o, nil
}

// change is how far git's wish is from a release.
func (a *Agent) change(ctx context.Context, w *work, asked desired, r rollout.Release) (rollout.Change, error) {
	if r.IsZero() {
		return rollout.ChangePods, nil
	}
	if r.Digest == asked.id.Digest {
		return rollout.ChangeNone, nil
	}
	objs, err := a.objects(ctx, w, asked, r)
	if err != nil {
		return "", err
	}
	if c := project.Compare(objs, asked.release.Objects); c != rollout.ChangeNone {
		return c, nil
	}
	return rollout.ChangePlain, nil
}

// save numbers the releases that have no record yet, keeps their manifests, and saves the state, and with it what the
// state brings in the inventory. Nothing of it is acted upon before err is nil. It returns what the cluster should hold
// in that state; unprojected says why that is not known, which keeps a state from being applied and not from being saved.
func (a *Agent) save(ctx context.Context, w *work, asked desired, next *rollout.State) (d project.Desired, unprojected, err error) {
	if err := a.number(ctx, w, asked, next); err != nil {
		return d, nil, err
	}
	if next.Policy != nil {
		d, unprojected = a.project(ctx, w, asked, *next)
	}
	if old := w.saved.State; unprojected == nil && (next.Phase != old.Phase || next.Target.Digest != old.Target.Digest) {
		// It saves Apply a request. Apply makes the same plan, and tells what is wrong with it.
		a.cluster.Intend(w.app, d)
	}
	w.saved.App, w.saved.State = w.app, *next
	saved, err := a.cluster.SaveState(ctx, w.saved)
	if err != nil {
		return d, nil, fmt.Errorf("saving the state of %s: %w", w.name, err)
	}
	w.saved = saved
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[w.name]
	ap.saved = saved
	if next.Revert == nil {
		ap.reverted = nil
	}
	if len(next.Outbox) > 0 || next.Revert != nil {
		a.tellGit()
	}
	return d, unprojected, nil
}

// number gives the releases of a state that have no record yet one, with its number and stamp.
func (a *Agent) number(ctx context.Context, w *work, asked desired, next *rollout.State) error {
	for _, r := range []*rollout.Release{&next.Stable, &next.Target} {
		if r.IsZero() || r.Revision != 0 {
			continue
		}
		if asked.release == nil || asked.id.Digest != r.Digest {
			return fmt.Errorf("numbering release %s of %s: its manifests are not at hand", r.Version, w.name)
		}
		old := w.saved.State
		after := max(old.Stable.Revision, old.Target.Revision, next.Stable.Revision, next.Target.Revision)
		n, err := a.cluster.AddRelease(ctx, w.app, asked.release, after)
		if err != nil {
			return fmt.Errorf("keeping release %s of %s: %w", r.Version, w.name, err)
		}
		r.Revision = n
		if err := a.stamp(ctx, w, asked, r); err != nil {
			return err
		}
	}
	return nil
}

// stamp gives a new release the stamp that makes its pods known from those that serve.
func (a *Agent) stamp(ctx context.Context, w *work, asked desired, r *rollout.Release) error {
	serving := w.saved.State.Stable
	if serving.IsZero() {
		return nil
	}
	old, err := a.objects(ctx, w, asked, serving)
	if err != nil {
		return err
	}
	switch project.Compare(old, asked.release.Objects) {
	case rollout.ChangePods:
		r.Stamp = project.Stamp(old, asked.release.Objects)
	case rollout.ChangePlain, rollout.ChangeNone:
		r.Stamp = serving.Stamp // the pods stay
	}
	return nil
}

// apply makes the cluster hold what the saved state is projected to, and the Helm records say it too. It returns how
// many objects it changed.
func (a *Agent) apply(ctx context.Context, w *work, s rollout.State, d project.Desired) (changes int, err error) {
	done, err := a.cluster.Apply(ctx, w.app, s, d)
	if err != nil {
		return 0, fmt.Errorf("applying %s: %w", w.name, err)
	}
	if err := a.cluster.SettleReleases(ctx, w.app, s); err != nil {
		return 0, fmt.Errorf("recording the releases of %s: %w", w.name, err)
	}
	return len(done.Changes), nil
}

// lookAgain is when time alone could change the answer.
func lookAgain(s rollout.State, o rollout.Observation, now time.Time) time.Time {
	if !s.InFlight() {
		return time.Time{}
	}
	wait := inFlightPoll
	if s.Phase == rollout.Installing || s.Phase == rollout.Updating || s.Phase == rollout.Removing {
		// There is no canary to watch over, and there may be a thousand of these at once.
		wait = min(max(now.Sub(s.Since)/8, inFlightPoll), slowPoll)
	}
	poll := now.Add(wait)
	// A check that is due and was not asked waits for the cluster, not for time.
	if due := s.Due(o); due.After(o.Now) && due.Before(poll) {
		return due
	}
	return poll
}

// earliest of two times; the zero time is never.
func earliest(x, y time.Time) time.Time {
	if x.IsZero() || !y.IsZero() && y.Before(x) {
		return y
	}
	return x
}

// blameRefusal is blame for what a person has to put right; a cluster that is away is waited for in silence.
func (a *Agent) blameRefusal(name string, err error) error {
	if delivery.Refused(err) {
		return a.blame(name, err)
	}
	return err
}

// blame keeps why an app can't be delivered, for the status branch, and returns it.
func (a *Agent) blame(name string, fault error) error {
	if errors.Is(fault, context.Canceled) || errors.Is(fault, delivery.ErrConflict) {
		return fault
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if ap := a.apps[name]; ap != nil {
		was := ap.fault
		ap.fault = fault
		if text(was) != text(fault) {
			a.tellGit()
		}
	}
	return fault
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// announce hands events to whoever listens.
func (a *Agent) announce(name string, events []rollout.Event) {
	for _, e := range events {
		a.log.Info("event", "app", name, "seq", e.Seq, "type", e.Type, "from", e.From.Version, "to", e.To.Version,
			"weight", e.Weight, "reason", e.Reason)
		if a.cfg.OnEvent != nil {
			a.cfg.OnEvent(name, e)
		}
	}
}

// forget ends an app that git no longer lists, whose objects are gone, and whose last word is in the audit log.
func (a *Agent) forget(ctx context.Context, w *work) error {
	if err := a.cluster.DeleteState(ctx, w.saved); err != nil {
		return fmt.Errorf("forgetting %s: %w", w.name, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if ap := a.apps[w.name]; ap != nil {
		ap.saved = delivery.Saved{}
		if ap.removed {
			a.leave(ap)
		}
	}
	return nil
}

// leave lets an app go once the status branch has heard of it. The mutex is held.
func (a *Agent) leave(ap *app) {
	ap.gone, ap.fault = true, nil
	a.tellGit()
}

// sameState compares states as they are saved.
func sameState(x, y rollout.State) bool {
	bx, errX := json.Marshal(x)
	by, errY := json.Marshal(y)
	return errX == nil && errY == nil && string(bx) == string(by)
}
