package sim

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// watch holds the invariants against what the servers see. It knows nothing of the agent's state but the events.
type watch struct {
	w *world
	// canary is the canary's Deployment, image what it runs; peak the highest weight that the agent gave it, since when.
	canary    string
	image     string
	peak      int64
	peakSince time.Time
	pass      passing
	// emptied is when the agent last took all traffic from the canary.
	emptied time.Time
	// serving are the images that the stable track came by without a canary.
	serving map[string]bool
	// tampered: people have changed objects since the last whole pass.
	tampered bool
	// removing: nobody is to be served any more. Objects go newest first, a canary before the routing to it.
	removing bool
	// unknown: there is a canary of which, with its state, all has been lost.
	unknown bool
	// late: the cluster did not take the traffic off the canary until the deadline. Then nobody waits for it any longer.
	late bool
	// installed: a release has been ready, so users count on one. served: they have been served since somebody last
	// took that from them.
	installed, served bool
	// hurt is when something last kept the cluster from being as decided.
	hurt time.Time
	// dark counts whole passes that found traffic on a canary that is not there while stable could take it.
	dark    int
	darkNow bool
	// canaryUp and stableUp are what the agent last saw of those who serve.
	canaryUp, stableUp bool
	// failed are releases, by digest and commit, that were rolled back.
	failed map[string]bool
	// back is where the last rollback goes.
	back string
	// owed are the events of saved states, in order.
	owed   []rollout.Event
	writes int
	// answered are the commands that were taken, by what answered them, since the state was last lost. forced: a person has
	// had this canary get on without a pass.
	answered map[string]bool
	// guessed are the versions whose policy was lost with the state, and could not be read again in time: so the agent's log says.
	guessed map[string]bool
	forced  bool
	// hooks are what the webhooks have said.
	hooks answers
	// asked is when the agent last asked metrics or decided something, or had no reason to ask.
	asked time.Time
}

// mostLate is how late a check may be: an app has its turn every few seconds, also when it fails.
const mostLate = 15 * time.Second

// checked: while a canary has traffic and nothing stands against it, its checks come in time, whoever else wants a turn.
func (c *watch) checked() {
	w, s := c.w, c.w.state()
	if s.Phase != rollout.Analyzing || w.agent == nil || w.agent.dead || w.apiAway || w.refusing > 0 || !c.canaryUp || !c.stableUp ||
		w.now.Before(c.hurt.Add(mostLate)) || c.tampered {
		c.asked = w.now
		return
	}
	if late := w.now.Sub(c.asked) - interval; late > mostLate {
		w.failf("a check is %s late", late)
	}
}

func (c *watch) passed(image string, weight int64, at time.Time) { c.pass = passing{image, weight, at} }

func (c *watch) observed(s seen) {
	cl := c.w.cluster
	c.canaryUp, c.stableUp = cl.up(canaryName), cl.up(appName)
	if weight := cl.canaryWeight(); s.applied && weight > c.peak {
		c.peak, c.peakSince = weight, c.w.now // somebody else has set just what was to be set
	}
	c.darkNow = cl.canaryWeight() > 0 && !c.canaryUp && c.stableUp
}

func (c *watch) passDone() {
	c.tampered = false
	if !c.darkNow {
		c.dark = 0
		return
	}
	if c.dark++; c.dark > 3 {
		c.w.failf("%d%% go to a canary without ready pods for %d passes", c.w.cluster.canaryWeight(), c.dark)
	}
}

// wrote looks at an object that the agent applied in place of another.
func (c *watch) wrote(was, o *unstructured.Unstructured) {
	c.writes++
	if n, found, _ := unstructured.NestedInt64(o.Object, "spec", "replicas"); found && n < 2 {
		c.w.failf("%s gets %d replicas, the chart says 2", keyOf(o), n)
	}
	switch {
	case o.GetKind() == "Deployment" && !isCanary(o.GetName()):
		c.wroteStable(o)
	case o.GetKind() == "Deployment":
		if image := imageOf(o); image != c.image {
			if c.w.cluster.canaryWeight() > 0 && !c.tampered {
				c.w.failf("the canary's pods become %s under traffic", trim(image))
			}
			c.canary, c.image, c.peak, c.pass = o.GetName(), image, 0, passing{}
		}
	case keyOf(o) == "VirtualService "+appName:
		var before int64
		if was != nil {
			before = weightIn(was)
		}
		c.routed(before, weightIn(o))
		c.led(o)
	}
}

func trim(image string) string { return strings.TrimPrefix(image, registry) }

func weightIn(vs *unstructured.Unstructured) int64 {
	for _, s := range sharesOf(vs) {
		if s.host == canaryName {
			return s.weight
		}
	}
	return 0
}

