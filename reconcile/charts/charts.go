// Package charts turns an app of an environment into a release and its policy: it fetches the chart, renders it, and reads
// the policy that governs it.
package charts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
	"github.com/sluice-cd/sluice/render"
	"github.com/sluice-cd/sluice/render/lookup"
	"github.com/sluice-cd/sluice/render/mask"
	"github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

// Charts turns an app of a commit into a release and its policy. It is safe for concurrent use.
type Charts struct {
	Fetcher  *render.Fetcher
	Renderer *render.Renderer
	// Capabilities and Namespaced tell of the cluster; nil: Helm's defaults.
	Capabilities func(ctx context.Context) (*chartutil.Capabilities, error)
	Namespaced   func(schema.GroupVersionKind) (namespaced, known bool)
	// Lookup answers what the templates of an app ask of the cluster; nil: there is none.
	Lookup func(ctx context.Context, app delivery.App, q lookup.Question) (lookup.Found, error)
	// Allow is what the environment may touch; nil: nobody has said.
	Allow *allow.Rules
	// CheckInterval overrides the analysis interval of every policy; 0 leaves the policies alone.
	CheckInterval time.Duration
}

// Release renders an app and resolves its policy. Nothing that it says repeats a value of the environment: errors and warnings
// of templates, schemas and decoders go through the release's Mask, whoever words them.
func (c *Charts) Release(ctx context.Context, src source.Commit, app *environments.App) (*release.Release, environments.Policy, error) {
	if app.Fault != nil {
		return nil, environments.Policy{}, app.Fault
	}
	rel, err := c.render(ctx, src, app)
	if err != nil {
		return nil, environments.Policy{}, fmt.Errorf("rendering %s %s: %w", app.Name, app.Chart.Version, err)
	}
	policy, err := c.policy(src, app, rel)
	return rel, policy, rel.Mask.Error(err)
}

// policy resolves the policy that governs a release.
func (c *Charts) policy(src source.Commit, app *environments.App, rel *release.Release) (environments.Policy, error) {
	chart, declined, err := said(rel)
	if err != nil {
		return environments.Policy{}, fmt.Errorf("reading the policy of %s: %w", app.Name, err)
	}
	if declined {
		rel.Warnings = append(rel.Warnings, declinedWarning)
	}
	policy, err := environments.ResolvePolicy(src.Env, app, chart)
	if err != nil {
		return environments.Policy{}, fmt.Errorf("reading the policy of %s: %w", app.Name, err)
	}
	if c.CheckInterval > 0 {
		policy = policy.WithInterval(c.CheckInterval)
	}
	if podless(rel, policy) {
		policy.Strategy = environments.StrategyRolling
		rel.Warnings = append(rel.Warnings, podlessWarning)
	}
	for _, awaited := range delivery.AwaitedBy(rel) {
		rel.Warnings = append(rel.Warnings, awaited.String())
	}
	if err := c.allowed(app, rel, policy); err != nil {
		return environments.Policy{}, err
	}
	return policy, deliverable(app, rel, policy, c.rules().AnyQuery)
}

// Explain says where each field of the policy is said that governs a release, as [Charts.Release] resolved it.
func (c *Charts) Explain(src source.Commit, app *environments.App, rel *release.Release) ([]environments.Field, error) {
	chart, _, err := said(rel)
	if err != nil {
		return nil, err
	}
	fields, err := environments.Explain(src.Env, app, chart)
	if err != nil {
		return nil, err
	}
	policy, err := environments.ResolvePolicy(src.Env, app, chart)
	if err == nil && podless(rel, policy) {
		fields[0].Value, fields[0].Source = string(environments.StrategyRolling), fields[0].Source+" says "+fields[0].Value+"; "+podlessWarning
	}
	return fields, err
}

// podless reports whether a release gets no canary though its policy says one.
func podless(rel *release.Release, p environments.Policy) bool {
	return p.Strategy == environments.StrategyCanary && project.Empty(rel.Objects, p.Target)
}

const podlessWarning = "it has no pods, so it is rolled out without a canary"

// rules are the environment's; where nobody has given any, everything is allowed.
func (c *Charts) rules() allow.Rules {
	if c.Allow == nil {
		return allow.Everything
	}
	return *c.Allow
}

// allowed says before anything begins what of a release its environment may not touch.
func (c *Charts) allowed(app *environments.App, rel *release.Release, p environments.Policy) error {
	rules := c.rules()
	faults := []error{rules.Namespace(app.Namespace)}
	for _, o := range project.Applied(rel.Objects) {
		faults = append(faults, rules.Object(o, o.GetNamespace() == ""))
	}
	for _, w := range p.Analysis.Webhooks {
		faults = append(faults, rules.Webhook(w.Name, w.URL))
	}
	return errors.Join(faults...)
}

