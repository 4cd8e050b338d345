package gitsync

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// ErrBranchNotFound is returned when the remote has no such branch, or is empty.
var ErrBranchNotFound = errors.New("branch does not exist")

// Repo is one branch of a remote with all of its history.
type Repo struct {
	remote Remote
	link   *link
	store  *store
	// turn is held while fetching; last is the newest Snapshot, guarded by it.
	turn chan struct{}
	last *Snapshot
	// grown: the whole history would not come as one pack, so the store may grow. Guarded by turn.
	grown bool

	mu sync.Mutex
	// tips are what the remote last said of the branches to Watch, guarded by mu.
	tips map[string]plumbing.Hash
}

// Open prepares dir for the branch that remote names, without asking the remote. dir is made when it is missing,
// taken over when it is of the same remote and whole, and emptied otherwise; a directory with anybody else's
// files in it is an error.
func Open(_ context.Context, remote Remote, dir string) (*Repo, error) {
	if err := remote.Validate(); err != nil {
		return nil, fmt.Errorf("opening repository: %w", err)
	}
	remote = remote.withDefaults()
	l, err := newLink(remote)
	if err != nil {
		return nil, fmt.Errorf("opening repository: %w", err)
	}
	s, err := openStore(dir, remote)
	if err != nil {
		return nil, l.fault("opening object store of", err)
	}
	return &Repo{remote: remote, link: l, store: s, turn: make(chan struct{}, 1)}, nil
}

// Close releases the object store. Snapshots can't be read afterwards.
func (r *Repo) Close() error { return r.store.close() }

// Remote that was given to Open, with defaults filled in.
func (r *Repo) Remote() Remote { return r.remote }

// Watch has Fetch note where another branch of the remote is, which costs nothing: the remote tells it anyway.
func (r *Repo) Watch(branch string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tips == nil {
		r.tips = map[string]plumbing.Hash{}
	}
	r.tips[branch] = plumbing.ZeroHash
}

// Tip is the commit at which the last Fetch that was answered saw a branch to Watch; empty: the remote has no such branch, or
// was not asked yet.
func (r *Repo) Tip(branch string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.tips[branch]; !h.IsZero() {
		return h.String()
	}
	return ""
}

// advertised notes the branches to Watch.
func (r *Repo) advertised(refs *packp.AdvRefs) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for branch := range r.tips {
		r.tips[branch] = refs.References[branchRef(branch).String()]
	}
}

// Fetch brings the branch up to date and returns its tip; when it has not moved, the Snapshot of the last Fetch.
// A branch that was force-pushed is followed. The error wraps ErrBranchNotFound when there is no such branch.
// On an error nothing has changed, and the next Fetch tries again.
func (r *Repo) Fetch(ctx context.Context) (*Snapshot, error) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, r.link.fault("fetching", context.Cause(ctx))
	}
	snap, err := r.fetch(ctx)
	if err != nil {
		return nil, r.link.fault("fetching", err)
	}
	r.last = snap
	return snap, nil
}

// FetchBeside is the tip of another branch of the remote as it is now, which comes with what its history has besides this one's.
// It is as lasting as the Snapshots of Fetch. The error wraps ErrBranchNotFound when there is no such branch.
func (r *Repo) FetchBeside(ctx context.Context, branch string) (*Snapshot, error) {
	if err := branchRef(branch).Validate(); err != nil {
		return nil, fmt.Errorf("fetching branch %q: %w: %w", branch, ErrBranchNotFound, err)
	}
	link := r.link.onBranch(branch)
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, link.fault("fetching", context.Cause(ctx))
	}
	known, err := r.store.tip(branch)
	if err != nil || !r.store.has(known) {
		known = plumbing.ZeroHash // the store was replaced since
	}
	h, err := link.fetch(ctx, r.store, fetchRequest{branch: branch, unchanged: known, beside: r.have()})
	if err != nil {
		return nil, link.fault("fetching", err)
	}
	return r.At(h.String())
}

