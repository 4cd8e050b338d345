package rollout_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// TestTranscripts runs the stories of testdata. Each observe is one call of Next, in a world that is healthy but for
// what the line says. After -rewrite, commit a change only if you understand what caused it and want it.
//
// Commands:
//
//	policy [rolling] [skip] [suspend] [interval=60s] [deadline=10m] [threshold=2] [limit=3] [max=50] [step=10]
//	       [steps=(1,5,50)] [promotion=20] [pre-rollout] [event] [post-rollout]
//	git VERSION|away|removed [commit=c1] [takes=VERSION]
//	       takes: the commit is a rollback commit of cluster eu that takes that version back. what git asks for from now on. VERSION+x differs from VERSION in what no pod sees, VERSION~x in pods.
//	observe [+60s] [-60s] [pending] [stable=S] [canary=S] [verdict=pass|fail|decisive|inconclusive|none] [asked=-30s]
//	       [admission=pass|fail|inconclusive] [recall] [told=N] [reason=(..)] [reverted=COMMIT] [proposed=BRANCH] [skipped=(..)] [of=ROLLOUT] [back]
//	       S is ready (the default), slow (takes traffic, not rolled out), down, or crashing. pending: the cluster does
//	       not hold the projection yet. asked: when the verdict was asked, relative to now. back: the cluster answers
//	       again since now, after an outage.
//	record N|all
//	       the audit log holds the events up to N from now on.
//	due    when time alone matters next.
//	show   the outbox, the pending rollback commit, what was rejected.
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		w := newWorld(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.t = t
			return w.run(d)
		})
	})
}

// world is the little that a transcript has around Next.
type world struct {
	t        *testing.T
	now      time.Time
	state    rollout.State
	plan     rollout.Plan
	desired  rollout.Release
	taken    *rollout.TakenBack
	removed  bool
	recorded int64
	watched  time.Time
	// commands are all that was ever asked.
	commands []rollout.Command
	gates    []rollout.Gate
	// direct is the command that stands beside the state.
	direct *rollout.Command
}

// ask is "ask <kind> [by=..] [reason=(..)] [to=VERSION] [direct] [for=DURATION]".
func (w *world) ask(d *datadriven.TestData) {
	c := rollout.Command{
		ID: fmt.Sprint("k", len(w.commands)+1), Kind: rollout.CommandKind(d.CmdArgs[0].Key), By: "Ann", Reason: arg(d, "reason"),
	}
	if by := arg(d, "by"); by != "" {
		c.By = by
	}
	c.To = arg(d, "to")
	if lasts := arg(d, "for"); lasts != "" {
		c.Expires = w.now.Add(duration(d, lasts))
	}
	if d.HasArg("direct") {
		c.ID = fmt.Sprint("d", len(w.commands)+1)
		w.direct = &c
		return
	}
	w.commands = append(w.commands, c)
}

// setGate is "gate <name> at=begin|apply|step|promotion [open] [overridable] [unread] [reason=(..)] [changes=DURATION]".
func (w *world) setGate(d *datadriven.TestData) {
	g := rollout.Gate{Name: d.CmdArgs[0].Key, At: rollout.Moment(arg(d, "at")), Open: d.HasArg("open"), Reason: arg(d, "reason")}
	g.Overridable, g.Unread = d.HasArg("overridable"), d.HasArg("unread")
	if in := arg(d, "changes"); in != "" {
		g.NextChange = w.now.Add(duration(d, in))
	}
	w.gates = slices.DeleteFunc(w.gates, func(x rollout.Gate) bool { return x.Name == g.Name && x.At == g.At })
	w.gates = append(w.gates, g)
}

// since are the commands after the one that was taken last.
func (w *world) since(last string) []rollout.Command {
	i := slices.IndexFunc(w.commands, func(c rollout.Command) bool { return c.ID == last })
	return w.commands[i+1:]
}

