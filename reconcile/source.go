package reconcile

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
)

const (
	// firstTry is how long a worker waits for a release the first time; each further try is given twice as long, up to
	// longestTry. What takes longer goes on meanwhile, and the next try finds what it brought: so a chart host that hangs
	// holds up nobody but the apps that need it.
	firstTry   = time.Second
	longestTry = 5 * time.Minute
)

// rendering is what came of rendering what a commit asks of an app.
type rendering struct {
	// input is the digest of what was rendered.
	input string
	// desired is nil where the app is off or has a fault.
	desired *delivery.Desired
	// off: the chart's own values switch the app off.
	off bool
	// fault is why it can't be rendered.
	fault error
	// all is the digest of all apps of the commit, where what was rendered has to do with what others have; else empty.
	all string
}

// answered reports whether it is known what git asks for: whether what was rendered is of what git says of the app now.
func (ap *app) answered(in *environments.App) bool {
	r := ap.rendered
	return r != nil && in != nil && r.input == in.Digest && (r.all == "" || ap.all == nil || r.all == ap.all())
}

// digestOfAll covers what a commit says of all of its apps.
func digestOfAll(env *environments.Environment) string {
	sum := sha256.New()
	for i := range env.Apps {
		sum.Write([]byte(env.Apps[i].Digest))
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// past is a release that somebody asked for once, and whose Helm record is gone.
type past struct {
	release rollout.Release
	// got and fault are what came of rendering it again; nil, both of them, until then.
	got   *delivery.Past
	fault error
}

// order is what a worker needs to render for an app. It is the worker's own copy.
type order struct {
	input  *environments.App
	commit source.Commit
	// state as it is saved.
	state rollout.State
	// past are the releases to render again.
	past []rollout.Release
	// tries are those before this one that brought nothing.
	tries int
}

// Render renders for the app whose turn it is, as a worker of Run does, and reports whether there was one.
func (a *Agent) Render(ctx context.Context) bool { return a.renders.one(ctx, a.render) }

// render renders what git asks of an app, and what it asked for before where the record of that is gone, and has the app
// looked at.
func (a *Agent) render(ctx context.Context, name string) {
	defer a.renders.Done(name)
	defer a.pulse.begin("rendering " + name)()
	o, ok := a.order(name)
	if !ok {
		return
	}
	var got rendering
	if o.input != nil {
		got = a.rendering(ctx, name, o)
	}
	var again []past
	for _, r := range o.past {
		again = append(again, a.renderAgain(ctx, name, r, patience(o.tries)))
	}
	if ctx.Err() == nil {
		a.rendered(name, o, got, again)
	}
}

// order takes what there is to render for an app; ok is false where there is nothing, or where nobody can say what the app
// is in the middle of.
func (a *Agent) order(name string) (o order, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[name]
	if ap == nil || ap.broken {
		return order{}, false
	}
	o = order{input: ap.input, commit: a.source, state: ap.saved.State, tries: ap.tries}
	for _, p := range ap.past {
		if p.got == nil && p.fault == nil {
			o.past = append(o.past, p.release)
		}
	}
	return o, o.input != nil || len(o.past) > 0
}

// rendered keeps what was rendered for an app, and has it looked at. What brought nothing is tried again, after all that was
// never tried.
func (a *Agent) rendered(name string, o order, got rendering, again []past) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[name]
	if ap == nil {
		return
	}
	defer a.newWants()
	ap.tries = 0
	if o.input != nil {
		if got.fault != nil {
			ap.tries = o.tries + 1
			pause := backoff(o.tries)
			a.log.Warn("not rendered", "app", name, "error", got.fault, "tries", ap.tries, "again", pause)
			a.renders.AddAfter(name, pause)
		}
		if !errors.Is(got.fault, errLate) {
			ap.rendered = &got
		}
	}
	for _, p := range again {
		if errors.Is(p.fault, errLate) && o.tries < mostLate {
			ap.tries = o.tries + 1
			a.renders.AddAfter(name, backoff(o.tries))
			continue
		}
		ap.past[p.release.Digest] = p
	}
	if ap.saved.State.InFlight() {
		a.queue.Urge(name)
	} else {
		a.queue.Add(name)
	}
}

// patience is how long a worker waits for a release that was tried before.
func patience(tries int) time.Duration { return min(firstTry<<min(tries, 20), longestTry) }

// mostLate is how often a release of the past may be late before that is the answer: somebody may have to do without it.
const mostLate = 4

// errLate: the worker waited no longer. It is no fault; what is late may still come.
var errLate = errors.New("it takes longer than the worker waits")

// rendering renders what git asks for.
func (a *Agent) rendering(ctx context.Context, name string, o order) rendering {
	got := rendering{input: o.input.Digest}
	got.fault = a.guarded(ctx, name, patience(o.tries), func(ctx context.Context) error {
		begun := a.now()
		rel, policy, err := a.renderer.Release(ctx, o.commit, o.input)
		a.pulse.count(func(c *PulseCounts, now time.Time) { c.Renders++; c.RenderTime += now.Sub(begun) })
		if err != nil {
			return late(ctx, err)
		}
		if rel.Shared {
			got.all = digestOfAll(o.commit.Env)
		}
		d := &delivery.Desired{Release: rel, Plan: rollout.NewPlan(policy)}
		d.ID = rollout.Release{Version: rel.Version, Digest: rel.Digest}
		if o.input.Image.Tag != "" {
			d.ID.Image = o.input.Asks()
		}
		if err := a.ask(ctx, name, o, d); err != nil {
			return late(ctx, err)
		}
		got.desired = d
		return nil
	})
	if errors.Is(got.fault, source.ErrSwitchedOff) {
		got.off, got.fault = true, nil
	}
	return got
}

// late tells the end of a worker's patience from an error that somebody has answered.
func late(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errLate
	}
	return err
}

