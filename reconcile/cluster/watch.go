package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/sluice-cd/sluice/render/objects"
)

// syncPatience is how long the first list of a watch may take.
const syncPatience = 30 * time.Second

// maxGraves is far more than can be deleted while an answer is on its way.
const maxGraves = 1024

// live is what is kept of an object that exists. Nothing else of the watched metadata stays in memory.
type live struct {
	uid types.UID
	// version is the resourceVersion.
	version string
	// mark is the fingerprint.
	mark string
	// leaving: the object is being deleted.
	leaving bool
}

func liveOf(o metav1.Object) live {
	return live{
		uid: o.GetUID(), version: o.GetResourceVersion(), mark: fingerprint(o), leaving: o.GetDeletionTimestamp() != nil,
	}
}

// watches keeps one feed for each kind and namespace in use. Feeds are started on demand and end with ctx.
type watches struct {
	ctx     context.Context //nolint:containedctx // feeds outlive the calls that start them
	client  metadata.Interface
	noticed func(objects.Key, live, bool)

	mu    sync.Mutex
	feeds map[feedKey]*feed
}

type feedKey struct {
	kind      schema.GroupKind
	namespace string
}

func newWatches(ctx context.Context, client metadata.Interface, noticed func(objects.Key, live, bool)) *watches {
	return &watches{ctx: ctx, client: client, noticed: noticed, feeds: map[feedKey]*feed{}}
}

// feed returns the feed of a kind in a namespace (empty for kinds without), once its first list is there.
func (w *watches) feed(ctx context.Context, kind schema.GroupKind, resource schema.GroupVersionResource, namespace string) (*feed, error) {
	f := w.start(kind, resource, namespace)
	select {
	case <-f.synced:
		return f, nil
	default:
	}
	patience := syncPatience
	if f.late.Load() {
		patience = 0 // one look is held up by a server that hangs, and no other
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errLate)
	defer cancel()
	select {
	case <-f.synced:
		return f, nil
	case <-f.refused:
		// The first attempt failed; do not keep the app waiting for the reflector's next one.
		select {
		case <-f.synced:
			return f, nil
		default:
			return nil, fmt.Errorf("watching %s in %q: %w", resource.GroupResource(), namespace, f.fault())
		}
	case <-ctx.Done():
		f.late.Store(true)
		return nil, fmt.Errorf("watching %s in %q: %w", resource.GroupResource(), namespace, context.Cause(ctx))
	}
}

// errLate is returned for a kind whose first list somebody has waited for in vain.
var errLate = errors.New("its first list has not come yet")

func (w *watches) start(kind schema.GroupKind, resource schema.GroupVersionResource, namespace string) *feed {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := feedKey{kind: kind, namespace: namespace}
	if f := w.feeds[key]; f != nil {
		return f
	}
	f := &feed{
		kind: kind, noticed: w.noticed, objects: map[types.NamespacedName]live{},
		graves: map[types.NamespacedName]string{},
		synced: make(chan struct{}), refused: make(chan struct{}),
	}
	w.feeds[key] = f
	r := cache.NewReflectorWithOptions(w.listWatch(f, resource, namespace), &metav1.PartialObjectMetadata{}, f,
		cache.ReflectorOptions{Name: "sluice/" + resource.Resource, TypeDescription: resource.String()})
	go r.RunWithContext(w.ctx)
	return f
}

// listWatch leaves out the Secrets that Helm and Sluice keep their records in: they are ours alone to read, and
// most of what changes.
func (w *watches) listWatch(f *feed, resource schema.GroupVersionResource, namespace string) cache.ListerWatcher {
	client := w.client.Resource(resource).Namespace(namespace)
	narrow := func(o metav1.ListOptions) metav1.ListOptions {
		if f.kind == objects.Secret {
			o.FieldSelector = fields.AndSelectors(
				fields.OneTermNotEqualSelector("type", helmSecretType),
				fields.OneTermNotEqualSelector("type", stateSecretType)).String()
		}
		return o
	}
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := client.List(ctx, narrow(o))
			f.failed(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			events, err := client.Watch(ctx, narrow(o))
			// Servers that can't stream a first list say so; a plain list comes next.
			if !apierrors.IsInvalid(err) {
				f.failed(err)
			}
			return events, err
		},
	}, w.client)
}

