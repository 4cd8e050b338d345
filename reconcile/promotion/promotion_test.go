package promotion

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// repository is a bare repository, with a clone for what people do.
type repository struct {
	t         *testing.T
	dir, work string
}

const list = "# What runs.\napiVersion: v2\nname: env\nversion: 0.0.1\ndependencies:\n" +
	"- name: web\n  version: 1.0.0 # promoted\n  repository: https://c.example.com\n"

func newRepository(t *testing.T) *repository {
	t.Helper()
	root := t.TempDir()
	r := &repository{t: t, dir: filepath.Join(root, "env.git"), work: filepath.Join(root, "work")}
	r.git(root, "init", "-q", "--bare", "-b", "main", r.dir)
	r.git(root, "clone", "-q", r.dir, r.work)
	r.put("env/Chart.yaml", list)
	return r
}

func (r *repository) git(dir string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=ann@example.com", "GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=ann@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// put has somebody commit a file to the main branch.
func (r *repository) put(name, text string) {
	r.t.Helper()
	r.git(r.work, "checkout", "-q", "-B", "main")
	if r.git(r.work, "ls-remote", "origin", "main") != "" {
		r.git(r.work, "pull", "-q", "--rebase", "origin", "main")
	}
	r.write(name, text)
	r.git(r.work, "push", "-q", "origin", "HEAD:main")
}

// putBack has an agent take a version back on the main branch.
func (r *repository) putBack(from, to string) {
	r.t.Helper()
	r.put("env/Chart.yaml", list)
	r.git(r.work, "commit", "-q", "--amend", "-m", audit.RollbackMessage(audit.Names{Environment: "production", Cluster: "us"}, "web", rollout.Revert{
		From: rollout.Release{Version: from}, To: rollout.Release{Version: to},
	}))
	r.git(r.work, "push", "-q", "--force", "origin", "HEAD:main")
}

func (r *repository) write(name, text string) {
	r.t.Helper()
	file := filepath.Join(r.work, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.git(r.work, "add", "-A")
	r.git(r.work, "commit", "-q", "-m", "by hand")
}

// list is the environment's list on a branch.
func (r *repository) list(branch string) string {
	return r.git(r.dir, "show", branch+":env/Chart.yaml")
}

func (r *repository) proposer(f Forge) *Proposer {
	r.t.Helper()
	w, err := gitsync.NewWriter(gitsync.WriterConfig{Remote: gitsync.Remote{URL: r.dir, AllowFile: true, Branch: "main"}}, r.t.TempDir())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { w.Close() })
	return &Proposer{Branch: w, Base: "main", Forge: f}
}

// pulls is a forge in memory, for what a forge answers; the tests on a real one are in test/e2e.
type pulls struct {
	repo *repository
	mu   sync.Mutex
	all  []forge.Pull
	// read counts the pull requests that are read one by one.
	read atomic.Int64
	// first happens at the first question.
	first func()
	// asked counts the looks for an open one, with which all that is asked begins.
	asked atomic.Int64
	// verdict of every check; fault is every answer's, while it is there.
	verdict forge.Verdict
	fault   error
}

func (f *pulls) Find(_ context.Context, head, base string) (*forge.Pull, error) {
	if f.asked.Add(1) == 1 && f.first != nil {
		f.first()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.all {
		if p.State == forge.Open && p.Head == head && p.Base == base {
			return f.now(p), f.fault
		}
	}
	return nil, f.fault
}

// now is a pull request with the tip of its branch.
func (f *pulls) now(p forge.Pull) *forge.Pull {
	p.Commit = f.repo.git(f.repo.dir, "rev-parse", p.Head)
	p.Labels = slices.Clone(p.Labels)
	return &p
}

func (f *pulls) Get(_ context.Context, number int) (*forge.Pull, error) {
	f.read.Add(1)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now(f.all[number-1]), f.fault
}

func (f *pulls) Create(_ context.Context, p forge.Pull) (*forge.Pull, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.ContainsFunc(f.all, func(q forge.Pull) bool { return q.State == forge.Open && q.Head == p.Head }) {
		return nil, fmt.Errorf("%w: there is one", forge.ErrConflict)
	}
	p.Number, p.State = len(f.all)+1, forge.Open
	f.all = append(f.all, p)
	return f.now(p), f.fault
}

func (f *pulls) Update(_ context.Context, p forge.Pull) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := &f.all[p.Number-1]
	at.Title, at.Body, at.Labels = p.Title, p.Body, p.Labels
	return f.fault
}

func (f *pulls) Merge(_ context.Context, p forge.Pull, title string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.repo
	r.git(r.work, "fetch", "-q", "origin", p.Head)
	r.git(r.work, "checkout", "-q", "-B", "main", "origin/main")
	r.git(r.work, "merge", "-q", "--no-ff", "-m", title, "FETCH_HEAD")
	r.git(r.work, "push", "-q", "origin", "HEAD:main")
	f.all[p.Number-1].State = forge.Merged
	return f.fault
}

func (f *pulls) Checks(context.Context, string) (forge.Verdict, []forge.Check, error) {
	return f.verdict, []forge.Check{{Name: "build", Verdict: f.verdict}}, f.fault
}

func proposal(version string) Proposal {
	return Proposal{
		Environment: "production", Path: ".", App: "web", To: environments.Promotion{Version: version},
		Strategy: environments.PromotionManual, Source: "a test",
	}
}

const branch = "sluice/promote/production/web"

func mustPropose(t *testing.T, r *Proposer, p Proposal) Proposed {
	t.Helper()
	done, err := r.Propose(t.Context(), p, false)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// One pull request, whose content is the newest version; nothing but the version changes; comments stay.
func TestProposeKeepsOnePullRequest(t *testing.T) {
	repo := newRepository(t)
	f := &pulls{repo: repo, verdict: forge.Success}
	r := repo.proposer(f)
	first := mustPropose(t, r, proposal("1.1.0"))
	if first.From != "1.0.0" || first.Pull == nil || first.Pull.Title != "chore: promote web to version 1.1.0" ||
		!slices.Equal(first.Pull.Labels, []string{"env/production", HoldLabel}) || first.Done("main") {
		t.Errorf("proposed as %+v, %+v", first, first.Pull)
	}
	if again := mustPropose(t, r, proposal("1.1.0")); again.Commit != first.Commit || again.Pull.Number != first.Pull.Number {
		t.Errorf("proposed again as %+v", again)
	}
	repo.put("README.md", "moved on")
	second := mustPropose(t, r, proposal("1.2.0"))
	if second.Pull.Number != first.Pull.Number || second.Pull.Title != "chore: promote web to version 1.2.0" || len(f.all) != 1 {
		t.Errorf("a newer version is proposed as %+v, with %d pull requests", second.Pull, len(f.all))
	}
	if got, want := repo.list(branch), strings.TrimSpace(strings.Replace(list, "1.0.0 #", "1.2.0 #", 1)); got != want {
		t.Errorf("the branch says\n%s", got)
	}
	if got := repo.git(repo.dir, "diff", "--name-only", "main..."+branch); got != "env/Chart.yaml" {
		t.Errorf("the pull request changes %s", got)
	}
	repo.git(repo.dir, "merge-base", "--is-ancestor", first.Commit, branch) // nothing was forced
}

// What a person adds to the pull request stays, and so does that a person has taken the label off.
func TestProposeKeepsWhatPeopleDo(t *testing.T) {
	repo := newRepository(t)
	f := &pulls{repo: repo, verdict: forge.Success}
	r := repo.proposer(f)
	mustPropose(t, r, proposal("1.1.0"))
	repo.git(repo.work, "fetch", "-q", "origin", branch)
	repo.git(repo.work, "checkout", "-q", "-B", "pr", "FETCH_HEAD")
	repo.write("env/values.yaml", "web: {replicas: 3}\n")
	repo.git(repo.work, "push", "-q", "origin", "HEAD:"+branch)
	f.all[0].Labels = []string{"env/production"}
	done := mustPropose(t, r, proposal("1.1.0"))
	if slices.Contains(done.Pull.Labels, HoldLabel) {
		t.Errorf("the label is back: %v", done.Pull.Labels)
	}
	done = mustPropose(t, r, proposal("1.2.0"))
	if got := repo.git(repo.dir, "show", branch+":env/values.yaml"); got != "web: {replicas: 3}" {
		t.Errorf("what was added became %q", got)
	}
	if !strings.Contains(repo.list(branch), "version: 1.2.0 #") {
		t.Errorf("the branch says\n%s", repo.list(branch))
	}
	if !slices.Contains(done.Pull.Labels, HoldLabel) {
		t.Error("another version is not held")
	}
}

// What was merged or closed does not come back with the next proposal.
func TestProposeAnew(t *testing.T) {
	repo := newRepository(t)
	f := &pulls{repo: repo, verdict: forge.Success}
	r := repo.proposer(f)
	p := proposal("1.1.0")
	p.Strategy = environments.PromotionAuto
	done := mustPropose(t, r, p)
	if merged, err := r.Merge(t.Context(), done.Pull); err != nil || !merged {
		t.Fatalf("merged %t: %v", merged, err)
	}
	if done := mustPropose(t, r, p); done.Commit != "" || !done.Done("main") || done.Pull != nil {
		t.Errorf("what is there already is proposed as %+v", done)
	}
	closed := mustPropose(t, r, proposal("1.2.0"))
	if closed.Pull.Number != 2 {
		t.Errorf("after a merge: pull request %d", closed.Pull.Number)
	}
	f.all[1].State = forge.Closed
	repo.put("env/values.yaml", "web: {replicas: 5}\n")
	done = mustPropose(t, r, proposal("1.3.0"))
	if done.Pull.Number != 3 {
		t.Errorf("after it was closed: pull request %d", done.Pull.Number)
	}
	if got := repo.git(repo.dir, "diff", "--name-only", "main..."+branch); got != "env/Chart.yaml" {
		t.Errorf("it changes %s", got)
	}
	// The environment went back: the version is proposed again, though the branch has it.
	repo.put("env/Chart.yaml", list)
	if done = mustPropose(t, r, p); done.From != "1.0.0" || done.Pull == nil {
		t.Errorf("after a revert it is proposed as %+v", done)
	}
}

// A pull request that can't be merged any more is made anew upon what the branch says.
func TestProposeRefreshed(t *testing.T) {
	repo := newRepository(t)
	f := &pulls{repo: repo, verdict: forge.Success}
	r := repo.proposer(f)
	mustPropose(t, r, proposal("1.1.0"))
	repo.put("env/Chart.yaml", strings.Replace(list, "name: web", "name: web\n  alias: web", 1))
	stale, err := r.Propose(t.Context(), proposal("1.1.0"), false)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := r.Propose(t.Context(), proposal("1.1.0"), true)
	if err != nil || fresh.Commit == stale.Commit {
		t.Fatalf("refreshed to %s: %v", fresh.Commit, err)
	}
	if base := repo.git(repo.dir, "merge-base", "main", branch); base != repo.git(repo.dir, "rev-parse", "main") {
		t.Error("it is not upon the newest commit")
	}
}

// Without a forge, Auto commits at once, and Manual leaves a branch for somebody to merge.
func TestProposeWithoutForge(t *testing.T) {
	repo := newRepository(t)
	r := repo.proposer(nil)
	manual := mustPropose(t, r, proposal("1.1.0"))
	if manual.Branch != branch || manual.Commit == "" || manual.Pull != nil || manual.Done("main") {
		t.Errorf("Manual: %+v", manual)
	}
	p := proposal("1.2.0")
	p.Strategy = environments.PromotionAuto
	auto := mustPropose(t, r, p)
	if !auto.Done("main") || !strings.Contains(repo.list("main"), "version: 1.2.0 # promoted") {
		t.Errorf("Auto: %+v\n%s", auto, repo.list("main"))
	}
	p.Strategy = environments.PromotionNever
	if _, err := r.Propose(t.Context(), p, false); err == nil || !strings.Contains(err.Error(), "upstream.strategy is Never") {
		t.Errorf("Never: %v", err)
	}
	// What was proposed when the environment asked for something else is proposed as it is now.
	again := mustPropose(t, r, proposal("1.1.0"))
	if again.From != "1.2.0" || repo.git(repo.dir, "merge-base", "main", branch) != repo.git(repo.dir, "rev-parse", "main") {
		t.Errorf("proposed again as %+v", again)
	}
}

// Checks that have not passed, and a hold, keep Auto from merging; each is named.
func TestMerge(t *testing.T) {
	repo := newRepository(t)
	f := &pulls{repo: repo, verdict: forge.Pending}
	r := repo.proposer(f)
	p := proposal("1.1.0")
	p.Strategy = environments.PromotionAuto
	pull := mustPropose(t, r, p).Pull
	if merged, err := r.Merge(t.Context(), pull); merged || !errors.Is(err, forge.ErrNotReady) || !strings.Contains(err.Error(), "check build: pending") {
		t.Errorf("pending: %t, %v", merged, err)
	}
	f.verdict = forge.Success
	pull.Labels = append(pull.Labels, HoldLabel)
	if merged, err := r.Merge(t.Context(), pull); merged || !errors.Is(err, forge.ErrNotReady) || !strings.Contains(err.Error(), HoldLabel) {
		t.Errorf("held: %t, %v", merged, err)
	}
	pull.Labels = nil
	if merged, err := r.Merge(t.Context(), pull); !merged || err != nil {
		t.Errorf("ready: %t, %v", merged, err)
	}
}

// Many promotions at once, of which some are of one app, all land, each once.
func TestProposeAtOnce(t *testing.T) {
	repo := newRepository(t)
	apps := map[string]string{}
	var text strings.Builder
	text.WriteString("apiVersion: v2\nname: env\nversion: 0.0.1\ndependencies:\n")
	for i := range 15 {
		name := fmt.Sprintf("app%02d", i)
		apps[name] = "2.0.0"
		fmt.Fprintf(&text, "# %s is ours.\n- name: %s\n  version: 1.0.0\n  repository: https://c.example.com\n", name, name)
	}
	repo.put("env/Chart.yaml", text.String())
	f := &pulls{repo: repo, verdict: forge.Success}
	var wg sync.WaitGroup
	for _, name := range slices.Sorted(maps.Keys(apps)) {
		for range 2 { // two agents
			r := repo.proposer(f)
			wg.Go(func() {
				p := proposal("2.0.0")
				p.App, p.Strategy = name, environments.PromotionAuto
				if _, err := r.Propose(t.Context(), p, false); err != nil {
					t.Error(name, err)
				}
			})
		}
	}
	wg.Wait()
	if len(f.all) != len(apps) {
		t.Errorf("%d pull requests", len(f.all))
	}
	r := repo.proposer(f)
	for _, p := range f.all {
		if merged, err := r.Merge(t.Context(), f.now(p)); err != nil || !merged {
			t.Error(p.Head, err)
		}
	}
	if got, want := repo.list("main"), strings.TrimSpace(strings.ReplaceAll(text.String(), "version: 1.0.0", "version: 2.0.0")); got != want {
		t.Errorf("the list says\n%s", got)
	}
}
