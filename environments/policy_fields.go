package environments

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// draft is a policy while it is being read.
type draft struct {
	policy Policy
	// strategy that the text names; empty: none.
	strategy Strategy
	// enabled is what enable or enabled says; nil: neither.
	enabled *bool
	// analysisAt is where the analysis is; nil: there is none.
	analysisAt fieldPath
}

// The tables below are the policy language: every field of Flagger's that exists is in one of them, either read,
// ignored because nothing depends on it here, or refused because safety depends on it and it is not built yet.

// commonFields are read alike wherever a policy stands.
var commonFields = fields[draft]{
	"analysis":                readAnalysis,
	"canaryAnalysis":          readAnalysis,
	"progressDeadlineSeconds": readDeadline,
	"rollbackWindow":          func(d *decoder, at fieldPath, v any, to *draft) { to.policy.RollbackWindow = d.duration(at, v) },
	"skipAnalysis":            func(d *decoder, at fieldPath, v any, to *draft) { to.policy.SkipAnalysis = d.boolean(at, v) },
	"suspend":                 func(d *decoder, at fieldPath, v any, to *draft) { to.policy.Suspend = d.boolean(at, v) },
	"service": func(d *decoder, at fieldPath, v any, to *draft) {
		decodeObject(d, at, v, serviceFields, &to.policy.Service)
	},
}

// flaggerFields are those of a Canary object's spec beyond commonFields.
var flaggerFields = fields[draft]{
	"provider":         readProvider,
	"targetRef":        readTarget,
	"autoscalerRef":    ignored[draft](),
	"metricsServer":    ignored[draft](),
	"revertOnDeletion": ignored[draft](),
	"ingressRef":       unsupported[draft]("an ingress"),
	"routeRef":         unsupported[draft]("an APISIX route"),
	"upstreamRef":      unsupported[draft]("a Gloo upstream"),
}

// rolloutFields is rollout: in sluice.yaml.
var rolloutFields = union(commonFields, fields[draft]{
	"strategy": readStrategy,
	"target":   readTarget,
})

// canaryObjectFields is the spec of a Canary object.
var canaryObjectFields = union(commonFields, flaggerFields)

// canaryValuesFields is canary: in the values.
var canaryValuesFields = union(canaryObjectFields, fields[draft]{
	"enable":  readEnabled,
	"enabled": readEnabled,
})

var targetFields = fields[Target]{
	"apiVersion": func(d *decoder, at fieldPath, v any, to *Target) { to.APIVersion = d.text(at, v) },
	"kind":       func(d *decoder, at fieldPath, v any, to *Target) { to.Kind = d.text(at, v) },
	"name":       func(d *decoder, at fieldPath, v any, to *Target) { to.Name = d.text(at, v) },
}

var analysisFields = fields[Analysis]{
	"interval":  func(d *decoder, at fieldPath, v any, to *Analysis) { to.Interval = d.duration(at, v) },
	"threshold": func(d *decoder, at fieldPath, v any, to *Analysis) { to.Threshold = d.integer(at, v, 0, math.MaxInt32) },
	"inconclusiveLimit": func(d *decoder, at fieldPath, v any, to *Analysis) {
		to.InconclusiveLimit = d.integer(at, v, 1, math.MaxInt32)
	},
	"maxWeight":           func(d *decoder, at fieldPath, v any, to *Analysis) { to.MaxWeight = d.integer(at, v, 1, 100) },
	"stepWeight":          readStepWeight,
	"stepWeights":         readStepWeights,
	"stepWeightPromotion": func(d *decoder, at fieldPath, v any, to *Analysis) { to.StepWeightPromotion = d.integer(at, v, 0, 100) },
	"metrics": func(d *decoder, at fieldPath, v any, to *Analysis) {
		to.Metrics = []Metric{} // said, though it may be none
		for i, m := range d.list(at, v) {
			to.Metrics = append(to.Metrics, readMetric(d, at.index(i), m))
		}
	},
	"approval": readApproval,
	"fourEyes": func(d *decoder, at fieldPath, v any, to *Analysis) { to.FourEyes = d.boolean(at, v) },

	"alerts":                ignored[Analysis](),
	"primaryReadyThreshold": ignored[Analysis](),
	"canaryReadyThreshold":  ignored[Analysis](),
	"iterations":            unsupported[Analysis]("a blue-green or A/B analysis"),
	"match":                 unsupported[Analysis]("an A/B analysis"),
	"mirror":                unsupported[Analysis]("traffic mirroring"),
	"mirrorWeight":          unsupported[Analysis]("traffic mirroring"),
	"webhooks":              unsupported[Analysis]("a webhook"),
	"sessionAffinity":       unsupported[Analysis]("session affinity"),
}

func readApproval(d *decoder, at fieldPath, v any, to *Analysis) {
	to.Approval = nil
	for i, x := range d.list(at, v) {
		a := Approval(d.text(at.index(i), x))
		switch a {
		case ApproveBegin, ApprovePromote:
			if !slices.Contains(to.Approval, a) {
				to.Approval = append(to.Approval, a)
			}
		default:
			d.fail(at.index(i), "is no moment that can be approved", "begin or promote")
		}
	}
}

