package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
	"github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

// ports are everything that an agent has of the world.
type ports struct{ *process }

var (
	_ reconcile.Cluster  = (*ports)(nil)
	_ reconcile.Git      = (*ports)(nil)
	_ reconcile.Renderer = (*ports)(nil)
	_ reconcile.Clock    = (*ports)(nil)
	_ delivery.Metrics   = (*ports)(nil)
)

// OnPrune implements reconcile.Cluster; here no two apps want one object.
func (*ports) OnPrune(func(string, objects.Key) (string, bool)) {}

// OnChange implements reconcile.Cluster.
func (p *ports) OnChange(news func(string)) {
	p.news = func(app string) {
		if !p.w.spoilNews(p.process, app) {
			news(app)
		}
	}
}

// Direct implements reconcile.Cluster.
func (p *ports) Direct(app string) (id, text string) {
	if app != appName {
		return "", ""
	}
	return p.w.cluster.directID, p.w.cluster.direct
}

// LoadStates implements reconcile.Cluster.
func (p *ports) LoadStates(context.Context) (map[string]delivery.Saved, map[string]error, error) {
	out := map[string]delivery.Saved{}
	if c := p.w.cluster; c.saved != nil || len(c.records) > 0 {
		out[appName] = delivery.Saved{App: app(), State: p.w.state()}
	}
	return out, nil, nil
}

func app() delivery.App {
	return delivery.App{Name: appName, Namespace: "production", ReleaseName: appName}
}

// LoadState implements delivery.States.
func (p *ports) LoadState(context.Context, delivery.App) (s delivery.Saved, found bool, err error) {
	if p.dead || p.w.apiAway {
		return s, false, errAway
	}
	p.w.cluster.touched = false
	p.looked = nil // it was compared with what another state desired
	return delivery.Saved{App: app(), State: p.w.state()}, p.w.cluster.saved != nil, nil
}

// Intend implements delivery.States.
func (p *ports) Intend(_ delivery.App, d project.Desired) {
	p.intended = nil
	for _, o := range all(d) {
		p.intended = append(p.intended, keyOf(o))
	}
}

// SaveState implements delivery.States.
func (p *ports) SaveState(_ context.Context, s delivery.Saved) (delivery.Saved, error) {
	w := p.w
	if w.cluster.touched {
		p.whole = false
		return s, delivery.ErrConflict
	}
	before := w.state()
	s.State = w.spoilState(before, s.State)
	what := fmt.Sprintf("save %s %d%% stable=%s target=%s", s.State.Phase, s.State.Weight, describe(s.State.Stable), describe(s.State.Target))
	err := p.write(what, func() {
		if !w.skipSave {
			w.cluster.saved = []byte(normal(s.State))
			if w.cluster.directID == s.State.LastDirect {
				w.cluster.directID = ""
			}
		}
		w.cluster.intend(p.intended)
		// Told even if the agent dies before it hears of it: what was decided is saved.
		w.watch.decided(w.watch.fresh(s.State), s.State)
	})
	switch {
	case errors.Is(err, errLost):
		w.cluster.touched = true // it has a version that the agent has not heard of
	case err == nil:
		p.looked = nil
	}
	return s, err
}

// DeleteState implements delivery.States.
func (p *ports) DeleteState(context.Context, delivery.Saved) error {
	if p.w.cluster.touched {
		return delivery.ErrConflict
	}
	return p.write("forget", func() {
		c := p.w.cluster
		c.saved, c.inventory, c.records, c.directID = nil, nil, nil, ""
		clear(p.w.watch.answered)
		p.w.watch.hooks.untold = nil
	})
}

