package render

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/render/release"
)

// Input is everything that a release depends on.
type Input struct {
	// ReleaseName and Namespace of the Helm release. Required.
	ReleaseName, Namespace string
	// Chart to render. Required.
	Chart *Chart
	// Values that the environment gives the chart: the app's subtree, without globals where there is an Umbrella.
	Values map[string]any
	// Umbrella is the chart whose dependency Chart is; nil renders Chart on its own, as helm template does with
	// Values in a file.
	Umbrella *Umbrella
	// Alias and ImportValues of the dependency, as Helm spells them. Only with an Umbrella.
	Alias        string
	ImportValues []any
	// Capabilities of the real cluster, which must not be changed afterwards; nil: Helm's defaults, as helm template
	// without a cluster has them. Where its APIVersions name kinds too ("apps/v1/Deployment"), they decide which API
	// versions are served; where they do not, those of a current Kubernetes are assumed.
	Capabilities *chartutil.Capabilities
	// Namespaced tells for kinds that are not built in whether their objects live in a namespace, and whether that
	// is known; nil: never known. CRDs of the release itself are considered first. A kind that nobody knows
	// is taken for a namespaced one.
	Namespaced func(schema.GroupVersionKind) (namespaced, known bool)
}

// Umbrella is the environment's own chart around an app. Conditions and tags of the app itself are the caller's
// business; those of the app's own dependencies are decided here, with these values.
type Umbrella struct {
	// Name and Version of the umbrella chart.
	Name, Version string
	// Globals are what the umbrella's values have under global.
	Globals map[string]any
	// Values are the umbrella's other values. The values of other apps have no effect on this one and may be left out,
	// so that the price of a render does not grow with the number of apps.
	Values map[string]any
	// Chart is the umbrella chart, of which only templates count; nil when it has no named templates that apps may
	// include. Its own objects are an app of their own: load it bare and render it as Chart, without an Umbrella.
	Chart *Chart
}

// RendererConfig configures a Renderer; the zero value is usable.
type RendererConfig struct {
	// CacheBytes bounds the memory for releases that are kept; default 64 MiB, negative: none are kept.
	CacheBytes int64
	// Timeout of one rendering; default 60 s. Templates can't be interrupted: what takes longer goes on, once for each
	// input, but nobody waits for it.
	Timeout time.Duration
}

// Renderer renders releases and keeps them, by the digest of their input.
type Renderer struct {
	timeout  time.Duration
	releases *lru[*cachedRelease]
	flights  singleflight.Group

	mu   sync.Mutex
	caps map[*chartutil.Capabilities]*capabilities // derived; a few, as a process serves few clusters
}

// cachedRelease is a release, with what it assumed about kinds that nobody knew.
type cachedRelease struct {
	release *release.Release
	guessed []schema.GroupVersionKind
}

// NewRenderer returns a Renderer.
func NewRenderer(cfg RendererConfig) *Renderer {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 64 << 20
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Minute
	}
	return &Renderer{
		timeout: cfg.Timeout, releases: newLRU[*cachedRelease](cfg.CacheBytes), caps: map[*chartutil.Capabilities]*capabilities{},
	}
}

// Render renders a release, or returns it from the cache. An error means that the chart, with these values, can't be
// delivered to this cluster; trying again does not help.
func (r *Renderer) Render(ctx context.Context, in Input) (*release.Release, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	job, err := r.prepare(in)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", in.name(), err)
	}
	if hit, ok := r.releases.get(job.key); ok && !hit.outdated(in) {
		return hit.release, nil
	}
	release, err := r.once(ctx, job)
	if err != nil {
		return nil, fmt.Errorf("rendering %s: %w", in.name(), err)
	}
	return release, nil
}

// once renders overlapping equal inputs once, and waits no longer than the timeout.
func (r *Renderer) once(ctx context.Context, job *job) (*release.Release, error) {
	done := r.flights.DoChan(job.key, func() (any, error) {
		c, err := job.render()
		if err != nil {
			return nil, err
		}
		r.releases.put(job.key, c, cost(c.release))
		return c.release, nil
	})
	waiting, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	select {
	case result := <-done:
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*release.Release), nil
	case <-waiting.Done():
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("the templates did not come to an end in %s", r.timeout)
}

func (in Input) name() string {
	if in.Chart == nil {
		return in.ReleaseName
	}
	return fmt.Sprintf("%s (chart %s %s)", in.app(), in.Chart.Name(), in.Chart.Version())
}

// app is the key of the app's values in the umbrella's.
func (in Input) app() string {
	if in.Alias != "" {
		return in.Alias
	}
	return in.Chart.Name()
}

// outdated reports whether the cluster has learned of a kind since, and it is not what was assumed.
func (c *cachedRelease) outdated(in Input) bool {
	return in.Namespaced != nil && slices.ContainsFunc(c.guessed, func(gvk schema.GroupVersionKind) bool {
		namespaced, known := in.Namespaced(gvk)
		return known && !namespaced
	})
}

