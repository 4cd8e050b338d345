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
	"analysis":       custom(analysisShape, readAnalysis, "How a canary is judged and how its weight rises."),
	"canaryAnalysis": custom(analysisShape, readAnalysis, "Flagger's old name of `analysis`."),
	"progressDeadlineSeconds": custom(asWhole("s", 1, int(maxDuration/time.Second)).shape, readDeadline,
		"How long a track may take to become ready.").or(int(defaultProgressDeadline / time.Second)),
	"rollbackWindow": set(asDuration, func(to *draft) *time.Duration { return &to.policy.RollbackWindow },
		"How long after a release was stable `sluice rollback` restores it immediately, without a canary.").or("24h"),
	"skipAnalysis": set(asFlag, func(to *draft) *bool { return &to.policy.SkipAnalysis }, "Promote a ready canary without checks.").or(false),
	"suspend": set(asFlag, func(to *draft) *bool { return &to.policy.Suspend },
		"No rollout starts or advances; a canary that has clearly failed is still rolled back.").or(false),
	"service": custom(named("service", tableShape(serviceFields)), func(d *decoder, at fieldPath, v any, to *draft) {
		decodeObject(d, at, v, serviceFields, &to.policy.Service)
	}, "The routing."),
}

var analysisShape = named("analysis", tableShape(analysisFields))

// flaggerFields are those of a Canary object's spec beyond commonFields.
var flaggerFields = fields[draft]{
	"provider":         custom(wordShape(Providers...), readProvider, "What splits the traffic; see concepts.md.").or(Providers[0]),
	"targetRef":        custom(tableShape(targetFields), readTarget, "The workload that the canary is made of.").or("the release's only one"),
	"autoscalerRef":    ignored[draft]("the release's autoscalers are found by what they scale"),
	"metricsServer":    ignored[draft](elsewhere),
	"revertOnDeletion": ignored[draft]("without a rollout the chart's own objects are running"),
	"ingressRef":       unsupported[draft]("an ingress"),
	"routeRef":         unsupported[draft]("an APISIX route"),
	"upstreamRef":      unsupported[draft]("a Gloo upstream"),
}

// rolloutFields is rollout: in sluice.yaml.
var rolloutFields = union(commonFields, fields[draft]{
	"strategy": set(asOneOf(StrategyCanary, StrategyRolling), func(to *draft) *Strategy { return &to.strategy },
		"`Canary` moves traffic step by step while checks pass, `Rolling` waits until the release is ready.").
		or("`Canary` where there is an analysis, else `Rolling`"),
	"target": custom(tableShape(targetFields), readTarget, "The workload that the canary is made of.").or("the release's only one"),
})

// canaryObjectFields is the spec of a Canary object.
var canaryObjectFields = union(commonFields, flaggerFields)

// canaryValuesFields is canary: in the values.
var canaryValuesFields = union(canaryObjectFields, switchFields)

var switchFields = fields[draft]{
	"enable":  custom(asFlag.shape, readEnabled, "Whether there is a canary.").or(true),
	"enabled": custom(asFlag.shape, readEnabled, "The same as `enable`.").or(true),
}

var targetFields = fields[Target]{
	"apiVersion": set(asText, func(to *Target) *string { return &to.APIVersion }, "Its API version, of which the group counts; empty: any."),
	"kind":       set(asText, func(to *Target) *string { return &to.Kind }, "`Deployment`; a canary of another kind is not supported yet.").or("any of that name"),
	"name":       set(asText, func(to *Target) *string { return &to.Name }, "Its name.").or("the release's only Deployment"),
}

