package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// introduction says what there is to be seen.
func (d *demo) introduction() string {
	how := "Two versions of an app go to staging, and from there to production. The good one gets 10%, 20%, ... 50% of the\n" +
		"users, and then all of them; the bad one answers with errors and is rolled back: in the cluster, and in git.\n"
	if d.forge != nil {
		return how + "The repositories are on a Gitea, where each step is a pull request; production runs in two clusters. It takes a minute.\n"
	}
	return how + "It takes half a minute. Pods becoming ready and user traffic are simulated; everything else is real,\n" +
		"and runs on this machine only.\n"
}

// The headings of the story.
const (
	headFirst = "First install (" + demoFirst + "): no canary, nothing to compare with"
	headGood  = "A good version: " + demoFirst + " -> " + demoGood + ". Staging has no canary: a rolling update"
	headBad   = "A bad version: " + demoGood + " -> " + demoBad + " answers 30% of the requests with a 500"
	headGit   = "What git says now: the newest commit on main of production is Sluice's"
	headSeen  = "Seen"
)

// play is the story.
func (d *demo) play(ctx context.Context) error {
	d.out.heading(headFirst)
	for _, p := range d.places {
		if err := d.await(ctx, p, demoFirst, rollout.Installed); err != nil {
			return err
		}
	}
	d.out.heading(headGood)
	if err := d.promote(ctx, demoGood, rollout.Promoted); err != nil {
		return err
	}
	d.out.heading(headBad)
	if err := d.promote(ctx, demoBad, rollout.RolledBack); err != nil {
		return err
	}
	if err := d.showGit(ctx); err != nil {
		return err
	}
	d.told = true
	return d.lookAround(ctx)
}

// promote brings a version to staging and then to production, and waits for what becomes of it there.
func (d *demo) promote(ctx context.Context, to string, want rollout.EventType) error {
	merge := d.merge
	if d.forge != nil {
		merge = d.pull
	}
	if err := merge(ctx, "staging", to); err != nil {
		return err
	}
	if err := d.await(ctx, "staging", to, rollout.Promoted); err != nil {
		return err
	}
	if err := merge(ctx, "production", to); err != nil {
		return err
	}
	for _, p := range d.places[1:] {
		if err := d.await(ctx, p, to, want); err != nil {
			return err
		}
	}
	return nil
}

// ends reports whether an event ends the story of one version; one that is degraded tells no more.
func ends(t rollout.EventType) bool { return audit.Ends(t) || t == rollout.Degraded }

// await narrates until a version has come to its end in a place.
func (d *demo) await(ctx context.Context, p place, version string, want rollout.EventType) error {
	end, err := d.until(ctx, fmt.Sprintf("%s in %s", version, p), func() (rollout.Event, bool) {
		end, ok := d.ended[string(p)+" "+version]
		return end, ok
	})
	if err == nil && end.Type != want {
		err = &otherwiseError{fmt.Errorf("%s in %s ended as %s, expected %s", version, p, end.Type, want)}
	}
	return err
}

// until narrates until something has happened, or nothing does for too long.
func (d *demo) until(ctx context.Context, what string, happened func() (rollout.Event, bool)) (rollout.Event, error) {
	quiet := time.NewTimer(demoPatience)
	defer quiet.Stop()
	for {
		if e, ok := happened(); ok {
			return e, nil
		}
		select {
		case <-ctx.Done():
			return rollout.Event{}, context.Cause(ctx)
		case <-quiet.C:
			return rollout.Event{}, fmt.Errorf("nothing happened to %s for %s", what, demoPatience)
		case e := <-d.events:
			quiet.Reset(demoPatience)
			d.hear(e)
		case <-time.After(200 * time.Millisecond): // what is no event may have happened
		}
	}
}

// hear tells an event and remembers what it says.
func (d *demo) hear(e demoEvent) {
	d.out.event(e)
	if ends(e.Type) {
		d.ended[string(e.place)+" "+e.To.Version] = e.Event
	}
}

// showGit shows what git says now, once it does: the rollback commit.
func (d *demo) showGit(ctx context.Context) error {
	commit, err := d.rollbackCommit(ctx)
	if err != nil {
		return err
	}
	d.out.heading(headGit)
	text, _, _ := strings.Cut(commit.Message, "\nSluice-")
	d.out.block(strings.TrimSpace(text) + "\n\n")
	if err := d.showDiff(ctx, commit); err != nil {
		return err
	}
	if d.forge != nil {
		if err := d.showPull(ctx); err != nil {
			return err
		}
	}
	d.seen()
	return nil
}

// seen sums it up.
func (d *demo) seen() {
	d.out.heading(headSeen)
	d.out.block(fmt.Sprintf("%s was promoted step by step, each step judged by its requests in Prometheus.\n", demoGood))
	for _, p := range d.places[1:] {
		d.out.block(fmt.Sprintf("%s was rolled back in %s: %s.\n", demoBad, p, d.ended[string(p)+" "+demoBad].Reason))
	}
	d.out.block("Git says what the clusters run, and every step is a commit on the status branch.\n")
}

// rollbackCommit waits until git says what the cluster serves.
func (d *demo) rollbackCommit(ctx context.Context) (gitsync.Commit, error) {
	var newest gitsync.Commit
	for begin := time.Now(); time.Since(begin) < demoPatience; {
		repo, tip, err := d.read(ctx, "main")
		if err != nil {
			return newest, err
		}
		history, err := repo.Commits(ctx, tip.Commit, "", 1)
		_ = repo.Close() // a cache
		if err != nil {
			return newest, err
		}
		if newest = history[0]; audit.IsOwn(newest.Message) {
			return newest, nil
		}
		select {
		case <-ctx.Done():
			return newest, context.Cause(ctx)
		case e := <-d.events:
			d.hear(e)
		case <-time.After(200 * time.Millisecond):
		}
	}
	return newest, &otherwiseError{errors.New("the newest commit of the environment branch is not the rollback")}
}

// read fetches one of production's branches.
func (d *demo) read(ctx context.Context, branch string) (*gitsync.Repo, *gitsync.Snapshot, error) {
	repo, err := gitsync.Open(ctx, d.remote("production", branch), filepath.Join(d.dir, "people", "reader", strings.ReplaceAll(branch, "/", "-")))
	if err != nil {
		return nil, nil, err
	}
	tip, err := repo.Fetch(ctx)
	if err != nil {
		_ = repo.Close() // a cache
	}
	return repo, tip, err
}

// showDiff prints what a commit changes of requirements.yaml.
func (d *demo) showDiff(ctx context.Context, c gitsync.Commit) error {
	repo, _, err := d.read(ctx, "main")
	if err != nil {
		return err
	}
	defer repo.Close() //nolint:errcheck // a cache
	var texts [2][]byte
	for i, hash := range []string{c.Parents[0], c.Hash} {
		s, err := repo.At(hash)
		if err != nil {
			return err
		}
		if texts[i], err = fs.ReadFile(s.FS(), "env/requirements.yaml"); err != nil {
			return err
		}
	}
	text := string(diff.Diff("a/env/requirements.yaml", texts[0], "b/env/requirements.yaml", texts[1]))
	_, text, _ = strings.Cut(text, "\n") // the command
	d.out.block(text)
	return nil
}
