package audit

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// resting is an app whose State says what life left behind.
func resting(name string, events ...rollout.Event) App {
	return App{Name: name, Events: events, State: rollout.State{
		Stable: r130, Rollouts: 2, LastSeq: 13, Outcome: rollout.RolledBack, Reason: "success rate 69.17% < 99%", Since: noon,
		Rejected: []rollout.Rejection{{Release: r131, Reason: "success rate 69.17% < 99%"}},
		Hold:     &rollout.Asked{By: "Ann <ann@example.com>", Reason: "freeze"},
	}}
}

// everybody is a batch that looks at the whole branch.
func everybody(apps ...App) Batch {
	b := batch(apps...)
	b.All = map[string]bool{}
	for _, a := range apps {
		b.All[a.Name] = true
	}
	return b
}

// TestDeletedBranch: what is gone is written again from the states, be there events or not, in one commit, and once.
func TestDeletedBranch(t *testing.T) {
	bump := rollout.Event{Seq: 13, Time: noon, Type: rollout.Promoted, Rollout: 2, From: r129, To: r130}
	for _, b := range []Batch{batch(resting("api"), resting("web", bump)), everybody(resting("api"), resting("web", bump))} {
		commits, branch := send(t, nil, b)
		if len(commits) != 2 || !strings.Contains(commits[0].Message, "Sluice-Event: Restored") ||
			!strings.Contains(commits[0].Message, "apps/api.yaml, apps/web.yaml") {
			t.Errorf("it is written again by\n%s", messages(commits))
		}
		for _, app := range []string{"api", "web"} {
			r, ok, err := Read(branch, app)
			if !ok || err != nil || r.Phase != phaseIdle || r.Serves.Version != "0.0.130" || r.LastSeq != 13 || r.Held != "Ann: freeze" || len(r.Rejected) != 1 {
				t.Errorf("the record of %s is %+v, %v", app, r, err)
			}
			if !strings.Contains(string(branch[readmeFile].Data), "["+app+"](") {
				t.Errorf("README.md does not list %s", app)
			}
		}
		if again, _ := send(t, branch, everybody(resting("api"), resting("web"))); len(again) != 0 {
			t.Errorf("and then again:\n%s", messages(again))
		}
	}
}

// TestForgedBranch: what somebody else has written is taken back.
func TestForgedBranch(t *testing.T) {
	whole := everybody(resting("api"), resting("web"))
	_, branch := send(t, nil, whole)
	if again, _ := send(t, branch, whole); len(again) != 0 {
		t.Errorf("nothing is wrong, and it is written again:\n%s", messages(again))
	}
	record := string(branch["apps/web.yaml"].Data)
	readme := string(branch[readmeFile].Data)
	for name, hurt := range map[string]struct{ file, text string }{
		"version":     {"apps/web.yaml", strings.Replace(record, "0.0.130", "9.9.9", 1)},
		"phase":       {"apps/web.yaml", strings.Replace(record, "phase: Idle", "phase: Promoting", 1)},
		"low number":  {"apps/web.yaml", strings.Replace(record, "lastSeq: 13", "lastSeq: 3", 1)},
		"no number":   {"apps/web.yaml", strings.Replace(record, "lastSeq: 13", "lastSeq: -5", 1)},
		"overflow":    {"apps/web.yaml", strings.Replace(record, "lastSeq: 13", "lastSeq: 9223372036854775807", 1)},
		"too large":   {"apps/web.yaml", strings.Replace(record, "lastSeq: 13", "lastSeq: 9223372036854775808", 1)},
		"weight":      {"apps/web.yaml", record + "weight: -1\n"},
		"exposure":    {"apps/web.yaml", record + "weight: 50\n"},
		"rollout":     {"apps/web.yaml", strings.Replace(record, "rollout: 2", "rollout: 7", 1)},
		"hold":        {"apps/web.yaml", strings.Replace(record, "Ann: freeze", "Eve: fire", 1)},
		"pause":       {"apps/web.yaml", record + "paused: 'Eve: wait'\n"},
		"rejected":    {"apps/web.yaml", strings.Replace(record, "rejected:", "refused:", 1)},
		"another's":   {"apps/web.yaml", strings.Replace(record, "app: web", "app: api", 1)},
		"gone":        {"apps/web.yaml", ""},
		"row":         {readmeFile, strings.Replace(readme, "| 0.0.130", "| 9.9.9", 1)},
		"table":       {readmeFile, ""},
		"commit":      {environmentFile, "environment: production\ncluster: eu-1\ncommit: c1\n"},
		"environment": {environmentFile, "environment: staging\n"},
		"a stranger":  {"apps/evil.yaml", "app: evil\nphase: Idle\nlastSeq: 4\nserves: {version: 1.0.0}\n"},
	} {
		forged := Commit{Files: map[string][]byte{hurt.file: []byte(hurt.text)}}
		if hurt.text == "" {
			forged.Files[hurt.file] = nil
		}
		commits, healed := send(t, push(branch, []Commit{forged}), whole)
		if len(commits) != 1 || !strings.Contains(commits[0].Message, "Sluice-Event: Restored") {
			t.Errorf("%s: it is mended by\n%s", name, messages(commits))
		}
		if got, want := show(nil, healed), show(nil, branch); undated(got) != undated(want) {
			t.Errorf("%s: it is mended to\n%s\nwant\n%s", name, got, want)
		}
	}
}

