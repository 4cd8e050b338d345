package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

const (
	gitPoll      = 10 * time.Second
	inFlightPoll = 5 * time.Second
)

// agent does what package reconcile does, with its memory; a crash takes all of it. What it does not ask for again by
// itself never happens: a pass is made when the queue has the app, as there.
type agent struct {
	w *world
	// state as saved; input, removed and asked are what git says.
	state    rollout.State
	input    *commit
	removed  bool
	asked    *asked
	recorded int64
	reverted *rollout.Reverted
	since    time.Time
	failures int
	// queued: a pass is due now; timer: at that time, zero for never.
	queued bool
	timer  time.Time
	// told: there is something for git; gitTimer: another try, zero for none.
	told     bool
	gitTimer time.Time
	// writing is what is on its way to git, beside the passes; nil for nothing.
	writing *writing
	// fetchAt is when the branch is looked at again.
	fetchAt time.Time
	// newsAt is when a cache that was behind hears of what it missed; zero: it is not behind.
	newsAt time.Time
	// looked is what the last look at the cluster saw, for reads from a cache that is behind; nil after a write.
	looked *look
}

// asked is what git asks for, rendered.
type asked struct {
	input  string
	id     rollout.Release
	policy environments.Policy
}

// writing is a rollback commit and events, as they were when the writer set out.
type writing struct {
	until   time.Time
	revert  *rollout.Revert
	events  []rollout.Event
	lastSeq int64
}

// look is what was seen, and the state that it was seen for.
type look struct {
	seen  seen
	state string
	until time.Time
}

// start is the agent's start: the saved state is all that it knows.
func start(w *world) *agent {
	a := &agent{w: w, since: w.now, fetchAt: w.now}
	if w.cluster.saved != nil {
		if err := json.Unmarshal(w.cluster.saved, &a.state); err != nil {
			w.failf("the saved state can't be read: %v", err)
		}
		if a.state.InFlight() || len(a.state.Outbox) > 0 || a.state.Revert != nil {
			a.add()
			a.told = true
		}
		w.watch.removing = a.state.Phase == rollout.Removing
		w.watch.owe(a.state.Outbox)
	}
	return a
}

func (a *agent) add() { a.queued, a.timer = true, time.Time{} }

// inputOf is what changes with the app's entry in git.
func inputOf(c commit) string { return fmt.Sprint(c.digest, c.policy.Suspend, c.policy.Analysis) }

// fetch reads the branch.
func (a *agent) fetch() {
	a.fetchAt = a.w.now.Add(gitPoll)
	if a.w.gitAway {
		return
	}
	tip := a.w.git.tip()
	if tip.digest == "" {
		if !a.removed {
			a.input, a.removed = nil, true
			a.add()
		}
		a.told = true
		return
	}
	if a.input != nil && inputOf(*a.input) == inputOf(tip) && !a.rejected() {
		a.input = &tip
		return
	}
	if a.rejected() {
		a.asked = nil
	}
	a.input, a.removed = &tip, false
	a.add()
	a.told = true
}

func (a *agent) rejected() bool {
	return a.asked != nil && slices.ContainsFunc(a.state.Rejected, func(r rollout.Rejection) bool {
		return r.Release.Digest == a.asked.id.Digest
	})
}

// refresh renders what git asks for if that has changed.
func (a *agent) refresh() *asked {
	switch {
	case a.input == nil:
		return nil
	case a.asked != nil && a.asked.input == inputOf(*a.input):
		return a.asked
	}
	d := &asked{input: inputOf(*a.input), policy: a.w.charts.policy(a.input.policy, a.input.digest)}
	d.id = rollout.Release{Version: template(a.input.digest), Digest: a.input.digest}
	for _, known := range []rollout.Release{a.state.Stable, a.state.Target} {
		if known.Digest == d.id.Digest && known.Commit != "" && d.id.Commit == "" {
			d.id.Commit = known.Commit
		}
	}
	if d.id.Commit == "" {
		d.id.Commit = a.w.git.cause(a.input.id)
	}
	a.asked = d
	return d
}

// turn is a pass and what comes after it, as the agent's workers do it.
func (a *agent) turn() {
	a.queued = false
	again, err := a.pass()
	if err != nil {
		a.w.logf("pass not finished: %v", err)
		a.later(250 * time.Millisecond << min(a.failures, 7))
		a.failures++
		return
	}
	a.failures = 0
	if !again.IsZero() {
		a.later(again.Sub(a.w.now))
	}
}

func (a *agent) later(d time.Duration) {
	if d <= 0 {
		a.add()
		return
	}
	a.timer = a.w.now.Add(min(d, 30*time.Second))
}