// Observe implements delivery.Objects; now and then from a cache that has not heard of the last few seconds, but never of
// less than the agent's own writes.
func (p *ports) Observe(_ context.Context, a delivery.App, d project.Desired) (delivery.Seen, error) {
	w, state := p.w, string(p.w.cluster.saved)
	if p.dead || w.apiAway {
		return delivery.Seen{}, errAway
	}
	if a.Name != appName {
		return delivery.Seen{Applied: true}, nil
	}
	if l := p.looked; l != nil && l.state == state && w.now.Before(l.until) && w.chance(30) {
		w.logf("stale look")
		p.newsAt, p.stale = l.until, true
		return l.seen.told(), nil
	}
	if err := w.spoilLook(d); err != nil {
		return delivery.Seen{}, err
	}
	got := w.cluster.observe(w.spoilDesired(d))
	p.looked = &look{seen: got, state: state, until: w.now.Add(4 * time.Second)}
	p.whole = got.applied
	w.watch.observed(got)
	w.logf("seen: applied=%v stable=%v/%v canary=%v/%v %s", got.applied,
		got.stable.Ready, got.stable.Available, got.canary.Ready, got.canary.Available, w.cluster.podsText())
	return got.told(), nil
}

func (s seen) told() delivery.Seen {
	return delivery.Seen{Applied: s.applied, Exposed: s.exposed, Pending: s.pending, Stable: s.stable, Canary: s.canary}
}

// Apply implements delivery.Objects: object by object, and then it deletes what is no longer desired.
func (p *ports) Apply(_ context.Context, _ delivery.App, s rollout.State, d project.Desired) (int, error) {
	w := p.w
	d = w.spoilDesired(d)
	p.looked, p.whole = nil, false
	before := w.watch.writes
	changes := func() int { return w.watch.writes - before }
	if len(all(d)) == 0 && s.Phase != rollout.Removing && len(w.cluster.inventory) > 0 {
		return 0, errors.New("nothing at all is desired")
	}
	p.Intend(app(), d)
	if err := p.write("inventory", func() { w.cluster.intend(p.intended) }); err != nil {
		return 0, err
	}
	if err := p.applyAll(s.Phase, d); err != nil {
		return changes(), err
	}
	if err := p.prune(s.Phase, d); err != nil {
		return changes(), err
	}
	p.whole = !p.stale
	return changes(), nil
}

func (p *ports) applyAll(phase rollout.Phase, d project.Desired) error {
	var faults []error
	missing := false
	for i, o := range all(d) {
		if p.w.cluster.holds(o) {
			continue
		}
		if i >= len(d.Stable)+len(d.Canary) && missing && rising(phase) {
			return errors.Join(append(faults, errors.New("routing waits"))...)
		}
		existed := p.w.cluster.objects[keyOf(o)] != nil
		err := p.write("apply "+keyOf(o)+" "+summary(o), func() {
			was := p.w.cluster.objects[keyOf(o)]
			p.w.cluster.objects[keyOf(o)] = o
			p.w.watch.wrote(was, o)
		})
		if err != nil {
			faults = append(faults, err)
			missing = missing || !existed
		}
		p.meanwhile()
	}
	return errors.Join(faults...)
}

// rising phases may give a track traffic that it did not have.
func rising(p rollout.Phase) bool {
	switch p {
	case rollout.Installing, rollout.Updating, rollout.Starting, rollout.Analyzing:
		return true
	default:
		return false
	}
}

func (p *ports) prune(phase rollout.Phase, d project.Desired) error {
	if len(all(d)) == 0 && phase != rollout.Removing {
		return nil
	}
	var faults []error
	for _, k := range p.w.cluster.leftovers(d) {
		faults = append(faults, p.write("delete "+k, func() {
			was := p.w.cluster.objects[k]
			p.w.cluster.remove(k)
			p.w.watch.deleted(was)
		}))
	}
	return errors.Join(faults...)
}

// Outside implements delivery.Objects.
func (p *ports) Existing(context.Context, delivery.App, []*unstructured.Unstructured) ([]string, error) {
	return nil, nil
}

// Has implements delivery.Objects: whatever is asked about is there.
func (p *ports) Has(context.Context, objects.Key) (bool, error) { return true, nil }

// Try implements delivery.Objects: the model's API server takes everything.
func (p *ports) Try(context.Context, delivery.App, project.Desired) error { return nil }

func (p *ports) Outside(context.Context, string, []schema.GroupKind) ([]*unstructured.Unstructured, error) {
	return nil, nil
}

