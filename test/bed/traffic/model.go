// Package traffic models the users of the test bed, and the sidecars that would
// route and count their requests. No request is ever sent: the model reads from
// the API server the Services, EndpointSlices, Pods, VirtualServices,
// DestinationRules and HTTPRoutes that are really there, works out where a mesh would send each
// app's requests, and counts them, with the errors and latencies that the
// versions are scripted to have (package behaviour), in Istio's metrics.
//
// Users call a host: a Service by its name, inside the mesh, or another host of
// a VirtualService, from outside by its gateway. An app has users if its Service
// says so by annotation (RateAnnotation), or if SetRate gives it some.
//
// The model is deterministic: with the same objects and the same elapsed time
// each version gets the same whole number of requests.
package traffic

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
	"github.com/sluice-cd/sluice/test/bed/loopback"
)

// Annotations of Services.
const (
	// RateAnnotation is how many requests per second the app's users make.
	RateAnnotation = "bed.sluice.dev/requests-per-second"
	// HostAnnotation is the host by which they call it, if not the Service's
	// own name: one that a VirtualService names, like app.example.com.
	HostAnnotation = "bed.sluice.dev/host"
)

const (
	tick    = 50 * time.Millisecond // how often due requests are counted
	collect = 5 * time.Millisecond  // how long changes gather before routes are worked out again
)

// Model is the users and sidecars of one cluster. Methods may be called
// concurrently.
type Model struct {
	watched *watched
	changed chan struct{} // holds one: something that routing depends on changed
	address string

	mu       sync.Mutex
	rates    map[App]float64 // set by SetRate
	apps     map[App]*app
	counters counters
	unserved int
	last     time.Time // until when requests are counted
}

// App is a host that users in a namespace call.
type App struct{ Namespace, Host string }

// app is what the model knows of an App.
type app struct {
	rate    float64
	flow    flow
	history []Shares
	counts  Counts
}

// Shares is how an app's requests are divided from a time on.
type Shares struct {
	Time time.Time
	// ByWorkload is the part of the requests, from 0 to 1, that each workload
	// gets; workloads without any are absent, mirrored requests left out.
	ByWorkload map[string]float64
	// Unserved is the part that no ready pod gets.
	Unserved float64
}

// Counts are the requests of an app's users so far.
type Counts struct {
	Total    int
	Failed   int // answered with a 500 by a version, or not at all
	Unserved int // of Failed: those that no ready pod got
	// ByWorkload are those that each workload answered.
	ByWorkload map[string]int
}

// Start begins to watch the cluster and to count, and serves /metrics on
// loopback until ctx ends. It returns once the objects that exist are known.
func Start(ctx context.Context, config *rest.Config, table *behaviour.Table) (*Model, error) {
	m := &Model{
		changed:  make(chan struct{}, 1),
		rates:    map[App]float64{},
		apps:     map[App]*app{},
		counters: counters{},
		last:     time.Now(),
	}
	listener, err := loopback.Listen("")
	if err != nil {
		return nil, fmt.Errorf("starting the traffic model: %w", err)
	}
	m.address = listener.Addr().String()
	if m.watched, err = watch(ctx, config, table, m.notify); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("starting the traffic model: %w", err)
	}
	table.OnChange(m.notify)

	registry := prometheus.NewRegistry()
	if err := registry.Register(collector{m}); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{DisableCompression: true}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	go func() { _ = server.Serve(listener) }()

	m.notify()
	go m.run(ctx)
	return m, nil
}

// Address is the host:port of /metrics.
func (m *Model) Address() string { return m.address }

// SetRate makes so many requests per second to a host of a namespace, a
// Service's name or another that a VirtualService names; 0 makes none. It wins
// over the Service's annotation.
func (m *Model) SetRate(namespace, host string, perSecond float64) {
	m.mu.Lock()
	m.rates[App{namespace, host}] = perSecond
	m.mu.Unlock()
	m.notify()
}

// History lists how the requests to a host were divided, one entry per change,
// oldest first. Changes that follow each other within 5 ms may count as one.
func (m *Model) History(namespace, host string) []Shares {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.apps[App{namespace, host}]; a != nil {
		return slices.Clone(a.history)
	}
	return nil
}

// Counts returns the requests to a host so far.
func (m *Model) Counts(namespace, host string) Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.apps[App{namespace, host}]
	if a == nil {
		return Counts{ByWorkload: map[string]int{}}
	}
	counts := a.counts
	counts.ByWorkload = maps.Clone(counts.ByWorkload)
	return counts
}

