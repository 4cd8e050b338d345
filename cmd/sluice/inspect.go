package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/charts"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/forecast"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/promotion"
	"github.com/sluice-cd/sluice/reconcile/source"
	"github.com/sluice-cd/sluice/render"
	kube "github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

// inspection reads and renders an environment without delivering it.
type inspection struct {
	sourceFlags
	commit        string
	namespace     string
	chartUser     string
	chartPassword string
	chartURL      string
	kubeconfig    string
	context       string
	kubeVersion   string
	apiVersions   []string
	agentConfig   string
}

func (f *inspection) register(cmd *cobra.Command) {
	f.sourceFlags.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.commit, "commit", "", "commit to look at: a hash, or a revision such as HEAD~1 of a directory (default: the branch's tip)")
	fl.StringVar(&f.namespace, "namespace", "", "namespace, if sluice.yaml has none (default jx-<environment>)")
	f.registerCharts(fl)
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "check against this cluster: the API versions it serves, and what it would reject (default: a current Kubernetes)")
	fl.StringVar(&f.context, "context", "", "context of the kubeconfig")
	fl.StringVar(&f.kubeVersion, "kube-version", "", "Kubernetes version to render for (default: that of the Kubernetes client in this program)")
	fl.StringSliceVarP(&f.apiVersions, "api-versions", "a", nil, "further API versions that templates find in .Capabilities")
	for _, asked := range []string{"kube-version", "api-versions"} {
		cmd.MarkFlagsMutuallyExclusive("kubeconfig", asked)
	}
	fl.StringVar(&f.agentConfig, "agent-config", "", "an agent.yaml: what it does not allow this environment is an error, and so is a chart without the signature that it requires")
}

// registerCharts registers how charts are come by.
func (f *inspection) registerCharts(fl *pflag.FlagSet) {
	fl.StringVar(&f.chartURL, "chart-repository", "", "URL prefix of chart repositories that need the credentials below, or are on this machine")
	fl.StringVar(&f.chartUser, "chart-username", "", "user name for those chart repositories")
	fl.StringVar(&f.chartPassword, "chart-password-file", "", "file with the password for those chart repositories")
}

// view is an environment repository, opened.
type view struct {
	planner
	repo  *gitsync.Repo
	tip   *gitsync.Snapshot
	walls walls
	f     *inspection
	close func()
}

// planner reads an environment at commits, and compares them.
type planner struct {
	loader *environments.Loader
	// path is the environment's folder in the repository.
	path   string
	charts *charts.Charts
	// cluster is asked about what lives in it; nil: there is none.
	cluster *cluster.Client
	// serving is what serves, which is what a commit changes; nil: it is not known, and commits are compared alone.
	serving *serving
}

