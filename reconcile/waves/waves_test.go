package waves

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/clusters"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

var (
	order  = environments.Waves{{Clusters: []string{"us"}, Soak: 30 * time.Minute}, {Clusters: []string{"eu", "asia"}}, {Clusters: []string{"sa"}}}
	wanted = rollout.Release{Version: "0.0.130", Digest: "d130", Commit: "c2"}
	before = audit.Release{Version: "0.0.129", Digest: "d129", Commit: "c1"}
	asked  = audit.Release{Version: "0.0.130", Digest: "d130", Commit: "c2"}
	noon   = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
)

// says is a cluster that tells of web.
func says(name string, r audit.Record) clusters.Cluster {
	r.App, r.Updated = "web", noon.Add(-time.Hour)
	c := clusters.New(name, r)
	c.Commit = name + "1"
	return c
}

// atRest serves a release for a while.
func atRest(r audit.Release, d time.Duration) audit.Record {
	return audit.Record{Phase: "Idle", Serves: r, Since: noon.Add(-d)}
}

func TestClosed(t *testing.T) {
	broken := says("us", atRest(before, time.Hour))
	broken.Status.Fault = "sluice.yaml:3: waves"
	damaged := clusters.New("us")
	damaged.Fault = errors.New("apps/web.yaml:1: no record")
	silent := clusters.New("us")
	silent.Said = noon.Add(-24 * time.Hour)
	here := asked
	here.Digest = "of us alone"
	later := asked
	later.Commit = "c3"
	other := audit.Release{Version: "0.0.130", Digest: "other", Commit: "c0"}
	rejects := atRest(before, time.Minute)
	rejects.Rejected = []audit.Rejection{{Release: asked, Reason: "success rate 69%"}}
	for _, test := range []struct {
		name   string
		all    []clusters.Cluster
		want   string
		opens  time.Time
		before environments.Waves
	}{
		{name: "first", before: order.Before("us")},
		{"no branch", nil, "wave 2 waits for us: it has no status branch: its agent has never written", time.Time{}, order.Before("eu")},
		{"no word", []clusters.Cluster{silent}, "us: it says nothing of web, and last heard of at 2026-06-30T12:00:00Z", time.Time{}, order.Before("eu")},
		{"it can't read git", []clusters.Cluster{broken}, "us: it can't read the environment: sluice.yaml:3: waves", time.Time{}, order.Before("eu")},
		{"somebody has edited it", []clusters.Cluster{damaged}, "us: what it says can't be read: apps/web.yaml:1: no record", time.Time{}, order.Before("eu")},
		{
			"another's edit is nothing to it",
			[]clusters.Cluster{{Name: "sa", Fault: damaged.Fault}, says("us", atRest(asked, time.Hour))},
			"",
			time.Time{},
			order.Before("eu"),
		},
		{"not begun", []clusters.Cluster{says("us", atRest(before, time.Hour))}, "us: it serves 0.0.129; last heard of at 2026-07-01T11:00:00Z", time.Time{}, order.Before("eu")},
		{"it never was there", []clusters.Cluster{says("us", audit.Record{})}, "us: it serves nothing yet", time.Time{}, order.Before("eu")},
		{"other values", []clusters.Cluster{says("us", atRest(other, time.Hour))}, "us: it serves another release of 0.0.130", time.Time{}, order.Before("eu")},
		{"held", []clusters.Cluster{says("us", audit.Record{Serves: before, Held: "Ann: lunch"})}, "us: it is held by Ann: lunch", time.Time{}, order.Before("eu")},
		{"it waits", []clusters.Cluster{says("us", audit.Record{Serves: before, Waiting: "gate window is closed"})}, "us: it is waiting: gate window is closed", time.Time{}, order.Before("eu")},
		{"a fault", []clusters.Cluster{says("us", audit.Record{Serves: asked, Fault: "no such chart"})}, "us: it can't deliver: no such chart", time.Time{}, order.Before("eu")},
		{"under way", []clusters.Cluster{says("us", audit.Record{Phase: "Analyzing", Serves: before, Target: asked, Weight: 30})}, "wave 2 waits for us: Analyzing at 30%", time.Time{}, order.Before("eu")},
		{"stalled", []clusters.Cluster{says("us", audit.Record{Phase: "Analyzing", Serves: before, Target: asked, Weight: 30, Stalled: "no data"})}, "us: Analyzing at 30%, stalled: no data", time.Time{}, order.Before("eu")},
		{"rejected", []clusters.Cluster{says("us", rejects)}, "us: it has rolled 0.0.130 back", time.Time{}, order.Before("eu")},
		{"degraded", []clusters.Cluster{says("us", audit.Record{Phase: "Idle", Serves: asked, Degraded: "pods crash"})}, "us: it is degraded: pods crash", time.Time{}, order.Before("eu")},
		{"on to the next", []clusters.Cluster{says("us", audit.Record{Phase: "Starting", Serves: asked, Target: other})}, "us: it is going from 0.0.130 to 0.0.130", time.Time{}, order.Before("eu")},
		{
			"soaks",
			[]clusters.Cluster{says("us", atRest(asked, 10*time.Minute))},
			"wave 2 waits until wave 1 has served 0.0.130 for 30m0s, at 2026-07-01T12:20:00Z", noon.Add(20 * time.Minute), order.Before("eu"),
		},
		{"soaked", []clusters.Cluster{says("us", atRest(asked, 30*time.Minute))}, "", time.Time{}, order.Before("asia")},
		{"rendered for the cluster", []clusters.Cluster{says("us", atRest(here, time.Hour))}, "", time.Time{}, order.Before("eu")},
		{"asked for by another commit", []clusters.Cluster{says("us", atRest(later, time.Hour))}, "", time.Time{}, order.Before("eu")},
		{
			"two waves before",
			[]clusters.Cluster{says("asia", atRest(before, 0)), says("eu", atRest(before, 0)), says("us", atRest(asked, time.Hour))},
			"wave 3 waits for eu: it serves 0.0.129; last heard of at 2026-07-01T11:00:00Z; asia: it serves",
			time.Time{},
			order.Before("sa"),
		},
		{
			"through two waves",
			[]clusters.Cluster{says("asia", atRest(asked, 0)), says("eu", atRest(asked, 0)), says("us", atRest(asked, time.Hour))},
			"",
			time.Time{},
			order.Before("nobody named"),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, opens := Closed(test.before, test.all, "web", wanted, noon)
			if !strings.Contains(got, test.want) || (got == "") != (test.want == "") || !opens.Equal(test.opens) {
				t.Errorf("%q, until %s", got, opens)
			}
		})
	}
}

