package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	gitconfig "github.com/go-git/go-git/v5/config"
	"github.com/spf13/cobra"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// ask is a command that asks something of rollouts.
type ask struct {
	kind        rollout.CommandKind
	short, long string
	// course: what follows takes a while, and is what --wait waits for.
	course bool
}

var asks = []ask{
	{
		kind: rollout.Pause, short: "Pause a canary at its weight",
		long: "Keeps the running canary at its weight until resume. A canary that has clearly failed is\nstill rolled back.",
	},
	{kind: rollout.Resume, short: "Resume a paused canary", long: "Ends a pause. The canary gets a full interval before its next check."},
	{
		kind: rollout.Advance, short: "Take a canary's next step now",
		long: "Takes the next step of the canary now, whatever the checks said so far. With --full the\nrest of the analysis is skipped and the release is promoted.",
	},
	{
		kind: rollout.Abort, short: "Roll back the running rollout now", course: true,
		long: "Rolls back to the stable release now and rejects the new one, as if its checks had failed:\na rollback commit reverts it in git, too.",
	},
	{
		kind: rollout.Rollback, short: "Roll back to an earlier release", course: true,
		long: "Rolls back to the previous release, or to the version of --to, with a rollback commit that\nnames who asked. A release that was stable within the policy's rollbackWindow (24h) is\nrestored immediately, without another canary; an older one is rolled out like any commit.\nDuring a rollout it does the same as abort.",
	},
	{
		kind: rollout.Retry, short: "Try a rejected release again",
		long: "Forgets that the release in git was rejected, so that its rollout starts again.",
	},
	{
		kind: rollout.Hold, short: "Keep new rollouts from starting",
		long: "Starts no new rollout until unhold. A running one continues. With --all this includes apps\nthat are added later.",
	},
	{
		kind: rollout.Approve, short: "Approve a release",
		long: "Approves what the policy requires approval for (analysis.approval): the start of a rollout\nor, once it is running, its promotion. It counts for that release only.",
	},
	{
		kind: rollout.OverrideGates, short: "Let a release pass closed windows, a freeze and earlier waves",
		long: "Lets the running release, or the one in git, pass closed windows, a freeze (see windows)\nand earlier waves until its rollout is over. The audit log records who asked, and why.",
	},
	{
		kind: rollout.Accept, short: "Accept a commit that needs a person's decision",
		long: "Accepts the newest commit of the environment branch despite an error that needs a person's\ndecision: the branch was rewritten, the commit removes most apps, or the status branch\nbelongs to another cluster. --to is the commit that the error names. It is for the whole\nenvironment: --all.",
	},
	{kind: rollout.Unhold, short: "End a hold", long: "Ends a hold: the rollout of what git asks for starts."},
}

// shortestCommit is the length of the shortest name of a commit that is taken, which is git's.
const shortestCommit = 7

// asking is one call of such a command.
type asking struct {
	ask
	statusSource
	kubeconfig, context     string
	namespace               string
	all, full, wait, dryRun bool
	sign                    bool
	reason, author, to      string
	expires, timeout        time.Duration
}

// example of a call by its word.
func (a ask) example(word string) string {
	if a.kind == rollout.Accept {
		return "  sluice " + word + " --repo . --environment production --all --to 3f2a1c9 --reason \"the cluster was built anew\""
	}
	return "  sluice " + word + " --repo . --environment production --reason \"checkout is slow\" croc-hunter-java"
}

// misused is what is wrong with the command line.
func (f *asking) misused(cmd *cobra.Command, args []string) error {
	switch {
	case f.all == (len(args) == 1):
		return usagef("expected the name of one app, or --all\nSee '%s --help'", cmd.CommandPath())
	case f.kind == rollout.Accept && (!f.all || f.kubeconfig != "" || f.wait):
		return usagef("accept is for the whole environment and goes through git: use --all, without --kubeconfig and --wait")
	case f.kind == rollout.Accept && len(f.to) < shortestCommit:
		return usagef("--to: got %q, expected the commit that the error names, at least its first %d characters", f.to, shortestCommit)
	case strings.TrimSpace(f.reason) == "":
		return usagef("--reason is missing: say why, for whoever reads the log")
	case f.expires <= 0:
		return usagef("--expires: got %s, expected a time such as 1h", f.expires)
	}
	return nil
}

