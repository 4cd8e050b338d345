// Package webhooks asks the webhooks of policies, with Flagger's payload, and keeps what they have answered until the question is
// another one.
//
// It asks outside of the looks at apps: Ask says what is known and returns at once, Run does the asking. Every request has a deadline
// and each webhook a goroutine of its own while it is asked, so that one that is slow holds up its own app alone. Nothing is kept
// across a restart: a question that was answered may then be asked again, and none is taken for answered that was not.
package webhooks

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

const (
	// longestAnswer is how much of an answer is read, and mostSaid how much of it is told.
	longestAnswer = 4 << 10
	mostSaid      = 120
	// firstPause is waited before a webhook that did not answer is tried again; it doubles.
	firstPause = time.Second
	// forgetAfter is how long an answer is kept that nobody asks for.
	forgetAfter = time.Hour
)

// Config of an Asker.
type Config struct {
	// Allow says which addresses may be asked, whatever a policy says, or a state that was saved under other rules.
	Allow allow.Rules
	// Now is the clock.
	Now func() time.Time
}

// Asker asks the webhooks of one environment. It is safe for concurrent use.
type Asker struct {
	cfg    Config
	client *http.Client
	// work are questions that are to be asked now.
	work chan struct{}

	mu    sync.Mutex
	slots map[slot]*entry
}

// slot is where the present question of a webhook is kept.
type slot struct{ namespace, app, name string }

// entry is a question and its answer.
type entry struct {
	question delivery.Question
	answer   delivery.Answer
	answered bool
	// due: it is to be asked; asking: it is being asked; stop ends that.
	due, asking bool
	stop        context.CancelFunc
	used        time.Time
}

// New returns an Asker that asks nobody until Run.
func New(cfg Config) *Asker {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 4, IdleConnTimeout: time.Minute}
	return &Asker{
		cfg: cfg, work: make(chan struct{}, 1), slots: map[slot]*entry{},
		client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse // elsewhere is not what was allowed
		}},
	}
}

var _ delivery.Hooks = (*Asker)(nil)

// Ask implements delivery.Hooks.
func (a *Asker) Ask(q delivery.Question) (delivery.Answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.cfg.Now()
	at := slot{q.App.Namespace, q.App.Name, q.Slot}
	e := a.slots[at]
	if e == nil || !sameQuestion(e.question, q) {
		if e != nil && e.stop != nil {
			e.stop()
		}
		e = &entry{question: q, due: true}
		a.slots[at] = e
	}
	e.used = now
	if e.answered && !e.asking && q.Every > 0 && !now.Before(e.answer.At.Add(q.Every)) {
		e.due = true
	}
	if e.due {
		select {
		case a.work <- struct{}{}:
		default: // somebody has said so
		}
	}
	return e.answer, e.answered
}

// sameQuestion reports whether an answer to one is one to the other: what is asked, of whom, with which words.
func sameQuestion(x, y delivery.Question) bool {
	a, b := x.Hook, y.Hook
	return x.About == y.About && x.Checksum == y.Checksum && a.Name == b.Name && a.Type == b.Type && a.URL == b.URL &&
		a.Canary == b.Canary && maps.Equal(a.Metadata, b.Metadata)
}

// Run asks until ctx is done, and calls news for an app that has an answer.
func (a *Asker) Run(ctx context.Context, news func(app string)) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	for {
		for at, e := range a.take() {
			asking.Go(func() { a.settle(ctx, at, e, news) })
		}
		select {
		case <-ctx.Done():
			a.interrupted()
			return context.Cause(ctx)
		case <-a.work:
		}
	}
}

// take marks what is due as being asked, and forgets what nobody asks for any more.
func (a *Asker) take() map[slot]*entry {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.cfg.Now()
	due := map[slot]*entry{}
	for at, e := range a.slots {
		switch {
		case e.due && !e.asking:
			e.due, e.asking = false, true
			due[at] = e
		case !e.asking && now.Sub(e.used) > forgetAfter:
			delete(a.slots, at)
		}
	}
	return due
}

// interrupted has what was being asked asked again by whoever runs next.
func (a *Asker) interrupted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.slots)
}

// settle asks one question and keeps the answer, if it still is the question.
func (a *Asker) settle(ctx context.Context, at slot, e *entry, news func(app string)) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	a.mu.Lock()
	e.stop = stop
	current := a.slots[at] == e
	a.mu.Unlock()
	if !current {
		return
	}
	answer := a.request(ctx, e.question)
	a.mu.Lock()
	e.asking, e.stop = false, nil
	kept := a.slots[at] == e && ctx.Err() == nil
	if kept {
		e.answer, e.answered = answer, true
	}
	a.mu.Unlock()
	if kept {
		news(at.app)
	}
}

// phases are Flagger's words for how far an app is with an event. With any other, and where a webhook is asked, a rollout progresses.
var phases = map[rollout.EventType]string{
	rollout.InstallStarted: "Initializing", rollout.Installed: "Initialized", rollout.Waiting: "Waiting",
	rollout.PromotionStarted: "Promoting", rollout.Promoted: "Succeeded",
	rollout.RollbackStarted: "Failed", rollout.RolledBack: "Failed", rollout.Aborted: "Failed",
	rollout.RollbackCommitted: "Failed", rollout.RollbackProposed: "Failed", rollout.RollbackSkipped: "Failed",
}

