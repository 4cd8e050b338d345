package delivery

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// hooks answer as the test says.
type hooks struct{ *cluster }

func (h hooks) Ask(q Question) (Answer, bool) {
	h.questions = append(h.questions, q)
	a, ok := h.hooks[q.Hook.Name]
	return a, ok
}

// TestWebhooks: at each moment of a rollout the webhooks of that moment are asked and no others, nothing gets on without their answers,
// and a no is what its type makes of it.
func TestWebhooks(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	hooked := plan
	hooked.Interval, hooked.Threshold, hooked.InconclusiveLimit = time.Minute, 2, 3
	hooked.Steps = []rollout.Step{{Exposure: rollout.Exposure{Weight: 10}}, {Exposure: rollout.Exposure{Weight: 20}}}
	for _, of := range []environments.HookType{
		environments.ConfirmRollout, environments.PreRollout, environments.DuringRollout, environments.ConfirmTrafficIncrease, environments.ConfirmPromotion,
		environments.OnRollback,
	} {
		hooked.Webhooks = append(hooked.Webhooks, environments.Webhook{Name: string(of), Type: of, Canary: "podinfo"})
	}
	yes := Answer{Outcome: analysis.Pass, Said: "it answered 200 OK", At: noon}
	no := Answer{Outcome: analysis.Fail, Said: "it answered 403 Forbidden: halted", At: noon}
	away := Answer{Outcome: analysis.Inconclusive, Said: "it was not asked: webhook x is not allowed", At: noon}
	at := func(phase rollout.Phase, weight int) rollout.State {
		s := under(phase)
		s.Plan, s.Weight, s.Peak = &hooked, weight, weight
		s.Since, s.StepSince = noon.Add(-2*time.Minute), noon.Add(-2*time.Minute)
		return s
	}
	begin, ready, first, last := at(rollout.Idle, 0), at(rollout.Starting, 0), at(rollout.Analyzing, 10), at(rollout.Analyzing, 20)
	begin.Since, begin.StepSince = time.Time{}, time.Time{}
	rested := begin
	rested.Stable = id(2)
	failed := ready
	failed.FailedChecks, failed.LastCheck = 1, noon.Add(-30*time.Second)
	skipping := hooked
	skipping.SkipAnalysis = true
	for _, test := range []struct {
		name    string
		state   rollout.State
		answers map[string]Answer
		// want is what is told and where the rollout is then; asked are the webhooks that were asked.
		want, asked string
	}{
		{"at rest", rested, nil, "Idle 0", ""},
		{"begin, not answered", begin, nil, "Idle 0", "confirm-rollout"},
		{"begin, no", begin, map[string]Answer{"confirm-rollout": no}, "Waiting Idle 0: gate webhook confirm-rollout is closed: it answered 403 Forbidden: halted", "confirm-rollout"},
		{"begin, away", begin, map[string]Answer{"confirm-rollout": away}, "Waiting Idle 0: gate webhook confirm-rollout is closed: it was not asked: webhook x is not allowed", "confirm-rollout"},
		{"begin, yes of long ago", begin, map[string]Answer{"confirm-rollout": {Outcome: analysis.Pass, At: noon.Add(-10 * time.Minute)}}, "Idle 0", "confirm-rollout"},
		{"begin, no of long ago", begin, map[string]Answer{"confirm-rollout": {Outcome: analysis.Fail, Said: "no", At: noon.Add(-10 * time.Minute)}}, "Waiting Idle 0: gate webhook confirm-rollout is closed: no", "confirm-rollout"},
		{"begin, yes", begin, map[string]Answer{"confirm-rollout": yes}, "RolloutStarted Starting 0", "confirm-rollout"},

		{"ready, not answered", ready, nil, "Starting 0", "rollback, pre-rollout"},
		{"ready, no", ready, map[string]Answer{"pre-rollout": no}, "CheckFailed Starting 0: webhook pre-rollout: it answered 403 Forbidden: halted (failed check 1 of 2)", "rollback, pre-rollout"},
		{"ready, away", ready, map[string]Answer{"pre-rollout": away}, "Inconclusive Starting 0: webhook pre-rollout: it was not asked: webhook x is not allowed", "rollback, pre-rollout"},
		{"ready, no again, too early", failed, map[string]Answer{"pre-rollout": no}, "Starting 0", "rollback"},
		{"ready, gate not answered", ready, map[string]Answer{"pre-rollout": yes}, "Starting 0", "rollback, pre-rollout, confirm-traffic-increase"},
		{"ready, gate no", ready, map[string]Answer{"pre-rollout": yes, "confirm-traffic-increase": no}, "Waiting Starting 0: gate webhook confirm-traffic-increase is closed: it answered 403 Forbidden: halted", "rollback, pre-rollout, confirm-traffic-increase"},
		{"ready, yes", ready, map[string]Answer{"pre-rollout": yes, "confirm-traffic-increase": yes}, "Advanced Analyzing 10: the canary is ready", "rollback, pre-rollout, confirm-traffic-increase"},

		{"step, not answered", first, map[string]Answer{"confirm-traffic-increase": yes}, "Analyzing 10", "rollback, confirm-traffic-increase, rollout"},
		{"step, no", first, map[string]Answer{"confirm-traffic-increase": yes, "rollout": no}, "CheckFailed Analyzing 10: webhook rollout: it answered 403 Forbidden: halted (failed check 1 of 2)", "rollback, confirm-traffic-increase, rollout"},
		{"step, away", first, map[string]Answer{"confirm-traffic-increase": yes, "rollout": away}, "Inconclusive Analyzing 10: webhook rollout: it was not asked: webhook x is not allowed", "rollback, confirm-traffic-increase, rollout"},
		{"step, gate not answered", first, map[string]Answer{"rollout": yes}, "Analyzing 10", "rollback, confirm-traffic-increase, rollout"},
		{"step, yes", first, map[string]Answer{"confirm-traffic-increase": yes, "rollout": yes}, "Advanced Analyzing 20: webhook rollout: it answered 200 OK", "rollback, confirm-traffic-increase, rollout"},

		{"promotion, no", last, map[string]Answer{"confirm-promotion": no, "rollout": yes}, "Waiting Analyzing 20: gate webhook confirm-promotion is closed: it answered 403 Forbidden: halted", "rollback, confirm-promotion, rollout"},
		{"back, no", ready, map[string]Answer{"rollback": no}, "Starting 0", "rollback, pre-rollout"},
		{"back, away", first, map[string]Answer{"rollback": away}, "Analyzing 10", "rollback, confirm-traffic-increase, rollout"},
		{"back, yes", ready, map[string]Answer{"rollback": yes}, "RollbackStarted RollingBack 0: webhook rollback says so: it answered 200 OK", "rollback, pre-rollout"},
		{"back, yes at the end", last, map[string]Answer{"rollback": yes, "confirm-promotion": yes, "rollout": yes}, "RollbackStarted RollingBack 0: webhook rollback says so: it answered 200 OK", "rollback, confirm-promotion, rollout"},

		{"promotion, yes", last, map[string]Answer{"confirm-promotion": yes, "rollout": yes}, "PromotionStarted Promoting 20: webhook rollout: it answered 200 OK", "rollback, confirm-promotion, rollout"},
	} {
		c := &cluster{seen: Seen{Applied: true, Exposed: true, Stable: rollout.Track{Ready: true}, Canary: rollout.Track{Ready: true}}, hooks: test.answers}
		want := asks(2)
		want.Plan = hooked
		dec, err := decide(t, c, Facts{Desired: want}, test.state)
		if err != nil || dec.Fault != nil {
			t.Errorf("%s: %v, %v", test.name, err, dec.Fault)
		}
		if got := told(dec); got != test.want {
			t.Errorf("%s: %s\nwant %s", test.name, got, test.want)
		}
		var asked []string
		for _, q := range c.questions {
			if !slices.Contains(asked, q.Hook.Name) {
				asked = append(asked, q.Hook.Name)
			}
			if q.Checksum != "2" || q.Hook.Canary != "podinfo" {
				t.Errorf("%s: asked %+v", test.name, q)
			}
		}
		if got := strings.Join(asked, ", "); got != test.asked {
			t.Errorf("%s: asked %q, want %q", test.name, got, test.asked)
		}
		// The emergency exit asks nobody, once the rollout has begun.
		c.questions, want.Plan = nil, skipping
		s := test.state
		s.Plan = &skipping
		if _, err := decide(t, c, Facts{Desired: want}, s); err != nil || s.InFlight() && len(c.questions) > 0 {
			t.Errorf("%s, skipped: %v, asked %+v", test.name, err, c.questions)
		}
	}
}

