package reconcile

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render"
	"github.com/sluice-cd/sluice/render/release"
)

// Source is an environment as one commit says it.
type Source struct {
	*gitsync.Snapshot
	Env *environments.Environment
}

// Charts turns an app of a Source into a release and its policy. It is safe for concurrent use.
type Charts struct {
	Fetcher  *render.Fetcher
	Renderer *render.Renderer
	// Capabilities and Namespaced tell of the cluster; nil: Helm's defaults.
	Capabilities func(ctx context.Context) (*chartutil.Capabilities, error)
	Namespaced   func(schema.GroupVersionKind) (namespaced, known bool)
	// CheckInterval overrides the analysis interval of every policy; 0 leaves the policies alone.
	CheckInterval time.Duration
}

// ErrSwitchedOff is returned for an app that its chart's own default values switch off, as Helm does for the condition of
// a dependency. It is as if the environment did not list it.
var ErrSwitchedOff = errors.New("its condition is false in the chart's own values")

// Release renders an app and resolves its policy.
func (c *Charts) Release(ctx context.Context, src Source, app *environments.App) (*release.Release, environments.Policy, error) {
	if app.Fault != nil {
		return nil, environments.Policy{}, app.Fault
	}
	rel, err := c.render(ctx, src, app)
	if err != nil {
		return nil, environments.Policy{}, fmt.Errorf("rendering %s %s: %w", app.Name, app.Chart.Version, err)
	}
	canary, err := project.FindCanary(rel.Objects)
	if err != nil {
		return nil, environments.Policy{}, fmt.Errorf("reading the policy of %s: %w", app.Name, err)
	}
	policy, err := environments.ResolvePolicy(src.Env, app, rel.Values, canary)
	if err != nil {
		return nil, environments.Policy{}, fmt.Errorf("reading the policy of %s: %w", app.Name, err)
	}
	if c.CheckInterval > 0 {
		policy = policy.WithInterval(c.CheckInterval)
	}
	return rel, policy, deliverable(app, rel, policy)
}

// deliverable says before anything begins whether a canary of the release could be made and judged.
func deliverable(app *environments.App, rel *release.Release, p environments.Policy) error {
	if p.Strategy != environments.StrategyCanary {
		return nil
	}
	// Names like those that the queries will have: outside quotes only a word of PromQL can stand.
	names := analysis.Vars{Namespace: app.Namespace, Target: app.Name + "-canary", Service: app.Name, Name: app.Name}
	if _, err := checksOf(p, names); err != nil {
		return fmt.Errorf("reading the policy of %s: %w", app.Name, err)
	}
	return project.Check(project.Input{
		App: app.Name, Namespace: app.Namespace, Stable: rel.Objects, Target: rel.Objects, Policy: p,
	})
}

func (c *Charts) render(ctx context.Context, src Source, app *environments.App) (*release.Release, error) {
	in := render.Input{
		ReleaseName: app.ReleaseName, Namespace: app.Namespace, Values: app.Values,
		Alias: app.Chart.Alias, ImportValues: app.Chart.ImportValues, Namespaced: c.Namespaced,
	}
	var err error
	if c.Capabilities != nil {
		if in.Capabilities, err = c.Capabilities(ctx); err != nil {
			return nil, fmt.Errorf("asking the cluster what it serves: %w", err)
		}
	}
	if in.Chart, err = c.chart(ctx, src, app); err != nil {
		return nil, err
	}
	if !app.Switch.On(in.Chart.Values()) {
		return nil, ErrSwitchedOff
	}
	if in.Umbrella, err = c.umbrella(ctx, src, app); err != nil {
		return nil, err
	}
	return c.Renderer.Render(ctx, in)
}

// chart fetches the app's chart, or loads it from the repository.
func (c *Charts) chart(ctx context.Context, src Source, app *environments.App) (*render.Chart, error) {
	if app.Chart.Path == "" {
		return c.Fetcher.Fetch(ctx, render.Ref{
			Name: app.Chart.Name, Version: app.Chart.Version, Repository: app.Chart.Repository,
		})
	}
	return c.Fetcher.Load(ctx, render.Path{
		FS: src.FS(), Dir: app.Chart.Path, Tree: src.tree(app), Bare: app.Chart.Path == src.Env.Umbrella.Dir,
	})
}

