package main

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// The apps of every cluster are waited for, and one that refuses makes the exit code.
func TestEveryClusterAnswers(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", "--bare", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	event := func(app string, typ rollout.EventType) audit.App {
		e := rollout.Event{Seq: 1, Time: time.Unix(1e9, 0), Type: typ, By: "Ann <ann@example.com>", Command: "c1", Reason: "because"}
		return audit.App{Name: app, State: rollout.State{LastSeq: 1}, Events: []rollout.Event{e}}
	}
	apps := []string{"api", "web"}
	var clusters []*answers
	for _, cluster := range []string{"eu", "us"} {
		remote := gitsync.Remote{URL: dir, Branch: "sluice/status/production/" + cluster, AllowFile: true}
		a, err := openAnswers(t.Context(), remote, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		clusters = append(clusters, a)
		web := event("web", rollout.Held)
		if cluster == "us" {
			web = event("web", rollout.CommandRefused)
		}
		batch := audit.Batch{
			Names: audit.Names{Environment: "production"}, Now: time.Unix(1e9, 0),
			Apps: []audit.App{event("api", rollout.Held), web, event("other", rollout.Held)},
		}
		if err := record(t.Context(), remote, t.TempDir(), batch); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{"api: held by Ann|web: held by Ann|", "api: held by Ann|web: refused a command by Ann|"} {
		var out bytes.Buffer
		err := clusters[i].await(t.Context(), &out, "c1", apps, false)
		var coded *codedError
		if refused := errors.As(err, &coded) && coded.code == exitFinding; err != nil && !refused || refused != (i == 1) {
			t.Errorf("cluster %d: %v", i, err)
		}
		got := ""
		for line := range strings.Lines(out.String()) {
			before, _, _ := strings.Cut(line, " (")
			before, _, _ = strings.Cut(before, ", no rollout")
			got += before + "|"
		}
		if got != want {
			t.Errorf("cluster %d: %q, want %q", i, got, want)
		}
	}
}