// A follower asks git only while something waits; what was said before a release was wanted says nothing of it; and the apps for
// which there is news are told.
func TestFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := New(Config{Environment: "production", Cluster: "eu", Interval: time.Minute, Now: func() time.Time { return noon }, Log: slog.New(slog.DiscardHandler)})
		var mu sync.Mutex // of all that the follower's goroutine and this one touch
		looks, us, fault := 0, atRest(before, time.Hour), error(nil)
		say := func(record audit.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			us, fault = record, err
		}
		looked := func() int {
			mu.Lock()
			defer mu.Unlock()
			return looks
		}
		f.read = func(context.Context) ([]clusters.Cluster, error) {
			mu.Lock()
			defer mu.Unlock()
			looks++
			c := says("us", us)
			c.Commit = us.Serves.Version + us.Phase
			return []clusters.Cluster{c}, fault
		}
		var told []string
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			ended <- f.follow(ctx, func(app string) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, app)
			})
		}()
		expect := func(when, reason string, asked int, news ...string) {
			t.Helper()
			synctest.Wait()
			got := f.gate("web", order, wanted).Reason
			mu.Lock()
			defer mu.Unlock()
			slices.Sort(told)
			if !strings.Contains(got, reason) || (got == "") != (reason == "") || looks != asked || !slices.Equal(told, news) {
				t.Errorf("%s: %q after %d looks, told %v", when, got, looks, told)
			}
			told = nil
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := looked(); n != 0 {
			t.Errorf("%d looks, and nothing waits", n)
		}
		if gates := f.Gates("web", order, wanted); len(gates) != 2 || !strings.Contains(gates[0].Reason, "is still to be read") || !gates[0].Overridable || !gates[0].Unread {
			t.Errorf("before it is read: %+v", gates)
		}
		expect("read at once", "us: it serves 0.0.129", 1, "web")
		time.Sleep(5*time.Minute + time.Second)
		expect("no news", "us: it serves 0.0.129", 5)
		busy := audit.Record{Phase: "Analyzing", Serves: before, Target: asked, Weight: 10}
		say(busy, nil)
		time.Sleep(time.Minute)
		expect("news", "us: Analyzing at 10%", 6, "web")
		say(busy, errors.New("no route to host"))
		time.Sleep(10 * time.Minute)
		expect("git is away, and asked less and less", "us: Analyzing at 10%", 9, "web")
		say(atRest(asked, time.Hour), nil)
		time.Sleep(16 * time.Minute)
		expect("and is back", "", 21, "web")

		// Taken back, and asked for again: what is known of before does not count.
		say(atRest(before, time.Minute), nil)
		f.gate("web", order, rollout.Release{})
		again := rollout.Release{Version: "0.0.130", Digest: "d130", Commit: "c9"}
		if got := f.gate("web", order, again); got.Open || !got.Unread {
			t.Errorf("opens by what was said before: %+v", got)
		}
		synctest.Wait()
		if got := f.gate("web", order, again); !strings.Contains(got.Reason, "it serves 0.0.129") || got.Unread {
			t.Errorf("read again: %+v", got)
		}
		f.gate("web", order, rollout.Release{})
		quiet := looked()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := looked() - quiet; n > 1 {
			t.Errorf("%d looks after nothing waits any more", n)
		}
		if f.Gates("web", order[:1], wanted) != nil || f.Gates("web", nil, wanted) != nil {
			t.Error("it waits without a wave before")
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
