package environments

import "strings"

// A Switch is what decides whether Helm renders a dependency when the environment leaves that to the chart: a condition
// counts where the chart's own default values set it, too. The zero Switch is on.
type Switch struct {
	// Conditions are paths in the chart's default values, in order; the first that leads to a boolean decides.
	Conditions []string
	// Off is what holds when none does.
	Off bool
}

// On says whether a chart with these default values is rendered.
func (s Switch) On(defaults map[string]any) bool {
	for _, condition := range s.Conditions {
		v, _ := lookUp(defaults, strings.Split(condition, "."))
		if b, isBool := v.(bool); isBool {
			return b
		}
	}
	return !s.Off
}

// switchOf says how Helm would decide to render a dependency: by its tags first, then by the first of its conditions that
// leads to a boolean, in the environment's values or in the chart's own. Those of other charts are not looked at.
func switchOf(d *dependency, value func(path string) (v any, known bool), tags map[string]any) Switch {
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
		if own, ok := strings.CutPrefix(condition, d.appName()+"."); ok && !known {
			s.Conditions = append(s.Conditions, own)
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