// TestNoCommandPassesAWebhook: what a webhook has still to confirm is not passed by a command, and a policy that wants no analysis
// waits for none, wherever its canary is.
func TestNoCommandPassesAWebhook(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p := plan
	p.Steps = []rollout.Step{{Exposure: rollout.Exposure{Weight: 10}}, {Exposure: rollout.Exposure{Weight: 20}}}
	p.Webhooks = []environments.Webhook{{Name: "sign-off", Type: environments.ConfirmPromotion}}
	skipping, rolling := p, p
	skipping.SkipAnalysis, rolling.Strategy = true, environments.StrategyRolling
	full := []rollout.Command{{ID: "k1", Kind: rollout.AdvanceFully, By: "Ann"}}
	for _, test := range []struct {
		name     string
		plan     rollout.Plan
		commands []rollout.Command
		want     string
	}{
		{"advanced to the end", p, full, "CommandRefused Analyzing 10: AdvanceFully: gate webhook sign-off is closed: it is asked at the last step"},
		{"without analysis", skipping, nil, "PromotionStarted Promoting 10: the analysis is skipped by policy"},
		{"rolling", rolling, nil, "PromotionStarted Promoting 10: the analysis is skipped by policy"},
	} {
		s := under(rollout.Analyzing)
		s.Plan, s.Weight, s.Peak, s.Since, s.StepSince = &test.plan, 10, 10, noon.Add(-10*time.Second), noon.Add(-10*time.Second)
		c := &cluster{seen: Seen{Applied: true, Exposed: true, Stable: rollout.Track{Ready: true}, Canary: rollout.Track{Ready: true}}}
		want := asks(2)
		want.Plan = test.plan
		dec, err := decide(t, c, Facts{Desired: want, Commands: test.commands}, s)
		if got := told(dec); err != nil || got != test.want || len(c.questions) > 0 {
			t.Errorf("%s: %s, asked %+v, %v", test.name, got, c.questions, err)
		}
	}
}

