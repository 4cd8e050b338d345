package audit

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var (
	names = Names{Environment: "production", Cluster: "eu-1"}
	noon  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

	r129 = rollout.Release{Version: "0.0.129", Digest: "sha256:1291291291291291", Commit: "c129"}
	r130 = rollout.Release{Version: "0.0.130", Digest: "sha256:1301301301301301", Commit: "c130"}
	r131 = rollout.Release{Version: "0.0.131", Digest: "sha256:1311311311311311", Commit: "c131"}
)

// life is an app's log: installed, a good bump, a bad one.
func life() []rollout.Event {
	bad := "success rate 69.17% < 99% (2 of 2 checks failed)"
	results := []analysis.Result{
		{Check: "request-success-rate", Outcome: analysis.Fail, Reason: "success rate 69.17% < 99%"},
		{Check: "request-duration", Outcome: analysis.Pass, Reason: "request duration P99 230ms <= 500ms"},
	}
	events := []rollout.Event{
		{Type: rollout.InstallStarted, To: r129},
		{Type: rollout.Installed, To: r129},
		{Type: rollout.RolloutStarted, Rollout: 1, From: r129, To: r130},
		{Type: rollout.Advanced, Rollout: 1, From: r129, To: r130, Weight: 10, Reason: "the canary is ready"},
		{Type: rollout.Advanced, Rollout: 1, From: r129, To: r130, Weight: 20, Reason: "success rate 99.90% >= 99%"},
		{Type: rollout.PromotionStarted, Rollout: 1, From: r129, To: r130, Weight: 20, Reason: "success rate 99.90% >= 99%"},
		{Type: rollout.Promoted, Rollout: 1, From: r129, To: r130},
		{Type: rollout.RolloutStarted, Rollout: 2, From: r130, To: r131},
		{Type: rollout.Advanced, Rollout: 2, From: r130, To: r131, Weight: 10, Reason: "the canary is ready"},
		{Type: rollout.CheckFailed, Rollout: 2, From: r130, To: r131, Weight: 10, Reason: "success rate 69.17% < 99% (failed check 1 of 2)", Results: results},
		{Type: rollout.RollbackStarted, Rollout: 2, From: r130, To: r131, Reason: bad, Results: results},
		{Type: rollout.RolledBack, Rollout: 2, From: r130, To: r131, Reason: bad},
		{Type: rollout.RollbackCommitted, Rollout: 2, From: r130, To: r131, Reason: bad, Commit: "0123456789abcdef0123456789abcdef01234567"},
	}
	for i := range events {
		events[i].Seq = int64(i + 1)
		events[i].Time = noon.Add(time.Duration(i) * time.Minute)
	}
	return events
}

// push applies commits to a branch.
func push(tip fstest.MapFS, commits []Commit) fstest.MapFS {
	out := fstest.MapFS{}
	for name, f := range tip {
		out[name] = f
	}
	for _, c := range commits {
		for name, data := range c.Files {
			if data == nil {
				delete(out, name)
				continue
			}
			out[name] = &fstest.MapFile{Data: data}
		}
	}
	return out
}

func send(t testing.TB, tip fstest.MapFS, b Batch) ([]Commit, fstest.MapFS) {
	t.Helper()
	var fsys fs.FS
	if tip != nil {
		fsys = tip
	}
	u, err := Commits(fsys, b)
	if err != nil || len(u.Ahead) > 0 {
		t.Fatalf("Commits: %v, ahead %v", err, u.Ahead)
	}
	return u.Commits, push(tip, u.Commits)
}

func batch(apps ...App) Batch {
	return Batch{Names: names, Commit: "c131", CommitPages: "https://git.example.com/acme/production/commit/", Apps: apps, Now: noon.Add(time.Hour)}
}

func croc(events ...rollout.Event) App {
	return App{Name: "croc-hunter-java", State: rollout.State{LastSeq: 13}, Events: events}
}