func newWorld(t *testing.T) *world {
	return &world{t: t, now: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
}

func (w *world) run(d *datadriven.TestData) string {
	switch d.Cmd {
	case "policy":
		w.plan = parsePlan(d)
		weights := make([]int, len(w.plan.Steps))
		for i, step := range w.plan.Steps {
			weights[i] = step.Weight
		}
		return fmt.Sprintf("weights %v", weights)
	case "git":
		w.setDesired(d)
		return "ok"
	case "ask":
		w.ask(d)
		return "ok"
	case "gate":
		w.setGate(d)
		return "ok"
	case "record":
		w.recorded = w.state.LastSeq
		if v := d.CmdArgs[0].Key; v != "all" {
			w.recorded = int64(integer(d, v))
		}
		return "ok"
	case "observe":
		return w.observe(d)
	case "try":
		return w.try()
	case "due":
		return w.due()
	case "show":
		return w.show()
	}
	return "unknown command " + d.Cmd
}

func (w *world) setDesired(d *datadriven.TestData) {
	w.desired, w.removed, w.taken = rollout.Release{}, false, nil
	if bad := arg(d, "takes"); bad != "" {
		w.taken = &rollout.TakenBack{
			Cluster: "eu", Release: rollout.Release{Version: bad, Digest: bad + " as eu renders it", Commit: "c-" + bad}, Reason: "success rate 69.17% < 99%",
		}
	}
	switch what := d.CmdArgs[0].Key; what {
	case "away":
	case "removed":
		w.removed = true
	default:
		version, _, _ := strings.Cut(what, "~")
		version, _, _ = strings.Cut(version, "+")
		w.desired = rollout.Release{Version: version, Digest: what, Commit: "c-" + what, By: arg(d, "by")}
		if c := arg(d, "commit"); c != "" {
			w.desired.Commit = c
		}
	}
}

// change is how two releases differ, told from their made-up digests.
func change(a, b rollout.Release) rollout.Change {
	if a.Digest == b.Digest {
		return rollout.ChangeNone
	}
	x, _, _ := strings.Cut(a.Digest, "+")
	y, _, _ := strings.Cut(b.Digest, "+")
	if x == y {
		return rollout.ChangePlain
	}
	return rollout.ChangePods
}

func (w *world) observation() rollout.Observation {
	return rollout.Observation{
		Now: w.now, Desired: w.desired, TakenBack: w.taken, Removed: w.removed, Plan: w.plan, Recorded: w.recorded,
		FromStable: change(w.state.Stable, w.desired), FromTarget: change(w.state.Target, w.desired),
		Applied: true, WatchedSince: w.watched, Stable: track("ready"), Canary: track("ready"),
		Commands: w.since(w.state.LastCommand), Direct: w.direct, Gates: w.gates,
	}
}

func (w *world) observe(d *datadriven.TestData) string {
	o := w.observation()
	verdict, admission := analysis.Verdict{}, analysis.Verdict{}
	answer := rollout.Reverted{}
	for _, a := range d.CmdArgs {
		value := strings.Join(a.Vals, ", ")
		switch {
		case strings.HasPrefix(a.Key, "+"), strings.HasPrefix(a.Key, "-"):
			o.Now = o.Now.Add(duration(d, a.Key))
		case a.Key == "pending":
			o.Applied, o.Stable.Ready, o.Canary.Ready = false, false, false
		case a.Key == "exposed": // something is not as desired, but nothing that leads users
			o.Applied, o.Exposed = false, true
		case a.Key == "stable":
			o.Stable = track(value)
		case a.Key == "canary":
			o.Canary = track(value)
		case a.Key == "verdict":
			verdict.Outcome, verdict.Decisive = outcome(value)
			verdict.Reason = "success rate 99.90% >= 99%"
			if verdict.Outcome != analysis.Pass {
				verdict.Reason = "success rate 69.17% < 99%"
			}
			if verdict.Outcome == analysis.Inconclusive {
				verdict.Reason = "success rate: no requests in 60s"
			}
		case a.Key == "admission":
			admission.Outcome, _ = outcome(value)
			admission.Reason = "webhook acceptance: it has answered"
		case a.Key == "told":
			o.Told = int64(integer(d, value))
		case a.Key == "recall":
			o.Recall = "webhook halt says so: it answered 200 OK"
		case a.Key == "reason":
			verdict.Reason = value
		case a.Key == "reverted":
			answer.Commit = value
		case a.Key == "proposed":
			answer.Branch = value
		case a.Key == "skipped":
			answer.Skipped = value
		case a.Key == "of":
			answer.Rollout = int64(integer(d, value))
		case a.Key == "back":
			w.watched = o.Now
		case a.Key == "asked":
		default:
			d.Fatalf(w.t, "unknown argument %s", a.Key)
		}
	}
	w.now, o.WatchedSince = o.Now, w.watched
	if verdict.Outcome != "" {
		verdict.At = w.now
		if by := arg(d, "asked"); by != "" {
			verdict.At = w.now.Add(duration(d, by))
		}
		verdict.Results = []analysis.Result{{Check: "request-success-rate", Outcome: verdict.Outcome, Reason: verdict.Reason}}
		o.Verdict = &verdict
	}
	if admission.Outcome != "" {
		admission.At = w.now
		o.Admission = &admission
	}
	if answer != (rollout.Reverted{Rollout: answer.Rollout}) {
		o.Reverted = &answer
	}
	before := w.state
	next, events := checkedNext(w.t, before, o)
	w.state = reloaded(w.t, next)
	text := describe(before, w.state)
	for _, e := range events {
		text += "\n  " + describeEvent(e)
	}
	return text
}

// try says what each command would do now, and does none of them.
func (w *world) try() string {
	var lines []string
	for _, k := range kinds {
		o := w.observation()
		o.Commands, o.Direct = []rollout.Command{{ID: "k", Kind: k, By: "Ann"}}, nil
		next, events := checkedNext(w.t, w.state, o)
		line := string(k) + ":"
		for _, e := range events {
			if e.Command == "" {
				line += fmt.Sprintf(" (%s)", e.Type)
				continue
			}
			line += " " + string(e.Type)
			if e.Reason != "" {
				line += ": " + strings.TrimPrefix(e.Reason, string(k)+": ")
			}
		}
		if next.Phase != w.state.Phase {
			line += fmt.Sprintf(" -> %s", orIdle(next.Phase))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func orIdle(p rollout.Phase) string {
	if p == rollout.Idle {
		return "Idle"
	}
	return string(p)
}

// checkedNext is Next with what must hold of every call.
func checkedNext(t testing.TB, s rollout.State, o rollout.Observation) (rollout.State, []rollout.Event) {
	t.Helper()
	input := clone(s)
	next, events := rollout.Next(s, o)
	if !same(s, input) {
		t.Errorf("Next changed its input from\n%s\nto\n%s", encode(t, input), encode(t, s))
	}
	again, repeated := rollout.Next(s, o)
	if !same(next, again) || !slices.EqualFunc(events, repeated, sameEvent) {
		t.Errorf("two answers to one question:\n%s\n%s", encode(t, next), encode(t, again))
	}
	// A command may come in between.
	if did, says := took(s, next, o.Desired), s.Takes(o) && o.Unfit == ""; did != says && (did || len(o.Commands) == 0) {
		t.Errorf("takes %v over: %t, and says otherwise", o.Desired, did)
	}
	if err := rollout.CheckTransition(s, o, next, events); err != nil {
		t.Errorf("%v\nbefore %s\nafter  %s", err, encode(t, input), encode(t, next))
	}
	return next, events
}

// took reports whether a release came onto a track.
func took(before, after rollout.State, r rollout.Release) bool {
	on := func(s rollout.State) bool { return s.Stable.Digest == r.Digest || s.Target.Digest == r.Digest }
	return !r.IsZero() && on(after) && !on(before)
}

// clone is a State that shares no memory with s but the results of checks and the policy.
func clone(s rollout.State) rollout.State {
	s.Outbox, s.Rejected, s.Untold = slices.Clone(s.Outbox), slices.Clone(s.Rejected), slices.Clone(s.Untold)
	if s.Revert != nil {
		r := *s.Revert
		s.Revert = &r
	}
	for _, asked := range []**rollout.Asked{&s.Pause, &s.Hold} {
		if *asked != nil {
			a := **asked
			*asked = &a
		}
	}
	return s
}

// same is reflect.DeepEqual for States, at a hundredth of its price under the fuzzer, which watches every branch of
// reflection.
func same(x, y rollout.State) bool {
	return x.Phase == y.Phase && x.Stable == y.Stable && x.Target == y.Target && x.Rollouts == y.Rollouts &&
		x.Step == y.Step && x.Weight == y.Weight && x.Peak == y.Peak && x.Drained == y.Drained &&
		x.Since == y.Since && x.StepSince == y.StepSince && x.LastCheck == y.LastCheck &&
		x.FailedChecks == y.FailedChecks && x.InconclusiveChecks == y.InconclusiveChecks && x.Lost == y.Lost &&
		x.Stalled == y.Stalled && x.Reason == y.Reason && x.Outcome == y.Outcome && slices.Equal(x.Rejected, y.Rejected) &&
		reflect.DeepEqual(x.Revert, y.Revert) && reflect.DeepEqual(x.Plan, y.Plan) && x.LastSeq == y.LastSeq &&
		sameValue(x.Pause, y.Pause) && sameValue(x.Hold, y.Hold) && x.Waiting == y.Waiting && slices.Equal(x.Approved, y.Approved) && sameValue(x.Override, y.Override) && x.Returning == y.Returning && x.Following == y.Following && reflect.DeepEqual(x.Served, y.Served) && reflect.DeepEqual(x.StablePlan, y.StablePlan) && x.LastCommand == y.LastCommand && x.LastDirect == y.LastDirect &&
		slices.EqualFunc(x.Outbox, y.Outbox, sameEvent) && slices.EqualFunc(x.Untold, y.Untold, func(a, b rollout.Untold) bool {
		return sameEvent(a.Event, b.Event) && reflect.DeepEqual(a.Hooks, b.Hooks)
	})
}

func sameValue[T comparable](x, y *T) bool { return x == y || x != nil && y != nil && *x == *y }

func sameEvent(x, y rollout.Event) bool {
	return x.Seq == y.Seq && x.Time == y.Time && x.Type == y.Type && x.Rollout == y.Rollout && x.From == y.From &&
		x.To == y.To && x.Weight == y.Weight && x.Reason == y.Reason && x.Commit == y.Commit && x.Branch == y.Branch && x.URL == y.URL &&
		x.By == y.By && x.Command == y.Command && x.Verified == y.Verified &&
		(len(x.Results) == 0 && len(y.Results) == 0 || reflect.DeepEqual(x.Results, y.Results))
}

// A field that same does not know would go unwatched.
func TestSame(t *testing.T) {
	for i := range reflect.TypeFor[rollout.State]().NumField() {
		var s rollout.State
		poke(t, reflect.ValueOf(&s).Elem().Field(i))
		if same(s, rollout.State{}) {
			t.Errorf("same does not look at State.%s", reflect.TypeFor[rollout.State]().Field(i).Name)
		}
	}
	for i := range reflect.TypeFor[rollout.Event]().NumField() {
		var e rollout.Event
		poke(t, reflect.ValueOf(&e).Elem().Field(i))
		if sameEvent(e, rollout.Event{}) {
			t.Errorf("sameEvent does not look at Event.%s", reflect.TypeFor[rollout.Event]().Field(i).Name)
		}
	}
}

// poke gives a field a value that is not zero.
func poke(t *testing.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1, 0)))
			return
		}
		poke(t, v.Field(0))
	default:
		t.Fatalf("a field of kind %s", v.Kind())
	}
}

