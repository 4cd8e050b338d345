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
	var said string
	for {
		merged, waits, err := p.lookAtMerge(ctx, proposer, proposal, &done)
		if err != nil || merged != "" {
			return merged, err
		}
		if waits != said && waits != "" {
			p.say("waiting: %s", waits)
		}
		said = cmp.Or(waits, said)
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for the merge: %w%s", context.Cause(ctx), after(said))
		case <-time.After(p.poll):
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
		return "", "", fmt.Errorf("another version has taken the place of this one: %s: %s", pull.Title, pull.URL)
	case proposal.Strategy != environments.PromotionAuto:
		return "", "for a person to merge " + pull.URL, nil
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
	clusters []*clusterCourse
}

// clusterCourse is one status branch.
type clusterCourse struct {
	*answers
	name string
	// over says that the rollout is, at the commit of the last look.
	over bool
}

// course opens the status branches of the environment.
func (p *promoter) course(ctx context.Context, remote gitsync.Remote, dir string) (*course, error) {
	own := statusBranch(p.target.Name, p.cluster)
	all, err := gitsync.Branches(ctx, remote, own)
	if err != nil {
		return nil, err
	}
	c := &course{}
	for _, b := range all {
		if b == own || p.cluster == "" && strings.HasPrefix(b, own+"/") {
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
	c.clusters = append(c.clusters, &clusterCourse{answers: a, name: strings.TrimPrefix(branch, statusPrefix)})
	return nil
}

func (c *course) close() {
	for _, one := range c.clusters {
		one.answers.close()
	}
}

// record of an app; zero where there is none.
func (c *clusterCourse) record(app string) (audit.Record, error) {
	if c.tip == nil {
		return audit.Record{}, nil
	}
	r, _, err := audit.Read(c.tip.FS(), app)
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

// await waits until every cluster serves what was promoted by one of these commits.
func (c *course) await(ctx context.Context, p *promoter, proposal promotion.Proposal, commits ...string) error {
	// is reports whether a release is what was promoted.
	is := func(r audit.Release) bool {
		if proposal.To.Image.Tag == "" {
			return r.Version == proposal.To.Version
		}
		return r.Commit != "" && slices.Contains(commits, r.Commit)
	}
	started := time.Now()
	var fault string
	for {
		left := 0
		for _, one := range c.clusters {
			if one.over {
				continue
			}
			var err error
			if fault, err = one.follow(ctx, p, proposal.App, started, is); err != nil {
				return err
			}
			if !one.over {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the rollout: %w%s", context.Cause(ctx), after(fault))
		case <-time.After(waitPause):
		}
	}
}

// follow tells what is new on one status branch, and whether it is over.
func (c *clusterCourse) follow(ctx context.Context, p *promoter, app string, started time.Time, is func(audit.Release) bool) (fault string, err error) {
	events, err := c.news(ctx)
	if err != nil {
		return err.Error(), nil //nolint:nilerr // git is asked again
	}
	for _, e := range events {
		if e.App == app || e.App == "" {
			p.say("%s%s", c.prefix(p), audit.Describe(cmp.Or(e.App, e.Environment), e.Event))
		}
	}
	r, err := c.record(app)
	if err != nil {
		return "", err
	}
	switch {
	case is(r.Serves) && r.Target == (audit.Release{}):
		p.say("%s%s serves %s", c.prefix(p), app, r.Serves.Version)
		c.over = true
	case is(r.Last.Release) && r.Last.Became() != "" && r.Last.At.After(started.Add(-clockSkew)) && !is(r.Target):
		return "", &codedError{exitFinding, fmt.Errorf("%s%s", c.prefix(p), ending(r))}
	case r.Fault != "":
		return "fault: " + r.Fault, nil
	case r.Held != "":
		return "held by " + r.Held, nil
	case r.Waiting != "":
		return r.Waiting, nil
	}
	return "", nil
}

// clockSkew is how far the clock of a cluster may be behind this one.
const clockSkew = time.Minute

// prefix names the cluster where there are several.
func (c *clusterCourse) prefix(p *promoter) string {
	if c.name == p.target.Name {
		return ""
	}
	return strings.TrimPrefix(c.name, p.target.Name+"/") + ": "
}
