package cluster

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/render/objects"
)

// track is the part of an app that an object belongs to.
type track string

const (
	trackStable  track = ""
	trackCanary  track = "canary"
	trackRouting track = "routing"
)

// item is one object of the inventory: it was created by us, or is about to be.
type item struct {
	Group     string    `json:"g,omitempty"`
	Version   string    `json:"v"`
	Kind      string    `json:"k"`
	Namespace string    `json:"ns,omitempty"`
	Name      string    `json:"n"`
	Track     track     `json:"t,omitempty"`
	UID       types.UID `json:"uid,omitempty"`
	// Applied is the hash of the object as it was last applied, Mark the fingerprint that it had then.
	Applied string `json:"a,omitempty"`
	Mark    string `json:"m,omitempty"`
	// Other: it is a CRD of somebody else, which is left as it is.
	Other bool `json:"o,omitempty"`
}

func (i item) key() objects.Key {
	return objects.Key{Group: i.Group, Kind: i.Kind, Namespace: i.Namespace, Name: i.Name}
}

// memory is what the client remembers of an app. Client.mu guards it.
type memory struct {
	app delivery.App
	// version is the resourceVersion of the Secret that holds it; empty before it was first saved.
	version string
	// stored is the digest of the state in that Secret, as far as is known; attempts are the writes since that were not
	// answered, and writes counts all of this memory.
	stored   string
	attempts []attempt
	writes   int
	// items in the order in which they were applied; prune goes backwards.
	order []objects.Key
	items map[objects.Key]item
	// unsaved: the saved inventory lacks an object, or knows it by the uid of its predecessor.
	unsaved bool
	// busy objects are being applied: news of them is ours.
	busy map[objects.Key]bool
	// contended objects are wanted and belong to another app.
	contended map[objects.Key]bool
	// kept are objects that are not desired any more, and that another app may want.
	kept map[objects.Key]bool
	// waiting are workloads whose news matter because they are not ready.
	waiting map[objects.Key]bool
	// told: somebody is about to be told of news.
	told bool
}

func newMemory(app delivery.App) *memory {
	return &memory{app: app, items: map[objects.Key]item{}, busy: map[objects.Key]bool{}, contended: map[objects.Key]bool{}, waiting: map[objects.Key]bool{}, kept: map[objects.Key]bool{}}
}

func (m *memory) put(i item) {
	if _, ok := m.items[i.key()]; !ok {
		m.order = append(m.order, i.key())
	}
	m.items[i.key()] = i
}

func (m *memory) drop(k objects.Key) {
	delete(m.items, k)
	m.order = slices.DeleteFunc(m.order, func(o objects.Key) bool { return o == k })
}

func (m *memory) encode() ([]byte, error) {
	list := make([]item, 0, len(m.order))
	for _, k := range m.order {
		list = append(list, m.items[k])
	}
	b, err := json.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("encoding the inventory of %s: %w", m.app.Name, err)
	}
	return b, nil
}

func (m *memory) decode(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	var list []item
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("decoding the inventory: %w", err)
	}
	for _, i := range list {
		m.put(i)
	}
	return nil
}

// of returns an app's memory, made on first use.
func (c *Client) of(app delivery.App) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.apps[app.Name]
	if m == nil {
		m = newMemory(app)
		c.apps[app.Name] = m
	}
	m.app = app
	return m
}

func (c *Client) item(m *memory, k objects.Key) item {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.items[k]
}

// snapshot of the inventory in order.
func (c *Client) items(m *memory) []item {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]item, 0, len(m.order))
	for _, k := range m.order {
		out = append(out, m.items[k])
	}
	return out
}

// learn remembers that the object stands as it was last seen.
func (c *Client) learn(m *memory, p planned, l live) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := m.items[p.key]
	if i.UID != "" && i.UID != l.uid {
		// Prune would leave the object alone if the uid of its predecessor were all that is saved.
		m.unsaved = true
	}
	i.Group, i.Version, i.Kind, i.Namespace, i.Name = p.key.Group, p.version, p.key.Kind, p.key.Namespace, p.key.Name
	i.Track, i.UID, i.Applied, i.Mark, i.Other = p.track, l.uid, p.hash, l.mark, false
	m.put(i)
}