// show prints commits and the branch after them, as the golden files have it.
func show(commits []Commit, branch fstest.MapFS) string {
	var b strings.Builder
	for _, c := range commits {
		files := make([]string, 0, len(c.Files))
		for name := range c.Files {
			files = append(files, name)
		}
		slices.Sort(files)
		fmt.Fprintf(&b, "-- commit %s, %s --\n%s", c.Date.Format(time.RFC3339), strings.Join(files, " "), c.Message)
	}
	entries := make([]string, 0, len(branch))
	for name := range branch {
		entries = append(entries, name)
	}
	slices.Sort(entries)
	for _, name := range entries {
		fmt.Fprintf(&b, "-- %s --\n%s", name, branch[name].Data)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update rewrites it); got:\n%s", file, got)
	}
}

func TestLog(t *testing.T) {
	commits, branch := send(t, nil, batch(croc(life()...)))
	golden(t, "log.golden", show(commits, branch))
}

func TestFaults(t *testing.T) {
	_, branch := send(t, nil, batch(croc(life()[:2]...)))
	b := batch(
		App{Name: "broken", Fault: "fetching chart broken 1.0.0 from https://charts.example.com: no such version\nSluice-Event: Promoted"},
		App{Name: "croc-hunter-java", State: rollout.State{LastSeq: 13}, Fault: "values.yaml:3: stepWeight | 7: expected a number"},
	)
	b.Fault, b.FaultChanged = "reading env/requirements.yaml: line 3: mapping values are not allowed", true
	commits, branch := send(t, branch, b)
	golden(t, "faults.golden", show(commits, branch))

	again, _ := send(t, branch, b)
	if len(again) != 0 {
		t.Errorf("the same faults once more make %d commits", len(again))
	}
	b = batch(App{Name: "broken", Gone: true}, App{Name: "croc-hunter-java", State: rollout.State{LastSeq: 13}})
	b.FaultChanged = true
	commits, branch = send(t, branch, b)
	golden(t, "faults_cleared.golden", show(commits, branch))
}

// TestSplitAnywhere holds that the branch and the log do not depend on how the events were batched.
func TestSplitAnywhere(t *testing.T) {
	events := life()
	whole, want := send(t, nil, batch(croc(events...)))
	for cut := 1; cut < len(events); cut++ {
		first, branch := send(t, nil, batch(croc(events[:cut]...)))
		// The second batch repeats all that the first had: its answer was lost.
		second, branch := send(t, branch, batch(croc(events...)))
		if got, want := messages(append(first, second...)), messages(whole); got != want {
			t.Errorf("cut at %d, the log is\n%s", cut, got)
		}
		if got := show(nil, branch); got != show(nil, want) {
			t.Errorf("cut at %d, the branch is\n%s", cut, got)
		}
	}
	if again, _ := send(t, want, batch(croc(events...))); len(again) != 0 {
		t.Errorf("nothing new, but %d commits", len(again))
	}
}

