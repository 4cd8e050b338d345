package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/diff"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed"
)

// The demo's app and its versions.
const (
	demoApp   = "croc-hunter-java"
	demoFirst = "0.0.129"
	demoGood  = "0.0.130"
	demoBad   = "0.0.131"

	// demoPatience is how long nothing may happen.
	demoPatience = 2 * time.Minute

	// demoImage is what pods run on a cluster that runs pods, as cmd/demo tells: it answers on the port of the chart.
	demoImage, demoImageTag = "docker.io/nginxinc/nginx-unprivileged", "stable-alpine"
)

// demoCharts is the app's chart, in the shape of the talk's.
//
//go:embed all:charts
var demoCharts embed.FS

// demo is one run of the demonstration.
type demo struct {
	out *narrator
	// sluice is the program under demonstration.
	sluice   string
	interval time.Duration
	dir      string
	keep     bool
	// guest is the cluster of the user; nil: the demo has its own.
	guest *guest

	bed    *bed.Bed
	events chan demoEvent
	// ended holds how each version ended in each environment.
	ended map[string]rollout.EventType
	// seen are the events of each version in each environment.
	seen map[string]bool
	// told: the story is over.
	told bool
}

// demoEvent is an event with the environment that it happened in.
type demoEvent struct {
	environment, app string
	rollout.Event
}

// run makes a place for the demo, plays it, and leaves the place behind only where it was asked for or tells of a failure.
func (d *demo) run(ctx context.Context) error {
	defer d.out.close()
	if d.guest != nil {
		if err := d.guest.check(ctx, d.namespaces()); err != nil {
			return err
		}
	}
	temporary := d.dir == ""
	if temporary {
		dir, err := os.MkdirTemp("", "sluice-demo-")
		if err != nil {
			return fmt.Errorf("making a directory for the demo: %w", err)
		}
		d.dir = dir
	}
	dir, err := filepath.Abs(d.dir)
	if err != nil {
		return fmt.Errorf("making a directory for the demo: %w", err)
	}
	d.dir = dir
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("making a directory for the demo: %w", err)
	}
	err = d.perform(ctx)
	if ctx.Err() != nil {
		err = nil
		if !d.told {
			err = errors.New("the demo was interrupted")
		}
	} else if err != nil && temporary && d.bed != nil {
		d.out.say("what the agent and the servers logged is kept in %s", d.dir)
		return err
	}
	if temporary {
		_ = os.RemoveAll(d.dir) // what is left is in the temporary directory
	}
	return err
}

