// Package project says what the cluster should hold for an app: a pure function of the stable release, the
// release under way and the rollout's State. It asks nothing, remembers nothing and is safe for concurrent use;
// equal input gives deep-equal output, and the input is never changed.
//
// # Tracks
//
// The stable track is the release's objects under their own names, exactly as rendered, with two exceptions: where an
// autoscaler of the release scales a workload, its spec.replicas is left out, and after a release that changed nothing
// but config its pods carry a stamp (see Stamp). The canary track stands beside it
// during a rollout and holds, in the release's own order, what the canary's pods need under names that end in
// -canary:
//
//   - the workload under judgement, with the fewest pod labels rewritten that keep every Service of the release and
//     every other workload's selector away from its pods (see split);
//   - the ConfigMaps and Secrets of the release that its pods use;
//   - a Service for each Service that selects the app's pods;
//   - counterparts for the objects that select the app's pods by a rewritten label, scale the workload or set
//     traffic rules for one of its Services.
//
// A new release may also bring objects that its canary needs under their own names: custom resource definitions,
// service accounts, roles and bindings, volume claims, priority classes, what operators make Secrets of. Those that the
// stable release does not have are applied with the canary track; they only add. Everything else that is new or changed comes with promotion: the
// canary runs with the stable release's service account and its permissions, and Desired.Warnings says where that
// matters.
//
// # Routing
//
// Routing objects come last, so that they never point at something that has not been applied. A VirtualService of the
// release that routes to one of the app's Services gets its weights injected; where there is none, a VirtualService is
// generated from the policy's service section. At rest the release's own are exactly what the chart renders.
//
// Flagger's objects in a release are policy: they are read by FindCanary and MetricTemplates, and never applied.
package project