func newAsk(a ask) *cobra.Command {
	f := &asking{ask: a}
	word := audit.Word(a.kind)
	cmd := &cobra.Command{
		Use:   word + " app | --all",
		Short: a.short,
		Long: a.long + `

It pushes one commit to the branch sluice/commands/<environment>; anybody who may push
there may use it. Each cluster's agent runs it once and answers on its status branch.`,
		Example: a.example(word),
		Args: func(cmd *cobra.Command, args []string) error {
			if err := cobra.MaximumNArgs(1)(cmd, args); err != nil {
				return err
			}
			return f.misused(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.full {
				f.kind, f.course = rollout.AdvanceFully, true
			}
			app := audit.AllApps
			if len(args) == 1 {
				app = args[0]
			}
			return f.run(cmd.Context(), cmd.OutOrStdout(), app)
		},
	}
	f.sourceFlags.register(cmd)
	fl := cmd.Flags()
	f.registerBranch(fl)
	fl.BoolVar(&f.all, "all", false, "every app of the environment")
	fl.StringVar(&f.reason, "reason", "", "why, for whoever reads the log")
	fl.StringVar(&f.author, "author", "", `who asks, as "Ann <ann@example.com>" (default: your git identity)`)
	fl.DurationVar(&f.expires, "expires", audit.DefaultExpiry, "how long the command is valid")
	fl.BoolVar(&f.wait, "wait", false, "wait for the answer and for the rollout that it starts; exit code 3 when it is refused")
	fl.DurationVar(&f.timeout, "timeout", 10*time.Minute, "how long to wait")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "send it to this cluster instead of git, for when git is down")
	fl.StringVar(&f.context, "context", "", "context of the kubeconfig")
	fl.StringVar(&f.namespace, "namespace", "", "namespace of the states (default jx-<environment>)")
	fl.BoolVar(&f.sign, "sign", false, "sign the commit with git's user.signingKey (default: as commit.gpgSign says)")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print the commit, push nothing")
	if a.kind == rollout.Accept {
		fl.StringVar(&f.to, "to", "", "the commit to accept")
	}
	if a.kind == rollout.Rollback {
		fl.StringVar(&f.to, "to", "", "the version to roll back to (default: the previous one)")
	}
	if a.kind == rollout.Approve {
		fl.StringVar(&f.to, "to", "", "the version to approve (default: the one in git)")
	}
	if a.kind == rollout.Advance {
		fl.BoolVar(&f.full, "full", false, "skip the rest of the analysis and promote")
	}
	return cmd
}

func (f *asking) run(ctx context.Context, w io.Writer, app string) error {
	if f.kubeconfig != "" {
		return f.direct(ctx, w, app)
	}
	apps, now, err := f.names(ctx, app)
	if err != nil {
		return err
	}
	author, sign, err := f.committer(ctx, f.author, f.sign)
	if err != nil {
		return err
	}
	at := time.Now().Truncate(time.Second)
	r := f.request(app, at)
	switch {
	case f.kind == rollout.Accept && !strings.HasPrefix(now, f.to):
		return fmt.Errorf("--to: commit %s is not the tip of the branch, which is %.10s: see sluice status for its error", f.to, now)
	case f.kind == rollout.Accept, f.kind == rollout.Approve && r.To == "":
		r.To = now // and nothing that takes its place meanwhile
	}
	branch := reconcile.CommandBranch(f.environment)
	if f.dryRun {
		_, err := fmt.Fprintf(w, "branch %s\nauthor %s\n\n%s", branch, author, r.Message())
		return err
	}
	where, err := f.place(ctx)
	if err != nil {
		return err
	}
	remote, err := where.pushRemote(branch)
	if err != nil {
		return err
	}
	change := gitsync.Change{Empty: true, Message: r.Message(), Author: author, Date: at, Sign: sign}
	return signedIn(ctx, remote, func(remote gitsync.Remote) error { return f.push(ctx, w, remote, r, change, apps) })
}

