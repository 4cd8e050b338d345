package cluster

import (
	"slices"
	"testing"
)

// None of the agent's own rights lets it have others, or do anything to a kind that it has no business with.
func TestRightsAreFew(t *testing.T) {
	reads := []string{"get", "list", "watch"}
	for _, r := range Rights() {
		if r.Resource == "" || r.Resource == "*" || r.Group == "*" || r.Why == "" || len(r.Verbs) == 0 {
			t.Errorf("%+v says too little", r)
		}
		ours := r.Resource == "secrets" || r.Resource == "leases"
		for _, verb := range r.Verbs {
			if !slices.Contains(reads, verb) && !(ours && slices.Contains([]string{"create", "update", "patch", "delete"}, verb)) {
				t.Errorf("the agent asks for the right to %s %s", verb, r)
			}
		}
	}
}
