package render

import (
	"container/list"
	"sync"
)

// lru keeps the most recently used values within a budget of bytes. It is safe for concurrent use.
// A value that is larger than the whole budget is not kept.
type lru[V any] struct {
	mu     sync.Mutex
	budget int64
	used   int64
	order  *list.List // of *lruEntry[V], most recent first
	byKey  map[string]*list.Element
}

type lruEntry[V any] struct {
	key   string
	value V
	cost  int64
}

func newLRU[V any](budget int64) *lru[V] {
	return &lru[V]{budget: budget, order: list.New(), byKey: map[string]*list.Element{}}
}

func (c *lru[V]) get(key string) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[key]
	if !ok {
		var zero V
		return zero, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruEntry[V]).value, true
}

func (c *lru[V]) put(key string, value V, cost int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byKey[key]; ok {
		c.remove(e)
	}
	if cost > c.budget {
		return
	}
	c.byKey[key] = c.order.PushFront(&lruEntry[V]{key, value, cost})
	c.used += cost
	for c.used > c.budget {
		c.remove(c.order.Back())
	}
}

func (c *lru[V]) remove(e *list.Element) {
	entry := c.order.Remove(e).(*lruEntry[V])
	delete(c.byKey, entry.key)
	c.used -= entry.cost
}