// push commits the request, and waits for the answers of these apps where somebody wants that.
func (f *asking) push(ctx context.Context, w io.Writer, remote gitsync.Remote, r audit.Request, change gitsync.Change, apps []string) error {
	dir, err := os.MkdirTemp("", "sluice-")
	if err != nil {
		return fmt.Errorf("making a directory for git objects: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is a temporary directory
	logs, err := f.statusBranches(ctx, remote)
	if err != nil {
		return err
	}
	if !f.wait {
		logs = nil
	}
	var clusters []*answers
	for i, log := range logs {
		status := remote
		status.Branch = log
		a, err := openAnswers(ctx, status, filepath.Join(dir, fmt.Sprint("status-", i)))
		if err != nil {
			return err
		}
		defer a.close()
		clusters = append(clusters, a)
	}
	hash, err := pushRequest(ctx, remote, filepath.Join(dir, "commands"), r, change)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "asked: %s (commit %.10s on %s)\n", r.Subject(), hash, remote.Branch); err != nil {
		return err
	}
	if !f.wait {
		return tell(w, "the answer comes on the status branch: sluice log shows it, and --wait waits for it")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("no answer, or not finished, within %s", f.timeout))
	defer cancel()
	for _, a := range clusters {
		if unanswered := a.await(ctx, w, hash, apps, f.course); err == nil {
			err = unanswered
		}
	}
	return err
}

// statusBranches are where the answers come: of the one cluster, or of all that there are. It refuses an environment that no agent
// has ever told of where agents tell of others: that is a typing error.
func (f *asking) statusBranches(ctx context.Context, remote gitsync.Remote) ([]string, error) {
	own, err := f.name()
	if err != nil || f.branchName != "" {
		return []string{own}, err
	}
	all, err := gitsync.Branches(ctx, remote, statusPrefix)
	if err != nil {
		return nil, err
	}
	var logs []string
	for _, b := range all {
		if b == own || f.cluster == "" && strings.HasPrefix(b, own+"/") {
			logs = append(logs, b)
		}
	}
	if len(logs) == 0 && len(all) > 0 {
		return nil, noStatusBranch(own, all)
	}
	if len(logs) == 0 {
		logs = []string{own} // nobody has told of anything yet
	}
	return logs, nil
}

func (f *asking) request(app string, now time.Time) audit.Request {
	return audit.Request{
		Names: audit.Names{Environment: f.environment, Cluster: f.cluster}, App: app, Kind: f.kind, Reason: f.reason,
		To: f.to, Expires: now.Add(f.expires), Source: "sluice " + versionText(), ID: strings.ToLower(rand.Text()),
	}
}

// direct leaves the request in the cluster, and asks git for nothing.
func (f *asking) direct(ctx context.Context, w io.Writer, app string) error {
	if f.environment == "" {
		return usagef("set --environment: with --kubeconfig it is not read from git")
	}
	settings, err := f.gitSettings()
	if err != nil {
		return err
	}
	author, err := settings.identity(f.author)
	if err != nil {
		return err
	}
	cfg, err := cluster.LoadREST(f.kubeconfig, f.context, true) // it is the user's own
	if err != nil {
		return err
	}
	namespace := namespaceOf(f.environment, f.namespace)
	asker, err := cluster.NewAsker(cfg, namespace, f.environment)
	if err != nil {
		return err
	}
	apps := []string{app}
	if app == audit.AllApps {
		if apps, err = asker.Apps(ctx); err != nil {
			return err
		}
	}
	var faults []error
	for _, name := range apps {
		r := f.request(name, time.Now())
		r.By = author.String()
		if f.dryRun {
			_, err = fmt.Fprintf(w, "namespace %s\n\n%s", namespace, r.Message())
		} else if err = asker.Ask(ctx, name, r.Message()); err == nil {
			_, err = fmt.Fprintf(w, "asked: %s (in the cluster, namespace %s)\n", r.Subject(), namespace)
		}
		faults = append(faults, err)
	}
	if err := errors.Join(faults...); err != nil || !f.wait || f.dryRun {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("no answer within %s", f.timeout))
	defer cancel()
	for _, name := range apps {
		for taken := false; !taken; {
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting for %s: %w", name, context.Cause(ctx))
			case <-time.After(waitPause / 4):
			}
			if taken, err = asker.Taken(ctx, name); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w, "%s: accepted; the outcome is on the status branch\n", name); err != nil {
			return err
		}
	}
	return nil
}