func (r *Repo) fetch(ctx context.Context) (*Snapshot, error) {
	if r.store.isDamaged() {
		if err := r.store.reset(""); err != nil {
			return nil, err
		}
		r.last = nil
	}
	h, err := r.bring(ctx)
	if err != nil {
		return nil, err
	}
	if r.last != nil && r.last.Commit == h.String() {
		return r.last, nil
	}
	c, err := r.store.commit(h)
	if err != nil {
		return nil, err
	}
	if _, err := r.store.tree(c.tree); err != nil && c.tree != emptyTree {
		return nil, err
	}
	// What was fetched is there. A store that can't be put in order, as on a full disk, is tried again with the next fetch.
	_ = r.store.tidy()
	return newSnapshot(r.store, c), nil
}

// bring fetches what is new. What comes in small packs lacks the deltas that the remote has, so that a store grows
// faster than its remote; one that is twice as large as a pack may be is replaced by the whole history in one pack.
func (r *Repo) bring(ctx context.Context) (plumbing.Hash, error) {
	req := fetchRequest{branch: r.remote.Branch, unchanged: r.have(), advertised: r.advertised}
	packs, err := r.store.packs()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	var size int64
	for _, n := range packs {
		size += n
	}
	if size <= 2*r.remote.Limits.Pack || r.grown {
		return r.link.fetch(ctx, r.store, req)
	}
	req.whole = true
	h, err := r.link.fetch(ctx, r.store, req)
	switch {
	case err != nil:
		// A remote that was away is asked for everything again when there is more to fetch.
		r.grown, req.whole = errors.Is(err, ErrTooLarge), false
		return r.link.fetch(ctx, r.store, req)
	case h == req.unchanged:
		return h, nil
	}
	// What is left of the old packs takes room, and nothing else; the next fetch tries again.
	_ = r.store.replace(slices.Collect(maps.Keys(packs)))
	return h, nil
}

// have is the tip that the store holds completely; zero before the first fetch.
func (r *Repo) have() plumbing.Hash {
	h, err := r.store.tip(r.remote.Branch)
	if err != nil {
		return plumbing.ZeroHash
	}
	return h
}

// At is the Snapshot of any commit in the history of what was fetched.
func (r *Repo) At(commit string) (*Snapshot, error) {
	c, err := r.commit(commit)
	if err != nil {
		return nil, err
	}
	if r.store.has(c.tree) || c.tree == emptyTree {
		return newSnapshot(r.store, c), nil
	}
	return nil, fmt.Errorf("reading commit %s: its tree is missing", commit)
}

func (r *Repo) commit(hash string) (*Commit, error) {
	if !plumbing.IsHash(hash) {
		return nil, fmt.Errorf("reading commit %q: 40 hexadecimal digits expected", hash)
	}
	h := plumbing.NewHash(hash)
	if !r.store.has(h) {
		return nil, fmt.Errorf("reading commit %s: it is not in the history of branch %s", hash, r.remote.Branch)
	}
	c, err := r.store.commit(h)
	if err != nil {
		return nil, fmt.Errorf("reading %w", err)
	}
	return c, nil
}

// advertised reads the references of a session and finds a branch among them.
func advertised(ctx context.Context, s transport.Session, branch string) (*packp.AdvRefs, plumbing.Hash, error) {
	refs, err := s.AdvertisedReferencesContext(ctx)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) {
		return nil, plumbing.ZeroHash, ErrBranchNotFound
	}
	if err != nil {
		return nil, plumbing.ZeroHash, cause(ctx, err)
	}
	h, ok := refs.References[branchRef(branch).String()]
	if branch == headOnly && refs.Head != nil {
		h, ok = *refs.Head, true
	}
	if !ok || h.IsZero() {
		return refs, plumbing.ZeroHash, ErrBranchNotFound
	}
	return refs, h, nil
}

