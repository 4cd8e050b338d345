package rollout_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestSimulation walks Next at random through pushes, outages, flapping pods, crashes between saving and applying and
// between two objects, and a git writer that loses races. Every answer is held to the invariants, and the model
// cluster to those of its own: traffic only to pods that it was decided for. When the trouble ends, git, the cluster
// and the audit log agree within bounded time.
func TestSimulation(t *testing.T) {
	seeds := uint64(100)
	if testing.Short() {
		seeds = 10
	}
	seen := map[rollout.EventType]int{}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			m := newModel(t, seed)
			for range 400 {
				m.trouble()
				m.pass()
			}
			m.calm()
			for range 600 {
				m.pass()
			}
			m.checkEnd()
			for _, e := range m.log {
				seen[e.Type]++
			}
		})
	}
	t.Log(seen)
	if len(seen) != 21 && !testing.Short() {
		t.Errorf("the walk has not come across every type of event: %v", seen)
	}
}

// model is a cluster, a git server, a metrics server and an audit log, as small as they can be.
type model struct {
	t     *testing.T
	r     *rand.Rand
	now   time.Time
	state rollout.State // as saved in the cluster
	plan  rollout.Plan

	git                         rollout.Release // the tip
	commits                     int
	gitAway, apiAway, promAway  bool
	watched                     time.Time
	stable, canary              pods
	weight                      int
	weightFor                   string // the pods that weight was decided for
	log                         []rollout.Event
	flapping, silent, suspended bool
	removed                     bool
}

// pods of one track.
type pods struct {
	release string
	since   time.Time
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		t: t, r: rand.New(rand.NewPCG(seed, 7)), now: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC),
		plan: rollout.NewPlan(environments.Policy{
			Strategy: environments.StrategyCanary, ProgressDeadline: 90 * time.Second,
			Analysis: environments.Analysis{
				Interval: 20 * time.Second, Threshold: 2, InconclusiveLimit: 3, StepWeight: 20, MaxWeight: 60,
			},
		}),
	}
	if seed%3 == 0 {
		m.plan.StepBack = 25
	}
	if seed%5 == 0 {
		m.plan.Strategy = environments.StrategyRolling
	}
	m.push("good0")
	return m
}

func (m *model) chance(percent int) bool { return m.r.IntN(100) < percent }

func (m *model) push(digest string) {
	m.commits++
	m.git = rollout.Release{Version: digest, Digest: digest, Commit: fmt.Sprint("c", m.commits)}
}

// trouble makes something happen, now and then.
func (m *model) trouble() {
	if m.chance(3) {
		kinds := []string{"good", "bad", "crash", "never"}
		m.push(fmt.Sprint(kinds[m.r.IntN(4)], m.r.IntN(4)))
	}
	if m.chance(1) {
		m.push(m.git.Digest) // merged again
	}
	if m.chance(1) && !m.state.Stable.IsZero() {
		m.push(m.state.Stable.Digest)
	}
	if m.chance(1) {
		m.push(fmt.Sprint(template(m.git.Digest), "+", m.r.IntN(4)))
	}
	if m.removed || m.chance(1) {
		m.removed = m.chance(50)
	}
	for _, b := range []*bool{&m.gitAway, &m.promAway, &m.silent, &m.flapping, &m.suspended} {
		if m.chance(4) {
			*b = m.chance(30)
		}
	}
	if was := m.apiAway; m.chance(4) {
		m.apiAway = m.chance(30)
		if was && !m.apiAway {
			m.watched = m.now
		}
	}
}

func (m *model) calm() {
	if m.apiAway {
		m.watched = m.now
	}
	m.removed = false
	m.gitAway, m.apiAway, m.promAway, m.silent, m.flapping, m.suspended = false, false, false, false, false, false
}

// pass is one turn of the loop: observe, decide, save, apply, tell git; it may crash after any of them.
func (m *model) pass() {
	m.now = m.now.Add(time.Duration(1+m.r.IntN(8)) * time.Second)
	if m.apiAway {
		return // nothing can be seen, saved or applied
	}
	o := m.observation()
	next, _ := checkedNext(m.t, m.state, o)
	m.state = reloaded(m.t, next)
	m.apply()
	m.deliver()
}

func (m *model) observation() rollout.Observation {
	stable, canary := m.state.Tracks()
	o := rollout.Observation{
		Now: m.now, Plan: m.plan, WatchedSince: m.watched, Applied: m.holds(stable, canary),
		Stable: m.track(m.stable, stable), Canary: m.track(m.canary, canary), Recorded: int64(len(m.log)),
	}
	o.Plan.Suspend = m.suspended
	switch {
	case m.gitAway:
	case m.removed:
		o.Removed = true
	default:
		o.Desired = m.git
		o.FromStable, o.FromTarget = change(m.state.Stable, m.git), change(m.state.Target, m.git)
		o.Reverted = m.writeRollback()
	}
	if m.state.CheckDue(o, m.now) {
		o.Verdict = m.verdict(m.canary.release)
	}
	return o
}