// names finds the environment's name where no flag says it, which apps are asked, and what git has now: the version of the
// one app, or the commit.
func (f *asking) names(ctx context.Context, app string) (names []string, now string, err error) {
	_, tip, done, err := f.sourceFlags.open(ctx, "")
	if err != nil {
		return nil, "", err
	}
	defer done()
	loader := environments.Loader{Environment: f.environment}
	env, err := loader.Load(tip.FS(), f.path)
	if err != nil {
		if f.environment != "" && (app != audit.AllApps || !f.wait) && f.kind != rollout.Accept {
			return []string{app}, "", nil // what is broken in git must keep nobody from an abort
		}
		return nil, "", err
	}
	if f.environment = env.Name; env.Name == "" {
		return nil, "", usagef("set --environment: sluice.yaml names no environment")
	}
	if f.kind == rollout.Accept {
		return nil, tip.Commit, nil
	}
	for i := range env.Apps {
		names = append(names, env.Apps[i].Name)
		if env.Apps[i].Name == app {
			now = env.Apps[i].Asks()
			if _, err := semver.StrictNewVersion(strings.TrimPrefix(now, "v")); err != nil && env.Apps[i].Image.Tag == "" {
				now = "" // a range names no release
			}
		}
	}
	slices.Sort(names)
	switch {
	case app == audit.AllApps && len(names) == 0:
		return nil, "", fmt.Errorf("environment %s has no apps", env.Name)
	case app == audit.AllApps:
		return names, "", nil
	case !slices.Contains(names, app) && env.Incomplete == nil:
		return nil, "", listed([]string{app}, names)
	}
	return []string{app}, now, nil
}

// gitSettings are the clone's, if there is one, and the user's.
type gitSettings []*gitconfig.Config

// get is the value of a setting, of the nearest that has it.
func (g gitSettings) get(section, key string) string {
	for _, c := range g {
		if v := c.Raw.Section(section).Option(key); v != "" {
			return v
		}
	}
	return ""
}

// gitSettings are those of the repository, if it is on this machine, before the user's.
func (f *sourceFlags) gitSettings() (gitSettings, error) {
	var out gitSettings
	if dir, local := f.directory(); local {
		if repo, err := gitsync.OpenLocal(dir); err == nil {
			c, err := repo.Config()
			if err != nil {
				return nil, fmt.Errorf("reading git's configuration of %s: %w", dir, err)
			}
			out = append(out, c)
		}
	}
	c, err := gitconfig.LoadConfig(gitconfig.GlobalScope)
	if err != nil {
		return nil, fmt.Errorf("reading git's configuration: %w", err)
	}
	return append(out, c), nil
}

// committer is the author that is named, or who git says the user is, and what signs his commits; nil: they are not signed.
func (f *sourceFlags) committer(ctx context.Context, author string, signed bool) (gitsync.Identity, func([]byte) (string, error), error) {
	c, err := f.gitSettings()
	if err != nil {
		return gitsync.Identity{}, nil, err
	}
	who, err := c.identity(author)
	if err != nil {
		return gitsync.Identity{}, nil, err
	}
	sign, err := signer(ctx, c, signed)
	return who, sign, err
}

// identity is the author that is named, or who git says the user is.
func (g gitSettings) identity(author string) (gitsync.Identity, error) {
	if author != "" {
		name, rest, ok := strings.Cut(author, "<")
		email, after, closed := strings.Cut(rest, ">")
		if !ok || !closed || strings.TrimSpace(name) == "" || strings.TrimSpace(after) != "" {
			return gitsync.Identity{}, usagef(`--author: got %q, expected one such as "Ann <ann@example.com>"`, author)
		}
		return gitsync.Identity{Name: strings.TrimSpace(name), Email: strings.TrimSpace(email)}, nil
	}
	id := gitsync.Identity{Name: os.Getenv("GIT_AUTHOR_NAME"), Email: os.Getenv("GIT_AUTHOR_EMAIL")}
	if id.Name != "" && id.Email != "" {
		return id, nil
	}
	if id.Name == "" {
		id.Name = g.get("user", "name")
	}
	if id.Email == "" {
		id.Email = g.get("user", "email")
	}
	if id.Name == "" || id.Email == "" {
		return id, errors.New("git does not know who you are: set user.name and user.email with git config --global, or use --author")
	}
	return id, nil
}

