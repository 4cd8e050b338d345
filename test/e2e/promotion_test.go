package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"code.gitea.io/sdk/gitea"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// reviewer is a person who may write to the repositories of the forge; the bot that the agents are is bed.User.
const reviewer = "reviewer"

// forgeWorld is an environment whose repository is on a forge.
type forgeWorld struct {
	*world
	forge *bed.Gitea
	// as is the forge's API for a user.
	bot, person *gitea.Client
}

// newForge starts a forge with its two users.
func newForge(t *testing.T) *bed.Gitea {
	t.Helper()
	g, err := bed.StartGitea(t.Context(), bed.GiteaOptions{Progress: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, user := range []string{bed.User, reviewer} {
		if err := g.User(t.Context(), user); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// newForgeWorld makes an environment on the forge. settings are further lines of sluice.yaml.
func newForgeWorld(t *testing.T, g *bed.Gitea, settings string) *forgeWorld {
	t.Helper()
	w := &forgeWorld{world: newWorld(t), forge: g}
	var err error
	w.address, err = g.Repository(t.Context(), bed.User, w.name, reviewer)
	w.must(err)
	w.found(settings)
	w.bot, err = g.Client(t.Context(), bed.User)
	w.must(err)
	w.person, err = g.Client(t.Context(), reviewer)
	w.must(err)
	w.newToken("first")
	w.further = "  forge: {kind: gitea, tokenFile: token}\n"
	return w
}

// newToken gives the agent a token by this name.
func (w *forgeWorld) newToken(name string) {
	w.Helper()
	token, err := w.forge.Token(w.Context(), bed.User, w.name+"-"+name, "write:repository", "write:issue", "read:user")
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.dir, "token"), []byte(token+"\n"), 0o600))
}

// promote runs sluice promote of the app, and returns what it says and its exit code.
func (w *forgeWorld) promote(version string, args ...string) (said string, code int) {
	w.Helper()
	out, stderr, code := w.run("promote", append([]string{
		app, "--version", version, "--chart-repository", w.bed.Charts.URL(), "--chart-username", bed.User,
		"--chart-password-file", filepath.Join(w.dir, "password"), "--forge", "gitea",
		"--forge-token-file", filepath.Join(w.dir, "token"), "--pull-request-poll-time", "500ms", "--timeout", "5m",
	}, args...)...)
	return out + stderr, code
}

// pulls are the pull requests that there ever were, oldest first.
func (w *forgeWorld) pulls() []*gitea.PullRequest {
	w.Helper()
	all, _, err := w.person.ListRepoPullRequests(bed.User, w.name, gitea.ListPullRequestsOptions{State: gitea.StateAll})
	w.must(err)
	slices.SortFunc(all, func(x, y *gitea.PullRequest) int { return int(x.Index - y.Index) })
	return all
}

// awaitPull waits for the pull request of a title.
func (w *forgeWorld) awaitPull(title string) *gitea.PullRequest {
	w.Helper()
	var found *gitea.PullRequest
	w.await("a pull request "+title, func() (bool, string) {
		var titles []string
		for _, p := range w.pulls() {
			titles = append(titles, p.Title)
			if p.Title == title {
				found = p
				return true, ""
			}
		}
		return false, strings.Join(titles, ", ")
	})
	return found
}

// awaitStatus waits until the environment's status of a commit begins so.
func (w *forgeWorld) awaitStatus(commit string, state gitea.StatusState, text string) {
	w.Helper()
	w.await(fmt.Sprintf("status %s %q of %.10s", state, text, commit), func() (bool, string) {
		all, _, err := w.person.ListStatuses(bed.User, w.name, commit, gitea.ListStatusesOption{})
		w.must(err)
		for _, s := range all { // newest first
			if s.Context == "sluice/"+w.name {
				return s.State == state && strings.HasPrefix(s.Description, text), string(s.State) + " " + s.Description
			}
		}
		return false, "none"
	})
}

// awaitComment waits until the one comment on a pull request has a text.
func (w *forgeWorld) awaitComment(number int64, text string) {
	w.Helper()
	w.await("a comment with "+text, func() (bool, string) {
		all, _, err := w.person.ListIssueComments(bed.User, w.name, number, gitea.ListIssueCommentOptions{})
		w.must(err)
		if len(all) > 1 {
			w.Fatalf("there are %d comments", len(all))
		}
		if len(all) == 0 {
			return false, "none"
		}
		return strings.Contains(all[0].Body, text), all[0].Body
	})
}

// merge has the person merge a pull request.
func (w *forgeWorld) merge(p *gitea.PullRequest) {
	w.Helper()
	w.await("the pull request to be merged", func() (bool, string) {
		ok, _, err := w.person.MergePullRequest(bed.User, w.name, p.Index, gitea.MergePullRequestOption{Style: gitea.MergeStyleMerge})
		return ok && err == nil, fmt.Sprint(err)
	})
}

// TestPromotion is the whole story between two repositories on a forge: promoted to the first environment by one command, and from
// there, once it has soaked, by the agents. What fails is rolled back, told to the pull request, and proposed by nobody again.
func TestPromotion(t *testing.T) {
	t.Parallel()
	g := newForge(t)
	first := newForgeWorld(t, g, "upstream: {strategy: Auto}\n")
	second := newForgeWorld(t, g, fmt.Sprintf("upstream: {environment: %s, repository: %q, strategy: Auto, soak: 2s}\n", first.name, first.address))
	second.further += fmt.Sprintf("  upstream: {url: %q, %s}\n", first.address, credentials)
	second.must(os.WriteFile(filepath.Join(second.dir, "password"), []byte(bed.Password), 0o600))
	first.install()
	second.install()
	second.behave("0.0.131", behaviour.Behaviour{ErrorRate: 0.3})

	said, code := first.promote("0.0.130")
	for _, want := range []string{
		first.name + ": chore: promote croc-hunter-java to version 0.0.130: " + g.URL, ": merged as ",
		"croc-hunter-java: rollout started (0.0.129 -> 0.0.130)", "croc-hunter-java serves 0.0.130",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("promote does not say %q", want)
		}
	}
	if code != 0 || t.Failed() {
		t.Fatalf("promote ended with %d:\n%s", code, said)
	}
	good := second.awaitPull("chore: promote croc-hunter-java to version 0.0.130")
	if !strings.Contains(good.Body, "It runs in **"+first.name+"**") || len(good.Labels) != 1 || good.Labels[0].Name != "env/"+second.name {
		t.Errorf("it is proposed as %q, labels %+v", good.Body, good.Labels)
	}
	second.awaitEvent(rollout.Promoted, "0.0.130", 1)
	good = second.awaitPull(good.Title)
	if !good.HasMerged || good.MergedCommitID == nil {
		t.Fatalf("it is promoted and not merged: %+v", good)
	}
	second.awaitStatus(*good.MergedCommitID, gitea.StatusSuccess, "croc-hunter-java 0.0.130: promoted")
	second.awaitStatus(good.Head.Sha, gitea.StatusSuccess, "croc-hunter-java 0.0.130: promoted")
	second.awaitComment(good.Index, "| croc-hunter-java | "+second.name+" | 0.0.130 | [promoted](")
	promoted := second.shown(second.awaitPull(good.Title))

	if said, code := first.promote("0.0.131"); code != 0 {
		t.Fatalf("promote ended with %d:\n%s", code, said)
	}
	second.awaitEvent(rollout.RollbackCommitted, "0.0.131", 1)
	bad := second.awaitPull("chore: promote croc-hunter-java to version 0.0.131")
	second.awaitStatus(*bad.MergedCommitID, gitea.StatusFailure, "croc-hunter-java 0.0.131 was rolled back: ")
	second.awaitComment(bad.Index, "| [was rolled back](")
	second.same("auto.golden", "promoted\n\n"+promoted+"\nrolled back\n\n"+second.shown(second.awaitPull(bad.Title)))
	if got := second.file("main", requirements); !strings.Contains(got, "version: 0.0.130  # promoted by hand") {
		t.Errorf("git says\n%s", got)
	}

	// Nobody proposes it again by himself; a person who does is told, and so is the pull request.
	second.intervals(5)
	if n := len(second.pulls()); n != 2 {
		t.Errorf("there are %d pull requests", n)
	}
	if said, code := second.promote("0.0.131"); code != 3 || !strings.Contains(said, "0.0.131 was rolled back in "+second.name) {
		t.Errorf("promote ended with %d: %s", code, said)
	}
	if said, code := second.promote("0.0.131", "--again", "--no-merge", "--no-wait"); code != 0 || !strings.Contains(said, "it waits for a person: remove the label do-not-merge/hold") {
		t.Errorf("promote ended with %d: %s", code, said)
	}
	again := second.pulls()[2]
	second.awaitStatus(again.Head.Sha, gitea.StatusFailure, "croc-hunter-java 0.0.131 was rolled back here")

	// The next one takes the place of that, in the pull request that is open.
	if said, code := first.promote("0.0.132"); code != 0 {
		t.Fatalf("promote ended with %d:\n%s", code, said)
	}
	second.awaitEvent(rollout.Promoted, "0.0.132", 1)
	if n := len(second.pulls()); n != 3 {
		t.Errorf("there are %d pull requests", n)
	}
	for _, w := range []*forgeWorld{first, second} {
		if log := w.log.tail(1 << 20); strings.Contains(log, bed.Password) {
			t.Error("the log has the password")
		}
	}
}

