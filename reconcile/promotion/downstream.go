package promotion

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// DownstreamConfig says where an environment is, and from where its versions come.
type DownstreamConfig struct {
	// Environment by name, and its folder in the repository.
	Environment, Path string
	// Remote is the environment branch, Status the repository with its status branches, and Upstream the one with those of the
	// environment before it, which is only read. Its URL has to be the one that sluice.yaml names: whom an operator lets the agent ask
	// is not for a repository to say.
	Remote, Status, Upstream gitsync.Remote
	// Forge is nil where none is known.
	Forge DownstreamForge
	// Identity and Sign are those of the commits.
	Identity gitsync.Identity
	Sign     func(commit []byte) (string, error)
	// Source is the program that proposes.
	Source string
	// DataDir keeps git objects; a cache.
	DataDir string
	// Interval between looks.
	Interval time.Duration
	Now      func() time.Time
	// OnFault is told after a look what keeps versions from coming until somebody does something about it, such as a credential that
	// is refused; empty: nothing. nil for nobody. What passes by itself is no fault.
	OnFault func(text string)
	Log     *slog.Logger
}

// DownstreamForge is what a Downstream needs of a forge.
type DownstreamForge interface {
	Forge
	Close(ctx context.Context, number int) error
}

// Downstream proposes to its environment what serves in the one upstream, and merges that where the strategy is Auto. What it
// does follows from git and the forge alone: it keeps nothing, and two of them do what one does. One goroutine may Run it.
type Downstream struct {
	cfg DownstreamConfig
	// branch is the environment branch with its history; own writes to the repository, logs and up read the status branches.
	branch          *gitsync.Repo
	own, logs, up   *gitsync.Writer
	ownRead, upRead *clusters.Reader
	loader          environments.Loader
	proposer        *Proposer
	// said is what was last logged of each app, opened the version of which a pull request was opened here.
	said, opened map[string]string
	// settled says for which commit, version and reason nothing is left to do for an app: it costs no request again.
	settled map[string]string
	// lacks is the first refusal of a credential in a look at the apps.
	lacks string
}

// NewDownstream prepares it; nothing is asked of anybody until Run.
func NewDownstream(cfg DownstreamConfig) *Downstream {
	return &Downstream{
		cfg: cfg, said: map[string]string{}, opened: map[string]string{}, settled: map[string]string{},
		loader: environments.Loader{Environment: cfg.Environment},
	}
}

// Run looks again and again until ctx is done. It returns nil: what it can't do now it tries again.
func (d *Downstream) Run(ctx context.Context) error {
	defer d.close()
	for {
		err := d.open(ctx)
		if err == nil {
			err = d.Look(ctx)
		}
		if err != nil && ctx.Err() == nil {
			d.say("", "no promotion from upstream: "+err.Error())
		}
		d.report(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(forge.Pause(err, d.cfg.Interval, d.cfg.Now())):
		}
	}
}

// open opens the object stores, once.
func (d *Downstream) open(ctx context.Context) (err error) {
	if d.proposer != nil {
		return nil
	}
	d.close() // what a try before has left
	if d.branch, err = gitsync.Open(ctx, d.cfg.Remote, filepath.Join(d.cfg.DataDir, "promotion-branch")); err != nil {
		return err
	}
	if d.own, err = gitsync.NewWriter(gitsync.WriterConfig{Remote: d.cfg.Remote, Identity: d.cfg.Identity}, filepath.Join(d.cfg.DataDir, "promotion")); err != nil {
		return err
	}
	if d.logs, err = gitsync.NewWriter(gitsync.WriterConfig{Remote: d.cfg.Status}, filepath.Join(d.cfg.DataDir, "promotion-status")); err != nil {
		return err
	}
	if d.up, err = gitsync.NewWriter(gitsync.WriterConfig{Remote: d.cfg.Upstream}, filepath.Join(d.cfg.DataDir, "upstream")); err != nil {
		return err
	}
	d.ownRead, d.upRead = clusters.NewReader(d.cfg.Status, d.logs), clusters.NewReader(d.cfg.Upstream, d.up)
	d.proposer = &Proposer{Branch: d.own, Base: d.cfg.Remote.Branch, Forge: d.cfg.Forge, Sign: d.cfg.Sign}
	return nil
}

func (d *Downstream) close() {
	if d.branch != nil {
		_ = d.branch.Close()
	}
	for _, w := range []*gitsync.Writer{d.own, d.logs, d.up} {
		if w != nil {
			_ = w.Close()
		}
	}
}

// say logs what is new about an app; empty: the environment.
func (d *Downstream) say(app, text string) {
	if d.said[app] != text && text != "" {
		d.cfg.Log.Info("promotion", "app", app, "news", text)
	}
	d.said[app] = text
}

// report tells what came of a look to who keeps the status branch. A remote that is away says nothing of credentials.
func (d *Downstream) report(err error) {
	switch {
	case d.cfg.OnFault == nil:
	case err == nil:
		d.cfg.OnFault(d.lacks)
	case refused(err):
		d.cfg.OnFault(err.Error())
	}
}

