package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/gitsync/signature"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/reconcile/source"
)

// RepositoryConfig says where an environment is, and how it is written to.
type RepositoryConfig struct {
	// Environment's name, and its namespace, where sluice.yaml says none; see environments.Loader.
	Environment, Namespace string
	// Cluster's name on the status branch.
	Cluster string
	// UID tells the cluster from others; nil, or empty: it is not known, and whose a status branch is is not looked at.
	UID func(context.Context) (string, error)
	// Identity is who commits what Sluice writes; what is empty is that of Sluice <sluice@sluice.dev>. Sign makes a signature of each of these
	// commits; nil: they are not signed.
	Identity gitsync.Identity
	Sign     func(commit []byte) (string, error)
	// Remote is the environment repository and branch, Path the environment's folder in it.
	Remote gitsync.Remote
	Path   string
	// Status is the repository, and the branch of it, where the audit log goes; where commands are read, too. It may be the
	// environment repository.
	Status gitsync.Remote
	// DataDir keeps git objects; a cache.
	DataDir string
	// Signers are the keys that commands may be signed with, read each time that they are needed; nil: none are known.
	// RequireSigned refuses commands that are not signed by their author.
	Signers       func() (*signature.Keys, error)
	RequireSigned bool
	// Trusted are the keys one of which has to have signed what is delivered, read each time that the branch has moved; nil:
	// whatever is on the branch is delivered.
	Trusted func() (*signature.Keys, error)
	// Forge opens, and merges where it may, the pull request of a rollback that may not be committed to the branch; nil: somebody
	// else does.
	Forge Forge
	// CommitPages is where people see the commits of Remote, by an address that a hash is appended to; empty: nobody knows.
	CommitPages string
	// Interval between looks at the branch; default 30 s.
	Interval time.Duration
	// Pulse is told what is done; nil: nobody is.
	Pulse *Pulse
	Log   *slog.Logger
}

// Forge is what rollbacks need of the forge that holds the repository.
type Forge interface {
	Find(ctx context.Context, head, base string) (*forge.Pull, error)
	Get(ctx context.Context, number int) (*forge.Pull, error)
	Create(ctx context.Context, p forge.Pull) (*forge.Pull, error)
	Merge(ctx context.Context, p forge.Pull, title string) error
}

// Repository is the environment repository: what the branch says, and what is written to it. One goroutine may write
// (Revert, Record), any may read.
type Repository struct {
	cfg  RepositoryConfig
	log  *slog.Logger
	repo *gitsync.Repo
	// branch writes rollback commits, status the audit log.
	branch *gitsync.Writer
	status *gitsync.Writer
	poller *gitsync.Poller
	// aside looks at the status repository where that is one of its own; nil: Fetch of the environment repository tells of it.
	aside   *gitsync.Poller
	reading reading
	diffs   diffs
	// commands is what the command branch says; asked is told of which app something new is asked.
	commands Commands
	asked    func(app string)
	// begun is held to begin, which comes before whatever is said of or to the status branch. delivered is the commit that the
	// branch says was delivered last, by an agent before this one; nil: it was not asked yet. uid is the cluster's.
	begun     sync.Mutex
	delivered *string
	uid       string
	// unsure says that it could not be told of the commit that was read last whether the branch was rewritten.
	unsure atomic.Bool
	// foreign says that the status branch is another cluster's; nil: it is not.
	foreign atomic.Pointer[audit.ForeignError]
	// recorded is the commit at which the status branch was left; nil: not known. edited is told that somebody else has
	// written there.
	recorded atomic.Pointer[string]
	edited   func()
}

var _ Git = (*Repository)(nil)

// Committer is who commits what Sluice writes, where an operator has named this one: what is empty is that of Sluice itself.
func Committer(named gitsync.Identity) gitsync.Identity {
	named.Name, named.Email = cmp.Or(named.Name, "Sluice"), cmp.Or(named.Email, "sluice@sluice.dev")
	return named
}

// NewRepository prepares a repository; nothing is asked of anybody until Open.
func NewRepository(cfg RepositoryConfig) *Repository {
	if cfg.Interval == 0 {
		cfg.Interval = 30 * time.Second
	}
	cfg.Identity = Committer(cfg.Identity)
	r := &Repository{
		cfg: cfg, log: cfg.Log.With("environment", cfg.Environment),
		reading: reading{timeout: readTimeout, fresh: func() *environments.Loader {
			return &environments.Loader{Environment: cfg.Environment, Namespace: cfg.Namespace}
		}},
	}
	r.commands.RequireSigned = cfg.RequireSigned
	r.commands.Names, r.commands.Now = r.names(), time.Now //nolint:forbidigo // people's clocks are compared with this machine's
	r.diffs = diffs{apps: r.digests, turn: make(chan struct{}, 1)}
	return r
}

