package environments

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	defaultInterval          = 60 * time.Second
	defaultProgressDeadline  = 600 * time.Second
	defaultThreshold         = 1
	defaultInconclusiveLimit = 10
	defaultMaxWeight         = 100
)

// ResolvePolicy says how an app is delivered. The nearest to the environment's owner wins, whole:
// apps.<app>.rollout in sluice.yaml, the Canary object that the chart renders, canary: in the values, rollout in
// sluice.yaml, a plain rolling update. What routes traffic is not policy but the app's own, so that where the
// first of these has no service or target, those of the second or third are used with it.
//
// chartValues are the app's coalesced values. canaryObject is the Canary object among the app's objects, nil when
// there is none; when there is one, canary: in the values is the chart's own input and is not looked at.
// Errors are one or several joined [Fault].
func ResolvePolicy(env *Environment, app *App, chartValues map[string]any, canaryObject map[string]any) (Policy, error) {
	if app.Rollout != nil {
		return resolveOwn(app, chartValues, canaryObject)
	}
	if canaryObject != nil {
		return decodeCanaryObject(app, canaryObject)
	}
	if canary := chartValues["canary"]; !saysNothing(canary) {
		return decodeCanaryValues(app, canary)
	}
	if env.Rollout != nil {
		return DecodePolicy(env.Rollout)
	}
	return Policy{Source: "default", Strategy: StrategyRolling, ProgressDeadline: defaultProgressDeadline}, nil
}

// resolveOwn reads apps.<app>.rollout, with the routing of the chart where it says none.
func resolveOwn(app *App, chartValues, canaryObject map[string]any) (Policy, error) {
	p, err := DecodePolicy(app.Rollout)
	if err != nil || p.Strategy != StrategyCanary {
		return p, err
	}
	at, routing := fieldPath{"canary"}, chartValues["canary"]
	if canaryObject != nil {
		at, routing = fieldPath{"spec"}, canaryObject["spec"]
	}
	said, ok := routing.(map[string]any)
	if !ok || canaryObject == nil && !isEnabled(said) {
		return p, nil
	}
	d := &decoder{}
	var lower draft
	if said["service"] != nil && isZeroService(p.Service) {
		decodeObject(d, at.key("service"), said["service"], serviceFields, &lower.policy.Service)
		p.Service = lower.policy.Service
	}
	if said["targetRef"] != nil && p.Target == (Target{}) {
		readTarget(d, at.key("targetRef"), said["targetRef"], &lower)
		p.Target = lower.policy.Target
	}
	p.Ignored = append(p.Ignored, d.ignored...)
	if len(d.faults) == 0 {
		return p, nil
	}
	if canaryObject != nil {
		return Policy{}, d.err(canaryObjectPlace(app, canaryObject), nil)
	}
	return Policy{}, d.err("", app.locateValue)
}

// DecodePolicy reads a rollout: of sluice.yaml, with every default filled in. Without a strategy it is a canary when
// it has an analysis or skips it, else a rolling update. Errors are one or several joined [Fault].
func DecodePolicy(raw *RawPolicy) (Policy, error) {
	v := raw.value
	if v == nil {
		if err := yaml.UnmarshalStrict(raw.YAML, &v); err != nil {
			return Policy{}, yamlFault(raw.File, 1, err)
		}
		for _, key := range raw.Path {
			m, _ := v.(map[string]any)
			v = m[key]
		}
	}
	d := &decoder{}
	at := fieldPath(raw.Path)
	var dr draft
	decodeObject(d, at, v, rolloutFields, &dr)
	strategy := dr.strategy
	if strategy == "" {
		strategy = StrategyRolling
		if dr.analysisAt != nil || dr.policy.SkipAnalysis {
			strategy = StrategyCanary
		}
	}
	if strategy == StrategyRolling && dr.analysisAt != nil {
		d.fail(dr.analysisAt, "stands beside strategy Rolling, which has no analysis", "strategy Canary, or no analysis")
	}
	p := finish(d, &dr, strategy, raw.Where)
	return p, d.err(raw.File, func(p fieldPath) (string, int) { return raw.File, lineOf(raw.YAML, p) })
}

// flaggerVersions are the API versions of Canary objects that charts have rendered over the years.
var flaggerVersions = []string{"flagger.app/v1alpha2", "flagger.app/v1alpha3", "flagger.app/v1beta1"}