// readme is the first file of the command branch.
const readme = `# Commands

Commands for rollouts, one commit each. ` + "`sluice pause`" + ` and the other commands write it; agents read it and answer on
their status branches. Nothing here needs to be edited.
`

// pushRequest commits a request to the command branch and returns the commit's hash.
func pushRequest(ctx context.Context, remote gitsync.Remote, dir string, r audit.Request, change gitsync.Change) (string, error) {
	writer, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: remote, Identity: change.Author, Create: true}, dir)
	if err != nil {
		return "", err
	}
	defer writer.Close() //nolint:errcheck // its store is temporary
	var there string
	hash, err := writer.Commit(ctx, func(tip *gitsync.Snapshot) (*gitsync.Change, error) {
		if known, err := audit.ParseRequest(tip.Message, change.Date); err == nil && known.ID == r.ID {
			there = tip.Commit // the answer to a push was lost
			return nil, nil
		}
		change := change
		if tip.Commit == "" {
			change.Files = map[string][]byte{"README.md": []byte(readme)}
		}
		return &change, nil
	})
	if hash == "" {
		hash = there
	}
	return hash, err
}

// answers follows a status branch.
type answers struct {
	repo *gitsync.Repo
	// tip was looked at last; nil: nobody has answered anything yet.
	tip *gitsync.Snapshot
}

// openAnswers begins with what the branch says now.
func openAnswers(ctx context.Context, remote gitsync.Remote, dir string) (*answers, error) {
	repo, err := gitsync.Open(ctx, remote, dir)
	if err != nil {
		return nil, err
	}
	a := &answers{repo: repo}
	if _, err = a.news(ctx); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *answers) close() { _ = a.repo.Close() }

// news are the events since the last call, oldest first.
func (a *answers) news(ctx context.Context) ([]audit.Entry, error) {
	tip, err := a.repo.Fetch(ctx)
	if errors.Is(err, gitsync.ErrBranchNotFound) {
		return nil, nil // nobody has answered anything yet
	}
	if err != nil {
		return nil, err
	}
	seen := ""
	if a.tip != nil {
		seen = a.tip.Commit
	}
	commits, err := a.repo.Commits(ctx, tip.Commit, seen, 0)
	if err != nil {
		return nil, err
	}
	a.tip = tip
	var out []audit.Entry
	for _, c := range slices.Backward(commits) {
		if e, ok := audit.ParseMessage(c.Message); ok {
			out = append(out, e)
		}
	}
	return out, nil
}

// waitPause is the time between looks at a status branch that is waited for.
const waitPause = 2 * time.Second

// await prints what is answered to a command until every app has answered, and, if it has a course, that is over.
func (a *answers) await(ctx context.Context, w io.Writer, command string, apps []string, course bool) error {
	apps = slices.Clone(apps)
	refused, taken := false, map[string]bool{}
	for len(apps) > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", strings.Join(apps, ", "), context.Cause(ctx))
		case <-time.After(waitPause):
		}
		events, err := a.news(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if !slices.Contains(apps, e.App) || e.Command != command && !taken[e.App] {
				continue
			}
			if _, err := fmt.Fprintln(w, audit.Describe(e.App, e.Event)); err != nil {
				return err
			}
			taken[e.App] = true
			no := e.Command == command && e.Type == rollout.CommandRefused
			if refused = refused || no; no || !course || audit.Ends(e.Type) {
				apps = slices.DeleteFunc(apps, func(app string) bool { return app == e.App })
			}
		}
	}
	if refused {
		return &codedError{code: exitFinding}
	}
	return nil
}
