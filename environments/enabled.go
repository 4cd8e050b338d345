package environments

import "strings"

// A Switch is what decides whether Helm renders a dependency when the environment leaves that to the chart: a condition
// counts where the chart's own default values set it, too. The zero Switch is on.
type Switch struct {
	// Conditions are paths, each an app's name and what follows in the default values of that app's chart, in order; the first that
	// leads to a boolean decides.
	Conditions []Condition
	// Off is what holds when none does.
	Off bool
}

// A Condition is a path in the default values of an app's chart.
type Condition struct{ App, Path string }

// On says whether the dependency is rendered, where defaults are those of an app's chart.
func (s Switch) On(defaults func(app string) map[string]any) bool {
	for _, condition := range s.Conditions {
		v, _ := lookUp(defaults(condition.App), strings.Split(condition.Path, "."))
		if b, isBool := v.(bool); isBool {
			return b
		}
	}
	return !s.Off
}

// switchOf says how Helm would decide to render a dependency: by its tags first, then by the first of its conditions that
// leads to a boolean, in the environment's values or in the default ones of an app's chart.
func switchOf(d *dependency, isApp func(name string) bool, value func(path string) (v any, known bool), tags map[string]any) Switch {
	s := Switch{Off: !enabledByTags(d.tags, tags)}
	if d.condition == "" {
		return s
	}
	for _, condition := range strings.Split(strings.TrimSpace(d.condition), ",") {
		if condition == "" {
			continue
		}
		v, known := value(condition)
		if b, isBool := v.(bool); isBool {
			s.Off = !b
			return s
		}
		if app, path, ok := strings.Cut(condition, "."); ok && !known && isApp(app) {
			s.Conditions = append(s.Conditions, Condition{app, path})
		}
	}
	return s
}

// enabledByTags is off when some tag of the dependency is off and none is on.
func enabledByTags(names []string, tags map[string]any) bool {
	off := false
	for _, name := range names {
		if b, ok := tags[name].(bool); ok {
			if b {
				return true
			}
			off = true
		}
	}
	return !off
}
