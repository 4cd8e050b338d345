// Package reconcile is the loop of one environment: it observes git, the cluster and the metrics, asks
// rollout.Next what they mean, saves the answer, and then makes the cluster and git say it.
//
// The Agent is the queue and the wiring, and the one place where an outcome changes what is known of an app: in decided
// and acted. A pass over one app is a look of package delivery, which is given facts and gives a decision. Repository is
// git, Commands what the command branch says. What the loop needs of the world are the ports Cluster, Git, Renderer and Clock; it links neither Kubernetes' client
// nor Helm's engine, and runs in test/sim as it does in the agent.
//
// Concurrency: an Agent runs one goroutine that follows the branch, one that writes the audit log and the
// rollback commits, and a few workers that make passes. An app is in the hands of one worker at a time; the
// goroutines meet in the Agent's mutex and in the queue, nowhere else.
//
// Invariants: nothing is applied that was not saved before; an event leaves the state's outbox only when the
// status branch holds it; a command is taken with the state that says so; git, the metrics server and the chart repositories may be away for any time without
// changing what a rollout decides.
package reconcile
