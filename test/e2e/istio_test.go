package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/manifest"
	"github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// TestRoutingAsIstioHasIt: what a real istiod tells sidecars, gateways and clients without a proxy has, in every state of a rollout,
// the shares that the State says, on each route as it is at rest; nothing that gets a share is without endpoints; and Istio's
// analyzers say nothing that they would not say of the chart alone. The files of testdata/istio say which proxies a form of chart does
// not reach, and what the analyzers say; everything else is what is expected of all.
func TestRoutingAsIstioHasIt(t *testing.T) {
	t.Parallel()
	b := bedtest.Need(t, shared)
	namespace(t, b, "istio-system")
	istiod, err := b.StartIstiod(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = istiod.Close() })
	files, err := filepath.Glob("testdata/istio/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			newMesh(t, b, istiod, file).walk()
		})
	}
}

// lookPause is the time between two looks.
const lookPause = 300 * time.Millisecond

// lastingAsks is how often in a row an answer has to come that is no passing one.
const lastingAsks = 3

// mesh is one app in a namespace of its own, whose projection is applied state by state, without an agent.
type mesh struct {
	testing.TB
	bed       *bed.Bed
	istiod    *bed.Istiod
	dyn       dynamic.Interface
	mapper    meta.RESTMapper
	namespace string
	in        project.Input
	// before is the policy of the release that serves.
	before rollout.Plan
	// beside is what is there besides the app.
	beside []*unstructured.Unstructured
	// unshared are the proxies that the app's routing is not for; says are codes of what the analyzers say.
	unshared, says []string
	// gap are the proxies whose routes have to name a port that goes at promotion.
	gap []string
	// held are the objects that were applied.
	held map[objects.Key]*unstructured.Unstructured
}

func namespace(t testing.TB, b *bed.Bed, name string) {
	t.Helper()
	_, err := kubernetes.NewForConfigOrDie(b.REST()).CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

func newMesh(t testing.TB, b *bed.Bed, istiod *bed.Istiod, file string) *mesh {
	t.Helper()
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{
		TB: t, bed: b, istiod: istiod, dyn: dynamic.NewForConfigOrDie(b.REST()), held: map[objects.Key]*unstructured.Unstructured{},
		mapper:    restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discovery.NewDiscoveryClientForConfigOrDie(b.REST()))),
		namespace: "istio-" + strings.TrimSuffix(filepath.Base(file), ".txtar"),
	}
	namespace(t, b, m.namespace)
	// Long enough to be seen: what leads to pods that are not ready yet leads nowhere.
	b.Behaviours.Set(m.namespace+":2", behaviour.Behaviour{LatencyMillis: behaviour.DefaultLatencyMillis, Ready: behaviour.ReadySlowly, ReadyAfterSeconds: 3})
	m.in = project.Input{App: "web", Namespace: m.namespace, Plan: rollout.Plan{Strategy: environments.StrategyCanary}}
	for _, f := range archive.Files {
		text := bytes.ReplaceAll(f.Data, []byte("$NAMESPACE"), []byte(m.namespace))
		switch f.Name {
		case "stable.yaml":
			m.in.Stable = m.parse(text)
		case "canary.yaml":
			m.in.Target = m.parse(text)
		case "beside.yaml":
			m.beside = m.parse(text)
		case "policy.yaml":
			m.must(yaml.UnmarshalStrict(text, &m.in.Plan))
		case "policy-before.yaml":
			m.before = rollout.Plan{Strategy: environments.StrategyCanary}
			m.must(yaml.UnmarshalStrict(text, &m.before))
		case "unshared":
			m.unshared = strings.Fields(string(text))
		case "gap":
			m.gap = strings.Fields(string(text))
		case "says":
			m.says = strings.Fields(string(text))
		default:
			t.Fatalf("%s: what is section %s for?", file, f.Name)
		}
	}
	if m.before.Strategy == "" {
		m.before = m.in.Plan
	}
	return m
}

func (m *mesh) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *mesh) parse(text []byte) []*unstructured.Unstructured {
	m.Helper()
	objs, err := manifest.Parse(string(text))
	m.must(err)
	for _, o := range objs {
		if o.GetNamespace() == "" {
			o.SetNamespace(m.namespace)
		}
	}
	return objs
}