// Adopt implements delivery.Records.
func (p *ports) Adopt(_ context.Context, a delivery.App) (rollout.Found, error) {
	if p.dead || p.w.apiAway {
		return rollout.Found{}, errAway
	}
	if a.Name != appName {
		return rollout.Found{}, nil
	}
	found := p.w.spoilFound(p.w.cluster.found())
	p.w.logf("found: stable=%s target=%s lost=%v canary=%v", describe(found.Stable), describe(found.Target), found.Lost, found.Canary)
	return found, nil
}

// AddRelease implements delivery.Records.
func (p *ports) AddRelease(_ context.Context, _ delivery.App, id rollout.Release, _ *release.Release, after int) (int, error) {
	c := p.w.cluster
	if n := len(c.records); n > after && c.records[n-1] == (record{id, pending}) {
		return n, nil
	}
	err := p.write("keep "+id.Digest, func() { c.records = append(c.records, record{id, pending}) })
	return len(c.records), err
}

// ReleaseObjects implements delivery.Records.
func (p *ports) ReleaseObjects(_ context.Context, _ delivery.App, n int) ([]*unstructured.Unstructured, error) {
	switch {
	case p.dead || p.w.apiAway:
		return nil, errAway
	case n < 1 || n > len(p.w.cluster.records):
		p.w.failf("the manifests of revision %d are not kept", n)
	}
	return p.w.charts.objects(p.w.cluster.records[n-1].id.Digest), nil
}

// SettleReleases implements delivery.Records.
func (p *ports) SettleReleases(_ context.Context, _ delivery.App, s rollout.State) error {
	c := p.w.cluster
	if string(c.saved) == c.told {
		return nil
	}
	return p.write("settle records", func() {
		c.settle(s)
		c.told = string(c.saved)
	})
}

// Ask implements delivery.Metrics.
func (p *ports) Ask(_ context.Context, checks []analysis.Check) []analysis.Sample {
	p.w.watch.asked = p.w.now
	p.mayCrash("before asking metrics")
	out := make([]analysis.Sample, len(checks))
	for i := range out {
		out[i] = p.w.measure()
	}
	return out
}

// Release implements reconcile.Renderer.
func (p *ports) Release(_ context.Context, c source.Commit, in *environments.App) (*release.Release, environments.Policy, error) {
	asked := p.w.git.at(c.Commit)
	switch {
	case asked.off, in.Name != appName:
		return nil, environments.Policy{}, source.ErrSwitchedOff
	case p.w.chartsAway:
		return nil, environments.Policy{}, errAway
	}
	digest := in.Chart.Version
	rel := &release.Release{Namespace: "production", Version: template(digest), Digest: digest, Objects: p.w.charts.objects(digest)}
	return rel, p.w.charts.policy(asked.policy, digest), nil
}

// Open implements reconcile.Git.
func (p *ports) Open(context.Context) error { return nil }

// Close implements reconcile.Git.
func (p *ports) Close() error { return nil }

// Follow implements reconcile.Git; the world reads for the agent.
func (p *ports) Follow(context.Context, func(source.Commit, error), func(string), func()) error {
	return nil
}

// Commands implements reconcile.Git.
func (p *ports) Commands(app string, s rollout.State) []rollout.Command {
	return p.commands.Pending(app, s)
}

// Nudge implements reconcile.Git.
func (p *ports) Nudge() { p.fetchAt = p.w.now }

// At implements reconcile.Git.
func (p *ports) At(id string) (source.Commit, error) { return commitOf(p.w.git.at(id)), nil }

// Cause implements reconcile.Git.
func (p *ports) Cause(_ context.Context, _, tip, _ string) (string, error) {
	return p.w.git.cause(tip), nil
}

// Rewritten implements reconcile.Git.
func (p *ports) Rewritten(string, string) error { return nil }

// Foreign implements reconcile.Git.
func (p *ports) Foreign() error { return nil }

// Accepted implements reconcile.Git.
func (p *ports) Accepted(string) string { return "" }

// Asker implements reconcile.Git.
func (p *ports) Asker(_, id string) (string, *rollout.TakenBack, error) {
	if bad := p.w.git.at(id).takes; bad != "" {
		return "Sluice", &rollout.TakenBack{Cluster: "eu", Release: rollout.Release{Digest: bad}, Reason: "it failed there"}, nil
	}
	return "Ann", nil, nil
}

