package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

var _ delivery.Hooks = (*hooks)(nil)

// hookTypes are those of the webhooks that a hooked world's policy has, one of each.
var hookTypes = []environments.HookType{
	environments.ConfirmRollout, environments.ConfirmTrafficIncrease, environments.ConfirmPromotion, environments.PreRollout,
	environments.DuringRollout, environments.OnRollback, environments.PostRollout, environments.OnEvent,
}

func hookPolicy() []environments.Webhook {
	var out []environments.Webhook
	for _, of := range hookTypes {
		out = append(out, environments.Webhook{Name: string(of), Type: of})
	}
	return out
}

// hooks are an agent's webhooks. What was asked, and what was answered, dies with it.
type hooks struct{ *process }

// inquiry is the last question of a webhook.
type inquiry struct {
	about          string
	answer         delivery.Answer
	answered, busy bool
}

// Ask implements delivery.Hooks.
func (h *hooks) Ask(q delivery.Question) (delivery.Answer, bool) {
	if h.mayCrash("before a webhook is asked") {
		return delivery.Answer{}, false
	}
	e := h.asked[q.Slot]
	switch {
	case e == nil || e.about != q.About:
		e = &inquiry{about: q.About}
		h.asked[q.Slot] = e
		h.send(e, q)
	case q.Every > 0 && e.answered && !e.busy && !h.w.now.Before(e.answer.At.Add(q.Every)):
		h.send(e, q)
	}
	return e.answer, e.answered
}

// send has the server answer, sooner or later, or not within the time that it has.
func (h *hooks) send(e *inquiry, q delivery.Question) {
	w := h.w
	e.busy = true
	takes := time.Duration(w.r.IntN(4000)) * time.Millisecond
	if w.hooksAway {
		takes = 30 * time.Second
	}
	(&ports{h.process}).AfterFunc(takes, func() {
		e.busy = false
		if h.asked[q.Slot] != e {
			return
		}
		outcome := analysis.Pass
		if takes == 30*time.Second || w.noes[q.Hook.Type] {
			outcome = analysis.Fail
		}
		e.answer, e.answered = delivery.Answer{Outcome: outcome, Said: "it has answered", At: w.now}, true
		w.watch.hooks.answer(w, q, outcome)
		h.agent.Asked(appName)
	})
}

// turnHooks has webhooks answer otherwise than before.
func (w *world) turnHooks() {
	if w.chance(20) {
		w.hooksAway = w.chance(30)
	}
	of := hookTypes[w.r.IntN(len(hookTypes))]
	w.noes[of] = w.chance(50)
	if of == environments.OnRollback {
		w.noes[of] = w.chance(90)
	}
	w.logf("webhooks: away %v, no by %v", w.hooksAway, w.noes)
}

// calmHooks has them all say what lets a rollout get on.
func (w *world) calmHooks() {
	w.hooksAway, w.noes = false, map[environments.HookType]bool{environments.OnRollback: true}
}

// answers are what the webhooks have said, for the watch.
type answers struct {
	// begin, admitted and confirmed are the releases of which they have said that they may begin, have traffic and be promoted.
	begin, admitted, confirmed map[string]bool
	// untold are the events that have still to be told.
	untold []rollout.Event
}

func newAnswers() answers {
	return answers{map[string]bool{}, map[string]bool{}, map[string]bool{}, nil}
}

func (a *answers) answer(w *world, q delivery.Question, outcome analysis.Outcome) {
	of := q.Hook.Type
	w.logf("webhook %s of %s: %s", of, q.Checksum, outcome)
	if (of == environments.OnRollback) == (outcome == analysis.Pass) {
		w.watch.hurt = w.now // a good release may go back for it
	}
	switch {
	case of == environments.OnEvent:
		a.heard(w, *q.Event)
	case outcome != analysis.Pass:
	case of == environments.ConfirmRollout:
		a.begin[q.Checksum] = true
	case of == environments.PreRollout:
		a.admitted[template(q.Checksum)] = true
	case of == environments.ConfirmPromotion:
		a.confirmed[template(q.Checksum)] = true
	}
}

// heard: events are told in order, and again only if they were told before.
func (a *answers) heard(w *world, e rollout.Event) {
	same := func(x rollout.Event) bool { return idOf(x) == idOf(e) }
	switch i := slices.IndexFunc(a.untold, same); {
	case i > 0:
		w.failf("a webhook is told of %s before %s", idOf(e), idOf(a.untold[0]))
	case i == 0:
		a.untold = a.untold[1:]
	}
}

// decided: nothing begins that a webhook has not let begin.
func (a *answers) decided(w *world, e rollout.Event) {
	switch e.Type {
	case rollout.RolloutStarted:
		if !a.begin[e.To.Digest] {
			w.failf("a rollout to %s begins, and the webhook has not said that it may", describe(e.To))
		}
		clear(a.admitted)
		clear(a.confirmed)
	case rollout.Removed:
		a.untold = nil // nobody is told of an app that is gone
		return
	}
	if !e.From.IsZero() || !e.To.IsZero() { // else git does not list the app, and nobody says who is to be told
		a.untold = append(a.untold, e)
	}
}

// rest: nothing is left to be told.
func (a *answers) rest(w *world) {
	if len(a.untold) > 0 {
		w.failf("webhooks were not told of %s and %d more", idOf(a.untold[0]), len(a.untold)-1)
	}
}

// exposed and promoted: a canary has no traffic, and stable is not updated, before the webhooks have said so.
func (a *answers) exposed(w *world, image string) {
	if !a.admitted[trim(image)] {
		w.failf("%s has traffic before the pre-rollout webhook has let it", trim(image))
	}
}

func (a *answers) promoted(w *world, image string) {
	if !a.confirmed[trim(image)] {
		w.failf("%s is promoted, and the webhook has not said that it may: %s", trim(image), fmt.Sprint(a.confirmed))
	}
}
