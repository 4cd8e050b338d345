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
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/sluice-cd/sluice/render/lookup"
	"github.com/sluice-cd/sluice/render/mask"
	"github.com/sluice-cd/sluice/render/objects"
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
	// Peers are other apps of the umbrella that count for this one, or for the umbrella itself: their named templates, values and
	// what is imported of them. Their objects do not.
	Peers []Peer
	// Capabilities of the real cluster, which must not be changed afterwards; nil: Helm's defaults, as helm template
	// without a cluster has them. Where its APIVersions name kinds too ("apps/v1/Deployment"), they decide which API
	// versions are served; where they do not, those of a current Kubernetes are assumed.
	Capabilities *chartutil.Capabilities
	// Namespaced tells for kinds that are not built in whether their objects live in a namespace, and whether that
	// is known; nil: never known. CRDs of the release itself are considered first. A kind that nobody knows
	// is taken for a namespaced one.
	Namespaced func(schema.GroupVersionKind) (namespaced, known bool)
	// Lookup answers what templates ask of the cluster; nil: there is none, and they are told of nothing.
	Lookup lookup.Func
}

// Peer is another app of an umbrella chart.
type Peer struct {
	// Name is its alias, or the chart's name.
	Name  string
	Chart *Chart
	// Values that the environment gives it, and ImportValues of its dependency.
	Values       map[string]any
	ImportValues []any
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
	// Timeout of one rendering, after which its worker is killed; default 60 s.
	Timeout time.Duration
	// CPU time of one rendering, in whole seconds; default 10 s. The largest charts in use take one.
	CPU time.Duration
}

// Renderer renders releases and keeps them, by the digest of their input. It keeps what killed a worker as well.
type Renderer struct {
	workers  *workers
	releases *lru[*cachedRelease]
	deaths   *lru[error]
	died     atomic.Int64
	flights  singleflight.Group

	mu   sync.Mutex
	caps map[*chartutil.Capabilities]*capabilities // derived; a few, as a process serves few clusters
}

// cachedRelease is a release, with what it assumed about kinds that nobody knew.
type cachedRelease struct {
	release *release.Release
	guessed []schema.GroupVersionKind
}

// NewRenderer returns a Renderer. Templates run in processes of this same program, which has to call [BeWorker].
func NewRenderer(cfg RendererConfig) *Renderer {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 64 << 20
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.CPU <= 0 {
		cfg.CPU = 10 * time.Second
	}
	const deaths = 1000
	return &Renderer{
		workers: newWorkers(cfg), releases: newLRU[*cachedRelease](cfg.CacheBytes),
		deaths: newLRU[error](deaths), caps: map[*chartutil.Capabilities]*capabilities{},
	}
}

// Render renders a release, or returns it from the cache. An error means that the chart, with these values, can't be
// delivered to this cluster, and trying again does not help; or that there is no worker to be had.
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