// refused reports whether a credential is missing, or lacks a right.
func refused(err error) bool {
	return gitsync.Unauthorized(err) || errors.Is(err, forge.ErrUnauthorized) || errors.Is(err, forge.ErrForbidden)
}

// Look looks once. An app whose proposal fails does not keep the others from theirs.
func (d *Downstream) Look(ctx context.Context) error {
	d.lacks = ""
	tip, err := d.branch.Fetch(ctx)
	if err != nil {
		return err
	}
	env, err := d.loader.Load(tip.FS(), d.cfg.Path)
	if err != nil {
		return nil //nolint:nilerr // the status branch says so
	}
	if env.Upstream.Environment == "" {
		return nil
	}
	if err := Allowed(env, d.cfg.Upstream.URL); err != nil {
		return err
	}
	up, err := d.upRead.Read(ctx, env.Upstream.Environment)
	if err == nil {
		err = clusters.Unreadable(up)
	}
	if err != nil {
		return fmt.Errorf("reading what serves in %s: %w", env.Upstream.Environment, err)
	}
	own, err := d.ownRead.Read(ctx, d.cfg.Environment)
	if err == nil {
		err = clusters.Unreadable(own) // or nobody knows what was rolled back here
	}
	if err != nil {
		return err
	}
	for i := range env.Apps {
		app := &env.Apps[i]
		if err := d.app(ctx, env, app, tip, clusters.Records(up, app.Name), clusters.Records(own, app.Name)); err != nil {
			if limited := new(forge.Limited); ctx.Err() != nil || errors.As(err, limited) {
				return err
			}
			d.say(app.Name, "promotion: "+err.Error())
			if d.lacks == "" && refused(err) {
				d.lacks = "proposing " + app.Name + ": " + err.Error()
			}
		}
	}
	return nil
}

// Allowed is why an agent may not take versions from where an environment says, where agent.yaml names this repository for that; nil:
// it may, or the environment says nowhere.
func Allowed(env *environments.Environment, repository string) error {
	if asked := env.Upstream.Repository; asked != "" && asked != repository {
		return fmt.Errorf("sluice.yaml names %s as upstream.repository, which agent.yaml does not let the agent ask: set environments[%s].upstream.url to it",
			asked, env.Name)
	}
	return nil
}

// Waits is why nobody but a person may merge a promotion of an app now: the environment, which is at path root of a tree, is frozen, or a
// window is closed. Empty: nothing is in the way.
func Waits(fsys fs.FS, root string, env *environments.Environment, app string, now time.Time) string {
	if reason, frozen := environments.Freeze(fsys, root); frozen {
		return "the environment is frozen: " + reason
	}
	if state := env.Windows.At(now); !state.Open {
		return state.Reason
	}
	if i := slices.IndexFunc(env.Apps, func(a environments.App) bool { return a.Name == app }); i >= 0 {
		if state := env.Apps[i].Windows.At(now); !state.Open {
			return state.Reason
		}
	}
	return ""
}

// app proposes one app, and merges what may be.
func (d *Downstream) app(ctx context.Context, env *environments.Environment, app *environments.App, tip *gitsync.Snapshot, up, own []audit.Record) error {
	now := d.cfg.Now()
	c := Choose(app, up, own, now)
	asked := tip.Commit + " " + c.Version + " " + c.Reason
	if d.settled[app.Name] == asked {
		return nil
	}
	if c.Version == "" {
		d.say(app.Name, c.Reason)
		err := d.withdraw(ctx, env, app, c)
		if err == nil {
			d.settled[app.Name] = asked
		}
		return err
	}
	p := Proposal{
		Environment: d.cfg.Environment, Path: d.cfg.Path, App: app.Name, To: environments.Promotion{Version: c.Version, Was: app.Asks(), Image: app.Image},
		Strategy: app.Upstream.Strategy, Upstream: env.Upstream.Environment, Source: d.cfg.Source,
		ClosedBefore: now.Add(-reopening),
		Check:        func(base *gitsync.Snapshot) error { return d.takenBack(ctx, app, c.Version, base) },
	}
	if d.opened[app.Name] == c.Version {
		p.ClosedBefore = now.Add(time.Minute) // of a clock that is ahead
	}
	wait := ""
	if p.Strategy == environments.PromotionAuto {
		wait = Waits(tip.FS(), d.cfg.Path, env, app.Name, now)
	}
	if d.cfg.Forge == nil && wait != "" {
		d.say(app.Name, c.Version+" waits: "+wait)
		return nil
	}
	done, err := d.proposer.Propose(ctx, p, false)
	before := new(takenBackError)
	switch {
	case errors.As(err, before):
		d.say(app.Name, err.Error())
		if before.base == tip.Commit {
			d.settled[app.Name] = asked
		}
		return nil
	case errors.Is(err, ErrClosed):
		d.say(app.Name, c.Version+" is not proposed again: "+err.Error()+"; sluice promote opens a new one")
		return nil
	case err != nil:
		return err
	}
	if done.Pull != nil {
		d.opened[app.Name] = c.Version
	}
	if p.Strategy == environments.PromotionManual {
		d.settled[app.Name] = asked // the rest is a person's
	}
	switch {
	case done.Done(d.cfg.Remote.Branch):
		d.say(app.Name, c.Version+" was promoted in commit "+done.Commit)
		return nil
	case done.Pull == nil:
		d.say(app.Name, c.Version+" waits to be merged: branch "+done.Branch)
		return nil
	case p.Strategy == environments.PromotionManual:
		d.say(app.Name, c.Version+" waits for a person to merge "+done.Pull.URL)
		return nil
	case wait != "":
		d.say(app.Name, c.Version+" waits: "+wait)
		return nil
	}
	merged, err := d.proposer.Merge(ctx, done.Pull)
	if errors.Is(err, forge.ErrConflict) {
		_, err = d.proposer.Propose(ctx, p, true)
	}
	switch {
	case errors.Is(err, forge.ErrNotReady):
		d.say(app.Name, c.Version+" waits: "+err.Error())
		return nil
	case err != nil:
		return err
	case merged:
		d.say(app.Name, c.Version+" was merged: "+done.Pull.URL)
	}
	return nil
}

