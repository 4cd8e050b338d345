package environments

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// Field is one field of a policy: its value, and the place that said it.
type Field struct {
	// Name as a policy spells it, such as "analysis.interval".
	Name string `json:"field"`
	// Value as YAML's flow style would have it.
	Value string `json:"value"`
	// Source names the place as [Policy].Source does, or as "values of chart web" where the environment gives none; "default" where
	// nobody said it. File and Line are where it stands; a chart's own files are not known by line.
	Source string `json:"source"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
}

const defaultSource = "default"

// Explain lists the fields of an app's policy that have a value, the strategy first, and which place said each. It takes what
// [ResolvePolicy] takes.
func Explain(env *Environment, app *App, chart Said) ([]Field, error) {
	layers, err := layersOf(env, app, chart)
	if err != nil {
		return nil, err
	}
	policy, err := merge(layers)
	if err != nil {
		return nil, err
	}
	values, err := policy.fields()
	if err != nil {
		return nil, err
	}
	slices.Reverse(layers)
	list := []Field{strategyField(policy, layers)}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		list = append(list, saidBy(name, values[name], layers))
	}
	return list, nil
}

// saidBy finds who said a field, the uppermost layer first.
func saidBy(name, value string, layers []*layer) Field {
	for _, l := range layers {
		if at, ok := l.says()[spelled(name)]; ok {
			return l.explain(name, value, at)
		}
	}
	return Field{Name: name, Value: value, Source: defaultSource}
}

// strategyField says which layer decided whether there is a canary.
func strategyField(p Policy, layers []*layer) Field {
	for _, l := range layers {
		if l.strategy != "" {
			return l.explain("strategy", string(p.Strategy), l.strategyAt())
		}
	}
	for _, l := range layers {
		if l.own.analysisAt != nil && p.Strategy == StrategyCanary {
			return l.explain("strategy", string(p.Strategy), l.own.analysisAt)
		}
	}
	return Field{Name: "strategy", Value: string(p.Strategy), Source: defaultSource}
}

// strategyAt is what of a layer says the strategy: a word, a switch, steps, or that the layer is there.
func (l *layer) strategyAt() fieldPath {
	if l.switchAt != nil {
		return l.switchAt
	}
	said := l.says()
	for _, name := range []string{"strategy", "enable", "enabled", "analysis.stepWeights", "analysis.stepWeight"} {
		if at, ok := said[name]; ok {
			return at
		}
	}
	return l.at
}

func (l *layer) explain(name, value string, at fieldPath) Field {
	f := Field{Name: name, Value: value, Source: l.source}
	switch {
	case l.shared && !holds(l.given, at):
		f.Source = l.place // its own, and the line of what stands around it in the environment would mislead
	case l.locate != nil:
		f.File, f.Line = l.locate(at)
	}
	return f
}

// holds reports whether values have all the keys of a path.
func holds(values map[string]any, at fieldPath) bool {
	v := any(values)
	for _, key := range at {
		m, _ := v.(map[string]any)
		if v = m[key]; v == nil {
			return false
		}
	}
	return true
}

// spelled is how a layer says a field that a Policy has under another name.
func spelled(name string) string {
	if name == "service.labels" || name == "service.annotations" {
		return "service.apex"
	}
	return name
}

// fields are those of a policy that have a value, by name, without the strategy.
func (p Policy) fields() (map[string]string, error) {
	a := p.Analysis
	if len(a.StepWeights) > 0 {
		p.Analysis.StepWeight = 0 // of a layer below; stepWeights go before it
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	for _, key := range []string{"source", "strategy", "ignored", "progressDeadline", "rollbackWindow"} {
		delete(document, key)
	}
	setDuration(document, "progressDeadlineSeconds", p.ProgressDeadline)
	setDuration(document, "rollbackWindow", p.RollbackWindow)
	if analysis, ok := document["analysis"].(map[string]any); ok {
		setDuration(analysis, "interval", a.Interval)
		analysis["webhooks"] = tellable(a.Webhooks)
		metrics, _ := analysis["metrics"].([]any)
		for i, m := range metrics {
			if m, ok := m.(map[string]any); ok {
				setDuration(m, "interval", a.Metrics[i].Interval)
			}
		}
	}
	values := map[string]string{}
	for key, v := range document {
		section, ok := v.(map[string]any)
		if !ok || !slices.Contains(sections, key) {
			section, key = map[string]any{key: v}, ""
		}
		for inner, v := range section {
			if !isOff(v) {
				values[strings.TrimPrefix(key+"."+inner, ".")] = flow(v)
			}
		}
	}
	return values, nil
}

func setDuration(in map[string]any, key string, d time.Duration) {
	delete(in, key)
	if d > 0 {
		in[key] = d.String()
	}
}

// flow writes a value on one line.
func flow(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // queries compare numbers
	if err := enc.Encode(v); err != nil {
		return kindOf(v)
	}
	return strings.TrimSpace(b.String())
}
