// Package reconcile is the loop of one environment: it observes git, the cluster and the metrics, asks
// rollout.Next what they mean, saves the answer, and then makes the cluster and git say it.
//
// A pass over one app is: project the present state, observe the cluster against it, decide, save, apply.
// Every effect of a pass is a function of the saved state, so a pass that was cut short anywhere is repeated
// whole by the next one, and a pass that finds nothing to do writes nothing.
//
// Concurrency: an Agent runs one goroutine that follows the branch, one that writes the audit log and the
// rollback commits, and a few workers that make passes. An app is in the hands of one worker at a time; the
// goroutines meet in the Agent's mutex and in the queue, nowhere else.
//
// Invariants: nothing is applied that was not saved before; an event leaves the state's outbox only when the
// status branch holds it; git, the metrics server and the chart repositories may be away for any time without
// changing what a rollout decides.
package reconcile