// withdraw closes the pull request of a version that is not to be proposed any more, if it was proposed from upstream.
func (d *Downstream) withdraw(ctx context.Context, env *environments.Environment, app *environments.App, c Candidate) error {
	if d.cfg.Forge == nil || !c.Withdraw {
		return nil
	}
	open, err := d.cfg.Forge.Find(ctx, BranchOf(d.cfg.Environment, app.Name), d.cfg.Remote.Branch)
	if err != nil || open == nil || !strings.HasPrefix(strings.TrimSpace(open.Body), marker(env.Upstream.Environment)) {
		return err
	}
	d.say(app.Name, "withdrawn: "+c.Reason+": "+open.URL)
	return d.cfg.Forge.Close(ctx, open.Number)
}

// marker begins the text of a pull request that was opened because of an environment upstream. Pages do not show it.
func marker(upstream string) string { return "<!-- sluice: from " + upstream + " -->" }

// reopening is how long after it was pushed a proposal without a pull request is taken for one that a crash has left so. Later
// somebody has closed it.
const reopening = 10 * time.Minute

// historyLimit is how many commits are looked through for a promotion that was taken back.
const historyLimit = 500

// takenBackError says that a version was promoted here before by a commit, which the environment branch does not ask for any more at base.
type takenBackError struct{ version, commit, base string }

func (e takenBackError) Error() string {
	return fmt.Sprintf("%s was promoted here before by commit %.10s and reverted: to propose it again, run sluice promote", e.version, e.commit)
}

// takenBack is a [takenBackError] where the environment branch has had a version until base, and asks for another one there. Whoever has
// put it back knows why, and no agent may bring it in again. It is asked of the commit upon which a proposal is made, since what an
// agent has decided for an older one may have been promoted, and rolled back, by others meanwhile.
func (d *Downstream) takenBack(ctx context.Context, app *environments.App, version string, base *gitsync.Snapshot) error {
	if _, err := d.branch.At(base.Commit); err != nil {
		if _, err := d.branch.Fetch(ctx); err != nil {
			return err
		}
	}
	history, err := d.branch.Commits(ctx, base.Commit, "", historyLimit)
	if err != nil {
		return err
	}
	for _, c := range history {
		had, err := d.had(ctx, c, app, version)
		if err != nil {
			return err
		}
		if had {
			return takenBackError{version, c.Hash, base.Commit}
		}
	}
	return nil
}

// had reports whether a commit of the environment branch, or the one that it merges, promoted an app to a version, or has taken it back
// from there.
func (d *Downstream) had(ctx context.Context, c gitsync.Commit, app *environments.App, version string) (bool, error) {
	said := []gitsync.Commit{c}
	if len(c.Parents) == 2 {
		merged, err := d.branch.Commits(ctx, c.Parents[1], "", 1)
		if err != nil {
			return false, err
		}
		said = append(said, merged...)
	}
	for _, s := range said {
		if e, ok := audit.ParseMessage(s.Message); ok && e.Type == audit.Rollback &&
			e.Environment == d.cfg.Environment && e.App == app.Name && (e.From.Version == version || e.From.Image == version) {
			return true, nil
		}
	}
	if !slices.ContainsFunc(said, func(s gitsync.Commit) bool { return promotes(s, app.Name, version) }) {
		return false, nil
	}
	// Another environment of the same repository may have an app of that name.
	at, err := d.branch.At(c.Hash)
	if err != nil {
		return false, err
	}
	asked, _, err := environments.Asked(at.FS(), d.cfg.Path, app.Name, app.Image)
	return err == nil && asked == version, nil
}

// promotes reports whether a commit says that it promotes an app to a version. One that was squashed has the title only, with a number
// behind it.
func promotes(c gitsync.Commit, app, version string) bool {
	if p, ok := audit.ParsePromotion(c.Message); ok {
		return p.App == app && p.To == version
	}
	rest, titled := strings.CutPrefix(c.Subject(), audit.Promotion{App: app, To: version}.Subject())
	return titled && (rest == "" || rest[0] == ' ')
}
