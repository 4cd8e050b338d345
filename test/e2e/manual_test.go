package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"code.gitea.io/sdk/gitea"

	"github.com/sluice-cd/sluice/reconcile/promotion"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
)

// TestPromotionByPeople is a promotion that people decide: the pull request says what would come of it, waits with its label, is
// merged by a person, and begins when somebody approves it whose key is known. The forge is away in the middle of the next one. What
// pull requests, statuses and comments say is compared to the letter.
func TestPromotionByPeople(t *testing.T) {
	t.Parallel()
	g := newForge(t)
	w := newForgeWorld(t, g, "upstream: {strategy: Manual}\n")
	w.further = "  forge: {kind: gitea, tokenFile: token, forecast: true}\n"
	w.must(os.WriteFile(filepath.Join(w.dir, "signers"), []byte("ann@example.com "+w.key("ann")), 0o600))
	w.key("bob")
	w.commands = "allowedSigners: signers, requireSigned: true"
	w.install()
	w.commit("approvals", map[string]string{"env/values.yaml": w.values("hello", 2) + "    canaryAnalysis:\n      maxWeight: 10\n      approval: [begin]\n"})

	if said, code := w.promote("0.0.130", "--no-wait"); code != 0 || !strings.Contains(said, "it waits for a person: remove the label "+promotion.HoldLabel) {
		t.Fatalf("promote ended with %d:\n%s", code, said)
	}
	p := w.awaitPull("chore: promote croc-hunter-java to version 0.0.130")
	w.awaitForecast(p, "- croc-hunter-java: canary 0.0.129 -> 0.0.130\n")
	w.intervals(3)
	if p = w.awaitPull(p.Title); p.HasMerged {
		t.Fatal("it was merged in spite of its label")
	}
	held := w.shown(p)
	w.takeLabel(p)
	w.merge(p)
	w.says("waiting: gate approval is closed: not approved yet")
	w.signWith("bob")
	w.ask(3, "Bob", "approve --sign", app+": refused a command by Bob (*): Approve: it is signed with key SHA256:*, which is not known")
	w.signWith("ann")
	w.ask(0, "Ann", "approve --sign", app+": approved by Ann (0.0.129 -> 0.0.130): because")
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	p = w.awaitPull(p.Title)
	w.awaitStatus(*p.MergedCommitID, gitea.StatusSuccess, app+" 0.0.130: promoted")
	w.awaitStatus(p.Head.Sha, gitea.StatusSuccess, app+" 0.0.130: promoted")
	w.awaitSaid(p, w.outcome(), "| 0.0.130 | [promoted](")
	w.same("manual.golden", "held\n\n"+held+"\npromoted\n\n"+w.shown(p))

	// The forge is away while the next one is on its way.
	if said, code := w.promote("0.0.131", "--no-wait"); code != 0 {
		t.Fatalf("promote ended with %d:\n%s", code, said)
	}
	next := w.awaitPull("chore: promote croc-hunter-java to version 0.0.131")
	w.takeLabel(next)
	w.merge(next)
	w.says("waiting: gate approval is closed: not approved yet")
	w.ask(0, "Ann", "approve --sign", app+": approved by Ann (0.0.130 -> 0.0.131): because")
	w.must(g.Stop())
	w.intervals(5)
	log := w.log.tail(1 << 20)
	for _, want := range []string{"the forge is not told everything", "127.0.0.1"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	w.must(g.StartAgain(t.Context()))
	w.awaitEvent(rollout.Promoted, "0.0.131", 1)
	next = w.awaitPull(next.Title)
	w.awaitStatus(*next.MergedCommitID, gitea.StatusSuccess, app+" 0.0.131: promoted")
	w.awaitSaid(next, w.outcome(), "| 0.0.131 | [promoted](")
	seen := map[string]int{}
	for _, e := range w.events() {
		if seen[fmt.Sprint(e.App, e.Seq)]++; seen[fmt.Sprint(e.App, e.Seq)] > 1 {
			t.Errorf("event %d stands twice in the log", e.Seq)
		}
	}

	// Nothing that people can read has a credential in it.
	token, err := os.ReadFile(filepath.Join(w.dir, "token"))
	w.must(err)
	told := w.log.tail(1<<20) + w.shown(p) + w.shown(next)
	for _, c := range w.history(w.statusBranch()) {
		told += c.Message
	}
	for _, secret := range []string{bed.Password, strings.TrimSpace(string(token))} {
		if strings.Contains(told, secret) {
			t.Error("a credential was told")
		}
	}
}

// outcome begins the comment that says what became of a promotion.
func (w *forgeWorld) outcome() string { return "<!-- sluice: what became of it in " + w.name + " -->" }

// takeLabel takes the hold label off a pull request.
func (w *forgeWorld) takeLabel(p *gitea.PullRequest) {
	w.Helper()
	i := slices.IndexFunc(p.Labels, func(l *gitea.Label) bool { return l.Name == promotion.HoldLabel })
	if i < 0 {
		w.Fatalf("pull request %d has no label %s", p.Index, promotion.HoldLabel)
	}
	_, err := w.person.DeleteIssueLabel(bed.User, w.name, p.Index, p.Labels[i].ID)
	w.must(err)
}

// signWith has people's commands signed with the key of that name.
func (w *forgeWorld) signWith(name string) {
	w.Helper()
	w.must(os.WriteFile(filepath.Join(w.dir, ".gitconfig"), []byte("[gpg]\n\tformat = ssh\n[user]\n\tsigningKey = ~/"+name+"\n"), 0o600))
}

// said is the one comment on a pull request that begins with a marker; empty: there is none.
func (w *forgeWorld) said(p *gitea.PullRequest, marker string) (text string) {
	w.Helper()
	all, _, err := w.person.ListIssueComments(bed.User, w.name, p.Index, gitea.ListIssueCommentOptions{})
	w.must(err)
	for _, c := range all {
		if strings.HasPrefix(c.Body, marker) {
			if text != "" {
				w.Fatalf("there are two comments %s", marker)
			}
			text = c.Body
		}
	}
	return text
}

func (w *forgeWorld) awaitSaid(p *gitea.PullRequest, marker, text string) {
	w.Helper()
	w.await("a comment with "+text, func() (bool, string) {
		said := w.said(p, marker)
		return strings.Contains(said, text), said
	})
}

// awaitForecast waits until the forecast of a pull request has a text.
func (w *forgeWorld) awaitForecast(p *gitea.PullRequest, text string) {
	w.Helper()
	w.awaitSaid(p, "<!-- sluice: forecast of "+w.name+" -->\n", text)
}

// shown is all that a forge shows of a pull request.
func (w *forgeWorld) shown(p *gitea.PullRequest) string {
	w.Helper()
	p, _, err := w.person.GetPullRequest(bed.User, w.name, p.Index)
	w.must(err)
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n", p.Title)
	for _, l := range p.Labels {
		fmt.Fprintf(&b, "label %s\n", l.Name)
	}
	fmt.Fprintf(&b, "%s\n\n", p.Body)
	commits := []string{p.Head.Sha}
	if p.MergedCommitID != nil {
		commits = append(commits, *p.MergedCommitID)
	}
	for _, c := range commits {
		all, _, err := w.person.ListStatuses(bed.User, w.name, c, gitea.ListStatusesOption{})
		w.must(err)
		if len(all) > 0 { // the newest
			fmt.Fprintf(&b, "status %s of %s: %s %s\n", all[0].Context, c, all[0].State, all[0].Description)
		}
	}
	comments, _, err := w.person.ListIssueComments(bed.User, w.name, p.Index, gitea.ListIssueCommentOptions{})
	w.must(err)
	for _, c := range comments {
		fmt.Fprintf(&b, "\ncomment of %s\n%s\n", c.Poster.UserName, c.Body)
	}
	return b.String()
}

// What differs from run to run in what is shown.
var (
	hashes   = regexp.MustCompile(`\b[0-9a-f]{10,64}\b`)
	measures = regexp.MustCompile(`\b\d+(\.\d+)?( ?%| ms| s\b)`)
	programs = regexp.MustCompile(`sluice [^ ,;\n]*\(?devel[^ ,;\n]*`)
)

// same compares what is shown with a file, which UPDATE_SHOWN=1 writes.
func (w *forgeWorld) same(file, got string) {
	w.Helper()
	got = strings.NewReplacer(w.forge.URL, "FORGE", w.bed.Charts.URL(), "CHARTS", w.image, "IMAGE", w.name, "ENV").Replace(got)
	got = hashes.ReplaceAllString(got, "COMMIT")
	got = measures.ReplaceAllString(got, "N$2")
	got = programs.ReplaceAllString(got, "sluice VERSION")
	path := filepath.Join("testdata", "promotion", file)
	if os.Getenv("UPDATE_SHOWN") != "" {
		w.must(os.MkdirAll(filepath.Dir(path), 0o755))
		w.must(os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	w.must(err)
	if got != string(want) {
		w.Errorf("%s: what is shown is otherwise; it is\n%s", file, got)
	}
}
