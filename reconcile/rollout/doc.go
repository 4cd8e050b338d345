// Package rollout is the delivery policy: what happens to an app from the moment git asks for another release until
// that release serves alone, or is gone again and git says so.
//
// All of it is one pure function, [Next]. Time, health, metrics, git and people's commands come in as an
// [Observation]; what follows goes out as a new [State] and as [Event] values. Nothing here reads a clock, does I/O,
// logs or draws a random number, so the same observations give the same history, and a history can be replayed.
//
// The caller's loop is
//
//	for {
//		o := observe(state)             // against the projection of the present State
//		next, _ := rollout.Next(state, o)
//		save(next)                      // before anything else: intentions survive a crash
//		apply(project(next))            // the cluster follows the State, never the other way round
//		state = next                    // again, until nothing changes and nothing is to apply
//	}
//
// and its duties are four:
//
//   - Observe for the State that is passed in. Ready, Available and Applied speak of that State's projection; those of
//     the State before it would let a step pass unseen.
//   - Save before applying. State holds what can't be observed again, the outbox of events included.
//   - Never prune before the rest of the projection has been applied: traffic leaves a track before the track leaves.
//   - Deliver the Outbox to the audit log in order and report how far that got in Observation.Recorded.
//
// What is not known is left out of the observation: no Desired while git is away, no Verdict while nothing was asked,
// an Inconclusive one while the metrics server is away. Absence never promotes and never rolls back.
//
// The package has no state of its own; everything in it may be called concurrently. Next never changes its arguments,
// and State values share no memory that is written to. [Check] and [CheckTransition] state the invariants.
package rollout
