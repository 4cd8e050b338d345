package clusters

import (
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Every cluster of the environment is read, none of another whose name begins so, and what has not changed is not read again.
func TestRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "env.git")
	if out, err := exec.CommandContext(t.Context(), "git", "init", "-q", "--bare", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	remote := gitsync.Remote{URL: dir, AllowFile: true, Branch: "main"}
	w, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: remote, Create: true}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	tell := func(branch, version string, seq int64) {
		t.Helper()
		at, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: gitsync.Remote{URL: dir, AllowFile: true, Branch: branch}, Create: true}, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		e := rollout.Event{Seq: seq, Time: time.Unix(1e9, 0), Type: rollout.Installed, To: rollout.Release{Version: version}}
		_, err = at.CommitAll(t.Context(), func(tip *gitsync.Snapshot) (out []*gitsync.Change, err error) {
			var files fs.FS
			if tip.Commit != "" {
				files = tip.FS()
			}
			update, err := audit.Commits(files, audit.Batch{
				Names: audit.Names{Environment: "prod"}, Now: e.Time,
				Apps: []audit.App{{Name: "web", State: rollout.State{LastSeq: seq}, Events: []rollout.Event{e}}},
			})
			for _, c := range update.Commits {
				out = append(out, &gitsync.Change{Files: c.Files, Message: c.Message, Date: c.Date})
			}
			return out, err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func(r *Reader) string {
		t.Helper()
		all, err := r.Read(t.Context(), "prod")
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for i, c := range all {
			out = append(out, c.Name+" "+Records(all, "web")[i].Serves.Version)
		}
		return strings.Join(out, ", ")
	}
	tell("sluice/status/production", "9", 1)
	r := NewReader(remote, w)
	if got := read(r); got != "" {
		t.Errorf("nobody has told of prod: %s", got)
	}
	tell("sluice/status/prod/eu", "1", 1)
	tell("sluice/status/prod/us", "2", 1)
	if got := read(r); got != "eu 1, us 2" {
		t.Errorf("reads %s", got)
	}
	tell("sluice/status/prod/us", "3", 2)
	if got := read(r); got != "eu 1, us 3" {
		t.Errorf("then %s", got)
	}
	all, _ := r.Read(t.Context(), "prod")
	if _, ok := all[0].Record("api"); ok || len(Records(all, "api")) != 2 {
		t.Error("an app that nobody knows")
	}
	if all, err := r.Read(t.Context(), "production"); err != nil || len(all) != 1 || all[0].Name != "production" {
		t.Errorf("an environment of one cluster: %+v, %v", all, err)
	}
}