var analysisFields = fields[Analysis]{
	"interval": set(asDuration, func(to *Analysis) *time.Duration { return &to.Interval },
		"Time between checks, and the minimum time at each step.").or(defaultInterval),
	"threshold": set(asWhole("", 0, math.MaxInt32), func(to *Analysis) *int { return &to.Threshold },
		"Number of failed checks, over the whole rollout, that causes a rollback.").or(defaultThreshold),
	"inconclusiveLimit": set(asWhole("", 1, math.MaxInt32), func(to *Analysis) *int { return &to.InconclusiveLimit },
		"Number of inconclusive checks in a row after which the rollout is reported as stalled. They never count as failed.").or(defaultInconclusiveLimit),
	"maxWeight": set(asWhole("%", 1, 100), func(to *Analysis) *int { return &to.MaxWeight },
		"Upper limit of the steps.").or(defaultMaxWeight),
	"stepWeight":  custom(asWhole("%", 0, 100).shape, readStepWeight, "By how much the canary's weight rises at each step."),
	"stepWeights": custom(listShape(asWhole("%", 1, 100).shape), readStepWeights, "The weights of the steps, ascending; instead of `stepWeight`."),
	"stepWeightPromotion": set(asWhole("%", 0, 100), func(to *Analysis) *int { return &to.StepWeightPromotion },
		"By how much traffic moves back to the promoted stable track at each interval.").or("0: all in one step"),
	"metrics": custom(tablesShape(metricFields), readMetrics,
		"The checks. `[]` means no checks.").or("the built-in checks of the provider"),
	"approval": custom(listShape(wordShape(ApproveBegin, ApprovePromote)), readApproval,
		"What a person must approve: the start of a rollout (`begin`), its promotion (`promote`).").or("nothing"),
	"fourEyes": set(asFlag, func(to *Analysis) *bool { return &to.FourEyes },
		"The author of the commit that asks for a release can't approve it.").or(false),
	"webhooks": custom(tablesShape(webhookFields), readWebhooks, "Webhooks that are called during a rollout, at most 20; see flagger.md."),

	"alerts":                ignored[Analysis]("events go to git, the forge and Kubernetes; the operator configures notifications"),
	"primaryReadyThreshold": ignored[Analysis]("a track is ready when all of its pods are"),
	"canaryReadyThreshold":  ignored[Analysis]("a track is ready when all of its pods are"),
	"iterations":            unsupported[Analysis]("a blue-green or A/B analysis"),
	"match":                 unsupported[Analysis]("an A/B analysis"),
	"mirror":                unsupported[Analysis]("traffic mirroring"),
	"mirrorWeight":          unsupported[Analysis]("traffic mirroring"),
	"sessionAffinity":       unsupported[Analysis]("session affinity"),
}

func readMetrics(d *decoder, at fieldPath, v any, to *Analysis) {
	to.Metrics = []Metric{} // said, though it may be none
	for i, m := range d.list(at, v) {
		to.Metrics = append(to.Metrics, readMetric(d, at.index(i), m))
	}
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
			d.fail(at.index(i), "is not something to approve", "begin or promote")
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
	"name": set(asText, func(to *metricDraft) *string { return &to.metric.Name },
		"A built-in check, `request-success-rate` (%) or `request-duration` (P99, ms), or any name with a query.").needed(),
	"interval": set(asDuration, func(to *metricDraft) *time.Duration { return &to.metric.Interval }, "The window of the query.").or(defaultInterval),
	"query":    set(asText, func(to *metricDraft) *string { return &to.metric.Query }, "PromQL with Flagger's variables; see flagger.md, MetricTemplate."),
	"threshold": custom(asNumber.shape, func(d *decoder, at fieldPath, v any, to *metricDraft) {
		n := d.number(at, v)
		to.single = &n
	}, "The limit: for `request-success-rate` the minimum, for others the maximum. Instead of `thresholdRange`."),
	"thresholdRange": custom(tableShape(rangeFields), func(d *decoder, at fieldPath, v any, to *metricDraft) {
		to.ranged = true
		decodeObject(d, at, v, rangeFields, &to.metric)
	}, "The limits, inclusive: one of them, or both."),
	"templateRef": custom(tableShape(templateRefFields), func(d *decoder, at fieldPath, v any, to *metricDraft) {
		to.ref = &templateRef{}
		decodeObject(d, at, v, templateRefFields, to.ref)
	}, "A MetricTemplate of the same chart that holds the query."),
	"templateVariables": set(asTextMap, func(to *metricDraft) *map[string]string { return &to.variables }, "The values of `{{ variables.NAME }}` in the query."),
}

var rangeFields = fields[Metric]{
	"min": set(asLimit, func(to *Metric) **float64 { return &to.Min }, "The minimum.").or("unlimited"),
	"max": set(asLimit, func(to *Metric) **float64 { return &to.Max }, "The maximum.").or("unlimited"),
}

// asLimit is a number that may be absent.
var asLimit = kind[*float64]{asNumber.shape, func(d *decoder, at fieldPath, v any) *float64 {
	n := d.number(at, v)
	return &n
}}