// TestNoCommandPassesAWebhookOfAnother: nor does one whose refusal lets a third release take the place of the one that it was about.
func TestNoCommandPassesAWebhookOfAnother(t *testing.T) {
	p := plan
	p.Webhooks = []environments.Webhook{{Name: "may it", Type: environments.ConfirmRollout}, {Name: "sign-off", Type: environments.ConfirmPromotion}}
	s := under(rollout.Starting)
	s.Plan = &p
	c := &cluster{seen: Seen{Applied: true, Exposed: true, Stable: rollout.Track{Ready: true}, Canary: rollout.Track{Ready: true}}}
	third := asks(3)
	third.Plan = p
	dec, err := decide(t, c, Facts{Desired: third, Commands: []rollout.Command{{ID: "k1", Kind: rollout.AdvanceFully, By: "Ann"}}}, s)
	if err != nil || slices.ContainsFunc(dec.Events, func(e rollout.Event) bool { return e.Type == rollout.RolloutStarted }) {
		t.Errorf("it begins: %s, %v", told(dec), err)
	}
	if !slices.ContainsFunc(c.questions, func(q Question) bool { return q.Hook.Name == "may it" && q.Checksum == "3" }) {
		t.Errorf("asked %+v", c.questions)
	}
}

// TestTold: webhooks are told of the events that concern them, the oldest first, each until the State says that they were, and what they
// say is of no consequence. Who is told is said by the policy under which it happened, whatever git asks for by then.
func TestTold(t *testing.T) {
	p := plan
	p.Webhooks = []environments.Webhook{{Name: "log", Type: environments.OnEvent}, {Name: "after", Type: environments.PostRollout}}
	rested := rollout.State{
		Stable: id(2), Plan: &p, LastSeq: 9,
		Untold: []rollout.Untold{
			{Event: rollout.Event{Seq: 7, Type: rollout.Advanced, To: id(2)}, Hooks: p.Webhooks[:1]},
			{Event: rollout.Event{Seq: 9, Type: rollout.Promoted, To: id(2)}, Hooks: p.Webhooks},
		},
	}
	yes, no := Answer{Outcome: analysis.Pass}, Answer{Outcome: analysis.Fail, Said: "it answered 500"}
	after := rested
	after.Untold = rested.Untold[1:]
	for _, test := range []struct {
		name    string
		state   rollout.State
		plan    rollout.Plan
		answers map[string]Answer
		left    int
		asked   string
	}{
		{"not answered", rested, p, nil, 2, "log 7"},
		{"told", rested, p, map[string]Answer{"log": yes}, 1, "log 7"},
		{"in vain", rested, p, map[string]Answer{"log": no}, 1, "log 7"},
		{"one is missing", after, p, map[string]Answer{"log": yes}, 1, "log 9, after 9"},
		{"both", after, p, map[string]Answer{"log": yes, "after": no}, 0, "log 9, after 9"},
		{"git has another policy by now", after, plan, nil, 1, "log 9, after 9"},
	} {
		c := &cluster{seen: Seen{Applied: true, Exposed: true, Stable: rollout.Track{Ready: true}}, hooks: test.answers}
		want := asks(2)
		want.Plan = test.plan
		dec, err := decide(t, c, Facts{Desired: want, Recorded: 9}, test.state)
		var asked []string
		for _, q := range c.questions {
			asked = append(asked, fmt.Sprint(q.Hook.Name, " ", q.Event.Seq))
		}
		if got := strings.Join(asked, ", "); err != nil || len(dec.Saved.State.Untold) != test.left || got != test.asked {
			t.Errorf("%s: asked %q, left %+v, %v", test.name, got, dec.Saved.State.Untold, err)
		}
	}
}

