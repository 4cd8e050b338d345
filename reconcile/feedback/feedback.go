// Package feedback tells a forge what becomes of commits: a status on each, one comment on the pull request of a promotion that is
// kept up to date, and on each open pull request one that forecasts what would come of it.
//
// What it tells follows from the status branches and the pull requests alone, so nothing is lost or told twice by a crash, or while the forge is away:
// whenever it looks, it has the forge say what git says now. A Reporter belongs to one goroutine.
package feedback

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/clusters"
)

// Forge is what a Reporter needs of the forge that holds the environment repository.
type Forge interface {
	Get(ctx context.Context, number int) (*forge.Pull, error)
	List(ctx context.Context, base string) ([]forge.Pull, error)
	SetStatus(ctx context.Context, commit string, c forge.Check) error
	Comment(ctx context.Context, number int, marker, body string) error
}

// Config says what is told of to whom.
type Config struct {
	// Names of the environment, and of the cluster whose agent this is.
	audit.Names
	// Path is the environment's folder in the repository, Remote its branch, and Status the branch that this agent writes, which may
	// be of another repository.
	Path           string
	Remote, Status gitsync.Remote
	Forge          Forge
	// HistoryPage is where people see the commits of a status branch that have changed a file; empty: nowhere. nil: it is not known of
	// any.
	HistoryPage func(branch, file string) string
	// Forecast is what would come of going from one commit to another, which nobody has merged yet. nil: none is made.
	Forecast func(ctx context.Context, base, head *gitsync.Snapshot) Forecast
	// DataDir keeps git objects; a cache.
	DataDir string
	// Interval between looks.
	Interval time.Duration
	Now      func() time.Time
	Log      *slog.Logger
}

// recent is how long after its end a rollout is told of to a forge that may not know.
const recent = 24 * time.Hour

// Reporter tells the forge.
type Reporter struct {
	cfg Config
	// branch is the environment branch with its history.
	branch *gitsync.Repo
	// logs reads the status branches, for clusters.
	logs     *gitsync.Writer
	clusters *clusters.Reader
	loader   environments.Loader
	// told is what the forge was told of each commit, and of each pull request by its number.
	told     memory[string, forge.Check]
	comments memory[int, string]
	// pulls are the pull requests of commits, nil where there is none.
	pulls memory[string, *forge.Pull]
	// judged are the open pull requests, as they were judged.
	judged map[int]judgement
	// foretold are the forecasts of open pull requests, leftOut how many were too many the last time.
	foretold map[int]foretold
	leftOut  int
	// forecastTime is how long one may take.
	forecastTime time.Duration
	said         string
}

// New prepares a Reporter; nothing is asked of anybody until Run.
func New(cfg Config) *Reporter {
	if cfg.HistoryPage == nil {
		cfg.HistoryPage = func(string, string) string { return "" }
	}
	return &Reporter{
		cfg: cfg, judged: map[int]judgement{}, foretold: map[int]foretold{}, forecastTime: forecastTime,
		loader: environments.Loader{Environment: cfg.Environment},
	}
}

// Run looks again and again until ctx is done. It returns nil: what it can't do now it tries again.
func (r *Reporter) Run(ctx context.Context) error {
	defer r.close()
	for {
		err := r.open(ctx)
		if err == nil {
			err = r.Look(ctx)
		}
		r.say(ctx, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(forge.Pause(err, r.cfg.Interval, r.cfg.Now())):
		}
	}
}

// say logs an error, once for as long as it is the same.
func (r *Reporter) say(ctx context.Context, err error) {
	text := ""
	if err != nil && ctx.Err() == nil {
		text = err.Error()
	}
	if text != "" && text != r.said {
		r.cfg.Log.Warn("the forge is not told everything", "error", text)
	}
	r.said = text
}

