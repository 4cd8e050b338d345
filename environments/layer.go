package environments

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// layer is what one place says of a policy.
type layer struct {
	// source names the place for people.
	source string
	// at leads to the policy in its document; table says how its fields are read.
	at    fieldPath
	table fields[draft]
	// place and locate say where a fault is.
	place  string
	locate func(fieldPath) (file string, line int)
	// instead is the key of sluice.yaml that answers for what can't be read here; empty: it need not be told.
	instead string
	// strategy that the layer asks for; empty: none. named: by the word strategy.
	strategy Strategy
	named    bool
	// switchAt is where it is switched off; nil: it is not.
	switchAt fieldPath
	// shared: made of the chart's own values and of those that the environment has given.
	shared bool
	given  map[string]any
	// value is the policy as it was written, own what was read of it alone, d what was wrong with it.
	value any
	own   draft
	d     decoder
}

// sections are the fields of a policy that are merged field by field themselves.
var sections = []string{"analysis", "service", "target"}

// otherNames are the fields of a policy that have two names.
var otherNames = map[string]string{"canaryAnalysis": "analysis", "targetRef": "target"}

// read reads the layer alone, for what is wrong with it.
func (l *layer) read(v any) {
	l.value = v
	decodeObject(&l.d, l.at, v, l.table, &l.own)
	if a := l.own.policy.Analysis; a.StepWeight > 0 && len(a.StepWeights) > 0 {
		l.d.fail(l.own.analysisAt.key("stepWeights"), "can't be combined with stepWeight", "one of them")
	}
}

// rolloutLayer is what a rollout: of sluice.yaml says. Steps ask for a canary where no strategy is named; any other
// field changes only itself. around is nil where the chart is not known.
func rolloutLayer(raw *RawPolicy, around *surroundings) (*layer, error) {
	v := raw.value
	if v == nil {
		if err := yaml.UnmarshalStrict(raw.YAML, &v); err != nil {
			return nil, yamlFault(raw.File, 1, err)
		}
		for _, key := range raw.Path {
			m, _ := v.(map[string]any)
			v = m[key]
		}
	}
	l := &layer{
		d:      decoder{around: around},
		source: raw.Where, at: fieldPath(raw.Path), table: rolloutFields, place: raw.File,
		locate: func(p fieldPath) (string, int) { return raw.File, lineOf(raw.YAML, p) },
	}
	l.read(v)
	l.strategy, l.named = l.own.strategy, l.own.strategy != ""
	if l.strategy == "" && len(l.own.policy.Steps()) > 0 {
		l.strategy = StrategyCanary
	}
	if l.strategy == StrategyRolling && l.own.analysisAt != nil {
		l.d.fail(l.own.analysisAt, "can't be combined with strategy Rolling, which has no analysis", "strategy Canary, or no analysis")
	}
	return l, nil
}

// checkRollout says what is wrong with a rollout: of sluice.yaml, whatever the other layers say.
func checkRollout(raw *RawPolicy) error {
	l, err := rolloutLayer(raw, nil)
	if err != nil {
		return err
	}
	return l.d.err(l.place, l.locate)
}

// field is the field of the policy that a path of the layer leads to, by its first name: "suspend", "analysis.interval".
func (l *layer) field(path fieldPath) string {
	if len(path) <= len(l.at) || !slices.Equal(path[:len(l.at)], l.at) {
		return path.String()
	}
	path = slices.Clone(path[len(l.at):])
	path[0] = cmp.Or(otherNames[path[0]], path[0])
	if len(path) > 1 && slices.Contains(sections, path[0]) {
		return path[:2].String()
	}
	return path[0]
}

// says lists the fields that the layer says, with the paths where.
func (l *layer) says() map[string]fieldPath {
	said := map[string]fieldPath{}
	m, _ := l.value.(map[string]any)
	for key, v := range m {
		at := l.at.key(key)
		section, ok := v.(map[string]any)
		if !ok || !slices.Contains(sections, l.field(at)) {
			if v != nil {
				said[l.field(at)] = at
			}
			continue
		}
		for inner, v := range section {
			if v != nil {
				said[l.field(at.key(inner))] = at.key(inner)
			}
		}
	}
	return said
}