// TestParts: a batch that is sent in parts leaves the log and the branch that it leaves when sent whole.
func TestParts(t *testing.T) {
	web := life()[:7]
	for i := range web {
		web[i].Time = web[i].Time.Add(30 * time.Second)
	}
	b := batch(croc(life()...), App{Name: "broken", Fault: "no such chart"}, App{Name: "web", State: rollout.State{LastSeq: 7}, Events: web, Fault: "no such version"})
	b.Fault, b.FaultChanged = "line 3: mapping values are not allowed", true
	b.All = map[string]bool{"croc": true, "broken": true, "web": true}
	_, forged := send(t, nil, batch(App{Name: "stranger", State: rollout.State{LastSeq: 1}, Events: life()[:1]}))
	whole, want := send(t, forged, b)
	for n := 1; n <= 30; n++ {
		var all []Commit
		branch := forged
		parts := b.Parts(n)
		for i, part := range parts {
			if (part.All != nil) != (i == 0) {
				t.Errorf("part %d of %d has the whole branch read: %t", i, len(parts), part.All != nil)
			}
			commits, after := send(t, branch, part)
			if len(commits) > n+3 { // a fault of an app, that of the environment and what is written again besides
				t.Errorf("a part of %d events makes %d commits", n, len(commits))
			}
			all, branch = append(all, commits...), after
		}
		if want := (21 + n - 1) / n; len(parts) != want {
			t.Errorf("21 events by %d are %d parts, want %d", n, len(parts), want)
		}
		if got, want := eventSubjects(all), eventSubjects(whole); !slices.Equal(got, want) {
			t.Errorf("in parts of %d the log is\n%s\nwant\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if got := show(nil, branch); got != show(nil, want) {
			t.Errorf("in parts of %d the branch is\n%s", n, got)
		}
	}
}

// eventSubjects are the subjects of the commits that tell of events, not of faults.
func eventSubjects(commits []Commit) []string {
	var list []string
	for _, c := range commits {
		if e, _ := ParseMessage(c.Message); e.Type != Error {
			subject, _, _ := strings.Cut(c.Message, "\n")
			list = append(list, subject)
		}
	}
	return list
}

// A fault that is not known yet, as after a restart, is neither told anew nor taken back.
func TestKeepFault(t *testing.T) {
	_, branch := send(t, nil, batch(App{Name: "web", State: rollout.State{LastSeq: 1}, Events: life()[:1], Fault: "no such chart"}))
	commits, branch := send(t, branch, batch(App{Name: "web", State: rollout.State{LastSeq: 2}, Events: life()[:2], KeepFault: true}))
	if len(commits) != 1 {
		t.Errorf("%d commits of one event", len(commits))
	}
	if r, _, err := Read(branch, "web"); err != nil || r.Fault != "no such chart" || r.LastSeq != 2 {
		t.Errorf("the record is %+v, %v", r, err)
	}
}

func messages(commits []Commit) string {
	var b strings.Builder
	for _, c := range commits {
		b.WriteString(c.Message)
	}
	return b.String()
}

func TestLostState(t *testing.T) {
	_, branch := send(t, nil, batch(croc(life()...)))
	u, err := Commits(branch, batch(App{Name: "croc-hunter-java", State: rollout.State{LastSeq: 2}, Events: life()[:2]}))
	if err != nil || len(u.Commits) != 0 || !reflect.DeepEqual(u.Ahead, map[string]int64{"croc-hunter-java": 13}) {
		t.Errorf("got %d commits, ahead %v, %v", len(u.Commits), u.Ahead, err)
	}
}

// An app that was removed and is listed again numbers its events from the beginning. They are news, whatever numbers the
// record has; those of the incarnation before that come again are none.
func TestAnearlierIncarnation(t *testing.T) {
	events := life()
	_, branch := send(t, nil, batch(croc(events...)))
	u, err := Commits(branch, batch(croc(events...)))
	if err != nil || len(u.Commits) != 0 || len(u.Ahead) != 0 {
		t.Errorf("the same events again: %d commits, ahead %v, %v", len(u.Commits), u.Ahead, err)
	}
	for i := range events {
		events[i].Time = events[i].Time.Add(24 * time.Hour)
	}
	u, err = Commits(branch, batch(croc(events...)))
	if err != nil || len(u.Commits) != 0 || !reflect.DeepEqual(u.Ahead, map[string]int64{"croc-hunter-java": 13}) {
		t.Errorf("got %d commits, ahead %v, %v", len(u.Commits), u.Ahead, err)
	}
}

func TestSeveralAppsInOrderOfTime(t *testing.T) {
	events := life()
	other := slices.Clone(events[:2])
	other[0].Time, other[1].Time = noon.Add(30*time.Second), noon.Add(-time.Hour) // a clock that was set back
	commits, _ := send(t, nil, batch(croc(events[:2]...), App{Name: "web", State: rollout.State{LastSeq: 2}, Events: other}))
	var subjects []string
	for i, c := range commits {
		subject, _, _ := strings.Cut(c.Message, "\n")
		subjects = append(subjects, subject)
		if _, ok := c.Files[readmeFile]; ok != (i == len(commits)-1) {
			t.Errorf("commit %d of %d has README.md: %t", i+1, len(commits), ok)
		}
	}
	want := []string{
		"croc-hunter-java: installing 0.0.129", "web: installing 0.0.129", "web: installed 0.0.129", "croc-hunter-java: installed 0.0.129",
	}
	if !slices.Equal(subjects, want) {
		t.Errorf("got %q", subjects)
	}
}

func TestRemovedAndBack(t *testing.T) {
	events := life()[:2]
	gone := rollout.Event{Seq: 3, Time: noon, Type: rollout.Removed, From: r129, Reason: "git no longer lists the app"}
	_, branch := send(t, nil, batch(croc(append(slices.Clone(events), gone)...)))
	if o, ok := ParseOverview(branch[readmeFile].Data); !ok || len(o.Rows) > 0 || len(o.Events) != 3 {
		t.Errorf("README.md still lists the app, or not what became of it:\n%s", branch[readmeFile].Data)
	}
	if again, _ := send(t, branch, batch(croc(gone))); len(again) != 0 {
		t.Error("the removal is logged twice")
	}
	back := events[0]
	back.Seq = 4
	_, branch = send(t, branch, batch(croc(back)))
	if text := string(branch[readmeFile].Data); !strings.Contains(text, "croc-hunter-java") {
		t.Errorf("README.md does not list the app again:\n%s", text)
	}
}

// TestDamagedBranch: people edit, and merges go wrong. The log goes on.
func TestDamagedBranch(t *testing.T) {
	_, branch := send(t, nil, batch(croc(life()[:2]...), App{Name: "web", State: rollout.State{LastSeq: 2}, Events: life()[:2]}))
	want := string(branch[readmeFile].Data)
	for name, text := range map[string]string{
		readmeFile: "# hello\n", environmentFile: "\t: [", "apps/other.yaml": "{", "apps/dir.yaml/x": "",
	} {
		t.Run(name, func(t *testing.T) {
			hurt := push(branch, []Commit{{Files: map[string][]byte{name: []byte(text)}}})
			commits, healed := send(t, hurt, batch(croc(life()[:3]...)))
			if len(commits) != 1 {
				t.Fatalf("%d commits", len(commits))
			}
			got := string(healed[readmeFile].Data)
			if !strings.Contains(got, "[web]") || !strings.Contains(want, "[web]") {
				t.Errorf("README.md lost an app:\n%s", got)
			}
		})
	}
	hurt := push(branch, []Commit{{Files: map[string][]byte{"apps/croc-hunter-java.yaml": []byte("app: [")}}})
	if commits, _ := send(t, hurt, batch(croc(life()[2]))); len(commits) != 2 {
		t.Errorf("a damaged record makes %d commits of one event, expected one that restores it, and one of the event", len(commits))
	}
}

type brokenFS struct{ fs.FS }

func (brokenFS) Open(string) (fs.File, error) { return nil, errors.New("disk on fire") }

func TestUnreadableTipIsAnError(t *testing.T) {
	if _, err := Commits(brokenFS{}, batch(croc(life()...))); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("error = %v", err)
	}
}

