package gitsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/sluice-cd/sluice/gitsync/redact"
)

// WriterConfig says where and as whom a Writer commits.
type WriterConfig struct {
	// Remote names the branch. It is read with Auth and written with WriteAuth.
	Remote Remote
	// Identity is the author and committer where a Change names none; default Sluice <sluice@localhost>.
	Identity Identity
	// Create permits to make the branch when the remote has none: its first commit has no parent.
	Create bool
	// Attempts is how often one Commit tries to win the race for the branch; default 30. With full jitter up to
	// ten seconds between them that is two minutes of losing.
	Attempts int
}

const (
	// retryBase and retryCap bound the window of the jittered pause after a lost race, which doubles up to maxDoublings times.
	retryBase    = 20 * time.Millisecond
	retryCap     = 10 * time.Second
	maxDoublings = 6
	// maxWriterPacks is the number of packs at which a Writer's store begins anew: it needs the tip only, and
	// fetching that is cheap.
	maxWriterPacks = 400
)

// Writer commits to one branch. Commits of one Writer, and of those it made with Branch, come one after the other;
// any number of other writers, here or elsewhere, may write to the same branch.
type Writer struct {
	cfg   WriterConfig
	link  *link
	store *store
	// turn is held during a Commit; Writers made by Branch share it.
	turn chan struct{}
	// base writes the branch that a missing branch starts from; nil: it starts from nothing.
	base *Writer
}

// NewWriter prepares dir, as Open does, without asking the remote. dir must not be that of a Repo.
func NewWriter(cfg WriterConfig, dir string) (*Writer, error) {
	if err := cfg.Remote.Validate(); err != nil {
		return nil, fmt.Errorf("opening writer: %w", err)
	}
	cfg.Remote = cfg.Remote.withDefaults()
	if cfg.Identity == (Identity{}) {
		cfg.Identity = Identity{Name: "Sluice", Email: "sluice@localhost"}
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = 30
	}
	l, err := newLink(cfg.Remote)
	if err != nil {
		return nil, fmt.Errorf("opening writer: %w", err)
	}
	s, err := openStore(dir, cfg.Remote)
	if err != nil {
		return nil, l.fault("opening object store of", err)
	}
	return &Writer{cfg: cfg, link: l, store: s, turn: make(chan struct{}, 1)}, nil
}

// Branch is a Writer for another branch of the same remote, such as that of a pull request. When the remote has no
// such branch, its first Commit starts from the tip of w's branch. It needs no Close of its own.
func (w *Writer) Branch(name string) (*Writer, error) {
	if err := branchRef(name).Validate(); err != nil {
		return nil, fmt.Errorf("opening writer: branch %q: %w", name, err)
	}
	b := *w
	b.base = w
	b.cfg.Remote.Branch = name
	b.link = w.link.onBranch(name)
	return &b, nil
}

// Close releases the object store.
func (w *Writer) Close() error { return w.store.close() }

// Commit commits what edit makes of the branch's tip, and returns the hash of the commit. When edit returns nil,
// or a Change that changes nothing and is not Empty, there is no commit and the hash is empty.
//
// edit is called again with the new tip each time that somebody else was faster, so it must be a function of the
// tip: look whether what it wants is still wanted, and whether it is there already. The latter also happens when
// a push arrived but the answer to it was lost: then edit sees its own commit, either in this call or, when the
// remote can't be reached meanwhile, in the next one. (When the tip is exactly the commit whose answer was lost,
// this call returns its hash and edit is not asked.) An error of edit is returned as it is.
//
// The tip is usable until the next Commit. The tip of a branch that is to be made with WriterConfig.Create has no
// files and no Commit.
//
// A *RejectedError says that the remote does not want the commit. Any other error is worth another try later.
func (w *Writer) Commit(ctx context.Context, edit func(tip *Snapshot) (*Change, error)) (string, error) {
	return w.CommitAll(ctx, func(tip *Snapshot) ([]*Change, error) {
		change, err := edit(tip)
		if err != nil || change == nil {
			return nil, err
		}
		return []*Change{change}, nil
	})
}

// CommitAll is Commit for several commits that are pushed together: each Change is a commit upon the one before it.
// Either all of them are on the branch afterwards or none. The hash is the newest commit's.
func (w *Writer) CommitAll(ctx context.Context, edit func(tip *Snapshot) ([]*Change, error)) (string, error) {
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return "", w.link.fault("committing to", context.Cause(ctx))
	}
	hash, err := w.commit(ctx, edit)
	var own *editError
	switch rejected := new(RejectedError); {
	case err == nil:
		return hash, nil
	case errors.As(err, &own):
		return "", own.err
	case errors.As(err, &rejected):
		rejected.Reason = redact.Message(rejected.Reason, w.link.secrets()...)
	}
	return "", w.link.fault("committing to", err)
}

