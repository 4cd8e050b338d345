package cluster

import (
	"maps"
	"sync"
	"time"
)

// listingsFresh is how old a listing may be by which a rollout begins. Many begin at once when one commit changes many apps.
const listingsFresh = 10 * time.Second

// listings keeps what was listed for that long, so that many who ask at the same time cost one LIST. The zero value is ready.
type listings[K comparable, V any] struct {
	mu   sync.Mutex
	kept map[K]*listing[V]
}

// listing is made once, by the first who asks for it; the others wait.
type listing[V any] struct {
	made  time.Time
	once  sync.Once
	value V
	err   error
}

// get finds a listing that is fresh, or has it made. The value is of made or later, and shared. What failed is not kept.
func (l *listings[K, V]) get(key K, list func() (V, error)) (value V, made time.Time, err error) {
	one := l.of(key)
	one.once.Do(func() {
		if one.value, one.err = list(); one.err != nil {
			l.forget(key, one)
		}
	})
	return one.value, one.made, one.err
}

// of finds a listing that is fresh, or a new one that is still to be made. It drops those that are not.
func (l *listings[K, V]) of(key K) *listing[V] {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.kept, func(_ K, one *listing[V]) bool { return now.Sub(one.made) > listingsFresh })
	one := l.kept[key]
	if one == nil {
		one = &listing[V]{made: now}
		if l.kept == nil {
			l.kept = map[K]*listing[V]{}
		}
		l.kept[key] = one
	}
	return one
}

// forget makes the next who asks list again; nil: whichever listing there is.
func (l *listings[K, V]) forget(key K, one *listing[V]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one == nil || l.kept[key] == one {
		delete(l.kept, key)
	}
}