func TestMessagesReadBack(t *testing.T) {
	for _, e := range life() {
		got, ok := ParseMessage(eventMessage(names, "croc-hunter-java", e))
		e.Results, e.From.Commit = nil, ""
		if want := (Entry{Names: names, App: "croc-hunter-java", Event: e}); !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s reads back as\n%+v, want\n%+v", e.Type, got, want)
		}
	}
	for _, msg := range []string{
		"", "fix: typo", "a\n\nSluice-Event: Promoted", "a\n\nSluice-Environment: p\n\nbody",
		"a\n\nSluice-Environment: p\nSluice-Event: Advanced\nSluice-Weight: 101", "a\n\nSluice-Environment: p\nSluice-Event: Advanced\nSluice-Seq: -1",
	} {
		if IsOwn(msg) {
			t.Errorf("%q counts as our own", msg)
		}
	}
}

func TestRollbackMessage(t *testing.T) {
	revert := rollout.Revert{From: r131, To: r130, Rollout: 2, Reason: "success rate 69.17% < 99% (2 of 2 checks failed)"}
	msg := RollbackMessage(names, "croc-hunter-java", revert)
	golden(t, "rollback.golden", msg)
	if !IsOwn(msg) || !IsRollback(msg, "croc-hunter-java", revert) {
		t.Error("it does not know its own message")
	}
	other := revert
	other.From.Commit = "again"
	if IsRollback(msg, "web", revert) || IsRollback(msg, "croc-hunter-java", other) {
		t.Error("it takes another rollback for this one")
	}
	want := rollout.TakenBack{Cluster: names.Cluster, Release: r131, Reason: revert.Reason}
	want.Release.By = ""
	own := Names{Environment: names.Environment, Cluster: "us"}
	if got := TakenBack(msg, own, "croc-hunter-java"); got == nil || *got != want || !got.Names(r131) || got.Names(r130) {
		t.Errorf("takes back %+v, want %+v", got, want)
	}
	long := strings.Replace(msg, "Sluice-Reason: ", "Sluice-Reason: "+strings.Repeat("long ", 100_000), 1)
	if got := TakenBack(long, own, "croc-hunter-java"); got == nil || len(got.Reason) > 2*longestText {
		t.Errorf("a reason of %d bytes is kept", len(got.Reason))
	}
	alone := RollbackMessage(Names{Environment: names.Environment}, "croc-hunter-java", revert)
	promoted := eventMessage(names, "croc-hunter-java", rollout.Event{Type: rollout.Promoted, From: r130, To: r131})
	for why, got := range map[string]*rollout.TakenBack{
		"its own":         TakenBack(msg, names, "croc-hunter-java"),
		"another app's":   TakenBack(msg, own, "web"),
		"elsewhere":       TakenBack(msg, Names{Environment: "staging", Cluster: "us"}, "croc-hunter-java"),
		"nobody's":        TakenBack(alone, own, "croc-hunter-java"),
		"another event":   TakenBack(promoted, own, "croc-hunter-java"),
		"no such message": TakenBack("Revert \"promote\"", own, "croc-hunter-java"),
	} {
		if got != nil {
			t.Errorf("%s: takes back %+v", why, got)
		}
	}
}

