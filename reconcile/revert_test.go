package reconcile

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

func (r *recorder) rollBack(from, to rollout.Release) rollout.Reverted {
	r.t.Helper()
	answer, err := r.Repository.Revert(r.t.Context(), r.source.Env.WriteBack, "web", rollout.Revert{From: from, To: to, Rollout: 1, Reason: "bad"})
	if err != nil {
		r.t.Fatal(err)
	}
	return answer
}

// A rollback for a pull request is upon the branch as it is, whatever an older one has left.
func TestRollbackBranchIsFresh(t *testing.T) {
	r := newRecorder(t)
	r.commit(map[string]string{"env/sluice.yaml": "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nwriteBack: {mode: PullRequest}\n"})
	stable := r.bump("0.0.1")
	for _, version := range []string{"0.0.2", "0.0.3"} {
		failed := r.bump(version)
		answer := r.rollBack(failed, stable)
		branch := "sluice/rollback/staging/web-" + failed.Commit[:10]
		if answer.Commit == "" || answer.Branch != branch || answer.Skipped != "" {
			t.Fatalf("the rollback of %s: %+v", version, answer)
		}
		log, _ := r.history(branch)
		if last := log[len(log)-1]; last.Hash != answer.Commit || last.Parents[0] != failed.Commit || !strings.Contains(last.Message, version+" -> 0.0.1") {
			t.Errorf("branch %s ends with %q", branch, last.Message)
		}
		if again := r.rollBack(failed, stable); again.Branch != branch {
			t.Errorf("once more: %+v", again)
		}
		r.bump("0.0.1") // the pull request is merged, and its branch stays
	}
}

// oneForge has at most one pull request. What real forges do is in test/e2e.
type oneForge struct {
	pull         *forge.Pull
	fault, merge error
}

func (f *oneForge) Find(context.Context, string, string) (*forge.Pull, error) { return f.pull, f.fault }

func (f *oneForge) Get(context.Context, int) (*forge.Pull, error) { return f.pull, f.fault }

func (f *oneForge) Create(_ context.Context, p forge.Pull) (*forge.Pull, error) {
	if f.fault == nil {
		p.Number, p.URL, p.State = 1, "https://git.example.com/env/pulls/1", forge.Open
		f.pull = &p
	}
	return f.pull, f.fault
}

func (f *oneForge) Merge(_ context.Context, _ forge.Pull, _ string) error {
	if f.merge == nil {
		f.pull.State, f.pull.MergeCommit = forge.Merged, "merged"
	}
	return f.merge
}

// A rollback that may not be committed gets a pull request, which is merged where the forge lets it; a forge that is away is
// asked again, and one that refuses the token leaves the branch for somebody.
func TestRollbackPullRequest(t *testing.T) {
	r := newRecorder(t)
	stable := r.bump("0.0.1")
	failed := r.bump("0.0.2")
	at := &oneForge{fault: fmt.Errorf("opening: %w", forge.ErrUnavailable)}
	r.Repository.cfg.Forge = at
	revert := rollout.Revert{From: failed, To: stable, Rollout: 1, Reason: "bad"}
	propose := func(merge bool) (rollout.Reverted, error) {
		edit, err := r.Repository.revertEdit(t.Context(), "web", revert)
		if err != nil {
			t.Fatal(err)
		}
		return r.Repository.proposeRevert(t.Context(), "web", revert, edit, merge)
	}
	if _, err := propose(true); !errors.Is(err, forge.ErrUnavailable) {
		t.Errorf("a forge that is away: %v", err)
	}
	at.fault = forge.ErrForbidden
	if got, err := propose(true); err != nil || got.Branch == "" || got.URL != "" {
		t.Errorf("a forge that refuses: %+v, %v", got, err)
	}
	at.fault, at.merge = nil, forge.ErrNotReady
	got, err := propose(true)
	if err != nil || got.Branch == "" || got.URL != "https://git.example.com/env/pulls/1" {
		t.Errorf("one that has to be reviewed: %+v, %v", got, err)
	}
	if p := at.pull; p.Title != "web: roll back 0.0.2 -> 0.0.1" || !strings.HasPrefix(p.Body, "bad") || p.Base != "main" {
		t.Errorf("it is opened as %+v", p)
	}
	at.merge = nil
	if got, err := propose(false); err != nil || got.URL == "" || at.pull.State != forge.Open {
		t.Errorf("where people merge: %+v, %v", got, err)
	}
	if got, err := propose(true); err != nil || got.Commit != "merged" || got.Branch != "" {
		t.Errorf("one that may be merged: %+v, %v", got, err)
	}
}

