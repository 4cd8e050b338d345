package project

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// tracks are the objects of an app's tracks in one state.
type tracks struct {
	// release is the one that the stable track has or is given; coming is the one that the canary track is made from,
	// nil without a canary.
	release, coming list
	// serving is what the stable track holds: the release's objects and, in a handover, what leads to the release
	// before it.
	serving list
	// retained are the other objects of the release before that the new one does not have. They stay until the rollout
	// is over: pods that run on them are still there, or are wanted back when the release fails.
	retained list
	// before is the release that retained and outgoing are of.
	before list
	// outgoing are the workloads among them that serve until those in their place are ready; nil outside a handover.
	outgoing list
}

// tracksOf returns the objects of the releases that the phase holds.
func tracksOf(in Input, stable, target list) (tracks, error) {
	if !in.State.Phase.Known() {
		return tracks{}, fmt.Errorf("unknown phase %q", in.State.Phase)
	}
	held := func(h rollout.Holding) list {
		switch h {
		case rollout.TheStable:
			return stable
		case rollout.TheTarget, rollout.TargetUntilDrained: // what Drained leaves is looked at below
			return target
		default:
			return nil
		}
	}
	onStable, onCanary := in.State.Phase.Holds()
	t := tracks{release: held(onStable), coming: held(onCanary)}
	t.serving = t.release
	if in.State.Phase.Retains() {
		t.retain(stable)
		if in.State.Phase.HandsOver() {
			t.handOver(in.Plan)
		}
	}
	if in.State.Drained {
		t.coming = nil
		return t, nil
	}
	goesBack := onStable == rollout.TheStable && onCanary == rollout.TargetUntilDrained
	if onCanary != rollout.Nothing && len(t.coming) == 0 && !goesBack {
		return tracks{}, fmt.Errorf("phase %s without objects of the release under way", in.State.Phase)
	}
	return t, nil
}

// retain keeps what the release before has and this one has not, but for what leads to pods: a Service that is gone from
// the release is gone as soon as the routes that lead past it are there.
func (t *tracks) retain(before list) {
	t.before = before
	for _, obj := range before.without(t.release) {
		if !leads(obj) {
			t.retained = append(t.retained, obj)
		}
	}
}

// handOver keeps the traffic of a workload that the release names otherwise where it is, until the new one is ready: a
// Deployment that is updated replaces its pods one by one, but one of another name starts with none. Everything that leads
// to pods stays that of the release before; the rest is the new release's.
func (t *tracks) handOver(plan rollout.Plan) {
	before := t.before
	gone := before.without(t.release)
	leaving := gone.workloads()
	if len(leaving) == 0 || len(t.release.without(before).workloads()) == 0 {
		return
	}
	handed := func(service *unstructured.Unstructured) bool {
		selector := serviceSelector(service)
		stays := slices.ContainsFunc(before, func(obj *unstructured.Unstructured) bool {
			return isWorkload(obj) && t.release.find(objects.KeyOf(obj)) != nil && selector.Matches(objects.PodLabels(obj))
		})
		return !stays && leaving.selects(selector) != nil
	}
	made := t.madeFor(leaving, plan)
	for _, workload := range leaving {
		if workload == made || slices.ContainsFunc(selecting(workload, before), handed) {
			t.outgoing = append(t.outgoing, workload)
		}
	}
	if len(t.outgoing) == 0 {
		return // nobody is served by what leaves
	}
	t.serving = nil
	for _, obj := range t.release {
		if !leads(obj) {
			t.serving = append(t.serving, obj)
			continue
		}
		old := before.find(objects.KeyOf(obj))
		switch {
		case old == nil && (isRoute(obj) || isService(obj) && obj.GetName() == plan.Service.Name):
			// It would lead where nothing serves yet.
		case old == nil, isService(obj) && !handed(old):
			t.serving = append(t.serving, obj)
		default:
			t.serving = append(t.serving, old)
		}
	}
	for _, obj := range gone {
		if leads(obj) {
			t.serving = append(t.serving, obj)
		}
	}
}

// madeFor returns the workload among those that leave which the Service that the policy asks for leads to, where the
// release before has no such Service: see missingService. It is nil where there is none, or in doubt.
func (t *tracks) madeFor(leaving list, plan rollout.Plan) *unstructured.Unstructured {
	if len(t.coming) == 0 && !plan.Canary() {
		return nil // nothing is routed
	}
	comes, err := FindTarget(t.release, plan.Target)
	if err != nil || comes == nil {
		// What somebody goes back to may be of another policy, which is not known any more.
		comes, err = FindTarget(t.release, environments.Target{})
	}
	if err != nil || comes == nil || t.before.find(objects.KeyOf(comes)) != nil {
		return nil
	}
	workload, err := FindTarget(leaving, environments.Target{})
	if err != nil || workload == nil {
		return nil
	}
	services := selecting(workload, t.before)
	named := func(service *unstructured.Unstructured) bool { return service.GetName() == plan.Service.Name }
	if plan.Service.Name == "" && (plan.Service.Port <= 0 || len(services) > 0) || slices.ContainsFunc(services, named) {
		return nil
	}
	return workload
}

// without returns the objects that another release does not have.
func (o list) without(other list) list {
	var found list
	for _, obj := range o {
		if other.find(objects.KeyOf(obj)) == nil {
			found = append(found, obj)
		}
	}
	return found
}

// workloads of a release.
func (o list) workloads() list {
	var found list
	for _, obj := range o {
		if isWorkload(obj) {
			found = append(found, obj)
		}
	}
	return found
}
