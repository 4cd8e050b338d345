package rollout

import (
	"strconv"
	"time"

	"github.com/sluice-cd/sluice/analysis"
)

// EventType names what happened.
type EventType string

// The events, in the order of a rollout. Each is written to the audit log exactly once, in order.
const (
	InstallStarted    EventType = "InstallStarted"   // the first install began
	Installed         EventType = "Installed"        // the first install is ready
	Applied           EventType = "Applied"          // a change without effect on pods was applied
	RolloutStarted    EventType = "RolloutStarted"   // a canary or a rolling update began
	Advanced          EventType = "Advanced"         // the canary's weight rose to Weight
	CheckFailed       EventType = "CheckFailed"      // a check failed, and not for the last time: the weight stays
	CanaryAway        EventType = "CanaryAway"       // the canary is not available, and gets no traffic until it is
	Inconclusive      EventType = "Inconclusive"     // no data: the weight stays (first of a row only)
	Stalled           EventType = "Stalled"          // too many inconclusive checks in a row; ends by itself with one that has data
	PromotionStarted  EventType = "PromotionStarted" // the last step passed; the stable track is being updated
	Promoted          EventType = "Promoted"         // the release serves alone; the canary track is gone
	RollbackStarted   EventType = "RollbackStarted"  // the release failed; traffic goes back
	RolledBack        EventType = "RolledBack"       // the rollback is over: the canary track is gone, stable serves alone
	Superseded        EventType = "Superseded"       // a third release took the rollout's place
	Aborted           EventType = "Aborted"          // git went back to the stable release
	RollbackCommitted EventType = "RollbackCommitted"
	RollbackProposed  EventType = "RollbackProposed"  // the rollback waits on a branch of its own for somebody to merge it
	RollbackSkipped   EventType = "RollbackSkipped"   // git had moved on; nothing was written
	Removed           EventType = "Removed"           // git no longer lists the app, and its objects are gone
	Recovered         EventType = "Recovered"         // the State was lost: what serves was taken over, a rollout given up
	Paused            EventType = "Paused"            // a person has paused the rollout
	Resumed           EventType = "Resumed"           // a person has ended the pause
	Held              EventType = "Held"              // a person keeps what git asks for from beginning
	Unheld            EventType = "Unheld"            // a person has ended the hold
	Retried           EventType = "Retried"           // a person has asked for what was rejected
	Approved          EventType = "Approved"          // a person has opened the approval gate for the release
	Adopted           EventType = "Adopted"           // what begins takes objects over that others have left to the app
	Overridden        EventType = "Overridden"        // a person lets the release pass closed windows and a freeze
	RollbackRequested EventType = "RollbackRequested" // a person wants git put back to a release of long ago
	CommandRefused    EventType = "CommandRefused"    // what a person asked makes no sense now
	Waiting           EventType = "Waiting"           // gates are closed that must open first
	WaitingEnded      EventType = "WaitingEnded"      // nothing is to begin any more that gates have kept from it, or what is judged is no longer suspended
	Degraded          EventType = "Degraded"          // past the deadline, and only time or a person can mend it
)

// Event is one thing that happened to an app. Events are the one record: the audit log, Kubernetes Events,
// metrics and every notification are readers of them.
type Event struct {
	// Seq counts from 1 for each app, without gaps.
	Seq  int64     `json:"seq"`
	Time time.Time `json:"time"`
	Type EventType `json:"type"`
	// Rollout counts the app's rollouts; 0 for events outside one.
	Rollout int64 `json:"rollout,omitempty"`
	// From is the stable release, To the one under way.
	From Release `json:"from,omitzero"`
	To   Release `json:"to,omitzero"`
	// Weight of the canary after the event, in percent.
	Weight int `json:"weight"`
	// Reason in numbers; Results where checks were behind it.
	Reason  string            `json:"reason,omitempty"`
	Results []analysis.Result `json:"results,omitempty"`
	// Commit is the rollback commit of RollbackCommitted and RollbackProposed, Branch where the latter waits, and URL its pull
	// request, where there is one.
	Commit string `json:"commit,omitempty"`
	Branch string `json:"branch,omitempty"`
	URL    string `json:"url,omitempty"`
	// By is the person whose command this event answers, Command its ID. Verified: a signature says that it was that person.
	By       string `json:"by,omitempty"`
	Command  string `json:"command,omitempty"`
	Verified bool   `json:"verified,omitempty"`
}

// Percent tells a weight, such as "50%". Whoever tells one tells it so.
func Percent(weight int) string { return strconv.Itoa(weight) + "%" }
