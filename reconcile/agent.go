package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
	"github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

// Cluster is where an environment is delivered to; *cluster.Client implements all of it but Apply.
type Cluster interface {
	delivery.Objects
	delivery.States
	delivery.Records
	// LoadStates returns the state of every app by its name; broken says by the app's name which can't be read.
	LoadStates(ctx context.Context) (states map[string]delivery.Saved, broken map[string]error, err error)
	// Direct is the command that somebody has left beside an app's state, in the form of a commit's message, and its name; empty:
	// there is none. News of it are a change of the app.
	Direct(app string) (id, text string)
	// OnChange names the function that is told which app needs a look. It is called before LoadStates.
	OnChange(func(app string))
	// OnPrune names the function that is asked before an object is deleted that an app no longer wants and users may depend
	// on. It says why the object stays, and whether only for now. It is called before LoadStates.
	OnPrune(func(app string, k objects.Key) (why string, wait bool))
}

// Renderer turns what a commit asks of an app into a release and its policy; *charts.Charts implements it.
type Renderer interface {
	Release(ctx context.Context, c source.Commit, app *environments.App) (*release.Release, environments.Policy, error)
}

// Git is the environment repository; *Repository implements it.
type Git interface {
	// Open comes before everything else. It fails only where nothing could ever work.
	Open(ctx context.Context) error
	// Follow hands over the branch's newest commit whenever it has moved, until ctx is done. The error says why the
	// environment can't be read there; Env is nil then. asked is told of which app, or of audit.AllApps, people have asked
	// something new, edited that somebody else has written to the status branch.
	Follow(ctx context.Context, read func(source.Commit, error), asked func(app string), edited func()) error
	// Commands are what people have asked of an app after the command that its state names as the last, oldest first. It must
	// not block.
	Commands(app string, s rollout.State) []rollout.Command
	// Close ends what Open began.
	Close() error
	// Nudge makes Follow look now.
	Nudge()
	// At is the environment at a commit of the branch's history.
	At(commit string) (source.Commit, error)
	// Cause is the commit that asked for what tip says of an app, looked for as far back as stop.
	Cause(ctx context.Context, app, tip, stop string) (string, error)
	// Rewritten doubts a commit that does not descend from the one that was delivered last, or of which nobody can tell; last
	// empty: that which an agent before this one has delivered.
	Rewritten(tip, last string) error
	// Foreign says that the status branch is another cluster's; nil: it is not.
	Foreign() error
	// Accepted says who has accepted a commit in spite of a fault that waits for a person, and why; empty: nobody has.
	Accepted(commit string) string
	// Asker is who has asked for an app's release by a commit of the branch's history, as "Ann <ann@example.com>", and what the commit
	// takes back where it is a rollback commit of another cluster.
	Asker(app, commit string) (by string, takes *rollout.TakenBack, err error)
	// Revert writes a rollback commit, or says why there is none. An error means: try again.
	Revert(ctx context.Context, mode environments.WriteBackMode, app string, r rollout.Revert) (rollout.Reverted, error)
	// Record writes to the status branch. A *audit.ForeignError says that it is another cluster's.
	Record(ctx context.Context, b audit.Batch) (audit.Recorded, error)
}

// Config is one environment to deliver.
type Config struct {
	// Environment's name, for the log.
	Environment string
	// Workers is the number of apps that are looked at at once, which mostly is to wait for the API server; default 6. Twice as
	// many more look at rollouts under way alone: what begins, which takes ten requests, must leave the server time for what is
	// due.
	Workers int
	// Gates are an app's, besides those of the clock, for the release that it would begin with, where it is not one to go back to; zero:
	// it would begin with none. nil: there are none. It must not block. Whoever has news for an app calls Asked.
	Gates func(app string, waves environments.Waves, wanted rollout.Release) []rollout.Gate
	// Upstream is why the agent may not take versions from where an environment says; nil: it may. Whoever takes them tells
	// UpstreamFault what else there is.
	Upstream func(env *environments.Environment) error
	// Hooks asks the webhooks of policies; nil: none is ever answered. Whoever has an answer calls Asked.
	Hooks delivery.Hooks
	// AnyQuery: queries of policies may ask for other namespaces than their app's.
	AnyQuery bool
	// OnEvent is told each event after it was saved, in order for each app; nil for nobody. It must not block.
	OnEvent func(app string, e rollout.Event)
	// Clock that everything goes by; default the real one.
	Clock Clock
	// Pulse is told what is done; default one of its own.
	Pulse *Pulse
	Log   *slog.Logger
}

