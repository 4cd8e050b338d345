package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/gitsync/signature"
	"github.com/sluice-cd/sluice/reconcile"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/charts"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/feedback"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/promotion"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/waves"
	"github.com/sluice-cd/sluice/reconcile/webhooks"
	"github.com/sluice-cd/sluice/render"
)

// deliveries is what the environments of one process share.
type deliveries struct {
	config  *config
	rest    *rest.Config
	metrics delivery.Metrics
	hosts   *render.Hosts
	// onEvent is told every event of every environment.
	onEvent func(environment, app string, e rollout.Event)
	log     *slog.Logger
}

// environment is one environment, ready to be delivered.
type environment struct {
	envConfig
	// agent delivers; each try has a new one, for Run can be called once, and one that knows what the other clusters say.
	agent    atomic.Pointer[reconcile.Agent]
	newAgent func() (*reconcile.Agent, *waves.Follower, *webhooks.Asker)
	client   *cluster.Client
	charts   *charts.Charts
	// downstream proposes versions to the environment, made anew for each try; nil: nothing does.
	downstream func(onFault func(string)) *promotion.Downstream
	// reporter tells the forge what becomes of commits, made anew for each try; nil: there is none.
	reporter func() *feedback.Reporter
	// standby: another process leads, or may.
	standby atomic.Bool
}

// namespaceOf an environment's states, and of its apps where sluice.yaml says none: the named one, or that of Jenkins X.
func namespaceOf(environment, named string) string {
	if named != "" {
		return named
	}
	return "jx-" + environment
}

// chartsOf an environment are fetched with its own credentials before those of all, and cached below dir for it alone: what is
// in a cache is served without asking the chart host who may have it.
func (c *config) chartsOf(e envConfig, dir string, hosts *render.Hosts) (*charts.Charts, error) {
	rules := e.Allow.rules(namespaceOf(e.Name, e.Namespace))
	all := slices.Concat(e.Charts, c.Charts)
	return newCharts(render.FetcherConfig{CacheDir: filepath.Join(dir, "charts", e.Name), Signed: signed(all), Hosts: hosts}, all, &rules)
}

// open prepares the parts of one environment; nothing is delivered yet. The watches end with ctx.
func (d *deliveries) open(ctx context.Context, e envConfig) (*environment, error) {
	namespace := namespaceOf(e.Name, e.Namespace)
	log := d.log.With("environment", e.Name)
	client, err := cluster.New(ctx, cluster.Config{
		REST: d.rest, Namespace: namespace, Environment: e.Name, Version: versionText(), Log: log,
		Allow: e.Allow.rules(namespace), ServiceAccount: e.Allow.ServiceAccount,
	})
	if err != nil {
		return nil, fmt.Errorf("preparing environment %s: %w", e.Name, err)
	}
	charts, err := d.config.chartsOf(e, d.config.DataDir, d.hosts)
	if err != nil {
		return nil, fmt.Errorf("preparing environment %s: %w", e.Name, err)
	}
	charts.Capabilities, charts.Namespaced, charts.Lookup = client.Capabilities, client.Namespaced, client.Lookup
	charts.CheckInterval = time.Duration(e.CheckInterval)
	at, err := e.Forge.open(e.Repository.URL)
	if err != nil {
		return nil, fmt.Errorf("preparing environment %s: forge: %w", e.Name, err)
	}
	env := &environment{envConfig: e, client: client, charts: charts, downstream: d.newDownstream(e, at), reporter: d.newReporter(e, at, charts)}
	env.newAgent = func() (*reconcile.Agent, *waves.Follower, *webhooks.Asker) {
		var signers func() (*signature.Keys, error)
		if e.Commands.any() {
			signers = e.Commands.keys
		}
		pulse := reconcile.NewPulse(time.Now)
		repository := reconcile.NewRepository(reconcile.RepositoryConfig{
			Pulse:    pulse,
			Identity: d.config.Git.identity(), Sign: d.config.Git.sign(),
			Trusted: e.Verify.trusted(),
			Signers: signers, RequireSigned: e.Commands.RequireSigned,
			Environment: e.Name, Cluster: d.config.Cluster, UID: client.UID, Namespace: namespace,
			Remote: e.Repository.remote(), Path: e.Path, Status: e.statusRemote(),
			DataDir: filepath.Join(d.config.DataDir, "git", e.Name), Interval: time.Duration(e.Interval), Log: d.log,
			Forge: at, CommitPages: forge.CommitPages(e.Forge.Kind, e.Repository.URL),
		})
		follower := waves.New(waves.Config{
			Environment: e.Name, Cluster: d.config.Cluster, Remote: e.statusRemote(),
			DataDir: filepath.Join(d.config.DataDir, "git", e.Name), Interval: time.Duration(e.Interval), Now: time.Now, Log: log,
		})
		hooks := webhooks.New(webhooks.Config{Allow: e.Allow.rules(namespace), Now: time.Now})
		return reconcile.New(reconcile.Config{
			Environment: e.Name, Gates: follower.Gates, OnEvent: func(app string, ev rollout.Event) { d.onEvent(e.Name, app, ev) }, Log: d.log,
			AnyQuery: e.Allow.rules(namespace).AnyQuery, Pulse: pulse, Hooks: hooks,
			Upstream: func(env *environments.Environment) error { return promotion.Allowed(env, e.Upstream.URL) },
		}, repository, objects{client}, charts, d.metrics), follower, hooks
	}
	agent, _, _ := env.newAgent()
	env.agent.Store(agent)
	return env, nil
}

