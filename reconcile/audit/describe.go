package audit

import (
	"strconv"
	"strings"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// The entries of the log that are not events of a rollout. They have no number.
const (
	// Fault: an app, or the environment, can't be delivered; the reason says why.
	Fault rollout.EventType = "Fault"
	// FaultCleared: it can again.
	FaultCleared rollout.EventType = "FaultCleared"
	// Rollback is the commit on the environment branch that puts a failed release back.
	Rollback rollout.EventType = "Rollback"
)

// sentences tell each event. {from} and {to} are the stable release and the one under way, {change} is both.
var sentences = map[rollout.EventType]string{
	rollout.InstallStarted:    "installing {to}",
	rollout.Installed:         "installed {to}",
	rollout.Applied:           "applied a change that no pod sees ({change})",
	rollout.RolloutStarted:    "rollout started ({change})",
	rollout.Advanced:          "advanced to {weight}% ({change})",
	rollout.Held:              "held at {weight}% ({change})",
	rollout.Inconclusive:      "no verdict, held at {weight}% ({change})",
	rollout.Paused:            "paused at {weight}% ({change})",
	rollout.Resumed:           "resumed at {weight}% ({change})",
	rollout.PromotionStarted:  "promoting ({change})",
	rollout.Promoted:          "promoted ({change})",
	rollout.RollbackStarted:   "rolling back {to} to {from}",
	rollout.RolledBack:        "rolled back {to} to {from}",
	rollout.Superseded:        "superseded ({change})",
	rollout.Aborted:           "aborted ({change})",
	rollout.RollbackCommitted: "git is back from {to} to {from} in commit {commit}",
	rollout.RollbackSkipped:   "git was not put back from {to} to {from}",
	rollout.Removed:           "removed {from}",
	rollout.Recovered:         "recovered ({change})",
	rollout.Degraded:          "degraded ({change})",
	Fault:                     "cannot be delivered",
	FaultCleared:              "can be delivered again",
}

// Subject tells an event in one short line, such as "croc-hunter-java: advanced to 20% (0.0.129 -> 0.0.130)".
func Subject(app string, e rollout.Event) string {
	sentence, known := sentences[e.Type]
	if !known {
		sentence = clean(string(e.Type), 40) + " ({change})"
	}
	from, to := label(e.From, e.To), label(e.To, e.From)
	change := from + " -> " + to
	if e.To.IsZero() && e.To.Version == "" {
		change = from
	}
	r := strings.NewReplacer("{from}", from, "{to}", to, "{change}", change,
		"{weight}", strconv.Itoa(e.Weight), "{commit}", short(e.Commit))
	return clean(app, 80) + ": " + r.Replace(sentence)
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