// Agent delivers one environment. Make it with New and call Run once.
type Agent struct {
	cfg      Config
	git      Git
	cluster  Cluster
	renderer Renderer
	delivery *delivery.Delivery
	log      *slog.Logger
	now      func() time.Time
	pulse    *Pulse

	// queue are the apps to look at, renders those to render for: what was never tried is urgent there.
	queue, renders *queue
	// outbox and owed have room for one: somebody has events or faults for the status branch, or a rollback commit for the
	// environment branch. Each has a writer of its own, so that neither branch holds up the other.
	outbox, owed chan struct{}

	mu sync.Mutex
	// source is the newest readable commit; envFault why the newest commit is not readable.
	source   source.Commit
	envFault error
	// refused is the newest commit, where only a person can accept it; nil: it is not. accepted says who did.
	refused  *source.Commit
	accepted string
	// frozen is why nothing may begin or get on; nil: it may.
	frozen *string
	// releaseNames counts the apps of the environment by release name.
	releaseNames map[string]int
	apps         map[string]*app
	// wants is what the apps would have; nil: nobody has asked.
	wants *wants
	// recordedEnvFault is the fault of the environment that the status branch tells of; nil while that is not known.
	recordedEnvFault *string
	// upstream is why no version can come from upstream by what git says, and by what came of asking there; the latter is nil before.
	upstream struct {
		refused string
		fault   *string
	}
	// recordedUpstream is what the status branch tells of that; nil while that is not known.
	recordedUpstream *string
	// nextWord is when the agent looks next whether its status branch has been silent for too long; zero: it has not looked yet.
	nextWord time.Time
	// edited: somebody else has written to the status branch, and all of it is to be looked at.
	edited bool
	// unsynced are the apps that Run has not looked at yet; nil before the first look at the branch.
	unsynced map[string]bool
}

// app is what the agent holds of one app. The worker that has the app writes saved; everything else is
// written under the Agent's mutex.
type app struct {
	name string
	// input is what the environment says; nil while git has not been read, or does not list the app.
	input   *environments.App
	removed bool
	// rendered is what came of rendering input, or the input before; nil: nothing yet. tries are those in a row that brought
	// nothing.
	rendered *rendering
	tries    int
	// all is the digest of all apps of the newest commit; nil while git has not been read.
	all func() string
	// past are releases of the state whose Helm records are gone, by digest.
	past map[string]past
	// fault is why what git asks for can't be delivered.
	fault error
	// saved is the state as the cluster holds it. While it is broken, which is when it can't be read, nothing may be done
	// to the app.
	saved  delivery.Saved
	broken bool
	// unsure: the cluster may hold a newer state, for the answer to a write was lost.
	unsure bool
	// recorded is the newest event that the status branch holds; recordedFault the fault text there, nil while that is
	// not known.
	recorded int64
	// ahead is the number that the status branch has of an earlier incarnation of the app, until the events are numbered on
	// after it.
	ahead         int64
	recordedFault *string
	// flapping holds down a fault that keeps changing.
	flapping flapping
	// reverted is the answer to saved.State.Revert, until Next has taken it.
	reverted *rollout.Reverted
	// since is when the cluster last came back for this app, or Run began; zero: it was never away.
	since time.Time
	// corrections of what others did to the app's objects.
	corrections corrections
	failures    int
	// unfinished: the last decision was not acted upon to its end, or an agent before this one may have died in it.
	unfinished bool
	// gone: git does not list the app and nothing of it is left but, perhaps, a fault on the status branch.
	gone bool
}

// New prepares an agent; nothing is asked of anybody until Run.
func New(cfg Config, g Git, c Cluster, r Renderer, m delivery.Metrics) *Agent {
	if cfg.Clock == nil {
		cfg.Clock = realClock{}
	}
	if cfg.Workers == 0 {
		cfg.Workers = 6
	}
	if cfg.Pulse == nil {
		cfg.Pulse = NewPulse(cfg.Clock.Now)
	}
	a := &Agent{
		cfg: cfg, pulse: cfg.Pulse, git: g, cluster: c, renderer: r,
		log: cfg.Log.With("environment", cfg.Environment), now: cfg.Clock.Now,
		queue: newQueue(cfg.Clock.AfterFunc), renders: newQueue(cfg.Clock.AfterFunc),
		outbox: make(chan struct{}, 1), owed: make(chan struct{}, 1), apps: map[string]*app{},
	}
	a.delivery = &delivery.Delivery{Objects: c, States: c, Records: c, Metrics: m, History: a, Hooks: cfg.Hooks, AnyQuery: cfg.AnyQuery, Now: a.now, Log: a.log}
	return a
}

