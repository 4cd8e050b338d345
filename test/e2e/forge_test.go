package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"code.gitea.io/sdk/gitea"

	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/forges"
)

// Users of the forge.
const (
	forgeOwner  = "acme"
	forgeBot    = "sluice-bot"
	forgeReader = "auditor"
	forgePerson = "person"
)

// TestForge is the suite of all forges on a real Gitea, which gives short pages so that lists have several.
func TestForge(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("needs Gitea, which -short leaves out")
	}
	forges.Conformance(t, newGiteaTarget(t))
}

// giteaTarget is a repository on a Gitea that the suite may do with as it likes.
type giteaTarget struct {
	forge   *bed.Gitea
	address string
	tokens  map[forges.Access]string
	serial  atomic.Int32
}

func newGiteaTarget(t *testing.T) *giteaTarget {
	g, err := bed.StartGitea(t.Context(), bed.GiteaOptions{Progress: os.Stderr, Page: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	target := &giteaTarget{forge: g, tokens: map[forges.Access]string{}}
	need := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, user := range []string{forgeOwner, forgeBot, forgeReader, forgePerson} {
		need(g.User(t.Context(), user))
	}
	target.address, err = g.Repository(t.Context(), forgeOwner, "prod", forgeBot, forgeReader, forgePerson)
	need(err)
	target.tokens[forges.Writer], err = g.Token(t.Context(), forgeBot, "sluice", "write:repository", "write:issue", "read:user")
	need(err)
	// A reader's user may write: it is the token that may not.
	target.tokens[forges.Reader], err = g.Token(t.Context(), forgeReader, "audit", "read:repository", "read:issue", "read:user")
	need(err)
	target.tokens[forges.Revoked], err = g.Token(t.Context(), forgeBot, "old", "write:repository", "write:issue", "read:user")
	need(err)
	need(g.RevokeToken(t.Context(), forgeBot, "old"))
	target.write(t, "main", "", "README.md", "A repository of tests.\n")
	return target
}

func (g *giteaTarget) Name() string { return "Gitea" }

func (g *giteaTarget) api(t testing.TB, user string) *gitea.Client {
	t.Helper()
	api, err := g.forge.Client(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return api
}

func (g *giteaTarget) Repository(t testing.TB, a forges.Access) forge.Repository {
	t.Helper()
	r, err := forge.New(forge.Options{
		Kind: forge.Gitea, Address: g.address, Token: func(context.Context) (string, error) { return g.tokens[a], nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// write commits a file, on a new branch when from is not empty.
func (g *giteaTarget) write(t testing.TB, branch, from, path, content string) forges.Pushed {
	t.Helper()
	o := gitea.CreateFileOptions{Content: base64.StdEncoding.EncodeToString([]byte(content))}
	o.Message, o.BranchName = "test: write "+path, branch
	if from != "" {
		o.BranchName, o.NewBranchName = from, branch
	}
	res, _, err := g.api(t, forgeOwner).CreateFile(forgeOwner, "prod", path, o)
	if err != nil {
		t.Fatalf("writing %s to %s: %v", path, branch, err)
	}
	return forges.Pushed{Branch: branch, Commit: res.Commit.SHA}
}

func (g *giteaTarget) Base(t testing.TB) string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", " ", "-").Replace(t.Name()))
	return g.write(t, "base-"+name, "main", name, "Base.\n").Branch
}

func (g *giteaTarget) Push(t testing.TB, branch, base string) forges.Pushed {
	t.Helper()
	file := fmt.Sprint("pushed-", g.serial.Add(1))
	if _, _, err := g.api(t, forgeOwner).GetRepoBranch(forgeOwner, "prod", branch); err == nil {
		base = ""
	}
	return g.write(t, branch, base, file, "Pushed.\n")
}

func (g *giteaTarget) Clash(t testing.TB, branch, base string) forges.Pushed {
	t.Helper()
	pushed := g.write(t, branch, base, "clash", "One says this.\n")
	g.write(t, base, "", "clash", "The other says that.\n")
	return pushed
}

func (g *giteaTarget) protect(t testing.TB, o gitea.CreateBranchProtectionOption) {
	t.Helper()
	if _, _, err := g.api(t, forgeOwner).CreateBranchProtection(forgeOwner, "prod", o); err != nil {
		t.Fatal(err)
	}
}

func (g *giteaTarget) RequireCheck(t testing.TB, base, name string) {
	t.Helper()
	g.protect(t, gitea.CreateBranchProtectionOption{RuleName: base, EnableStatusCheck: true, StatusCheckContexts: []string{name}})
}

func (g *giteaTarget) RequireReview(t testing.TB, base string) {
	t.Helper()
	g.protect(t, gitea.CreateBranchProtectionOption{RuleName: base, RequiredApprovals: 1})
}

func (g *giteaTarget) Say(t testing.TB, number int, body string) {
	t.Helper()
	if _, _, err := g.api(t, forgePerson).CreateIssueComment(forgeOwner, "prod", int64(number), gitea.CreateIssueCommentOption{Body: body}); err != nil {
		t.Fatal(err)
	}
}

func (g *giteaTarget) Comments(t testing.TB, number int) []string {
	t.Helper()
	comments, _, err := g.api(t, forgePerson).ListIssueComments(forgeOwner, "prod", int64(number), gitea.ListIssueCommentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var bodies []string
	for _, c := range comments {
		bodies = append(bodies, c.Body)
	}
	return bodies
}

// What happens on the way: the forge is away and comes back, a token is revoked and another given. Nothing of it needs a restart.
func TestForgeComesBack(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("needs Gitea, which -short leaves out")
	}
	g := newGiteaTarget(t)
	r := g.Repository(t, forges.Writer)
	base := g.Base(t)
	p, err := r.Create(t.Context(), forge.Pull{Title: "x", Head: g.Push(t, "head", base).Branch, Base: base})
	if err != nil {
		t.Fatal(err)
	}
	again := func(want error) {
		t.Helper()
		if _, err := r.Get(t.Context(), p.Number); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	again(nil)
	if err := g.forge.Stop(); err != nil {
		t.Fatal(err)
	}
	again(forge.ErrUnavailable)
	if err := g.forge.StartAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	again(nil)
	if err := g.forge.RevokeToken(t.Context(), forgeBot, "sluice"); err != nil {
		t.Fatal(err)
	}
	again(forge.ErrUnauthorized)
	if g.tokens[forges.Writer], err = g.forge.Token(t.Context(), forgeBot, "new", "write:repository", "write:issue", "read:user"); err != nil {
		t.Fatal(err)
	}
	again(nil)
}
