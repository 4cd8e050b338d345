// Package forecast tells what would become of a release if all goes well: it runs the real policy and the real projection
// against a cluster in which everything is ready as soon as it is applied, and every check passes. So whatever the policy
// learns shows here by itself.
//
// It is pure, and safe for concurrent use.
package forecast

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Release is a release with its plan, and the objects that the chart renders.
type Release struct {
	ID      rollout.Release
	Objects []*unstructured.Unstructured
	Plan    rollout.Plan
}

// Forecast is what would happen.
type Forecast struct {
	// Events in order; Time is since the beginning. None: nothing would begin.
	Events []Event
	// Before and After are what the cluster holds at rest, before and after it.
	Before, After []*unstructured.Unstructured
	// Under is what it holds when the canary first has traffic; nil without one.
	Under []*unstructured.Unstructured
}

// Event is something that would happen.
type Event struct {
	rollout.Event
	// After is how long after the beginning it would happen at the earliest.
	After time.Duration
}

// most bounds a forecast: no plan has as many steps.
const most = 10_000

// Of forecasts what becomes of an app that serves from when git asks for to; a zero from is a first install. An error says why
// it could not be carried through.
func Of(app, namespace string, from, to Release) (Forecast, error) {
	w := &world{app: app, namespace: namespace, from: from, to: to, change: rollout.ChangePods}
	begin := time.Unix(0, 0).UTC()
	w.now = begin
	if !from.ID.IsZero() {
		w.state.Stable, w.state.Plan = from.ID, &from.Plan
		if w.change = project.Compare(from.Objects, to.Objects); w.change == rollout.ChangeNone {
			w.change = rollout.ChangePlain
		}
		if from.ID.Digest == to.ID.Digest {
			w.change = rollout.ChangeNone
		}
	}
	if w.change == rollout.ChangePods && !from.ID.IsZero() {
		if err := project.Check(w.input(rollout.State{StablePlan: w.state.Plan})); err != nil {
			return Forecast{}, err
		}
	}
	var f Forecast
	var err error
	if f.Before, err = w.objects(w.state); err != nil {
		return f, err
	}
	for range most {
		next, events := rollout.Next(w.state, w.observation())
		w.approval = nil
		for _, e := range events {
			f.Events = append(f.Events, Event{e, w.now.Sub(begin)})
			if e.Type == rollout.Waiting && next.Waiting == rollout.ApprovalGate {
				w.approval = []rollout.Command{{ID: fmt.Sprint("approval-", e.Seq), Kind: rollout.Approve, By: "somebody"}}
			}
		}
		if reflect.DeepEqual(next, w.state) {
			due := next.Due(w.observation())
			if !due.After(w.now) {
				break
			}
			w.now = due
			continue
		}
		w.state = next
		if f.Under == nil && w.state.Weight > 0 {
			if f.Under, err = w.objects(w.state); err != nil {
				return f, err
			}
		}
	}
	if w.state.InFlight() {
		return f, fmt.Errorf("forecasting %s: it is still %s after %s", app, w.state.Phase, w.now.Sub(begin))
	}
	f.After, err = w.objects(w.state)
	return f, err
}

// world is one in which all goes well.
type world struct {
	app, namespace string
	from, to       Release
	change         rollout.Change
	state          rollout.State
	now            time.Time
	// approval is given where it is waited for.
	approval []rollout.Command
}

func (w *world) observation() rollout.Observation {
	ready := rollout.Track{Ready: true, Available: true}
	o := rollout.Observation{
		Now: w.now, Desired: w.to.ID, Plan: w.to.Plan, FromStable: w.change, Applied: true, Stable: ready, Canary: ready,
		Recorded: w.state.LastSeq, Commands: w.approval,
	}
	o.Plan.FourEyes = false // somebody is somebody else
	if w.state.Stable.Digest == w.to.ID.Digest {
		o.FromStable = rollout.ChangeNone
	}
	o.Admission = &analysis.Verdict{Outcome: analysis.Pass, At: w.now}
	if w.state.CheckDue(o, w.now) {
		o.Verdict = &analysis.Verdict{Outcome: analysis.Pass, At: w.now, Reason: "the checks pass"}
	}
	return o
}

func (w *world) input(s rollout.State) project.Input {
	in := project.Input{App: w.app, Namespace: w.namespace, Stable: w.from.Objects, Target: w.to.Objects, Plan: w.to.Plan, State: s}
	if s.Plan != nil {
		in.Plan = *s.Plan
	}
	return in
}

// objects are what the cluster holds in a state, in the order in which they are applied.
func (w *world) objects(s rollout.State) ([]*unstructured.Unstructured, error) {
	stable, canary := s.Tracks()
	if stable.IsZero() && canary.IsZero() {
		return nil, nil
	}
	in := w.input(s)
	if !s.InFlight() && s.Stable.Digest == w.to.ID.Digest {
		in.Stable = w.to.Objects
	}
	d, err := project.Project(in)
	if err != nil {
		return nil, err
	}
	return slices.Concat(d.Stable, d.Canary, d.Routing), nil
}
