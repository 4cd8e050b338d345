package audit

import (
	"log/slog"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// The entries of the log that are not events of a rollout. They have no number.
const (
	// Error: an app, or the environment, can't be delivered; the reason says why.
	Error rollout.EventType = "Error"
	// ErrorCleared: it can again.
	ErrorCleared rollout.EventType = "ErrorCleared"
	// Restored: files of the status branch that were gone, damaged or changed by somebody else are written again.
	Restored rollout.EventType = "Restored"
	// Alive: nothing has happened for a day, and the agent is there.
	Alive rollout.EventType = "Alive"
	// Rollback is the commit on the environment branch that puts a failed release back.
	Rollback rollout.EventType = "Rollback"
)

// kind is what readers of events know of a type: all of them read it here. A new type of event is a constant and a row.
type kind struct {
	// sentence tells it. {from} and {to} are the stable release and the one under way, {change} is both;
	// {by} is " by Ann" where somebody asked for it.
	sentence string
	// record changes an app's record as the event says; nil: in nothing of its own.
	record func(*Record, rollout.Event)
	// ends: the story of the release under way is over.
	ends bool
	// became says of a release that does not serve what has become of it.
	became string
	// level is how much people should mind.
	level slog.Level
}

var kinds = map[rollout.EventType]kind{
	rollout.InstallStarted: {sentence: "installing {to}", record: enters(rollout.Installing)},
	rollout.Installed:      {sentence: "installed {to}", record: (*Record).succeed, ends: true},
	rollout.Applied:        {sentence: "applied without a rollout, pods unchanged ({change})", record: (*Record).apply},
	rollout.RolloutStarted: {sentence: "rollout started ({change})", record: (*Record).begin},
	rollout.Advanced:       {sentence: "advanced to {weight} ({change})", record: enters(rollout.Analyzing)},
	rollout.CheckFailed:    {sentence: "held at {weight} ({change})", record: (*Record).failCheck, level: slog.LevelWarn},
	rollout.CanaryAway: {
		sentence: "canary unavailable, its traffic is stopped ({change})", record: (*Record).away, level: slog.LevelWarn,
	},
	rollout.Inconclusive: {sentence: "no verdict, held at {weight} ({change})", record: (*Record).note, level: slog.LevelWarn},
	rollout.Stalled:      {sentence: "stalled at {weight} ({change})", record: (*Record).stall, level: slog.LevelWarn},
	rollout.PromotionStarted: {
		sentence: "promoting ({change})", record: enters(rollout.Promoting),
	},
	rollout.Promoted: {sentence: "promoted ({change})", record: (*Record).succeed, ends: true},
	rollout.RollbackStarted: {
		sentence: "rolling back {to} to {from}", record: (*Record).fail, level: slog.LevelWarn,
	},
	rollout.RolledBack: {
		sentence: "rolled back {to} to {from}", record: (*Record).giveUp, ends: true, became: "was rolled back", level: slog.LevelWarn,
	},
	// These two, and Recovered, have no event of their end: they count as ended when they are said.
	rollout.Superseded: {sentence: "superseded ({change})", record: (*Record).giveUp, ends: true, became: "was superseded"},
	rollout.Aborted:    {sentence: "aborted ({change})", record: (*Record).giveUp, ends: true, became: "was aborted"},
	rollout.Recovered: {
		sentence: "recovered ({change})", record: (*Record).takeOver, ends: true, became: "was given up", level: slog.LevelWarn,
	},
	rollout.RollbackCommitted: {sentence: "reverted {to} to {from} in git (commit {commit})", record: (*Record).putBack},
	rollout.RollbackProposed: {
		sentence: "the revert of {to} to {from} in git waits to be merged: branch {branch}", record: (*Record).propose, level: slog.LevelWarn,
	},
	rollout.RollbackSkipped: {
		sentence: "did not revert {to} to {from} in git", record: (*Record).leave, level: slog.LevelWarn,
	},
	rollout.Paused:            {sentence: "paused{by} at {weight} ({change})", record: (*Record).pause},
	rollout.Resumed:           {sentence: "resumed{by} at {weight} ({change})", record: (*Record).resume},
	rollout.Held:              {sentence: "held{by}, no rollout starts ({change})", record: (*Record).hold},
	rollout.Unheld:            {sentence: "hold ended{by} ({change})", record: (*Record).unhold},
	rollout.Retried:           {sentence: "retry of {to} requested{by}", record: (*Record).retry},
	rollout.Approved:          {sentence: "approved{by} ({change})", record: (*Record).note},
	rollout.Adopted:           {sentence: "adopts existing objects ({change})", record: (*Record).note, level: slog.LevelWarn},
	rollout.Overridden:        {sentence: "override{by} ({change})", record: (*Record).note},
	rollout.RollbackRequested: {sentence: "rollback of {from} requested{by}", record: (*Record).note},
	rollout.CommandRefused:    {sentence: "refused a command{by} ({change})", record: (*Record).note, level: slog.LevelWarn},
	rollout.Waiting:           {sentence: "waiting ({change})", record: (*Record).await},
	rollout.WaitingEnded:      {sentence: "no longer waiting ({change})", record: (*Record).await},
	rollout.Removed:           {sentence: "removed {from}", record: (*Record).remove, ends: true},
	rollout.Degraded:          {sentence: "degraded ({change})", record: (*Record).degrade, level: slog.LevelError},
	Error:                     {sentence: "cannot be delivered", level: slog.LevelError},
	ErrorCleared:              {sentence: "can be delivered again"},
	Restored:                  {sentence: "restored the status branch", level: slog.LevelWarn},
	Alive:                     {sentence: "no change, the agent is running"},
}

// Ends reports whether an event ends the story of the release under way.
func Ends(t rollout.EventType) bool { return kinds[t].ends }

// Level is how much people should mind an event.
func Level(t rollout.EventType) slog.Level { return kinds[t].level }

// Became says of the last release, when it does not serve, what has become of it: "was rolled back"; else it is empty.
func (e Ending) Became() string { return kinds[rollout.EventType(e.Outcome)].became }