// perform starts everything, plays, and stops everything.
func (d *demo) perform(ctx context.Context) error {
	d.out.heading("Starting the servers")
	b, err := bed.Start(ctx, bed.Options{Dir: filepath.Join(d.dir, "bed"), Progress: d.out, Cluster: d.guest.config()})
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // everything that was worth keeping was printed
	d.bed = b
	if err := d.fill(ctx); err != nil {
		return err
	}
	if d.guest != nil {
		// Also of an interrupted demo.
		defer d.guest.remove(context.WithoutCancel(ctx), d.namespaces(), d.out)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	if err := d.deliver(ctx, g); err != nil {
		stop()
		return errors.Join(err, g.Wait())
	}
	g.Go(func() error {
		defer stop()
		return d.play(ctx)
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// fill publishes the chart and makes the repositories.
func (d *demo) fill(ctx context.Context) error {
	if err := d.publish(); err != nil {
		return err
	}
	if err := os.WriteFile(d.passwordFile(), []byte(bed.Password), 0o600); err != nil {
		return fmt.Errorf("writing the demo's password: %w", err)
	}
	for _, name := range demoEnvironments {
		if err := d.createRepository(ctx, name); err != nil {
			return fmt.Errorf("creating the %s repository: %w", name, err)
		}
	}
	return nil
}

var demoEnvironments = []string{"staging", "production"}

// namespace of an environment: as Jenkins X has it, and on somebody's cluster one that is surely the demo's.
func (d *demo) namespace(environment string) string {
	if d.guest != nil {
		return "sluice-demo-" + environment
	}
	return "jx-" + environment
}

func (d *demo) namespaces() []string {
	var all []string
	for _, name := range demoEnvironments {
		all = append(all, d.namespace(name))
	}
	return all
}

// publish puts the chart's versions into the chart repository.
func (d *demo) publish() error {
	dir := filepath.Join(d.dir, "charts")
	charts, err := fs.Sub(demoCharts, "charts")
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.CopyFS(dir, charts); err != nil {
		return fmt.Errorf("unpacking the demo's chart: %w", err)
	}
	for _, v := range []string{demoFirst, demoGood, demoBad} {
		if v == demoBad {
			// 30 % of its requests fail: bad enough for every check, not so bad that one check would do.
			if err := appendFile(filepath.Join(dir, demoApp, "values.yaml"), "behaviour: {errorRate: 0.3}\n"); err != nil {
				return fmt.Errorf("publishing %s %s: %w", demoApp, v, err)
			}
		}
		if err := d.bed.Charts.AddVersion(filepath.Join(dir, demoApp), v); err != nil {
			return fmt.Errorf("publishing %s %s: %w", demoApp, v, err)
		}
	}
	return nil
}

func appendFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

func (d *demo) passwordFile() string { return filepath.Join(d.dir, "password") }

// remote is how people reach a branch of one of the demo's repositories.
func (d *demo) remote(name, branch string) gitsync.Remote {
	return gitsync.Remote{
		URL: d.bed.Git.URL(name), Branch: branch, Auth: gitsync.Auth{Username: bed.User, PasswordFile: d.passwordFile()},
	}
}

// createRepository makes an environment repository as jx does, with the first version in it.
func (d *demo) createRepository(ctx context.Context, name string) error {
	if err := d.bed.Git.CreateRepo(name); err != nil {
		return err
	}
	// A host of its own: on somebody's cluster another namespace may have the chart's.
	canary := "  canary:\n    service: {hosts: [croc-hunter." + d.namespace(name) + ".example.com]}\n"
	if name == "staging" {
		canary += "    enable: false # staging takes a new version at once\n"
	}
	image := ""
	if d.guest != nil {
		image = "  image: {repository: " + demoImage + ", tag: " + demoImageTag + "}\n" +
			"  resources: {requests: {cpu: 10m, memory: 16Mi}}\n"
	}
	files := map[string][]byte{
		"sluice.yaml": []byte("apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: " + name + "\n" +
			"namespace: " + d.namespace(name) + "\n"),
		"env/Chart.yaml": []byte("apiVersion: v1\nname: env\nversion: 0.0.1\n"),
		"env/requirements.yaml": []byte("# What " + name + " runs. Promotion is a pull request that changes a version here.\n" +
			"dependencies:\n- name: " + demoApp + "\n  version: " + demoFirst + "  # written by jx promote\n" +
			"  repository: " + d.bed.Charts.URL() + "\n"),
		"env/values.yaml": []byte(demoApp + ":\n  greeting: \"G'day from " + name + "\"\n" + image + canary),
	}
	return d.commit(ctx, name, func(*gitsync.Snapshot) (*gitsync.Change, error) {
		return &gitsync.Change{Files: files, Message: "chore: environment " + name}, nil
	})
}

// commit is a commit of a person.
func (d *demo) commit(ctx context.Context, name string, edit func(*gitsync.Snapshot) (*gitsync.Change, error)) error {
	w, err := gitsync.NewWriter(gitsync.WriterConfig{
		Remote: d.remote(name, "main"), Create: true,
		Identity: gitsync.Identity{Name: "A Developer", Email: "developer@example.com"},
	}, filepath.Join(d.dir, "people", name))
	if err != nil {
		return err
	}
	defer w.Close() //nolint:errcheck // a cache
	_, err = w.Commit(ctx, edit)
	return err
}

// merge is what merging a promotion's pull request does: one line of requirements.yaml.
func (d *demo) merge(ctx context.Context, name, to string) error {
	d.out.say("a promotion of %s %s is merged into %s", demoApp, to, name)
	err := d.commit(ctx, name, func(tip *gitsync.Snapshot) (*gitsync.Change, error) {
		files, err := environments.Promote(tip.FS(), ".", demoApp, environments.Promotion{Version: to})
		return &gitsync.Change{Files: files, Message: "chore: promote " + demoApp + " to version " + to}, err
	})
	if err != nil {
		return fmt.Errorf("merging %s into %s: %w", to, name, err)
	}
	return nil
}

// deliver runs an agent for both environments, as an operator would, and follows what it writes to git.
func (d *demo) deliver(ctx context.Context, g *errgroup.Group) error {
	d.events = make(chan demoEvent)
	d.ended, d.seen = map[string]rollout.EventType{}, map[string]bool{}
	configuration := filepath.Join(d.dir, "agent.yaml")
	if err := os.WriteFile(configuration, []byte(d.configuration()), 0o600); err != nil {
		return fmt.Errorf("writing the agent's configuration: %w", err)
	}
	log, err := os.Create(filepath.Join(d.dir, "agent.log"))
	if err != nil {
		return fmt.Errorf("making the agent's log: %w", err)
	}
	defer log.Close()
	agent := exec.CommandContext(ctx, d.sluice, "agent", "--config", configuration, "--verbose")
	agent.Stdout, agent.Stderr = log, log
	agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for the demo, which ends it in order
	agent.Cancel = func() error { return agent.Process.Signal(os.Interrupt) }
	agent.WaitDelay = 10 * time.Second
	if err := agent.Start(); err != nil {
		return fmt.Errorf("starting the agent: %w", err)
	}
	g.Go(func() error {
		err := agent.Wait()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		return fmt.Errorf("the agent ended by itself: %w", err)
	})
	for _, name := range demoEnvironments {
		g.Go(func() error { return d.follow(ctx, name) })
	}
	return nil
}

// configuration is the agent's.
func (d *demo) configuration() string {
	cluster := "kubeconfig: " + strconv.Quote(d.bed.Kubeconfig) + "\n"
	if d.guest != nil {
		cluster = "kubeconfig: " + strconv.Quote(d.guest.kubeconfig) + "\n" + "context: " + strconv.Quote(d.guest.context) + "\n" +
			"allowCredentialPlugins: true\n"
	}
	password := strconv.Quote(d.passwordFile())
	text := fmt.Sprintf("apiVersion: sluice.dev/v1alpha1\nkind: Agent\ndataDir: %q\n%slisten: none\nprometheus: {address: %q}\n"+
		"charts:\n- {url: %q, username: %s, passwordFile: %s}\nenvironments:\n",
		filepath.Join(d.dir, "agent"), cluster, d.bed.PrometheusURL, d.bed.Charts.URL(), bed.User, password)
	for _, name := range demoEnvironments {
		text += fmt.Sprintf("- name: %s\n  namespace: %s\n  repository: {url: %q, username: %s, passwordFile: %s}\n  interval: %s\n  checkInterval: %s\n",
			name, d.namespace(name), d.bed.Git.URL(name), bed.User, password, d.interval, d.interval)
	}
	return text
}

// follow reads an environment's events from its status branch, as anybody can.
func (d *demo) follow(ctx context.Context, name string) error {
	repo, err := gitsync.Open(ctx, d.remote(name, statusBranch(name)), filepath.Join(d.dir, "people", "follower", name))
	if err != nil {
		return fmt.Errorf("following %s: %w", name, err)
	}
	defer repo.Close() //nolint:errcheck // a cache
	last := ""
	for {
		// Until the agent has written to it there is no such branch.
		if tip, err := repo.Fetch(ctx); err == nil && tip.Commit != last {
			history, err := repo.Commits(ctx, tip.Commit, last, 0)
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("following %s: %w", name, err)
			}
			for _, c := range slices.Backward(history) {
				if e, ok := audit.ParseMessage(c.Message); ok {
					select {
					case <-ctx.Done():
						return nil
					case d.events <- demoEvent{name, e.App, e.Event}:
					}
				}
			}
			last = tip.Commit
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func statusBranch(name string) string { return "sluice/status/" + name }

// play is the story.
func (d *demo) play(ctx context.Context) error {
	d.out.heading("First install of " + demoFirst + ", which never canaries")
	for _, name := range demoEnvironments {
		if err := d.await(ctx, name, demoFirst, rollout.Installed); err != nil {
			return err
		}
	}
	d.out.heading("A good version: " + demoFirst + " -> " + demoGood)
	if err := d.promote(ctx, demoGood, rollout.Promoted); err != nil {
		return err
	}
	d.out.heading("A bad version: " + demoGood + " -> " + demoBad + " answers 30 % of the requests with a 500")
	if err := d.promote(ctx, demoBad, rollout.RolledBack); err != nil {
		return err
	}
	if err := d.settle(ctx); err != nil {
		return err
	}
	if err := d.showGit(ctx); err != nil {
		return err
	}
	d.told = true
	return d.lookAround(ctx)
}

// promote merges a version into staging and then into production, and waits for what becomes of it there.
func (d *demo) promote(ctx context.Context, to string, want rollout.EventType) error {
	if err := d.merge(ctx, "staging", to); err != nil {
		return err
	}
	if err := d.await(ctx, "staging", to, rollout.Promoted); err != nil {
		return err
	}
	if err := d.merge(ctx, "production", to); err != nil {
		return err
	}
	return d.await(ctx, "production", to, want)
}

// ends reports whether an event ends the story of one version; one that is degraded tells no more.
func ends(t rollout.EventType) bool { return audit.Ends(t) || t == rollout.Degraded }

// await narrates until a version has come to its end in an environment.
func (d *demo) await(ctx context.Context, name, version string, want rollout.EventType) error {
	quiet := time.NewTimer(demoPatience)
	defer quiet.Stop()
	for {
		if end, ok := d.ended[name+" "+version]; ok {
			if end != want {
				return &otherwiseError{fmt.Errorf("%s in %s ended as %s, expected %s", version, name, end, want)}
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-quiet.C:
			return fmt.Errorf("nothing happened to %s in %s for %s", version, name, demoPatience)
		case e := <-d.events:
			quiet.Reset(demoPatience)
			d.hear(e)
		}
	}
}

// hear tells an event and remembers what it says.
func (d *demo) hear(e demoEvent) {
	d.out.event(e)
	of := e.environment + " " + e.To.Version
	d.seen[of+" "+string(e.Type)] = true
	if ends(e.Type) {
		d.ended[of] = e.Type
	}
}

// settle waits until git says what the cluster serves.
func (d *demo) settle(ctx context.Context) error {
	for !d.seen["production "+demoBad+" "+string(rollout.RollbackCommitted)] {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(demoPatience):
			return fmt.Errorf("git was not put back from %s within %s", demoBad, demoPatience)
		case e := <-d.events:
			d.hear(e)
		}
	}
	return nil
}

// showGit prints what git says now: both branches of production, and the rollback commit.
func (d *demo) showGit(ctx context.Context) error {
	for _, branch := range []string{"main", statusBranch("production")} {
		d.out.heading("git log of production, branch " + branch)
		history, err := d.history(ctx, branch)
		if err != nil {
			return err
		}
		for _, c := range history {
			d.out.block(fmt.Sprintf("%.10s  %s  %-11s  %s", c.Hash, c.Time.Local().Format(time.TimeOnly), c.Author.Name, c.Subject()))
		}
		if branch != "main" {
			continue
		}
		if !audit.IsOwn(history[0].Message) {
			return &otherwiseError{errors.New("the newest commit of the environment branch is not the rollback")}
		}
		d.out.heading("the rollback commit")
		if err := d.showCommit(ctx, history[0]); err != nil {
			return err
		}
	}
	return nil
}

// history of one of production's branches, newest first.
func (d *demo) history(ctx context.Context, branch string) ([]gitsync.Commit, error) {
	repo, tip, err := d.read(ctx, branch)
	if err != nil {
		return nil, err
	}
	defer repo.Close() //nolint:errcheck // a cache
	return repo.Commits(ctx, tip.Commit, "", 0)
}

func (d *demo) read(ctx context.Context, branch string) (*gitsync.Repo, *gitsync.Snapshot, error) {
	repo, err := gitsync.Open(ctx, d.remote("production", branch), filepath.Join(d.dir, "people", "reader", strings.ReplaceAll(branch, "/", "-")))
	if err != nil {
		return nil, nil, err
	}
	tip, err := repo.Fetch(ctx)
	return repo, tip, err
}

// showCommit prints a commit with its change of requirements.yaml.
func (d *demo) showCommit(ctx context.Context, c gitsync.Commit) error {
	repo, _, err := d.read(ctx, "main")
	if err != nil {
		return err
	}
	defer repo.Close() //nolint:errcheck // a cache
	var texts [2][]byte
	for i, hash := range []string{c.Parents[0], c.Hash} {
		s, err := repo.At(hash)
		if err != nil {
			return err
		}
		if texts[i], err = fs.ReadFile(s.FS(), "env/requirements.yaml"); err != nil {
			return err
		}
	}
	d.out.block(strings.TrimRight(c.Message, "\n") + "\n\n")
	d.out.block(string(diff.Diff("a/env/requirements.yaml", texts[0], "b/env/requirements.yaml", texts[1])))
	return nil
}

// lookAround ends the demo, or leaves it running.
func (d *demo) lookAround(ctx context.Context) error {
	if !d.keep {
		return nil
	}
	d.out.heading("Everything is left running; Ctrl-C ends it")
	d.out.block(strings.Join(d.commands(), "\n"))
	d.out.heading("Ask something of it, and watch it here: go back to 0.0.129, begin 0.0.130 anew, and abort that")
	d.out.block(strings.Join(d.asks(), "\n"))
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-d.events:
			d.hear(e)
		}
	}
}

// commands to look around with, as they are typed in another terminal.
func (d *demo) commands() []string {
	kubeconfig, flags := d.bed.Kubeconfig, ""
	if d.guest != nil {
		kubeconfig = d.guest.kubeconfig
		if d.guest.context != "" {
			flags = " --context " + quoted(d.guest.context)
		}
	}
	namespace := " -n " + d.namespace("production")
	clone := quoted(filepath.Join(d.dir, "look", "production"))
	remote := "http://" + bed.User + ":" + bed.Password + "@" + strings.TrimPrefix(d.bed.Git.URL("production"), "http://")
	return []string{
		"export KUBECONFIG=" + quoted(kubeconfig),
		"kubectl" + flags + namespace + " get deployments,pods,virtualservices",
		"helm" + strings.ReplaceAll(flags, "--context", "--kube-context") + namespace + " history " + demoApp,
		"git clone " + remote + " " + clone,
		"git -C " + clone + " show main",
		"git -C " + clone + " log origin/sluice/status/production",
		"go run ./cmd/sluice status --environment production --repo " + clone,
		"curl " + quoted(d.bed.PrometheusURL+"/api/v1/query?query=istio_requests_total"),
		"less " + quoted(filepath.Join(d.dir, "agent.log")),
	}
}

// asks are what people can ask of what is left running, in this order.
func (d *demo) asks() []string {
	clone := quoted(filepath.Join(d.dir, "look", "production"))
	ask := func(command, reason string) string {
		return "go run ./cmd/sluice " + command + " --environment production --repo " + clone + " --author 'You <you@example.com>' --wait --reason '" +
			reason + "' " + demoApp
	}
	git := "git -C " + clone + " -c user.name=You -c user.email=you@example.com "
	return []string{
		ask("rollback", "just to see"),
		git + "pull -q && " + git + "revert --no-edit HEAD && " + git + "push -q",
		ask("abort", "I have seen enough"),
	}
}

// quoted is an argument as a shell takes it.
func quoted(arg string) string {
	if strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._:@=,+-") == "" {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
