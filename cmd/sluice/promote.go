package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/gitsync/redact"
	"github.com/sluice-cd/sluice/reconcile/promotion"
	"github.com/sluice-cd/sluice/render"
)

// promoting is one call of promote.
type promoting struct {
	inspection
	forgeFlags
	// envs are the environments by name; all and allAuto those of the file by their strategy.
	envs         []string
	all, allAuto bool
	file         string
	// imageRepository is that of the image that skaffold has built.
	imageRepository string
	// app is -a, as Jenkins X has it besides the argument.
	app, alias           string
	version, versionFile string
	artifacts            string
	helmRepoName         string
	helmRepoURL          string
	changelog            string
	noMerge, autoMerge   bool
	noWait, dryRun       bool
	again                bool
	sign                 bool
	asJSON               bool
	author               string
	timeout, poll        time.Duration
}

func newPromote() *cobra.Command {
	f := &promoting{}
	cmd := &cobra.Command{
		Use:   "promote [app]",
		Short: "Set a version in an environment, and wait until it runs",
		Long: `Sets the version of an app in an environment repository, in the list of charts or where
apps.<app>.image of sluice.yaml says that the image tag is set, and adds an app that is new. It
opens a pull request, or updates the one that is open; with the strategy Auto it
merges it once its checks have passed, otherwise a person merges it. Where no forge is known it pushes
a branch to be merged, or with Auto commits. Then it waits for the rollout in every cluster.

Environments are named by --env, and found in .sluice.yaml of the directory or one above it
(see docs/promotion.md), or by --repo.`,
		Example: `  sluice promote croc-hunter-java --version 0.0.130 --env production --repo https://git.example.com/production.git
  sluice promote --all-auto                        # version from VERSION, environments from .sluice.yaml
  sluice promote shop --build-artifacts build.json --env staging --no-wait`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 && f.app != "" && f.app != args[0] {
				return usagef("--app: got %q beside the argument %q, expected one of them", f.app, args[0])
			}
			if len(args) == 1 {
				f.app = args[0]
			}
			return f.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f.sourceFlags.register(cmd)
	fl := cmd.Flags()
	f.registerCharts(fl)
	f.forgeFlags.register(fl)
	fl.StringSliceVarP(&f.envs, "env", "e", nil, "environment to promote to; may be given more than once")
	fl.BoolVar(&f.all, "all", false, "every environment of .sluice.yaml but those of the strategy Never")
	fl.BoolVar(&f.allAuto, "all-auto", false, "every environment of .sluice.yaml of the strategy Auto")
	fl.StringVar(&f.file, "environments", "", "file that lists the environments (default: .sluice.yaml, here or above)")
	fl.StringVarP(&f.app, "app", "a", "", "the app, instead of the argument")
	fl.StringVar(&f.alias, "alias", "", "name of the app in the environment, if it is not its chart's name")
	fl.StringVarP(&f.version, "version", "v", "", "version (default: of --version-file, $VERSION, or the newest that the chart repository has)")
	fl.StringVar(&f.versionFile, "version-file", "VERSION", "file with the version")
	fl.StringVar(&f.artifacts, "build-artifacts", "", "file of skaffold build --file-output: the image and its tag are taken from it")
	fl.StringVarP(&f.helmRepoName, "helm-repo-name", "r", "", "name of the chart repository, for the label of the pull request")
	fl.StringVarP(&f.helmRepoURL, "helm-repo-url", "u", "", "chart repository of an app that is new in the environment")
	fl.StringVarP(&f.changelog, "add-changelog", "c", "", "file to include in the pull request text")
	fl.BoolVar(&f.noMerge, "no-merge", false, "leave the merge to a person, whatever the strategy")
	fl.BoolVar(&f.autoMerge, "auto-merge", false, "merge once the checks have passed, whatever the strategy (except Never)")
	fl.BoolVar(&f.noWait, "no-wait", false, "do not wait for the merge and the rollout")
	fl.DurationVarP(&f.timeout, "timeout", "t", time.Hour, "how long to wait for the merge and the rollout in each environment, besides the soak of its waves")
	fl.DurationVar(&f.poll, "pull-request-poll-time", 5*time.Second, "time between looks at the pull request")
	fl.BoolVar(&f.again, "again", false, "promote a version that was rolled back before")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print the commit and its forecast, and push nothing")
	fl.StringVar(&f.author, "author", "", `who promotes, as "Ann <ann@example.com>" (default: your git identity)`)
	fl.BoolVar(&f.sign, "sign", false, "sign the commit with git's user.signingKey (default: as commit.gpgSign says)")
	fl.BoolVar(&f.asJSON, "json", false, "print the outcome as JSON, and progress on standard error")
	cmd.MarkFlagsMutuallyExclusive("all", "all-auto", "env")
	cmd.MarkFlagsMutuallyExclusive("no-merge", "auto-merge")
	return cmd
}

// promoted is what came of one environment, as --json shows it.
type promoted struct {
	Environment string `json:"environment"`
	App         string `json:"app"`
	From        string `json:"from,omitempty"`
	Version     string `json:"version"`
	Branch      string `json:"branch,omitempty"`
	// Commit that holds the promotion, and the one by which the environment branch does.
	Commit string `json:"commit,omitempty"`
	Merged string `json:"merged,omitempty"`
	Pull   string `json:"pullRequest,omitempty"`
	// Outcome: Proposed, Merged, Promoted, or Failed with a Reason.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

func (f *promoting) run(ctx context.Context, w io.Writer) error {
	if f.timeout <= 0 || f.poll <= 0 {
		return usagef("--timeout and --pull-request-poll-time: expected times such as 1h and 5s")
	}
	targets, app, err := f.targets()
	if err != nil {
		return err
	}
	if app == "" {
		return usagef("expected the name of an app\nSee 'sluice promote --help'")
	}
	if err := f.readVersion(); err != nil {
		return err
	}
	out := w
	if f.asJSON {
		w = os.Stderr
	}
	results := []promoted{}
	var faults []error
	for _, t := range targets {
		p := &promoter{promoting: f, target: t, w: w, result: promoted{Environment: t.Name, App: app}}
		err := p.promote(ctx)
		if err != nil {
			p.result.Outcome, p.result.Reason = "Failed", err.Error()
			if len(targets) > 1 {
				err = fmt.Errorf("%s: %w", t.Name, err)
			}
		}
		results = append(results, p.result)
		faults = append(faults, err)
		if err != nil {
			break // what comes after it is to follow what went well
		}
	}
	if f.asJSON {
		if err := printJSON(out, results); err != nil {
			return err
		}
	}
	return errors.Join(faults...)
}

// promoter promotes to one environment.
type promoter struct {
	*promoting
	target target
	w      io.Writer
	result promoted
	// soak is how long the waves of the environment want to be waited for between them.
	soak time.Duration
}

// say tells how far it is.
func (p *promoter) say(format string, args ...any) {
	_ = tell(p.w, "%s: "+format, slices.Concat([]any{p.result.Environment}, args)...)
}

func (p *promoter) promote(ctx context.Context) error {
	source := p.sourceFlags
	source.repo, source.environment = p.target.Repository, p.target.Name
	if p.target.Branch != "" {
		source.branch = p.target.Branch
	}
	if p.target.Path != "" {
		source.path = p.target.Path
	}
	// What is proposed is upon what the remote has.
	source, remote, err := source.ofRemote()
	if err != nil {
		return err
	}
	at := p.inspection
	at.sourceFlags = source
	v, err := at.view(ctx)
	if err != nil {
		return err
	}
	defer v.close()
	proposal, err := p.proposal(ctx, v)
	if err != nil {
		return err
	}
	if p.dryRun {
		return p.forecast(ctx, v, proposal)
	}
	here := p.sourceFlags
	if _, local := here.directory(); !local {
		here.repo = "." // the source of the app, perhaps
	}
	author, sign, err := here.committer(ctx, p.author, p.sign)
	if err != nil {
		return err
	}
	where, err := source.statusIn(v.tip.FS())
	if err != nil {
		return err
	}
	limit := p.timeout + p.soak
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than --timeout %s", limit))
	defer cancel()
	return signedIn(ctx, remote, func(remote gitsync.Remote) error {
		status := remote
		if where.repo != source.repo {
			if status, err = where.remote("main"); err != nil {
				return err
			}
		}
		return p.push(ctx, remote, status, proposal, author, sign)
	})
}

// proposal is what is asked for, once it is known to be possible.
func (p *promoter) proposal(ctx context.Context, v *view) (promotion.Proposal, error) {
	none := promotion.Proposal{}
	src, err := v.at(v.tip)
	switch {
	case errors.Is(err, environments.ErrOtherName):
		return none, usagef("--env: %s is the repository of another environment: %w", redact.URL(p.target.Repository), err)
	case err != nil:
		return none, err
	case src.Env.Name == "":
		return none, usagef("--env: missing, and sluice.yaml names no environment")
	}
	p.target.Name = src.Env.Name
	p.result.Environment = p.target.Name
	for _, wave := range src.Env.Waves {
		p.soak += wave.Soak
	}
	chart := p.result.App
	if p.alias != "" {
		p.result.App = p.alias
	}
	to := environments.Promotion{Version: p.version, Chart: chart, Repository: p.helmRepoURL, ImageRepository: p.imageRepository}
	listed := false
	for i := range src.Env.Apps {
		if app := &src.Env.Apps[i]; app.Name == p.result.App {
			listed, to.Image = true, app.Image
			to.Chart, to.Repository = app.Chart.Name, app.Chart.Repository
		}
	}
	switch {
	case !listed && p.helmRepoURL == "":
		return none, fmt.Errorf("%w; to add an app, name its chart repository with --helm-repo-url", known([]string{p.result.App}, src.Env))
	case p.artifacts != "" && to.Image.Tag == "":
		return none, fmt.Errorf("--build-artifacts: sluice.yaml of %s does not say where the image tag of %s is set: add apps.%s.image.tag there, such as image.tag",
			p.target.Name, p.result.App, p.result.App)
	}
	if err := p.check(ctx, v, &to); err != nil {
		return none, err
	}
	p.result.Version = to.Version
	strategy := src.Env.StrategyOf(p.result.App)
	switch {
	case strategy == environments.PromotionNever:
	case p.noMerge:
		strategy = environments.PromotionManual
	case p.autoMerge:
		strategy = environments.PromotionAuto
	}
	proposal := promotion.Proposal{
		Environment: p.target.Name, Path: v.f.path, App: p.result.App, To: to, Strategy: strategy, Source: "sluice " + versionText(),
	}
	if p.helmRepoName != "" {
		proposal.Labels = []string{"dependency/" + p.helmRepoName + "/" + p.result.App}
	}
	if p.changelog != "" {
		text, err := os.ReadFile(p.changelog)
		if err != nil {
			return none, usagef("--add-changelog: %w", err)
		}
		proposal.Changelog = string(text)
	}
	return proposal, nil
}

// check finds the version where nobody has said it, and refuses one that the chart repository does not have.
func (p *promoter) check(ctx context.Context, v *view, to *environments.Promotion) error {
	if to.Image.Tag != "" {
		if to.Version == "" {
			return usagef("--version: missing; no chart repository knows the newest image of %s", p.result.App)
		}
		return nil
	}
	if strings.HasPrefix(to.Repository, "file:") || to.Repository == "" {
		return fmt.Errorf("the chart of %s is in the environment repository: it has no other versions; change it there", p.result.App)
	}
	chart, err := v.charts.Fetcher.Fetch(ctx, render.Ref{Name: to.Chart, Version: to.Version, Repository: to.Repository})
	switch {
	case errors.Is(err, render.ErrNotFound):
		return fmt.Errorf("there is no such version, so nothing was proposed: %w", err)
	case err != nil:
		return fmt.Errorf("finding the version, so nothing was proposed: %w", err)
	}
	to.Version = chart.Version()
	return nil
}

// forecast prints the edit, and what would come of it.
func (p *promoter) forecast(ctx context.Context, v *view, proposal promotion.Proposal) error {
	change, from, err := promotion.Change(v.tip, proposal)
	if err != nil {
		return err
	}
	p.result.From, p.result.Outcome = from, "Forecast"
	if change == nil {
		p.say("it already has %s %s", proposal.App, proposal.To.Version)
		return nil
	}
	edited, err := v.tip.Edited(ctx, *change)
	if err != nil {
		return err
	}
	if err := printEdit(p.w, v.tip, change); err != nil {
		return err
	}
	plan, err := v.compare(ctx, v.tip, edited, nil)
	if err != nil {
		return err
	}
	return plan.print(p.w, false)
}

// push proposes, and follows what comes of it in the status repository.
func (p *promoter) push(ctx context.Context, remote, status gitsync.Remote, proposal promotion.Proposal, author gitsync.Identity, sign func([]byte) (string, error)) error {
	dir, err := os.MkdirTemp("", "sluice-")
	if err != nil {
		return fmt.Errorf("making a directory for git objects: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is a temporary directory
	writer, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: remote, Identity: author}, filepath.Join(dir, "branch"))
	if err != nil {
		return err
	}
	defer writer.Close() //nolint:errcheck // its store is temporary
	at, err := p.forge(remote)
	if err != nil {
		return err
	}
	proposer := &promotion.Proposer{Branch: writer, Base: remote.Branch, Forge: at, Sign: sign}
	course, err := openCourse(ctx, status, filepath.Join(dir, "status"), p.target.Name, p.cluster)
	if err != nil {
		return err
	}
	defer course.close()
	if reason, rejected := course.rejected(proposal.App, proposal.To.Version); rejected && !p.again {
		return &codedError{exitFinding, fmt.Errorf("%s was rolled back in %s: %s; nothing was proposed. To propose it anyway: --again",
			proposal.To.Version, p.target.Name, reason)}
	}
	if at == nil && proposal.Strategy == environments.PromotionAuto {
		if err := p.awaitLeave(ctx, proposer, proposal); err != nil {
			return err
		}
	}
	done, err := p.propose(ctx, proposer, proposal)
	if err != nil {
		return p.unable(err)
	}
	p.tellProposed(proposal, done, remote.Branch)
	if p.noWait {
		return nil
	}
	merged, err := p.awaitMerge(ctx, proposer, proposal, done)
	if err != nil {
		return err
	}
	p.result.Outcome, p.result.Merged = "Merged", merged
	if err := course.await(ctx, p.say, []string{proposal.App}, p.awaited(proposal, merged, done.Commit)); err != nil {
		return err
	}
	p.result.Outcome = "Promoted"
	return nil
}

// briefly is how long a proposal is tried by who does not wait for what comes of it.
const briefly = time.Minute

// propose tries again while the forge is not there: what was pushed already is found again.
func (p *promoter) propose(ctx context.Context, proposer *promotion.Proposer, proposal promotion.Proposal) (done promotion.Proposed, err error) {
	if p.noWait {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, briefly, fmt.Errorf("it took longer than %s", briefly))
		defer cancel()
	}
	err = p.until(ctx, "proposing", func() (waits string, over bool, err error) {
		if done, err = proposer.Propose(ctx, proposal, false); errors.Is(err, forge.ErrUnavailable) {
			return err.Error(), false, nil
		}
		return "", true, err
	})
	return done, err
}

// unable says what to do where the repository refuses.
func (p *promoter) unable(err error) error {
	var rejected *gitsync.RejectedError
	switch {
	case errors.As(err, &rejected) && rejected.Unauthorized || errors.Is(err, forge.ErrUnauthorized) || errors.Is(err, forge.ErrForbidden):
		return fmt.Errorf("%w; it needs a credential that may push branches and open pull requests: see docs/forges.md", err)
	default:
		return err
	}
}

// tellProposed says what was pushed, and what it waits for.
func (p *promoter) tellProposed(proposal promotion.Proposal, done promotion.Proposed, base string) {
	r := &p.result
	r.From, r.Branch, r.Commit, r.Outcome = done.From, done.Branch, done.Commit, "Proposed"
	switch {
	case done.Commit == "":
		r.Branch = ""
		p.say("it already has %s %s", proposal.App, proposal.To.Version)
	case done.Pull != nil:
		r.Pull = done.Pull.URL
		p.say("%s: %s", done.Pull.Title, done.Pull.URL)
		if slices.Contains(done.Pull.Labels, promotion.HoldLabel) {
			p.say("it waits for a person: remove the label %s and merge it", promotion.HoldLabel)
		}
	case done.Done(base):
		p.say("chore: promote %s to version %s: commit %.10s on %s", proposal.App, proposal.To.Version, done.Commit, done.Branch)
	default:
		p.say("chore: promote %s to version %s: commit %.10s on branch %s, which waits to be merged", proposal.App, proposal.To.Version, done.Commit, done.Branch)
		p.say("git fetch origin %s && git merge FETCH_HEAD && git push", done.Branch)
	}
}
