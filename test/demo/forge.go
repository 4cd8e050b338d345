package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"code.gitea.io/sdk/gitea"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
)

// developer is a person with an account on the forge; the agents share bed.User.
const developer = "developer"

// forge is the Gitea with the repositories, and the second cluster of production.
type forge struct {
	gitea *bed.Gitea
	// second is the cluster eu.
	second *bed.Bed
	// tokenFile has what the agents sign in with.
	tokenFile string
	api       *gitea.Client
	// pulls are the addresses of the pull requests.
	pulls []string
}

// startForge starts the Gitea and the second cluster. The agents of production are then two, in the clusters us and eu.
func (d *demo) startForge(ctx context.Context) (err error) {
	f := d.forge
	dir := filepath.Join(d.dir, "gitea")
	if err := os.RemoveAll(dir); err != nil { // what an older demo had there
		return err
	}
	if f.gitea, err = bed.StartGitea(ctx, bed.GiteaOptions{Dir: dir, Progress: d.out}); err != nil {
		return err
	}
	d.out.say("Gitea is up at %s", f.gitea.URL)
	if f.second, err = bed.Start(ctx, bed.Options{Dir: filepath.Join(d.dir, "eu")}); err != nil {
		return err
	}
	d.out.say("the API server of the second cluster is up")
	for _, user := range []string{bed.User, developer} {
		if err := f.gitea.User(ctx, user); err != nil {
			return err
		}
	}
	token, err := f.gitea.Token(ctx, bed.User, "agents", "write:repository", "write:issue", "read:user")
	if err != nil {
		return err
	}
	f.tokenFile = filepath.Join(d.dir, "token")
	if err := os.WriteFile(f.tokenFile, []byte(token), 0o600); err != nil {
		return fmt.Errorf("writing the token of the agents: %w", err)
	}
	if f.api, err = f.gitea.Client(ctx, developer); err != nil {
		return err
	}
	d.agents = []agent{
		{name: "agent-staging", bed: d.bed, environments: demoEnvironments[:1]},
		{name: "agent-us", bed: d.bed, cluster: "us", environments: demoEnvironments[1:]},
		{name: "agent-eu", bed: f.second, cluster: "eu", environments: demoEnvironments[1:]},
	}
	d.places = []place{"staging", "production/us", "production/eu"}
	return nil
}

func (f *forge) close() {
	if f.second != nil {
		_ = f.second.Close() // everything that was worth keeping was printed
	}
	if f.gitea != nil {
		_ = f.gitea.Close()
	}
}

func (f *forge) url(name string) string { return f.gitea.URL + "/" + bed.User + "/" + name + ".git" }

func (f *forge) create(ctx context.Context, name string) error {
	_, err := f.gitea.Repository(ctx, bed.User, name, developer)
	return err
}

// configuration is what the agent's says of an environment beyond that of one without a forge.
func (f *forge) configuration(name, password string) string {
	text := fmt.Sprintf("  forge: {kind: gitea, tokenFile: %q}\n", f.tokenFile)
	if name == "production" {
		text += fmt.Sprintf("  upstream: {url: %q, username: %s, passwordFile: %s}\n", f.url("staging"), bed.User, password)
	}
	return text
}

// pull has a version promoted by a pull request: to staging by a command of the developer, to production by the agents, once it has
// served in staging for a while.
func (d *demo) pull(ctx context.Context, name, to string) error {
	if name == "staging" {
		return d.promoteBy(ctx, to)
	}
	title := "chore: promote " + demoApp + " to version " + to
	var said string
	_, err := d.until(ctx, "the pull request of "+to, func() (rollout.Event, bool) {
		p, err := d.forge.find(name, title)
		if err != nil || p == nil {
			return rollout.Event{}, false
		}
		if said == "" {
			said = p.HTMLURL
			d.forge.pulls = append(d.forge.pulls, said)
			d.out.say("%-13s  the agents have seen it serve in staging, and propose it: %s", name, said)
		}
		if p.HasMerged {
			d.out.say("%-13s  merged, as the strategy is Auto", name)
		}
		return rollout.Event{}, p.HasMerged
	})
	return err
}

// find is a pull request by its title; nil: there is none yet.
func (f *forge) find(name, title string) (*gitea.PullRequest, error) {
	all, _, err := f.api.ListRepoPullRequests(bed.User, name, gitea.ListPullRequestsOptions{State: gitea.StateAll})
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(all, func(p *gitea.PullRequest) bool { return p.Title == title }); i >= 0 {
		return all[i], nil
	}
	return nil, nil
}

// promoteBy runs sluice promote as the developer, until its pull request is merged: what comes then the status branch tells.
func (d *demo) promoteBy(ctx context.Context, to string) error {
	args := []string{
		"promote", demoApp, "--version", to, "--env", "staging", "--repo", d.url("staging"), "--username", bed.User,
		"--password-file", d.passwordFile(), "--chart-repository", d.bed.Charts.URL(), "--chart-username", bed.User,
		"--chart-password-file", d.passwordFile(), "--forge", "gitea", "--forge-token-file", d.forge.tokenFile,
		"--pull-request-poll-time", "500ms", "--author", "A Developer <developer@example.com>",
	}
	d.out.say("%-13s  sluice promote %s --version %s --env staging", "staging", demoApp, to)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.sluice, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var problems strings.Builder
	cmd.Stderr = &problems
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("promoting %s to staging: %w", to, err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := strings.TrimPrefix(lines.Text(), "staging: ")
		if i := strings.Index(line, "http"); i >= 0 {
			d.forge.pulls = append(d.forge.pulls, line[i:])
		}
		d.out.say("%-13s  %s", "staging", line)
		if strings.HasPrefix(line, "merged as ") {
			cancel()
			_ = cmd.Wait() // it was told to stop
			return nil
		}
	}
	return fmt.Errorf("promoting %s to staging: %w: %s", to, cmp.Or(cmd.Wait(), errors.New("it was not merged")), problems.String())
}

// showPull shows what the pull request of the bad version was told, once it was told of each cluster.
func (d *demo) showPull(ctx context.Context) error {
	p, err := d.forge.find("production", "chore: promote "+demoApp+" to version "+demoBad)
	if err != nil || p == nil {
		return fmt.Errorf("finding the pull request of %s: %w", demoBad, cmp.Or(err, errors.New("there is none")))
	}
	var body string
	for begin := time.Now(); strings.Count(body, "was rolled back") < 2; {
		if time.Since(begin) > demoPatience {
			return &otherwiseError{fmt.Errorf("the pull request %s was not told of both clusters", p.HTMLURL)}
		}
		comments, _, err := d.forge.api.ListIssueComments(bed.User, "production", p.Index, gitea.ListIssueCommentOptions{})
		if err != nil {
			return err
		}
		if len(comments) > 0 {
			body = comments[0].Body
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e := <-d.events:
			d.hear(e)
		case <-time.After(200 * time.Millisecond):
		}
	}
	d.out.heading("What its pull request says: " + p.HTMLURL)
	_, body, _ = strings.Cut(body, "\n") // the mark of the comment
	d.out.block(strings.TrimSpace(body) + "\n")
	return nil
}

// places are where to look with a browser.
func (f *forge) places() string {
	return "Sign in at " + f.gitea.URL + "/user/login as " + developer + ", password " + bed.Password + ". Its pages have no style sheets here.\n" +
		strings.Join(f.pulls, "\n") + "\n"
}
