package main

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

var updateScreens = flag.Bool("update", false, "rewrite the golden screens")

var (
	screenOld = rollout.Release{Version: "0.0.129", Digest: "d129", Commit: "b56e179d00000000000000000000000000000000", By: "A Developer <dev@example.com>"}
	screenNew = rollout.Release{Version: "0.0.130", Digest: "d130", Commit: "019be3de00000000000000000000000000000000", By: "Ann <ann@example.com>"}
)

// screenAt counts from when the story begins.
func screenAt(seconds int) time.Time {
	return time.Date(2026, 1, 2, 4, 35, 0, 0, time.UTC).Add(time.Duration(seconds) * time.Second)
}

// life is an app's: its events, and the State that they came to.
type life struct {
	state  rollout.State
	events []rollout.Event
	fault  string
}

// with is a longer life.
func (l life) with(change func(*rollout.State), events ...rollout.Event) life {
	l.events = append(l.events[:len(l.events):len(l.events)], events...)
	if change != nil {
		change(&l.state)
	}
	for i := range l.events {
		l.events[i].Seq = int64(i + 1)
	}
	l.state.LastSeq = int64(len(l.events))
	return l
}

// lives are an app in each phase.
func lives() map[string]life {
	passed := []analysis.Result{
		{Check: "request-success-rate", Outcome: analysis.Pass, Reason: "success rate 100.00% >= 99%"},
		{Check: "request-duration", Outcome: analysis.Pass, Reason: "request duration P99 25ms <= 500ms"},
	}
	failed := []analysis.Result{
		{Check: "request-success-rate", Outcome: analysis.Fail, Reason: "success rate 68.75% < 99%"},
		{Check: "request-duration", Outcome: analysis.Inconclusive, Reason: "request duration P99: no requests in 1m0s"},
	}
	plan := &rollout.Plan{Strategy: environments.StrategyCanary, Interval: time.Minute, Threshold: 5}
	for _, w := range []int{10, 20, 30, 40, 50} {
		plan.Steps = append(plan.Steps, rollout.Step{Exposure: rollout.Exposure{Weight: w}})
	}
	event := func(second int, typ rollout.EventType, weight int, reason string, results ...analysis.Result) rollout.Event {
		return rollout.Event{Time: screenAt(second), Type: typ, Rollout: 1, From: screenOld, To: screenNew, Weight: weight, Reason: reason, Results: results}
	}
	in := func(phase rollout.Phase, weight, failures int) func(*rollout.State) {
		return func(s *rollout.State) {
			s.Phase, s.Weight, s.FailedChecks, s.Plan, s.Rollouts = phase, weight, failures, plan, 1
			s.Stable, s.Target = screenOld, screenNew
		}
	}
	installing := life{}.with(func(s *rollout.State) { s.Phase, s.Target = rollout.Installing, screenOld },
		rollout.Event{Time: screenAt(0), Type: rollout.InstallStarted, To: screenOld})
	idle := installing.with(func(s *rollout.State) { s.Phase, s.Stable, s.Target = rollout.Idle, screenOld, rollout.Release{} },
		rollout.Event{Time: screenAt(5), Type: rollout.Installed, To: screenOld})
	starting := idle.with(in(rollout.Starting, 0, 0), event(10, rollout.RolloutStarted, 0, ""))
	rising := starting.with(in(rollout.Analyzing, 10, 0), event(15, rollout.Advanced, 10, "the canary is ready")).
		with(in(rollout.Analyzing, 20, 0), event(75, rollout.Advanced, 20, "success rate 100.00% >= 99%", passed...))
	failing := rising.with(in(rollout.Analyzing, 20, 1), event(135, rollout.CheckFailed, 20, "success rate 68.75% < 99% (failed check 1 of 5)", failed...))
	resting := func(s *rollout.State) {
		s.Phase, s.Stable, s.Target, s.Weight = rollout.Idle, screenOld, rollout.Release{}, 0
	}
	back := failing.with(in(rollout.RollingBack, 0, 5), event(140, rollout.RollbackStarted, 0, "success rate 68.75% < 99% (5 of 5 checks failed)", failed...))
	backed := back.with(resting, event(150, rollout.RolledBack, 0, "success rate 68.75% < 99% (5 of 5 checks failed)"))
	put := event(155, rollout.RollbackCommitted, 0, "")
	put.Commit = "6cf5896523000000000000000000000000000000"
	proposed := event(155, rollout.RollbackProposed, 0, "")
	proposed.Branch, proposed.URL = "sluice/rollback/production/web", "https://git.example.com/pulls/7"
	paused, held := event(80, rollout.Paused, 20, "checkout is slow"), event(20, rollout.Held, 0, "over the holidays")
	paused.By, held.By = "Ann <ann@example.com>", "Ann <ann@example.com>"
	held.Rollout = 0
	broken := idle
	broken.fault = "env/requirements.yaml:7: dependencies.croc-hunter-java.version: missing"
	return map[string]life{
		"installing": installing, "idle": idle, "starting": starting, "rising": rising, "failing": failing, "rolling-back": back,
		"promoting": rising.with(in(rollout.Promoting, 50, 0), event(255, rollout.PromotionStarted, 50, "success rate 100.00% >= 99%", passed...)),
		"promoted": rising.with(func(s *rollout.State) { resting(s); s.Stable = screenNew },
			event(255, rollout.PromotionStarted, 50, "success rate 100.00% >= 99%", passed...), event(260, rollout.Promoted, 0, "")),
		"rolled-back": backed.with(nil, put), "rollback-proposed": backed.with(nil, proposed),
		"paused": rising.with(nil, paused), "held": idle.with(nil, held),
		"stalled":   rising.with(nil, event(140, rollout.Stalled, 20, "10 inconclusive checks in a row: no requests in 1m0s")),
		"suspended": idle.with(nil, event(20, rollout.Waiting, 0, "gate suspend is closed: the policy says suspend: true")),
		"approval":  idle.with(nil, event(20, rollout.Waiting, 0, "gate approval is closed: not approved yet")),
		"removed":   idle.with(func(s *rollout.State) { *s = rollout.State{} }, rollout.Event{Time: screenAt(20), Type: rollout.Removed, From: screenOld}),
		"error":     broken,
	}
}

