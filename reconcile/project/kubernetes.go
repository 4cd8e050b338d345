package project

import (
	"fmt"
	"math"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// kubernetes shares traffic by the number of pods, with nothing but what every cluster has: the canary's pods join the Services
// of the stable ones. They carry all labels of those and one more, which tells them apart.
var kubernetes = provider{new: newPodShares, joins: true}

// joinedLabel is what canary pods that join the stable ones carry beside their labels.
var joinedLabel = labels.Set{"sluice.dev/track": "canary"}

// mostWeight is the highest weight that pods can give: a canary gets at most as many as the stable track has, which keeps all
// of its own, so that it can take all traffic back at once.
const mostWeight = 50

// podShares gives a canary its share of an app's requests by its number of pods.
type podShares struct {
	app  *app
	main string
	// stable is how many pods the stable track has.
	stable int
}

func newPodShares(a *app) (router, error) {
	r := &podShares{app: a}
	var err error
	if r.main, err = a.mainService(""); err != nil {
		return nil, err
	}
	if r.stable, err = r.podsOf(a.servingWorkload(), a.serving); err != nil {
		return nil, err
	}
	for _, step := range a.in.Plan.Steps {
		if a.in.Plan.Canary() && step.Weight > mostWeight {
			return nil, fmt.Errorf("weight %d, but provider kubernetes shares traffic by pods, of which a canary gets at most as many as "+
				"the stable track has: expected at most %d", step.Weight, mostWeight)
		}
	}
	return r, nil
}

// podsOf is how many pods the chart asks for. With an autoscaler nobody knows.
func (r *podShares) podsOf(workload *unstructured.Unstructured, release list) (int, error) {
	if scaler := release.scaler(workload); scaler != nil && r.app.in.Plan.Canary() {
		return 0, fmt.Errorf("%s scales %s, but provider kubernetes shares traffic by pods: expected a number of replicas in the chart, "+
			"or another provider", describe(scaler), describe(workload))
	}
	if n, said := intAt(workload.Object, "spec", "replicas"); said {
		return n, nil
	}
	return 1, nil
}

func (r *podShares) service() string { return r.main }

func (r *podShares) inject(*unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return nil, nil
}

func (r *podShares) generate() ([]*unstructured.Unstructured, error) { return nil, nil }

func (r *podShares) counterpart(*unstructured.Unstructured) []*unstructured.Unstructured { return nil }

func (r *podShares) warns(*unstructured.Unstructured) string { return "" }

// replicas are as many as the weight takes. Pods that are ready get requests, so those of a canary that starts are as many as
// its next step takes.
func (r *podShares) replicas() (n int, ok bool) {
	s := r.app.in.State
	weight := s.Weight
	if steps := r.app.in.Plan.Steps; weight == 0 && s.Phase == rollout.Starting && len(steps) > 0 {
		weight = steps[min(max(s.Step, 0), len(steps)-1)].Weight
	}
	return r.pods(weight), true
}

// pods are how many a canary has at a weight: those that come nearest to it, and at least one.
func (r *podShares) pods(weight int) int {
	if weight <= 0 {
		return 0
	}
	n := math.Round(float64(r.stable*weight) / float64(100-weight))
	return max(1, int(n))
}

// warnings say what the weights come to.
func (r *podShares) warnings() []string {
	if r.app.split == nil {
		return nil
	}
	var parts []string
	for _, step := range r.app.in.Plan.Steps {
		n := r.pods(step.Weight)
		parts = append(parts, fmt.Sprintf("%s is %d of %d (%.0f%%)", rollout.Percent(step.Weight), n, n+r.stable, 100*float64(n)/float64(n+r.stable)))
	}
	var all []string
	if len(parts) > 0 {
		all = append(all, "traffic is shared by pods: "+strings.Join(parts, ", "))
	}
	if s := r.app.says; len(s.Hosts)+len(s.Gateways) > 0 {
		all = append(all, "service.hosts and service.gateways do not apply: provider kubernetes makes no routes")
	}
	return all
}
