package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"code.gitea.io/sdk/gitea"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/promotion"
	"github.com/sluice-cd/sluice/test/bed"
)

// TestManyPromotions has fifteen apps of one environment promoted at once, five of them again right after: twenty pull requests that
// all change one file. Each edit lands once, no pull request is doubled, and what people wrote between the edits stays.
func TestManyPromotions(t *testing.T) {
	t.Parallel()
	const apps, twice = 15, 5
	g := newForge(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	address, err := g.Repository(t.Context(), bed.User, "many")
	must(err)
	api, err := g.Client(t.Context(), bed.User)
	must(err)
	// list is the file with each app at its version.
	list := func(version func(app int) string) string {
		var b strings.Builder
		b.WriteString("# What runs here.\ndependencies:\n")
		for i := range apps {
			fmt.Fprintf(&b, "# app %d: see Ann before you touch it\n- name: app-%d\n  version: %s  # promoted\n  repository: https://charts.example.com\n", i, i, version(i))
		}
		return b.String() + "# the end\n"
	}
	for name, text := range map[string]string{
		"sluice.yaml":    "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: many\nupstream: {strategy: Auto}\n",
		"env/Chart.yaml": "apiVersion: v1\nname: env\nversion: 0.0.1\n",
		requirements:     list(func(int) string { return "1.0.0" }),
	} {
		o := gitea.CreateFileOptions{Content: base64.StdEncoding.EncodeToString([]byte(text))}
		o.Message, o.BranchName = "test: "+name, "main"
		_, _, err := api.CreateFile(bed.User, "many", name, o)
		must(err)
	}
	token, err := g.Token(t.Context(), bed.User, "many", "write:repository", "write:issue", "read:user")
	must(err)

	var again, waits atomic.Int64
	promote := func(p *promotion.Proposer, app int, version string) error {
		proposal := promotion.Proposal{
			Environment: "many", Path: ".", App: fmt.Sprint("app-", app), To: environments.Promotion{Version: version},
			Strategy: environments.PromotionAuto, Source: "a test",
		}
		pause, refresh := time.Second, false
		for {
			var merged bool
			done, err := p.Propose(t.Context(), proposal, refresh)
			if err == nil {
				refresh = false
				if done.Done(p.Base) {
					return nil
				}
				merged, err = p.Merge(t.Context(), done.Pull)
			}
			switch {
			case merged:
				return nil
			case errors.Is(err, forge.ErrConflict):
				refresh = true
				again.Add(1)
			case err == nil || errors.Is(err, forge.ErrNotReady) || errors.Is(err, forge.ErrUnavailable):
				waits.Add(1)
			default:
				return fmt.Errorf("promoting %s %s: %w", proposal.App, version, err)
			}
			select {
			case <-time.After(pause/2 + rand.N(pause)): // an agent comes again after its interval, which is longer
				pause = min(2*pause, 16*time.Second)
			case <-t.Context().Done():
				return t.Context().Err()
			}
		}
	}
	begun := time.Now()
	var everybody sync.WaitGroup
	for app := range apps {
		everybody.Go(func() {
			w, err := gitsync.NewWriter(gitsync.WriterConfig{
				Remote:   gitsync.Remote{URL: address, Branch: "main", Auth: gitsync.Auth{Username: bed.User, Password: token}},
				Identity: gitsync.Identity{Name: "Sluice", Email: "sluice@example.com"},
			}, filepath.Join(t.TempDir(), fmt.Sprint(app)))
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			at, err := forge.New(forge.Options{Kind: forge.Gitea, Address: address, Token: func(context.Context) (string, error) { return token, nil }})
			if err == nil {
				p := &promotion.Proposer{Branch: w, Base: "main", Forge: at}
				if err = promote(p, app, "1.0.1"); err == nil && app < twice {
					err = promote(p, app, "1.0.2")
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	everybody.Wait()
	t.Logf("%d promotions by %d at once took %.1f s; %d were made anew after a conflict, and the forge was asked again %d times",
		apps+twice, apps, time.Since(begun).Seconds(), again.Load(), waits.Load())

	got, _, err := api.GetFile(bed.User, "many", "main", requirements)
	must(err)
	want := list(func(app int) string {
		if app < twice {
			return "1.0.2"
		}
		return "1.0.1"
	})
	if string(got) != want {
		t.Errorf("it became\n%s", got)
	}
	titles := map[string]int{}
	for page := 1; ; page++ {
		some, _, err := api.ListRepoPullRequests(bed.User, "many", gitea.ListPullRequestsOptions{State: gitea.StateAll, ListOptions: gitea.ListOptions{Page: page, PageSize: 50}})
		must(err)
		for _, p := range some {
			if titles[p.Title]++; titles[p.Title] > 1 || !p.HasMerged {
				t.Errorf("pull request %d, %s: it is the %d., merged %t", p.Index, p.Title, titles[p.Title], p.HasMerged)
			}
		}
		if len(some) == 0 {
			break
		}
	}
	if len(titles) != apps+twice {
		t.Errorf("%d pull requests, want %d", len(titles), apps+twice)
	}
}