// Propose is Commit for a branch that Branch made of the one it is to be merged into: edit also gets that one's tip, as the
// remote has it now. own is nil where there is nothing on the branch yet. A Change with base as its Upon has the branch say
// what base says but for the edit, whatever it said before; nobody's commit is lost from its history, and nothing is forced.
func (w *Writer) Propose(ctx context.Context, edit func(base, own *Snapshot) (*Change, error)) (string, error) {
	if w.base == nil {
		return "", fmt.Errorf("proposing branch %s: it was not made of another", w.cfg.Remote.Branch)
	}
	return w.Commit(ctx, func(own *Snapshot) (*Change, error) {
		c, err := w.base.newest(ctx)
		if err != nil {
			return nil, err
		}
		base := newSnapshot(w.store, c)
		if own.Commit == base.Commit {
			own = nil
		}
		return edit(base, own)
	})
}

// Tip is the branch as the remote has it now, read with Auth; usable until the next Commit. The error wraps ErrBranchNotFound
// when there is no such branch.
func (w *Writer) Tip(ctx context.Context) (*Snapshot, error) {
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return nil, w.link.fault("fetching", context.Cause(ctx))
	}
	c, err := w.newest(ctx)
	if err != nil {
		return nil, w.link.fault("fetching", err)
	}
	return newSnapshot(w.store, c), nil
}

func (w *Writer) newest(ctx context.Context) (*Commit, error) {
	if err := w.prune(); err != nil {
		return nil, err
	}
	have, err := w.store.tip(w.cfg.Remote.Branch)
	if err != nil {
		return nil, err
	}
	at, err := w.link.fetch(ctx, w.store, fetchRequest{branch: w.cfg.Remote.Branch, unchanged: have, shallow: true})
	if err != nil {
		return nil, err
	}
	return w.store.commit(at)
}

// editError carries an error of the caller's edit past what is done to those of the remote.
type editError struct{ err error }

func (e *editError) Error() string { return e.err.Error() }

func (w *Writer) commit(ctx context.Context, edit func(*Snapshot) ([]*Change, error)) (string, error) {
	if err := w.prune(); err != nil {
		return "", err
	}
	var unanswered string // a commit that was pushed, perhaps
	var lost error
	var took time.Duration
	for attempt := range w.cfg.Attempts {
		if attempt > 0 {
			if err := pause(ctx, attempt, took); err != nil {
				return "", errors.Join(err, lost)
			}
		}
		begun := time.Now()
		hash, err := w.attempt(ctx, edit, unanswered)
		took = time.Since(begun)
		var push *pushError
		if !errors.As(err, &push) {
			if err != nil && lost != nil {
				err = fmt.Errorf("%w (after: %w)", err, lost)
			}
			return hash, err
		}
		switch push.outcome {
		case pushRejected:
			return "", w.rejected(push)
		case pushFailed:
			if unanswered != "" {
				return "", push
			}
			unanswered = push.commit
		case pushLost:
			unanswered = ""
			if errors.Is(err, plumbing.ErrObjectNotFound) {
				if err := w.store.reset(""); err != nil {
					return "", err
				}
			}
		}
		lost = push
	}
	return "", fmt.Errorf("giving up after %d attempts: %w", w.cfg.Attempts, lost)
}

func (w *Writer) rejected(push *pushError) error {
	reason := push.err.Error()
	if push.said != "" {
		reason += ": " + push.said
	}
	return &RejectedError{Branch: w.cfg.Remote.Branch, Unauthorized: unauthorized(push.err), Reason: reason}
}

// pushError is a push that did not go through, as far as we know.
type pushError struct {
	outcome pushOutcome
	commit  string
	err     error
	// said is what the remote had to say besides.
	said string
}

func (e *pushError) Error() string { return e.err.Error() }
func (e *pushError) Unwrap() error { return e.err }

