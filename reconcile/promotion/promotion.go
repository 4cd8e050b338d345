// Package promotion proposes that an environment runs another version of an app: on a branch of its own with a pull request
// where a forge is known, or straight on the environment branch.
//
// There is one branch, and at most one open pull request, for each app and environment, whoever proposes. A newer version takes
// the place of the one that is proposed. Nothing is ever forced: a branch that others have written to keeps their commits.
//
// A Proposer may be used from several goroutines, which then take turns at the git writer.
package promotion

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
)

// HoldLabel keeps a pull request from being merged until a person has taken it off, as Jenkins X has it.
const HoldLabel = "do-not-merge/hold"

// Forge is what a Proposer needs of the forge that holds the environment repository.
type Forge interface {
	Find(ctx context.Context, head, base string) (*forge.Pull, error)
	Get(ctx context.Context, number int) (*forge.Pull, error)
	Create(ctx context.Context, p forge.Pull) (*forge.Pull, error)
	Update(ctx context.Context, p forge.Pull) error
	Merge(ctx context.Context, p forge.Pull, title string) error
	Checks(ctx context.Context, commit string) (forge.Verdict, []forge.Check, error)
}

// Proposer proposes versions to one environment.
type Proposer struct {
	// Branch writes the environment branch, of the name Base.
	Branch *gitsync.Writer
	Base   string
	// Forge is nil where none is known: then a proposal is a branch, and one of the strategy Auto a commit.
	Forge Forge
	// Sign makes a signature of each commit; nil: they are not signed.
	Sign func(commit []byte) (string, error)
}

// Proposal is a version that an environment is to run.
type Proposal struct {
	// Environment by name, and its folder in the repository.
	Environment, Path string
	App               string
	To                environments.Promotion
	Strategy          environments.PromotionStrategy
	// Upstream is the environment in which it serves, where that is why it is proposed.
	Upstream string
	// Labels of the pull request besides those of every promotion.
	Labels []string
	// Changelog, in Markdown, is shown in the pull request.
	Changelog string
	// Source is the program that proposes.
	Source string
	// ClosedBefore: where the branch has the version since before then, and no pull request is open, somebody has closed that, and
	// it stays so: [ErrClosed]. Zero: it is opened again.
	ClosedBefore time.Time
	// Check is asked of the commit of the environment branch upon which something is to be proposed, which may be newer than the one
	// for which that was decided. Its error is that of the proposal; nil: there is nothing to ask.
	Check func(base *gitsync.Snapshot) error
}

// Proposed is what a Proposal came to.
type Proposed struct {
	// From is the version that was asked for before; empty: the app was not listed.
	From string
	// Branch on which Commit holds the proposal: that of the pull request, or the environment branch itself. Without a Commit
	// the environment branch says it already.
	Branch, Commit string
	// Pull is nil where no forge is known, or nothing is left to propose.
	Pull *forge.Pull
}

// Done reports whether the environment branch says what was proposed.
func (p Proposed) Done(base string) bool { return p.Commit == "" || p.Branch == base }

// BranchOf the proposals of an app to an environment.
func BranchOf(environment, app string) string { return "sluice/promote/" + environment + "/" + app }

// Propose makes the proposal, or brings the one that is open up to date. refresh makes it anew upon the environment branch even
// where it says the right version already, as when it can't be merged any more.
func (r *Proposer) Propose(ctx context.Context, p Proposal, refresh bool) (Proposed, error) {
	if p.Strategy == environments.PromotionNever {
		return Proposed{}, fmt.Errorf("%s takes no promotions of %s: upstream.strategy is Never in its sluice.yaml; change the version there by hand, or the strategy",
			p.Environment, p.App)
	}
	if r.Forge == nil && p.Strategy == environments.PromotionAuto {
		return r.commit(ctx, p)
	}
	return r.propose(ctx, p, refresh)
}

// commit promotes at once.
func (r *Proposer) commit(ctx context.Context, p Proposal) (done Proposed, err error) {
	done.Branch = r.Base
	done.Commit, err = r.Branch.Commit(ctx, func(tip *gitsync.Snapshot) (*gitsync.Change, error) {
		var change *gitsync.Change
		change, done.From, err = Change(tip, p)
		return r.signed(change), err
	})
	return done, err
}