func phase(told *rollout.Event) string {
	if told != nil {
		if p, ok := phases[told.Type]; ok {
			return p
		}
	}
	return "Progressing"
}

// metadata are the policy's, and for who is told of every event what it is told, under Flagger's keys.
func metadata(q delivery.Question) map[string]string {
	if q.Hook.Type != environments.OnEvent || q.Event == nil {
		return q.Hook.Metadata
	}
	all := maps.Clone(q.Hook.Metadata)
	if all == nil {
		all = map[string]string{}
	}
	all["eventMessage"], all["eventType"] = audit.Describe(q.App.Name, *q.Event), "Normal"
	if audit.Level(q.Event.Type) >= slog.LevelWarn {
		all["eventType"] = "Warning"
	}
	all["timestamp"] = strconv.FormatInt(q.Event.Time.UnixMilli(), 10)
	return all
}

// payload is Flagger's.
type payload struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Phase     string            `json:"phase"`
	Checksum  string            `json:"checksum"`
	Metadata  map[string]string `json:"metadata,omitempty"`
}

// request asks until there is an answer, or no try is left.
func (a *Asker) request(ctx context.Context, q delivery.Question) delivery.Answer {
	answer := func(o analysis.Outcome, said string) delivery.Answer {
		return delivery.Answer{Outcome: o, Said: said, At: a.cfg.Now()}
	}
	if err := a.cfg.Allow.Webhook(q.Hook.Name, q.Hook.URL); err != nil {
		return answer(analysis.Inconclusive, "it was not asked: "+err.Error())
	}
	name := q.Hook.Canary
	if name == "" {
		name = q.App.Name
	}
	body, err := json.Marshal(payload{Name: name, Namespace: q.App.Namespace, Phase: phase(q.Event), Checksum: q.Checksum, Metadata: metadata(q)})
	if err != nil {
		return answer(analysis.Inconclusive, "it was not asked: "+err.Error())
	}
	pause := firstPause
	for try := 0; ; try++ {
		code, said, err := a.post(ctx, q.Hook, body)
		switch {
		case err == nil && code/100 == 2:
			return answer(analysis.Pass, fmt.Sprintf("it answered %s", status(code)))
		case try >= q.Hook.Retries && err != nil:
			return answer(analysis.Fail, "it has not answered: "+said)
		case try >= q.Hook.Retries || err == nil && code < 500 && code != http.StatusTooManyRequests:
			return answer(analysis.Fail, because(fmt.Sprintf("it answered %s", status(code)), said))
		}
		select {
		case <-ctx.Done():
			return answer(analysis.Inconclusive, "the request was cut off")
		case <-time.After(pause):
			pause *= 2
		}
	}
}

func because(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

func status(code int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", code, http.StatusText(code)))
}

// post makes one request. said is the beginning of the answer, or why there is none; neither has the address, which may hold a token.
func (a *Asker) post(ctx context.Context, w environments.Webhook, body []byte) (code int, said string, err error) {
	ctx, stop := context.WithTimeout(ctx, w.Timeout)
	defer stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return 0, "its address can't be asked", err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := a.client.Do(r)
	if err != nil {
		return 0, reason(ctx, w, err), err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, longestAnswer))
	if err != nil {
		return 0, reason(ctx, w, err), err
	}
	return response.StatusCode, told(w, string(text)), nil
}

// reason is an error without the address that the HTTP client puts before it.
func reason(ctx context.Context, w environments.Webhook, err error) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Sprintf("not within %s", w.Timeout)
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	return told(w, err.Error())
}

// told is a text that may go into a commit: one short line, without anything that the request had in it.
func told(w environments.Webhook, text string) string {
	text = strings.ReplaceAll(text, w.URL, "its address")
	for _, secret := range secrets(w) {
		text = strings.ReplaceAll(text, secret, "***")
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, analysis.Line(text))
	if len(text) > mostSaid {
		text = strings.ToValidUTF8(text[:mostSaid], "") + "..."
	}
	return text
}

// shortest is the length below which a word is in every second text, and no secret.
const shortest = 4

// secrets are the parts of what a webhook is asked that may be secret, the longest first: all of its address but the host, and its
// metadata, whole and in words, for a command line may hold a token.
func secrets(w environments.Webhook) []string {
	var parts []string
	if u, err := url.Parse(w.URL); err == nil {
		parts = append(parts, u.Path, u.RawQuery, u.Fragment)
		for _, values := range u.Query() {
			parts = append(parts, values...)
		}
	}
	for _, v := range w.Metadata {
		parts = append(parts, v)
	}
	for _, part := range slices.Clone(parts) {
		parts = append(parts, strings.FieldsFunc(part, func(r rune) bool { return strings.ContainsRune(" \t\r\n\"'`/?&=;:,", r) })...)
	}
	parts = slices.DeleteFunc(parts, func(s string) bool { return len(s) < shortest })
	slices.SortFunc(parts, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return slices.Compact(parts)
}
