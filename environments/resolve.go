package environments

import (
	"fmt"
	"slices"
	"time"
)

const (
	defaultInterval          = 60 * time.Second
	defaultProgressDeadline  = 600 * time.Second
	defaultThreshold         = 1
	defaultInconclusiveLimit = 10
	defaultMaxWeight         = 100
)

// The limits of the built-in checks: the least success rate in percent, the greatest duration (P99) in milliseconds.
const (
	defaultSuccessRate = 99.0
	defaultDuration    = 500.0
)

// ResolvePolicy says how an app is delivered. What is said in several places are layers, field by field, and the nearest to
// the environment's owner wins: apps.<app>.rollout in sluice.yaml, the Canary object that the chart renders, canary: in the
// values, rollout in sluice.yaml, a plain rolling update. Lists are replaced whole.
//
// Where the chart renders a Canary object, canary: in the values is the chart's own input and is not looked at. Metrics may refer
// to the chart's MetricTemplates wherever they are said. Errors are one or several joined [Fault].
func ResolvePolicy(env *Environment, app *App, chart Said) (Policy, error) {
	layers, err := layersOf(env, app, chart)
	if err != nil {
		return Policy{}, err
	}
	return merge(layers)
}

// layersOf lists the places that say something of an app's policy, the nearest to the environment's owner last.
func layersOf(env *Environment, app *App, chart Said) ([]*layer, error) {
	var layers []*layer
	around := surroundings{namespace: app.Namespace, templates: chart.MetricTemplates}
	add := func(raw *RawPolicy) error {
		if raw == nil {
			return nil
		}
		l, err := rolloutLayer(raw, &around)
		layers = append(layers, l)
		return err
	}
	if err := add(env.Rollout); err != nil {
		return nil, err
	}
	if chart.Canary != nil {
		layers = append(layers, canaryObjectLayer(app, chart.Canary, around))
	} else if canary := chart.Values["canary"]; !saysNothing(canary) {
		layers = append(layers, canaryValuesLayer(app, canary, &around))
	}
	return layers, add(app.Rollout)
}

// flaggerVersions are the API versions of Canary objects that charts have rendered over the years.
var flaggerVersions = []string{"flagger.app/v1alpha2", "flagger.app/v1alpha3", "flagger.app/v1beta1"}

// canaryObjectLayer is what a Canary object says.
func canaryObjectLayer(app *App, object map[string]any, around surroundings) *layer {
	around.canary = objectName(object)
	l := &layer{
		d:      decoder{around: &around},
		source: "Canary object " + objectName(object), at: fieldPath{"spec"}, table: canaryObjectFields,
		place: canaryObjectPlace(app, object), strategy: StrategyCanary,
	}
	version, _ := object["apiVersion"].(string)
	if kind, _ := object["kind"].(string); kind != "Canary" || !slices.Contains(flaggerVersions, version) {
		l.d.fail(fieldPath{"apiVersion"}, fmt.Sprintf("is %s %s", shown(version), kind), "a Canary of "+oneOf(flaggerVersions))
	}
	l.read(object["spec"])
	return l
}

func objectName(object map[string]any) string {
	metadata, _ := object["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	return name
}

func canaryObjectPlace(app *App, object map[string]any) string {
	return fmt.Sprintf("Canary object %s of chart %s", objectName(object), app.Chart.Name)
}

// canaryValuesLayer is what canary: in the values says. Switched off it is a rolling update that keeps its routing.
func canaryValuesLayer(app *App, v any, around *surroundings) *layer {
	l := &layer{
		d:      decoder{around: around},
		source: "canary: in the values", at: fieldPath{"canary"}, table: canaryValuesFields,
		place: "values of chart " + app.Chart.Name, locate: app.locateValue, strategy: StrategyCanary,
		shared: true, given: app.Values, instead: "apps." + app.Name + ".rollout.strategy",
	}
	if off, ok := v.(bool); ok && !off {
		v = map[string]any{"enabled": false}
	}
	m, _ := v.(map[string]any)
	var dr draft
	d := &decoder{}
	for _, key := range []string{"enable", "enabled"} {
		if m[key] != nil {
			readEnabled(d, l.at.key(key), m[key], &dr)
		}
	}
	switch {
	case len(d.faults) > 0:
		l.d.faults = d.faults
	case dr.enabled != nil && !*dr.enabled:
		l.strategy = StrategyRolling
		given, _ := app.Values["canary"].(map[string]any)
		l.read(routingOf(m, given))
		l.switchAt = l.at // of canary: false
		for _, key := range []string{"enable", "enabled"} {
			if _, said := m[key]; said {
				l.switchAt = l.at.key(key)
			}
		}
		l.forgive()
	default:
		l.read(v)
	}
	return l
}

// routingFields of canary: in the values are those that lead users to the app. foreignRoutes ask for routing that Sluice can't make.
var (
	routingFields = []string{"provider", "service", "targetRef"}
	foreignRoutes = []string{"ingressRef", "routeRef", "upstreamRef"}
)

// routingOf is what still counts of a section that is switched off, where the environment itself has given a service: going from a
// canary to a rolling update takes no host and no gateway from users. A chart that has hosts in its own defaults, and is
// switched off there, was never routed by them, and its cluster may have no mesh. The rest is the chart's business.
func routingOf(section, given map[string]any) map[string]any {
	kept := map[string]any{}
	if given["service"] == nil {
		return kept
	}
	for _, key := range foreignRoutes {
		if !isOff(section[key]) {
			return kept
		}
	}
	for _, key := range routingFields {
		if v := section[key]; v != nil {
			kept[key] = v
		}
	}
	return kept
}

// forgive takes what can't be read of a section that is switched off for the chart's business as well. What has a provider that
// Sluice does not know was never routed by it.
func (l *layer) forgive() {
	provider := l.at.key("provider")
	if slices.ContainsFunc(l.d.faults, func(pf pathFault) bool { return l.field(pf.path) == l.field(provider) }) {
		l.d, l.own = decoder{around: l.d.around}, draft{}
		l.read(map[string]any{})
		return
	}
	for _, pf := range l.d.faults {
		l.d.ignored = append(l.d.ignored, pf.path.String())
	}
	l.d.faults = nil
}

// SwitchedOff reports whether a canary: section says itself that there is none.
func SwitchedOff(section any) bool {
	m, _ := section.(map[string]any)
	off := func(v any) bool { return v == false || v == "false" }
	return off(section) || off(m["enable"]) || off(m["enabled"])
}

// saysNothing reports a canary: section that is absent or empty.
func saysNothing(section any) bool {
	m, isObject := section.(map[string]any)
	return section == nil || isObject && len(m) == 0
}

func orDefault[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// builtIn are the checks of a canary whose policy has no metrics. Only istio measures requests by itself.
func builtIn(provider string, interval time.Duration) []Metric {
	if provider != "" && provider != "istio" {
		return nil
	}
	rate, milliseconds := float64(defaultSuccessRate), float64(defaultDuration)
	return []Metric{
		{Name: metricSuccessRate, Interval: interval, Min: &rate},
		{Name: metricDuration, Interval: interval, Max: &milliseconds},
	}
}