// Revert implements reconcile.Git.
func (p *ports) Revert(_ context.Context, _ environments.WriteBackMode, _ string, r rollout.Revert) (rollout.Reverted, error) {
	p.slow()
	var answer rollout.Reverted
	var changed bool
	var moved error
	err := p.push("rollback of "+describe(r.From), func() {
		if p.w.protected {
			answer.Branch = "sluice/rollback/" + appName
			return
		}
		answer.Commit, changed, moved = p.w.git.revert(r)
	})
	switch {
	case err != nil:
		return rollout.Reverted{}, err
	case moved != nil:
		answer = rollout.Reverted{Skipped: moved.Error()}
	case !changed && answer.Branch == "":
		if answer.Commit = p.w.git.found(r); answer.Commit == "" {
			answer.Skipped = "the branch says so already"
		}
	}
	p.w.logf("rollback of rollout %d: %q %q %q", r.Rollout, answer.Commit, answer.Branch, answer.Skipped)
	p.slow()
	return answer, nil
}

// Record implements reconcile.Git.
func (p *ports) Record(_ context.Context, b audit.Batch) (audit.Recorded, error) {
	p.slow()
	ahead := map[string]int64{}
	err := p.push("status", func() {
		for _, a := range b.Apps {
			if a.Name != appName {
				continue
			}
			if n := p.w.git.record(a.State.LastSeq, a.Events); n > 0 {
				ahead[a.Name] = n
			}
		}
	})
	if err == nil {
		p.slow()
	}
	return audit.Recorded{Ahead: ahead}, err
}

// mayCrash ends the process at some of the places where it could.
func (p *process) mayCrash(where string) bool {
	if !p.dead && p.w.troubled && p.w.r.IntN(1000) < 12 {
		p.w.logf("CRASH %s", where)
		p.dead = true
	}
	return p.dead
}

// write is one write to the API server: it may be refused, or done and its answer lost, and the process may end on either
// side of it.
func (p *process) write(what string, do func()) error {
	err := p.tryWrite(what, do)
	p.whole = p.whole && err == nil
	return err
}

func (p *process) tryWrite(what string, do func()) error {
	w := p.w
	switch {
	case p.mayCrash("before " + what), w.apiAway:
		return errAway
	case w.troubled && w.chance(w.refusing):
		w.watch.hurt = w.now
		return fmt.Errorf("%s: %w", what, errRefused)
	}
	w.logf("%s", what)
	do()
	w.watch.objects()
	if p.mayCrash("after " + what) {
		return errAway
	}
	if w.troubled && w.r.IntN(1000) < 8 {
		w.watch.hurt = w.now
		return fmt.Errorf("%s: %w", what, errLost)
	}
	return nil
}

// push is one push to the git server.
func (p *process) push(what string, do func()) error {
	w := p.w
	if p.mayCrash("before pushing "+what) || w.gitAway {
		return errAway
	}
	if w.troubled && w.chance(3) {
		w.people() // somebody wins the race; the edit is made anew on their commit
	}
	do()
	if p.mayCrash("after pushing " + what) {
		return errAway
	}
	if w.troubled && w.chance(4) {
		return fmt.Errorf("pushing %s: %w", what, errLost)
	}
	return nil
}

// meanwhile lets the rest of the agent, and of the world, act between two writes of a pass.
func (p *process) meanwhile() {
	w := p.w
	if !w.troubled || p.dead {
		return
	}
	if w.chance(3) {
		w.people()
	}
	if w.chance(3) {
		p.fetch()
	}
	if w.chance(3) {
		begun := w.now
		p.record()
		if w.now.Sub(begun) > mostLate/2 {
			w.watch.asked = w.now // in the agent, a slow writer holds up no pass
		}
	}
	if w.chance(3) {
		p.render()
	}
	if w.chance(10) { // another worker, who gets another app
		p.agent.Look(context.Background())
	}
	if w.chance(10) {
		w.now = w.now.Add(time.Duration(w.r.IntN(2000)) * time.Millisecond)
		w.cluster.control(w.now, func() bool { return w.chance(50) })
		w.watch.objects()
	}
}
