package charts

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/render/release"
)

// unmade warns of Secrets that pods need, nothing of the release makes, and a hook would: hooks are not run. One that says the
// Secret's name goes before any other that runs something beforehand.
func unmade(rel *release.Release) (warnings []string) {
	for _, k := range project.Unmade(rel.Objects) {
		i := slices.IndexFunc(rel.Hooks, func(h release.Hook) bool { return strings.Contains(h.Manifest, k.Name) && beforehand(h) })
		if i < 0 {
			i = slices.IndexFunc(rel.Hooks, beforehand)
		}
		if i < 0 {
			continue // somebody else makes it; whether he has, the pods tell
		}
		h := rel.Hooks[i]
		warnings = append(warnings, fmt.Sprintf("pods need Secret %s, which nothing of the release makes but perhaps its hook %s %s (%s), which is not run; "+
			"expected the Secret to be there, or in the chart", k.Name, h.Kind, h.Name, strings.Join(h.Events, ", ")))
	}
	return warnings
}

func beforehand(h release.Hook) bool {
	return slices.ContainsFunc(h.Events, func(e string) bool { return strings.HasSuffix(e, "-install") || strings.HasSuffix(e, "-upgrade") })
}
