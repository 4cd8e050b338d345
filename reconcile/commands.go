package reconcile

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/signature"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// CommandBranch is where people ask of an environment's rollouts.
func CommandBranch(environment string) string { return "sluice/commands/" + environment }

const (
	// maxRequests is how many of the command branch's newest commits count.
	maxRequests = 1000
	// forgotten is how long after it has expired a command is still answered to an app that never took one, or none that is
	// known.
	forgotten = 24 * time.Hour
)

// Commands are what the command branch says. One goroutine may Read, any may ask for what is Pending.
type Commands struct {
	// Names are who the commands have to be for.
	Names audit.Names
	Now   func() time.Time
	// Verify says of a commit why its author is a claim; nil: all are. RequireSigned refuses claims.
	Verify        func(gitsync.Commit) error
	RequireSigned bool
	// tip is the commit that was read last.
	tip string

	mu sync.Mutex
	// asked are the requests for this cluster, oldest first. accepted are the commits whose fault somebody accepts.
	asked    []request
	accepted map[string]rollout.Command
}

// request is a command and the app that it is for, which may be audit.AllApps.
type request struct {
	app string
	rollout.Command
}

func (r request) isFor(app string) bool { return r.app == app || r.app == audit.AllApps }

// Read takes over the newest commits of the branch, newest first. It returns those apps of which something new is asked, and
// what is wrong with new commits that nobody can answer.
func (b *Commands) Read(commits []gitsync.Commit) (apps []string, faults []error) {
	var asked []request
	accepted := map[string]rollout.Command{}
	seen := map[string]bool{}
	news := len(commits)
	if i := slices.IndexFunc(commits, func(c gitsync.Commit) bool { return c.Hash == b.tip }); i >= 0 {
		news = i
	}
	for i, c := range slices.Backward(commits) {
		r, err := audit.ParseRequest(c.Message, c.Time)
		switch {
		case err == nil && r.Environment != "" && r.Environment != b.Names.Environment:
			err = fmt.Errorf("it is for environment %q", r.Environment)
		case err == nil && r.Cluster != "" && r.Cluster != b.Names.Cluster || r.ID != "" && seen[r.ID]:
			continue
		}
		if err != nil {
			if i < news && b.Now().Sub(c.Time) < forgotten {
				faults = append(faults, fmt.Errorf("commit %.10s: %w", c.Hash, err))
			}
			continue
		}
		seen[r.ID] = true
		command := b.command(c, r)
		if r.Kind == rollout.Accept && r.App == audit.AllApps && command.Unfit == "" {
			accepted[r.To] = command
			if i < news {
				apps = []string{audit.AllApps}
			}
			continue
		}
		asked = append(asked, request{r.App, command})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(commits) > 0 {
		b.tip = commits[0].Hash
	}
	for _, r := range asked {
		if !slices.ContainsFunc(b.asked, func(old request) bool { return old.ID == r.ID }) && !slices.Contains(apps, r.app) {
			apps = append(apps, r.app)
		}
	}
	b.asked, b.accepted = asked, accepted
	return apps, faults
}

// person is "Ann <ann@example.com>".
func person(id gitsync.Identity) string {
	if id.Email == "" {
		return audit.Person(id.Name)
	}
	return audit.Person(id.String())
}

func (b *Commands) command(c gitsync.Commit, r audit.Request) rollout.Command {
	out := rollout.Command{ID: c.Hash, Kind: r.Kind, By: person(c.Author), To: r.To, Reason: r.Reason, Expires: r.Expires}
	err := signature.ErrUnsigned
	if b.Verify != nil {
		err = b.Verify(c)
	}
	if out.Verified = err == nil; !out.Verified && b.RequireSigned {
		out.Unfit = err.Error()
	}
	return out
}

// Pending are the commands that an app has not taken yet, oldest first. One of which it is not known what it took, as it is
// new or its state was lost, is not told what was asked before its time but for a hold, which stands.
func (b *Commands) Pending(app string, s rollout.State) []rollout.Command {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := -1
	if s.LastCommand != "" {
		last = slices.IndexFunc(b.asked, func(r request) bool { return r.ID == s.LastCommand })
	}
	patience := forgotten
	if s.LastSeq == 0 {
		patience = 0
	}
	old := b.Now().Add(-patience)
	var hold *rollout.Command
	var out []rollout.Command
	for _, r := range b.asked[last+1:] {
		switch {
		case !r.isFor(app):
		case last >= 0 || r.Expires.After(old):
			out = append(out, r.Command)
		case r.Kind == rollout.Hold:
			hold = &r.Command
			hold.Expires = time.Time{}
		case r.Kind == rollout.Unhold:
			hold = nil
		}
	}
	if hold != nil && s.LastSeq == 0 {
		out = slices.Insert(out, 0, *hold)
	}
	return out
}

// accepting is the newest command that accepts a commit of the environment branch in spite of its fault; zero: there is none. One
// that has expired counts no more: else an old history could be forced upon the branch again because somebody meant it once.
func (b *Commands) accepting(commit string) rollout.Command {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.accepted[commit]
	if !c.Expires.After(b.Now()) {
		return rollout.Command{}
	}
	return c
}

// Accepted implements Git. A command that has given the status branch to another cluster doesn't give it back.
func (r *Repository) Accepted(commit string) string {
	c := r.commands.accepting(commit)
	if other := r.foreign.Load(); c.ID == "" || other != nil && other.TakenOver == c.ID {
		return ""
	}
	return "accepted by " + rollout.Asked{By: c.By, Reason: c.Reason}.String()
}

// direct reads a command that stands beside a state. What is not understood is answered, too.
func direct(id, text string) *rollout.Command {
	if id == "" {
		return nil
	}
	r, err := audit.ParseRequest(text, time.Time{})
	c := &rollout.Command{ID: id, Kind: r.Kind, By: r.By, To: r.To, Reason: r.Reason, Expires: r.Expires}
	switch {
	case err != nil:
		c.Unfit = err.Error()
	case c.By == "":
		c.Unfit = "it has no trailer Sluice-By"
	}
	if c.By == "" {
		c.By = "somebody"
	}
	return c
}

// Commands are what people ask of an app on the command branch, after the command that its state names as the last, oldest
// first.
func (r *Repository) Commands(app string, s rollout.State) []rollout.Command {
	return r.commands.Pending(app, s)
}

// fetch brings the environment branch up to date, and the command branch where it has moved and is in the same repository.
func (r *Repository) fetch(ctx context.Context) (*gitsync.Snapshot, error) {
	defer r.cfg.Pulse.begin("fetching from git")()
	left := r.recorded.Load()
	s, err := r.repo.Fetch(ctx)
	if err == nil {
		r.cfg.Pulse.count(func(c *PulseCounts, now time.Time) { c.Fetched = now })
	}
	if !r.apart() {
		if err == nil {
			r.compare(left, r.repo.Tip(r.cfg.Status.Branch))
		}
		if cerr := r.readCommands(ctx, r.repo.Tip(CommandBranch(r.cfg.Environment))); cerr != nil && ctx.Err() == nil {
			r.log.Warn("reading the command branch", "error", cerr)
		}
	}
	if err == nil {
		err = r.begin(ctx)
	}
	return s, err
}

// apart: the status repository is another one than the environment repository.
func (r *Repository) apart() bool { return r.cfg.Status.URL != r.cfg.Remote.URL }

// lookAside looks at the status branch and the command branch in a repository of their own. It is away when it is away: what is on the
// environment branch is delivered meanwhile. The Snapshot says no more than that it was there.
func (r *Repository) lookAside(ctx context.Context) (*gitsync.Snapshot, error) {
	defer r.cfg.Pulse.begin("fetching from the status repository")()
	left := r.recorded.Load()
	tips, err := gitsync.Tips(ctx, r.cfg.Status, "sluice/")
	if err != nil {
		return nil, err
	}
	r.compare(left, tips[r.cfg.Status.Branch])
	return &gitsync.Snapshot{}, r.readCommands(ctx, tips[CommandBranch(r.cfg.Environment)])
}

func (r *Repository) sawAside(_ *gitsync.Snapshot, err error) error {
	if err != nil {
		r.log.Warn("reading the status repository", "error", err)
	}
	return err
}

// compare tells of a status branch that is not as it was left before it was looked at. What was being written meanwhile is seen the
// next time.
func (r *Repository) compare(left *string, tip string) {
	if left != nil && r.recorded.Load() == left && tip != *left {
		r.edited()
	}
}

// readCommands reads the command branch, which is at tip; empty: there is none.
func (r *Repository) readCommands(ctx context.Context, tip string) error {
	branch := CommandBranch(r.cfg.Environment)
	if tip == "" || tip == r.commands.tip {
		return nil
	}
	remote := r.cfg.Status
	remote.Branch = branch
	repo, err := gitsync.Open(ctx, remote, filepath.Join(r.cfg.DataDir, "commands"))
	if err != nil {
		return err
	}
	defer repo.Close() //nolint:errcheck // it is a cache
	now, err := repo.Fetch(ctx)
	if err != nil {
		return err
	}
	commits, err := repo.Commits(ctx, now.Commit, "", maxRequests)
	if err != nil {
		return err
	}
	if r.cfg.Signers != nil {
		keys, err := r.cfg.Signers()
		if err != nil {
			return err
		}
		r.commands.Verify = func(c gitsync.Commit) error { return keys.Verify(c, r.commands.Now()) }
	}
	apps, faults := r.commands.Read(commits)
	for _, f := range faults {
		r.log.Warn("a command is of no use", "branch", branch, "error", f)
	}
	for _, app := range apps {
		r.asked(app)
	}
	return nil
}