// TestProtectedBranchOfAForge: where the agent may not push, a rollback is a pull request that waits for a person; the cluster is back
// already, and the event has the address. A token that is revoked meanwhile keeps nothing from being delivered.
func TestProtectedBranchOfAForge(t *testing.T) {
	t.Parallel()
	g := newForge(t)
	w := newForgeWorld(t, g, "upstream: {strategy: Auto}\n")
	w.install()
	w.behave("0.0.130", behaviour.Behaviour{ErrorRate: 0.3})
	_, _, err := w.bot.CreateBranchProtection(bed.User, w.name, gitea.CreateBranchProtectionOption{
		BranchName: "main", EnablePush: true, EnablePushWhitelist: true, PushWhitelistUsernames: []string{reviewer},
		EnableMergeWhitelist: true, MergeWhitelistUsernames: []string{reviewer},
	})
	w.must(err)
	if said, code := w.promote("0.0.130", "--no-wait"); code != 0 {
		t.Fatalf("promote ended with %d:\n%s", code, said)
	}
	w.merge(w.awaitPull("chore: promote croc-hunter-java to version 0.0.130"))
	e := w.awaitEvent(rollout.RollbackProposed, "0.0.130", 1)
	p := w.awaitPull("croc-hunter-java: roll back 0.0.130 -> 0.0.129")
	if e.URL != p.HTMLURL || p.HasMerged {
		t.Errorf("the event has %s, the pull request is %+v", e.URL, p)
	}
	if out, _ := w.sluice("status"); !strings.Contains(out, "waits to be merged: branch ") || !strings.Contains(out, ": "+p.HTMLURL) {
		t.Errorf("status says %s", out)
	}
	w.merge(p)
	w.await("git to agree", func() (bool, string) {
		got := w.file("main", requirements)
		return strings.Contains(got, "version: 0.0.129 "), got
	})

	w.must(g.RevokeToken(context.Background(), bed.User, w.name+"-first"))
	w.commitAs(reviewer, "0.0.131")
	w.awaitEvent(rollout.Promoted, "0.0.131", 1)
	w.await("the log to say what is wrong with the token", func() (bool, string) {
		log := w.log.tail(3000)
		return strings.Contains(log, "the forge refuses the token"), log
	})
	w.newToken("second")
	w.await("the commit to have its status", func() (bool, string) {
		all, _, err := w.person.ListStatuses(bed.User, w.name, w.history("main")[0].Hash, gitea.ListStatusesOption{})
		w.must(err)
		return len(all) > 0, "none"
	})
}