// undated is without the lines that say when something was written.
func undated(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "updated: ") {
			out.WriteString(line)
		}
	}
	return out.String()
}

// TestForgedNumber: a number that leaves none for the app's own events is no number; one that a lost State explains is
// counted on from.
func TestForgedNumber(t *testing.T) {
	for seq, want := range map[string]string{"13000": "ahead", "1048589": "ahead", "1048590": "damaged", "9223372036854775807": "damaged"} {
		_, branch := send(t, nil, batch(croc(life()...)))
		file := File("croc-hunter-java")
		branch = push(branch, []Commit{{Files: map[string][]byte{
			file: []byte(strings.Replace(string(branch[file].Data), "lastSeq: 13", "lastSeq: "+seq, 1)),
		}}})
		next := rollout.Event{Seq: 14, Time: noon.Add(2 * time.Hour), Type: rollout.RolloutStarted, Rollout: 3, From: r130, To: r131}
		a := resting("croc-hunter-java", next)
		u, err := Commits(branch, batch(a))
		got := ""
		switch {
		case err != nil:
			t.Fatal(err)
		case len(u.Ahead) == 1 && len(u.Commits) == 0:
			got = "ahead"
		case len(u.Damaged) == 1 && len(u.Commits) == 2:
			got = "damaged"
			if r, _, err := Read(push(branch, u.Commits), a.Name); err != nil || r.LastSeq != 14 || r.Target.Version != "0.0.131" {
				t.Errorf("%s: the record is %+v, %v", seq, r, err)
			}
			if text := u.Damaged[0].Error(); !strings.Contains(text, file) || !strings.Contains(text, "lastSeq "+seq) {
				t.Errorf("%s: it says %q", seq, text)
			}
		}
		if got != want {
			t.Errorf("%s: got %q, want %q: %+v", seq, got, want, u)
		}
	}
}

// TestLostStateOfForgedNumber: where the State is gone too, the events begin anew.
func TestLostStateOfForgedNumber(t *testing.T) {
	branch := fstest.MapFS{"apps/web.yaml": {Data: []byte("app: web\nlastSeq: 9223372036854775807\n")}}
	_, branch = send(t, branch, batch(App{Name: "web", State: rollout.State{LastSeq: 2}, Events: life()[:2]}))
	if r, _, err := Read(branch, "web"); err != nil || r.LastSeq != 2 || r.Serves.Version != "0.0.129" {
		t.Errorf("the record is %+v, %v", r, err)
	}
}

// TestProgress: the newest event's record says how far the canary is, older ones do not, and at rest there is nothing to say.
func TestProgress(t *testing.T) {
	plan := &rollout.Plan{
		Strategy: environments.StrategyCanary, Threshold: 5, Interval: 90 * time.Second,
		Steps: []rollout.Step{{Exposure: rollout.Exposure{Weight: 10}}, {Exposure: rollout.Exposure{Weight: 20}}, {Exposure: rollout.Exposure{Weight: 30}}},
	}
	asked := r130
	asked.By = "Ann <ann@example.com>"
	state := rollout.State{
		Phase: rollout.Analyzing, Stable: r129, Target: asked, Exposure: rollout.Exposure{Weight: 20}, FailedChecks: 2, Plan: plan, LastSeq: 2, Rollouts: 1,
	}
	app := App{Name: "web", State: state, Events: []rollout.Event{
		{Seq: 1, Time: noon, Type: rollout.Advanced, Rollout: 1, From: r129, To: asked, Weight: 10},
		{Seq: 2, Time: noon, Type: rollout.Advanced, Rollout: 1, From: r129, To: asked, Weight: 20},
	}}
	commits, branch := send(t, nil, batch(app))
	if len(commits) != 2 || strings.Contains(string(commits[0].Files["apps/web.yaml"]), "progress:") {
		t.Errorf("the first event has the progress of the second:\n%s", messages(commits))
	}
	r, _, err := Read(branch, "web")
	if want := (Progress{Step: 2, Steps: 3, FailedChecks: 2, Threshold: 5, IntervalSeconds: 90}); err != nil || r.Progress != want || r.Target.By != "Ann" {
		t.Errorf("%+v by %q, %v", r.Progress, r.Target.By, err)
	}
	state.Phase, state.Stable, state.Target, state.LastSeq = rollout.Idle, asked, rollout.Release{}, 3
	_, branch = send(t, branch, batch(App{Name: "web", State: state, Events: []rollout.Event{
		{Seq: 3, Time: noon, Type: rollout.Promoted, Rollout: 1, From: r129, To: asked},
	}}))
	if r, _, err := Read(branch, "web"); err != nil || r.Progress != (Progress{}) {
		t.Errorf("at rest: %+v, %v", r.Progress, err)
	}
}