// signed has the commit signed, if there is one.
func (r *Proposer) signed(change *gitsync.Change) *gitsync.Change {
	if change != nil {
		change.Sign = r.Sign
	}
	return change
}

// Change is the commit that promotes upon a snapshot of the environment branch, and the version that is asked for there; nil
// where that says it already.
func Change(base *gitsync.Snapshot, p Proposal) (change *gitsync.Change, from string, err error) {
	change, from, err = p.change(base, base.Commit)
	if err == nil && change != nil && p.Check != nil {
		err = p.Check(base)
	}
	return change, from, err
}

// change is Change with what the message is to name as the commit that it is made upon.
func (p Proposal) change(upon *gitsync.Snapshot, base string) (change *gitsync.Change, from string, err error) {
	if from, _, err = environments.Asked(upon.FS(), p.Path, p.App, p.To.Image); err != nil {
		return nil, "", err
	}
	files, err := environments.Promote(upon.FS(), p.Path, p.App, p.To)
	if err != nil || len(files) == 0 {
		return nil, from, err
	}
	return &gitsync.Change{Files: files, Message: p.message(from, base)}, from, nil
}

func (p Proposal) message(from, base string) string {
	return audit.Promotion{
		Environment: p.Environment, App: p.App, From: from, To: p.To.Version, Base: base, Upstream: p.Upstream, Source: p.Source,
	}.Message()
}

// propose proposes on a branch.
func (r *Proposer) propose(ctx context.Context, p Proposal, refresh bool) (Proposed, error) {
	done := Proposed{Branch: BranchOf(p.Environment, p.App)}
	branch, err := r.Branch.Branch(done.Branch)
	if err != nil {
		return done, err
	}
	var open *forge.Pull
	if r.Forge != nil {
		if open, err = r.Forge.Find(ctx, done.Branch, r.Base); err != nil {
			return done, fmt.Errorf("looking for an open pull request of %s: %w", done.Branch, err)
		}
	}
	var there string
	hash, err := branch.Propose(ctx, func(base, own *gitsync.Snapshot) (*gitsync.Change, error) {
		there = ""
		change, from, err := Change(base, p)
		done.From = from
		if err != nil || change == nil {
			return nil, err
		}
		r.signed(change).Upon = base
		if own == nil {
			return change, nil
		}
		last, ours := audit.ParsePromotion(own.Message)
		if r.Forge != nil && open == nil {
			if ours && last.To == p.To.Version && own.Time.Before(p.ClosedBefore) {
				return nil, ErrClosed
			}
			// Its pull request was merged or closed: what is on the branch is of another time.
			return change, nil
		}
		there = own.Commit
		switch {
		case ours && last.To == p.To.Version && last.From == from && last.Base != "" && (last.Base == base.Commit || !refresh):
			return nil, nil
		case ours && last.Base != "":
			return change, nil
		}
		// Somebody else has written there last.
		upon, _, err := p.change(own, "")
		return r.signed(upon), err
	})
	if err != nil {
		return done, err
	}
	if done.Commit = hash; hash == "" {
		done.Commit = there
	}
	if r.Forge == nil || done.Commit == "" {
		return done, nil
	}
	done.Pull, err = r.pull(ctx, p, done, open)
	return done, err
}

// pull opens the pull request, or has the open one say what is on its branch now.
func (r *Proposer) pull(ctx context.Context, p Proposal, done Proposed, open *forge.Pull) (*forge.Pull, error) {
	want := forge.Pull{
		Head: done.Branch, Base: r.Base, Title: audit.Promotion{App: p.App, To: p.To.Version}.Subject(), Body: p.body(done.From), Labels: p.labels(),
	}
	if open == nil {
		made, err := r.Forge.Create(ctx, want)
		if err == nil {
			return made, nil
		}
		// Another may have opened it at the same time.
		if open, _ = r.Forge.Find(ctx, done.Branch, r.Base); open == nil {
			return nil, fmt.Errorf("opening a pull request of %s, which is pushed: %w", done.Branch, err)
		}
	}
	switch {
	case open.Title != want.Title || strings.TrimSpace(open.Body) != strings.TrimSpace(want.Body):
		want.Number = open.Number
		if version(open.Title) == version(want.Title) {
			want.Labels = keepHold(want.Labels, open.Labels) // a person may have taken it off
		}
		if err := r.Forge.Update(ctx, want); err != nil {
			return nil, fmt.Errorf("bringing pull request %s up to date: %w", open.URL, err)
		}
	case open.Commit == done.Commit:
		return open, nil
	}
	return r.Forge.Get(ctx, open.Number)
}