// commitAs has somebody set the app's version.
func (w *forgeWorld) commitAs(user, version string) {
	w.Helper()
	text := strings.Replace(w.file("main", requirements), "version: 0.0.129", "version: "+version, 1)
	api, err := w.forge.Client(w.Context(), user)
	w.must(err)
	at, _, err := api.GetContents(bed.User, w.name, "main", requirements)
	w.must(err)
	_, _, err = api.UpdateFile(bed.User, w.name, requirements, gitea.UpdateFileOptions{
		FileOptions: gitea.FileOptions{Message: "chore: " + version, BranchName: "main"}, SHA: at.SHA, Content: base64.StdEncoding.EncodeToString([]byte(text)),
	})
	w.must(err)
}

// On a forge each promotion is a pull request, and both clusters end as git says.
func TestDemoOnAForge(t *testing.T) {
	bedtest.Need(t, shared)
	root, err := bed.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	// Its time is for what it does, and not for the compiler.
	if _, err := bed.BuildGitea(t.Context(), root, os.Stderr); err != nil {
		t.Fatal(err)
	}
	out, err := demo(t, "--forge")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	inOrder(t, out,
		"production/us  installed 0.0.129", "staging        chore: promote croc-hunter-java to version 0.0.130: http", "staging        merged as ",
		"production     the agents have seen it serve in staging, and propose it: http", "production     merged, as the strategy is Auto",
		"A bad version", "production     merged, as the strategy is Auto",
		"+  version: 0.0.130  # written by jx promote", "What its pull request says: http", "| croc-hunter-java | eu | 0.0.131 | [was rolled back](",
		"| croc-hunter-java | us | 0.0.131 | [was rolled back](", "0.0.131 was rolled back in production/us: ",
	)
}