// attempt looks at the tip, edits and pushes, once.
func (w *Writer) attempt(ctx context.Context, edit func(*Snapshot) ([]*Change, error), unanswered string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.Remote.Timeout)
	defer cancel()
	session, err := w.link.receivePack(ctx)
	if err != nil {
		return "", w.beforePush(ctx, err)
	}
	defer session.Close()
	refs, old, err := advertised(ctx, session, w.cfg.Remote.Branch)
	if err != nil && !errors.Is(err, ErrBranchNotFound) {
		return "", w.beforePush(ctx, err)
	}
	if refs == nil {
		return "", transport.ErrEmptyRemoteRepository
	}
	if unanswered != "" && old.String() == unanswered {
		return unanswered, nil
	}
	tip, old, err := w.tip(ctx, refs, old)
	if err != nil {
		return "", err
	}
	changes, err := edit(tip)
	if err != nil || len(changes) == 0 {
		if err != nil {
			err = &editError{err}
		}
		return "", err
	}
	objects, c, err := build(tip, changes, w.cfg.Identity, time.Now())
	if err != nil || len(objects) == 0 {
		return "", err
	}
	return c.Hash, w.push(ctx, session, refs, old, c, objects)
}

// beforePush classifies an error that came before anything was sent.
func (w *Writer) beforePush(ctx context.Context, err error) error {
	if unauthorized(err) {
		return &pushError{outcome: pushRejected, err: err}
	}
	return cause(ctx, err)
}

// tip is the Snapshot to edit, and the value that the branch must have for the push to go through: the tip's
// commit, or zero for a branch that does not exist.
func (w *Writer) tip(ctx context.Context, refs *packp.AdvRefs, old plumbing.Hash) (*Snapshot, plumbing.Hash, error) {
	branch, at := w.cfg.Remote.Branch, old
	if old.IsZero() {
		switch {
		case w.base != nil:
			branch = w.base.cfg.Remote.Branch
			at = refs.References[branchRef(branch).String()]
		case w.cfg.Create:
			return newSnapshot(w.store, &Commit{tree: emptyTree}), old, nil
		}
		if at.IsZero() {
			return nil, old, ErrBranchNotFound
		}
	}
	if !w.store.has(at) {
		have, err := w.store.tip(branch)
		if err != nil {
			return nil, old, err
		}
		// The branch may have moved on since it was advertised. That is fine: the push names what was fetched.
		at, err = w.link.fetch(ctx, w.store, fetchRequest{branch: branch, unchanged: have, shallow: true})
		if err != nil {
			return nil, old, err
		}
		if !old.IsZero() {
			old = at
		}
	}
	c, err := w.store.commit(at)
	if err != nil {
		return nil, old, err
	}
	return newSnapshot(w.store, c), old, nil
}

// push sends objects and asks the remote to move the branch from old to c.
func (w *Writer) push(ctx context.Context, session transport.ReceivePackSession, refs *packp.AdvRefs, old plumbing.Hash, c *Commit, objects []packObject) error {
	pack, err := encodePack(objects)
	if err != nil {
		return err
	}
	var said boundedBuffer
	req := packp.NewReferenceUpdateRequestFromCapabilities(refs.Capabilities)
	if refs.Capabilities.Supports(capability.Sideband64k) {
		_ = req.Capabilities.Set(capability.Sideband64k)
		req.Progress = &said
	}
	req.Commands = []*packp.Command{{
		Name: branchRef(w.cfg.Remote.Branch), Old: old, New: plumbing.NewHash(c.Hash),
	}}
	req.Packfile = io.NopCloser(bytes.NewReader(pack))
	report, err := session.ReceivePack(ctx, req)
	if err == nil && report == nil {
		err = errors.New("remote did not say what became of the push")
	}
	if err != nil {
		reported := report != nil && report.UnpackStatus == "ok"
		return &pushError{
			outcome: classify(err, reported), commit: c.Hash, err: cause(ctx, err), said: said.String(),
		}
	}
	// Keep what was pushed, so that it need not be fetched. The push is done; failing here only costs a fetch.
	if err := w.store.receive(ctx, bytes.NewReader(pack)); err == nil {
		_ = w.store.setTip(w.cfg.Remote.Branch, plumbing.NewHash(c.Hash))
	}
	return nil
}

// prune begins the store anew when it has become too large or is broken.
func (w *Writer) prune() error {
	if !w.store.isDamaged() {
		packs, err := w.store.packs()
		if err != nil || len(packs) < maxWriterPacks {
			return err
		}
	}
	return w.store.reset("")
}

// pause waits with full jitter, so that writers who collided do not do so again. As on an Ethernet the window doubles with each
// collision and is counted in what an attempt takes: a server that many write to is slow because of them, and pauses that do not grow with
// it keep it so.
func pause(ctx context.Context, attempt int, took time.Duration) error {
	window := min(retryCap, max(retryBase, took)<<min(attempt, maxDoublings))
	t := time.NewTimer(rand.N(window)) //nolint:gosec // no secret
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