// pass looks at the app once: observe, decide, save, apply.
func (a *agent) pass() (again time.Time, err error) {
	w, state := a.w, a.state
	loaded := state
	asked, removed, recorded, reverted := a.refresh(), a.removed, a.recorded, a.reverted
	if removed && state.Phase == rollout.Idle && state.Stable.IsZero() && recorded >= state.LastSeq {
		return time.Time{}, a.forget()
	}
	if state.Policy = policyOf(state, asked); state.Policy == nil {
		return time.Time{}, nil
	}
	before, err := a.project(asked, state)
	if err != nil {
		return time.Time{}, err
	}
	seen, fresh, err := a.observe(before, state)
	if err != nil {
		return time.Time{}, err
	}
	o := rollout.Observation{
		Now: w.now, Removed: removed, Policy: *state.Policy, Recorded: recorded, Reverted: reverted,
		Applied: seen.applied, Stable: seen.stable, Canary: seen.canary, WatchedSince: a.since,
	}
	if asked != nil && !removed {
		o.Desired, o.Policy = asked.id, asked.policy
		o.FromStable = w.charts.change(state.Stable.Digest, asked.id.Digest)
		o.FromTarget = w.charts.change(state.Target.Digest, asked.id.Digest)
	}
	// As the agent has it: a check waits a little for a cluster that is not as desired.
	due := o.Now
	if !seen.applied {
		due = due.Add(-5 * time.Second)
	}
	if state.CheckDue(o.Policy, due) {
		w.mayCrash("before asking metrics")
		v := w.ask()
		o.Verdict = &v
	}
	next, events := w.next(state, o)
	next.Policy = policyOf(next, asked)
	moved := !reflect.DeepEqual(normal(loaded), normal(next))
	if moved {
		if err := a.save(asked, next, events); err != nil {
			return time.Time{}, err
		}
		next = a.state
	}
	if next.Policy != nil && (moved || !seen.applied) {
		if err := a.apply(asked, next); err != nil {
			return time.Time{}, err
		}
	}
	if moved {
		a.add()
	}
	w.watch.passDone(fresh)
	if !next.InFlight() {
		return time.Time{}, nil
	}
	poll := w.now.Add(inFlightPoll)
	if due := next.Due(o); !due.IsZero() && due.Before(poll) {
		return due, nil
	}
	return poll, nil
}

// normal is a state as it is saved.
func normal(s rollout.State) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func policyOf(s rollout.State, asked *asked) *environments.Policy {
	follows := s.Stable
	if s.InFlight() {
		follows = s.Target
	}
	if asked != nil && (s.Policy == nil || follows.IsZero() || asked.id.Digest == follows.Digest) {
		p := asked.policy
		return &p
	}
	return s.Policy
}

// project makes sure that the manifests of both releases are at hand, as git's wish or as a record.
func (a *agent) project(asked *asked, s rollout.State) (project.Desired, error) {
	for _, r := range []rollout.Release{s.Stable, s.Target} {
		if r.IsZero() || asked != nil && asked.id.Digest == r.Digest {
			continue
		}
		if r.Revision == 0 || r.Revision > len(a.w.cluster.records) || a.w.cluster.records[r.Revision-1] != r.Digest {
			a.w.failf("the manifests of %s are not kept (revision %d)", describe(r), r.Revision)
		}
	}
	return a.w.charts.project(s, *s.Policy, a.w.project)
}

// observe looks at the cluster; now and then from a cache that has not heard of the last few seconds, but never of less
// than the agent's own writes.
func (a *agent) observe(d project.Desired, s rollout.State) (got seen, fresh bool, err error) {
	if a.w.apiAway {
		a.since = a.w.now
		return seen{}, false, errAway
	}
	if l := a.looked; l != nil && l.state == normal(s) && a.w.now.Before(l.until) && a.w.chance(30) {
		a.w.logf("stale look")
		a.newsAt = l.until
		return l.seen, false, nil
	}
	got = a.w.cluster.observe(d)
	a.looked = &look{seen: got, state: normal(s), until: a.w.now.Add(4 * time.Second)}
	a.w.watch.observed(got)
	a.w.logf("seen: %s %d%% applied=%v stable=%v/%v canary=%v/%v %s", s.Phase, s.Weight, got.applied,
		got.stable.Ready, got.stable.Available, got.canary.Ready, got.canary.Available, a.w.cluster.podsText())
	return got, true, nil
}

// save numbers new releases, keeps their manifests, and saves the state.
func (a *agent) save(asked *asked, next rollout.State, events []rollout.Event) error {
	for _, r := range []*rollout.Release{&next.Stable, &next.Target} {
		if r.IsZero() || r.Revision != 0 {
			continue
		}
		if asked == nil || asked.id.Digest != r.Digest {
			a.w.failf("the manifests of %s are not at hand to be kept", describe(*r))
		}
		err := a.w.api("keep "+r.Digest, func() { a.w.cluster.records = append(a.w.cluster.records, r.Digest) })
		if err != nil {
			return err
		}
		r.Revision = len(a.w.cluster.records)
	}
	if !a.w.skipSave {
		what := fmt.Sprintf("save %s %d%% stable=%s target=%s", next.Phase, next.Weight, describe(next.Stable), describe(next.Target))
		if err := a.w.api(what, func() { a.w.cluster.saved = []byte(normal(next)) }); err != nil {
			return err
		}
	}
	a.state, a.looked = next, nil
	a.w.watch.decided(events, next)
	if next.Revert == nil {
		a.reverted = nil
	}
	if len(next.Outbox) > 0 || next.Revert != nil {
		a.told = true
	}
	return nil
}

