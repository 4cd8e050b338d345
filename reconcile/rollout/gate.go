package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Gate is something that must open before a rollout gets on: an approval, a window, a wave, a soak. A rollback asks none.
type Gate struct {
	Name string
	// At is the moment that it is asked at.
	At   Moment
	Open bool
	// Reason says why it is closed, for people.
	Reason string
	// NextChange is when time alone may change it; zero: never.
	NextChange time.Time
	// Overridable: a person may let a release pass it all the same.
	Overridable bool
	// Unread: why it is closed, if it is, is still to be read. Nothing is told of it until then.
	Unread bool
}

// Moment of a rollout.
type Moment string

// The moments at which gates are asked.
const (
	AtBegin     Moment = "begin"     // before an install or a rollout begins
	AtApply     Moment = "apply"     // before a change of what serves that no pod sees
	AtStep      Moment = "step"      // before the weight rises to the next step
	AtPromotion Moment = "promotion" // before the stable track gets the release
)

// ApprovalGate is the gate that a person opens for each release where the policy says so.
const ApprovalGate = "approval"

// SuspendGate is the gate that is closed while the policy says suspend.
const SuspendGate = "suspend"

// Approval is a person's word that a release may pass a moment.
type Approval struct {
	Digest string `json:"digest"`
	Moment Moment `json:"moment"`
	Asked
}

// Override is a person's word that a release may pass gates that are Overridable, from its beginning to its end.
type Override struct {
	Digest string `json:"digest"`
	Asked
}

// overridden reports whether somebody lets the release that a moment is about pass.
func (s State) overridden(o Observation, at Moment) bool {
	return s.Override != nil && s.Override.Digest == s.passing(o, at).Digest
}

// override lets the release that is under way, or is to begin, pass what is closed.
func (t *turn) override(c Command) string {
	r := t.passing(t.o, t.now())
	closed := closedNames(t.o.Gates)
	switch {
	case r.IsZero() || t.Phase == Idle && r.Digest == t.Stable.Digest || !t.Phase.trait().divertible && t.Phase != Idle && t.Phase != Installing:
		return "there is no rollout to let pass"
	case len(closed) == 0:
		return "no window is closed, nothing is frozen and no earlier wave is pending"
	case t.overridden(t.o, t.now()):
		return label(r) + " may already pass, by " + t.Override.String()
	}
	t.Override = &Override{r.Digest, *c.asked(t.o.Now)}
	t.tell(Overridden, because("may pass "+strings.Join(closed, ", "), Track{Message: c.Reason}))
	return ""
}

// closedNames are the gates that an override is of use for, each once.
func closedNames(gates []Gate) []string {
	var names []string
	for _, g := range gates {
		if g.Overridable && !g.Open && !slices.Contains(names, g.Name) {
			names = append(names, g.Name)
		}
	}
	return names
}

// now is the moment that the app is before.
func (t *turn) now() Moment {
	if t.Phase == Idle {
		return AtBegin
	}
	return AtPromotion
}

// approved reports whether somebody has approved that a release passes a moment.
func (s State) approved(r Release, at Moment) bool {
	return slices.ContainsFunc(s.Approved, func(a Approval) bool { return a.Digest == r.Digest && a.Moment == at })
}

// gates are those of the observation, what the policy suspends, and the approval that is asked for.
func (s State) gates(o Observation) []Gate {
	gates := slices.Clone(o.Gates)
	for i := range gates {
		g := &gates[i]
		g.Open = g.Open || g.Overridable && s.overridden(o, g.At)
	}
	if o.Plan.Suspend && !s.Stable.IsZero() { // what serves nobody yet is not kept from it
		for _, at := range []Moment{AtBegin, AtStep} {
			gates = append(gates, Gate{Name: SuspendGate, At: at, Reason: "the policy says suspend: true"})
		}
	}
	for _, at := range o.Plan.Approval {
		gates = append(gates, Gate{Name: ApprovalGate, At: at, Open: s.approved(s.passing(o, at), at), Reason: "not approved yet"})
	}
	return gates
}

// passing is the release that a moment is about.
func (s State) passing(o Observation, at Moment) Release {
	if at == AtBegin || at == AtApply {
		return o.Desired
	}
	return s.Target
}

// approve opens the approval gate for the release that waits at it, or will come to it.
func (t *turn) approve(c Command) string {
	at := AtPromotion
	if t.Phase == Idle {
		at = AtBegin
	}
	r := t.passing(t.o, at)
	switch {
	case r.IsZero() || at == AtBegin && r.Digest == t.Stable.Digest || at == AtPromotion && !t.Phase.trait().pausable:
		return "there is nothing to approve"
	case !slices.Contains(t.o.Plan.Approval, at):
		return "the policy asks no approval for " + approvedFor[at]
	case c.To != "" && c.To != r.Name():
		return label(r) + " waits for approval, not " + c.To
	case t.approved(r, at):
		return label(r) + " is approved already"
	case t.o.Plan.FourEyes && r.By == "":
		return "it is not known who asked for " + label(r) + ", and the approver must be somebody else"
	case t.o.Plan.FourEyes && r.By == c.By:
		return Name(c.By) + " asked for " + label(r) + ": somebody else must approve it"
	}
	t.Approved = slices.DeleteFunc(slices.Clone(t.Approved), func(a Approval) bool { return a.Digest != r.Digest })
	t.Approved = append(t.Approved, Approval{r.Digest, at, *c.asked(t.o.Now)})
	t.tell(Approved, c.Reason)
	return ""
}

// approvedFor says what a moment is approved for.
var approvedFor = map[Moment]string{AtBegin: "the start of a rollout", AtPromotion: "a promotion"}

// closed says which gates are closed at a moment, and why; empty: none.
func (t *turn) closed(at Moment) string {
	_, reasons := t.State.closed(t.o, at)
	return strings.Join(reasons, "; ")
}

func (s State) closed(o Observation, at Moment) (names, reasons []string) {
	for _, g := range s.gates(o) {
		if g.At == at && !g.Open {
			names = append(names, g.Name)
			reasons = append(reasons, because(fmt.Sprintf("gate %s is closed", g.Name), Track{Message: g.Reason}))
		}
	}
	return names, reasons
}

// open reports whether the gates of a moment are. That the app waits for others than before is an event; it is none that
// the reason of one changes.
func (t *turn) open(at Moment) bool {
	if slices.ContainsFunc(t.State.gates(t.o), func(g Gate) bool { return g.At == at && !g.Open && g.Unread }) {
		return false
	}
	names, reasons := t.State.closed(t.o, at)
	waiting := strings.Join(names, ", ")
	if waiting != t.Waiting && waiting != "" {
		t.tell(Waiting, strings.Join(reasons, "; "))
	}
	t.Waiting = waiting
	return waiting == ""
}

// gateChanges are when time alone may open a gate that the app waits for.
func (t *turn) gateChanges() []time.Time {
	if t.Waiting == "" {
		return nil
	}
	var changes []time.Time
	for _, g := range t.o.Gates {
		if !g.Open {
			changes = append(changes, g.NextChange)
		}
	}
	return changes
}
