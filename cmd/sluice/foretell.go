package main

import (
	"context"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/charts"
	"github.com/sluice-cd/sluice/reconcile/feedback"
	"github.com/sluice-cd/sluice/render"
)

// foreteller tells what would come of commits that nobody has merged: what stands in them is anybody's who may push a branch, and
// what it tells can be read by all who see the pull request.
type foreteller struct {
	environment, namespace, path string
	charts                       charts.Charts
}

// newForeteller renders as an environment's agent does, within what it may touch, but for two things. Templates are told of nothing
// that is in the cluster, for they could have it told to everybody. And they are rendered apart: a rendering for the cluster must
// never be taken for one that was told of nothing, nor wait for it.
func newForeteller(e envConfig, agents *charts.Charts) *foreteller {
	f := &foreteller{environment: e.Name, namespace: namespaceOf(e.Name, e.Namespace), path: e.Path, charts: *agents}
	f.charts.Lookup = nil
	f.charts.Renderer = render.NewRenderer(render.RendererConfig{CacheBytes: 8 << 20, Timeout: 20 * time.Second})
	return f
}

// forecast is the text of plan.
func (f *foreteller) forecast(ctx context.Context, base, head *gitsync.Snapshot) feedback.Forecast {
	v := planner{
		loader: &environments.Loader{Environment: f.environment, Namespace: f.namespace}, path: f.path, charts: &f.charts,
	}
	p, err := v.compare(ctx, base, head, nil)
	if err != nil {
		return feedback.Forecast{Fault: err.Error()}
	}
	var text strings.Builder
	if err := p.print(&text, false); err != nil {
		return feedback.Forecast{Fault: err.Error()}
	}
	out := feedback.Forecast{Text: text.String()}
	if p.Fault != "" {
		out.Apps = append(out.Apps, feedback.ForecastApp{Line: "error: " + p.Fault})
	}
	for i := range p.Apps {
		a := &p.Apps[i]
		out.Apps = append(out.Apps, feedback.ForecastApp{App: a.App, Line: a.headline()})
		// A chart host may be away.
		out.Again = out.Again || a.Fault != "" || a.Action == "Unknown"
	}
	return out
}