// walk goes through a rollout that is promoted, and one that goes back.
func (m *mesh) walk() {
	m.apply(m.beside, true)
	rest := rollout.State{Phase: rollout.Idle}
	swapped := m.in
	swapped.Stable, swapped.Target = m.in.Target, nil
	after := m.at("the new release at rest", swapped, rest, nil)
	served := m.in
	served.Plan = m.before
	before := m.at("at rest", served, rest, nil)
	weight := func(p rollout.Phase, w int) rollout.State {
		return rollout.State{Phase: p, Exposure: rollout.Exposure{Weight: w}, StablePlan: &m.before}
	}
	m.at("Starting", m.in, weight(rollout.Starting, 0), before)
	m.at("Analyzing 10", m.in, weight(rollout.Analyzing, 10), before)
	m.at("RollingBack", m.in, weight(rollout.RollingBack, 0), before)
	m.at("rolled back", served, rest, before)
	m.at("again Starting", m.in, weight(rollout.Starting, 0), before)
	m.at("Analyzing 50", m.in, weight(rollout.Analyzing, 50), before)
	m.at("Promoting 50", m.in, weight(rollout.Promoting, 50), after)
	m.at("Draining", m.in, weight(rollout.Draining, 0), after)
	m.at("promoted", swapped, rest, after)
}

// proxies are who is asked.
func (m *mesh) proxies() map[string]bed.Proxy {
	return map[string]bed.Proxy{
		"sidecar":   {Kind: "sidecar", Namespace: m.namespace},
		"elsewhere": {Kind: "sidecar", Namespace: "default"},
		"gateway":   {Kind: "router", Namespace: "istio-system", Labels: map[string]string{"istio": "ingressgateway"}},
		"grpc":      {Kind: "grpc", Namespace: m.namespace, Listeners: []string{"web." + m.namespace + ".svc.cluster.local:80"}},
	}
}

// at applies a state, and holds what Istio tells against what it told at rest; nil: this is a rest, and what it tells is returned.
func (m *mesh) at(name string, in project.Input, s rollout.State, rest map[string]*bed.Told) map[string]*bed.Told {
	m.Helper()
	in.State = s
	d, err := project.Project(in)
	m.must(err)
	desired := slices.Concat(d.Stable, d.Canary, d.Routing)
	if s.Phase == rollout.Promoting {
		m.apply(slices.Concat(d.Stable, d.Canary), true)
		m.between(name)
	}
	m.apply(desired, false)
	var told map[string]*bed.Told
	deadline := time.Now().Add(patience)
	nowhere := map[string]int{}
	for {
		wrong := m.unready(slices.Concat(d.StableWorkloads, d.CanaryWorkloads, d.Outgoing))
		var err error
		if told, err = m.istiod.Told(context.Background(), m.proxies()); err != nil {
			wrong = append(wrong, err.Error()) // it changes while it is asked
		}
		for _, who := range slices.Sorted(maps.Keys(told)) {
			t := told[who]
			m.own(t)
			faults := unserved(t)
			for _, fault := range faults {
				wrong = append(wrong, who+": "+fault)
			}
			// Istio hears of one object after the other; what it still says when it is asked again and again is so.
			if nowhere[who]++; len(faults) == 0 {
				nowhere[who] = 0
			}
			if nowhere[who] == lastingAsks && s.Phase != rollout.Idle {
				m.Errorf("%s, while pods start: users are led nowhere: %s: %s", name, who, strings.Join(faults, "; "))
			}
			if rest != nil {
				share := s.Weight
				if slices.Contains(m.unshared, who) {
					share = 0
				}
				for _, fault := range m.compare(rest[who], t, share) {
					wrong = append(wrong, who+": "+fault)
				}
			}
		}
		if len(wrong) == 0 {
			break
		}
		if time.Now().After(deadline) {
			m.Fatalf("%s: Istio does not say so:\n  %s", name, strings.Join(wrong, "\n  "))
		}
		<-time.After(lookPause)
	}
	m.analyzed(name, in, desired)
	return told
}

