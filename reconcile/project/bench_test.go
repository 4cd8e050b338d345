package project

import (
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// BenchmarkProject projects a typical app (policies.txtar: 14 objects, a canary with 12).
func BenchmarkProject(b *testing.B) {
	archive, err := txtar.ParseFile("testdata/policies.txtar")
	if err != nil {
		b.Fatal(err)
	}
	in := input(b, archive)
	for name, state := range map[string]rollout.State{
		"rest":   {},
		"canary": {Phase: rollout.Analyzing, Exposure: rollout.Exposure{Weight: 10}},
	} {
		in.State = state
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Project(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCompare(b *testing.B) {
	from, to := parse(b, compared), parse(b, compared)
	b.ReportAllocs()
	for b.Loop() {
		Compare(from, to)
	}
}