// learnOther remembers a CRD that is somebody else's, and that it was found to serve the app as it stands.
func (c *Client) learnOther(m *memory, p planned, l live) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := m.items[p.key]
	i.Group, i.Version, i.Kind, i.Name = p.key.Group, p.version, p.key.Kind, p.key.Name
	i.UID, i.Other, i.Applied, i.Mark = l.uid, true, p.hash, l.mark
	m.put(i)
}

// claim says whose an object is. A contender was refused it; when the owner no longer wants it, the contender
// gets it as it stands.
type claim struct {
	owner, contender string
}

// claimAll makes the planned objects the app's. Those that another app has are returned.
func (c *Client) claimAll(m *memory, plan []planned) map[objects.Key]string {
	app := m.app.Name
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := map[objects.Key]string{}
	for _, p := range plan {
		cl, ok := c.claims[p.key]
		if ok && cl.owner != app {
			cl.contender = app
			taken[p.key] = cl.owner
		} else {
			cl.owner = app
		}
		c.claims[p.key] = cl
	}
	c.contend(m, taken)
	return taken
}

// contend keeps the app's name at the objects that it was refused, and at no others.
func (c *Client) contend(m *memory, taken map[objects.Key]string) {
	for k := range m.contended {
		if cl := c.claims[k]; taken[k] == "" && cl.contender == m.app.Name {
			cl.contender = ""
			c.claims[k] = cl
		}
	}
	clear(m.contended)
	for k := range taken {
		m.contended[k] = true
	}
}

// release gives up an object, unless another app has it. The caller holds mu.
func (c *Client) release(app string, k objects.Key) {
	if c.claims[k].owner == app {
		delete(c.claims, k)
	}
}

// noticed gets the news of all watches.
func (c *Client) noticed(k objects.Key, l live, exists bool) {
	if k.GroupKind() == objects.CRD {
		c.kinds.forget()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	app := c.claims[k].owner
	m := c.apps[app]
	if m == nil || c.onChange == nil || m.busy[k] || m.told {
		return
	}
	if i, ours := m.items[k]; !ours || exists && l.mark == i.Mark && !m.waiting[k] {
		return
	}
	m.told = true
	c.told++
	time.AfterFunc(newsPause(c.told), func() {
		c.mu.Lock()
		m.told = false
		c.told--
		call := c.onChange
		c.mu.Unlock()
		call(app)
	})
}

// newsPause is how long news of an app waits for more of the same app, while so many apps have news: a Deployment that starts its
// pods has some at once, and each look at it is a request. Where hundreds start, those who look are what they all wait for.
func newsPause(apps int) time.Duration {
	const shortest, longest, each = 300 * time.Millisecond, 2 * time.Second, 20 * time.Millisecond
	return min(max(shortest, time.Duration(apps)*each), longest)
}

// planned is one object that is desired, ready to be applied.
type planned struct {
	key     objects.Key
	version string
	hash    string
	track   track
	object  *unstructured.Unstructured
	// crds is what is to become of a definition from a chart's crds/ folder; empty for all others.
	crds string
	// fault says why the object can't be sent to the API server; nil: it can. It is this object's alone.
	fault error
}

// keeps remembers whether an object that is not desired any more is kept for now.
func (c *Client) keeps(m *memory, k objects.Key, keep bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if delete(m.kept, k); keep {
		m.kept[k] = true
	}
}

func (c *Client) kept(m *memory, k objects.Key) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return m.kept[k]
}

// setBusy marks an object as being applied: what the watch tells of it meanwhile is mostly our own doing.
func (c *Client) setBusy(m *memory, k objects.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m.busy[k] = true
}

// setIdle ends that. If the object was applied, it tells of what somebody else has done to it meanwhile; if not,
// whoever applies it tries again anyway.
func (c *Client) setIdle(m *memory, k objects.Key, f *feed, applied bool) {
	c.mu.Lock()
	delete(m.busy, k)
	c.mu.Unlock()
	if applied {
		l, exists := f.get(k)
		c.noticed(k, l, exists)
	}
}