// decodeCanaryObject reads a Canary object.
func decodeCanaryObject(app *App, object map[string]any) (Policy, error) {
	d := &decoder{}
	var dr draft
	version, _ := object["apiVersion"].(string)
	if kind, _ := object["kind"].(string); kind != "Canary" || !slices.Contains(flaggerVersions, version) {
		d.fail(fieldPath{"apiVersion"}, fmt.Sprintf("is %s %s", shown(version), kind), "a Canary of "+oneOf(flaggerVersions))
	}
	decodeObject(d, fieldPath{"spec"}, object["spec"], canaryObjectFields, &dr)
	place := canaryObjectPlace(app, object)
	p := finish(d, &dr, StrategyCanary, "Canary object "+objectName(object))
	return p, d.err(place, nil)
}

func objectName(object map[string]any) string {
	metadata, _ := object["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	return name
}

func canaryObjectPlace(app *App, object map[string]any) string {
	return fmt.Sprintf("Canary object %s of chart %s", objectName(object), app.Chart.Name)
}

// decodeCanaryValues reads canary: in the values. Switched off it is a rolling update, and its other fields are
// the chart's business.
func decodeCanaryValues(app *App, v any) (Policy, error) {
	const source = "canary: in the values"
	d := &decoder{}
	at := fieldPath{"canary"}
	if off, ok := v.(bool); ok && !off {
		v = map[string]any{"enabled": false}
	}
	m, _ := d.object(at, v)
	var dr draft
	for _, key := range []string{"enable", "enabled"} {
		if m[key] != nil {
			readEnabled(d, at.key(key), m[key], &dr)
		}
	}
	if len(d.faults) == 0 && dr.enabled != nil && !*dr.enabled {
		return Policy{Source: source, Strategy: StrategyRolling, ProgressDeadline: defaultProgressDeadline}, nil
	}
	if len(d.faults) == 0 {
		dr = draft{}
		decodeObject(d, at, m, canaryValuesFields, &dr)
	}
	p := finish(d, &dr, StrategyCanary, source)
	return p, d.err("values of chart "+app.Chart.Name, app.locateValue)
}

// saysNothing reports a canary: section that is absent or empty.
func saysNothing(section any) bool {
	m, isObject := section.(map[string]any)
	return section == nil || isObject && len(m) == 0
}

// isEnabled reports whether a canary: section is not switched off.
func isEnabled(section map[string]any) bool {
	for _, key := range []string{"enable", "enabled"} {
		if on := section[key]; on == false || on == "false" {
			return false
		}
	}
	return true
}

// isZeroService reports whether no field of the service is set.
func isZeroService(s Service) bool {
	return s.Name == "" && s.Port == 0 && s.PortName == "" && s.TargetPort == "" && s.AppProtocol == "" &&
		!s.PortDiscovery && !s.Delegation && s.Timeout == "" &&
		len(s.Gateways)+len(s.Hosts)+len(s.Retries)+len(s.Headers)+len(s.Match)+len(s.Rewrite)+
			len(s.CorsPolicy)+len(s.TrafficPolicy)+len(s.Labels)+len(s.Annotations) == 0
}

// finish fills in the defaults and refuses what contradicts itself.
func finish(d *decoder, dr *draft, strategy Strategy, source string) Policy {
	p := dr.policy
	p.Source, p.Strategy = source, strategy
	if p.ProgressDeadline == 0 {
		p.ProgressDeadline = defaultProgressDeadline
	}
	p.Ignored = d.ignored
	if strategy != StrategyCanary {
		return p
	}
	if dr.analysisAt == nil {
		p.SkipAnalysis = true
	}
	a := &p.Analysis
	a.Interval = orDefault(a.Interval, defaultInterval)
	a.Threshold = orDefault(a.Threshold, defaultThreshold)
	a.InconclusiveLimit = orDefault(a.InconclusiveLimit, defaultInconclusiveLimit)
	a.MaxWeight = orDefault(a.MaxWeight, defaultMaxWeight)
	if len(d.faults) > 0 || dr.analysisAt == nil {
		return p
	}
	if a.StepWeight > 0 && len(a.StepWeights) > 0 {
		d.fail(dr.analysisAt.key("stepWeights"), "stands beside stepWeight", "one of them")
	}
	if len(p.Steps()) == 0 && !p.SkipAnalysis {
		d.fail(dr.analysisAt, "has no steps, so the canary would never advance", "stepWeight or stepWeights")
	}
	return p
}

func orDefault[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// err joins the faults, with their files and lines where locate knows them. place stands for the file otherwise.
func (d *decoder) err(place string, locate func(fieldPath) (file string, line int)) error {
	faults := make([]*Fault, len(d.faults))
	for i, pf := range d.faults {
		f := *pf.fault
		f.File = place
		if locate != nil {
			if file, line := locate(pf.path); file != "" {
				f.File, f.Line = file, line
			}
		}
		faults[i] = &f
	}
	slices.SortStableFunc(faults, func(a, b *Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return joinFaults(faults)
}
