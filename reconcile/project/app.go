package project

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/render/objects"
)

// app is one app as its objects show it.
type app struct {
	in Input
	// says is how users are led, by the policy.
	says environments.Service
	tracks
	// stable is the release that serves before promotion.
	stable list
	// workload under judgement, of coming where there is one, else of serving; nil when there is none.
	workload *unstructured.Unstructured
	// services are the Services through which the stable track's pods are reached, in order; made is the one among them that
	// the policy asks for and the release does not have, nil when there is none.
	services list
	made     *unstructured.Unstructured
	// split is nil without a canary.
	split *split
	// provider shares the app's traffic, by router.
	provider provider
	router   router
}

func newApp(in Input, t tracks) (*app, error) {
	a := &app{in: in, says: in.service(), stable: applied(in.Stable), tracks: t}
	source := t.release
	if len(t.coming) > 0 {
		source = t.coming
	}
	var err error
	if a.workload, err = in.workload(source, len(t.coming) == 0); err != nil {
		return nil, err
	}
	if a.workload == nil {
		if len(t.coming) > 0 {
			return nil, fmt.Errorf("the release under way has no Deployment to make a canary of")
		}
		return a, nil
	}
	a.services = selecting(a.servingWorkload(), a.serving)
	if a.made, err = a.missingService(); err != nil {
		return nil, err
	}
	if a.made != nil {
		a.services = append(a.services, a.made)
	}
	if a.provider, err = providerOf(in.provider()); err != nil {
		return nil, err
	}
	if a.router, err = a.provider.new(a); err != nil {
		return nil, err
	}
	return a, nil
}

// workload is the one of a release that the policy is about.
func (in Input) workload(release list, atRest bool) (*unstructured.Unstructured, error) {
	found, err := FindTarget(release, in.Plan.Target)
	if err != nil && atRest && !slices.ContainsFunc(release, in.named) {
		// At rest the policy may be that of another release, which names its workload otherwise.
		if only, otherwise := FindTarget(release, environments.Target{}); otherwise == nil && only != nil {
			return only, nil
		}
	}
	return found, err
}

// named reports whether obj is the workload that the policy names.
func (in Input) named(obj *unstructured.Unstructured) bool {
	return isWorkload(obj) && names(in.Plan.Target, obj)
}

// servingWorkload is the one that the stable track serves with; where the release under way renamed it, the one that it
// no longer has, as long as there is no doubt which that is.
func (a *app) servingWorkload() *unstructured.Unstructured {
	handedOver := len(a.outgoing) > 0 && a.stable.find(objects.KeyOf(a.workload)) == nil
	if w := a.serving.find(objects.KeyOf(a.workload)); w != nil && !handedOver {
		return w
	}
	for _, candidates := range []list{a.outgoing, a.stable.without(a.coming), a.serving} {
		if w, err := FindTarget(candidates, environments.Target{}); err == nil && w != nil {
			return w
		}
	}
	return a.workload
}

// selecting returns the Services of a release that select a workload's pods.
func selecting(workload *unstructured.Unstructured, release list) list {
	var found list
	for _, obj := range release {
		if isService(obj) && sameNamespace(obj, workload) && serviceSelector(obj).Matches(objects.PodLabels(workload)) {
			found = append(found, obj)
		}
	}
	return found
}

// service returns the Service of that name through which the stable track is reached, or nil.
func (a *app) service(name string) *unstructured.Unstructured {
	i := slices.IndexFunc(a.services, func(s *unstructured.Unstructured) bool { return s.GetName() == name })
	if i < 0 {
		return nil
	}
	return a.services[i]
}

// namespace that the app's pods run in.
func (a *app) namespace() string {
	if ns := a.workload.GetNamespace(); ns != "" {
		return ns
	}
	return a.in.Namespace
}

// selects reports whether any pod of the release carries labels that a selector matches.
func (o list) selects(selector labels.Selector) *unstructured.Unstructured {
	for _, obj := range o {
		if isWorkload(obj) && selector.Matches(objects.PodLabels(obj)) {
			return obj
		}
	}
	return nil
}