// wroteStable: with a canary strategy the stable track gets nothing that has not passed as canary at the highest
// weight, except what it had before: whatever name its Deployment goes by, and be it there already or not.
func (c *watch) wroteStable(o *unstructured.Unstructured) {
	image := imageOf(o)
	if c.w.strategy != environments.StrategyCanary || c.serving[image] {
		return
	}
	if c.forced && image == c.image {
		c.serving[image] = true
		return
	}
	if c.pass.image != image || c.pass.weight != 60 && !c.tampered {
		c.w.failf("stable becomes %s, whose last pass was at %d%% of %s", trim(image), c.pass.weight, trim(c.pass.image))
	}
	if kind(trim(image)) != "good" {
		c.w.failf("stable becomes %s", trim(image))
	}
	if c.w.hooked && !c.tampered {
		c.hooks.promoted(c.w, image)
	}
	c.serving[image] = true
}

// Enabled implements slog.Handler: a watch is the agent's log.
func (c *watch) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle implements slog.Handler.
func (c *watch) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "the policy of what serves is not known") {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "release" {
				c.guessed[a.Value.String()] = true
				c.w.logf("the policy of %s is guessed", a.Value)
			}
			return true
		})
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (c *watch) WithAttrs([]slog.Attr) slog.Handler { return c }

// WithGroup implements slog.Handler.
func (c *watch) WithGroup(string) slog.Handler { return c }

// led: users are led as the policy of a release says that serves them from the stable track, never as that of one on trial.
func (c *watch) led(vs *unstructured.Unstructured) {
	decided, _ := c.w.state().Tracks()
	if c.w.charts.brought || c.tampered || c.guessed[decided.Version] {
		return
	}
	routes, _, _ := unstructured.NestedSlice(vs.Object, "spec", "http")
	for _, route := range routes {
		timeout, _, _ := unstructured.NestedString(route.(map[string]any), "timeout")
		if timeout != timeoutOf(template(decided.Digest)) {
			c.w.failf("users are led with the timeout %s, which no release says that serves them: %s", timeout, describe(decided))
		}
	}
}

// routed: weight rises by a pass at the weight before, held for an interval.
func (c *watch) routed(before, weight int64) {
	if weight > before && !c.canaryUp && c.stableUp && !c.tampered {
		c.w.failf("weight rises from %d to %d without ready canary pods", before, weight)
	}
	if weight == 0 && before > 0 && !c.tampered {
		c.emptied = c.w.now
	}
	if weight <= c.peak {
		return
	}
	c.asked = c.w.now // the step begins; the answer to what decided it may have been lost
	if c.w.hooked && c.peak == 0 && !c.forced && !c.tampered {
		c.hooks.exposed(c.w, c.image)
	}
	switch p := c.pass; {
	case c.forced:
	case c.peak == 0 && weight > 20:
		c.w.failf("the first weight is %d", weight)
	case c.peak == 0:
	case p.image != c.image || p.weight != c.peak && !c.tampered:
		c.w.failf("weight rises from %d to %d after a pass at %d of %q", c.peak, weight, p.weight, trim(p.image))
	case p.at.Sub(c.peakSince) < interval:
		c.w.failf("weight rises from %d to %d on a check %s after it was set", c.peak, weight, p.at.Sub(c.peakSince))
	}
	c.peak, c.peakSince = weight, c.w.now
}

func (c *watch) deleted(was *unstructured.Unstructured) {
	c.writes++
	if was == nil || was.GetKind() != "Deployment" || !isCanary(was.GetName()) {
		return
	}
	if held := c.w.now.Sub(c.emptied); held < interval && !c.removing && !c.unknown && !c.late {
		c.w.failf("the canary goes %s after its traffic", held)
	}
	if was.GetName() == c.canary { // else another one has taken its place already
		c.canary, c.image, c.peak, c.pass = "", "", 0, passing{}
	}
}

// objects looks at the cluster after an effect.
func (c *watch) objects() {
	cl := c.w.cluster
	var sum int64
	for _, s := range cl.shares() {
		sum += s.weight
		// Without a canary strategy the chart's routing is an object like any other, and a first release that another
		// takes the place of before it was ready has routing that leads to nobody.
		routed := c.w.strategy == environments.StrategyCanary && c.installed
		if s.weight > 0 && !cl.leads(s.host) && routed && !c.tampered && !c.removing {
			c.w.failf("%d%% go to %s, which is not there", s.weight, s.host)
		}
	}
	if sum != 100 && cl.shares() != nil {
		c.w.failf("weights add up to %d: %v", sum, cl.shares())
	}
	for _, service := range []string{appName, canaryName} {
		for _, p := range cl.endpoints(service) {
			if isCanary(p.deployment) != (service == canaryName) {
				c.w.failf("Service %s selects pods of %s", service, p.deployment)
			}
			if service == canaryName && cl.canaryWeight() > 0 && p.deployment != c.canary && !c.tampered {
				c.w.failf("%d%% go to %s and, of another canary, %s", cl.canaryWeight(), c.canary, p.deployment)
			}
		}
	}
	for _, d := range cl.deployments() {
		c.selects(d)
	}
	c.serves()
}