func TestDescribe(t *testing.T) {
	values := r130
	values.Digest = "sha256:ffffffffffffffff"
	build, next := r129, values // the chart stays, and its image is another one
	build.Version, build.Image, next.Image = next.Version, "1.4.0", "1.4.1"
	for want, e := range map[string]rollout.Event{
		"web: advanced to 20% (0.0.129 -> 0.0.130): success rate 99.90% >= 99%": {Type: rollout.Advanced, From: r129, To: r130, Weight: 20, Reason: "success rate 99.90% >= 99%"},
		"web: rolled back 0.0.131 to 0.0.130":                                   {Type: rollout.RolledBack, From: r130, To: r131},
		"web: rollout started (0.0.130 [1301301301] -> 0.0.130 [ffffffffff])":   {Type: rollout.RolloutStarted, From: r130, To: values},
		"web: rollout started (1.4.0 -> 1.4.1)":                                 {Type: rollout.RolloutStarted, From: build, To: next},
		"web: installing 0.0.129":                                               {Type: rollout.InstallStarted, To: r129},
		"web: the revert of 0.0.130 to 0.0.129 in git waits to be merged: branch sluice/rollback/p/web-1": {
			Type: rollout.RollbackProposed, From: r129, To: r130, Branch: "sluice/rollback/p/web-1",
		},
		"web: removed 0.0.129":                                      {Type: rollout.Removed, From: r129},
		"web: Novelty (nothing -> 0.0.129)":                         {Type: "Novelty", To: r129},
		"web: held at 0% (0.0.129 -> 0.0.130): a b":                 {Type: rollout.CheckFailed, From: r129, To: r130, Reason: "a\n\nb\x1b"},
		"web: degraded (0.0.129): not available: 0 of 2 pods ready": {Type: rollout.Degraded, From: r129, Reason: "not available: 0 of 2 pods ready"},
	} {
		if got := Describe("web", e); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		read, ok := ParseMessage(eventMessage(Names{Environment: "production"}, "web", e))
		if got := Describe(read.App, read.Event); !ok || got != want {
			t.Errorf("read from its commit it is %q, want %q", got, want)
		}
	}
}