// A rollback commit whose answer was lost is found again, also when somebody has moved on from it.
func TestLostAnswerOfARollback(t *testing.T) {
	r := newRecorder(t)
	stable := r.bump("0.0.1")
	failed := r.bump("0.0.2")
	first := r.rollBack(failed, stable)
	if first.Commit == "" {
		t.Fatalf("the rollback: %+v", first)
	}
	if again := r.rollBack(failed, stable); again != first {
		t.Errorf("asked again: %+v, want %+v", again, first)
	}
	r.bump("0.0.3")
	if again := r.rollBack(failed, stable); again != first {
		t.Errorf("asked again after a bump: %+v, want %+v", again, first)
	}
	other := failed
	other.Version = "0.0.9" // no commit of ours put that back
	if got := r.rollBack(other, stable); got.Commit != "" || !strings.Contains(got.Skipped, environments.ErrMovedOn.Error()) {
		t.Errorf("a rollback that nobody wrote: %+v", got)
	}
}

// Which errors are the last word on a rollback.
func TestSkipped(t *testing.T) {
	for _, tt := range []struct {
		err   error
		final bool
	}{
		{fmt.Errorf("committing: %w", &gitsync.RejectedError{Branch: "main", Reason: "protected"}), true},
		{fmt.Errorf("editing: %w", environments.ErrMovedOn), true},
		{fmt.Errorf("committing: %w", &gitsync.RejectedError{Branch: "main", Unauthorized: true, Reason: "expired token"}), false},
		{context.DeadlineExceeded, false},
	} {
		answer, err := skipped(tt.err)
		if tt.final != (err == nil && answer.Skipped != "") {
			t.Errorf("%v: %+v, %v", tt.err, answer, err)
		}
	}
}

// An answer to one rollback that comes when the next is due already does not keep that from being written.
func TestLateAnswerOfARollback(t *testing.T) {
	a := newReader(t)
	a.source.Snapshot = &gitsync.Snapshot{}
	ap := &app{name: "app"}
	ap.saved.State.Revert = &rollout.Revert{Rollout: 2}
	a.apps["app"] = ap
	for _, tt := range []struct {
		answer *rollout.Reverted
		due    int
	}{{nil, 1}, {&rollout.Reverted{Rollout: 1}, 1}, {&rollout.Reverted{Rollout: 2}, 0}} {
		ap.reverted = tt.answer
		if due := a.reverts(); len(due) != tt.due {
			t.Errorf("answered %+v: %d are due, want %d", tt.answer, len(due), tt.due)
		}
	}
}

// TestRollbackToWhatServedBefore: a release that was adopted came by no commit that Sluice has seen; the version is put
// back as the newest commit that lists it has it.
func TestRollbackToWhatServedBefore(t *testing.T) {
	r := newRecorder(t)
	r.bump("0.0.1")
	r.commit(map[string]string{"env/requirements.yaml": "dependencies: [\n"}) // somebody's slip, which lists nothing
	failed := r.bump("0.0.2")
	answer := r.rollBack(failed, rollout.Release{Version: "0.0.1", Digest: "adopted"})
	if answer.Commit == "" {
		t.Fatalf("the rollback: %+v", answer)
	}
	r.look()
	if got := r.source.Env.Apps[0].Chart.Version; got != "0.0.1" {
		t.Errorf("the branch says %s", got)
	}
	failed = r.bump("0.0.3")
	answer = r.rollBack(failed, rollout.Release{Version: "0.0.0", Digest: "adopted"})
	if want := "web 0.0.0 served before Sluice came"; !strings.Contains(answer.Skipped, want) {
		t.Errorf("of a version that no commit lists: %+v, want %q", answer, want)
	}
}
