package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/render"
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
}

func (f *inspection) register(cmd *cobra.Command) {
	f.sourceFlags.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.commit, "commit", "", "commit to look at (default: the branch's tip)")
	fl.StringVar(&f.namespace, "namespace", "", "namespace, where sluice.yaml says none (default jx-<environment>)")
	fl.StringVar(&f.chartURL, "chart-repository", "", "URL prefix of chart repositories that need the credentials below")
	fl.StringVar(&f.chartUser, "chart-username", "", "user name for those chart repositories")
	fl.StringVar(&f.chartPassword, "chart-password-file", "", "file with the password for those chart repositories")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "ask this cluster which API versions it serves (default: a current Kubernetes)")
	fl.StringVar(&f.context, "context", "", "context of the kubeconfig")
}

// view is an environment repository, opened.
type view struct {
	repo   *gitsync.Repo
	tip    *gitsync.Snapshot
	loader *environments.Loader
	charts *reconcile.Charts
	f      *inspection
	close  func()
}

func (f *inspection) view(ctx context.Context) (*view, error) {
	repo, tip, done, err := f.open(ctx, "")
	if err != nil {
		return nil, err
	}
	if f.commit != "" {
		if tip, err = repo.At(f.commit); err != nil {
			done()
			return nil, err
		}
	}
	charts, err := f.charts(ctx)
	if err != nil {
		done()
		return nil, err
	}
	return &view{repo: repo, tip: tip, loader: &environments.Loader{Environment: f.environment, Namespace: f.namespace}, charts: charts, f: f, close: done}, nil
}

func (f *inspection) charts(ctx context.Context) (*reconcile.Charts, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("finding a directory for charts: %w", err)
	}
	var access []chartCredential
	if f.chartURL != "" {
		access = append(access, chartCredential{URL: f.chartURL, Username: f.chartUser, PasswordFile: f.chartPassword})
	}
	c, err := newCharts(filepath.Join(cache, "sluice", "charts"), access)
	if err != nil || f.kubeconfig == "" {
		return c, err
	}
	rest, err := cluster.LoadREST(f.kubeconfig, f.context, true)
	if err != nil {
		return nil, err
	}
	k, err := cluster.New(ctx, cluster.Config{REST: rest, Namespace: f.namespace, Environment: f.environment})
	if err != nil {
		return nil, err
	}
	c.Capabilities, c.Namespaced = k.Capabilities, k.Namespaced
	return c, nil
}

// newCharts makes what fetches and renders charts.
func newCharts(dir string, credentials []chartCredential) (*reconcile.Charts, error) {
	var access []render.Access
	for _, c := range credentials {
		a := render.Access{URL: c.URL, Username: c.Username}
		if c.PasswordFile != "" {
			password, err := secretFile(c.PasswordFile)
			if err != nil {
				return nil, err
			}
			a.Password = password
		}
		access = append(access, a)
	}
	fetcher, err := render.NewFetcher(render.FetcherConfig{CacheDir: dir, Access: access})
	if err != nil {
		return nil, err
	}
	return &reconcile.Charts{Fetcher: fetcher, Renderer: render.NewRenderer(render.RendererConfig{})}, nil
}

// nothing is the environment before its first commit.
var nothing = reconcile.Source{Snapshot: &gitsync.Snapshot{}, Env: &environments.Environment{}}

// at reads the environment at a commit; a nil snapshot is an environment without apps.
func (v *view) at(s *gitsync.Snapshot) (reconcile.Source, error) {
	if s == nil {
		return nothing, nil
	}
	env, err := v.loader.Load(s.FS(), v.f.path)
	if err != nil {
		return reconcile.Source{}, fmt.Errorf("reading commit %.10s: %w", s.Commit, err)
	}
	return reconcile.Source{Snapshot: s, Env: env}, nil
}

// pick keeps the apps that were named on the command line; all when none was.
func pick(env *environments.Environment, names []string) ([]*environments.App, error) {
	byName := map[string]*environments.App{}
	var all []*environments.App
	for i := range env.Apps {
		byName[env.Apps[i].Name] = &env.Apps[i]
		all = append(all, &env.Apps[i])
	}
	if len(names) == 0 {
		return all, nil
	}
	var out []*environments.App
	for _, n := range names {
		app := byName[n]
		if app == nil {
			return nil, usagef("there is no app %q in this environment", n)
		}
		out = append(out, app)
	}
	return out, nil
}

func newRender() *cobra.Command {
	var f inspection
	cmd := &cobra.Command{
		Use:   "render [app...]",
		Short: "Print the manifests of an environment's apps, as helm template would",
		Example: `  sluice render --repo ../production croc-hunter-java
  sluice render --repo https://git.example.com/production.git --commit 4f0c... --environment production`,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := f.view(cmd.Context())
			if err != nil {
				return err
			}
			defer v.close()
			src, err := v.at(v.tip)
			if err != nil {
				return err
			}
			apps, err := pick(src.Env, args)
			if err != nil {
				return err
			}
			for _, app := range apps {
				rel, _, err := v.charts.Release(cmd.Context(), src, app)
				if err != nil {
					return err
				}
				for _, w := range rel.Warnings {
					cmd.PrintErrln("warning:", app.Name+":", w)
				}
				if _, err := fmt.Fprint(cmd.OutOrStdout(), rel.CRDs, rel.Manifest); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f.register(cmd)
	return cmd
}

func newValidate() *cobra.Command {
	var f inspection
	cmd := &cobra.Command{
		Use:   "validate [app...]",
		Short: "Check that everything in an environment repository is understood",
		Long: `Reads the environment, renders every app and resolves its policy. Every fault is
printed with its file, line and field. Exit code 3 when there are faults.`,
		Example: `  sluice validate --repo . --environment production`,
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := f.view(cmd.Context())
			if err != nil {
				return err
			}
			defer v.close()
			return v.validate(cmd, args)
		},
	}
	f.register(cmd)
	return cmd
}

func (v *view) validate(cmd *cobra.Command, names []string) error {
	out := cmd.OutOrStdout()
	src, err := v.at(v.tip)
	if err != nil {
		fmt.Fprintf(out, "FAULT  %v\n", err)
		return &codedError{code: exitChanges}
	}
	apps, err := pick(src.Env, names)
	if err != nil {
		return err
	}
	faults := 0
	if src.Env.Incomplete != nil {
		faults++
		fmt.Fprintf(out, "FAULT  %v\n", src.Env.Incomplete)
	}
	for _, w := range src.Env.Warnings {
		fmt.Fprintf(out, "note   %s\n", w)
	}
	for _, app := range apps {
		rel, policy, err := v.charts.Release(cmd.Context(), src, app)
		if err != nil {
			faults++
			fmt.Fprintf(out, "FAULT  %s: %v\n", app.Name, err)
			continue
		}
		fmt.Fprintf(out, "ok     %s %s: %d objects, policy %s (%s)\n",
			app.Name, rel.Version, len(rel.Objects), policy.Strategy, policy.Source)
		for _, w := range rel.Warnings {
			fmt.Fprintf(out, "note   %s: %s\n", app.Name, w)
		}
	}
	if faults > 0 {
		fmt.Fprintf(out, "%d faults\n", faults)
		return &codedError{code: exitChanges}
	}
	return nil
}