// between asks while the routes are not applied yet, and Services and pods are: whoever stops there must leave nobody without an answer.
func (m *mesh) between(name string) {
	m.Helper()
	good, bad := map[string]int{}, map[string]int{}
	settled := func(who string) bool { return good[who] >= lastingAsks || bad[who] >= lastingAsks }
	for deadline := time.Now().Add(patience); ; {
		<-time.After(lookPause)
		told, err := m.istiod.Told(context.Background(), m.proxies())
		for who, t := range told {
			m.own(t)
			faults := unserved(t)
			switch {
			case settled(who):
			case len(faults) == 0 || slices.Contains(m.gap, who):
				good[who], bad[who] = good[who]+1, 0
			default:
				if good[who], bad[who] = 0, bad[who]+1; settled(who) {
					m.Errorf("%s, before the routes are applied: users are led nowhere: %s: %s", name, who, strings.Join(faults, "; "))
				}
			}
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(m.proxies())), func(who string) bool { return !settled(who) }) {
			return
		}
		if time.Now().After(deadline) {
			m.Fatalf("%s, before the routes are applied: Istio says something else each time; the last time: %v, %v", name, told, err)
		}
	}
}

// own leaves of what a proxy is told what leads to the app, or did.
func (m *mesh) own(t *bed.Told) {
	t.Routes = slices.DeleteFunc(t.Routes, func(r bed.ProxyRoute) bool {
		for name := range r.Shares {
			if strings.Contains(name, "."+m.namespace+".svc.") {
				return false
			}
		}
		return !strings.Contains(r.At, m.namespace)
	})
	for i := range t.Routes {
		// Istio spells out what holds anyway, where a match says nothing of paths.
		t.Routes[i].Match = strings.ReplaceAll(t.Routes[i].Match, "  case_sensitive:{value:true}", "")
	}
}

// canarysOwn: the canary's own name and address lead nobody there who was not told to use them. Routes that are shared name both
// tracks, whatever their weights.
func canarysOwn(r bed.ProxyRoute) bool {
	for name := range r.Shares {
		service, _, _ := strings.Cut(hostOf(name), ".")
		return len(r.Shares) == 1 && strings.HasSuffix(service, "-canary")
	}
	return strings.Contains(r.At, "-canary.")
}

// unserved finds what gets a share and has no endpoints.
func unserved(t *bed.Told) (faults []string) {
	for _, r := range t.Routes {
		for name, share := range r.Shares {
			addresses, exists := t.Clusters[name]
			switch {
			case share == 0 || canarysOwn(r) || name == "PassthroughCluster" || name == "BlackHoleCluster":
			case !exists:
				faults = append(faults, fmt.Sprintf("%s: %d %% for %s, which does not exist", r.At, share, name))
			case addresses != nil && len(addresses) == 0:
				faults = append(faults, fmt.Sprintf("%s: %d %% for %s, which has no endpoints", r.At, share, name))
			}
		}
	}
	return faults
}

// compare holds routes against those at rest: of what goes to one of the app's Services there, the canary's Service has its weight.
func (m *mesh) compare(rest, now *bed.Told, weight int) (faults []string) {
	shared := false
	got := map[string]bed.ProxyRoute{}
	for _, r := range now.Routes {
		if !canarysOwn(r) {
			got[r.At+" "+r.Match] = r
		}
	}
	for _, r := range rest.Routes {
		key := r.At + " " + r.Match
		g, ok := got[key]
		delete(got, key)
		if !ok {
			faults = append(faults, key+": is gone")
			continue
		}
		base, is := fractions(r.Shares), fractions(g.Shares)
		want := maps.Clone(base)
		gives, canary := sharing(g.Shares)
		if app := "web." + m.namespace + ".svc.cluster.local"; weight > 0 && gives == "" && base[app] > 0 {
			faults = append(faults, key+": the canary has no share")
		}
		if gives != "" {
			shared = true
			want[canary] = base[gives] * float64(weight) / 100
			want[gives] = base[gives] * float64(100-weight) / 100
		}
		if !nearly(is, want) {
			faults = append(faults, fmt.Sprintf("%s: %v, want %v", key, is, want))
		}
	}
	for key := range got {
		faults = append(faults, key+": is new")
	}
	if weight > 0 && !shared {
		faults = append(faults, "no route leads to the canary")
	}
	return faults
}

