package audit

import (
	"strings"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Subject tells an event in one short line, such as "croc-hunter-java: advanced to 20% (0.0.129 -> 0.0.130)".
func Subject(app string, e rollout.Event) string {
	sentence := kinds[e.Type].sentence
	if sentence == "" {
		sentence = clean(string(e.Type), 40) + " ({change})"
	}
	from, to := label(e.From, e.To), label(e.To, e.From)
	change := from + " -> " + to
	if e.To.IsZero() && e.To.Version == "" || e.From.Digest == e.To.Digest && from == to {
		change = from
	}
	by := ""
	if e.By != "" {
		by = " by " + clean(rollout.Name(e.By), 80)
	}
	r := strings.NewReplacer("{by}", by, "{from}", from, "{to}", to, "{change}", change,
		"{weight}", rollout.Percent(e.Weight), "{commit}", short(e.Commit), "{branch}", waitsOn(e))
	return clean(app, 80) + ": " + r.Replace(sentence)
}

// waitsOn is where a rollback waits to be merged: a branch, with the address of its pull request if it has one.
func waitsOn(e rollout.Event) string {
	branch := clean(e.Branch, longestText)
	if e.URL == "" {
		return branch
	}
	return branch + ": " + clean(e.URL, longestText)
}

// Describe tells an event in one line with its reason, such as "croc-hunter-java: held at 20% (0.0.129 -> 0.0.130):
// success rate 69.17% < 99% (failed check 1 of 5)". Whoever tells events tells them so.
func Describe(app string, e rollout.Event) string {
	reason := clean(e.Reason, longestText)
	if reason == "" {
		return Subject(app, e)
	}
	return Subject(app, e) + ": " + reason
}