func (f *inspection) view(ctx context.Context) (*view, error) {
	if f.context != "" && f.kubeconfig == "" {
		return nil, usagef("--context needs --kubeconfig")
	}
	repo, tip, done, err := f.open(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{
		planner: planner{loader: &environments.Loader{Environment: f.environment, Namespace: f.namespace}, path: f.path},
		repo:    repo, tip: tip, f: f, close: done,
	}
	if f.commit != "" {
		if v.tip, err = v.commit(ctx, "commit", f.commit); err != nil {
			done()
			return nil, err
		}
	}
	environment := f.environment
	if src, err := v.at(v.tip); err == nil {
		environment = src.Env.Name
	}
	if v.walls, err = f.walls(); err == nil {
		v.charts, v.cluster, err = f.charts(ctx, v.walls, environment)
	}
	if err != nil {
		done()
		return nil, err
	}
	return v, nil
}

// commit finds a commit of the branch by its hash or the beginning of it, and in a repository on this machine by any of git's names.
func (v *view) commit(ctx context.Context, flag, hash string) (*gitsync.Snapshot, error) {
	return v.f.revision(ctx, v.repo, v.tip, flag, hash)
}

func (f *sourceFlags) revision(ctx context.Context, repo *gitsync.Repo, tip *gitsync.Snapshot, flag, hash string) (*gitsync.Snapshot, error) {
	if dir, local := f.directory(); local {
		if clone, err := gitsync.OpenLocal(dir); err == nil {
			if found, err := clone.ResolveRevision(plumbing.Revision(hash)); err == nil {
				return repo.At(found.String())
			}
		}
	}
	if len(hash) < 7 || strings.Trim(hash, "0123456789abcdef") != "" {
		return nil, usagef("--%s: got %q, expected the hash of a commit, at least 7 hexadecimal digits", flag, hash)
	}
	if len(hash) == 40 {
		return repo.At(hash)
	}
	history, err := repo.Commits(ctx, tip.Commit, "", 0)
	if err != nil {
		return nil, err
	}
	found := ""
	for _, c := range history {
		switch {
		case !strings.HasPrefix(c.Hash, hash):
		case found != "":
			return nil, usagef("--%s: %q matches several commits: give more digits", flag, hash)
		default:
			found = c.Hash
		}
	}
	if found == "" {
		return nil, usagef("--%s: no commit of the branch begins with %q", flag, hash)
	}
	return repo.At(found)
}

// walls are what the agent's configuration says of the environment; all of it is empty where none is given.
type walls struct {
	// rules are what it may touch; nil: nobody has said.
	rules *allow.Rules
	// signed says whose charts must be signed.
	signed []render.Signed
	// vouched is why the agent would not deliver a commit as the tip of the branch; nil: nothing has to be signed.
	vouched func(ctx context.Context, repo *gitsync.Repo, commit string) error
	// serviceAccount is the one as which the agent applies what charts render; empty: as itself.
	serviceAccount string
	// upstream is the repository from which the agent may take versions, cluster the agent's own.
	upstream, cluster string
	// astray is why people would not find the status branches, where sluice.yaml names this repository.
	astray func(named string) error
}

func (f *inspection) walls() (w walls, err error) {
	if f.agentConfig == "" {
		return w, nil
	}
	c, at, err := readConfig(f.agentConfig)
	if err != nil {
		return w, err
	}
	c.complete(at.fault)
	if err := errors.Join(at.faults...); err != nil {
		return w, err
	}
	var found []envConfig
	for _, e := range c.Environments {
		if f.environment == "" || e.Name == f.environment {
			found = append(found, e)
		}
	}
	if len(found) != 1 {
		return w, usagef("--agent-config: %d environments of %s match: choose one with --environment", len(found), f.agentConfig)
	}
	e := found[0]
	rules := e.Allow.rules(namespaceOf(e.Name, e.Namespace))
	w.rules, w.signed, w.upstream, w.cluster = &rules, signed(slices.Concat(e.Charts, c.Charts)), e.Upstream.URL, c.Cluster
	w.astray, w.serviceAccount = e.astray, e.Allow.ServiceAccount
	if e.Verify.trusted() != nil {
		w.vouched = func(ctx context.Context, repo *gitsync.Repo, commit string) error {
			return e.Verify.vouched(ctx, repo, c.Git, commit)
		}
	}
	return w, nil
}

// charts renders for the cluster of the kubeconfig, which is nil when there is none, and is asked as the environment's agent would.
func (f *inspection) charts(ctx context.Context, w walls, environment string) (*charts.Charts, *cluster.Client, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, nil, fmt.Errorf("finding a directory for charts: %w", err)
	}
	var access []chartCredential
	if f.chartURL != "" {
		access = append(access, chartCredential{URL: f.chartURL, Username: f.chartUser, PasswordFile: f.chartPassword})
	}
	c, err := newCharts(render.FetcherConfig{CacheDir: filepath.Join(cache, "sluice", "charts"), Signed: w.signed}, access, w.rules)
	if err != nil {
		return nil, nil, err
	}
	if f.kubeconfig == "" {
		caps, err := capabilities(f.kubeVersion, f.apiVersions)
		c.Capabilities = func(context.Context) (*chartutil.Capabilities, error) { return caps, nil }
		return c, nil, err
	}
	rest, err := cluster.LoadREST(f.kubeconfig, f.context, true)
	if err != nil {
		return nil, nil, err
	}
	permitted := allow.Everything
	if w.rules != nil {
		permitted = *w.rules
	}
	// It is only asked: the namespace is for what a delivery would save.
	k, err := cluster.New(ctx, cluster.Config{
		REST: rest, Namespace: "default", Environment: cmp.Or(environment, "none"), Allow: permitted, ServiceAccount: w.serviceAccount,
	})
	if err != nil {
		return nil, nil, err
	}
	c.Capabilities, c.Namespaced, c.Lookup = k.Capabilities, k.Namespaced, k.Lookup
	return c, k, nil
}

// newCharts makes what fetches charts with these credentials, as far as the rules allow, and renders them. nil: nobody has given any.
func newCharts(cfg render.FetcherConfig, credentials []chartCredential, rules *allow.Rules) (*charts.Charts, error) {
	for _, c := range credentials {
		a := render.Access{URL: c.URL, Username: c.Username}
		if c.PasswordFile != "" {
			password, err := secretFile(c.PasswordFile)
			if err != nil {
				return nil, err
			}
			a.Password = password
		}
		cfg.Access = append(cfg.Access, a)
	}
	if rules != nil {
		cfg.Allow = rules.Repository
	}
	fetcher, err := render.NewFetcher(cfg)
	if err != nil {
		return nil, err
	}
	return &charts.Charts{Fetcher: fetcher, Renderer: render.NewRenderer(render.RendererConfig{}), Allow: rules}, nil
}