// metricDraft is a metric while it is being read.
type metricDraft struct {
	metric Metric
	// single is the legacy threshold, which is a minimum or a maximum according to the metric.
	single *float64
	// ranged says that there is a thresholdRange.
	ranged bool
	// ref is the MetricTemplate that has the query; nil: none has.
	ref       *templateRef
	variables map[string]string
}

var metricFields = fields[metricDraft]{
	"name":     func(d *decoder, at fieldPath, v any, to *metricDraft) { to.metric.Name = d.text(at, v) },
	"interval": func(d *decoder, at fieldPath, v any, to *metricDraft) { to.metric.Interval = d.duration(at, v) },
	"query":    func(d *decoder, at fieldPath, v any, to *metricDraft) { to.metric.Query = d.text(at, v) },
	"threshold": func(d *decoder, at fieldPath, v any, to *metricDraft) {
		n := d.number(at, v)
		to.single = &n
	},
	"thresholdRange": func(d *decoder, at fieldPath, v any, to *metricDraft) {
		to.ranged = true
		decodeObject(d, at, v, rangeFields, &to.metric)
	},
	"templateRef": func(d *decoder, at fieldPath, v any, to *metricDraft) {
		to.ref = &templateRef{}
		decodeObject(d, at, v, templateRefFields, to.ref)
	},
	"templateVariables": func(d *decoder, at fieldPath, v any, to *metricDraft) { to.variables = d.textMap(at, v) },
}

var rangeFields = fields[Metric]{
	"min": func(d *decoder, at fieldPath, v any, to *Metric) { n := d.number(at, v); to.Min = &n },
	"max": func(d *decoder, at fieldPath, v any, to *Metric) { n := d.number(at, v); to.Max = &n },
}

var serviceFields = fields[Service]{
	"name":          func(d *decoder, at fieldPath, v any, to *Service) { to.Name = d.text(at, v) },
	"port":          func(d *decoder, at fieldPath, v any, to *Service) { to.Port = d.integer(at, v, 1, 65535) },
	"portName":      func(d *decoder, at fieldPath, v any, to *Service) { to.PortName = d.text(at, v) },
	"targetPort":    func(d *decoder, at fieldPath, v any, to *Service) { to.TargetPort = d.text(at, v) },
	"appProtocol":   func(d *decoder, at fieldPath, v any, to *Service) { to.AppProtocol = d.text(at, v) },
	"portDiscovery": func(d *decoder, at fieldPath, v any, to *Service) { to.PortDiscovery = d.boolean(at, v) },
	"gateways":      func(d *decoder, at fieldPath, v any, to *Service) { to.Gateways = d.texts(at, v) },
	"hosts":         func(d *decoder, at fieldPath, v any, to *Service) { to.Hosts = d.texts(at, v) },
	"delegation":    func(d *decoder, at fieldPath, v any, to *Service) { to.Delegation = d.boolean(at, v) },
	"timeout":       func(d *decoder, at fieldPath, v any, to *Service) { to.Timeout = d.text(at, v) },
	"retries":       func(d *decoder, at fieldPath, v any, to *Service) { to.Retries, _ = d.object(at, v) },
	"headers":       func(d *decoder, at fieldPath, v any, to *Service) { to.Headers, _ = d.object(at, v) },
	"match":         func(d *decoder, at fieldPath, v any, to *Service) { to.Match = d.list(at, v) },
	"rewrite":       func(d *decoder, at fieldPath, v any, to *Service) { to.Rewrite, _ = d.object(at, v) },
	"corsPolicy":    func(d *decoder, at fieldPath, v any, to *Service) { to.CorsPolicy, _ = d.object(at, v) },
	"trafficPolicy": func(d *decoder, at fieldPath, v any, to *Service) { to.TrafficPolicy, _ = d.object(at, v) },
	"apex":          func(d *decoder, at fieldPath, v any, to *Service) { decodeObject(d, at, v, apexFields, to) },

	"primary":             ignored[Service](),
	"canary":              ignored[Service](),
	"headless":            ignored[Service](),
	"backendTimeout":      ignored[Service](),
	"trafficDistribution": ignored[Service](),
	"unmanagedMetadata":   ignored[Service](),
	"meshName":            ignored[Service](),
	"backends":            unsupported[Service]("an App Mesh backend"),
	"gatewayRefs":         unsupported[Service]("a Gateway API gateway"),
	"mirror":              unsupported[Service]("traffic mirroring"),
}

var apexFields = fields[Service]{
	"labels":      func(d *decoder, at fieldPath, v any, to *Service) { to.Labels = d.textMap(at, v) },
	"annotations": func(d *decoder, at fieldPath, v any, to *Service) { to.Annotations = d.textMap(at, v) },
}

func union[T any](tables ...fields[T]) fields[T] {
	all := fields[T]{}
	for _, t := range tables {
		maps.Copy(all, t)
	}
	return all
}