// open opens the object stores, once.
func (r *Reporter) open(ctx context.Context) (err error) {
	if r.clusters != nil {
		return nil
	}
	if r.branch == nil {
		if r.branch, err = gitsync.Open(ctx, r.cfg.Remote, filepath.Join(r.cfg.DataDir, "feedback-branch")); err != nil {
			return err
		}
	}
	if r.logs, err = gitsync.NewWriter(gitsync.WriterConfig{Remote: r.cfg.Status}, filepath.Join(r.cfg.DataDir, "feedback-status")); err != nil {
		return err
	}
	r.clusters = clusters.NewReader(r.cfg.Status, r.logs)
	return nil
}

func (r *Reporter) close() {
	if r.branch != nil {
		_ = r.branch.Close()
	}
	if r.logs != nil {
		_ = r.logs.Close()
	}
}

// Look has the forge say what git says now.
func (r *Reporter) Look(ctx context.Context) error {
	tip, err := r.branch.Fetch(ctx)
	if err != nil {
		return err
	}
	all, err := r.clusters.Read(ctx, r.cfg.Environment)
	if err != nil {
		return err
	}
	var own clusters.Cluster
	if i := slices.IndexFunc(all, func(c clusters.Cluster) bool { return c.Branch == r.cfg.Status.Branch }); i >= 0 {
		own = all[i]
	}
	if own.Fault != nil {
		return clusters.Unreadable([]clusters.Cluster{own}) // or nobody knows what was rolled back here
	}
	var faults []error
	for _, s := range Statuses(r.cfg.Names, own.Records, r.cfg.Now().Add(-recent)) {
		faults = append(faults, r.tell(ctx, s.Commit, s.Check))
		pull, err := r.pullOf(ctx, s.Commit)
		faults = append(faults, err)
		if pull != nil {
			faults = append(faults, r.tell(ctx, pull.Commit, s.Check), r.comment(ctx, pull.Number, s.Commit, all))
		}
	}
	open, err := r.proposed(ctx)
	if err != nil {
		return errors.Join(append(faults, err)...)
	}
	// Forecasts are last: they take time, and the others should not wait for them.
	faults = append(faults, r.proposals(ctx, open, tip, own), r.forecasts(ctx, open, tip, own))
	if err := errors.Join(faults...); err != nil {
		return err
	}
	r.told.age()
	r.comments.age()
	r.pulls.age()
	return nil
}

// memory remembers what was looked up or put since it aged last, and what was before that. So it holds no more than what two looks need,
// however long a Reporter lives.
type memory[K comparable, V any] struct{ now, before map[K]V }

func (m *memory[K, V]) get(key K) (value V, known bool) {
	if value, known = m.now[key]; !known {
		if value, known = m.before[key]; known {
			m.put(key, value)
		}
	}
	return value, known
}

func (m *memory[K, V]) put(key K, value V) {
	if m.now == nil {
		m.now = map[K]V{}
	}
	m.now[key] = value
}

func (m *memory[K, V]) age() { m.now, m.before = nil, m.now }

// proposed are the open pull requests that come from branches of the repository itself, the newest first.
func (r *Reporter) proposed(ctx context.Context) ([]forge.Pull, error) {
	open, err := r.cfg.Forge.List(ctx, r.branch.Remote().Branch)
	if err != nil {
		return nil, err
	}
	open = slices.DeleteFunc(open, func(p forge.Pull) bool { return strings.Contains(p.Head, ":") })
	slices.SortFunc(open, func(x, y forge.Pull) int { return y.Number - x.Number })
	return open, nil
}

// tell has the forge say something of a commit, unless it does.
func (r *Reporter) tell(ctx context.Context, commit string, c forge.Check) error {
	key := commit + " " + c.Name
	if told, _ := r.told.get(key); told == c {
		return nil
	}
	err := r.cfg.Forge.SetStatus(ctx, commit, c)
	if errors.Is(err, forge.ErrNotFound) {
		err = nil // the commit is on no branch any more
	}
	if err == nil {
		r.told.put(key, c)
	}
	return err
}