// An app that was forgotten counts its events anew when it is listed again: webhooks are told of them all the same.
func TestToldOfEachIncarnation(t *testing.T) {
	p := plan
	p.Webhooks = []environments.Webhook{{Name: "log", Type: environments.OnEvent}}
	want := asks(2)
	want.Plan = p
	c := &cluster{seen: Seen{Applied: true, Exposed: true, Stable: rollout.Track{Ready: true}}}
	for _, at := range []time.Time{time.Unix(1, 0), time.Unix(2, 0)} {
		s := rollout.State{Stable: id(2), Plan: &p, LastSeq: 1, Untold: []rollout.Untold{
			{Event: rollout.Event{Seq: 1, Time: at, Type: rollout.Installed, To: id(2)}, Hooks: p.Webhooks},
		}}
		if _, err := decide(t, c, Facts{Desired: want}, s); err != nil {
			t.Fatal(err)
		}
	}
	if q := c.questions; len(q) != 2 || q[0].About == q[1].About {
		t.Errorf("the answer to one is the other's: %+v", q)
	}
}

// told is the event of a decision, where the app is then, and the event's reason.
func told(dec Decision) string {
	var b strings.Builder
	reason := ""
	for _, e := range dec.Events {
		b.WriteString(string(e.Type) + " ")
		if e.Type != rollout.RolloutStarted {
			reason = e.Reason
		}
	}
	s := dec.Saved.State
	phase := string(s.Phase)
	if phase == "" {
		phase = "Idle"
	}
	b.WriteString(phase + " " + string(rune('0'+s.Weight/10)))
	if s.Weight > 0 {
		b.WriteString("0")
	}
	if reason != "" {
		b.WriteString(": " + reason)
	}
	return b.String()
}

// TestFailingMetricWaitsForNoWebhook: a canary that fails its metrics is not kept by a webhook that does not answer.
func TestFailingMetricWaitsForNoWebhook(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	p := plan
	p.Interval, p.Threshold = time.Minute, 1
	p.Webhooks = []environments.Webhook{{Name: "load", Type: environments.DuringRollout}, {Name: "acceptance", Type: environments.DuringRollout}}
	s := under(rollout.Analyzing)
	s.Plan, s.Since, s.StepSince = &p, noon.Add(-2*time.Minute), noon.Add(-2*time.Minute)
	c := &cluster{
		seen:  Seen{Applied: true, Exposed: true, Stable: rollout.Track{Ready: true}, Canary: rollout.Track{Ready: true}},
		hooks: map[string]Answer{"load": {Outcome: analysis.Fail, Said: "it answered 500", At: noon}},
	}
	want := asks(2)
	want.Plan = p
	dec, err := decide(t, c, Facts{Desired: want}, s)
	if err != nil || dec.Saved.State.Phase != rollout.RollingBack {
		t.Errorf("%s, %v", told(dec), err)
	}
}
