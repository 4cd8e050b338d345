package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Command is what a person asks of an app.
type Command struct {
	// ID is unique among all commands.
	ID   string
	Kind CommandKind
	// By is the person, as git has it: "Ann <ann@example.com>". Reason is what they say.
	By, Reason string
	// Verified: a signature says that it was that person; else it is a claim.
	Verified bool
	// Unfit says why it does not count, whatever it asks; empty: it does.
	Unfit string
	// To is the release that it is about, by its name, or the commit; empty: whichever there is.
	To string
	// Expires is when it is no longer to be taken; zero: never.
	Expires time.Time
}

// CommandKind is what can be asked. Each is a row of commands.
type CommandKind string

const (
	// Pause keeps the canary's weight where it is. A canary that has clearly failed still goes back.
	Pause CommandKind = "Pause"
	// Resume ends a pause.
	Resume CommandKind = "Resume"
	// Advance takes the next step now.
	Advance CommandKind = "Advance"
	// AdvanceFully skips what is left of the analysis.
	AdvanceFully CommandKind = "AdvanceFully"
	// Abort goes back to Stable, and rejects the release as if it had failed.
	Abort CommandKind = "Abort"
	// Retry forgets that what git asks for was rejected.
	Retry CommandKind = "Retry"
	// Hold keeps what git asks for from beginning.
	Hold CommandKind = "Hold"
	// Unhold ends a hold.
	Unhold CommandKind = "Unhold"
	// Rollback goes back to a release that served before, and has git say so.
	Rollback CommandKind = "Rollback"
	// Accept is for a fault that waits for a person. No fault of an app does; one of the environment is the agent's to accept.
	Accept CommandKind = "Accept"
	// Approve opens the approval gate for the release that comes to it.
	Approve CommandKind = "Approve"
	// OverrideGates lets the release pass closed windows and a freeze.
	OverrideGates CommandKind = "Override"
)

// commands are what is done for each kind.
var commands = map[CommandKind]struct {
	// do does it, or says why not.
	do func(*turn, Command) (refusal string)
	// turns: doing it is a transition, so that none is taken beside it. All others hold up nothing: what people ask must not
	// keep a failing canary from going back.
	turns bool
}{
	Pause:        {do: (*turn).pause},
	Resume:       {do: (*turn).resume},
	Advance:      {do: (*turn).advanceNow, turns: true},
	AdvanceFully: {do: (*turn).advanceFully, turns: true},
	Abort:        {do: (*turn).abort, turns: true},
	Retry:        {do: (*turn).retry},
	Hold:         {do: (*turn).hold},
	Unhold:       {do: (*turn).unhold},
	Approve:      {do: (*turn).approve},
	Accept:       {do: (*turn).accept},
	Rollback:     {do: (*turn).undo, turns: true},

	OverrideGates: {do: (*turn).override},
}

// Asked is who asked for something that lasts, and why.
type Asked struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// String is "Ann: while we look at the logs".
func (a Asked) String() string {
	if a.Reason == "" {
		return Name(a.By)
	}
	return Name(a.By) + ": " + a.Reason
}

// Name is a person's name without the address.
func Name(by string) string {
	if name, _, ok := strings.Cut(by, " <"); ok && name != "" {
		return name
	}
	return by
}

func (c Command) asked(now time.Time) *Asked { return &Asked{By: c.By, Reason: c.Reason, At: now} }

// words say who asked, for the reason of a decision.
func (c Command) words(what string) string { return what + " by " + c.asked(time.Time{}).String() }

// pending is the command to take next; ok is false where there is none.
func (s State) pending(o Observation) (next Command, direct, ok bool) {
	if o.Direct != nil && o.Direct.ID != s.LastDirect {
		return *o.Direct, true, true
	}
	i := slices.IndexFunc(o.Commands, func(c Command) bool { return c.ID == s.LastCommand })
	if i+1 == len(o.Commands) {
		return Command{}, false, false
	}
	return o.Commands[i+1], false, true
}