// cost estimates the memory of a release: decoded objects take several times their text. The chart is shared.
func cost(r *release.Release) int64 {
	return int64(8*(len(r.Manifest)+len(r.CRDs)) + 4096)
}

// job is one input, checked.
type job struct {
	in   Input
	caps *capabilities
	// text is said in JSON, and inputs its digest; key covers the cluster's capabilities too.
	text        []byte
	inputs, key string
}

// said is all of an Input that people can change.
type said struct {
	ReleaseName, Namespace, Alias      string
	Chart, Version                     string
	Umbrella, UmbrellaVersion, Helpers string
	Values, Globals, UmbrellaValues    map[string]any
	ImportValues                       []any
}

func (r *Renderer) prepare(in Input) (*job, error) {
	switch {
	case in.Chart == nil:
		return nil, errors.New("no chart given")
	case in.Umbrella == nil && (in.Alias != "" || len(in.ImportValues) > 0):
		return nil, errors.New("alias and import-values need an umbrella chart")
	}
	if err := chartutil.ValidateReleaseName(in.ReleaseName); err != nil {
		return nil, fmt.Errorf("release name %s: %w", quote(in.ReleaseName), err)
	}
	s := said{
		ReleaseName: in.ReleaseName, Namespace: in.Namespace, Alias: in.Alias,
		Chart: in.Chart.Digest(), Version: in.Chart.Version(), Values: in.Values, ImportValues: in.ImportValues,
	}
	if u := in.Umbrella; u != nil {
		s.Umbrella, s.UmbrellaVersion, s.Globals, s.UmbrellaValues = u.Name, u.Version, u.Globals, u.Values
		if u.Chart != nil {
			s.Helpers = u.Chart.helpers().digest
		}
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("reading the values: %w", err)
	}
	j := &job{in: in, caps: r.capabilities(in.Capabilities), text: text, inputs: sha256Hex(text)}
	j.key = j.inputs + "/" + j.caps.digest
	return j, nil
}

// render does the work. A chart that brings Helm's code to panic is an error like any other.
func (j *job) render() (out *cachedRelease, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, fmt.Errorf("Helm panicked: %v", r)
		}
	}()
	var s said
	// By way of JSON values are copied, and numbers become what they are for Helm, which reads values as JSON:
	// a template prints 1000000 as 1e+06.
	if err := json.Unmarshal(j.text, &s); err != nil {
		return nil, fmt.Errorf("reading the values: %w", err)
	}
	root, values, err := j.compose(&s)
	if err != nil {
		return nil, err
	}
	release := &release.Release{
		Name: s.ReleaseName, Namespace: s.Namespace, Version: s.Version, AppVersion: j.in.Chart.root.AppVersion(),
		ChartDigest: s.Chart, Chart: j.in.Chart.root, Config: config(&s), Volatile: j.volatile(&s),
	}
	files, err := j.execute(root, values, release)
	if err != nil {
		return nil, err
	}
	guessed, err := j.decode(files, release)
	if err != nil {
		return nil, err
	}
	release.Digest = j.digest(release)
	release.Warnings = append(release.Warnings, j.warnings(release)...)
	return &cachedRelease{release: release, guessed: guessed}, nil
}

// config is what the environment set for the app.
func config(s *said) map[string]any {
	c := maps.Clone(s.Values)
	if c == nil {
		c = map[string]any{}
	}
	if _, own := c[chartutil.GlobalKey]; !own && len(s.Globals) > 0 {
		c[chartutil.GlobalKey] = s.Globals
	}
	return c
}

func (j *job) volatile(s *said) []string {
	found := map[string]bool{}
	for _, name := range j.in.Chart.volatile() {
		found[name] = true
	}
	if u := j.in.Umbrella; u != nil && u.Chart != nil {
		for _, t := range u.Chart.helpers().files {
			findVolatile(string(t.Data), found)
		}
	}
	for _, v := range []map[string]any{s.Values, s.Globals} {
		findVolatileInValues(v, found)
	}
	return slices.Sorted(maps.Keys(found))
}

func (j *job) digest(r *release.Release) string {
	h := sha256.New()
	fields := []string{r.Version, r.CRDs, r.Manifest}
	if len(r.Volatile) > 0 {
		fields = []string{r.Version, j.inputs}
	}
	for _, f := range fields {
		writeField(h, []byte(f))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (j *job) warnings(r *release.Release) []string {
	var w []string
	if len(r.Volatile) > 0 {
		w = append(w, fmt.Sprintf("templates of chart %s use %s: their text differs each time they are rendered",
			j.in.Chart.Name(), strings.Join(r.Volatile, ", ")))
	}
	if j.in.Chart.root.Metadata.Deprecated {
		w = append(w, fmt.Sprintf("chart %s is deprecated", j.in.Chart.Name()))
	}
	return w
}
