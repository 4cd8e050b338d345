package environments

import "strings"

// enabled says whether Helm would render a dependency: its tags first, then the first of its conditions that leads
// to a boolean. What the charts' own values say is not seen here; without a word from the environment an app is on.
func enabled(d *dependency, value func(path string) (any, bool), tags map[string]any) bool {
	on := enabledByTags(d.tags, tags)
	if d.condition == "" {
		return on
	}
	for _, condition := range strings.Split(strings.TrimSpace(d.condition), ",") {
		if condition == "" {
			continue
		}
		if v, found := value(condition); found {
			if b, isBool := v.(bool); isBool {
				return b
			}
		}
	}
	return on
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
