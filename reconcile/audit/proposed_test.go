package audit

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// A rollback that waits to be merged says where, with the address of its pull request, until git is back.
func TestRollbackProposedHasAnAddress(t *testing.T) {
	e := rollout.Event{
		Seq: 1, Time: time.Unix(1e9, 0).UTC(), Type: rollout.RollbackProposed, Rollout: 1, From: rollout.Release{Version: "1"}, To: rollout.Release{Version: "2"},
		Commit: "c", Branch: "sluice/rollback/staging/web", URL: "https://git.example.com/env/pulls/1",
	}
	update, err := Commits(nil, Batch{
		Names: Names{Environment: "staging"}, Now: e.Time, Apps: []App{{Name: "web", State: rollout.State{LastSeq: 1}, Events: []rollout.Event{e}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := update.Commits[len(update.Commits)-1]
	if !strings.Contains(c.Message, "branch sluice/rollback/staging/web: https://git.example.com/env/pulls/1") {
		t.Errorf("message:\n%s", c.Message)
	}
	if got, ok := ParseMessage(c.Message); !ok || got.URL != e.URL {
		t.Errorf("read back as %+v", got)
	}
	r, err := ParseRecord(c.Files[File("web")])
	if err != nil || r.RollbackProposed != e.Branch || r.RollbackURL != e.URL {
		t.Errorf("record %+v, %v", r, err)
	}
	e.Type, e.Seq = rollout.RollbackCommitted, 2
	if r.putBack(e); r.RollbackURL != "" || r.RollbackProposed != "" {
		t.Errorf("after it was merged: %+v", r)
	}
}
