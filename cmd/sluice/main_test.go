package main

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render"
	"github.com/sluice-cd/sluice/test/bed/chartrepo"
	"github.com/sluice-cd/sluice/test/bed/gitserver"
)

func TestMain(m *testing.M) {
	render.BeWorker()
	testscript.Main(m, map[string]func(){"sluice": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			for k, v := range map[string]string{
				"HOME": e.WorkDir, "XDG_CACHE_HOME": filepath.Join(e.WorkDir, "cache"),
				// Commits are the same each time, so that their hashes are.
				"GIT_AUTHOR_NAME": "A Developer", "GIT_AUTHOR_EMAIL": "developer@example.com", "GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z",
				"GIT_COMMITTER_NAME": "A Developer", "GIT_COMMITTER_EMAIL": "developer@example.com", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
				"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "init.defaultBranch", "GIT_CONFIG_VALUE_0": "main",
			} {
				e.Setenv(k, v)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":       exits,
			"history":     writeHistory,
			"events":      writeEvents,
			"gitserver":   serveGit,
			"chartserver": serveCharts,
			"envsubst":    envsubst,
			"versions":    serveVersions,
		},
	})
}

// exits runs sluice and compares its exit code: exits CODE ARGS...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits code [argument...]")
	}
	err := ts.Exec("sluice", args[1:]...)
	got := "0"
	if err != nil {
		got = exitCode(err)
	}
	if got != args[0] {
		ts.Fatalf("sluice ended with %s, expected %s", got, args[0])
	}
}

func exitCode(err error) string {
	const prefix = "exit status "
	if text := err.Error(); len(text) > len(prefix) && text[:len(prefix)] == prefix {
		return text[len(prefix):]
	}
	return err.Error()
}

// serveGit serves an empty repository over HTTP with a password and over SSH, and says where in the environment:
// gitserver NAME [STATUS]. It writes the files password, key and known_hosts. STATUS is a second repository, for status branches.
func serveGit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: gitserver name [status]")
	}
	s, err := gitserver.New(gitserver.Options{Dir: ts.MkAbs("server"), User: "sluice", Password: "open-sesame"})
	ts.Check(err)
	ts.Check(s.Start())
	ts.Defer(func() { ts.Check(s.Stop()) })
	ts.Check(s.CreateRepo(args[0]))
	ts.Check(os.WriteFile(ts.MkAbs("password"), []byte("open-sesame\n"), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("known_hosts"), []byte(s.KnownHosts()), 0o600))
	ts.Setenv("HTTP_URL", s.URL(args[0]))
	ts.Setenv("SSH_URL", s.SSHURL(args[0]))
	ts.Setenv("SSH_KEY", s.ClientKeyPath)
	ts.Setenv("DIR", s.Path(args[0]))
	if len(args) == 2 {
		ts.Check(s.CreateRepo(args[1]))
		ts.Setenv("STATUS_URL", s.URL(args[1]))
		ts.Setenv("STATUS_DIR", s.Path(args[1]))
	}
}

// serveVersions serves the versions of a chart, and says where in $CHARTS: versions DIRECTORY VERSION...
func serveVersions(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: versions directory version...")
	}
	s, err := chartrepo.New(chartrepo.Options{Dir: ts.MkAbs("charts.served")})
	ts.Check(err)
	for _, version := range args[1:] {
		ts.Check(s.AddVersion(ts.MkAbs(args[0]), version))
	}
	ts.Check(s.Start())
	ts.Defer(func() { ts.Check(s.Stop()) })
	ts.Setenv("CHARTS", s.URL())
}

// envsubst puts variables of the environment into files: envsubst FILE...
func envsubst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: envsubst file...")
	}
	for _, file := range args {
		text := os.Expand(ts.ReadFile(file), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(file), []byte(text), 0o600))
	}
}

// writeHistory writes the status branch of environment production into a bare repository, as the agent does:
// history DIRECTORY BRANCH [error].
func writeHistory(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: history directory branch [error]")
	}
	batch := story()
	if len(args) > 2 {
		batch.Apps = append(batch.Apps, audit.App{Name: "web", Fault: "env/requirements.yaml:7: dependencies.web.version: missing"})
	}
	remote := gitsync.Remote{URL: ts.MkAbs(args[0]), Branch: args[1], AllowFile: true}
	ts.Check(record(context.Background(), remote, filepath.Join(ts.MkAbs("cache"), "history"), batch))
}

