package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
)

// gitPoll is how often the branch is looked at.
const gitPoll = 10 * time.Second

// process is one life of the agent: a real reconcile.Agent, whose every port is this world's. When it crashes none of its
// ports does anything any more, and it is dropped as soon as it returns.
type process struct {
	w     *world
	agent *reconcile.Agent
	dead  bool
	// timers are the calls that the agent has asked for.
	timers []*timer
	// news tells the agent that an app needs a look.
	news func(app string)
	// fetchAt is when the branch is looked at again, read the commit that was read last.
	fetchAt time.Time
	read    string
	// commands are what the command branch said when it was read last.
	commands reconcile.Commands
	// writers are the agent's, to its two branches.
	writers [2]writer
	// intended is announced for the inventory, and saved with the state.
	intended []string
	// asked are the questions of the webhooks, by slot.
	asked map[string]*inquiry
	// newsAt is when a cache that was behind hears of what it missed; zero: it is not behind.
	newsAt time.Time
	// looked is what the last look at the cluster saw, for reads from a cache that is behind; nil after a write.
	looked *look
	// whole: the pass under way has found everything as desired, or made it so, and nothing stood against it.
	// stale: it has looked into a cache that is behind.
	whole, stale bool
}

// timer is a call at a time to come.
type timer struct {
	at      time.Time
	call    func()
	stopped bool
}

// look is what was seen, and the state that it was seen for.
type look struct {
	seen  seen
	state string
	until time.Time
}

// start is the agent's start: the saved state is all that it knows.
func start(w *world) *process {
	p := &process{w: w, fetchAt: w.now, asked: map[string]*inquiry{}}
	p.commands = reconcile.Commands{Names: audit.Names{Environment: "production"}, Now: func() time.Time { return w.now }}
	w.watch.asked = w.now
	ports := &ports{p}
	p.agent = reconcile.New(reconcile.Config{
		Environment: "production", Clock: ports, Log: slog.New(w.watch),
		Gates: func(string, environments.Waves, rollout.Release) []rollout.Gate { return w.gates }, Hooks: &hooks{p},
	}, ports, ports, ports, ports)
	p.writers = [2]writer{{write: p.agent.Revert}, {write: p.agent.Record}}
	if err := p.agent.Start(context.Background()); err != nil {
		w.failf("the agent does not start: %v", err)
	}
	s := w.state()
	if w.cluster.saved == nil {
		w.watch.lost(w.git.log)
	} else {
		w.watch.removing = s.Phase == rollout.Removing
	}
	w.watch.owe(s.Outbox)
	return p
}

// state is the saved one; zero when there is none.
func (w *world) state() rollout.State {
	var s rollout.State
	if w.cluster.saved != nil {
		if err := json.Unmarshal(w.cluster.saved, &s); err != nil {
			w.failf("the saved state can't be read: %v", err)
		}
	}
	return s
}

// Now implements reconcile.Clock.
func (p *ports) Now() time.Time { return p.w.now }

// AfterFunc implements reconcile.Clock.
func (p *ports) AfterFunc(d time.Duration, f func()) func() {
	t := &timer{at: p.w.now.Add(d), call: f}
	p.timers = append(p.timers, t)
	return func() { t.stopped = true }
}

// fire calls what is due.
func (p *process) fire() {
	p.timers = slices.DeleteFunc(p.timers, func(t *timer) bool { return t.stopped })
	for {
		i := slices.IndexFunc(p.timers, func(t *timer) bool { return !t.stopped && !p.w.now.Before(t.at) })
		if i < 0 {
			return
		}
		t := p.timers[i]
		p.timers = slices.Delete(p.timers, i, i+1)
		t.call()
	}
}

// waits reports whether the agent has anything to do, now or later.
func (p *process) waits() bool {
	return slices.ContainsFunc(p.timers, func(t *timer) bool { return !t.stopped }) || !p.newsAt.IsZero() || p.writers[0].busy || p.writers[1].busy
}

// fetch hands the branch's tip over when it has moved.
func (p *process) fetch() {
	p.fetchAt = p.w.now.Add(gitPoll)
	if p.w.gitAway {
		return
	}
	apps, faults := p.commands.Read(p.w.commands)
	if len(faults) > 0 {
		p.w.failf("reading the command branch: %v", faults)
	}
	for _, app := range apps {
		p.agent.Asked(app)
	}
	tip := p.w.git.tip()
	if tip.id == p.read {
		return
	}
	p.read = tip.id
	p.agent.Read(commitOf(tip), nil)
}

// commitOf is a commit as the agent reads it.
func commitOf(c commit) source.Commit {
	env := &environments.Environment{Name: "production"}
	for i := range c.crowd {
		// Apps beside it, all of which each commit changes: what they need of the loop is a turn.
		env.Apps = append(env.Apps, environments.App{
			Name: fmt.Sprint("beside-", i), Namespace: "production", ReleaseName: fmt.Sprint("beside-", i), Digest: c.id,
		})
	}
	if c.digest != "" {
		// What changes with the app's entry in git is its digest.
		env.Apps = append(env.Apps, environments.App{
			Name: appName, Namespace: "production", ReleaseName: appName,
			Digest: fmt.Sprint(c.digest, c.off, c.policy.Suspend, c.policy.Analysis.StepWeightPromotion),
			Chart:  environments.ChartRef{Version: c.digest},
		})
	}
	return source.Commit{Snapshot: &gitsync.Snapshot{Commit: c.id}, Env: env}
}

// render lets the agent render for an app that needs it.
func (p *process) render() {
	if !p.dead && p.agent.Render(context.Background()) {
		p.w.check()
	}
}

// pass lets the agent look at an app that needs it, and reports whether there was one. Passes over other apps are turns of
// the same queue.
func (p *process) pass() bool {
	p.whole, p.stale = false, false
	if p.dead || !p.agent.Look(context.Background()) {
		return false
	}
	p.w.check()
	if p.whole && !p.dead {
		p.w.watch.passDone()
	}
	return true
}

// writer writes to a branch.
type writer struct {
	write func(context.Context) error
	// busy: it is at it. at is when it tries again.
	busy bool
	at   time.Time
}

// record lets the agent write to git, where it is not at it.
func (p *process) record() {
	for i := range p.writers {
		w := &p.writers[i]
		if w.busy || p.dead || p.w.now.Before(w.at) {
			continue
		}
		w.busy = true
		err := w.write(context.Background())
		p.w.check()
		if err != nil {
			p.w.logf("git: %v", err)
			w.at = p.w.now.Add(time.Duration(1+p.w.r.IntN(8)) * time.Second)
		}
		w.busy = false
	}
}

// slow lets time pass while the agent waits for git, and makes passes.
func (p *process) slow() {
	if !p.w.troubled {
		return
	}
	turns := p.w.r.IntN(3)
	if p.w.chance(3) {
		turns = 40
	}
	for range turns {
		p.w.pass()
		p.fire()
		p.render()
		p.pass()
		if p.dead {
			return
		}
	}
}

// normal is a state as it is saved.
func normal(s rollout.State) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}