// renderers is the number of apps that are rendered at once, which takes processors and memory. One more is kept free for what
// was never rendered.
const renderers = 4

// Run delivers until ctx is done. It returns an error only when it could not begin: a cluster or a data
// directory that can't be used. Everything that can come back is waited for.
func (a *Agent) Run(ctx context.Context) error {
	defer a.git.Close() //nolint:errcheck // what it keeps is a cache
	if err := a.Start(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	defer a.queue.Stop()
	defer a.renders.Stop()
	g.Go(func() error { return a.git.Follow(ctx, a.Read, a.Asked, a.Edited) })
	g.Go(func() error { return a.write(ctx, a.outbox, a.Record, a.nextRecord) })
	g.Go(func() error { return a.write(ctx, a.owed, a.Revert, nil) })
	for range a.cfg.Workers {
		g.Go(func() error { serve(ctx, a.queue.Get, a.turn); return nil })
		g.Go(func() error { serve(ctx, a.queue.GetUrgent, a.turn); return nil })
		g.Go(func() error { serve(ctx, a.queue.GetUrgent, a.turn); return nil })
	}
	for range min(renderers, a.cfg.Workers) {
		g.Go(func() error { serve(ctx, a.renders.Get, a.render); return nil })
	}
	g.Go(func() error { serve(ctx, a.renders.GetUrgent, a.render); return nil })
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Synced reports whether the branch has been read, and every app rendered and looked at once since Run began.
func (a *Agent) Synced() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unsynced != nil && len(a.unsynced) == 0
}

// Settled reports whether nothing is under way or due, and git holds every word of it.
func (a *Agent) Settled() bool {
	if !a.Synced() || !a.queue.Idle() || !a.renders.Idle() {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ap := range a.apps {
		if s := ap.saved.State; s.InFlight() || s.Revert != nil || len(s.Outbox) > 0 || len(s.Untold) > 0 || ap.awaited() {
			return false
		}
	}
	return true
}

// awaited reports whether what git asks of the app is still to be rendered. Of one whose state is broken nobody can say what
// for.
func (ap *app) awaited() bool {
	return !ap.removed && !ap.broken && ap.input != nil && !ap.answered(ap.input)
}

// Nudge makes the agent look at the branch now, as a webhook would. Before Run it does nothing.
func (a *Agent) Nudge() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unsynced != nil {
		a.git.Nudge()
	}
}

// Asked makes the agent look at an app, or at audit.AllApps, soon: somebody has asked something of it, or one of its gates has
// changed.
func (a *Agent) Asked(app string) {
	if app != audit.AllApps {
		a.queue.Urge(app)
		return
	}
	a.mu.Lock()
	all, refused := slices.Collect(maps.Keys(a.apps)), a.refused != nil
	a.mu.Unlock()
	if refused {
		a.readAgain()
	}
	for _, name := range all {
		a.changed(name)
	}
}

// Start opens the repository and loads what earlier runs saved.
//
// Run is made of steps: Start, and then Read, Render, Look, Revert and Record over and over again. A simulation takes them
// itself, one at a time, and gets the same loop without its goroutines.
func (a *Agent) Start(ctx context.Context) error {
	if err := a.git.Open(ctx); err != nil {
		return err
	}
	a.cluster.OnChange(a.changed)
	a.cluster.OnPrune(a.stays)
	states, broken, err := a.cluster.LoadStates(ctx)
	if err != nil {
		return fmt.Errorf("loading the saved states of %s: %w", a.cfg.Environment, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, saved := range states {
		ap := &app{name: name, saved: saved, since: a.now()}
		a.apps[name] = ap
		if saved.State.InFlight() || len(saved.State.Outbox) > 0 || saved.State.Revert != nil {
			ap.unfinished = true
			a.queue.Urge(name)
			a.tellGit()
		}
		if len(saved.State.Untold) > 0 {
			a.queue.Add(name)
		}
	}
	for name, err := range broken {
		a.log.Error("state can't be read", "app", name, "error", err)
		a.apps[name] = &app{name: name, broken: true, since: a.now()}
		a.queue.Add(name)
	}
	return nil
}

// changed has an app looked at that the cluster has news of.
func (a *Agent) changed(name string) {
	a.mu.Lock()
	ap := a.apps[name]
	underWay := ap != nil && ap.saved.State.InFlight()
	a.mu.Unlock()
	if underWay {
		a.queue.Urge(name)
	} else {
		a.queue.Add(name)
	}
}

// retryInFlight is how long a rollout under way waits at most for another try of a pass that failed.
const retryInFlight = 5 * time.Second

// Look makes a pass over the app whose turn it is, as a worker of Run does, and reports whether there was one.
func (a *Agent) Look(ctx context.Context) bool { return a.queue.one(ctx, a.turn) }

// turn makes a pass over an app and says when the next one is due. A failed pass is retried with backoff, but no later than
// the time that the pass itself asked for: an object that can't be applied must not delay the checks of a running rollout.
func (a *Agent) turn(ctx context.Context, name string) {
	// The timer is set before another worker may have the app, or it could override that one's.
	defer a.queue.Done(name)
	defer a.pulse.begin("looking at " + name)()
	var again time.Time
	err := a.guarded(ctx, name, passTimeout, func(ctx context.Context) (err error) {
		again, err = a.pass(ctx, name)
		return err
	})
	a.seen(name)
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, delivery.ErrConflict) {
		err = errors.Join(err, a.reload(ctx, name))
	}
	if err == nil {
		a.settle(name)
		if !again.IsZero() {
			a.queue.DueAfter(name, again.Sub(a.now()))
		}
		return
	}
	d, failures := a.failed(name)
	a.log.Warn("reconcile failed, will retry", "app", name, "error", err, "failures", failures, "retryIn", d)
	a.queue.AddAfter(name, d)
	if in := again.Sub(a.now()); !again.IsZero() && in < d {
		a.queue.DueAfter(name, in)
	}
}

// guarded does something for an app that neither hangs for ever nor takes the other apps down with it.
func (a *Agent) guarded(ctx context.Context, name string, limit time.Duration, do func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			// Only the runtime's own words are sure to quote no value.
			what := fmt.Sprintf("%T", p)
			if e, ok := p.(runtime.Error); ok {
				what = e.Error()
			}
			a.log.Error("broke down", "app", name, "panic", what, "stack", string(debug.Stack()))
			err = fmt.Errorf("looking at %s: Sluice itself failed, its log says where: %s", name, what)
			a.report(name, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// reload takes over the state as it is in the cluster after somebody else has written it. Where it was deleted, what
// the agent remembers stays, and is written again.
func (a *Agent) reload(ctx context.Context, name string) error {
	w, ok := a.begin(name)
	if !ok {
		return nil
	}
	return a.load(ctx, w.facts.Saved.App)
}

// load reads an app's state anew.
func (a *Agent) load(ctx context.Context, which delivery.App) error {
	saved, found, err := a.cluster.LoadState(ctx, which)
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[which.Name]
	switch {
	case ap == nil:
	case errors.Is(err, delivery.ErrBrokenState):
		ap.broken = true
	case err == nil:
		if ap.broken {
			a.renders.Urge(which.Name) // nobody could say what for
		}
		ap.broken, ap.unsure = false, false
		if found {
			ap.saved = saved
		}
	}
	return err
}

// mend reads a state again that could not be read, or of which it is not known whether it was saved. Until it can, or is deleted, nobody knows what the app was in the
// middle of.
func (a *Agent) mend(ctx context.Context, name string) error {
	a.mu.Lock()
	ap := a.apps[name]
	broken, unsure := ap != nil && ap.broken, ap != nil && ap.unsure
	app := delivery.App{Name: name}
	if unsure {
		app = ap.saved.App
	}
	a.mu.Unlock()
	if !broken && !unsure {
		return nil
	}
	return a.load(ctx, app)
}

// failed counts a pass that failed, and says when to try again: as backoff does, but no later than retryInFlight while a
// rollout is under way.
func (a *Agent) failed(name string) (again time.Duration, failures int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[name]
	if ap == nil {
		return time.Second, 1
	}
	again = backoff(ap.failures)
	ap.failures++
	if ap.saved.State.InFlight() {
		again = min(again, retryInFlight)
	}
	return again, ap.failures
}

// backoff doubles from a quarter of a second to half a minute.
func backoff(failures int) time.Duration {
	return min(250*time.Millisecond<<min(failures, 7), 30*time.Second)
}

// seen notes that an app was looked at. As long as nobody knows what git asks for, that does not count.
func (a *Agent) seen(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ap := a.apps[name]; a.unsynced[name] && (ap == nil || !ap.awaited()) {
		delete(a.unsynced, name)
		// Now its fault is known, if it has one; the status branch may tell of another.
		a.tellGit()
	}
}

func (a *Agent) settle(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ap := a.apps[name]; ap != nil {
		ap.failures = 0
	}
}