// run delivers until ctx is done, once this process leads if there is an election.
func (e *environment) run(ctx context.Context, c *config) error {
	agent, follower, hooks := e.newAgent()
	e.agent.Store(agent)
	deliver := func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return agent.Run(ctx) })
		g.Go(func() error { return follower.Run(ctx, agent.Asked) })
		g.Go(func() error { return hooks.Run(ctx, agent.Asked) })
		if e.downstream == nil {
			agent.UpstreamFault("") // nobody asks there
		} else {
			g.Go(func() error { return e.downstream(agent.UpstreamFault).Run(ctx) })
		}
		if e.reporter != nil {
			g.Go(func() error { return e.reporter().Run(ctx) })
		}
		return g.Wait()
	}
	if !c.LeaderElection {
		return deliver(ctx)
	}
	e.standby.Store(true)
	return e.client.Lead(ctx, "sluice-"+e.Name, hostIdentity(), func(ctx context.Context) error {
		e.standby.Store(false)
		return deliver(ctx)
	})
}

// newReporter makes what tells the forge; nil: there is none.
func (d *deliveries) newReporter(e envConfig, at forge.Repository, charts *charts.Charts) func() *feedback.Reporter {
	if at == nil {
		return nil
	}
	var foretell func(ctx context.Context, base, head *gitsync.Snapshot) feedback.Forecast
	if e.Forge.Forecast {
		foretell = newForeteller(e, charts).forecast
	}
	return func() *feedback.Reporter {
		return feedback.New(feedback.Config{
			Names: audit.Names{Environment: e.Name, Cluster: d.config.Cluster}, Path: e.Path, Remote: e.Repository.remote(),
			Status: e.statusRemote(), Forge: at, Forecast: foretell, DataDir: filepath.Join(d.config.DataDir, "git", e.Name),
			Interval: time.Duration(e.Interval), Now: time.Now, Log: d.log.With("environment", e.Name),
			HistoryPage: func(branch, file string) string {
				kind, address := e.Forge.Kind, e.statusRemote().URL
				if address != e.Repository.URL {
					kind = "" // of another repository only its host tells
				}
				return forge.HistoryPage(kind, address, branch, file)
			},
		})
	}
}

// newDownstream makes what proposes versions from upstream; nil: nothing is, for agent.yaml names no repository to ask.
func (d *deliveries) newDownstream(e envConfig, at forge.Repository) func(onFault func(string)) *promotion.Downstream {
	if e.Upstream == (repositoryConfig{}) {
		return nil
	}
	cfg := promotion.DownstreamConfig{
		Environment: e.Name, Path: e.Path, Remote: e.Repository.remote(), Status: e.statusRemote(), Upstream: e.Upstream.remote(),
		Identity: d.config.Git.identity(), Sign: d.config.Git.sign(), Source: "sluice " + versionText(),
		DataDir: filepath.Join(d.config.DataDir, "git", e.Name), Interval: time.Duration(e.Interval), Now: time.Now,
		Log: d.log.With("environment", e.Name), Forge: at,
	}
	return func(onFault func(string)) *promotion.Downstream {
		cfg := cfg
		cfg.OnFault = onFault
		return promotion.NewDownstream(cfg)
	}
}

// objects is the cluster as the loop sees it: of what was done to the objects it wants the number.
type objects struct{ *cluster.Client }

var _ reconcile.Cluster = objects{}

// Apply implements delivery.Objects.
func (o objects) Apply(ctx context.Context, app delivery.App, s rollout.State, d project.Desired) (int, error) {
	done, err := o.Client.Apply(ctx, app, s, d)
	return len(done.Changes), err
}
