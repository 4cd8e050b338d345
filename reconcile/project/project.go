package project

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Input is all that the projection depends on.
type Input struct {
	// App and Namespace name the app.
	App, Namespace string
	// Stable and Target are the objects of State.Stable and State.Target; nil where State has none.
	Stable, Target []*unstructured.Unstructured
	Policy         environments.Policy
	State          rollout.State
}

// Desired is what the cluster should hold for an app, in the order in which it is applied. The slices share
// no memory with the input.
type Desired struct {
	// Stable is the stable track and everything of the release that belongs to no track.
	Stable []*unstructured.Unstructured
	// Canary is the canary track; empty at rest.
	Canary []*unstructured.Unstructured
	// Routing objects with their weights.
	Routing []*unstructured.Unstructured
	// StableWorkloads and CanaryWorkloads are the objects of the above whose readiness is the track's.
	StableWorkloads, CanaryWorkloads []*unstructured.Unstructured
	// Service that users address, and Target, the canary workload's name for queries; empty without a canary.
	Service, CanaryName string
	// Warnings for plan and status.
	Warnings []string
}
