package render

import (
	"fmt"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
)

// crocHunter is the app of the Jenkins X fixture in its environment.
func crocHunter(b *testing.B) Input {
	f := readFixture(b, "testdata/parity/jenkins-x.txtar")
	return Input{
		ReleaseName: "jx", Namespace: "jx-production", Umbrella: &Umbrella{Name: "env", Version: "0.0.1"},
		Chart:  load(b, newTestFetcher(b, FetcherConfig{}), f.fsys, "env/charts/croc-hunter-java", false),
		Values: map[string]any{"canary": map[string]any{"enable": true}},
	}
}

func BenchmarkRenderCached(b *testing.B) {
	in, r := crocHunter(b), NewRenderer(RendererConfig{})
	caps := chartutil.DefaultCapabilities.Copy()
	for i := range 600 {
		caps.APIVersions = append(caps.APIVersions, fmt.Sprintf("group%d.example.com/v1/Kind", i))
	}
	caps.APIVersions = append(caps.APIVersions, "apps/v1/Deployment")
	in.Capabilities = caps
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Render(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRenderSmallChart(b *testing.B) {
	in, r := crocHunter(b), NewRenderer(RendererConfig{CacheBytes: -1})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Render(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkThousandAppsOfOneChart reports the memory that the releases of 1,000 apps take.
func BenchmarkThousandAppsOfOneChart(b *testing.B) {
	in := crocHunter(b)
	b.ReportAllocs()
	for b.Loop() {
		r := NewRenderer(RendererConfig{})
		for i := range 1000 {
			in.Alias = fmt.Sprintf("app-%d", i)
			if _, err := r.Render(b.Context(), in); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(r.releases.byKey)), "kept")
	}
}

func BenchmarkFetchPinned(b *testing.B) {
	repo := newChartRepo(b)
	repo.publish("app", "1.0.0", simpleChart(b, "app", "1.0.0", "x"))
	f := newTestFetcher(b, FetcherConfig{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Fetch(b.Context(), repo.ref("1.0.0")); err != nil {
			b.Fatal(err)
		}
	}
}