func encode(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// reloaded is the State as the cluster gives it back: every step of every transcript is a restart.
func reloaded(t testing.TB, s rollout.State) rollout.State {
	t.Helper()
	var back rollout.State
	if err := json.Unmarshal([]byte(encode(t, s)), &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(s, back) {
		t.Errorf("the state does not survive being saved:\n%s\n%s", encode(t, s), encode(t, back))
	}
	return back
}

func describe(before, s rollout.State) string {
	if reflect.DeepEqual(before, s) {
		return "unchanged"
	}
	var b strings.Builder
	phase := string(s.Phase)
	if s.Phase == rollout.Idle {
		phase = "Idle"
	}
	fmt.Fprintf(&b, "%s", phase)
	stable, canary := s.Tracks()
	fmt.Fprintf(&b, " stable=%s", name(stable))
	if !canary.IsZero() {
		fmt.Fprintf(&b, " canary=%s step=%d weight=%d", name(canary), s.Step, s.Weight)
	}
	if s.InFlight() && s.StepSince.IsZero() {
		b.WriteString(" (to apply)")
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"failed", s.FailedChecks}, {"inconclusive", s.InconclusiveChecks}} {
		if n.value > 0 {
			fmt.Fprintf(&b, " %s=%d", n.name, n.value)
		}
	}
	if s.Stalled != "" {
		b.WriteString(" stalled")
	}
	for _, asked := range []struct {
		what string
		by   *rollout.Asked
	}{{"paused", s.Pause}, {"held", s.Hold}} {
		if asked.by != nil {
			fmt.Fprintf(&b, " %s by %s", asked.what, asked.by)
		}
	}
	if s.Waiting != "" {
		fmt.Fprintf(&b, " waiting=%s", s.Waiting)
	}
	if s.Revert != nil {
		fmt.Fprintf(&b, " reverting=%s", name(s.Revert.From))
	}
	return b.String()
}

func describeEvent(e rollout.Event) string {
	s := fmt.Sprintf("%d %s %s -> %s", e.Seq, e.Type, name(e.From), name(e.To))
	if e.Weight > 0 {
		s += fmt.Sprintf(" weight=%d", e.Weight)
	}
	if e.Rollout > 0 {
		s += fmt.Sprintf(" rollout=%d", e.Rollout)
	}
	if e.Command != "" {
		s += " by=" + e.By + " command=" + e.Command
	}
	if e.Branch != "" {
		s += " branch=" + e.Branch
	}
	if e.Commit != "" {
		s += " commit=" + e.Commit
	}
	if len(e.Results) > 0 {
		s += fmt.Sprintf(" results=%d", len(e.Results))
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

func (w *world) due() string {
	o := w.observation()
	at, check := w.state.Due(o), w.state.CheckDue(o, w.now)
	if at.IsZero() {
		return fmt.Sprintf("never, check due: %v", check)
	}
	return fmt.Sprintf("in %s, check due: %v", at.Sub(w.now), check)
}

func (w *world) show() string {
	var lines []string
	for _, e := range w.state.Outbox {
		lines = append(lines, fmt.Sprintf("outbox %d %s", e.Seq, e.Type))
	}
	for _, e := range w.state.Untold {
		lines = append(lines, fmt.Sprintf("untold %d %s", e.Seq, e.Type))
	}
	if r := w.state.Revert; r != nil {
		lines = append(lines, fmt.Sprintf("revert %s@%s to %s: %s", name(r.From), r.From.Commit, name(r.To), r.Reason))
	}
	for _, r := range w.state.Rejected {
		lines = append(lines, fmt.Sprintf("rejected %s@%s: %s", name(r.Release), r.Release.Commit, r.Reason))
	}
	lines = append(lines, fmt.Sprintf("outcome %q, reason %q, stalled %q", w.state.Outcome, w.state.Reason, w.state.Stalled))
	return strings.Join(lines, "\n")
}

func name(r rollout.Release) string {
	if r.IsZero() {
		return "none"
	}
	return r.Digest
}

func track(s string) rollout.Track {
	switch s {
	case "ready":
		return rollout.Track{Ready: true, Available: true}
	case "slow":
		return rollout.Track{Available: true, Message: "1 of 2 pods updated"}
	case "down":
		return rollout.Track{Message: "0 of 2 pods ready"}
	default:
		return rollout.Track{Failed: true, Message: "CrashLoopBackOff"}
	}
}

func outcome(s string) (o analysis.Outcome, decisive bool) {
	switch s {
	case "pass":
		return analysis.Pass, false
	case "fail":
		return analysis.Fail, false
	case "decisive":
		return analysis.Fail, true
	case "inconclusive":
		return analysis.Inconclusive, false
	default:
		return "", false
	}
}

func parsePlan(d *datadriven.TestData) rollout.Plan {
	p := environments.Policy{
		Strategy: environments.StrategyCanary, ProgressDeadline: 10 * time.Minute,
		Analysis: environments.Analysis{
			Interval: time.Minute, Threshold: 2, InconclusiveLimit: 3, MaxWeight: 50, StepWeight: 10,
		},
	}
	for _, a := range d.CmdArgs {
		value := strings.Join(a.Vals, ",")
		switch a.Key {
		case "rolling":
			p.Strategy = environments.StrategyRolling
		case "skip":
			p.SkipAnalysis = true
		case "suspend":
			p.Suspend = true
		case "pre-rollout", "event", "post-rollout":
			p.Analysis.Webhooks = append(p.Analysis.Webhooks, environments.Webhook{Name: "hook", Type: environments.HookType(a.Key)})
		case "window":
			p.RollbackWindow = duration(d, value)
		case "approval":
			for _, v := range a.Vals {
				p.Analysis.Approval = append(p.Analysis.Approval, environments.Approval(v))
			}
		case "foureyes":
			p.Analysis.FourEyes = true
		case "interval":
			p.Analysis.Interval = duration(d, value)
		case "deadline":
			p.ProgressDeadline = duration(d, value)
		case "threshold":
			p.Analysis.Threshold = integer(d, value)
		case "limit":
			p.Analysis.InconclusiveLimit = integer(d, value)
		case "max":
			p.Analysis.MaxWeight = integer(d, value)
		case "step":
			p.Analysis.StepWeight = integer(d, value)
		case "promotion":
			p.Analysis.StepWeightPromotion = integer(d, value)
		case "steps":
			p.Analysis.StepWeights = nil
			for _, v := range a.Vals {
				p.Analysis.StepWeights = append(p.Analysis.StepWeights, integer(d, v))
			}
		}
	}
	return rollout.NewPlan(p)
}

func arg(d *datadriven.TestData, key string) string {
	for _, a := range d.CmdArgs {
		if a.Key == key {
			return strings.Join(a.Vals, ", ")
		}
	}
	return ""
}

func integer(d *datadriven.TestData, s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", d.Pos, err))
	}
	return n
}

func duration(d *datadriven.TestData, s string) time.Duration {
	v, err := time.ParseDuration(s)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", d.Pos, err))
	}
	return v
}
