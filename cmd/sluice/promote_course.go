package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/promotion"
)

// printEdit prints what a commit changes.
func printEdit(w io.Writer, base *gitsync.Snapshot, change *gitsync.Change) error {
	for _, name := range slices.Sorted(maps.Keys(change.Files)) {
		before, err := fs.ReadFile(base.FS(), name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, err := w.Write(diff.Diff("a/"+name, before, "b/"+name, change.Files[name])); err != nil {
			return err
		}
	}
	return nil
}

// awaitMerge waits until the environment branch says what was proposed, and gives the commit by which it does. A proposal of the
// strategy Auto is merged here.
func (p *promoter) awaitMerge(ctx context.Context, proposer *promotion.Proposer, proposal promotion.Proposal, done promotion.Proposed) (string, error) {
	if done.Done(proposer.Base) {
		return done.Commit, nil
	}
	var merged string
	err := p.until(ctx, "waiting for the merge", func() (waits string, over bool, err error) {
		merged, waits, err = p.lookAtMerge(ctx, proposer, proposal, &done)
		return waits, merged != "", err
	})
	return merged, err
}

// until looks at the forge again and again, and tells what it waits for.
func (p *promoter) until(ctx context.Context, doing string, look func() (waits string, over bool, err error)) error {
	return until(ctx, p.poll, doing, func(waits string) { p.say("waiting: %s", waits) }, look)
}

// until looks again and again until it is over, and tells what it waits for whenever that is something else.
func until(ctx context.Context, pause time.Duration, doing string, tell func(waits string), look func() (waits string, over bool, err error)) error {
	for said := ""; ; {
		waits, over, err := look()
		if err != nil || over {
			return err
		}
		if waits != said && waits != "" {
			tell(waits)
		}
		said = cmp.Or(waits, said)
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w%s", doing, context.Cause(ctx), after(said))
		case <-time.After(pause):
		}
	}
}

// after is what was waited for last.
func after(said string) string {
	if said == "" {
		return ""
	}
	return ": " + said
}

// lookAtMerge looks once. waits says what it waits for.
func (p *promoter) lookAtMerge(ctx context.Context, proposer *promotion.Proposer, proposal promotion.Proposal, done *promotion.Proposed) (merged, waits string, err error) {
	if proposer.Forge == nil {
		tip, err := proposer.Branch.Tip(ctx)
		if err != nil {
			return "", "git: " + err.Error(), nil //nolint:nilerr // it is asked again
		}
		asked, _, err := environments.Asked(tip.FS(), proposal.Path, proposal.App, proposal.To.Image)
		if err == nil && asked == proposal.To.Version {
			p.say("merged as %.10s", tip.Commit)
			return tip.Commit, "", nil
		}
		return "", "for somebody to merge " + done.Branch, nil
	}
	pull, err := proposer.Forge.Get(ctx, done.Pull.Number)
	if err != nil {
		waits, err = p.passing(err)
		return "", waits, err
	}
	switch {
	case pull.State == forge.Merged:
		p.say("merged as %.10s", pull.MergeCommit)
		return pull.MergeCommit, "", nil
	case pull.State == forge.Closed:
		return "", "", fmt.Errorf("%w: %s", promotion.ErrClosed, pull.URL)
	case pull.Title != done.Pull.Title:
		return "", "", fmt.Errorf("it was replaced by another version: %s: %s", pull.Title, pull.URL)
	case proposal.Strategy != environments.PromotionAuto:
		return "", "for a person to merge " + pull.URL, nil
	}
	if waits := p.waits(ctx, proposer, proposal); waits != "" {
		return "", waits, nil
	}
	if _, err = proposer.Merge(ctx, pull); errors.Is(err, forge.ErrConflict) {
		var fresh promotion.Proposed
		if fresh, err = proposer.Propose(ctx, proposal, true); err == nil && fresh.Pull != nil {
			*done = fresh // else somebody else has merged it
		}
	}
	if err != nil {
		waits, err = p.passing(err)
		return "", waits, err
	}
	return "", "", nil
}

// waits is why nothing may be merged now by what the environment branch says, or can't be known to; empty: it may.
func (p *promoter) waits(ctx context.Context, proposer *promotion.Proposer, proposal promotion.Proposal) string {
	tip, err := proposer.Branch.Tip(ctx)
	if err != nil {
		return "git: " + err.Error()
	}
	env, err := (&environments.Loader{Environment: proposal.Environment}).Load(tip.FS(), proposal.Path)
	if err != nil {
		return err.Error()
	}
	return promotion.Waits(tip.FS(), proposal.Path, env, proposal.App, time.Now())
}

// awaitLeave waits until a commit may be made on the environment branch itself.
func (p *promoter) awaitLeave(ctx context.Context, proposer *promotion.Proposer, proposal promotion.Proposal) error {
	return p.until(ctx, "waiting to commit", func() (waits string, over bool, err error) {
		waits = p.waits(ctx, proposer, proposal)
		if waits != "" && p.noWait {
			err = fmt.Errorf("nothing was proposed: %s; --no-merge pushes a branch for a person to merge", waits)
		}
		return waits, waits == "", err
	})
}

// passing tells what the forge says now and may say no more later from what somebody has to mend.
func (p *promoter) passing(err error) (waits string, fault error) {
	for _, lasting := range []error{forge.ErrUnauthorized, forge.ErrForbidden, forge.ErrNotFound} {
		if errors.Is(err, lasting) {
			return "", p.unable(err)
		}
	}
	return err.Error(), nil
}

// course is what the agents of an environment tell of it, cluster by cluster.
type course struct {
	environment string
	clusters    []*clusterCourse
}