// once renders overlapping equal inputs once.
func (r *Renderer) once(ctx context.Context, job *job) (*release.Release, error) {
	if death, ok := r.deaths.get(job.key); ok {
		return nil, death
	}
	done := r.flights.DoChan(job.key, func() (any, error) {
		// Whoever asks next for the same goes on waiting when the first has gone.
		return r.render(context.WithoutCancel(ctx), job)
	})
	select {
	case result := <-done:
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*release.Release), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Deaths is how many workers have died of what they were to render.
func (r *Renderer) Deaths() int64 { return r.died.Load() }

func (r *Renderer) render(ctx context.Context, job *job) (*release.Release, error) {
	t, err := job.task()
	if err != nil {
		return nil, err
	}
	asked := &inquiry{look: job.in.Lookup}
	a, err := r.workers.do(ctx, t, asked.answer)
	var death *DeathError
	if errors.As(err, &death) {
		r.deaths.put(job.key, err, 1)
		r.died.Add(1)
	}
	if err != nil {
		return nil, err
	}
	c, err := job.release(a, asked)
	if told := asked.secrets(); err != nil && len(told) > 0 {
		// What templates fail with may be what they were told.
		return nil, mask.New(mask.Source{Objects: told, Names: []string{job.in.ReleaseName, job.in.Namespace}}).Error(err)
	}
	if err != nil {
		return nil, err
	}
	if len(asked.questions) == 0 { // else the cluster may have another answer the next time
		r.releases.put(job.key, c, cost(c.release))
	}
	return c.release, nil
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
	Peers                              []saidPeer `json:",omitempty"`
}

type saidPeer struct {
	Name, Chart, Version string
	Values               map[string]any
	ImportValues         []any
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
	for _, p := range in.Peers {
		s.Peers = append(s.Peers, saidPeer{p.Name, p.Chart.Digest(), p.Chart.Version(), p.Values, p.ImportValues})
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("reading the values: %w", err)
	}
	j := &job{in: in, caps: r.capabilities(in.Capabilities), text: text, inputs: sha256Hex(text)}
	j.key = j.inputs + "/" + j.caps.digest
	return j, nil
}

// task is the job as a worker is given it.
func (j *job) task() (task, error) {
	chart, err := newSource(cloneForProcessing(j.in.Chart.root))
	if err != nil {
		return task{}, fmt.Errorf("chart %s: %w", j.in.Chart.Name(), err)
	}
	t := task{Said: j.text, Chart: chart, Bare: j.in.Umbrella == nil, Capabilities: j.caps.helm}
	if u := j.in.Umbrella; u != nil && u.Chart != nil {
		t.Helpers = u.Chart.helpers().files
	}
	for _, p := range j.in.Peers {
		peer, err := newSource(asPeer(p.Chart.root))
		if err != nil {
			return task{}, fmt.Errorf("chart %s: %w", p.Chart.Name(), err)
		}
		t.Peers = append(t.Peers, peer)
	}
	return t, nil
}

// release is what a worker's answer comes to, on this cluster.
func (j *job) release(a product, asked *inquiry) (*cachedRelease, error) {
	switch {
	case a.Fault != "" && a.NoTemplate:
		return nil, &NoTemplateError{a.Fault}
	case a.Fault != "":
		return nil, errors.New(a.Fault)
	}
	rel := &release.Release{
		Name: j.in.ReleaseName, Namespace: j.in.Namespace, Version: j.in.Chart.Version(), AppVersion: j.in.Chart.root.AppVersion(),
		ChartDigest: j.in.Chart.Digest(), Chart: j.in.Chart.root,
		CRDs: a.CRDs, Manifest: a.Manifest, Hooks: a.Hooks, Volatile: a.Volatile, Warnings: a.Warnings,
		Told: asked.secrets(),
	}
	if len(asked.questions) > 0 {
		rel.Volatile = append(rel.Volatile, lookupFunc)
	}
	all := make([]located, len(a.Objects))
	for i, o := range a.Objects {
		obj := &unstructured.Unstructured{}
		if err := utiljson.Unmarshal(o.JSON, &obj.Object); err != nil {
			return nil, fmt.Errorf("%s: %w", o.Doc, err)
		}
		if i < a.Definitions {
			objects.MarkCRD(obj, objects.CRDsCreate)
		}
		all[i] = located{obj, o.Doc}
		rel.Objects = append(rel.Objects, obj)
	}
	guessed := newScopes(all, j.in.Namespaced).place(all, rel.Namespace)
	if err := checkDuplicates(all); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(a.Values, &rel.Values); err != nil {
		return nil, fmt.Errorf("reading the values: %w", err)
	}
	var s said
	if err := json.Unmarshal(j.text, &s); err != nil {
		return nil, fmt.Errorf("reading the values: %w", err)
	}
	rel.Config = config(&s)
	foreign, err := asked.foreign()
	if err != nil {
		return nil, fmt.Errorf("reading what was looked up: %w", err)
	}
	rel.Digest = j.digest(rel, foreign)
	rel.Warnings = slices.Concat(rel.Warnings, j.warnings(a.Volatile), asked.warnings(), objects.Twice(rel.Objects))
	return &cachedRelease{release: rel, guessed: guessed}, nil
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

// lookupFunc is what a release is volatile by whose templates have asked the cluster.
const lookupFunc = "lookup"

// digest identifies a release, which depends on foreign objects as far as its templates were told of any.
func (j *job) digest(r *release.Release, foreign []byte) string {
	h := sha256.New()
	fields := []string{r.Version, r.Name, r.Namespace, r.CRDs, r.Manifest}
	if len(r.Volatile) > 0 {
		fields = []string{r.Version, j.inputs}
	}
	if len(foreign) > 0 {
		fields = append(fields, string(foreign))
	}
	for _, f := range fields {
		writeField(h, []byte(f))
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (j *job) warnings(volatile []string) []string {
	var w []string
	if len(volatile) > 0 {
		w = append(w, fmt.Sprintf("templates of chart %s use %s: their text differs each time they are rendered",
			j.in.Chart.Name(), strings.Join(volatile, ", ")))
	}
	if j.in.Chart.root.Metadata.Deprecated {
		w = append(w, fmt.Sprintf("chart %s is deprecated", j.in.Chart.Name()))
	}
	return w
}