// merge lays policies over each other, the last uppermost. What is wrong with a field counts unless a layer above says that
// field. A layer that names a strategy answers for the policy: what can't be read below is left out, and listed as ignored.
func merge(layers []*layer) (Policy, error) {
	var dr draft
	var sources, ignored []string
	strategy, analysis := Strategy(""), (*layer)(nil)
	for i, l := range layers {
		above := layers[i+1:]
		faults, left := l.standing(above)
		if len(faults) > 0 {
			d := decoder{faults: faults}
			err := d.err(l.place, l.locate)
			foreign := func(pf pathFault) bool {
				return len(pf.path) == len(l.at) || len(pf.path) == len(l.at)+1 && pf.fault.Problem == unknownField
			}
			if l.instead != "" && slices.ContainsFunc(faults, foreign) {
				err = fmt.Errorf("%w\nif %s means something else in this chart, set %s in sluice.yaml to Canary or Rolling: then it is ignored",
					err, l.at, l.instead)
			}
			return Policy{}, err
		}
		ignored = append(ignored, append(l.d.ignored, left...)...)
		sources = append(sources, l.source)
		strategy = cmp.Or(l.strategy, strategy)
		dr.analysisAt = nil // of the layer: two names for it are a fault in one place only
		decodeObject(&decoder{around: l.d.around}, l.at, l.value, l.table, &dr)
		if l.own.analysisAt != nil {
			analysis = l
		}
	}
	if strategy == "" {
		strategy = StrategyRolling
		if analysis != nil {
			strategy = StrategyCanary
		}
	}
	slices.Reverse(sources)
	dr.policy.Source = cmp.Or(strings.Join(sources, ", over "), defaultSource)
	dr.policy.Ignored = ignored
	return finish(dr.policy, strategy, analysis)
}

// standing are the faults of a layer that the layers above it leave standing, and the paths of those that they don't.
func (l *layer) standing(above []*layer) (faults []pathFault, left []string) {
	for _, pf := range l.d.faults {
		answered := slices.ContainsFunc(above, func(u *layer) bool {
			_, said := u.says()[l.field(pf.path)]
			return u.named || said
		})
		if answered {
			left = append(left, pf.path.String())
		} else {
			faults = append(faults, pf)
		}
	}
	return faults, left
}

// finish fills in the defaults and refuses what can't be done. analysis is the uppermost layer that has one; nil: none has.
func finish(p Policy, strategy Strategy, analysis *layer) (Policy, error) {
	p.Strategy = strategy
	p.ProgressDeadline = orDefault(p.ProgressDeadline, defaultProgressDeadline)
	a := &p.Analysis
	if strategy != StrategyCanary {
		// What a person has to approve is asked whatever the strategy.
		*a = Analysis{Approval: a.Approval, FourEyes: a.FourEyes}
		return p, nil
	}
	if analysis == nil {
		p.SkipAnalysis = true
	}
	a.Interval = orDefault(a.Interval, defaultInterval)
	a.Threshold = orDefault(a.Threshold, defaultThreshold)
	a.InconclusiveLimit = orDefault(a.InconclusiveLimit, defaultInconclusiveLimit)
	a.MaxWeight = orDefault(a.MaxWeight, defaultMaxWeight)
	if a.Metrics == nil && !p.SkipAnalysis {
		a.Metrics = builtIn(p.Provider, a.Interval)
	}
	if len(p.Steps()) == 0 && !p.SkipAnalysis {
		d := &decoder{}
		d.fail(analysis.own.analysisAt, "has no steps, so the canary would never advance", "stepWeight or stepWeights")
		return Policy{}, d.err(analysis.place, analysis.locate)
	}
	return p, nil
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