// feed is what is live of one kind in one namespace, as the API server last said, in a watch or in an answer to
// us, whichever is newer. It implements cache.ReflectorStore.
type feed struct {
	kind    schema.GroupKind
	noticed func(objects.Key, live, bool)
	// synced is closed by the first list, refused by the first failure.
	synced, refused chan struct{}
	// late: the first list did not come in time.
	late atomic.Bool

	mu      sync.RWMutex
	objects map[types.NamespacedName]live
	// graves keep the resourceVersions of deletions for a while, so that a late answer to us does not raise the dead.
	graves map[types.NamespacedName]string
	listed bool
	err    error
}

var _ cache.ReflectorStore = (*feed)(nil)

func (f *feed) get(key objects.Key) (live, bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	l, ok := f.objects[types.NamespacedName{Namespace: key.Namespace, Name: key.Name}]
	return l, ok
}

// record takes in an answer to us. A watch may already have brought something newer, which stays.
func (f *feed) record(o metav1.Object) live {
	l := liveOf(o)
	f.put(o, l)
	return l
}

// missing takes in that an object does not exist, unless another one of that name is there by now.
func (f *feed) missing(key objects.Key, uid types.UID) {
	name := types.NamespacedName{Namespace: key.Namespace, Name: key.Name}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects[name].uid == uid {
		delete(f.objects, name)
	}
}

// put reports whether l is news.
func (f *feed) put(o metav1.Object, l live) bool {
	name := types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
	f.mu.Lock()
	defer f.mu.Unlock()
	if old, ok := f.objects[name]; ok && !newer(l.version, old.version) {
		return false
	}
	if grave, ok := f.graves[name]; ok && !newer(l.version, grave) {
		return false
	}
	f.objects[name] = l
	return true
}

// newer compares resourceVersions. Versions that don't compare count as newer, so that news is never lost.
func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err != nil || order > 0
}

func (f *feed) key(o metav1.Object) objects.Key {
	return f.named(types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()})
}

func (f *feed) named(name types.NamespacedName) objects.Key {
	return objects.Key{Group: f.kind.Group, Kind: f.kind.Kind, Namespace: name.Namespace, Name: name.Name}
}

// Add implements cache.ReflectorStore.
func (f *feed) Add(obj any) error { return f.Update(obj) }

// Update implements cache.ReflectorStore.
func (f *feed) Update(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("watching %s: %T is no object", f.kind, obj)
	}
	if l := liveOf(o); f.put(o, l) {
		f.noticed(f.key(o), l, true)
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (f *feed) Delete(obj any) error {
	o, ok := obj.(metav1.Object)
	if !ok {
		return fmt.Errorf("watching %s: %T is no object", f.kind, obj)
	}
	name := types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
	f.mu.Lock()
	old, had := f.objects[name]
	// An answer to us may already have told of the object's successor.
	gone := had && old.uid == o.GetUID()
	if gone {
		delete(f.objects, name)
	}
	if len(f.graves) == maxGraves {
		clear(f.graves)
	}
	f.graves[name] = o.GetResourceVersion()
	f.mu.Unlock()
	if gone {
		f.noticed(f.key(o), old, false)
	}
	return nil
}

// Replace implements cache.ReflectorStore: the first list, and the one after a watch was lost for too long.
func (f *feed) Replace(list []any, version string) error {
	now := make(map[types.NamespacedName]live, len(list))
	for _, obj := range list {
		o, ok := obj.(metav1.Object)
		if !ok {
			return fmt.Errorf("listing %s: %T is no object", f.kind, obj)
		}
		now[types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}] = liveOf(o)
	}
	f.mu.Lock()
	was := f.objects
	for name, old := range was {
		l, ok := now[name]
		// What an answer to us has told since the list was made is newer than the list.
		if ok && newer(old.version, l.version) || !ok && newer(old.version, version) {
			now[name] = old
		}
	}
	f.objects = now
	first := !f.listed
	f.listed = true
	f.mu.Unlock()
	if first {
		close(f.synced)
	}
	f.tell(was, now, first)
	return nil
}

// tell passes on the difference between two lists. The first list is no news: nothing was known before it.
func (f *feed) tell(was, now map[types.NamespacedName]live, first bool) {
	if first {
		return
	}
	for name, l := range now {
		if was[name].version != l.version {
			f.noticed(f.named(name), l, true)
		}
	}
	for name, old := range was {
		if _, ok := now[name]; !ok {
			f.noticed(f.named(name), old, false)
		}
	}
}

// Resync implements cache.ReflectorStore; there is nothing to do.
func (f *feed) Resync() error { return nil }

// failed keeps the last failure of a list or watch for whoever waits for the first list.
func (f *feed) failed(err error) {
	if err == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil && !f.listed {
		close(f.refused)
	}
	f.err = err
}

func (f *feed) fault() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.err
}
