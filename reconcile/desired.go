package reconcile

import (
	"context"
	"fmt"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/project"
)

// judge asks every check of the policy about the canary, all at the same instant.
func (a *Agent) judge(ctx context.Context, w *work, d project.Desired, p environments.Policy) (analysis.Verdict, error) {
	checks, err := checksOf(p, analysis.Vars{
		Namespace: w.app.Namespace, Target: d.CanaryName, Service: d.Service, Name: w.name,
	})
	if err != nil {
		return analysis.Verdict{}, fmt.Errorf("preparing the checks of %s: %w", w.name, err)
	}
	at := a.now()
	return analysis.Evaluate(checks, a.metrics.Ask(ctx, checks), at), nil
}

func checksOf(p environments.Policy, v analysis.Vars) ([]analysis.Check, error) {
	var checks []analysis.Check
	for _, m := range p.Analysis.Metrics {
		c, err := analysis.NewCheck(analysis.Metric{
			Name: m.Name, Query: m.Query, Window: m.Interval, Min: m.Min, Max: m.Max,
		}, v)
		if err != nil {
			return nil, err
		}
		checks = append(checks, c)
	}
	return checks, nil
}
