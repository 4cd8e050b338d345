package environments

import (
	"net/url"
	"slices"
	"strings"
	"time"
)

// HookType is the moment at which a webhook is asked, in Flagger's words.
type HookType string

// The types of webhooks. The confirm ones are gates, the next two checks; a rollback one is a person's word. The last two are told, and
// nothing depends on what they say.
const (
	ConfirmRollout         HookType = "confirm-rollout"          // before a rollout begins
	ConfirmTrafficIncrease HookType = "confirm-traffic-increase" // before each step
	ConfirmPromotion       HookType = "confirm-promotion"        // before the promotion
	PreRollout             HookType = "pre-rollout"              // before the canary gets traffic
	DuringRollout          HookType = "rollout"                  // at each step, in each interval
	OnRollback             HookType = "rollback"                 // while a rollout is under way: a yes ends it
	PostRollout            HookType = "post-rollout"             // after it has ended
	OnEvent                HookType = "event"                    // of each event
)

// hookTypes are in the order in which people are told them.
var hookTypes = []HookType{ConfirmPromotion, ConfirmRollout, ConfirmTrafficIncrease, OnEvent, PostRollout, PreRollout, OnRollback, DuringRollout}

// Webhook is what a policy has asked of somebody else. Neither its address nor its metadata is told to anybody but to whom it leads:
// both are where people put tokens.
type Webhook struct {
	Name string   `json:"name"`
	Type HookType `json:"type"`
	URL  string   `json:"url"`
	// Timeout of one request; default 10 s, and 5 s for one that is told of events. Retries are further requests where one has no answer.
	Timeout  time.Duration     `json:"timeout"`
	Retries  int               `json:"retries,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Canary is the name of the Canary object that says it; empty: it stands elsewhere.
	Canary string `json:"canary,omitempty"`
}

// Host is the host, with the port if there is one, that is asked.
func (w Webhook) Host() string {
	u, err := url.Parse(w.URL)
	if err != nil {
		return ""
	}
	return u.Host
}

// Checked reports whether anything judges a canary of the policy.
func (p Policy) Checked() bool {
	return len(p.Analysis.Metrics) > 0 || slices.ContainsFunc(p.Analysis.Webhooks, func(w Webhook) bool { return w.Type == DuringRollout })
}

// Asked are the webhooks that somebody asks: where nothing is judged, those that judge are not.
func (p Policy) Asked() []Webhook {
	return slices.DeleteFunc(slices.Clone(p.Analysis.Webhooks), func(w Webhook) bool {
		switch w.Type {
		case ConfirmRollout, PostRollout, OnEvent:
			return false
		case OnRollback:
			return p.SkipAnalysis
		default:
			return p.SkipAnalysis || p.Strategy != StrategyCanary
		}
	})
}

const (
	defaultHookTimeout = 10 * time.Second
	defaultTellTimeout = 5 * time.Second
	maxHookTimeout     = 5 * time.Minute
	maxHookRetries     = 10
	maxHooks           = 20
	maxHookName        = 63
)

var webhookFields = fields[Webhook]{
	"name": custom(textShape, readHookName, "Its name, shown in events and gates: at most 63 characters on one line, without commas.").needed(),
	"type": custom(wordShape(hookTypes...), readHookType, "When it is called; see flagger.md, Webhooks.").or(DuringRollout),
	"url": custom(patternShape("URL", "^https?://"), readHookURL,
		"URL of the POST. agent.yaml must allow it in environments[].allow.webhooks.").needed(),
	"timeout": custom(durationShape, readHookTimeout, "Timeout of each attempt, at most 5m; 5s by default for an event webhook.").or(defaultHookTimeout),
	"retries": set(asWhole("", 0, maxHookRetries), func(to *Webhook) *int { return &to.Retries },
		"Retries after no answer, or a status of 5xx or 429.").or(0),
	"metadata":   set(asTextMap, func(to *Webhook) *map[string]string { return &to.Metadata }, "Sent with the request, and shown nowhere else."),
	"muteAlert":  ignored[Webhook]("the operator configures notifications"),
	"disableTLS": unsupported[Webhook]("a connection to anybody"),
}

func readHookName(d *decoder, at fieldPath, v any, to *Webhook) {
	to.Name = d.text(at, v)
	// It stands in a list of those that an app waits for, and in commits.
	if strings.ContainsAny(to.Name, ",\n\r") || len(to.Name) > maxHookName {
		d.fail(at, "invalid name", "at most 63 characters on one line, without commas")
	}
}

func readHookTimeout(d *decoder, at fieldPath, v any, to *Webhook) {
	if to.Timeout = d.duration(at, v); to.Timeout > maxHookTimeout {
		d.fail(at, "is "+shown(v), "at most 5m")
	}
}

func readHookType(d *decoder, at fieldPath, v any, to *Webhook) {
	to.Type = HookType(orDefault(d.text(at, v), string(DuringRollout)))
	if !slices.Contains(hookTypes, to.Type) {
		d.fail(at, "is "+shown(v), namesOf(hookTypes))
	}
}

// readHookURL repeats nothing of what it reads.
func readHookURL(d *decoder, at fieldPath, v any, to *Webhook) {
	to.URL = d.text(at, v)
	u, err := url.Parse(to.URL)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		d.fail(at, "is not a URL", "a URL such as http://loadtester.test/")
	case u.User != nil:
		d.fail(at, "contains a user", "a URL without one; pass credentials in metadata")
	}
}

func readWebhooks(d *decoder, at fieldPath, v any, to *Analysis) {
	list := d.list(at, v)
	if len(list) > maxHooks {
		d.fail(at, "has more than 20 webhooks", "at most 20")
		list = list[:maxHooks]
	}
	to.Webhooks = nil
	for i, e := range list {
		w := Webhook{Type: DuringRollout}
		decodeObject(d, at.index(i), e, webhookFields, &w)
		m, _ := e.(map[string]any)
		for _, key := range []string{"name", "url"} {
			if isOff(m[key]) {
				d.fail(at.index(i).key(key), "is missing", "a webhook's name and url")
			}
		}
		if w.Type == OnEvent {
			w.Timeout = orDefault(w.Timeout, defaultTellTimeout)
		}
		w.Timeout = orDefault(w.Timeout, defaultHookTimeout)
		if d.around != nil {
			w.Canary = d.around.canary
		}
		to.Webhooks = append(to.Webhooks, w)
	}
}

// tellable are the webhooks without what nobody is told.
func tellable(hooks []Webhook) []any {
	var told []any
	for _, w := range hooks {
		told = append(told, map[string]any{"name": w.Name, "type": string(w.Type)})
	}
	return told
}
