package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/source"
	"github.com/sluice-cd/sluice/render/release"
)

// serving is what serves, as the status branch says. A nil one knows nothing.
type serving struct {
	records map[string]audit.Record
	// at is a commit of the environment branch.
	at func(commit string) (*gitsync.Snapshot, error)
}

// statusPlan says where a plan has what serves from.
type statusPlan struct {
	Branch string `json:"branch,omitempty"`
	// Commit of the branch, Updated when the agent last wrote there.
	Commit  string    `json:"commit,omitempty"`
	Updated time.Time `json:"updated,omitzero"`
	// Unknown is why nothing is known of what serves, so that commits are compared alone; Broken that it could not be read.
	Unknown string `json:"unknown,omitempty"`
	Broken  bool   `json:"-"`
}

// maxPast is how many commits are looked at to find whether a commit was delivered already.
const maxPast = 1000

// readServing reads what serves. That nobody can tell is no error unless the command line names where to look: a plan needs no agent.
func (v *view) readServing(ctx context.Context, f statusSource) (*serving, *statusPlan, error) {
	f.sourceFlags = v.f.sourceFlags
	if src, err := v.at(v.tip); err == nil {
		f.environment = src.Env.Name
	}
	branch, err := f.name()
	if err != nil {
		return nil, &statusPlan{Unknown: "the environment has no name: set --environment"}, nil
	}
	said := &statusPlan{Branch: branch}
	where, err := f.placeIn(v.tip.FS())
	var tip *gitsync.Snapshot
	if err == nil {
		var done func()
		if tip, done, err = where.tipOf(ctx, branch); err == nil {
			defer done()
		}
	}
	named := f.statusRepo != "" || f.branchName != ""
	switch {
	case ctx.Err() != nil:
		return nil, nil, context.Cause(ctx)
	case err != nil && named:
		return nil, nil, where.missingBranch(ctx, err, branch)
	case errors.Is(err, gitsync.ErrBranchNotFound) || errors.Is(err, transport.ErrRepositoryNotFound):
		said.Unknown = "there is no branch " + branch + "; if the environment has several clusters, choose one with --cluster"
		return nil, said, nil
	case err != nil:
		said.Unknown, said.Broken = err.Error(), true
		return nil, said, nil
	}
	report, err := readStatus(tip.FS(), nil)
	if err != nil {
		said.Unknown, said.Broken = fmt.Sprintf("reading branch %s: %s", branch, err), true
		return nil, said, nil
	}
	if past, err := v.repo.Descends(report.Commit, v.tip.Commit, maxPast); past && err == nil && report.Commit != v.tip.Commit {
		said.Unknown = fmt.Sprintf("commit %.10s was delivered before %.10s", v.tip.Commit, report.Commit)
		return nil, said, nil
	}
	said.Commit, said.Updated = tip.Commit, report.Updated
	s := &serving{records: map[string]audit.Record{}, at: v.repo.At}
	for _, r := range report.Apps {
		s.records[r.App] = r
	}
	return s, said, nil
}

// served is an app as its record has it, beside the release that a commit asks for.
type served struct {
	standing
	// known: release and policy are what serves; a nil release is none. Else the record names what is not here.
	known   bool
	release *release.Release
	policy  environments.Policy
}

// served compares the record of an app with its release at a commit; nil: there is none. What the record names is rendered here
// again where its commit is: the agent's digests are of a cluster that this rendering may not know.
func (v *planner) served(ctx context.Context, to source.Commit, app *environments.App, rel *release.Release, policy environments.Policy) *served {
	if v.serving == nil {
		return nil
	}
	record, ok := v.serving.records[app.Name]
	if !ok {
		return nil
	}
	name := app.Asks()
	if app.Image.Tag == "" {
		name = rel.Version
	}
	s := &served{known: record.Serves == audit.Release{}}
	if !s.known {
		s.release, s.policy, s.known = v.recorded(ctx, app.Name, record.Serves)
	}
	s.standing = stand(record, wish{commit: to.Commit, suspended: policy.Suspend, is: func(x audit.Release) bool {
		switch {
		case x.Digest == rel.Digest:
			return true
		case x.Name() != name:
			return false
		case x == record.Serves && s.known:
			return s.release.Digest == rel.Digest
		}
		if there, _, known := v.recorded(ctx, app.Name, x); known {
			return there.Digest == rel.Digest
		}
		return name != record.Serves.Name() // of equal names the values may differ
	}})
	if s.Already && !s.known {
		s.release, s.policy, s.known = rel, policy, true
	}
	return s
}

// recorded renders a release of a record from the commit that asked for it; known is false where that is not here.
func (v *planner) recorded(ctx context.Context, app string, r audit.Release) (rel *release.Release, policy environments.Policy, known bool) {
	snapshot, err := v.serving.at(r.Commit)
	if err != nil {
		return nil, policy, false
	}
	src, err := v.at(snapshot)
	if err != nil {
		return nil, policy, false
	}
	was := byName(src.Env)[app]
	if was == nil {
		return nil, policy, false
	}
	rel, policy, err = v.charts.Release(ctx, src, was)
	if err != nil || rel.Version != r.Version {
		return nil, policy, false
	}
	return rel, policy, true
}

// print tells how old what serves is, which in a clone is what was fetched last.
func (s *statusPlan) print(line func(string, ...any), verbose bool) {
	switch {
	case s.Broken:
		line("warning: what is running is not known, so commits are compared: %s", s.Unknown)
	case s.Unknown != "" && verbose:
		line("what is running is not known, so commits are compared: %s", s.Unknown)
	case s.Unknown == "":
		line("running: as of %[2]s UTC (%[1]s)", s.Branch, s.Updated.UTC().Format(time.DateTime))
	}
}