// TestEveryEventHasARow: each type that the policy declares is known to readers.
func TestEveryEventHasARow(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../rollout/event.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	types := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "EventType" {
			return true
		}
		for _, v := range spec.Values {
			name, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			types++
			if row := kinds[rollout.EventType(name)]; row.sentence == "" || row.record == nil {
				t.Errorf("%s has no row, or half of one: %+v", name, row.sentence)
			}
		}
		return true
	})
	if types < 20 {
		t.Errorf("%d types were found", types)
	}
}

// What people have asked stands in the record for as long as it lasts, and the log names them.
func TestPeople(t *testing.T) {
	r := Record{App: "web"}
	seq := int64(0)
	after := func(e rollout.Event) {
		seq++
		e.Seq, e.Time, e.From, e.To = seq, noon, r129, r130
		r = r.After(e)
		got, ok := ParseMessage(eventMessage(names, "web", e))
		if !ok || got.By != e.By || got.Command != e.Command {
			t.Errorf("%s: read again as %+v", e.Type, got)
		}
	}
	after(rollout.Event{Type: rollout.Held, By: "Ann", Reason: "over the\nholidays", Command: "k1"})
	after(rollout.Event{Type: rollout.RolloutStarted, Rollout: 1})
	after(rollout.Event{Type: rollout.Advanced, Rollout: 1, Weight: 10})
	after(rollout.Event{Type: rollout.Paused, Rollout: 1, Weight: 10, By: "Bob", Command: "k2"})
	after(rollout.Event{Type: rollout.Waiting, Rollout: 1, Weight: 10, Reason: "gate soak is closed"})
	if r.Held != "Ann: over the holidays" || r.Paused != "Bob" || r.Waiting != "gate soak is closed" {
		t.Errorf("%+v", r)
	}
	if row := r.row(); !strings.HasSuffix(row.Phase, "(paused)") {
		t.Errorf("row %+v", row)
	}
	after(rollout.Event{Type: rollout.CommandRefused, Rollout: 1, Weight: 10, By: "Eve", Command: "k3", Reason: "Pause: it is paused already"})
	after(rollout.Event{Type: rollout.Advanced, Rollout: 1, Weight: 20})
	if r.Paused != "Bob" || r.Waiting != "" || r.Weight != 20 {
		t.Errorf("the pause goes on at the next step: %+v", r)
	}
	after(rollout.Event{Type: rollout.Promoted, Rollout: 1})
	after(rollout.Event{Type: rollout.Unheld, By: "Ann", Command: "k4"})
	if r.Held != "" || r.Paused != "" {
		t.Errorf("%+v", r)
	}
}

func TestFile(t *testing.T) {
	for app, want := range map[string]string{
		"croc-hunter-java": "apps/croc-hunter-java.yaml", "../x": "apps/%2E.%2Fx.yaml", ".git": "apps/%2Egit.yaml", "a b": "apps/a%20b.yaml",
	} {
		if got := File(app); got != want || !fs.ValidPath(got) {
			t.Errorf("File(%q) = %q, want %q", app, got, want)
		}
	}
}

func TestCheckpointFields(t *testing.T) {
	events := life()
	r := Record{App: "croc-hunter-java"}
	for _, e := range events[:11] {
		r = r.After(e)
	}
	if r.Phase != "RollingBack" || len(r.Rejected) != 1 || r.Rejected[0].Release.Version != "0.0.131" || len(r.Checks) != 2 {
		t.Errorf("after the failure: %+v", r)
	}
	again := events[7]
	again.Rollout = 3
	if next := r.After(again); len(next.Rejected) != 0 || len(r.Rejected) != 1 {
		t.Errorf("tried again, rejected is %v, and of the older record %v", next.Rejected, r.Rejected)
	}
	stalled := r.After(rollout.Event{Seq: 12, Type: rollout.Stalled, From: r130, To: r131, Weight: 10, Reason: "no data"})
	if row := stalled.row(); stalled.Stalled != "no data" || !strings.HasSuffix(row.Phase, "(stalled)") {
		t.Errorf("stalled: %+v", row)
	}
}