// nothing is the environment before its first commit.
var nothing = source.Commit{Snapshot: &gitsync.Snapshot{}, Env: &environments.Environment{}}

// at reads the environment at a commit; a nil snapshot is an environment without apps.
func (v *planner) at(s *gitsync.Snapshot) (source.Commit, error) {
	if s == nil {
		return nothing, nil
	}
	env, err := v.loader.Load(s.FS(), v.path)
	if err != nil {
		return source.Commit{}, fmt.Errorf("reading commit %.10s: %w", s.Commit, err)
	}
	return source.Commit{Snapshot: s, Env: env}, nil
}

// pick keeps the apps that were named on the command line; all when none was.
func pick(env *environments.Environment, names []string) ([]*environments.App, error) {
	if err := known(names, env); err != nil {
		return nil, err
	}
	var out []*environments.App
	for i := range env.Apps {
		if wanted(names, env.Apps[i].Name) {
			out = append(out, &env.Apps[i])
		}
	}
	return out, nil
}

// apps are those of these names, or all, as the newest commit has them. The view is the caller's to close.
func (f *inspection) apps(ctx context.Context, names []string) (*view, source.Commit, []*environments.App, error) {
	v, err := f.view(ctx)
	if err != nil {
		return nil, source.Commit{}, nil, err
	}
	src, err := v.at(v.tip)
	var apps []*environments.App
	if err == nil {
		apps, err = pick(src.Env, names)
	}
	if err != nil {
		v.close()
		return nil, source.Commit{}, nil, err
	}
	return v, src, apps, nil
}

func newRender() *cobra.Command {
	var f inspection
	var raw bool
	cmd := &cobra.Command{
		Use:   "render [app...]",
		Short: "Print the objects of an environment's apps, as they would be applied",
		Long: `Renders apps and prints the objects that are applied when no rollout is running, Secrets
and generated routing included, each in its namespace and in an API version that the
cluster serves. --raw prints the output of the templates instead, hooks included, like
helm template. Warnings and errors go to standard error; an app with an error does not
keep others from being printed. Exit code 3 when there are errors. On a terminal control
characters are shown as \u001b; a file or a pipe gets them unchanged. --repo may be a
directory without git.`,
		Example: `  sluice render --repo ../production croc-hunter-java
  sluice render --repo https://git.example.com/production.git --commit 4f0c... --environment production
  sluice render --repo . --environment production --raw croc-hunter-java`,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, src, apps, err := f.apps(cmd.Context(), args)
			if err != nil {
				return err
			}
			defer v.close()
			out, faults := asIs(cmd.OutOrStdout()), 0
			for _, app := range apps {
				rel, policy, fault := v.charts.Release(cmd.Context(), src, app)
				if errors.Is(fault, source.ErrSwitchedOff) && len(args) == 0 {
					continue
				}
				if cmd.Context().Err() != nil {
					return context.Cause(cmd.Context())
				}
				text := ""
				switch {
				case rel != nil && raw:
					text = rawText(rel)
				case fault == nil:
					text, fault = applied(app, rel, policy)
				}
				if fault != nil {
					faults++
				}
				if err := printRelease(out, cmd.ErrOrStderr(), app.Name, rel, text, fault); err != nil {
					return err
				}
			}
			if faults > 0 {
				return &codedError{code: exitFinding}
			}
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&raw, "raw", false, "print the output of the templates, like helm template")
	return cmd
}

// rawText is what helm template prints of a release.
func rawText(rel *release.Release) string {
	var text strings.Builder
	text.WriteString(rel.CRDs + rel.Manifest)
	for _, h := range rel.Hooks {
		fmt.Fprintf(&text, "---\n# Source: %s\n%s\n", h.Path, h.Manifest)
	}
	return text.String()
}

// applied is what the cluster would hold of an app at rest.
func applied(app *environments.App, rel *release.Release, policy environments.Policy) (string, error) {
	goal := released(app, rel, policy)
	goal.Plan.Suspend = false // what would come is shown all the same
	f, err := forecast.Of(app.Name, app.Namespace, forecast.Release{}, goal)
	if err != nil {
		return "", rel.Mask.Error(err)
	}
	var text strings.Builder
	for _, o := range f.After {
		object, err := yaml.Marshal(kube.Unmarked(o).Object)
		if err != nil {
			return "", fmt.Errorf("printing %s: %w", kube.KeyOf(o), err)
		}
		fmt.Fprintf(&text, "---\n# App: %s\n%s", app.Name, object)
	}
	return text.String(), nil
}

