package reconcile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// asking is a command branch that grows.
type asking struct {
	t       *testing.T
	now     time.Time
	commits []gitsync.Commit
	branch  *Commands
}

func newAsking(t *testing.T) *asking {
	a := &asking{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	a.branch = &Commands{Names: audit.Names{Environment: "production", Cluster: "eu"}, Now: func() time.Time { return a.now }}
	return a
}

// push adds a commit and has the branch read. It returns of which apps something new is asked, and the faults.
func (a *asking) push(message string) (apps []string, faults []error) {
	c := gitsync.Commit{
		Hash: fmt.Sprintf("c%d", len(a.commits)+1), Message: message, Time: a.now,
		Author: gitsync.Identity{Name: "Ann", Email: "ann@example.com"},
	}
	a.commits = slices.Insert(a.commits, 0, c)
	return a.branch.Read(a.commits)
}

func (a *asking) ask(kind rollout.CommandKind, app string) {
	a.t.Helper()
	r := audit.Request{Names: audit.Names{Environment: "production"}, App: app, Kind: kind}
	if apps, faults := a.push(r.Message()); len(faults) > 0 || !slices.Equal(apps, []string{app}) {
		a.t.Errorf("%s %s: something new for %v, %v", kind, app, apps, faults)
	}
}

// pending says what an app is still to take.
func (a *asking) pending(app string, s rollout.State) string {
	var out []string
	for _, c := range a.branch.Pending(app, s) {
		out = append(out, c.ID+" "+string(c.Kind))
	}
	return strings.Join(out, ", ")
}

func (a *asking) want(app string, s rollout.State, want string) {
	a.t.Helper()
	if got := a.pending(app, s); got != want {
		a.t.Errorf("%s after %q: pending %q, want %q", app, s.LastCommand, got, want)
	}
}

func TestCommandsAreTakenInOrder(t *testing.T) {
	a := newAsking(t)
	a.ask(rollout.Pause, "web")
	a.ask(rollout.Hold, audit.AllApps)
	a.ask(rollout.Abort, "api")
	a.ask(rollout.Resume, "web")
	old := rollout.State{LastSeq: 5}
	a.want("web", old, "c1 Pause, c2 Hold, c4 Resume")
	a.want("api", old, "c2 Hold, c3 Abort")
	old.LastCommand = "c2"
	a.want("web", old, "c4 Resume")
	old.LastCommand = "c4"
	a.want("web", old, "")
	a.now = a.now.Add(30 * time.Hour)
	old.LastCommand = "c2"
	a.want("web", old, "c4 Resume") // to be refused: it has expired while nobody was there to take it
}

// What was asked long ago, or before an app was there, is not answered; a hold stands.
func TestCommandsOfOldTimes(t *testing.T) {
	a := newAsking(t)
	a.ask(rollout.Hold, audit.AllApps)
	a.ask(rollout.Retry, audit.AllApps)
	a.now = a.now.Add(2 * time.Hour)
	a.want("web", rollout.State{LastSeq: 5}, "c1 Hold, c2 Retry") // it was there, and nobody has answered it
	a.want("new", rollout.State{}, "c1 Hold")
	if c := a.branch.Pending("new", rollout.State{}); len(c) != 1 || !c[0].Expires.IsZero() {
		t.Errorf("the hold expires: %+v", c)
	}
	a.now = a.now.Add(30 * time.Hour)
	a.want("web", rollout.State{LastSeq: 5}, "")
	a.ask(rollout.Unhold, audit.AllApps)
	a.now = a.now.Add(2 * time.Hour)
	a.want("new", rollout.State{}, "")
}

// The branch was written anew: nobody knows where the last command was, and what is long over is not answered again.
func TestCommandsOfAnotherHistory(t *testing.T) {
	a := newAsking(t)
	a.ask(rollout.Pause, "web")
	a.now = a.now.Add(48 * time.Hour)
	a.commits = a.commits[:1]
	a.ask(rollout.Abort, "web")
	a.want("web", rollout.State{LastSeq: 5, LastCommand: "of another history"}, "c2 Abort")
}

// Where signatures are asked for, a claim is refused and says why; elsewhere it is a claim in the log.
func TestCommandsAreSigned(t *testing.T) {
	for _, require := range []bool{false, true} {
		a := newAsking(t)
		a.branch.RequireSigned = require
		a.branch.Verify = func(c gitsync.Commit) error {
			if c.Hash == "c1" {
				return nil
			}
			return errors.New("it is signed with a key that is not known")
		}
		a.ask(rollout.Pause, "web")
		a.ask(rollout.Abort, "web")
		got := a.branch.Pending("web", rollout.State{LastSeq: 5})
		if len(got) != 2 || !got[0].Verified || got[0].Unfit != "" || got[1].Verified || (got[1].Unfit != "") != require {
			t.Errorf("signatures required %v: %+v", require, got)
		}
	}
}

// What stands beside a state and is not understood is answered all the same.
func TestDirectCommand(t *testing.T) {
	r := audit.Request{App: "web", Kind: rollout.Pause, By: "Ann <ann@example.com>", Expires: time.Unix(1e9, 0).UTC()}
	if got := direct("d1", r.Message()); *got != (rollout.Command{ID: "d1", Kind: rollout.Pause, By: r.By, Expires: r.Expires}) {
		t.Errorf("got %+v", *got)
	}
	for text, want := range map[string]string{
		"x": "it has no trailer Sluice-Command", "x\n\nSluice-Command: pause": "it has no trailer Sluice-App",
		"x\n\nSluice-Command: pause\nSluice-App: web": "it has no trailer Sluice-By",
	} {
		if got := direct("d1", text); got.By != "somebody" || !strings.Contains(got.Unfit, want) {
			t.Errorf("%q: got %+v", text, *got)
		}
	}
	if got := direct("", ""); got != nil {
		t.Errorf("of nothing: %+v", *got)
	}
}

func TestCommandsOfOthers(t *testing.T) {
	a := newAsking(t)
	r := audit.Request{Names: audit.Names{Environment: "production", Cluster: "us"}, App: "web", Kind: rollout.Pause}
	if apps, faults := a.push(r.Message()); len(apps)+len(faults) > 0 {
		t.Errorf("another cluster's: %v, %v", apps, faults)
	}
	r.Cluster, r.ID = "eu", "once"
	for range 2 {
		a.push(r.Message())
	}
	a.want("web", rollout.State{LastSeq: 5}, "c2 Pause") // the answer to the first push was lost
	r.Environment = "staging"
	if _, faults := a.push(r.Message()); len(faults) != 1 || !strings.Contains(faults[0].Error(), `c4: it is for environment "staging"`) {
		t.Errorf("another environment's: %v", faults)
	}
	if _, faults := a.push("a note"); len(faults) != 1 {
		t.Errorf("what is no command is not told, or again: %v", faults)
	}
	a.now = a.now.Add(time.Minute)
	a.want("web", rollout.State{LastSeq: 5}, "c2 Pause")
}
