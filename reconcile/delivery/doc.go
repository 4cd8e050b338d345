// Package delivery is one app looked at once: facts go in, an outcome comes out.
//
// A look is two halves. Decide observes the cluster against the projection of the saved state, asks rollout.Next what
// that means, and saves the answer. Act makes the cluster hold the projection of the saved state. What was saved is thus
// known before anything is done about it, and a look that was cut short anywhere is repeated whole by the next one: every
// effect is a function of the saved state, and a look that finds nothing to do writes nothing.
//
// Concurrency: a Delivery has no state and no mutex. It may be used by many goroutines at once, each with an app of its
// own.
//
// Invariants: nothing is applied that was not saved before. Next is asked once a look, and nothing but a cluster that
// does not answer at all keeps it from being asked: an object, a kind, a chart or a metrics server that is in trouble is
// something that Next is told.
package delivery
