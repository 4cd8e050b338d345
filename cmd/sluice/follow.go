package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// watch shows the status branch until ctx is done, which is how it is meant to end.
func (f *statusSource) watch(ctx context.Context, c canvas, apps []string) error {
	where, err := f.place(ctx)
	if err != nil {
		return err
	}
	branch, err := f.name()
	if err != nil {
		return err
	}
	remote, err := where.pushRemote(branch)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sluice-")
	if err != nil {
		return fmt.Errorf("making a directory for git objects: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is a temporary directory
	var a *answers
	err = signedIn(ctx, remote, func(remote gitsync.Remote) (err error) {
		a, err = openAnswers(ctx, remote, dir)
		return err
	})
	if err != nil {
		return err
	}
	defer a.close()
	if a.tip == nil {
		where.repo = cmp.Or(remote.URL, where.repo)
		return where.missingBranch(ctx, gitsync.ErrBranchNotFound, branch)
	}
	if _, err := readStatus(a.tip.FS(), apps); err != nil {
		return err
	}
	err = until(ctx, waitPause, "watching", func(waits string) { _ = tell(c.w, "%s", waits) }, func() (string, bool, error) {
		waits, err := c.watched(ctx, a, apps)
		return waits, false, err
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// watched shows what the branch says now: all of it on a terminal, and what is new elsewhere. waits is why it can't be read, which
// may pass.
func (c canvas) watched(ctx context.Context, a *answers, apps []string) (waits string, err error) {
	events, err := a.news(ctx)
	if err != nil {
		return err.Error(), nil //nolint:nilerr // git is asked again
	}
	if !c.terminal {
		for _, e := range events {
			if e.App != "" && !wanted(apps, e.App) {
				continue
			}
			if err := tell(c.w, "%s  %s", e.Time.UTC().Format(time.RFC3339), audit.Describe(cmp.Or(e.App, e.Environment), e.Event)); err != nil {
				return "", err
			}
		}
		return "", nil
	}
	r, err := newStatusView(apps, false).read(ctx, a.repo, a.tip)
	if err != nil {
		return err.Error(), nil //nolint:nilerr // the agent writes again what somebody has edited
	}
	return "", c.redrawn(r)
}

// redrawn puts a report in the place of what the terminal shows.
func (c canvas) redrawn(r report) error {
	if _, err := io.WriteString(c.raw, emptied); err != nil {
		return err
	}
	return r.print(c.w, false)
}

// errNotYet is why a wait ends that nothing else has ended.
type errNotYet struct{ after time.Duration }

func (e *errNotYet) Error() string {
	return fmt.Sprintf("not finished within --timeout %s", e.after)
}

// wait waits until the apps serve what a commit asks for.
func (f *statusSource) wait(ctx context.Context, w io.Writer, apps []string, commit string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &errNotYet{timeout})
	defer cancel()
	dir, err := os.MkdirTemp("", "sluice-")
	if err != nil {
		return fmt.Errorf("making a directory for git objects: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it is a temporary directory
	source, remote, err := f.ofRemote()
	if err != nil {
		return err
	}
	asked := &asked{loader: &environments.Loader{Environment: f.environment}, path: f.path, digests: map[string]map[string]string{}}
	err = signedIn(ctx, remote, func(remote gitsync.Remote) (err error) {
		return asked.open(ctx, remote, filepath.Join(dir, "branch"))
	})
	if err != nil {
		return err
	}
	defer asked.repo.Close() //nolint:errcheck // its store is temporary
	tip := asked.at
	if commit != "" {
		if asked.at, err = f.revision(ctx, asked.repo, asked.at, "commit", commit); err != nil {
			return err
		}
	}
	if err := asked.read(); err != nil {
		return err
	}
	if err := known(apps, asked.env); err != nil {
		return err
	}
	status := remote
	where, err := (&statusSource{sourceFlags: source, statusRepo: f.statusRepo}).placeIn(tip.FS())
	if err != nil {
		return err
	}
	if where.repo != source.repo {
		if status, err = where.remote("main"); err != nil {
			return err
		}
	}
	c, err := openCourse(ctx, status, filepath.Join(dir, "status"), asked.env.Name, f.cluster)
	if err != nil {
		return err
	}
	defer c.close()
	if len(apps) == 0 {
		apps = asked.all(c)
	}
	if err := asked.undeliverable(apps); err != nil {
		return err
	}
	say := func(format string, args ...any) { _ = tell(w, format, args...) }
	err = c.await(ctx, say, apps, asked.judge)
	var late *errNotYet
	if errors.As(err, &late) {
		return &codedError{exitChange, err}
	}
	return err
}

// asked is what a commit of the environment branch asks of apps.
type asked struct {
	repo   *gitsync.Repo
	at     *gitsync.Snapshot
	env    *environments.Environment
	loader *environments.Loader
	path   string
	// digests of the apps by commit and name; nil: the commit can't be read.
	digests map[string]map[string]string
}

// open fetches the branch, with its tip as the commit that asks.
func (a *asked) open(ctx context.Context, remote gitsync.Remote, dir string) (err error) {
	if a.repo, err = gitsync.Open(ctx, remote, dir); err != nil {
		return err
	}
	a.at, err = a.repo.Fetch(ctx)
	return err
}

func (a *asked) read() (err error) {
	if a.env, err = a.loader.Load(a.at.FS(), a.path); err != nil {
		return fmt.Errorf("reading commit %.10s: %w", a.at.Commit, err)
	}
	if a.env.Name == "" {
		return usagef("set --environment: sluice.yaml names no environment")
	}
	return nil
}

// all are the apps that the commit asks for. One that its chart may switch off is waited for only where some cluster has it.
func (a *asked) all(c *course) (names []string) {
	for i := range a.env.Apps {
		app := &a.env.Apps[i]
		maybe := app.Switch.Off || len(app.Switch.Conditions) > 0
		if !maybe || slices.ContainsFunc(c.clusters, func(one *clusterCourse) bool {
			r, err := one.record(app.Name)
			return err != nil || r.Phase != "" && !r.Gone()
		}) {
			names = append(names, app.Name)
		}
	}
	return names
}

// undeliverable is what is wrong with some of the apps in git itself, which no waiting mends.
func (a *asked) undeliverable(apps []string) error {
	var faults []error
	for i := range a.env.Apps {
		if app := &a.env.Apps[i]; app.Fault != nil && slices.Contains(apps, app.Name) {
			faults = append(faults, fmt.Errorf("%s cannot be delivered: %w", app.Name, app.Fault))
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return &codedError{exitFinding, errors.Join(faults...)}
}

// of gives the digests of a commit's apps; nil where it can't be read.
func (a *asked) of(ctx context.Context, commit string) map[string]string {
	if known, ok := a.digests[commit]; ok {
		return known
	}
	at, err := a.repo.At(commit)
	if err != nil {
		// It may be newer than the last look at the branch.
		if _, err = a.repo.Fetch(ctx); err == nil {
			at, err = a.repo.At(commit)
		}
	}
	if err != nil {
		return nil // and asked again
	}
	var out map[string]string
	if env, err := a.loader.Load(at.FS(), a.path); err == nil {
		out = map[string]string{}
		for i := range env.Apps {
			out[env.Apps[i].Name] = env.Apps[i].Digest
		}
	}
	a.digests[commit] = out
	return out
}

// same reports whether another commit asks the same of an app as the one that is waited for; ok is false where that is not known.
func (a *asked) same(ctx context.Context, app, commit string) (same, ok bool) {
	theirs := a.of(ctx, commit)
	if commit == "" || theirs == nil {
		return false, false
	}
	return theirs[app] == a.of(ctx, a.at.Commit)[app], true
}

// served reports whether a release is what is asked for. Where it came from a commit that is not there any more, its version decides.
func (a *asked) served(ctx context.Context, app string, r audit.Release) bool {
	if same, ok := a.same(ctx, app, r.Commit); ok {
		return same
	}
	i := slices.IndexFunc(a.env.Apps, func(x environments.App) bool { return x.Name == app })
	return i >= 0 && r.Name() != "" && r.Name() == a.env.Apps[i].Asks()
}

// farthest is how many commits back the one is looked for that has asked for a release.
const farthest = 500

// tried reports whether a release is the try of what is asked for: no commit since has asked for something else, and so for a new try.
func (a *asked) tried(ctx context.Context, app string, r audit.Release) bool {
	if same, ok := a.same(ctx, app, r.Commit); !ok || !same {
		return false
	}
	cause, err := a.repo.LastChange(ctx, a.at.Commit, r.Commit, farthest, func(commit, parent *gitsync.Snapshot) (bool, error) {
		return a.of(ctx, commit.Commit)[app] == a.of(ctx, parent.Commit)[app], nil
	})
	return err == nil && cause == r.Commit
}

// superseded reports whether a release came from a later commit that asks for something else.
func (a *asked) superseded(ctx context.Context, app string, r audit.Release) bool {
	if same, ok := a.same(ctx, app, r.Commit); !ok || same {
		return false
	}
	later, err := a.repo.Descends(r.Commit, a.at.Commit, farthest)
	return err == nil && later
}

// judge says how far an app is on the way to what is asked for.
func (a *asked) judge(ctx context.Context, r audit.Record) (waits string, over bool, err error) {
	failed := func(format string, args ...any) error {
		return &codedError{exitFinding, fmt.Errorf("%s: "+format, slices.Concat([]any{r.App}, args)...)}
	}
	for _, newer := range []audit.Release{r.Target, r.Serves} {
		if newer.Commit != "" && a.superseded(ctx, r.App, newer) {
			return "", false, failed("replaced by %s of commit %.10s", newer.Name(), newer.Commit)
		}
	}
	if r.Target != (audit.Release{}) {
		return cmp.Or(keeps(r), fmt.Sprintf("%s is %s at %s", r.Target.Name(), spaced(r.Phase), rollout.Percent(r.Weight))), false, nil
	}
	if r.Last.Became() != "" && a.tried(ctx, r.App, r.Last.Release) && r.Last.Release.Digest != r.Serves.Digest {
		return "", false, failed("%s", ending(r))
	}
	for _, no := range r.Rejected {
		if a.tried(ctx, r.App, no.Release) && no.Release.Digest != r.Serves.Digest {
			return "", false, failed("%s was rolled back: %s", no.Release.Name(), no.Reason)
		}
	}
	if r.Fault == "" && a.served(ctx, r.App, r.Serves) {
		return "", true, nil
	}
	return cmp.Or(keeps(r), fmt.Sprintf("%s serves %s", r.App, cmp.Or(r.Serves.Name(), "nothing yet"))), false, nil
}