// pullOf is the pull request by which a commit came to the branch; nil: none, or nobody can tell.
func (r *Reporter) pullOf(ctx context.Context, commit string) (*forge.Pull, error) {
	if pull, known := r.pulls.get(commit); known {
		return pull, nil
	}
	at, err := r.branch.At(commit)
	if err != nil {
		return nil, nil //nolint:nilerr // it is on the branch no more
	}
	var found *forge.Pull
	if number := numberIn(at.Message); number > 0 {
		pull, err := r.cfg.Forge.Get(ctx, number)
		switch {
		case errors.Is(err, forge.ErrNotFound):
		case err != nil:
			return nil, err
		case pull.State == forge.Open:
			return nil, nil // it may be merged just now: a forge moves the branch first, and says so afterwards
		case pull.State == forge.Merged && pull.Base == r.branch.Remote().Branch && pull.MergeCommit == commit:
			found = pull // anybody can write such a message
		}
	}
	r.pulls.put(commit, found)
	return found, nil
}

// commentMarker begins the comment, which all clusters of an environment keep together: what is in it follows from their status branches
// alone. One pull request may concern several environments.
func commentMarker(environment string) string {
	return "<!-- sluice: what became of it in " + environment + " -->"
}

// comment keeps the comment on the pull request of a commit.
func (r *Reporter) comment(ctx context.Context, number int, commit string, all []clusters.Cluster) error {
	body := Table(r.cfg.Environment, commit, all, r.cfg.HistoryPage)
	if said, _ := r.comments.get(number); said == body {
		return nil
	}
	err := r.cfg.Forge.Comment(ctx, number, commentMarker(r.cfg.Environment), body)
	if err == nil {
		r.comments.put(number, body)
	}
	return err
}

// proposals says of each open pull request whether it would bring back a version that was rolled back here.
func (r *Reporter) proposals(ctx context.Context, open []forge.Pull, tip *gitsync.Snapshot, own clusters.Cluster) error {
	now, err := r.loader.Load(tip.FS(), r.cfg.Path)
	if err != nil {
		return nil //nolint:nilerr // the status branch says so
	}
	var faults []error
	judged := make(map[int]judgement, len(open))
	for _, p := range open {
		// It is judged by what it is upon, what it asks for, and what was rolled back.
		by := tip.Commit + p.Commit + own.Commit
		j := r.judged[p.Number]
		if j.by != by {
			back, err := r.proposal(ctx, p, now, own.Records)
			if err == nil {
				j = judgement{by, back}
			}
			faults = append(faults, err)
		}
		judged[p.Number] = j
	}
	r.judged = judged
	return errors.Join(faults...)
}

// judgement is what an open pull request would bring back, and by what that was judged.
type judgement struct{ by, back string }

func (r *Reporter) proposal(ctx context.Context, p forge.Pull, now *environments.Environment, own []audit.Record) (back string, err error) {
	head, err := r.head(ctx, p)
	if head == nil {
		return "", err
	}
	check := forge.Check{Name: contextOf(r.cfg.Names), Verdict: forge.Success, Description: "nothing in it was rolled back here"}
	loader := environments.Loader{Environment: r.cfg.Environment}
	if then, err := loader.Load(head.FS(), r.cfg.Path); err == nil {
		back = BroughtBack(now, then, own)
	}
	if back != "" {
		check.Verdict, check.Description = forge.Failure, back
	}
	return back, r.tell(ctx, head.Commit, check)
}

// head is what a pull request proposes; nil: there is no such branch, for its time is over or the forge knows names that git does not.
func (r *Reporter) head(ctx context.Context, p forge.Pull) (*gitsync.Snapshot, error) {
	head, err := r.branch.FetchBeside(ctx, p.Head)
	if errors.Is(err, gitsync.ErrBranchNotFound) {
		return nil, nil
	}
	return head, err
}
