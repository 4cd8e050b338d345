package reconcile

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/signature"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/source"
)

// maxVouched is how many commits of Sluice's own are looked at for one of a person below them.
const maxVouched = 1000

// Vouched reports why a commit may not be delivered: its committer did not sign it with a key of theirs that is known. Who signs
// a commit signs all files of it, so that what was pushed before is not looked at. Sluice's own commits are the exception, those
// of own and those with its trailers: it puts them upon whatever is there, so the commit below has to be vouched for as well. Else
// its rollback would bring in what was refused before.
func Vouched(ctx context.Context, repo *gitsync.Repo, keys *signature.Keys, own gitsync.Identity, tip string, now time.Time) error {
	for range maxVouched {
		list, err := repo.Commits(ctx, tip, "", 1)
		if err != nil {
			return fmt.Errorf("looking for the signature of commit %.10s: %w", tip, err)
		}
		c := list[0]
		if err := keys.VerifyCommitter(c, now); err != nil {
			return fmt.Errorf("nothing is delivered: commit %.10s of %s can't be trusted: %w; look at what it changes, and push a commit "+
				"on top that is signed with a key of verify in agent.yaml", c.Hash, person(c.Committer), err)
		}
		_, written := audit.ParseMessage(c.Message)
		if len(c.Parents) == 0 || !written && !strings.EqualFold(c.Committer.Email, own.Email) {
			return nil
		}
		tip = c.Parents[0]
	}
	return fmt.Errorf("nothing is delivered: the newest %d commits are Sluice's own; push a signed commit", maxVouched)
}

// vouched is Vouched by the keys of the configuration, which are read anew: they may be others by now.
func (r *Repository) vouched(ctx context.Context, tip string) error {
	if r.cfg.Trusted == nil {
		return nil
	}
	keys, err := r.cfg.Trusted()
	if err != nil {
		return err
	}
	return Vouched(ctx, r.repo, keys, r.cfg.Identity, tip, r.commands.Now())
}

// read is what a snapshot says, of which nothing is looked at that nobody vouches for.
func (r *Repository) read(ctx context.Context, s *gitsync.Snapshot) (source.Commit, error) {
	if err := r.vouched(ctx, s.Commit); err != nil {
		return source.Commit{Snapshot: s}, err
	}
	return r.load(s)
}