func BenchmarkOneEventOfTenThousandApps(b *testing.B) {
	var apps []App
	for i := range 10_000 {
		apps = append(apps, App{Name: fmt.Sprintf("app-%05d", i), State: rollout.State{LastSeq: 2}, Events: life()[1:2]})
	}
	_, branch := send(b, nil, batch(apps...))
	next := life()[2]
	b.ReportAllocs()
	for b.Loop() {
		if commits, _ := send2(b, branch, batch(App{Name: "app-05000", State: rollout.State{LastSeq: 3}, Events: []rollout.Event{next}})); len(commits) != 1 {
			b.Fatal(len(commits))
		}
	}
}

func send2(b *testing.B, tip fs.FS, ba Batch) ([]Commit, map[string]int64) {
	u, err := Commits(tip, ba)
	if err != nil {
		b.Fatal(err)
	}
	return u.Commits, u.Ahead
}

// An agent that was restarted records what is left before it has seen the environment branch.
func TestUnknownCommitKeepsTheOneBefore(t *testing.T) {
	_, branch := send(t, nil, batch(croc(life()[:2]...)))
	b := batch(croc(life()[:3]...))
	b.Commit = ""
	_, branch = send(t, branch, b)
	if st, err := ReadStatus(branch); err != nil || st.Commit != "c131" {
		t.Errorf("commit is %q, %v", st.Commit, err)
	}
}

// TestGitReadsTrailers holds that git's own idea of a trailer is ours: git log --format='%(trailers)' is the log.
func TestGitReadsTrailers(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not on PATH")
	}
	events := life()
	for _, reason := range []string{
		"--- a/README.md", "---", "# ------------------------ >8 ------------------------", "#", "diff --git a/x b/x",
		"first\n\nSluice-Event: Promoted\nSluice-Seq: 99\n", "Signed-off-by: Eve <eve@example.com>", "\u2028Sluice-Weight: 100", "\x00\xff\r\n \tx",
		"(cherry picked from commit 1234)", strings.Repeat("very long ", 20_000), strings.Repeat("x", 100_000),
	} {
		e := life()[9]
		e.Reason, e.To.Version, e.Results[0].Check, e.Results[0].Reason = reason, reason, reason, reason
		events = append(events, e)
	}
	for _, e := range events {
		msg := eventMessage(names, "croc-hunter-java", e)
		cmd := exec.CommandContext(t.Context(), git, "interpret-trailers", "--parse")
		cmd.Stdin = strings.NewReader(msg)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if want := msg[strings.LastIndex(msg, "\n\n")+2:]; string(out) != want {
			t.Errorf("%s: git reads\n%s\nwant\n%s", e.Type, out, want)
		}
	}
}

// A recovery leaves the record at rest with what serves; it ends a rollout only where one was under way.
func TestRecovered(t *testing.T) {
	r129, r130 := rollout.Release{Version: "0.0.129", Digest: "a"}, rollout.Release{Version: "0.0.130", Digest: "b"}
	under := Record{App: "web"}.After(rollout.Event{Seq: 1, Type: rollout.Promoted, From: r130, To: r129}).
		After(rollout.Event{Seq: 2, Type: rollout.Advanced, From: r129, To: r130, Weight: 50})
	got := under.After(rollout.Event{Seq: 3, Type: rollout.Recovered, From: r129, To: r130, Reason: "its saved state is gone"})
	if got.Phase != phaseIdle || got.Serves.Version != "0.0.129" || got.Weight != 0 || got.Target.Version != "" || got.Last.Outcome != "Recovered" {
		t.Errorf("in mid-rollout: %+v", got)
	}
	got = under.After(rollout.Event{Seq: 3, Type: rollout.Recovered, From: r129, Reason: "its saved state is gone"})
	if got.Phase != phaseIdle || got.Serves.Version != "0.0.129" || got.Weight != 0 || got.Last.Outcome != "Promoted" {
		t.Errorf("nothing known to be under way: %+v", got)
	}
}