// printRelease prints what there is of one app.
func printRelease(out, faults io.Writer, app string, rel *release.Release, text string, fault error) error {
	if fault != nil {
		if err := tell(faults, "ERROR  %s: %s", app, fault); err != nil {
			return err
		}
	}
	if rel == nil {
		return nil
	}
	for _, w := range rel.Warnings {
		if err := tell(faults, "warning: %s: %s", app, w); err != nil {
			return err
		}
	}
	_, err := io.WriteString(out, text)
	return err
}

// validation is what validate finds.
type validation struct {
	Environment string `json:"environment"`
	Commit      string `json:"commit"`
	// Faults of the environment; in JSON those of the apps, too.
	Faults   []string        `json:"errors"`
	Warnings []string        `json:"warnings,omitempty"`
	Apps     []appValidation `json:"apps"`
}

// appValidation is one app of it.
type appValidation struct {
	App      string   `json:"app"`
	Version  string   `json:"version"`
	Objects  int      `json:"objects"`
	Policy   string   `json:"policy,omitempty"`
	Hooks    int      `json:"hooks,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	Fault    string   `json:"error,omitempty"`
	// Off is why the app is not delivered at all, which is no fault.
	Off string `json:"off,omitempty"`
}

func newValidate() *cobra.Command {
	var f inspection
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "validate [app...]",
		Short: "Check an environment repository",
		Long: `Reads the environment, renders every app and resolves its policy. Every error is printed
with its file, line and field. Exit code 3 when there are errors. --repo may be a
directory without git.`,
		Example: `  sluice validate --repo . --environment production
  sluice validate --repo . --environment production --json croc-hunter-java`,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := f.view(cmd.Context())
			if err != nil {
				return err
			}
			defer v.close()
			found, err := v.validate(cmd.Context(), args)
			if err != nil {
				return err
			}
			if err := found.print(cmd.OutOrStdout(), asJSON); err != nil {
				return err
			}
			if found.count() > 0 {
				return &codedError{code: exitFinding}
			}
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// unsigned finds what the agent would say of who signed the commit. It is a fault of the tip that the agent follows; another commit,
// such as a pull request's, may yet be merged by one that is signed, and a warning says so.
func (v *view) unsigned(ctx context.Context, out *validation) error {
	if v.walls.vouched == nil {
		return nil
	}
	err := v.walls.vouched(ctx, v.repo, v.tip.Commit)
	_, local := v.f.directory()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
	case local || v.f.commit != "":
		out.Warnings = append(out.Warnings, "as the tip of the branch, the agent would refuse this commit: "+err.Error())
	default:
		out.Faults = append(out.Faults, err.Error())
	}
	return nil
}

func (v *view) validate(ctx context.Context, names []string) (*validation, error) {
	out := &validation{Environment: v.f.environment, Commit: v.tip.Commit, Faults: []string{}, Apps: []appValidation{}}
	// Also of what can't be read.
	if err := v.unsigned(ctx, out); err != nil {
		return nil, err
	}
	src, err := v.at(v.tip)
	if errors.Is(err, environments.ErrOtherName) {
		return nil, err // which is what was asked, and nothing of the commit
	}
	if err != nil {
		out.Faults = append(out.Faults, err.Error())
		return out, nil
	}
	out.Environment, out.Warnings = src.Env.Name, append(out.Warnings, src.Env.Warnings...)
	if waves := src.Env.Waves; v.walls.rules != nil && len(waves) > 0 && !waves.Name(v.walls.cluster) {
		out.Warnings = append(out.Warnings, fmt.Sprintf("no wave names cluster %q of agent.yaml: it joins the last one", v.walls.cluster))
	}
	if err := promotion.Allowed(src.Env, v.walls.upstream); v.walls.rules != nil && err != nil {
		out.Faults = append(out.Faults, err.Error())
	}
	if v.walls.astray != nil {
		if err := v.walls.astray(src.Env.StatusRepository); err != nil {
			out.Warnings = append(slices.Clip(out.Warnings), err.Error())
		}
	}
	if src.Env.Incomplete != nil {
		out.Faults = append(out.Faults, src.Env.Incomplete.Error())
	}
	apps, err := pick(src.Env, names)
	if err != nil {
		return nil, err
	}
	owners, rendered := map[kube.Key][]string{}, map[string]*chart.Chart{}
	for _, app := range apps {
		a := appValidation{App: app.Name, Version: app.Chart.Version}
		rel, policy, err := v.charts.Release(ctx, src, app)
		switch {
		case errors.Is(err, source.ErrSwitchedOff):
			a.Off = source.ErrSwitchedOff.Error()
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			a.Fault = err.Error()
		default:
			a.Version, a.Objects, a.Hooks, a.Warnings = rel.Version, len(rel.Objects), len(rel.Hooks), rel.Warnings
			if app.Chart.Path == "" || app.Chart.Path != src.Env.Umbrella.Dir {
				rendered[app.Name] = rel.Chart
			}
			a.Policy = policyLine(&policy, policy.Steps())
			for _, o := range project.Applied(rel.Objects) {
				key := ownedKey(o, app.Namespace)
				owners[key] = append(owners[key], app.Name)
			}
			for _, field := range policy.Ignored {
				a.Warnings = append(a.Warnings, "the policy's "+field+" has no effect here")
			}
		}
		out.Apps = append(out.Apps, a)
	}
	out.shared(owners)
	out.overridden(rendered)
	return out, nil
}

// overridden warns of named templates of which Helm would take another chart's.
func (f *validation) overridden(rendered map[string]*chart.Chart) {
	for _, o := range render.Overrides(rendered) {
		for i := range f.Apps {
			if f.Apps[i].App == o.App {
				f.Apps[i].Warnings = append(f.Apps[i].Warnings, overridden(o))
			}
		}
	}
}

func overridden(o render.Override) string {
	return fmt.Sprintf("the chart of %s defines %s differently; helm would use that one for both, here each chart uses its own",
		o.Winner, strings.Join(o.Names, ", "))
}

// ownedKey is the object's place in the cluster, whatever version of its kind it is written in.
func ownedKey(o *unstructured.Unstructured, namespace string) kube.Key {
	key := kube.KeyOf(o)
	if key.Namespace == "" {
		key.Namespace = namespace
	}
	return key
}

// shared makes an object that several apps render a fault of each: in the cluster it can be one app's alone, and which one got it
// first would decide.
func (f *validation) shared(owners map[kube.Key][]string) {
	for i := range f.Apps {
		if fault := sharedBy(f.Apps[i].App, owners); fault != "" {
			f.Apps[i].Fault = fault
		}
	}
}

// sharedBy names the objects of an app that others render too; empty: there are none. owners are the apps that render an object.
func sharedBy(app string, owners map[kube.Key][]string) string {
	var faults []string
	for key, apps := range owners {
		others := slices.DeleteFunc(slices.Clone(apps), func(other string) bool { return other == app })
		if slices.Contains(apps, app) && len(others) > 0 {
			faults = append(faults, fmt.Sprintf("%s is also rendered by %s; an object must belong to one app only", key, strings.Join(others, ", ")))
		}
	}
	slices.Sort(faults)
	return strings.Join(faults, "; ")
}

// count is the number of faults.
func (f *validation) count() int {
	n := len(f.Faults)
	for _, a := range f.Apps {
		if a.Fault != "" {
			n++
		}
	}
	return n
}

func (f *validation) print(w io.Writer, asJSON bool) error {
	if asJSON {
		all := *f
		all.Faults = slices.Clone(f.Faults) // a program that asks whether there are any looks there
		for _, a := range f.Apps {
			if a.Fault != "" {
				all.Faults = append(all.Faults, a.App+": "+a.Fault)
			}
		}
		return printJSON(w, all)
	}
	var b strings.Builder
	line := func(format string, args ...any) { _ = tell(&b, format, args...) }
	for _, fault := range f.Faults {
		line("ERROR  %s", fault)
	}
	for _, warning := range f.Warnings {
		line("note   %s", warning)
	}
	for _, a := range f.Apps {
		if a.Fault != "" {
			line("ERROR  %s: %s", a.App, a.Fault)
			continue
		}
		if a.Off != "" {
			line("off    %s %s: %s", a.App, a.Version, a.Off)
			continue
		}
		line("ok     %s %s: %s, policy %s", a.App, a.Version, counted(a.Objects, "object"), a.Policy)
		if a.Hooks > 0 {
			line("note   %s: %s, not run", a.App, counted(a.Hooks, "Helm hook"))
		}
		for _, warning := range a.Warnings {
			line("note   %s: %s", a.App, warning)
		}
	}
	if n := f.count(); n > 0 {
		line("%s", counted(n, "error"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