// selects: a Deployment never selects another's pods.
func (c *watch) selects(d *unstructured.Unstructured) {
	selector, _, _ := unstructured.NestedMap(d.Object, "spec", "selector", "matchLabels")
	for _, p := range c.w.cluster.pods {
		if matches(selector, p.labels) != (p.deployment == d.GetName()) {
			c.w.failf("Deployment %s and the pods of %s: selector %v, labels %v", d.GetName(), p.deployment, selector, p.labels)
		}
	}
}

// serves: once a release was ready there is always a ready pod behind the app's Service, whatever release comes, fails,
// is given up or replaced, and whatever the agent's writes meet. Three things excuse that there is none: nothing was
// ever ready, or git no longer lists the app; somebody deleted what serves; and its pods are down. The last two are over
// when a whole pass has found no trace of them and users are served again: the agent may have decided on what it saw
// before.
func (c *watch) serves() {
	up := c.w.cluster.up(appName)
	switch {
	case !c.installed || c.removing:
		c.served = false
	case up && !c.tampered && !c.w.cluster.down(c.w.now):
		c.served = true
	case !up && c.served:
		c.w.failf("nobody is served: Service %s selects no ready pod of %s", appName, c.w.cluster.podsText())
	}
}

// decided looks at the events of a state that is saved.
func (c *watch) decided(events []rollout.Event, s rollout.State) {
	c.asked = c.w.now // what was decided may have begun a step
	if err := rollout.Check(s); err != nil {
		c.w.failf("saved state: %v", err)
	}
	c.removing = s.Phase == rollout.Removing
	c.late = s.Drained && (c.late || c.w.cluster.canaryWeight() > 0)
	for _, e := range events {
		c.w.seen[e.Type]++
		c.w.logf("event %d %s %s -> %s %d%% %s", e.Seq, e.Type, describe(e.From), describe(e.To), e.Weight, e.Reason)
		if e.Type == rollout.RollbackStarted && kind(e.To.Digest) == "good" && e.Command == "" && c.w.now.Sub(c.hurt) > 3*deadline &&
			!c.w.git.tookBack(e.To.Digest) {
			c.w.failf("%s is rolled back although nothing was wrong with it: %s", e.To.Digest, e.Reason)
		}
		c.tried(e)
		if c.w.hooked {
			c.hooks.decided(c.w, e)
		}
		if e.Type == rollout.RolloutStarted || e.Type == rollout.InstallStarted {
			delete(c.guessed, e.To.Version) // it comes with its policy
		}
		switch {
		case e.Type == rollout.RollbackStarted:
			c.back = e.From.Digest
		case e.Type == rollout.Applied && template(e.To.Digest) == template(c.back): // on the way, for the pods are the same
			c.back = e.To.Digest
		case e.Type == rollout.RolledBack && (e.From.Digest != c.back || s.Phase == rollout.Idle && s.Stable.Digest != c.back):
			c.w.failf("rolled back to %s, and %s was meant", describe(s.Stable), c.back)
		}
		c.unknown = e.Type == rollout.Recovered && e.To.IsZero() || c.unknown && e.Type != rollout.RolloutStarted
	}
	c.owe(events)
}

// tried: what failed is not tried again until somebody asks.
func (c *watch) tried(e rollout.Event) {
	switch e.Type {
	case rollout.RollbackStarted:
		c.failed[describe(e.To)] = true
	case rollout.Retried:
		maps.DeleteFunc(c.failed, func(r string, _ bool) bool { return strings.HasPrefix(r, e.To.Digest+"@") })
	case rollout.RolloutStarted:
		if c.failed[describe(e.To)] {
			c.w.failf("%s is tried again, and nobody asked", describe(e.To))
		}
	case rollout.Removed:
		clear(c.failed)
	}
}

// answer: what people ask is done or refused once.
func (c *watch) answer(e rollout.Event) {
	switch e.Type {
	case rollout.RolloutStarted:
		c.forced = false
	case rollout.Advanced, rollout.PromotionStarted:
		c.forced = c.forced || e.Command != ""
	}
	if e.Command == "" {
		return
	}
	by := e.Command + " " + string(e.Type)
	if c.answered[by] {
		c.w.failf("%s once more", by)
	}
	c.answered[by] = true
}

