package gitsync

import (
	"container/list"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
)

// treeCache keeps the trees that were used last, up to a number of bytes.
type treeCache struct {
	max int

	mu    sync.Mutex
	size  int
	order list.List // of *cachedTree, newest first
	byKey map[plumbing.Hash]*list.Element
}

type cachedTree struct {
	key  plumbing.Hash
	tree *tree
}

func newTreeCache(limit int) *treeCache {
	return &treeCache{max: limit, byKey: map[plumbing.Hash]*list.Element{}}
}

func (c *treeCache) get(h plumbing.Hash) (*tree, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[h]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cachedTree).tree, true
}

func (c *treeCache) put(h plumbing.Hash, t *tree) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byKey[h]; ok || t.size() > c.max {
		return
	}
	c.byKey[h] = c.order.PushFront(&cachedTree{h, t})
	c.size += t.size()
	for c.size > c.max {
		last := c.order.Back()
		old := c.order.Remove(last).(*cachedTree)
		delete(c.byKey, old.key)
		c.size -= old.tree.size()
	}
}
