package waves

import (
	"context"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/clusters"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Config says whose waves are followed.
type Config struct {
	// Environment by name, and the Cluster whose agent this is.
	Environment, Cluster string
	// Remote is the repository of the status branches.
	Remote gitsync.Remote
	// DataDir keeps git objects; a cache.
	DataDir string
	// Interval between looks while something waits.
	Interval time.Duration
	Now      func() time.Time
	Log      *slog.Logger
}

// Follower knows what the clusters of an environment say. It asks git only while a release waits for them.
type Follower struct {
	cfg Config
	// read reads the clusters; another one in tests.
	read func(ctx context.Context) ([]clusters.Cluster, error)
	news chan struct{}

	mu sync.Mutex
	// wishes are the releases that are wanted here, by app.
	wishes map[string]wish
	all    []clusters.Cluster
	// fault is why the clusters could not be read when they were looked at last; empty: they could.
	fault string
}

// wish is a release that an app would begin with.
type wish struct {
	digest, commit string
	// known: the clusters were read since it came up. What they said before says nothing of it: the same release may have been taken
	// back, and asked for again.
	known bool
}

// New prepares a Follower; nothing is asked of anybody until Run.
func New(cfg Config) *Follower {
	return &Follower{cfg: cfg, wishes: map[string]wish{}, news: make(chan struct{}, 1)}
}

// Gates are closed for the release that an app would begin with while it has to wait for others; a zero one says that it would begin
// with none. It never blocks.
func (f *Follower) Gates(app string, waves environments.Waves, wanted rollout.Release) []rollout.Gate {
	g := f.gate(app, waves, wanted)
	if g.Open {
		return nil
	}
	g.Name, g.Overridable = "wave", true
	begin, apply := g, g
	begin.At, apply.At = rollout.AtBegin, rollout.AtApply
	return []rollout.Gate{begin, apply}
}

func (f *Follower) gate(app string, waves environments.Waves, wanted rollout.Release) rollout.Gate {
	before := waves.Before(f.cfg.Cluster)
	f.mu.Lock()
	defer f.mu.Unlock()
	if wanted.IsZero() || len(before) == 0 {
		delete(f.wishes, app)
		return rollout.Gate{Open: true}
	}
	w := f.wishes[app]
	if w.digest != wanted.Digest || w.commit != wanted.Commit {
		w = wish{digest: wanted.Digest, commit: wanted.Commit}
		f.wishes[app] = w
		select {
		case f.news <- struct{}{}:
		default:
		}
	}
	switch {
	case w.known:
		reason, next := Closed(before, f.all, app, wanted, f.cfg.Now())
		return rollout.Gate{Open: reason == "", Reason: reason, NextChange: next}
	case f.fault != "":
		return rollout.Gate{Reason: "what the clusters of the waves before say can't be read: " + f.fault}
	default:
		return rollout.Gate{Reason: "what the clusters of the waves before say is still to be read", Unread: true}
	}
}

const (
	// gap is the least time between two looks, whoever asks for them.
	gap = 500 * time.Millisecond
	// longest is by how much the interval grows while git can't be reached.
	longest = 4
)

// Run looks while something waits, until ctx is done, and tells asked of each app for which there is news. An error says that it could
// not begin; what it can't do later it tries again.
func (f *Follower) Run(ctx context.Context, asked func(app string)) error {
	read, done, err := f.reader()
	if err != nil {
		return err
	}
	defer done()
	f.read = read
	return f.follow(ctx, asked)
}

func (f *Follower) follow(ctx context.Context, asked func(app string)) error {
	failures := 0
	for {
		var again <-chan time.Time
		if f.waits() {
			again = time.After(f.cfg.Interval << min(failures, longest))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.news:
		case <-again:
		}
		if err := f.look(ctx, asked); err != nil {
			failures++
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(gap, f.cfg.Interval)):
		}
	}
}

// reader reads the clusters of the remote.
func (f *Follower) reader() (read func(context.Context) ([]clusters.Cluster, error), done func(), err error) {
	w, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: f.cfg.Remote}, filepath.Join(f.cfg.DataDir, "waves"))
	if err != nil {
		return nil, nil, err
	}
	r := clusters.NewReader(f.cfg.Remote, w)
	return func(ctx context.Context) ([]clusters.Cluster, error) { return r.Read(ctx, f.cfg.Environment) }, func() { _ = w.Close() }, nil
}

func (f *Follower) waits() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.wishes) > 0
}

// look reads the clusters once, if something waits, and tells of whom there is news.
func (f *Follower) look(ctx context.Context, asked func(app string)) error {
	f.mu.Lock()
	asking := maps.Clone(f.wishes)
	f.mu.Unlock()
	if len(asking) == 0 {
		return nil
	}
	all, err := f.read(ctx)
	for _, app := range f.took(asking, all, err) {
		asked(app)
	}
	return err
}

// took takes over what was read for some wishes, and gives the apps for which it is news.
func (f *Follower) took(asking map[string]wish, all []clusters.Cluster, err error) (news []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		if f.fault == err.Error() {
			return nil
		}
		f.cfg.Log.Warn("the clusters of the waves before can't be read", "error", err)
		f.fault = err.Error()
		return slices.Collect(maps.Keys(asking))
	}
	moved := f.fault != "" || !same(f.all, all)
	f.all, f.fault = all, ""
	for app, w := range asking {
		if f.wishes[app] != w {
			continue // it wants something else by now
		}
		if moved || !w.known {
			news = append(news, app)
		}
		w.known = true
		f.wishes[app] = w
	}
	return news
}

// same reports whether nobody has said anything.
func same(before, now []clusters.Cluster) bool {
	if len(before) != len(now) {
		return false
	}
	for i := range now {
		if before[i].Name != now[i].Name || before[i].Commit != now[i].Commit {
			return false
		}
	}
	return true
}