// version is the last word of a title.
func version(title string) string { return title[strings.LastIndexByte(title, ' ')+1:] }

// keepHold has the label if, and only if, it is there now.
func keepHold(want, now []string) []string {
	want = slices.DeleteFunc(slices.Clone(want), func(l string) bool { return l == HoldLabel })
	if slices.Contains(now, HoldLabel) {
		want = append(want, HoldLabel)
	}
	return want
}

func (p Proposal) labels() []string {
	labels := append([]string{"env/" + p.Environment}, p.Labels...)
	if p.Strategy != environments.PromotionAuto {
		labels = append(labels, HoldLabel)
	}
	return labels
}

// body is the pull request's text.
func (p Proposal) body(from string) string {
	var b strings.Builder
	if p.Upstream != "" {
		b.WriteString(marker(p.Upstream) + "\n")
	}
	switch {
	case from == "":
		fmt.Fprintf(&b, "Adds **%s** to **%s** at version `%s`.\n", p.App, p.Environment, p.To.Version)
	default:
		fmt.Fprintf(&b, "Promotes **%s** in **%s** from version `%s` to `%s`.\n", p.App, p.Environment, from, p.To.Version)
	}
	if p.Upstream != "" {
		fmt.Fprintf(&b, "\nIt runs in **%s**.\n", p.Upstream)
	}
	b.WriteString("\nOnce this is merged, the agent of each cluster rolls it out and reports on the branch `sluice/status/" + p.Environment + "`.\n")
	if p.Strategy != environments.PromotionAuto {
		b.WriteString("\nIt waits for a person: remove the label `" + HoldLabel + "` and merge it.\n")
	}
	b.WriteString("\nA newer version updates this pull request.\n")
	if p.Changelog != "" {
		fmt.Fprintf(&b, "\n-----\n\n# %s\n\n%s\n", p.App, strings.TrimSpace(p.Changelog))
	}
	return b.String()
}

// Merge merges a pull request of the strategy Auto once its checks have passed. It reports whether it is merged; until then the
// error, if there is one, says what it waits for, or wraps [forge.ErrConflict] where the proposal has to be refreshed.
func (r *Proposer) Merge(ctx context.Context, pull *forge.Pull) (merged bool, err error) {
	if slices.Contains(pull.Labels, HoldLabel) {
		return false, fmt.Errorf("%w: it has the label %s", forge.ErrNotReady, HoldLabel)
	}
	verdict, checks, err := r.Forge.Checks(ctx, pull.Commit)
	if err != nil {
		return false, err
	}
	if verdict != forge.Success {
		return false, fmt.Errorf("%w: %s", forge.ErrNotReady, unfinished(checks))
	}
	// The number is how people, and whoever tells of what came of it, find the pull request of a commit.
	if err := r.Forge.Merge(ctx, *pull, fmt.Sprintf("%s (#%d)", pull.Title, pull.Number)); err != nil {
		return false, err
	}
	now, err := r.Forge.Get(ctx, pull.Number)
	if err != nil {
		return false, err
	}
	return now.State == forge.Merged, nil
}

// unfinished names the checks that have not passed, failures first.
func unfinished(checks []forge.Check) string {
	var names []string
	for _, v := range []forge.Verdict{forge.Failure, forge.Pending} {
		for _, c := range checks {
			if c.Verdict == v {
				names = append(names, fmt.Sprintf("check %s: %s", c.Name, c.Verdict))
			}
		}
	}
	return strings.Join(names, ", ")
}

// ErrClosed says that somebody has closed the pull request without merging it.
var ErrClosed = errors.New("the pull request was closed without being merged")
