package project

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// Trial is all that a rollout from in.Stable to in.Target would bring, so that the API server can be asked before any of it is
// there: the release as it would serve and, with a canary, that and its routing. Of in.State the names of both releases and the StablePlan count.
func Trial(in Input, canary bool) (Desired, error) {
	after := in
	after.Stable, after.Target, after.State = in.Target, nil, rollout.State{Stable: in.State.Target}
	all, err := Project(after)
	if err != nil || !canary {
		return all, err
	}
	in.State.Phase = rollout.Starting
	begun, err := Project(in)
	if err != nil {
		return Desired{}, err
	}
	serves := func(o *unstructured.Unstructured) bool { return list(all.Stable).find(objects.KeyOf(o)) != nil }
	all.Canary, all.Routing = slices.DeleteFunc(begun.Canary, serves), slices.DeleteFunc(begun.Routing, serves)
	return all, nil
}
