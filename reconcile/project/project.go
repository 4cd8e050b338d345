package project

import (
	"fmt"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// Input is all that the projection depends on.
type Input struct {
	// App and Namespace name the app.
	App, Namespace string
	// Stable and Target are the objects of State.Stable and State.Target; nil where State has none.
	// In every phase with a canary, Stable is the release that served before it.
	Stable, Target []*unstructured.Unstructured
	Plan           rollout.Plan
	State          rollout.State
}

// Desired is what the cluster should hold for an app, in the order in which it is applied: Stable, Canary, Routing,
// and each from first to last. The slices share no memory with the input.
type Desired struct {
	// Stable is the stable track and everything of the release that belongs to no track.
	Stable []*unstructured.Unstructured
	// Canary is the canary track; empty at rest.
	Canary []*unstructured.Unstructured
	// Routing objects with their weights, and the Service that the policy asks for where the release has none.
	Routing []*unstructured.Unstructured
	// StableWorkloads and CanaryWorkloads are the objects of Stable and Canary whose readiness is the track's:
	// Deployments, StatefulSets and DaemonSets.
	StableWorkloads, CanaryWorkloads []*unstructured.Unstructured
	// Outgoing are the objects of Stable that serve in place of StableWorkloads which have other names, until those are
	// ready: the stable track is available when they are. Empty outside such a handover.
	Outgoing []*unstructured.Unstructured
	// Service that users address; empty when the app has none or its releases are not routed.
	// CanaryName is the canary workload's name, for queries; empty without a canary.
	Service, CanaryName string
	// Warnings of what the canary will not have, for people; see Warnings.
	Warnings []string
	// retained are the workloads of Stable that belong to the release before.
	retained []*unstructured.Unstructured
}

// Project returns what the cluster should hold for in.State, whose Tracks say which release is where.
//
//	phase                            stable track   canary track             weight of the canary
//	Idle                             Stable         none                     none
//	Installing, Updating             Target         none                     none
//	Starting, Analyzing              Stable         Target                   State.Weight
//	Promoting, Draining              Target         Target, until Drained    State.Weight
//	RollingBack                      Stable         Target, until Drained    State.Weight
//	Removing                         none           none                     none
//
// RollingBack without Target's objects (they can no longer be rendered) is projected as Drained: going back never
// waits.
//
// Nothing of Stable that Target does not have is taken away before the rollout is over, but for what leads to pods
// (Services, routes, policies): in Updating, Promoting and Draining it is held beside Target's objects. Where a workload
// that serves goes by another name in Target, Updating and Promoting also keep what leads to pods as it was, so that the
// traffic changes over when the new workload is ready, and back at once should it have to.
//
// Routing is there when the policy's strategy is Canary or a canary is under way. It is an error when the release then
// does not show which workload is meant (see FindTarget), when no rewriting of labels keeps the canary's pods apart,
// or when a canary's name is taken.
func Project(in Input) (Desired, error) {
	desired, err := project(in)
	if err == nil {
		err = desired.stamp(in)
	}
	if err != nil {
		return Desired{}, fmt.Errorf("projecting app %s: %w", in.App, err)
	}
	return desired, nil
}

func project(in Input) (Desired, error) {
	if in.State.Weight < 0 || in.State.Weight > 100 {
		return Desired{}, fmt.Errorf("weight %d in phase %s, expected 0 to 100", in.State.Weight, in.State.Phase)
	}
	stable, target := applied(in.Stable), applied(in.Target)
	t, err := tracksOf(in, stable, target)
	if err != nil {
		return Desired{}, err
	}
	if len(t.coming) == 0 && (len(t.serving) == 0 || !in.leading().Canary() && !in.routed(t)) {
		return t.atRest(), nil
	}
	a, err := newApp(in, t)
	if err != nil {
		return Desired{}, err
	}
	if a.workload == nil {
		return t.atRest(), nil
	}
	if len(t.coming) > 0 {
		if a.split, err = newSplit(a.workload, stable, target, a.provider.joins); err != nil {
			return Desired{}, err
		}
	}
	return a.project(stable, target)
}

// Check reports why a rollout from in.Stable to in.Target could not be carried through; nil when it can: its canary, if
// the policy wants one, can't be projected in some phase, or the API server would refuse to change a selector. Ask
// before one is begun. Of State the StablePlan counts.
func Check(in Input) error {
	states := []rollout.State{{Phase: rollout.Updating}}
	if in.Plan.Canary() {
		states = []rollout.State{{Phase: rollout.Starting}, {Phase: rollout.Promoting}, {Phase: rollout.Draining, Drained: true}, {Phase: rollout.RollingBack}}
	}
	if scales := ScalesCopy(in.Target); scales != "" {
		return fmt.Errorf("projecting app %s: %s", in.App, scales)
	}
	before := in.State.StablePlan
	for _, state := range states {
		state.StablePlan = before
		in.State = state
		if _, err := Project(in); err != nil {
			return err
		}
	}
	if err := in.sameTarget(); err != nil {
		return fmt.Errorf("projecting app %s: %w", in.App, err)
	}
	stable := applied(in.Stable)
	for _, obj := range applied(in.Target) {
		old := stable.find(objects.KeyOf(obj))
		if old != nil && isWorkload(obj) && !equalValues(objects.PodSelector(old), objects.PodSelector(obj)) {
			return fmt.Errorf("projecting app %s: spec.selector of %s changes from %s to %s, which Kubernetes refuses: "+
				"expected the old one, or another name", in.App, describe(obj), spelled(old), spelled(obj))
		}
	}
	return nil
}

// sameTarget reports that the policy turns to another workload while the one that it was about goes on: users would be led to the other
// one, from the rollout's beginning, and what judges it is the other's too.
func (in Input) sameTarget() error {
	before := in.State.StablePlan
	if before == nil || !before.Canary() && !before.Routed() || !in.Plan.Canary() {
		return nil
	}
	stable, target := applied(in.Stable), applied(in.Target)
	from, err := FindTarget(stable, before.Target)
	to, other := FindTarget(target, in.Plan.Target)
	if err != nil || other != nil || from == nil || to == nil || objects.KeyOf(from) == objects.KeyOf(to) ||
		target.find(objects.KeyOf(from)) == nil || stable.find(objects.KeyOf(to)) == nil {
		return nil //nolint:nilerr // what stands against the projection is told by that
	}
	return fmt.Errorf("targetRef goes from %s to %s, and the release has both: users would be led to the other one before anything judged it; "+
		"expected that in a commit of its own, which changes no pods and holds at once", describe(from), describe(to))
}

// spelled is a workload's selector for people.
func spelled(workload *unstructured.Unstructured) string {
	selector, err := workloadSelector(workload)
	if err != nil {
		return "one that can't be read"
	}
	return strconv.Quote(selector.String())
}

// atRest is the stable track alone, without routing.
func (t tracks) atRest() Desired {
	var d Desired
	for _, obj := range t.serving {
		d.addStable(obj, t)
	}
	d.retain(t)
	return d
}

// project puts the tracks and the routing together.
func (a *app) project(stable, target list) (Desired, error) {
	var d Desired
	for _, obj := range a.serving {
		routed, err := a.router.inject(obj)
		if err != nil {
			return Desired{}, err
		}
		if routed != nil {
			d.Routing = append(d.Routing, routed)
		} else {
			d.addStable(obj, a.tracks)
		}
	}
	d.retain(a.tracks)
	generated, err := a.router.generate()
	if err != nil {
		return Desired{}, err
	}
	if a.made != nil {
		generated = append(one(copyOf(a.made)), generated...)
	}
	d.Routing = append(generated, d.Routing...)
	d.Service = a.router.service()
	if d.Service == "" {
		d.Warnings = append(d.Warnings, fmt.Sprintf("no Service selects the pods of %s and service.port is not set: "+
			"no traffic can be shifted to a canary", describe(a.workload)))
	}
	d.Warnings = append(d.Warnings, a.router.warnings()...)
	if a.split == nil {
		return d, nil
	}
	if err := a.addCanary(&d, slices.Concat(stable, target)); err != nil {
		return Desired{}, err
	}
	d.Warnings = append(d.Warnings, a.deferred()...)
	return d, d.unique()
}

// routed reports whether users are led by the policy to what serves, though no canary is asked for. Where no canary could be made of
// what serves, no routing was ever generated for it.
func (in Input) routed(t tracks) bool {
	if !in.leading().Routed() {
		return false
	}
	workload, err := in.workload(t.serving, true)
	return err == nil && workload != nil
}

// unique makes sure that no two objects are one and the same in the cluster.
func (d *Desired) unique() error {
	seen := make(map[objects.Key]bool, len(d.Stable)+len(d.Canary)+len(d.Routing))
	for _, obj := range slices.Concat(d.Stable, d.Canary, d.Routing) {
		if seen[objects.KeyOf(obj)] {
			return fmt.Errorf("%s would be there twice", describe(obj))
		}
		seen[objects.KeyOf(obj)] = true
	}
	return nil
}

// hold adds a copy of obj, an object of the release, to the stable track.
func (d *Desired) hold(obj *unstructured.Unstructured, release list) *unstructured.Unstructured {
	c := copyOf(obj)
	d.Stable = append(d.Stable, c)
	if isWorkload(c) && release.scaler(obj) != nil {
		unstructured.RemoveNestedField(c.Object, "spec", "replicas")
	}
	return c
}

// addStable adds obj to the stable track, which is ready when it is.
func (d *Desired) addStable(obj *unstructured.Unstructured, t tracks) {
	if c := d.hold(obj, t.release); isWorkload(c) {
		d.StableWorkloads = append(d.StableWorkloads, c)
	}
}

// retain adds what stays of the release before, just as it is.
func (d *Desired) retain(t tracks) {
	for _, obj := range t.retained {
		c := d.hold(obj, t.before)
		if !isWorkload(c) {
			continue
		}
		d.retained = append(d.retained, c)
		if slices.Contains(t.outgoing, obj) {
			d.Outgoing = append(d.Outgoing, c)
		}
	}
}