// deliverable says before anything begins whether a canary of the release could be made and judged.
func deliverable(app *environments.App, rel *release.Release, p environments.Policy, anyQuery bool) error {
	plan := rollout.NewPlan(p)
	if !plan.Canary() && !plan.Routed() {
		return nil
	}
	// Names like those that the queries will have: outside quotes only a word of PromQL can stand.
	names := analysis.Vars{Namespace: app.Namespace, Target: app.Name + "-canary", Service: app.Name, Name: app.Name, Anywhere: anyQuery}
	if _, err := delivery.Checks(plan, names); err != nil {
		return fmt.Errorf("reading the policy of %s: %w", app.Name, err)
	}
	return project.Check(project.Input{
		App: app.Name, Namespace: app.Namespace, Stable: rel.Objects, Target: rel.Objects, Plan: plan,
	})
}

func (c *Charts) render(ctx context.Context, src source.Commit, app *environments.App) (*release.Release, error) {
	in := render.Input{
		ReleaseName: app.ReleaseName, Namespace: app.Namespace, Values: app.Values,
		Alias: app.Chart.Alias, ImportValues: app.Chart.ImportValues, Namespaced: c.Namespaced,
	}
	if c.Lookup != nil {
		asks := delivery.App{Name: app.Name, Namespace: app.Namespace, ReleaseName: app.ReleaseName}
		in.Lookup = func(ctx context.Context, q lookup.Question) (lookup.Found, error) { return c.Lookup(ctx, asks, q) }
	}
	var err error
	if c.Capabilities != nil {
		if in.Capabilities, err = c.Capabilities(ctx); err != nil {
			return nil, fmt.Errorf("asking the cluster what it serves: %w", err)
		}
	}
	if in.Chart, err = c.Chart(ctx, src, app); err != nil {
		return nil, err
	}
	if on, err := c.on(ctx, src, app); err != nil || !on {
		return nil, cmp.Or(err, source.ErrSwitchedOff)
	}
	if in.Umbrella, err = c.umbrella(ctx, src, app); err != nil {
		return nil, err
	}
	if in.Peers, err = c.peers(ctx, src, app, func(other string) bool { return slices.Contains(app.Reads, other) }); err != nil {
		return nil, err
	}
	rendered, err := c.Renderer.Render(ctx, in)
	missing := (*render.NoTemplateError)(nil)
	shared := errors.As(err, &missing) && src.Env.Umbrella.Name != ""
	if shared {
		// Helm parses the templates of all of an umbrella's charts together. What one takes from another is rare, so that only who
		// needs it depends on the others.
		if in.Peers, err = c.peers(ctx, src, app, func(string) bool { return true }); err != nil {
			return nil, errors.Join(missing, err)
		}
		rendered, err = c.Renderer.Render(ctx, in)
	}
	given := maskSource(src, app, in.Chart)
	for _, p := range in.Peers {
		given.Given = append(given.Given, p.Values)
	}
	if err != nil {
		return nil, mask.New(given).Error(err)
	}
	rel := *rendered // the renderer's own is shared
	rel.Objects = definitions(app.CRDs, rel.Objects)
	rel.Shared = shared
	given.Objects = slices.Concat(rel.Objects, rel.Told)
	rel.Mask = mask.New(given)
	rel.Warnings = slices.Concat(rel.Mask.Texts(rel.Warnings), unencrypted(app))
	return &rel, nil
}

// definitions has what comes from crds/ folders applied where that is asked for; else it is only made where there is none.
func definitions(crds environments.CRDs, all []*unstructured.Unstructured) []*unstructured.Unstructured {
	if crds != environments.CRDsCreateReplace {
		return all
	}
	all = slices.Clone(all)
	for i, o := range all {
		if o.GetAnnotations()[objects.CRDsAnnotation] == objects.CRDsCreate {
			all[i] = o.DeepCopy()
			objects.MarkCRD(all[i], objects.CRDsCreateReplace)
		}
	}
	return all
}

// on says whether an app is there at all, where the default values of charts decide it.
func (c *Charts) on(ctx context.Context, src source.Commit, app *environments.App) (on bool, err error) {
	on = app.Switch.On(func(name string) map[string]any {
		for i := range src.Env.Apps {
			if other := &src.Env.Apps[i]; other.Name == name && err == nil {
				var chart *render.Chart
				if chart, err = c.Chart(ctx, src, other); err == nil {
					return chart.Values()
				}
				err = fmt.Errorf("the condition of %s looks at the values of %s: %w", app.Name, name, err)
			}
		}
		return nil
	})
	return on, err
}