// fetchRequest is what link.fetch shall bring.
type fetchRequest struct {
	branch string
	// unchanged is the tip that is there already; nothing is fetched when the branch is still at it.
	unchanged plumbing.Hash
	// beside is the tip of another branch that the store holds completely, with which this one may share its history.
	beside plumbing.Hash
	// whole brings all of the history, also what is there.
	whole bool
	// shallow brings the tip alone, without its history, where the remote can do that.
	shallow bool
	// advertised is told what the remote has; nil: nobody is.
	advertised func(*packp.AdvRefs)
}

// fetch brings the tip of a branch into the store and records it there.
func (l *link) fetch(ctx context.Context, s *store, req fetchRequest) (plumbing.Hash, error) {
	ctx, cancel := context.WithTimeout(ctx, l.remote.Timeout)
	defer cancel()
	session, err := l.uploadPack(ctx)
	if err != nil {
		return plumbing.ZeroHash, cause(ctx, err)
	}
	defer session.Close()
	refs, tip, err := advertised(ctx, session, req.branch)
	if refs != nil && req.advertised != nil {
		req.advertised(refs)
	}
	if err != nil || tip == req.unchanged {
		return tip, err
	}
	up := uploadRequest(refs.Capabilities, tip)
	switch {
	case req.whole:
	case req.shallow && refs.Capabilities.Supports(capability.Shallow):
		up.Depth = packp.DepthCommits(1)
		_ = up.Capabilities.Set(capability.Shallow)
		if !req.unchanged.IsZero() {
			up.Shallows = []plumbing.Hash{req.unchanged}
			up.Haves = []plumbing.Hash{req.unchanged}
		}
	default:
		up.Haves = append(s.sample(req.unchanged), s.sample(req.beside)...)
	}
	if err := l.transfer(ctx, session, up, s); err != nil {
		return plumbing.ZeroHash, cause(ctx, err)
	}
	if !s.has(tip) {
		return plumbing.ZeroHash, fmt.Errorf("remote did not send commit %s: %w", tip, plumbing.ErrObjectNotFound)
	}
	return tip, s.setTip(req.branch, tip)
}

func uploadRequest(caps *capability.List, want plumbing.Hash) *packp.UploadPackRequest {
	up := packp.NewUploadPackRequest()
	for _, c := range []capability.Capability{capability.OFSDelta, capability.Sideband64k, capability.NoProgress} {
		if caps.Supports(c) {
			_ = up.Capabilities.Set(c)
		}
	}
	if caps.Supports(capability.Agent) {
		_ = up.Capabilities.Set(capability.Agent, capability.DefaultAgent())
	}
	up.Wants = []plumbing.Hash{want}
	return up
}

func (l *link) transfer(ctx context.Context, session transport.UploadPackSession, up *packp.UploadPackRequest, s *store) error {
	res, err := session.UploadPack(ctx, up)
	if errors.Is(err, transport.ErrEmptyUploadPackRequest) {
		return nil
	}
	if err != nil {
		return err
	}
	defer res.Close() //nolint:errcheck // the pack's checksum says whether it is whole
	if up.Capabilities.Supports(capability.Sideband64k) {
		return s.receive(ctx, sideband.NewDemuxer(sideband.Sideband64k, res))
	}
	return s.receive(ctx, res)
}

// maxRewind is how many commits a branch may be rewound without being fetched whole.
const maxRewind = 256

// sample lists ancestors of tip at growing distances, so that a remote whose branch was rewound can tell which of
// them it shares with us. Every fetch pays for the walk, so it is a short one however long the history.
func (s *store) sample(tip plumbing.Hash) []plumbing.Hash {
	var list []plumbing.Hash
	for n, next := 0, 0; n <= maxRewind && !tip.IsZero() && s.has(tip); n++ {
		if n == next {
			list = append(list, tip)
			next = max(1, 2*n)
		}
		c, err := s.commit(tip)
		if err != nil || len(c.Parents) == 0 {
			break
		}
		tip = plumbing.NewHash(c.Parents[0])
	}
	return list
}