// obey takes the oldest command, and reports whether that was a transition. It is answered by an event that names it, and
// with that it is done: the State that says so is saved before anything follows from it.
func (t *turn) obey() (turned bool) {
	c, direct, ok := t.pending(t.o)
	if !ok {
		return false
	}
	if t.asking = c; direct {
		t.LastDirect = c.ID
	} else {
		t.LastCommand = c.ID
	}
	defer func() { t.asking = Command{} }()
	if refusal := t.try(c); refusal != "" {
		t.tell(CommandRefused, fmt.Sprintf("%s: %s", c.Kind, refusal))
		return false
	}
	return commands[c.Kind].turns
}

func (t *turn) try(c Command) (refusal string) {
	row, known := commands[c.Kind]
	switch {
	case c.Unfit != "":
		return c.Unfit
	case !known:
		return "unknown command"
	case !c.Expires.IsZero() && !t.o.Now.Before(c.Expires):
		return "it expired at " + c.Expires.UTC().Format(time.RFC3339)
	case t.o.Removed && c.Kind != Unhold: // which is taken of an app that may be listed again
		return "git no longer lists the app"
	default:
		return row.do(t, c)
	}
}

// tell records an event that changes nothing of the State's Reason.
func (t *turn) tell(typ EventType, reason string) {
	to := t.Target
	if to.IsZero() {
		to = t.o.Desired
	}
	t.record(Event{Type: typ, Rollout: t.rollout(), From: t.Stable, To: to, Weight: t.Weight, Reason: reason})
}

func (t *turn) pause(c Command) string {
	switch {
	case !t.Phase.trait().pausable:
		return "no canary is being analyzed"
	case t.Pause != nil:
		return "it is already paused by " + t.Pause.String()
	}
	t.Pause = c.asked(t.o.Now)
	t.tell(Paused, c.Reason)
	return ""
}

// resume gives the canary a whole interval, or deadline, again.
func (t *turn) resume(c Command) string {
	if t.Pause == nil {
		return "it is not paused"
	}
	t.Pause = nil
	t.restage()
	t.tell(Resumed, c.Reason)
	return ""
}

func (t *turn) advanceNow(c Command) string {
	switch {
	case t.Phase == Starting:
		return "the canary has no traffic yet"
	case t.Phase != Analyzing:
		return "no canary is being analyzed"
	case !t.o.Canary.Available:
		return because("the canary is not available", t.o.Canary)
	}
	at := AtStep
	if t.lastStep() {
		at = AtPromotion
	}
	if why := t.closed(at); why != "" {
		return why
	}
	t.rise(c.words("advanced"), nil)
	return ""
}

func (t *turn) advanceFully(c Command) string {
	switch {
	case !t.Phase.trait().pausable:
		return "no canary is being analyzed"
	case !t.o.Canary.Ready:
		return because("the canary is not ready", t.o.Canary)
	}
	if why := t.closed(AtPromotion); why != "" {
		return why
	}
	t.promote(c.words("advanced to the end"), nil)
	return ""
}

func (t *turn) abort(c Command) string {
	if !t.Phase.trait().divertible {
		return "no rollout is under way that could be rolled back"
	}
	if t.Following {
		return fmt.Sprintf("this is already a rollback to %s: change the version in git instead", label(t.Target))
	}
	t.fail(c.words("aborted"), nil)
	return ""
}

// retry forgets that Desired was rejected, and the rollback commit that would take it back. Should that commit have
// been pushed all the same, git is seen to go back to Stable, which aborts.
func (t *turn) retry(c Command) string {
	if t.o.Desired.IsZero() || !t.rejected(t.o.Desired) {
		return "the release in git was not rejected"
	}
	t.Rejected = slices.DeleteFunc(t.Rejected, func(x Rejection) bool {
		return x.Release.Digest == t.o.Desired.Digest
	})
	if len(t.Rejected) == 0 {
		t.Rejected = nil
	}
	t.tell(Retried, c.Reason)
	t.dropRevertOf(t.o.Desired, c.words("tried again"))
	return ""
}

func (t *turn) accept(Command) string { return "nothing of this app waits to be accepted" }

func (t *turn) hold(c Command) string {
	if t.Hold != nil {
		return "it is already held by " + t.Hold.String()
	}
	t.Hold = c.asked(t.o.Now)
	t.tell(Held, c.Reason)
	return ""
}

func (t *turn) unhold(c Command) string {
	if t.Hold == nil {
		return "it is not held"
	}
	t.Hold = nil
	t.tell(Unheld, c.Reason)
	return ""
}