var serviceFields = fields[Service]{
	"name":          set(asText, func(to *Service) *string { return &to.Name }, "The app's Service.").or("the one that selects the target, else the target's name"),
	"port":          set(asWhole("", 1, 65535), func(to *Service) *int { return &to.Port }, "Its port."),
	"portName":      set(asText, func(to *Service) *string { return &to.PortName }, "The name of its port."),
	"targetPort":    set(asText, func(to *Service) *string { return &to.TargetPort }, "The port of the pods, a number or a name."),
	"appProtocol":   set(asText, func(to *Service) *string { return &to.AppProtocol }, "The protocol of its port, as in Kubernetes."),
	"portDiscovery": set(asFlag, func(to *Service) *bool { return &to.PortDiscovery }, "Add all ports of the pods' containers.").or(false),
	"gateways":      set(asTexts, func(to *Service) *[]string { return &to.Gateways }, "Istio gateways for incoming traffic; `mesh` is traffic inside the mesh.").or("mesh"),
	"hosts":         set(asTexts, func(to *Service) *[]string { return &to.Hosts }, "Host names in addition to the Service's own."),
	"delegation":    set(asFlag, func(to *Service) *bool { return &to.Delegation }, "Create a VirtualService that another one delegates to.").or(false),
	"timeout":       set(asText, func(to *Service) *string { return &to.Timeout }, "How long a request may take, such as 15s."),
	"retries":       set(asObject, func(to *Service) *map[string]any { return &to.Retries }, "Retries of a request: an HTTPRetry."),
	"headers":       set(asObject, func(to *Service) *map[string]any { return &to.Headers }, "Headers to set, add or remove: Headers."),
	"match":         set(asList, func(to *Service) *[]any { return &to.Match }, "Which requests are routed: a list of HTTPMatchRequest."),
	"rewrite":       set(asObject, func(to *Service) *map[string]any { return &to.Rewrite }, "What requests are rewritten to: an HTTPRewrite."),
	"corsPolicy":    set(asObject, func(to *Service) *map[string]any { return &to.CorsPolicy }, "Allowed origins: a CorsPolicy."),
	"trafficPolicy": set(asObject, func(to *Service) *map[string]any { return &to.TrafficPolicy }, "Connection settings, in DestinationRules: a TrafficPolicy."),
	"apex":          inside(apexFields, func(to *Service) *Service { return to }, "Labels and annotations of the generated Service and VirtualService."),

	"primary":             ignored[Service]("there is no `-primary` Service"),
	"canary":              ignored[Service]("the `-canary` Service has the labels and annotations of the app's Service"),
	"headless":            ignored[Service]("a headless Service of the chart's stays as it is"),
	"backendTimeout":      ignored[Service]("it is of the Gateway API"),
	"trafficDistribution": ignored[Service]("a Service of the chart's stays as it is"),
	"unmanagedMetadata":   ignored[Service]("fields that others set on a generated object are left alone"),
	"meshName":            ignored[Service]("it is of App Mesh"),
	"backends":            unsupported[Service]("an App Mesh backend"),
	"gatewayRefs":         unsupported[Service]("a Gateway API gateway"),
	"mirror":              unsupported[Service]("traffic mirroring"),
}

var apexFields = fields[Service]{
	"labels":      set(asTextMap, func(to *Service) *map[string]string { return &to.Labels }, "Labels."),
	"annotations": set(asTextMap, func(to *Service) *map[string]string { return &to.Annotations }, "Annotations."),
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
		d.fail(at, "can't be combined with "+to.analysisAt.String(), "one of them")
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
		d.fail(at.key("query"), "can't be combined with templateRef", "one of them")
	case builtin != "" && md.ref != nil:
		d.fail(at.key("templateRef"), "can't be combined with the built-in check "+m.Name, "another name, or no templateRef")
	case builtin == "" && m.Query == "" && md.ref == nil:
		names := slices.Collect(maps.Keys(builtinMetrics))
		d.fail(at.key("name"), shown(m.Name)+" is not a built-in check and has no query", "a query, or "+nearestOf(m.Name, names))
	case builtin != "" && m.Query != "":
		d.fail(at.key("query"), "can't be combined with the built-in check "+m.Name, "another name, or no query")
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
		d.fail(at.key("thresholdRange"), "can't be combined with threshold", "one of them")
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
		d.fail(at, "requires a success rate above 100%, which never passes", "a percentage from 0 to 100")
	}
}
