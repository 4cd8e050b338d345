package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/redact"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
	"github.com/sluice-cd/sluice/render/release"
)

// oldestKubernetes is the oldest version that the agent is meant for; the chart says the same.
const oldestKubernetes = "1.27.0"

// examinedWithin bounds one exchange with a git remote: whoever waits for the doctor waits for an answer, not for a clone.
const examinedWithin = 30 * time.Second

func newDoctor() *cobra.Command {
	var f agentFlags
	var as string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what the agent needs before it delivers",
		Long: `Checks everything that the agent needs with its configuration: the cluster and its
version, the rights that the agent and the charts of its environments need, the routing
kinds of canaries, Prometheus and the metrics of the mesh, read and push access to each
repository, and each chart. It changes nothing. Every line starts with "ok" or "MISSING"
and says what to do about it. Exit code 3 when something is missing.

Run it with the flags of sluice agent: before an installation with --as, which checks
the rights of the agent's ServiceAccount, and later in the agent's pod.`,
		Example: `  sluice doctor --config agent.yaml
  sluice doctor --config agent.yaml --as system:serviceaccount:sluice:sluice
  kubectl -n sluice exec deploy/sluice -- /sluice doctor --config /etc/sluice/agent.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.config(cmd)
			if err != nil {
				return &codedError{exitUsage, err}
			}
			dir, err := os.MkdirTemp("", "sluice-doctor-")
			if err != nil {
				return fmt.Errorf("making a directory for git objects and charts: %w", err)
			}
			defer func() { _ = os.RemoveAll(dir) }()
			d := &doctor{config: c, as: as, dir: dir, out: cmd.OutOrStdout()}
			d.examine(cmd.Context())
			switch {
			case d.fault != nil:
				return d.fault
			case cmd.Context().Err() != nil:
				return context.Cause(cmd.Context())
			case d.missing > 0:
				return &codedError{code: exitFinding}
			}
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&as, "as", "", "check the rights of this user, such as system:serviceaccount:sluice:sluice; needs the right to impersonate it")
	return cmd
}

// doctor examines what an agent would need, and says each finding as it comes.
type doctor struct {
	config *config
	as     string
	// dir is for git objects and charts: those of an agent that runs are its own.
	dir     string
	out     io.Writer
	missing int
	// fault is that nothing can be said any more.
	fault error
	// meshed are the apps whose canaries are judged by the metrics of the mesh.
	meshed []string
}

func (d *doctor) ok(format string, args ...any) {
	d.say("ok", analysis.Line(fmt.Sprintf(format, args...)))
}

// lacks says what is missing, and what to do about it.
func (d *doctor) lacks(remedy, format string, args ...any) {
	d.missing++
	d.say("MISSING", analysis.Line(fmt.Sprintf(format, args...))+"; "+remedy)
}

func (d *doctor) say(result, text string) {
	if _, err := fmt.Fprintf(d.out, "%-8s %s\n", result, text); err != nil {
		d.fault = err
	}
}

func (d *doctor) examine(ctx context.Context) {
	reachable := d.cluster(ctx)
	for _, e := range d.config.Environments {
		d.environment(ctx, e, reachable)
	}
	d.prometheus(ctx)
}

// client asks the cluster as the agent of an environment would.
func (d *doctor) client(ctx context.Context, namespace, environment string) (*cluster.Client, error) {
	rest, err := cluster.LoadREST(d.config.Kubeconfig, d.config.Context, d.config.AllowCredentialPlugins)
	if err != nil {
		return nil, err
	}
	rest.Impersonate.UserName = d.as
	return cluster.New(ctx, cluster.Config{REST: rest, Namespace: namespace, Environment: environment, Version: versionText()})
}

// cluster examines the API server, and reports whether it answers.
func (d *doctor) cluster(ctx context.Context) bool {
	const remedy = "name a cluster that answers in kubeconfig and context, or run this where the agent runs"
	client, err := d.client(ctx, "default", "none")
	if err != nil {
		d.lacks(remedy, "Kubernetes: %v", err)
		return false
	}
	has, err := client.Capabilities(ctx)
	if err != nil {
		d.lacks(remedy, "Kubernetes: %v", err)
		return false
	}
	version, err := semver.NewVersion(has.KubeVersion.Version)
	if err == nil && version.LessThan(semver.MustParse(oldestKubernetes)) {
		d.lacks("update the cluster", "Kubernetes is %s, and the agent needs %s or newer", has.KubeVersion.Version, oldestKubernetes)
		return true
	}
	d.ok("Kubernetes %s answers", has.KubeVersion.Version)
	return true
}

// prometheus examines the server of metrics, and whether the mesh is among them where there are canaries that go by it.
func (d *doctor) prometheus(ctx context.Context) {
	address := redact.URL(d.config.Prometheus.Address)
	client, err := d.config.Prometheus.client()
	if err == nil {
		err = client.Ready(ctx)
	}
	if err != nil {
		d.lacks("set prometheus.address to one that answers; without it no canary can be judged", "Prometheus at %s: %v", address, err)
		return
	}
	d.ok("Prometheus at %s answers", address)
	if len(d.meshed) == 0 {
		return
	}
	const metric = "istio_requests_total"
	got := client.Ask(ctx, []analysis.Check{{Name: metric, Query: "count(" + metric + ")"}})[0]
	switch {
	case got.Err != nil:
		d.lacks("fix the server", "Prometheus at %s: %v", address, got.Err)
	case !got.Present:
		d.lacks("have it scrape the sidecars, and send the apps some traffic; until then every check is inconclusive",
			"Prometheus has no %s, which the checks of %s query", metric, strings.Join(d.meshed, ", "))
	default:
		d.ok("Prometheus has %s", metric)
	}
}

// environment examines one environment: its repository, its charts, and what these need of the cluster.
func (d *doctor) environment(ctx context.Context, e envConfig, reachable bool) {
	d.push(ctx, e)
	d.forges(ctx, e)
	namespace := namespaceOf(e.Name, e.Namespace)
	var client *cluster.Client
	if reachable {
		var err error
		if client, err = d.client(ctx, namespace, e.Name); err != nil {
			d.lacks("name another cluster", "%s: %v", e.Name, err)
		}
	}
	needs := needsOf(namespace)
	if src, done, ok := d.read(ctx, e); ok {
		needs = append(needs, d.apps(ctx, e, src, client)...)
		done()
	} else {
		needs = append(needs, needsOfApps(namespace)...)
	}
	if client != nil {
		d.rights(ctx, e, client, needs)
	}
}

// push examines whether the agent may write to the repositories.
func (d *doctor) push(ctx context.Context, e envConfig) {
	if e.Status == (repositoryConfig{}) {
		d.canPush(ctx, e, e.Repository.remote(), e.Repository.Branch+" and sluice/**")
		return
	}
	d.canPush(ctx, e, e.Repository.remote(), e.Repository.Branch+" and sluice/rollback/**, or rollbacks reach only the cluster and the audit log")
	d.canPush(ctx, e, e.statusRemote(), "sluice/**")
}

// canPush examines whether the agent may write to a repository, to the branches that are pushed there.
func (d *doctor) canPush(ctx context.Context, e envConfig, remote gitsync.Remote, pushed string) {
	remote.Timeout = examinedWithin
	if err := gitsync.CanPush(ctx, remote); err != nil {
		d.lacks("give the credential the right to push to "+pushed, "%s: %v", e.Name, err)
		return
	}
	d.ok("%s: may push to %s (protected branches show only at the first push)", e.Name, redact.URL(remote.URL))
}

// forges examines whether the agent reaches the forge, and the repository of the environment upstream.
func (d *doctor) forges(ctx context.Context, e envConfig) {
	ctx, cancel := context.WithTimeout(ctx, examinedWithin)
	defer cancel()
	if at, err := e.Forge.open(e.Repository.URL); err == nil && at != nil {
		if _, err := at.List(ctx, e.Repository.Branch); err != nil {
			d.lacks("give it a token with the rights that docs/forges.md names", "%s: the forge: %v", e.Name, err)
		} else {
			d.ok("%s: the forge answers", e.Name)
		}
	}
	if e.Upstream == (repositoryConfig{}) {
		return
	}
	remote := e.Upstream.remote()
	remote.Branch, remote.Timeout = "main", examinedWithin
	if _, err := gitsync.Branches(ctx, remote, statusPrefix); err != nil {
		d.lacks("give the agent a credential that may read it", "%s: upstream: %v", e.Name, err)
	} else {
		d.ok("%s: may read %s, from which versions come", e.Name, redact.URL(remote.URL))
	}
}

// read examines whether the agent may read the environment, and understands it. The caller calls done.
func (d *doctor) read(ctx context.Context, e envConfig) (src source.Commit, done func(), ok bool) {
	remote := e.Repository.remote()
	remote.Timeout = examinedWithin
	repo, err := gitsync.Open(ctx, remote, filepath.Join(d.dir, "git", e.Name))
	if err != nil {
		d.lacks("fix the repository in the configuration", "%s: %v", e.Name, err)
		return src, nil, false
	}
	done = func() { _ = repo.Close() }
	tip, err := repo.Fetch(ctx)
	if err != nil {
		done()
		d.lacks("configure a repository, a branch and a credential that work", "%s: %v", e.Name, err)
		return src, nil, false
	}
	if e.Verify.trusted() != nil {
		if err := e.Verify.vouched(ctx, repo, d.config.Git, tip.Commit); err != nil {
			d.lacks("until then the agent delivers nothing new", "%s: %v", e.Name, err)
		} else {
			d.ok("%s: commit %.10s is signed as verify wants", e.Name, tip.Commit)
		}
	}
	env, err := (&environments.Loader{Environment: e.Name, Namespace: e.Namespace}).Load(tip.FS(), e.Path)
	if err == nil && env.Incomplete != nil {
		err = env.Incomplete
	}
	if err != nil {
		done()
		d.lacks("fix it in git; see sluice validate", "%s: commit %.10s: %v", e.Name, tip.Commit, err)
		return src, nil, false
	}
	d.ok("%s: reads %s: %s", e.Name, redact.URL(remote.URL), counted(len(env.Apps), "app"))
	if err := e.astray(env.StatusRepository); err != nil {
		d.lacks("fix it in git or in the configuration", "%s: %v", e.Name, err)
	}
	return source.Commit{Snapshot: tip, Env: env}, done, true
}

// apps examines the charts of an environment, and returns the rights that these and their namespaces need. Without a client they
// are rendered for a current Kubernetes.
func (d *doctor) apps(ctx context.Context, e envConfig, src source.Commit, client *cluster.Client) []cluster.Need {
	namespaces := map[string]bool{namespaceOf(e.Name, e.Namespace): true}
	for i := range src.Env.Apps {
		namespaces[src.Env.Apps[i].Namespace] = true
	}
	var needs []cluster.Need
	for _, namespace := range slices.Sorted(maps.Keys(namespaces)) {
		needs = append(needs, needsOfApps(namespace)...)
	}
	charts, err := d.config.chartsOf(e, d.dir, nil)
	if err != nil {
		d.lacks("fix charts in the configuration", "%s: %v", e.Name, err)
		return needs
	}
	if client != nil {
		charts.Capabilities, charts.Namespaced, charts.Lookup = client.Capabilities, client.Namespaced, client.Lookup
	}
	rendered := map[string]int{} // by where the chart comes from
	for i := range src.Env.Apps {
		app := &src.Env.Apps[i]
		rel, policy, err := charts.Release(ctx, src, app)
		switch {
		case errors.Is(err, source.ErrSwitchedOff):
			continue
		case err != nil:
			d.lacks("fix it in git, or configure credentials for it under charts", "%s: %s: %v", e.Name, app.Name, err)
			continue
		}
		rendered[chartsOf(app)]++
		if byMesh(app, policy) {
			d.meshed = append(d.meshed, app.Name)
		}
		if client != nil {
			needs = append(needs, d.held(e, app, rel, policy, client)...)
		}
	}
	for _, where := range slices.Sorted(maps.Keys(rendered)) {
		d.ok("%s: charts of %s: %s rendered", e.Name, where, counted(rendered[where], "app"))
	}
	return needs
}

// held examines whether the API server has the kinds of an app and of its canary, and returns the rights to hold them.
func (d *doctor) held(e envConfig, app *environments.App, rel *release.Release, policy environments.Policy, client *cluster.Client) []cluster.Need {
	needs, unknown, err := client.ChartNeeds(app.Namespace, project.Applied(rel.Objects))
	if err == nil && rollout.NewPlan(policy).Canary() {
		var routing []cluster.Need
		var without []schema.GroupKind
		routing, without, err = client.RoutingNeeds(app.Namespace, policy.Provider)
		needs, unknown = append(needs, routing...), append(unknown, without...)
	}
	if err != nil {
		d.lacks("fix the API server", "%s: %s: %v", e.Name, app.Name, err)
	}
	for _, gk := range unknown {
		d.lacks("install what brings its CRD", "%s: %s: the API server has no kind %s", e.Name, app.Name, gk)
	}
	return needs
}

// byMesh reports whether an app's canary is judged by the metrics of the mesh.
func byMesh(app *environments.App, policy environments.Policy) bool {
	plan := rollout.NewPlan(policy)
	if !plan.Canary() || plan.SkipAnalysis {
		return false
	}
	names := analysis.Vars{Namespace: app.Namespace, Target: app.Name, Service: app.Name, Name: app.Name, Anywhere: true}
	checks, err := delivery.Checks(plan, names)
	return err == nil && slices.ContainsFunc(checks, func(c analysis.Check) bool { return strings.Contains(c.Query, "istio_") })
}

// chartsOf names where an app's chart comes from.
func chartsOf(app *environments.App) string {
	if app.Chart.Path != "" {
		return "the environment repository"
	}
	return redact.URL(app.Chart.Repository)
}

// needsOf are the rights of the agent itself, but for those in the namespaces of apps.
func needsOf(states string) []cluster.Need {
	var needs []cluster.Need
	for _, r := range cluster.Rights() {
		switch r.Place {
		case cluster.InStates:
			needs = append(needs, cluster.Need{Namespace: states, Right: r})
		case cluster.InCluster:
			needs = append(needs, cluster.Need{Right: r})
		case cluster.InApps:
		}
	}
	return needs
}

// needsOfApps are the rights of the agent itself in a namespace of apps.
func needsOfApps(namespace string) []cluster.Need {
	var needs []cluster.Need
	for _, r := range cluster.Rights() {
		if r.Place == cluster.InApps {
			needs = append(needs, cluster.Need{Namespace: namespace, Right: r})
		}
	}
	return needs
}

// rights examines what the agent may do.
func (d *doctor) rights(ctx context.Context, e envConfig, client *cluster.Client, needs []cluster.Need) {
	lacking, err := client.Lacking(ctx, needs)
	if err != nil {
		d.lacks("allow the user to review its own access (SelfSubjectAccessReview)", "%s: %v", e.Name, err)
		return
	}
	said := map[string]bool{}
	for _, n := range lacking {
		where, remedy := "in namespace "+n.Namespace, "give the agent that right there: the chart's values rights, namespaces and extraRules do"
		if n.Namespace == "" {
			where, remedy = "in the whole cluster", "give the agent that right: the chart's value extraClusterRules does"
		}
		text := fmt.Sprintf("%s: may not %s %s %s, %s", e.Name, strings.Join(n.Verbs, ", "), n.Right, where, n.Why)
		if !said[text] {
			said[text] = true
			d.lacks(remedy, "%s", text)
		}
	}
	if len(lacking) == 0 {
		d.ok("%s: has the rights that it needs in %s", e.Name, strings.Join(places(needs), ", "))
	}
}

// places are the namespaces of some needs, sorted.
func places(needs []cluster.Need) []string {
	found := map[string]bool{}
	for _, n := range needs {
		if n.Namespace != "" {
			found[n.Namespace] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