// Open opens the object stores.
func (r *Repository) Open(ctx context.Context) error {
	repo, err := gitsync.Open(ctx, r.cfg.Remote, filepath.Join(r.cfg.DataDir, "branch"))
	if err != nil {
		return err
	}
	r.repo = repo
	r.repo.Watch(CommandBranch(r.cfg.Environment))
	r.repo.Watch(r.cfg.Status.Branch)
	r.poller = gitsync.NewPoller(r.fetch, r.cfg.Interval)
	if r.apart() {
		r.aside = gitsync.NewPoller(r.lookAside, r.cfg.Interval)
	}
	if r.branch, err = gitsync.NewWriter(gitsync.WriterConfig{Remote: r.cfg.Remote, Identity: r.cfg.Identity},
		filepath.Join(r.cfg.DataDir, "rollback")); err != nil {
		return err
	}
	r.status, err = gitsync.NewWriter(gitsync.WriterConfig{Remote: r.cfg.Status, Identity: r.cfg.Identity, Create: true},
		filepath.Join(r.cfg.DataDir, "status"))
	return err
}

// Close closes what Open has opened.
func (r *Repository) Close() error {
	var faults []error
	if r.repo != nil {
		faults = append(faults, r.repo.Close())
	}
	for _, w := range []*gitsync.Writer{r.branch, r.status} {
		if w != nil {
			faults = append(faults, w.Close())
		}
	}
	return errors.Join(faults...)
}

// names are what every commit says of its origin.
func (r *Repository) names() audit.Names {
	return audit.Names{Environment: r.cfg.Environment, Cluster: r.cfg.Cluster}
}

// Follow hands over the branch's newest commit whenever it has moved, until ctx is done. A commit that could not be read,
// or not all of it, is handed over again after a while: what the object store lacks may be back by then. asked is told of
// which app, or of audit.AllApps, something new is asked on the command branch, edited that the status branch is not as Record
// left it.
func (r *Repository) Follow(ctx context.Context, read func(source.Commit, error), asked func(app string), edited func()) error {
	r.asked, r.edited = asked, edited
	g, ctx := errgroup.WithContext(ctx)
	if r.aside != nil {
		g.Go(func() error { return r.aside.Run(ctx, r.sawAside) })
	}
	g.Go(func() error { return r.follow(ctx, read) })
	return g.Wait()
}

func (r *Repository) follow(ctx context.Context, read func(source.Commit, error)) error {
	return r.poller.Run(ctx, func(s *gitsync.Snapshot, err error) error {
		if err != nil {
			r.log.Warn("reading the branch", "error", err)
			return err
		}
		defer r.cfg.Pulse.begin("reading the branch")()
		c, err := r.read(ctx, s)
		read(c, err)
		if r.unsure.Load() {
			err = errors.Join(err, errUnsure)
		}
		return errors.Join(err, unread(c.Env))
	})
}

// begin reads, once, what an agent before this one has left on the status branch. It is asked for until it is there: else
// a branch could be rewritten while the agent is away.
func (r *Repository) begin(ctx context.Context) error {
	r.begun.Lock()
	defer r.begun.Unlock()
	if r.delivered != nil {
		return nil
	}
	if r.cfg.UID != nil {
		uid, err := r.cfg.UID(ctx)
		if err != nil {
			return err
		}
		r.uid = uid
	}
	var left audit.Status
	tip, err := r.status.Tip(ctx)
	switch {
	case errors.Is(err, gitsync.ErrBranchNotFound):
		r.log.Info("the audit log starts here: nothing was written before", "branch", r.cfg.Status.String())
	case err != nil:
		return err
	default:
		if left, err = audit.ReadStatus(tip.FS()); err != nil {
			r.log.Warn("it is not known what was delivered last", "branch", r.cfg.Status.Branch, "error", err)
		}
	}
	r.foreign.Store(left.Foreign(r.uid))
	r.delivered = &left.Commit
	return nil
}

// Foreign implements Git.
func (r *Repository) Foreign() error {
	if other := r.foreign.Load(); other != nil {
		return other
	}
	return nil
}

// maxDescent is how many commits are looked at for the one that was delivered last, which is a second's work. Who was away for
// longer than it takes to make so many can do with being asked.
const maxDescent = 20_000

// Rewritten implements Git.
func (r *Repository) Rewritten(tip, last string) error {
	if last == "" && r.delivered != nil {
		last = *r.delivered
	}
	if last == "" {
		return nil
	}
	descends, err := r.repo.Descends(tip, last, maxDescent)
	r.unsure.Store(err != nil)
	switch {
	case err != nil:
		return fmt.Errorf("it is not known whether the branch was rewritten since commit %.10s, which was delivered last: %w", last, err)
	case !descends:
		return fmt.Errorf("the branch was rewritten: it does not descend from commit %.10s, which was delivered last", last)
	}
	return nil
}

var errUnsure = errors.New("it is not known whether the branch was rewritten")

// unread is why some app of an environment could not be read, where that is not the fault of what is written there.
func unread(env *environments.Environment) error {
	if env == nil {
		return nil
	}
	var store *fs.PathError
	for i := range env.Apps {
		if err := env.Apps[i].Fault; errors.As(err, &store) {
			return err
		}
	}
	return nil
}

