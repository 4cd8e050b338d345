package charts

import (
	"maps"
	"regexp"

	"helm.sh/helm/v3/pkg/chart"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/render/release"
)

// declinedWarning says that canary: in the values is not read.
const declinedWarning = "the chart has a template for a Canary object and renders none here, so canary: in the values is ignored"

// said is what a chart says of its policy. A chart that has a template for
// one and renders none has said no: its canary: section is that template's input, and reading it past the template would canary
// one environment on another one's hosts. What is switched off by the section's own word is read, for its routing.
func said(rel *release.Release) (s environments.Said, declined bool, err error) {
	s = environments.Said{Values: rel.Values, MetricTemplates: project.MetricTemplates(rel.Objects)}
	s.Canary, err = project.FindCanary(rel.Objects)
	if err != nil || s.Canary != nil || environments.SwitchedOff(rel.Values["canary"]) || !hasCanaryTemplate(rel.Chart) {
		return s, false, err
	}
	s.Values = maps.Clone(rel.Values)
	s.Values["canary"] = false
	return s, true, nil
}

var (
	canaryKind  = regexp.MustCompile(`(?m)^\s*kind:\s*["']?Canary["']?\s*$`)
	flaggerKind = regexp.MustCompile(`(?m)^\s*apiVersion:.*flagger\.app/`)
)

// hasCanaryTemplate reports whether a template of the chart, or of one of its own, makes Flagger's Canary objects.
func hasCanaryTemplate(c *chart.Chart) bool {
	if c == nil {
		return false
	}
	for _, t := range c.Templates {
		if canaryKind.Match(t.Data) && flaggerKind.Match(t.Data) {
			return true
		}
	}
	for _, sub := range c.Dependencies() {
		if hasCanaryTemplate(sub) {
			return true
		}
	}
	return false
}