// peers are the other apps of the umbrella that are wanted and switched on. One that can't be loaded is a fault, as otherwise what
// is rendered would differ when it can.
func (c *Charts) peers(ctx context.Context, src source.Commit, app *environments.App, wanted func(name string) bool) ([]render.Peer, error) {
	var peers []render.Peer
	for i := range src.Env.Apps {
		other := &src.Env.Apps[i]
		if other.Name == app.Name || other.Chart.Path != "" && other.Chart.Path == src.Env.Umbrella.Dir || !wanted(other.Name) {
			continue
		}
		on, err := c.on(ctx, src, other)
		if err == nil {
			err = other.Fault
		}
		var chart *render.Chart
		if err == nil && on {
			chart, err = c.Chart(ctx, src, other)
		}
		if err != nil {
			return nil, fmt.Errorf("%s depends on the chart of %s: %w", app.Name, other.Name, err)
		}
		if on {
			peers = append(peers, render.Peer{Name: other.Name, Chart: chart, Values: other.Values, ImportValues: other.Chart.ImportValues})
		}
	}
	return peers, nil
}

// unencrypted warns of a repository whose charts anybody on the way can change.
func unencrypted(app *environments.App) []string {
	u, err := url.Parse(app.Chart.Repository)
	if err != nil || u.Scheme != "http" || render.Loopback(u.Hostname()) {
		return nil
	}
	return []string{fmt.Sprintf("the chart comes from %s unencrypted: anybody on the network path can change it", u.Host)}
}

// maskSource is what must not be told of an app that is rendered. The defaults of a chart are public, but for those of the
// umbrella chart: they are the environment's values.
func maskSource(src source.Commit, app *environments.App, chart *render.Chart) mask.Source {
	s := mask.Source{
		Given: []map[string]any{app.Values, src.Env.Umbrella.Globals, src.Env.Umbrella.Values},
		Names: []string{
			app.Name, app.ReleaseName, app.Namespace, app.Chart.Name, app.Chart.Version, app.Chart.Alias, app.Chart.Repository,
			app.Chart.Path, chart.Version(), src.Env.Name, src.Env.Umbrella.Name, src.Env.Umbrella.Version,
		},
	}
	if app.Chart.Path == "" || app.Chart.Path != src.Env.Umbrella.Dir {
		s.Chart = chart.Helm()
	}
	return s
}

// Chart fetches the app's chart, or loads it from the repository.
func (c *Charts) Chart(ctx context.Context, src source.Commit, app *environments.App) (*render.Chart, error) {
	if app.Chart.Path == "" {
		return c.Fetcher.Fetch(ctx, render.Ref{
			Name: app.Chart.Name, Version: app.Chart.Version, Repository: app.Chart.Repository,
		})
	}
	bare := app.Chart.Path == src.Env.Umbrella.Dir
	chart, err := c.Fetcher.Load(ctx, render.Path{FS: src.FS(), Dir: app.Chart.Path, Tree: treeOf(app), Bare: bare})
	if err != nil || bare {
		return chart, err
	}
	return chart, pinned(app, chart)
}

// pinned refuses a chart in the repository that is not what is pinned, as helm dependency build does: else git would say one
// version while another one serves.
func pinned(app *environments.App, chart *render.Chart) error {
	if chartutil.IsCompatibleRange(app.Chart.Version, chart.Version()) {
		return nil
	}
	return &environments.Fault{
		File: app.Pin.File, Line: app.Pin.Line, Field: "dependencies." + app.Name + ".version",
		Problem:  fmt.Sprintf("is %q, which the chart in %s, %s, does not satisfy", app.Chart.Version, app.Chart.Path, chart.Version()),
		Expected: "the chart's version, or a range that has it",
	}
}

// treeOf identifies what an app's chart in the repository is loaded from. The app's digest covers the chart and the
// charts that it leads to, so an app that a commit leaves alone keeps its loaded chart.
func treeOf(app *environments.App) string { return app.Name + "@" + app.Digest }

// umbrella is the environment's own chart around the app; nil for an app that is rendered on its own.
func (c *Charts) umbrella(ctx context.Context, src source.Commit, app *environments.App) (*render.Umbrella, error) {
	u := src.Env.Umbrella
	if u.Name == "" || app.Chart.Path == u.Dir && u.Dir != "" {
		return nil, nil
	}
	out := &render.Umbrella{Name: u.Name, Version: u.Version, Globals: u.Globals, Values: u.Values}
	if len(u.Templates) > 0 {
		var err error
		out.Chart, err = c.Fetcher.Load(ctx, render.Path{FS: src.FS(), Dir: u.Dir, Tree: u.Tree, Helpers: true})
		if err != nil {
			return nil, fmt.Errorf("loading the umbrella chart: %w", err)
		}
	}
	return out, nil
}