// Apps lists the hosts that have or had users, in order.
func (m *Model) Apps() []App {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Keys(m.apps), func(a, b App) int {
		return slices.Compare([]string{a.Namespace, a.Host}, []string{b.Namespace, b.Host})
	})
}

// Unserved counts the requests of all apps that no ready pod got.
func (m *Model) Unserved() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.unserved
}

func (m *Model) notify() {
	select {
	case m.changed <- struct{}{}:
	default: // one is waiting already
	}
}

// run counts the requests of each tick by the routes of that time.
func (m *Model) run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			m.count(time.Now())
		case <-m.changed:
			select {
			case <-ctx.Done():
				return
			case <-time.After(collect):
			}
			world := m.watched.world()
			now := time.Now()
			m.count(now)
			m.reroute(world, now)
		}
	}
}

// count counts the requests up to a time.
func (m *Model) count(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	elapsed := now.Sub(m.last)
	m.last = now
	for _, a := range m.apps {
		for _, b := range a.flow.take(a.rate, elapsed) {
			m.counters.add(b)
			if !b.share.mirrored {
				m.unserved += a.counts.add(b)
			}
		}
	}
}

// add returns how many of the batch nobody served.
func (c *Counts) add(b batch) (unserved int) {
	if c.ByWorkload == nil {
		c.ByWorkload = map[string]int{}
	}
	c.Total += b.total
	c.Failed += b.failed
	if b.share.group.workload == "" {
		c.Unserved += b.total
		return b.total
	}
	c.ByWorkload[b.share.group.workload] += b.total
	return 0
}

// reroute makes the shares those of the world, from now on.
func (m *Model) reroute(w *world, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	rates := ratesOf(w, m.rates)
	for key, rate := range rates {
		a := m.apps[key]
		if a == nil {
			if rate == 0 {
				continue
			}
			a = &app{}
			m.apps[key] = a
		}
		a.rate = rate
		shares := w.route(key.Namespace, key.Host)
		a.flow.reroute(shares)
		a.note(sharesOf(shares, now))
	}
	for key, a := range m.apps {
		if _, ok := rates[key]; !ok {
			a.rate = 0
		}
	}
	alive := map[types.NamespacedName]bool{}
	for _, pod := range w.pods {
		alive[types.NamespacedName{Namespace: pod.Namespace, Name: w.workloadOf(pod)}] = true
	}
	m.counters.forget(func(namespace, workload string) bool {
		return alive[types.NamespacedName{Namespace: namespace, Name: workload}]
	})
}

// ratesOf joins the rates of annotations with those set, which win.
func ratesOf(w *world, set map[App]float64) map[App]float64 {
	rates := map[App]float64{}
	for name, service := range w.services {
		if host, rate := annotatedRate(service); rate > 0 {
			if host == "" {
				host = name.Name
			}
			rates[App{name.Namespace, host}] = rate
		}
	}
	maps.Copy(rates, set)
	return rates
}

func annotatedRate(service *corev1.Service) (host string, rate float64) {
	rate, err := strconv.ParseFloat(service.Annotations[RateAnnotation], 64)
	if err != nil || math.IsNaN(rate) || math.IsInf(rate, 0) {
		return "", 0
	}
	return service.Annotations[HostAnnotation], rate
}

func sharesOf(shares []share, now time.Time) Shares {
	s := Shares{Time: now, ByWorkload: map[string]float64{}}
	for _, share := range shares {
		switch {
		case share.mirrored:
		case share.group.workload == "":
			s.Unserved += share.part
		default:
			s.ByWorkload[share.group.workload] += share.part
		}
	}
	for workload, part := range s.ByWorkload {
		s.ByWorkload[workload] = rounded(part)
	}
	s.Unserved = rounded(s.Unserved)
	return s
}

// rounded hides what adding floats leaves behind.
func rounded(part float64) float64 { return math.Round(part*1e6) / 1e6 }

// note appends to the history if something changed.
func (a *app) note(s Shares) {
	if len(a.history) > 0 {
		last := a.history[len(a.history)-1]
		if last.Unserved == s.Unserved && maps.Equal(last.ByWorkload, s.ByWorkload) {
			return
		}
	}
	a.history = append(a.history, s)
}

// collector shows the counters to Prometheus.
type collector struct{ model *Model }

func (c collector) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- requestsDesc
	descriptions <- durationDesc
}

func (c collector) Collect(metrics chan<- prometheus.Metric) {
	c.model.mu.Lock()
	defer c.model.mu.Unlock()
	c.model.counters.collect(metrics)
}