func readAnalysis(d *decoder, at fieldPath, v any, to *draft) {
	if to.analysisAt != nil {
		d.fail(at, "stands beside "+to.analysisAt.String(), "one of them")
		return
	}
	to.analysisAt = at
	decodeObject(d, at, v, analysisFields, &to.policy.Analysis)
}

func readDeadline(d *decoder, at fieldPath, v any, to *draft) {
	seconds := d.integer(at, v, 1, int(maxDuration/time.Second))
	to.policy.ProgressDeadline = time.Duration(seconds) * time.Second
}

func readEnabled(d *decoder, at fieldPath, v any, to *draft) {
	on := d.boolean(at, v)
	if to.enabled != nil && *to.enabled != on {
		d.fail(at, "enable and enabled contradict each other", "one of them")
	}
	to.enabled = &on
}

func readProvider(d *decoder, at fieldPath, v any, to *draft) {
	name := d.text(at, v)
	if name != "" && !slices.Contains(Providers, name) {
		d.fail(at, shown(name)+" is not supported yet", strings.Join(Providers, " or "))
		return
	}
	to.policy.Provider = name
}

func readTarget(d *decoder, at fieldPath, v any, to *draft) {
	decodeObject(d, at, v, targetFields, &to.policy.Target)
}

func readStrategy(d *decoder, at fieldPath, v any, to *draft) {
	switch s := Strategy(d.text(at, v)); s {
	case StrategyCanary, StrategyRolling:
		to.strategy = s
	default:
		d.fail(at, "is "+shown(v), "Canary or Rolling")
	}
}

// readStepWeight drops the stepWeights of a layer below, which say the same in another way. The other way round nothing has to be
// dropped: stepWeights go before a stepWeight.
func readStepWeight(d *decoder, at fieldPath, v any, to *Analysis) {
	to.StepWeight = d.integer(at, v, 0, 100)
	if to.StepWeight > 0 {
		to.StepWeights = nil
	}
}

func readStepWeights(d *decoder, at fieldPath, v any, to *Analysis) {
	var weights []int
	for i, e := range d.list(at, v) {
		w := d.integer(at.index(i), e, 1, 100)
		if n := len(weights); n > 0 && w > 0 && w <= weights[n-1] {
			d.fail(at.index(i), "does not rise", "weights in ascending order")
		}
		weights = append(weights, w)
	}
	to.StepWeights = weights
}

// The built-in checks, by the names that Flagger has had for them.
const (
	metricSuccessRate = "request-success-rate"
	metricDuration    = "request-duration"
)

var builtinMetrics = map[string]string{
	metricSuccessRate:                       metricSuccessRate,
	"istio_requests_total":                  metricSuccessRate,
	metricDuration:                          metricDuration,
	"istio_request_duration_seconds_bucket": metricDuration,
}

func readMetric(d *decoder, at fieldPath, v any) Metric {
	var md metricDraft
	before := len(d.faults)
	decodeObject(d, at, v, metricFields, &md)
	if len(d.faults) > before {
		return md.metric
	}
	m := md.metric
	if m.Interval == 0 {
		m.Interval = defaultInterval
	}
	builtin := builtinMetrics[m.Name]
	switch {
	case m.Name == "":
		d.fail(at.key("name"), "is missing", "the name of a check")
	case md.ref != nil && m.Query != "":
		d.fail(at.key("query"), "stands beside templateRef", "one of them")
	case builtin != "" && md.ref != nil:
		d.fail(at.key("templateRef"), "stands beside the built-in check "+m.Name, "another name, or no templateRef")
	case builtin == "" && m.Query == "" && md.ref == nil:
		names := slices.Collect(maps.Keys(builtinMetrics))
		d.fail(at.key("name"), shown(m.Name)+" is no built-in check and has no query", "a query, or "+nearestOf(m.Name, names))
	case builtin != "" && m.Query != "":
		d.fail(at.key("query"), "stands beside the built-in check "+m.Name, "another name, or no query")
	}
	if builtin != "" {
		m.Name = builtin
	}
	queryAt := at.key("query")
	if md.ref != nil {
		queryAt = at.key("templateRef")
		m.Query = d.template(queryAt, *md.ref)
	}
	m.Query = d.query(queryAt, m.Query, md.variables)
	readLimits(d, at, &m, md)
	return m
}

// readLimits settles the two ways of saying a metric's limits.
func readLimits(d *decoder, at fieldPath, m *Metric, md metricDraft) {
	switch {
	case md.single != nil && md.ranged:
		d.fail(at.key("thresholdRange"), "stands beside threshold", "one of them")
	case md.single != nil && m.Name == metricSuccessRate:
		m.Min = md.single
	case md.single != nil:
		m.Max = md.single
	case m.Min == nil && m.Max == nil:
		d.fail(at, "has no limit", "threshold, or thresholdRange with min, max or both")
	}
	if m.Min != nil && m.Max != nil && *m.Min > *m.Max {
		d.fail(at.key("thresholdRange"), "min is greater than max", "min at most max")
	}
	if m.Name == metricSuccessRate && m.Min != nil && *m.Min > 100 {
		d.fail(at, "asks for a success rate above 100 %, which never passes", "a percentage from 0 to 100")
	}
}
