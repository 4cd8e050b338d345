// Package behaviour says how the versions of apps behave on the test bed: a
// table from image to behaviour that tests write, and the pod player and the
// traffic model read.
//
// A pod's behaviour is, in this order: what its annotation
// bed.sluice.dev/behaviour says as JSON; what the table says of the first of
// its containers that the table knows; Healthy.
package behaviour

import (
	"encoding/json"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
)

// Annotation of a pod (so of a pod template) that wins over the table. A value
// that is not JSON of a Behaviour counts as absent.
const Annotation = "bed.sluice.dev/behaviour"

// Readiness is what becomes of a pod after it is bound to a node.
type Readiness string

// The readinesses. The zero value is ready at once.
const (
	ReadyAtOnce Readiness = ""
	ReadySlowly Readiness = "slow"      // ready after ReadyAfterSeconds
	Crashing    Readiness = "crash"     // CrashLoopBackOff, with a rising number of restarts
	NeverReady  Readiness = "never"     // runs, but its readiness probe fails
	NoImage     Readiness = "imagepull" // ImagePullBackOff
)

// Behaviour is what one version does to its users.
type Behaviour struct {
	// ErrorRate is the share of requests answered with a 500, from 0 to 1.
	ErrorRate float64 `json:"errorRate"`
	// LatencyMillis is how long each request takes; 0 means DefaultLatencyMillis.
	LatencyMillis float64 `json:"latencyMillis"`
	// Ready is what becomes of its pods.
	Ready Readiness `json:"ready"`
	// ReadyAfterSeconds is the wait of ReadySlowly, counted from the pod's start.
	ReadyAfterSeconds float64 `json:"readyAfterSeconds"`
}

// DefaultLatencyMillis is the latency of a version that nobody scripted.
const DefaultLatencyMillis = 20

// Healthy is the behaviour of a version that nobody scripted.
var Healthy = Behaviour{LatencyMillis: DefaultLatencyMillis}

// Table holds the behaviours that tests set, by image. The zero value is empty
// and ready; all methods may be called concurrently.
type Table struct {
	mu      sync.RWMutex
	byImage map[string]Behaviour
	changed []func()
}

// Set scripts an image, named by the last part of its repository and its tag
// ("croc-hunter-java:0.0.131"). Running pods follow it too.
func (t *Table) Set(image string, b Behaviour) {
	t.mu.Lock()
	if t.byImage == nil {
		t.byImage = map[string]Behaviour{}
	}
	t.byImage[image] = b
	changed := t.changed
	t.mu.Unlock()
	for _, f := range changed {
		f()
	}
}

// OnChange has f called after each Set, outside any lock.
func (t *Table) OnChange(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = append(t.changed, f)
}

// Of returns the behaviour of a pod.
func (t *Table) Of(pod *corev1.Pod) Behaviour {
	if b, ok := annotated(pod); ok {
		return b.withDefaults()
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, c := range pod.Spec.Containers {
		if b, ok := t.byImage[ShortImage(c.Image)]; ok {
			return b.withDefaults()
		}
	}
	return Healthy
}

func annotated(pod *corev1.Pod) (Behaviour, bool) {
	var b Behaviour
	text, ok := pod.Annotations[Annotation]
	if !ok || json.Unmarshal([]byte(text), &b) != nil {
		return Behaviour{}, false
	}
	return b, true
}

func (b Behaviour) withDefaults() Behaviour {
	if b.LatencyMillis == 0 {
		b.LatencyMillis = DefaultLatencyMillis
	}
	return b
}

// ShortImage returns the key of an image in a Table: the last part of its
// repository and its tag, "latest" when it has none. A digest is dropped.
func ShortImage(image string) string {
	image, _, _ = strings.Cut(image, "@")
	base := image[strings.LastIndex(image, "/")+1:]
	if !strings.Contains(base, ":") {
		base += ":latest"
	}
	return base
}