// Nudge makes Follow look at the branch now, as a webhook would, and at the status repository.
func (r *Repository) Nudge() {
	r.poller.Nudge()
	if r.aside != nil {
		r.aside.Nudge()
	}
}

// Asker implements Git. What a merge takes back is what the commit takes back that it merges, as where a rollback was proposed.
func (r *Repository) Asker(app, commit string) (by string, takes *rollout.TakenBack, err error) {
	s, err := r.repo.At(commit)
	if err != nil {
		return "", nil, err
	}
	if takes = audit.TakenBack(s.Message, r.names(), app); takes == nil && len(s.Parents) == 2 {
		if merged, err := r.repo.At(s.Parents[1]); err == nil {
			takes = audit.TakenBack(merged.Message, r.names(), app)
		}
	}
	return person(s.Author), takes, nil
}

// At is the environment at a commit that was fetched.
func (r *Repository) At(commit string) (source.Commit, error) {
	s, err := r.repo.At(commit)
	if err != nil {
		return source.Commit{}, err
	}
	return r.load(s)
}

// load reads the environment of a snapshot. The Commit is whole but for Env when it can't be read.
func (r *Repository) load(s *gitsync.Snapshot) (source.Commit, error) {
	c := source.Commit{Snapshot: s}
	c.Reason, c.Frozen = environments.Freeze(s.FS(), r.cfg.Path)
	var err error
	c.Env, err = r.environment(s)
	return c, err
}

// environment is what a snapshot says of it.
func (r *Repository) environment(s *gitsync.Snapshot) (*environments.Environment, error) {
	return r.reading.load(s.Commit, func(l *environments.Loader) (*environments.Environment, error) {
		return l.Load(s.FS(), r.cfg.Path)
	})
}

// readTimeout is how long reading an environment may take, which for ten thousand apps is a second.
const readTimeout = 2 * time.Minute

// reading reads environments, and gives up on one that takes too long. What is given up may go on for a while, with a loader of its own.
type reading struct {
	fresh   func() *environments.Loader
	timeout time.Duration
	mu      sync.Mutex
	loader  *environments.Loader
	// endless is the commit that took too long last: it is not tried again.
	endless string
}

func (r *reading) load(commit string, load func(*environments.Loader) (*environments.Environment, error)) (*environments.Environment, error) {
	r.mu.Lock()
	if r.loader == nil {
		r.loader = r.fresh()
	}
	loader, endless := r.loader, r.endless
	r.mu.Unlock()
	fault := fmt.Errorf("reading the environment takes longer than %s; make the repository smaller", r.timeout)
	if endless == commit {
		return nil, fault
	}
	type result struct {
		env *environments.Environment
		err error
	}
	done := make(chan result, 1)
	go func() {
		env, err := load(loader)
		done <- result{env, err}
	}()
	limit := time.NewTimer(r.timeout)
	defer limit.Stop()
	select {
	case got := <-done:
		return got.env, got.err
	case <-limit.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loader, r.endless = nil, commit
	return nil, fault
}

// Record brings the status branch to what a batch says. Apps whose record there is ahead of it are returned with its
// number; nothing is written for them.
func (r *Repository) Record(ctx context.Context, batch audit.Batch) (audit.Recorded, error) {
	if err := r.begin(ctx); err != nil {
		return audit.Recorded{}, err
	}
	batch.Names, batch.UID, batch.CommitPages = r.names(), r.uid, r.cfg.CommitPages
	if batch.Accepted != "" {
		batch.Command = r.commands.accepting(batch.Commit).ID
	}
	left := r.recorded.Swap(nil) // and not known until the push is answered
	var seen string
	var update audit.Update
	hash, err := r.status.CommitAll(ctx, func(tip *gitsync.Snapshot) (out []*gitsync.Change, err error) {
		var fsys fs.FS
		if seen = tip.Commit; seen != "" {
			fsys = tip.FS()
		}
		if update, err = audit.Commits(fsys, batch); err != nil {
			return nil, err
		}
		for _, c := range update.Commits {
			out = append(out, &gitsync.Change{Files: c.Files, Message: c.Message, Date: c.Date, Sign: r.cfg.Sign})
		}
		return out, nil
	})
	if err != nil {
		if other := new(audit.ForeignError); errors.As(err, &other) {
			r.foreign.Store(other)
		}
		return audit.Recorded{}, fmt.Errorf("writing branch %s: %w", r.cfg.Status.Branch, err)
	}
	taken := r.foreign.Swap(nil) != nil
	if len(update.Damaged) > 0 {
		r.log.Warn("records of the status branch are damaged", "branch", r.cfg.Status.Branch, "error", errors.Join(update.Damaged...))
	}
	if hash == "" {
		hash = seen
	}
	r.recorded.Store(&hash)
	return audit.Recorded{Ahead: update.Ahead, Taken: taken, Edited: taken || batch.All == nil && left != nil && *left != seen}, nil //nolint:nilerr // that it was another cluster's is over
}
