package sim

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Answers of servers that are in trouble.
var (
	errAway    = errors.New("the server is away")
	errRefused = errors.New("the server refuses")
	errLost    = errors.New("the answer is lost")
)

// world is everything there is in a run.
type world struct {
	r     *rand.Rand
	now   time.Time
	trace []string
	// failure is the first invariant that was seen broken.
	failure *broken

	charts  *charts
	cluster *cluster
	git     *repository
	agent   *process // nil while it is down
	upAt    time.Time
	watch   *watch
	seen    map[rollout.EventType]int

	strategy      environments.Strategy
	promotionStep int
	approval      []environments.Approval
	// directs counts the commands beside the state.
	directs int
	// approvedAt is when somebody last approved what waits for it.
	approvedAt time.Time
	// protected: the environment branch takes rollback commits from people only.
	protected                              bool
	troubled                               bool
	apiAway, gitAway, promAway, chartsAway bool
	// crowd is how many apps there are beside the one, turns how many the agent gets in a step.
	crowd, turns int
	// pushing is how often people push, in a thousand steps.
	pushing int
	// refusing is how many percent of the writes the API server refuses.
	refusing int

	// commands are the commits of the command branch, newest first, gates what else has a word.
	commands []gitsync.Commit
	gates    []rollout.Gate

	// hooked: the policy has webhooks. noes are those that say no, hooksAway: none answers.
	hooked, hooksAway bool
	noes              map[environments.HookType]bool

	// What is under test; a test may put something broken in their place.
	spoilState   func(before, after rollout.State) rollout.State
	spoilDesired func(project.Desired) project.Desired
	spoilFound   func(rollout.Found) rollout.Found
	skipSave     bool
	// spoilLook fails a look at the cluster, spoilNews keeps an app's news from the agent.
	spoilLook func(project.Desired) error
	spoilNews func(p *process, app string) bool
}

// broken is a panic that ends a run: an invariant does not hold.
type broken struct{ why string }

func (w *world) check() {
	if w.failure != nil {
		panic(*w.failure)
	}
}

func newWorld(seed uint64) *world {
	w := &world{
		r: rand.New(rand.NewPCG(seed, 11)), now: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC),
		charts: newCharts(), cluster: newCluster(), git: &repository{}, seen: map[rollout.EventType]int{},
		strategy:     environments.StrategyCanary,
		spoilState:   func(_, after rollout.State) rollout.State { return after },
		spoilDesired: func(d project.Desired) project.Desired { return d },
		spoilFound:   func(f rollout.Found) rollout.Found { return f },
		spoilLook:    func(project.Desired) error { return nil },
		spoilNews:    func(*process, string) bool { return false },
	}
	if seed%7 == 3 {
		w.strategy = environments.StrategyRolling
	}
	w.charts.brought, w.charts.named, w.charts.service = seed%2 == 1, seed%11 < 5, ownService
	switch seed % 13 {
	case 2, 3:
		w.charts.service = commonService
	case 4, 5:
		if w.strategy == environments.StrategyCanary { // else a Service is for the chart to bring
			w.charts.service = madeService
		}
	}
	w.pushing = []int{20, 20, 4, 8}[seed%4]
	if seed%3 == 0 {
		w.promotionStep = 25
	}
	w.protected = seed%5 == 4
	switch seed % 17 {
	case 1:
		w.approval = []environments.Approval{environments.ApproveBegin}
	case 2, 3:
		w.approval = []environments.Approval{environments.ApproveBegin, environments.ApprovePromote}
	}
	w.hooked = seed%4 == 2
	w.calmHooks()
	w.watch = &watch{w: w, serving: map[string]bool{}, failed: map[string]bool{}, answered: map[string]bool{}, guessed: map[string]bool{}, hooks: newAnswers()}
	w.turns = 4
	if seed%5 == 2 {
		w.crowd = 150
	}
	w.git.push(func(c *commit) { c.digest, c.policy, c.crowd = "good0", w.base(), w.crowd })
	w.agent = start(w)
	return w
}

func (w *world) base() environments.Policy {
	p := basePolicy()
	p.Strategy, p.Analysis.StepWeightPromotion, p.Analysis.Approval = w.strategy, w.promotionStep, w.approval
	if w.hooked {
		p.Analysis.Webhooks = hookPolicy()
	}
	return p
}