// tree identifies what an app's chart in the repository is loaded from. The app's digest covers the chart and the
// charts that it leads to, so an app that a commit leaves alone keeps its loaded chart.
func (src Source) tree(app *environments.App) string { return app.Name + "@" + app.Digest }

// umbrella is the environment's own chart around the app; nil for an app that is rendered on its own.
func (c *Charts) umbrella(ctx context.Context, src Source, app *environments.App) (*render.Umbrella, error) {
	u := src.Env.Umbrella
	if u.Name == "" || app.Chart.Path == u.Dir && u.Dir != "" {
		return nil, nil
	}
	out := &render.Umbrella{Name: u.Name, Version: u.Version, Globals: u.Globals, Values: u.Values}
	if len(u.Templates) > 0 {
		tree, err := src.Hash(path.Join(u.Dir, "templates"))
		if err != nil {
			return nil, fmt.Errorf("reading the templates of the umbrella chart: %w", err)
		}
		out.Chart, err = c.Fetcher.Load(ctx, render.Path{FS: src.FS(), Dir: u.Dir, Tree: tree, Helpers: true})
		if err != nil {
			return nil, fmt.Errorf("loading the umbrella chart: %w", err)
		}
	}
	return out, nil
}

// desired is what git asks of one app, rendered. The zero value: not known.
type desired struct {
	// input is the digest of what was rendered.
	input   string
	id      rollout.Release
	release *release.Release
	policy  environments.Policy
}

// refresh renders what git asks for if that has changed. With a fault the wish is not known, and the app
// keeps its course.
func (a *Agent) refresh(ctx context.Context, w *work) (desired, error) {
	switch {
	case w.input == nil:
		return desired{}, nil
	case w.asked.release != nil && w.asked.input == w.input.Digest:
		return w.asked, nil
	}
	inFlight := w.saved.State.InFlight()
	if inFlight {
		if w.unmet.input == w.input.Digest && a.now().Before(w.unmet.until) {
			return desired{}, w.unmet.fault
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wishPatience)
		defer cancel()
	}
	d, err := a.wish(ctx, w)
	if inFlight && errors.Is(err, context.DeadlineExceeded) {
		// Not known yet is no fault.
		d, err = desired{}, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	ap := a.apps[w.name]
	switch {
	case ap == nil:
	case d.release == nil:
		ap.unmet = unmet{input: w.input.Digest, fault: err, until: a.now().Add(unmetPause)}
	default:
		ap.asked, ap.unmet = d, unmet{}
	}
	return d, err
}

// unmet is a wish that could not be followed.
type unmet struct {
	// input is the digest of what could not be rendered.
	input string
	// fault is why; nil while it is not known.
	fault error
	// until when a rollout under way does not try again.
	until time.Time
}

const (
	// unmetPause is how long a rollout under way goes on before a wish that could not be followed is tried again.
	unmetPause = 5 * time.Second
	// wishPatience is how long a rollout under way is kept from its checks by a chart repository. The fetch goes on
	// meanwhile, and the next try finds what it brought.
	wishPatience = time.Second
)

// wish renders what git asks for.
func (a *Agent) wish(ctx context.Context, w *work) (desired, error) {
	rel, policy, err := a.charts.Release(ctx, w.source, w.input)
	if err != nil {
		return desired{}, err
	}
	d := desired{input: w.input.Digest, release: rel, policy: policy}
	d.id = rollout.Release{Version: rel.Version, Digest: rel.Digest}
	if d.id.Commit, err = a.commitOf(ctx, w, d.id); err != nil {
		return desired{}, err
	}
	return d, nil
}

// commitOf is the commit that asked for a release. A release that is serving keeps the commit it came with:
// a rollback commit only says again what was asked before.
func (a *Agent) commitOf(ctx context.Context, w *work, id rollout.Release) (string, error) {
	s := w.saved.State
	for _, known := range []rollout.Release{s.Stable, s.Target} {
		if known.Digest == id.Digest && known.Commit != "" {
			return known.Commit, nil
		}
	}
	stop := s.Stable.Commit
	if n := len(s.Rejected); n > 0 {
		stop = s.Rejected[n-1].Release.Commit
	}
	return a.cause(ctx, w.name, w.source.Commit, stop)
}