// apply writes what is not as desired object by object, and deletes what is no longer desired.
func (a *agent) apply(asked *asked, s rollout.State) error {
	d, err := a.project(asked, s)
	if err != nil {
		return err
	}
	a.looked = nil
	c := a.w.cluster
	if len(all(d)) == 0 && s.Phase != rollout.Removing && len(c.inventory) > 0 {
		return errors.New("nothing at all is desired")
	}
	if err := a.w.api("inventory", func() { c.intend(d) }); err != nil {
		return err
	}
	if err := a.applyAll(s.Phase, d); err != nil {
		return err
	}
	return a.prune(s.Phase, d)
}

func (a *agent) applyAll(phase rollout.Phase, d project.Desired) error {
	var faults []error
	missing := false
	for i, o := range all(d) {
		if a.w.cluster.holds(o) {
			continue
		}
		if i >= len(d.Stable)+len(d.Canary) && missing && rising(phase) {
			return errors.Join(append(faults, errors.New("routing waits"))...)
		}
		existed := a.w.cluster.objects[keyOf(o)] != nil
		err := a.w.api("apply "+keyOf(o)+" "+summary(o), func() {
			was := a.w.cluster.objects[keyOf(o)]
			a.w.cluster.objects[keyOf(o)] = o
			a.w.watch.wrote(was, o)
		})
		if err != nil {
			faults = append(faults, err)
			missing = missing || !existed
		}
		a.w.meanwhile()
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

func (a *agent) prune(phase rollout.Phase, d project.Desired) error {
	if len(all(d)) == 0 && phase != rollout.Removing {
		return nil
	}
	var faults []error
	for _, k := range a.w.cluster.leftovers(d) {
		err := a.w.api("delete "+k, func() {
			was := a.w.cluster.objects[k]
			a.w.cluster.remove(k)
			a.w.watch.deleted(was)
		})
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

func (a *agent) forget() error {
	err := a.w.api("forget", func() { a.w.cluster.saved, a.w.cluster.inventory = nil, nil })
	if err == nil {
		*a = agent{w: a.w, since: a.since, fetchAt: a.fetchAt, writing: a.writing, recorded: a.recorded, removed: true}
	}
	return err
}

// flush sets out to write a rollback commit and then the status branch.
func (a *agent) flush() {
	if a.writing != nil {
		return
	}
	a.told, a.gitTimer = false, time.Time{}
	slowest := 4000
	if a.w.chance(5) {
		slowest = 120_000
	}
	on := &writing{until: a.w.now.Add(time.Duration(a.w.r.IntN(slowest)) * time.Millisecond), lastSeq: a.state.LastSeq}
	if r := a.state.Revert; r != nil && (a.reverted == nil || a.reverted.Rollout != r.Rollout) {
		on.revert = r
	}
	for _, e := range a.state.Outbox {
		if e.Seq > a.recorded {
			on.events = append(on.events, e)
		}
	}
	a.writing = on
}

// arrive ends what flush began.
func (a *agent) arrive() {
	on := a.writing
	a.writing = nil
	if err := errors.Join(a.revert(on.revert), a.writeStatus(on)); err != nil {
		a.w.logf("git: %v", err)
		a.gitTimer = a.w.now.Add(time.Duration(1+a.w.r.IntN(8)) * time.Second)
	}
}

func (a *agent) revert(r *rollout.Revert) error {
	if r == nil {
		return nil
	}
	answer := rollout.Reverted{Rollout: r.Rollout}
	var id string
	var changed bool
	var moved error
	err := a.w.push("rollback of "+describe(r.From), func() {
		if a.w.protected {
			moved = errProtected
			return
		}
		id, changed, moved = a.w.git.revert(*r)
	})
	switch {
	case err != nil:
		return err
	case moved != nil:
		answer.Skipped = moved.Error()
	case changed:
		answer.Commit = id
	default:
		if answer.Commit = a.w.git.found(*r); answer.Commit == "" {
			answer.Skipped = "the branch says so already"
		}
	}
	a.w.logf("rollback of rollout %d: %q %q", r.Rollout, answer.Commit, answer.Skipped)
	a.reverted = &answer
	a.add()
	a.fetchAt = a.w.now
	return nil
}

func (a *agent) writeStatus(on *writing) error {
	if len(on.events) == 0 {
		return nil
	}
	var ahead int64
	if err := a.w.push("status", func() { ahead = a.w.git.record(on.lastSeq, on.events) }); err != nil {
		return err
	}
	if ahead > 0 {
		a.recorded = ahead
	} else {
		a.recorded = max(a.recorded, on.events[len(on.events)-1].Seq)
	}
	a.add()
	return nil
}