// ask finds the commit that asked for a release, and what it says. A release that is serving keeps the commit it came with: a rollback
// commit only says again what was asked before.
func (a *Agent) ask(ctx context.Context, name string, o order, d *delivery.Desired) error {
	s := o.state
	known := []rollout.Release{s.Stable, s.Target}
	switch { // who asks for what is being taken back asks anew
	case s.Phase == rollout.RollingBack:
		known = known[:1]
	case s.Returning:
		known = known[1:]
	}
	for _, r := range known {
		if r.Digest != d.ID.Digest || r.Commit == "" {
			continue
		}
		d.ID.Commit, d.ID.By = r.Commit, r.By
		if r == s.Stable && s.InFlight() {
			// Git goes back in the middle of a rollout, which may be over before that is seen.
			_, _, d.TakenBack, _ = a.asked(ctx, name, o)
		}
		return nil
	}
	var err error
	d.ID.Commit, d.ID.By, d.TakenBack, err = a.asked(ctx, name, o)
	return err
}

// asked is the commit that asks for what git says of an app now, by whom, and what it takes back.
func (a *Agent) asked(ctx context.Context, name string, o order) (commit, by string, takes *rollout.TakenBack, err error) {
	stop := o.state.Stable.Commit
	if n := len(o.state.Rejected); n > 0 {
		stop = o.state.Rejected[n-1].Release.Commit
	}
	if commit, err = a.git.Cause(ctx, name, o.commit.Commit, stop); err != nil {
		return "", "", nil, err
	}
	by, takes, err = a.git.Asker(name, commit)
	return commit, by, takes, err
}

// Again is a release whose Helm record is gone, rendered from the commit that asked for it. What is not rendered yet is
// ordered, and the app is looked at when it is there. It implements delivery.History.
func (a *Agent) Again(_ context.Context, name string, r rollout.Release) (delivery.Past, error) {
	if r.Commit == "" {
		return delivery.Past{}, errors.New("no commit is known that asked for it")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[name]
	if ap == nil {
		return delivery.Past{}, errors.New("the app is no more")
	}
	p, ordered := ap.past[r.Digest]
	switch {
	case p.fault != nil:
		delete(ap.past, r.Digest) // whoever asks again has it tried again
		return delivery.Past{}, p.fault
	case p.got != nil:
		return *p.got, nil
	case !ordered:
		if ap.past == nil {
			ap.past = map[string]past{}
		}
		ap.past[r.Digest] = past{release: r}
		a.renders.Urge(name)
	}
	return delivery.Past{}, delivery.ErrOrdered
}

// renderAgain renders a release from the commit that asked for it.
func (a *Agent) renderAgain(ctx context.Context, name string, r rollout.Release, wait time.Duration) past {
	p := past{release: r}
	p.fault = a.guarded(ctx, name, wait, func(ctx context.Context) error {
		src, err := a.git.At(r.Commit)
		if err != nil {
			return fmt.Errorf("reading the commit that asked for it: %w", err)
		}
		for i := range src.Env.Apps {
			if src.Env.Apps[i].Name != name {
				continue
			}
			rel, policy, err := a.renderer.Release(ctx, src, &src.Env.Apps[i])
			if err != nil {
				return late(ctx, err)
			}
			if rel.Digest != r.Digest {
				return fmt.Errorf("commit %s renders something else by now", r.Commit)
			}
			p.got = &delivery.Past{Objects: rel.Objects, Plan: rollout.NewPlan(policy)}
			return nil
		}
		return fmt.Errorf("commit %s does not list %s", r.Commit, name)
	})
	return p
}