// sharing finds the host that gives some of its share to the canary's, and that.
func sharing(shares map[string]uint32) (gives, canary string) {
	for name := range shares {
		if service, domain, _ := strings.Cut(hostOf(name), "."); strings.HasSuffix(service, "-canary") {
			return strings.TrimSuffix(service, "-canary") + "." + domain, hostOf(name)
		}
	}
	return "", ""
}

// hostOf a cluster such as outbound|80||web.default.svc.cluster.local.
func hostOf(cluster string) string {
	parts := strings.Split(cluster, "|")
	return parts[len(parts)-1]
}

// fractions of the hosts that get a share.
func fractions(shares map[string]uint32) map[string]float64 {
	var sum uint32
	for _, s := range shares {
		sum += s
	}
	out := map[string]float64{}
	for name, s := range shares {
		out[hostOf(name)] += float64(s) / float64(max(sum, 1))
	}
	return out
}

func nearly(x, y map[string]float64) bool {
	for _, m := range []map[string]float64{x, y} {
		for host := range m {
			if d := x[host] - y[host]; d > 1e-6 || d < -1e-6 {
				return false
			}
		}
	}
	return true
}

// apply brings objects to the cluster in their order, and takes away what is not among them unless more come.
func (m *mesh) apply(objs []*unstructured.Unstructured, keep bool) {
	m.Helper()
	wanted := map[objects.Key]bool{}
	for _, o := range objs {
		wanted[objects.KeyOf(o)] = true
		_, err := m.resource(o).Apply(context.Background(), o.GetName(), o, metav1.ApplyOptions{FieldManager: "sluice", Force: true})
		if err != nil {
			m.Fatalf("applying %s: %v", objects.KeyOf(o), err)
		}
		if !keep {
			m.held[objects.KeyOf(o)] = o
		}
	}
	for key, o := range m.held {
		if !wanted[key] && !keep {
			err := m.resource(o).Delete(context.Background(), o.GetName(), metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				m.Fatal(err)
			}
			delete(m.held, key)
		}
	}
}

func (m *mesh) resource(o *unstructured.Unstructured) dynamic.ResourceInterface {
	m.Helper()
	gvk := o.GroupVersionKind()
	mapping, err := m.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	m.must(err)
	return m.dyn.Resource(mapping.Resource).Namespace(o.GetNamespace())
}

// unready names the workloads that are not as they are to be.
func (m *mesh) unready(workloads []*unstructured.Unstructured) (out []string) {
	m.Helper()
	for _, w := range workloads {
		live, err := m.resource(w).Get(context.Background(), w.GetName(), metav1.GetOptions{})
		m.must(err)
		number := func(fields ...string) int64 {
			n, _, _ := unstructured.NestedInt64(live.Object, fields...)
			return n
		}
		want := number("spec", "replicas")
		if number("status", "observedGeneration") != live.GetGeneration() || number("status", "updatedReplicas") != want ||
			number("status", "replicas") != want || number("status", "availableReplicas") != want {
			out = append(out, w.GetName()+" is not ready")
		}
	}
	return out
}

// analyzed holds what Istio's analyzers say of the objects against what they say of the two releases as their chart has them.
func (m *mesh) analyzed(name string, in project.Input, desired []*unstructured.Unstructured) {
	m.Helper()
	known := map[string]bool{}
	for _, release := range [][]*unstructured.Unstructured{in.Stable, in.Target} {
		for _, message := range m.analyze(release) {
			known[message.Code+" "+message.About] = true
		}
	}
	for _, message := range m.analyze(desired) {
		if !known[message.Code+" "+message.About] && message.Level != "Info" && !slices.Contains(m.says, message.Code) {
			m.Errorf("%s: the analyzers say: %s", name, message.Text)
		}
	}
}

func (m *mesh) analyze(objs []*unstructured.Unstructured) []bed.IstioMessage {
	m.Helper()
	var manifests bytes.Buffer
	for _, o := range slices.Concat(objs, m.beside) {
		text, err := yaml.Marshal(o)
		m.must(err)
		manifests.WriteString("---\n")
		manifests.Write(text)
	}
	found, err := m.istiod.Analyze(context.Background(), manifests.Bytes())
	m.must(err)
	return found
}