// fresh are the events of a state that no state before has had.
func (c *watch) fresh(s rollout.State) []rollout.Event {
	return slices.DeleteFunc(slices.Clone(s.Outbox), func(e rollout.Event) bool {
		return slices.ContainsFunc(c.owed, func(x rollout.Event) bool { return idOf(x) == idOf(e) })
	})
}

// owe notes the events of a saved state that git is to hold.
func (c *watch) owe(events []rollout.Event) {
	for _, e := range events {
		switch e.Type {
		case rollout.InstallStarted:
			c.serving[registry+template(e.To.Digest)] = true
		case rollout.Installed:
			c.installed = true
		case rollout.Removed:
			c.installed = false
		}
		if !slices.ContainsFunc(c.owed, func(x rollout.Event) bool { return idOf(x) == idOf(e) }) {
			c.owed = append(c.owed, e)
			c.answer(e)
		}
	}
}

// lost: the state is gone and with it what nothing else tells: the events that git did not hold yet, and what failed.
func (c *watch) lost(log []rollout.Event) {
	c.owed = slices.DeleteFunc(c.owed, func(e rollout.Event) bool {
		return !slices.ContainsFunc(log, func(x rollout.Event) bool { return idOf(x) == idOf(e) })
	})
	clear(c.failed)
	clear(c.answered)
	c.hooks.untold = nil
	if c.removing {
		// Be it listed again or not: nobody knows of any release any more, nor of the canary's.
		c.installed, c.unknown = false, true
	}
}

// idOf names an event whatever its number.
func idOf(e rollout.Event) string {
	return fmt.Sprint(e.Time.UnixNano(), e.Type, e.Rollout, e.To.Digest, e.Weight, e.Reason)
}

// logged: the audit log has every event that is owed once, in order, and numbers without gaps.
func (c *watch) logged() {
	var got []string
	have := map[string]bool{}
	for i, e := range c.w.git.log {
		if e.Seq != int64(i)+1 {
			c.w.failf("event %d of the log has number %d", i+1, e.Seq)
		}
		if have[idOf(e)] {
			c.w.failf("the log has %s twice", idOf(e))
		}
		have[idOf(e)] = true
		if slices.ContainsFunc(c.owed, func(x rollout.Event) bool { return idOf(x) == idOf(e) }) {
			got = append(got, idOf(e))
		}
	}
	for i, e := range c.owed {
		if i >= len(got) || got[i] != idOf(e) {
			c.w.failf("event %d that is owed, %s of %s, is not in the log where it belongs", i, e.Type, e.To.Digest)
		}
	}
}

// rest: the cluster holds what git says, the log says so, and a pass writes nothing.
func (c *watch) rest() {
	w, g := c.w, c.w.git
	p := w.agent
	force := func() {
		p.news(appName)
		for looks := 0; p.pass(); looks++ {
			if p.fire(); looks > 100 {
				w.failf("the agent does not come to rest")
			}
		}
	}
	state := func() rollout.State { return w.state() }
	if s := state(); s.Stable.Digest != g.tip().digest {
		w.failf("git says %s, stable is %s: %s", g.tip().digest, describe(s.Stable), normal(s))
	}
	for range 3 {
		w.now = w.now.Add(10 * time.Second)
		w.cluster.control(w.now, func() bool { return false })
		force()
	}
	plan := rollout.NewPlan(w.charts.policy(w.base(), state().Stable.Digest))
	d, err := project.Project(w.charts.input(rollout.State{Stable: state().Stable, Plan: &plan}))
	if err != nil {
		w.failf("projecting the rest: %v", err)
	}
	if s := w.cluster.observe(d); !s.applied || !s.stable.Ready || len(w.cluster.objects) != len(all(d)) {
		w.failf("at rest the cluster is not what %s says: %s, %d objects instead of %d, ready %v", g.tip().digest, s.pending,
			len(w.cluster.objects), len(all(d)), s.stable.Ready)
	}
	if s := state(); s.Revert != nil || len(s.Outbox) != 0 {
		w.failf("git is owed something: %s", normal(s))
	}
	c.logged()
	if w.hooked {
		c.hooks.rest(w)
	}
	writes, commits, log, before := c.writes, len(g.commits), len(g.log), string(w.cluster.saved)
	for range 3 {
		w.now = w.now.Add(time.Minute)
		p.fire()
		p.fetch()
		force()
		p.record()
	}
	if c.writes != writes || len(g.commits) != commits || len(g.log) != log || string(w.cluster.saved) != before {
		w.failf("an idle pass changes something:\n%s\n%s", before, w.cluster.saved)
	}
}