// holds reports whether the cluster is what the State projects.
func (m *model) holds(stable, canary rollout.Release) bool {
	return m.stable.release == stable.Digest && m.canary.release == canary.Digest && m.weight == m.state.Weight
}

// track is the health of pods, if they are the wanted ones; it takes some time to become ready.
func (m *model) track(p pods, want rollout.Release) rollout.Track {
	if p.release == "" {
		return rollout.Track{}
	}
	ready := m.now.Sub(p.since) > 5*time.Second && kind(p.release) != "never" && kind(p.release) != "crash"
	if m.flapping && m.chance(20) {
		ready = false
	}
	return rollout.Track{
		Ready: ready && p.release == want.Digest, Available: ready,
		Failed: kind(p.release) == "crash" && p.release == want.Digest && m.now.Sub(p.since) > 3*time.Second,
	}
}

// kind is what a release does: "bad3" answers errors, "good1" does not.
func kind(release string) string {
	return strings.TrimRight(template(release), "0123456789")
}

// template is what decides a release's pods: "good1" of "good1+2".
func template(release string) string {
	base, _, _ := strings.Cut(release, "+")
	return base
}

func (m *model) verdict(release string) *analysis.Verdict {
	v := &analysis.Verdict{At: m.now, Outcome: analysis.Pass, Reason: "well"}
	switch {
	case m.promAway || m.silent || m.weight == 0:
		v.Outcome, v.Reason = analysis.Inconclusive, "no data"
	case kind(release) == "bad":
		v.Outcome, v.Decisive, v.Reason = analysis.Fail, m.chance(10), "errors"
	}
	return v
}

// writeRollback is the git writer: compare-and-set on the release.
func (m *model) writeRollback() *rollout.Reverted {
	r := m.state.Revert
	if r == nil || m.chance(50) {
		return nil
	}
	if m.git.Digest != r.From.Digest {
		return &rollout.Reverted{Skipped: "git has moved on", Rollout: r.Rollout}
	}
	m.push(r.To.Digest)
	return &rollout.Reverted{Commit: m.git.Commit, Rollout: r.Rollout}
}

// apply brings the cluster closer to the projection: traffic leaves a track before the track changes, and comes after
// it is there. A crash, or an API server that refuses, stops it at any point.
func (m *model) apply() {
	stable, canary := m.state.Tracks()
	steps := []func(){
		func() { m.route(min(m.weight, m.state.Weight), canary) },
		func() { m.put(&m.stable, stable.Digest) },
		func() { m.put(&m.canary, canary.Digest) },
		func() { m.route(m.state.Weight, canary) },
	}
	for _, step := range steps {
		if m.chance(5) {
			return
		}
		step()
		if m.weight > 0 && template(m.canary.release) != m.weightFor {
			m.t.Fatalf("%d%% go to %q, decided for %q: %s", m.weight, m.canary.release, m.weightFor, encode(m.t, m.state))
		}
	}
}

func (m *model) route(weight int, canary rollout.Release) {
	if weight > m.weight {
		m.weightFor = template(canary.Digest)
	}
	m.weight = weight
}

func (m *model) put(p *pods, release string) {
	if template(p.release) != template(release) {
		p.since = m.now
	}
	p.release = release
}

// deliver is the audit log's writer: it takes what it has not got, in order.
func (m *model) deliver() {
	if m.gitAway {
		return
	}
	for _, e := range m.state.Outbox {
		if e.Seq == int64(len(m.log))+1 {
			m.log = append(m.log, e)
		}
	}
}

// checkEnd: at rest the cluster serves what git says, the canary is gone, and the log has everything once.
func (m *model) checkEnd() {
	m.t.Helper()
	s := m.state
	if s.InFlight() && (s.Phase != rollout.Installing || kind(m.git.Digest) == "good") {
		m.t.Fatalf("not at rest: %s", encode(m.t, s))
	}
	if s.Phase == rollout.Installing {
		return // the first release never became ready, and there is nothing to go back to
	}
	if s.Stable.Digest != m.git.Digest || m.stable.release != m.git.Digest {
		m.t.Errorf("git says %s, stable is %s, the cluster runs %s: %s", m.git.Digest, s.Stable.Digest, m.stable.release,
			encode(m.t, s))
	}
	if m.weight != 0 || m.canary.release != "" || s.Revert != nil || len(s.Outbox) != 0 {
		m.t.Errorf("left over: weight %d, canary %q, %s", m.weight, m.canary.release, encode(m.t, s))
	}
	if int64(len(m.log)) != s.LastSeq {
		m.t.Errorf("the log has %d of %d events", len(m.log), s.LastSeq)
	}
	for i, e := range m.log {
		if e.Seq != int64(i)+1 {
			m.t.Errorf("event %d has number %d", i+1, e.Seq)
		}
	}
}