// writeEvents writes the status branch sluice/status/production anew, as the agent does, from a file with an event of an app on each
// line: TYPE FROM TO WEIGHT REASON. Releases are version@revision, or -: events REPOSITORY APP FILE.
func writeEvents(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: events repository app file")
	}
	const branch = "sluice/status/production"
	repo, err := gitsync.OpenLocal(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(repo.Storer.RemoveReference(plumbing.NewBranchReferenceName(branch)))
	release := func(text string) (r rollout.Release) {
		version, revision, ok := strings.Cut(text, "@")
		if ok {
			commit, err := repo.ResolveRevision(plumbing.Revision(revision))
			ts.Check(err)
			r = rollout.Release{Version: version, Digest: "of the agent's cluster: " + version, Commit: commit.String()}
		}
		return r
	}
	var events []rollout.Event
	now := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	for line := range strings.Lines(ts.ReadFile(args[2])) {
		f := append(strings.Fields(line), "", "", "", "")
		now = now.Add(time.Minute)
		weight, _ := strconv.Atoi(f[3])
		events = append(events, rollout.Event{
			Seq: int64(len(events) + 1), Time: now, Type: rollout.EventType(f[0]), From: release(f[1]), To: release(f[2]), Weight: weight,
			Reason: strings.TrimSpace(strings.Join(f[4:], " ")),
		})
		if f[0] == string(rollout.Held) {
			events[len(events)-1].By = "ann"
		}
	}
	batch := audit.Batch{
		Names: audit.Names{Environment: "production"}, Commit: events[len(events)-1].To.Commit, FaultChanged: true, Now: now,
		Apps: []audit.App{{Name: args[1], State: rollout.State{LastSeq: int64(len(events))}, Events: events}},
	}
	remote := gitsync.Remote{URL: ts.MkAbs(args[0]), Branch: branch, AllowFile: true}
	ts.Check(record(context.Background(), remote, filepath.Join(ts.MkAbs("cache"), "events"), batch))
}

// record writes a batch to a status branch, as the agent does.
func record(ctx context.Context, remote gitsync.Remote, dir string, batch audit.Batch) error {
	w, err := gitsync.NewWriter(gitsync.WriterConfig{
		Remote: remote, Create: true, Identity: gitsync.Identity{Name: "Sluice", Email: "sluice@sluice.dev"},
	}, dir)
	if err != nil {
		return err
	}
	defer w.Close()
	_, err = w.CommitAll(ctx, func(tip *gitsync.Snapshot) ([]*gitsync.Change, error) {
		var fsys fs.FS
		if tip.Commit != "" {
			fsys = tip.FS()
		}
		update, err := audit.Commits(fsys, batch)
		var out []*gitsync.Change
		for _, c := range update.Commits {
			out = append(out, &gitsync.Change{Files: c.Files, Message: c.Message, Date: c.Date})
		}
		return out, err
	})
	return err
}

// story is an install and a release that failed.
func story() audit.Batch {
	at := func(second int) time.Time { return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC) }
	old := rollout.Release{Version: "0.0.130", Digest: "d130", Commit: "1111111111111111111111111111111111111111"}
	bad := rollout.Release{Version: "0.0.131", Digest: "d131", Commit: "2222222222222222222222222222222222222222"}
	const reason = "success rate 69.36% < 99%"
	checks := []analysis.Result{{Check: "request-success-rate", Outcome: analysis.Fail, Reason: reason}}
	events := []rollout.Event{
		{Time: at(1), Type: rollout.InstallStarted, To: old},
		{Time: at(2), Type: rollout.Installed, To: old},
		{Time: at(3), Type: rollout.RolloutStarted, Rollout: 1, From: old, To: bad},
		{Time: at(4), Type: rollout.Advanced, Rollout: 1, From: old, To: bad, Weight: 10, Reason: "the canary is ready"},
		{Time: at(5), Type: rollout.CheckFailed, Rollout: 1, From: old, To: bad, Weight: 10, Reason: reason + " (failed check 1 of 1)", Results: checks},
		{Time: at(6), Type: rollout.RollbackStarted, Rollout: 1, From: old, To: bad, Reason: reason, Results: checks},
		{Time: at(7), Type: rollout.RolledBack, Rollout: 1, From: old, To: bad, Reason: reason},
	}
	for i := range events {
		events[i].Seq = int64(i + 1)
	}
	return audit.Batch{
		Names: audit.Names{Environment: "production"}, Commit: bad.Commit, FaultChanged: true, Now: at(8),
		Apps: []audit.App{{Name: "croc-hunter-java", State: rollout.State{LastSeq: int64(len(events))}, Events: events}},
	}
}