// written is a status branch as the agent writes it, with its log, newest first.
func written(t *testing.T, l life) (fs.FS, []gitsync.Commit) {
	t.Helper()
	now := screenAt(0)
	if len(l.events) > 0 {
		now = l.events[len(l.events)-1].Time
	}
	update, err := audit.Commits(nil, audit.Batch{
		Names: audit.Names{Environment: "production"}, Commit: screenNew.Commit, Now: now, FaultChanged: true,
		Apps: []audit.App{{Name: "croc-hunter-java", State: l.state, Events: l.events, Fault: l.fault}},
	})
	if err != nil {
		t.Fatal(err)
	}
	branch := fstest.MapFS{}
	var log []gitsync.Commit
	for i, c := range update.Commits {
		for name, data := range c.Files {
			branch[name] = &fstest.MapFile{Data: data}
		}
		log = append([]gitsync.Commit{{Hash: fmt.Sprintf("%010x%030d", i, 0), Message: c.Message, Time: c.Date}}, log...)
	}
	return branch, log
}

// TestScreens: an app in each phase, as status APP has it on terminals of each width and with colour, as it stands in status, which --watch
// shows again and again, and its log. Colour changes nothing else.
func TestScreens(t *testing.T) {
	all := lives()
	all["silent"] = all["idle"]
	for name, l := range all {
		later := 12 * time.Second
		if name == "silent" {
			later = 48 * time.Hour
		}
		branch, log := written(t, l)
		st, err := readStatus(branch, []string{"croc-hunter-java"})
		if err != nil {
			t.Fatal(err)
		}
		st.now = st.Updated.Add(later)
		events := entries(log, []string{"croc-hunter-java"}, 0)
		screen := appScreen{Status: st.Status, app: st.Apps[0], events: events, now: st.now}
		var all bytes.Buffer
		for _, width := range []int{60, 80, 160} {
			var text, tinted bytes.Buffer
			screen.draw(canvas{w: &text, width: width})
			fmt.Fprintf(&all, "== %d columns\n%s", width, text.String())
			for line := range bytes.Lines(text.Bytes()) {
				if n := len(bytes.TrimRight(line, "\n")); n > width && bytes.ContainsAny(bytes.TrimSpace(line), " ") {
					t.Errorf("%s: a line of %d columns on a terminal of %d:\n%s", name, n, width, line)
				}
			}
			screen.draw(canvas{w: &visible{to: &tinted}, raw: &tinted, width: width, tint: true})
			if got := escapes.ReplaceAll(tinted.Bytes(), nil); !bytes.Equal(got, text.Bytes()) {
				t.Errorf("%s: with colour, %d columns have another text:\n%s", name, width, got)
			}
			if width == 80 {
				fmt.Fprintf(&all, "== 80 columns, in colour\n%s", bytes.ReplaceAll(tinted.Bytes(), []byte("\x1b"), []byte("^")))
			}
		}
		fmt.Fprintln(&all, "== status")
		if err := st.print(&all, false); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&all, "== log")
		if err := printLog(&all, events, false); err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata", "screens", name+".golden"), all.Bytes())
	}
}

// escapes are what colours a terminal.
var escapes = regexp.MustCompile(`\x1b\[[0-9;]*m`)

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *updateScreens {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil { //nolint:gosec // it is in the repository
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-update rewrites it); got:\n%s", file, got)
	}
}

// TestHostileScreen: a text of somebody's does not drive the terminal, also where colour does.
func TestHostileScreen(t *testing.T) {
	s := appScreen{app: audit.Record{App: "web", Fault: "\x1b[2Jgone", Phase: "Idle"}}
	var out bytes.Buffer
	s.draw(canvas{w: &visible{to: &out}, raw: &out, width: 80, tint: true})
	if bytes.Contains(out.Bytes(), []byte("\x1b[2J")) || !bytes.Contains(out.Bytes(), []byte(`\u001b[2Jgone`)) {
		t.Errorf("%q", out.String())
	}
}
