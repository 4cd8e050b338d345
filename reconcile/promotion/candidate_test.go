package promotion

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/audit"
)

func TestChoose(t *testing.T) {
	now := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	release := func(v string) audit.Release { return audit.Release{Version: v} }
	serving := func(v string, ago time.Duration) audit.Record {
		return audit.Record{
			App: "web", Phase: "Idle", Serves: release(v), Since: now.Add(-ago),
			Last: audit.Ending{Outcome: "Promoted", Release: release(v), At: now.Add(-ago)},
		}
	}
	with := func(r audit.Record, change func(*audit.Record)) audit.Record {
		change(&r)
		return r
	}
	// image is an app whose version is its image's.
	image := func(tag string) environments.App {
		a := environments.App{Image: environments.ImagePaths{Tag: "image.tag"}}
		if tag != "" {
			a.Values = map[string]any{"image": map[string]any{"tag": tag}}
		}
		return a
	}
	of := func(tag string, r audit.Record) audit.Record {
		r.Serves.Image, r.Last.Release.Image = tag, tag
		return r
	}
	soaking := environments.Upstream{Strategy: environments.PromotionAuto, Soak: time.Hour}
	for _, test := range []struct {
		name    string
		app     environments.App
		up, own []audit.Record
		want    string // the version; else the beginning of the reason
		from    time.Duration
	}{
		{"it serves upstream", environments.App{}, []audit.Record{serving("1.1.0", time.Minute)}, nil, "1.1.0", 0},
		{"it serves here too", environments.App{}, []audit.Record{serving("1.0.0", time.Minute)}, nil, "", 0},
		{"in one cluster of two", environments.App{}, []audit.Record{serving("1.1.0", time.Minute), serving("1.0.0", time.Hour)}, nil, "the clusters upstream serve different versions", 0},
		{"in both, the last one a minute ago", environments.App{Upstream: soaking}, []audit.Record{serving("1.1.0", 2*time.Hour), serving("1.1.0", time.Minute)}, nil, "1.1.0 is soaking upstream", 59 * time.Minute},
		{"it has soaked", environments.App{Upstream: soaking}, []audit.Record{serving("1.1.0", 2*time.Hour)}, nil, "1.1.0", 0},
		{"the next one is under way", environments.App{}, []audit.Record{with(serving("1.1.0", time.Hour), func(r *audit.Record) { r.Target = release("1.2.0") })}, nil, "a rollout is under way upstream", 0},
		{"on hold", environments.App{}, []audit.Record{with(serving("1.1.0", time.Hour), func(r *audit.Record) { r.Held = "Ann: wait" })}, nil, "it is on hold upstream", 0},
		{"degraded", environments.App{}, []audit.Record{with(serving("1.1.0", time.Hour), func(r *audit.Record) { r.Degraded = "pods crash" })}, nil, "it is degraded upstream", 0},
		{
			"the next one was rolled back",
			environments.App{},
			[]audit.Record{with(serving("1.1.0", time.Hour), func(r *audit.Record) {
				r.Rejected, r.Last = []audit.Rejection{{Release: release("1.2.0")}}, audit.Ending{Outcome: "RolledBack", Release: release("1.2.0"), At: now}
			})},
			nil, "1.1.0", 0,
		},
		{
			"it was rolled back here",
			environments.App{},
			[]audit.Record{serving("1.1.0", time.Hour)},
			[]audit.Record{{Serves: release("1.0.0")}, {Serves: release("1.0.0"), Rejected: []audit.Rejection{{Release: release("1.1.0")}}}},
			"1.1.0 was rolled back here", 0,
		},
		{"upstream went back", environments.App{}, []audit.Record{serving("0.9.0", time.Hour)}, nil, "0.9.0, which serves upstream, is older than 1.0.0", 0},
		{"a version of another form", environments.App{}, []audit.Record{serving("build-7", time.Hour)}, nil, "build-7", 0},
		{"nowhere upstream", environments.App{}, nil, nil, "upstream does not have it", 0},
		{"never installed upstream", environments.App{}, []audit.Record{{App: "web"}}, nil, "", 0},
		{"never", environments.App{Upstream: environments.Upstream{Strategy: environments.PromotionNever}}, []audit.Record{serving("1.1.0", time.Hour)}, nil, "its strategy is Never", 0},
		{"with a fault here", environments.App{Fault: errors.New("no")}, []audit.Record{serving("1.1.0", time.Hour)}, nil, "it can't be delivered here", 0},
		{"an image", image("a1"), []audit.Record{of("b2", serving("1.0.0", time.Hour))}, nil, "b2", 0},
		{"the image that is here", image("b2"), []audit.Record{of("b2", serving("1.1.0", time.Hour))}, nil, "", 0},
		{"two images", image("a1"), []audit.Record{of("b2", serving("1.0.0", time.Hour)), of("c3", serving("1.0.0", time.Hour))}, nil, "the clusters upstream serve different versions", 0},
		{"an image that was rolled back here", image("a1"), []audit.Record{of("b2", serving("1.0.0", time.Hour))}, []audit.Record{{
			Serves: audit.Release{Version: "1.0.0", Image: "a1"}, Rejected: []audit.Rejection{{Release: audit.Release{Version: "1.0.0", Image: "b2"}}},
		}}, "b2 was rolled back here", 0},
		{"an older image", image("2.0.0"), []audit.Record{of("1.9.0", serving("1.0.0", time.Hour))}, nil, "1.9.0, which serves upstream, is older than 2.0.0", 0},
		{"an image of which upstream says nothing", image("a1"), []audit.Record{serving("1.1.0", time.Hour)}, nil, "upstream does not say which image it serves", 0},
		{"an image without a place here", image(""), []audit.Record{of("b2", serving("1.1.0", time.Hour))}, nil, "image.tag, the place of its image's tag, is not set here", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.app.Name, test.app.Chart.Version = "web", "1.0.0"
			c := Choose(&test.app, test.up, test.own, now)
			switch {
			case c.Version != "" && c.Version != test.want, c.Version == "" && !strings.HasPrefix(c.Reason, test.want), c.Version == "" && test.want == "" && c.Reason != "":
				t.Errorf("%+v, want %q", c, test.want)
			case test.from == 0 != c.From.IsZero(), test.from != 0 && !c.From.Equal(now.Add(test.from)):
				t.Errorf("from %s, want in %s", c.From, test.from)
			}
		})
	}
}
