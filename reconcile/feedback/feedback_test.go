package feedback

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/clusters"
)

var now = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func release(version, commit string) audit.Release {
	return audit.Release{Version: version, Commit: commit}
}

func TestStatuses(t *testing.T) {
	names := audit.Names{Environment: "production", Cluster: "us"}
	records := []audit.Record{
		{App: "api", Phase: "Analyzing", Serves: release("1", "old"), Target: release("2", "c2"), Weight: 30},
		{App: "web", Serves: release("2", "c2"), Last: audit.Ending{Outcome: "Promoted", Release: release("2", "c2"), At: now}},
		{App: "db", Serves: release("1", "old"), Last: audit.Ending{Outcome: "RolledBack", Release: release("2", "c3"), Reason: "success rate 69% < 99%", At: now}},
		{App: "mq", Phase: "Analyzing", Serves: release("1", "old"), Target: release("2", "c4"), Weight: 20, Paused: "Ann: wait"},
		{App: "old", Serves: release("1", "c0"), Last: audit.Ending{Outcome: "Promoted", Release: release("1", "c0"), At: now.Add(-25 * time.Hour)}},
		{App: "new"},
	}
	var got []string
	for _, s := range Statuses(names, records, now.Add(-24*time.Hour)) {
		if s.Name != "sluice/production/us" {
			t.Errorf("it is called %s", s.Name)
		}
		got = append(got, s.Commit+" "+string(s.Verdict)+" "+s.Description)
	}
	want := []string{
		"c2 pending api 2: analyzing at 30%; web 2: promoted",
		"c3 failure db 2 was rolled back: success rate 69% < 99%",
		"c4 pending mq 2: paused at 20%",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}

func TestTable(t *testing.T) {
	us := clusters.New("us", audit.Record{
		App: "web", Phase: "Analyzing", Target: release("2", "0123456789abcdef"), Weight: 30,
		Checks: []audit.Check{{Name: "success", Reason: "99.8% >= 99%"}, {Name: "latency", Reason: "12 ms <= 500 ms"}},
	})
	us.Branch = "sluice/status/production/us"
	got := Table("production", "0123456789abcdef", []clusters.Cluster{
		clusters.New("asia"),
		{Name: "au", Fault: errors.New("apps/web.yaml:1: no record")},
		clusters.New("eu", audit.Record{App: "db", Serves: release("1", "old")}, audit.Record{App: "web", Serves: release("1", "old"), Held: "Ann: wait"}),
		clusters.New("sa", audit.Record{App: "web", Serves: release("1", "old"), Last: audit.Ending{
			Outcome: "RolledBack", Release: release("2", "0123456789abcdef"), Reason: "a | b @team\n#1",
		}}),
		us,
	}, func(branch, file string) string {
		if branch == "" {
			return ""
		}
		return "https://git.example.com/commits/" + branch + "/" + file
	})
	want := `**production**, commit 0123456789

| app | cluster | version | state | details |
| --- | --- | --- | --- | --- |
| web | asia | | not there yet | |
| web | au | | can't be read | apps/web.yaml:1: no record |
| web | eu |  | queued | Ann: wait |
| web | sa | 2 | was rolled back | a \| b @` + "\u200bteam #\u200b1" + ` |
| web | us | 2 | [analyzing at 30%](https://git.example.com/commits/sluice/status/production/us/apps/web.yaml) | success: 99.8% >= 99%; latency: 12 ms &lt;= 500 ms |

Every step is a commit of the cluster's status branch.
`
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestNumberIn(t *testing.T) {
	for message, want := range map[string]int{
		"chore: promote web to version 2 (#12)":                                 12,
		"chore: promote web to version 2 (#12)\n\nReviewed by Ann":              12,
		"Merge pull request #7 from acme/promote\n\ntext":                       7,
		"Merge pull request 'chore: x' (#9) from promote into main":             9,
		"Merge branch 'x' into 'main'\n\ntext\n\nSee merge request acme/env!33": 33,
		"fix: (#12) is not at the end":                                          0,
		"fix: nothing\n\nas in (#4)":                                            0,
		"(#99999999999999999999)":                                               0,
	} {
		if got := numberIn(message); got != want {
			t.Errorf("%q: %d, want %d", message, got, want)
		}
	}
}

func TestBroughtBack(t *testing.T) {
	env := func(version string) *environments.Environment {
		return &environments.Environment{Apps: []environments.App{{Name: "web", Chart: environments.ChartRef{Version: version}}}}
	}
	failed := audit.Record{App: "web", Serves: release("1", "a"), Rejected: []audit.Rejection{{Release: release("2", "b"), Reason: "success rate 69% < 99%"}}}
	again := failed
	again.Target = release("2", "c")
	for _, test := range []struct {
		name      string
		now, then string
		record    audit.Record
		back      bool
	}{
		{"it was rolled back", "1", "2", failed, true},
		{"another version", "1", "3", failed, false},
		{"the branch says so already", "2", "2", failed, false},
		{"somebody has let it in again", "1", "2", again, false},
		{"another app", "1", "2", audit.Record{App: "api", Rejected: failed.Rejected}, false},
	} {
		if got := BroughtBack(env(test.now), env(test.then), []audit.Record{test.record}); (got != "") != test.back {
			t.Errorf("%s: %q", test.name, got)
		}
	}
	if got := BroughtBack(env("1"), env("2"), []audit.Record{failed}); got != "web 2 was rolled back here: success rate 69% < 99%. To allow it again: sluice retry" {
		t.Errorf("it says %q", got)
	}
	image := func(tag string) *environments.Environment {
		e := env("1")
		e.Apps[0].Image, e.Apps[0].Values = environments.ImagePaths{Tag: "tag"}, map[string]any{"tag": tag}
		return e
	}
	failed.Serves.Image, failed.Rejected[0].Release = "a1", audit.Release{Version: "1", Image: "b2"}
	if got := BroughtBack(image("a1"), image("b2"), []audit.Record{failed}); !strings.HasPrefix(got, "web b2 was rolled back here") {
		t.Errorf("of an image it says %q", got)
	}
	if rank(forge.Failure) <= rank(forge.Pending) || rank(forge.Pending) <= rank(forge.Success) {
		t.Error("verdicts have no order")
	}
}

// What a Reporter remembers is what its looks need, and not all that there ever was.
func TestMemory(t *testing.T) {
	var m memory[int, string]
	for look := range 10 {
		m.put(look, "told")
		if _, known := m.get(0); !known {
			t.Fatalf("look %d has forgotten what each look asks for", look)
		}
		m.age()
	}
	if _, known := m.get(5); known || len(m.before) != 2 {
		t.Errorf("it remembers %v", m.before)
	}
}

// A forge moves the branch, and says only then that the pull request is merged: whoever looks in between has to look again.
func TestPullMergedJustNow(t *testing.T) {
	p, r := newPlace(t)
	commit := p.push("main", "chore: promote web to version 2 (#1)")
	if _, err := r.branch.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	pull := forge.Pull{Number: 1, Base: "main", State: forge.Open}
	p.open = []forge.Pull{pull}
	if got, err := r.pullOf(t.Context(), commit); err != nil || got != nil {
		t.Errorf("while it is open: %+v, %v", got, err)
	}
	pull.State, pull.MergeCommit = forge.Merged, commit
	p.open, p.merged = nil, map[int]forge.Pull{1: pull}
	if got, err := r.pullOf(t.Context(), commit); err != nil || got == nil || got.Number != 1 {
		t.Errorf("once it is merged: %+v, %v", got, err)
	}
}
