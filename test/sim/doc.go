// Package sim is the deterministic simulation: the real rollout.Next and project.Project in a world that is a model.
//
// The model is a cluster whose controllers roll pods out late and whose pods come, fail and flap by their version, a
// git server with an environment branch and a status branch, a metrics server, people who push, and an agent that
// does in memory what package reconcile does: project, observe, decide, save, apply object by object, prune, and write
// to git. The agent may be stopped between any two effects; every server may be away, refuse, or do what it was asked
// and lose the answer; what is on its way to git gets there late, and meets a protected branch in some runs; people edit
// and delete what the agent applied. Releases that name their Deployment otherwise, and label its pods otherwise, take
// turns with those that don't.
//
// A run is a function of its seed: one goroutine, a virtual clock, one source of random numbers, and no map whose order
// matters. After each effect the invariants are looked at in the objects that the cluster holds, in the labels of the
// pods, and in what the servers were asked, never in what the agent believes. The first of them is that users are served:
// the app's Service selects a ready pod at all times (watch.serves says what excuses that it does not). A run that breaks
// one fails with its seed and its last effects; -seed runs that one again, with all of them.
//
// Package reconcile/rollout has a walk of its own over Next alone. This one is about what lies between decisions and
// objects: the projection, the order of the writes, and what is left when they stop half-way.
package sim