// clusterCourse is one status branch.
type clusterCourse struct {
	*answers
	// prefix names the cluster where there are several.
	prefix string
	// over are the apps with which it is through.
	over map[string]bool
}

// openCourse opens the status branches of an environment, or of one cluster of it, with git's own credentials where they are needed.
func openCourse(ctx context.Context, remote gitsync.Remote, dir, environment, cluster string) (c *course, err error) {
	err = signedIn(ctx, remote, func(remote gitsync.Remote) (err error) {
		c, err = readCourse(ctx, remote, dir, environment, cluster)
		return err
	})
	return c, err
}

func readCourse(ctx context.Context, remote gitsync.Remote, dir, environment, cluster string) (*course, error) {
	own := statusBranch(environment, cluster)
	all, err := gitsync.Branches(ctx, remote, own)
	if err != nil {
		return nil, err
	}
	c := &course{environment: environment}
	for _, b := range all {
		if b == own || cluster == "" && strings.HasPrefix(b, own+"/") {
			if err := c.open(ctx, remote, b, dir); err != nil {
				c.close()
				return nil, err
			}
		}
	}
	if len(c.clusters) == 0 {
		err = c.open(ctx, remote, own, dir) // nobody has told of anything yet
	}
	return c, err
}

func (c *course) open(ctx context.Context, remote gitsync.Remote, branch, dir string) error {
	remote.Branch = branch
	a, err := openAnswers(ctx, remote, filepath.Join(dir, fmt.Sprint(len(c.clusters))))
	if err != nil {
		return err
	}
	one := &clusterCourse{answers: a, over: map[string]bool{}}
	if name, several := strings.CutPrefix(branch, statusBranch(c.environment, "")+"/"); several {
		one.prefix = name + ": "
	}
	c.clusters = append(c.clusters, one)
	return nil
}

func (c *course) close() {
	for _, one := range c.clusters {
		one.answers.close()
	}
}

// record of an app; it says nothing but the name where there is none.
func (c *clusterCourse) record(app string) (audit.Record, error) {
	if c.tip == nil {
		return audit.Record{App: app}, nil
	}
	r, ok, err := audit.Read(c.tip.FS(), app)
	if !ok {
		r.App = app
	}
	return r, err
}

// rejected reports whether some cluster has rolled a version back that nobody has asked for again since.
func (c *course) rejected(app, version string) (reason string, rejected bool) {
	for _, one := range c.clusters {
		r, err := one.record(app)
		if err != nil {
			continue
		}
		if reason, rejected := r.Rejects(version); rejected {
			return reason, true
		}
	}
	return "", false
}

// judge looks at a record of an app: what keeps the app, whether it is there, and why it will not be.
type judge func(ctx context.Context, r audit.Record) (waits string, over bool, err error)

// await waits until every cluster is through with the apps, and says what happens to them.
func (c *course) await(ctx context.Context, say func(format string, args ...any), apps []string, look judge) error {
	return until(ctx, waitPause, "waiting for the rollout", func(string) {}, func() (waits string, over bool, err error) {
		over = true
		for _, one := range c.clusters {
			w, done, err := one.follow(ctx, say, apps, look)
			if err != nil {
				return "", false, err
			}
			waits, over = cmp.Or(waits, w), over && done
		}
		return waits, over, nil
	})
}

// follow tells what is new on one status branch, and whether it is over.
func (c *clusterCourse) follow(ctx context.Context, say func(format string, args ...any), apps []string, look judge) (waits string, over bool, err error) {
	events, err := c.news(ctx)
	if err != nil {
		return err.Error(), false, nil //nolint:nilerr // git is asked again
	}
	for _, e := range events {
		if e.App == "" || slices.Contains(apps, e.App) {
			say("%s%s", c.prefix, audit.Describe(cmp.Or(e.App, e.Environment), e.Event))
		}
	}
	over = true
	for _, app := range apps {
		if c.over[app] {
			continue
		}
		r, err := c.record(app)
		if err != nil {
			waits, over = err.Error(), false // the agent writes again what somebody has edited
			continue
		}
		w, done, err := look(ctx, r)
		switch {
		case err != nil:
			return "", false, fmt.Errorf("%s%w", c.prefix, err)
		case done:
			say("%s%s serves %s", c.prefix, app, r.Serves.Name())
			c.over[app] = true
		default:
			waits, over = cmp.Or(waits, w), false
		}
	}
	return waits, over, nil
}

// keeps is what keeps an app from what git asks for.
func keeps(r audit.Record) string {
	switch {
	case r.Fault != "":
		return "error: " + r.Fault
	case r.Held != "":
		return "held by " + r.Held
	default:
		return r.Waiting
	}
}

// awaited judges whether what was promoted by one of these commits is served.
func (p *promoter) awaited(proposal promotion.Proposal, commits ...string) judge {
	is := func(r audit.Release) bool {
		if proposal.To.Image.Tag == "" {
			return r.Version == proposal.To.Version
		}
		return r.Commit != "" && slices.Contains(commits, r.Commit)
	}
	started := time.Now()
	return func(_ context.Context, r audit.Record) (waits string, over bool, err error) {
		switch {
		case is(r.Serves) && r.Target == (audit.Release{}):
			return "", true, nil
		case is(r.Last.Release) && r.Last.Became() != "" && r.Last.At.After(started.Add(-clockSkew)) && !is(r.Target):
			return "", false, &codedError{exitFinding, errors.New(ending(r))}
		}
		return keeps(r), false, nil
	}
}

// clockSkew is how far the clock of a cluster may be behind this one.
const clockSkew = time.Minute