// run is a time of trouble and then as long as it takes to come to rest. It returns what broke, nil for nothing.
func (w *world) run(steps int) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case broken:
			err = errors.New(r.why)
		default:
			panic(r)
		}
	}()
	w.troubled = true
	for range steps {
		w.step()
	}
	w.calm()
	w.step() // what the agent was kept from by chance comes first
	const patience = time.Hour
	for until := w.now.Add(patience); !w.resting(); w.step() {
		if w.now.After(until) {
			w.failf("not at rest within %s: %s", patience, normal(w.state()))
		}
	}
	w.watch.rest()
	w.remove()
	return nil
}

func (w *world) chance(percent int) bool { return w.r.IntN(100) < percent }

func (w *world) logf(format string, args ...any) {
	w.trace = append(w.trace, w.now.Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// failf ends the run: an invariant does not hold. The agent, which survives a pass that panics, may be what it is called
// from; so the world looks at failure again when the agent returns.
func (w *world) failf(format string, args ...any) {
	if w.failure == nil {
		w.failure = &broken{fmt.Sprintf(format, args...)}
	}
	panic(*w.failure)
}

// tail is the end of the trace.
func (w *world) tail(lines int) string {
	return strings.Join(w.trace[max(0, len(w.trace)-lines):], "\n")
}

// pass lets a second or so pass.
func (w *world) pass() {
	w.now = w.now.Add(time.Duration(200+w.r.IntN(2800)) * time.Millisecond)
	if w.cluster.control(w.now, func() bool { return w.chance(30) }) {
		w.watch.objects()
		w.notice()
	}
}

// step lets a second or so pass, and everybody do what he does in it.
func (w *world) step() {
	if w.troubled {
		w.trouble()
	}
	w.pass()
	if w.agent == nil {
		if w.now.Before(w.upAt) || w.apiAway {
			return
		}
		w.logf("the agent starts")
		w.agent = start(w)
	}
	w.act()
}

// remove takes the app off the list, at the end of some runs: nothing of it may be left.
func (w *world) remove() {
	if w.r.IntN(3) > 0 {
		return
	}
	w.git.push(func(c *commit) { c.digest = "" })
	w.logf("git: the app is taken off the list")
	for until := w.now.Add(10 * time.Minute); ; w.step() {
		left := w.cluster.left()
		if left == "" && w.agent.agent.Settled() && !w.agent.waits() {
			break
		}
		if w.now.After(until) {
			w.failf("a removed app is not forgotten: %s is left", left)
		}
	}
	w.watch.logged()
}

// notice is the watch's news for the agent.
func (w *world) notice() {
	if w.agent != nil {
		w.agent.news(appName)
	}
}

// act lets the agent do what is due.
func (w *world) act() {
	p := w.agent
	if !w.now.Before(p.fetchAt) {
		p.fetch()
	}
	for range w.turns {
		p.record()
		if !p.newsAt.IsZero() && !w.now.Before(p.newsAt) {
			p.newsAt = time.Time{}
			w.notice()
		}
		p.fire()
		if !w.troubled || w.chance(70) {
			for range 1 + w.crowd/w.turns { // a crowd is rendered faster than it is looked at
				p.render()
			}
		}
		if w.now = w.now.Add(time.Millisecond); !p.pass() {
			break
		}
	}
	w.watch.checked()
	if p.dead {
		w.agent = nil
		w.upAt = w.now.Add(time.Duration(w.r.IntN(20)) * time.Second)
		if w.chance(10) && w.cluster.losable() {
			w.cluster.saved, w.watch.hurt = nil, w.now
			w.logf("somebody deletes the saved state, and nobody runs")
		}
	}
}

// trouble makes something happen, now and then.
func (w *world) trouble() {
	if w.r.IntN(1000) < w.pushing {
		w.people()
	}
	if phase := w.state().Phase; w.chance(2) && (phase == rollout.Promoting || phase == rollout.Draining) {
		w.people() // change their mind when it is nearly done
	}
	for _, b := range []*bool{&w.gitAway, &w.promAway, &w.chartsAway} {
		if w.chance(2) {
			*b = w.chance(30)
		}
	}
	if w.chance(2) {
		w.apiAway = w.chance(25)
		w.logf("API away: %v", w.apiAway)
	}
	if w.chance(2) {
		w.refusing = []int{0, 0, 0, 10, 50}[w.r.IntN(5)]
	}
	if w.r.IntN(1000) < 5 {
		w.edit()
	}
	if w.chance(1) {
		w.flap()
	}
	if w.hooked && w.chance(3) {
		w.turnHooks()
	}
	if w.r.IntN(1000) < 15 {
		w.ask(asks[w.r.IntN(len(asks))])
	}
	if w.r.IntN(1000) < 10 {
		w.close()
	}
}

// asks are what people ask, and what nobody knows.
var asks = []rollout.CommandKind{
	rollout.Pause, rollout.Resume, rollout.Resume, rollout.Advance, rollout.AdvanceFully, rollout.Abort, rollout.Retry, rollout.Hold,
	rollout.Unhold, rollout.Unhold, rollout.Approve, rollout.Approve, rollout.OverrideGates, rollout.Rollback, rollout.Rollback, "Dance",
}

// ask has somebody ask something, where they can now and then beside the state.
func (w *world) ask(k rollout.CommandKind) {
	r := audit.Request{
		Names: audit.Names{Environment: "production"}, App: appName, Kind: k, By: "Ann", Expires: w.now.Add(5 * time.Minute),
	}
	if c := w.cluster; c.saved != nil && c.directID == "" && w.chance(20) {
		w.directs++
		c.direct, c.directID, c.touched = r.Message(), fmt.Sprint("d", w.directs), true
		w.logf("Ann asks %s beside the state: %s", c.directID, k)
		w.told()
		return
	}
	c := gitsync.Commit{
		Hash: fmt.Sprint("k", len(w.commands)+1), Author: gitsync.Identity{Name: "Ann"}, Time: w.now, Message: r.Message(),
	}
	w.commands = slices.Insert(w.commands, 0, c)
	w.logf("Ann asks %s: %s", c.Hash, k)
	if w.agent != nil {
		w.agent.fetch()
	}
}

// told has the agent hear of gates.
func (w *world) told() {
	if w.agent != nil {
		w.agent.agent.Asked(appName)
	}
}

// close closes a gate, or opens them all.
func (w *world) close() {
	w.gates = nil
	if w.chance(40) {
		at := []rollout.Moment{rollout.AtBegin, rollout.AtApply, rollout.AtStep, rollout.AtPromotion}[w.r.IntN(4)]
		w.gates = []rollout.Gate{{Name: "wave", At: at, Reason: "another cluster is not done", Overridable: w.chance(50)}}
	}
	w.logf("gates: %v", w.gates)
	w.told()
}

// flap takes pods away for a while.
func (w *world) flap() {
	if len(w.cluster.pods) == 0 {
		return
	}
	p := w.cluster.pods[w.r.IntN(len(w.cluster.pods))]
	p.downUntil = w.now.Add(time.Duration(1+w.r.IntN(30)) * time.Second)
	w.watch.hurt, w.watch.served = p.downUntil, false
	w.logf("pods of %s go down", p.deployment)
}

// edit is somebody with kubectl.
func (w *world) edit() {
	if w.apiAway {
		return
	}
	w.watch.hurt = w.now
	if w.chance(10) && w.cluster.saved != nil {
		w.cluster.touched = true
		w.logf("somebody writes to the saved state")
		return
	}
	if w.chance(10) && w.cluster.losable() {
		w.cluster.saved, w.cluster.directID, w.cluster.touched = nil, "", true // the inventory is still in the agent's memory
		w.logf("somebody deletes the saved state")
		return
	}
	weight := int64(w.r.IntN(101))
	if w.chance(60) && w.cluster.editWeight(weight) {
		w.watch.tampered = true
		w.logf("somebody sets the canary's weight to %d", weight)
		w.notice()
		return
	}
	if keys := slices.Sorted(maps.Keys(w.cluster.objects)); len(keys) > 0 {
		k := keys[w.r.IntN(len(keys))]
		w.watch.tampered, w.watch.served = true, false
		w.cluster.take(k)
		w.logf("somebody deletes %s", k)
		w.notice()
	}
}

// people push to the environment branch.
func (w *world) people() {
	stable, before := "good0", ""
	s := w.state()
	if s.Stable.Digest != "" {
		stable = s.Stable.Digest
	}
	if len(s.Served) > 0 {
		before = s.Served[0].Release.Digest
	}
	tip := w.git.tip()
	pick := w.r.IntN(20)
	c := w.git.push(func(c *commit) {
		c.policy = w.base()
		switch {
		case tip.digest == "":
			c.digest = "good1"
		case pick < 10:
			c.digest = fmt.Sprint(kinds[w.r.IntN(len(kinds))], w.r.IntN(3), names[w.r.IntN(len(names))])
		case pick < 12:
			c.digest = stable
		case pick < 13 && before != "": // it has failed in another cluster
			c.digest, c.takes = before, stable
		case pick < 15:
			c.digest = fmt.Sprint(template(tip.digest), "+", w.r.IntN(3))
		case pick < 16:
			c.policy.Suspend = true
		case pick < 17:
			c.digest = ""
		case pick < 18:
			c.off = true
		}
	})
	w.logf("git: %s asks for %q suspend=%v off=%v", c.id, c.digest, c.policy.Suspend, c.off)
	if c.takes != "" {
		w.logf("git: that takes %s back, which failed elsewhere", c.takes)
	}
	if pick >= 18 && tip.digest != "" { // taken back and merged again
		w.git.push(func(c *commit) { c.digest = stable })
		c := w.git.push(func(c *commit) { c.digest = tip.digest })
		w.logf("git: %s asks for %s again", c.id, c.digest)
	}
}

// calm ends the trouble; what is under way comes to its end.
func (w *world) calm() {
	w.logf("calm")
	w.troubled, w.apiAway, w.gitAway, w.promAway, w.chartsAway, w.refusing = false, false, false, false, false, 0
	w.gates = nil
	w.calmHooks()
	w.ask(rollout.Resume)
	w.ask(rollout.Unhold)
	tip := w.git.tip()
	if tip.policy.Suspend || tip.off || tip.digest == "" {
		w.git.push(func(c *commit) {
			c.policy = w.base()
			if c.digest == "" {
				c.digest = "good1"
			}
		})
	}
}

// resting reports whether the agent believes that all is done, and has read the newest commit.
func (w *world) resting() bool {
	p, s := w.agent, w.state()
	if p == nil || w.now.Before(w.watch.hurt.Add(deadline)) || p.read != w.git.tip().id {
		return false
	}
	if w.cluster.saved == nil && len(w.cluster.records) > 0 && !w.skipSave && p.agent.Settled() {
		// What the agent remembers it has no reason to write again before it has something new to say.
		w.logf("the agent is started again")
		w.agent, w.upAt = nil, w.now
		return false
	}
	if w.protected && !s.InFlight() && !s.Stable.IsZero() && s.Stable.Digest != w.git.tip().digest {
		w.git.push(func(c *commit) { c.digest = s.Stable.Digest }) // somebody merges the rollback
		return false
	}
	if s.Phase == rollout.Installing && w.installedForGood() {
		w.git.push(func(c *commit) { c.digest = "good1" })
		return false
	}
	if len(p.commands.Pending(appName, s)) > 0 || w.cluster.directID != "" && s.LastDirect != w.cluster.directID {
		return false
	}
	switch { // an older command from git may have come after the one that was left beside the state
	case s.Pause != nil:
		w.ask(rollout.Resume)
		return false
	case s.Hold != nil:
		w.ask(rollout.Unhold)
		return false
	}
	if s.Waiting == rollout.ApprovalGate {
		if w.now.Sub(w.approvedAt) > time.Minute {
			w.approvedAt = w.now
			w.ask(rollout.Approve)
		}
		return false
	}
	return p.agent.Settled() && !p.waits()
}

// installedForGood: a first release that does not start is there until somebody asks for another.
func (w *world) installedForGood() bool {
	k := kind(w.git.tip().digest)
	return k == "crash" || k == "never"
}
