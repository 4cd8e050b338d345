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
	// forge is where the repositories are; nil: on a plain git server.
	forge *forge
	// guest is the cluster of the user; nil: the demo has its own.
	guest *guest

	bed *bed.Bed
	// agents deliver, each from a process of its own; places are what they deliver to.
	agents []agent
	places []place
	events chan demoEvent
	// ended holds how each version ended in each place.
	ended map[string]rollout.Event
	// told: the story is over.
	told bool
}

// place is an environment in a cluster: "production", or "production/eu" where it has several.
type place string

func (p place) environment() string {
	name, _, _ := strings.Cut(string(p), "/")
	return name
}

// statusBranch is where the agent of a place writes.
func (p place) statusBranch() string { return "sluice/status/" + string(p) }

// agent is a process of sluice agent.
type agent struct {
	// name is that of its files.
	name string
	// cluster is its name, where an environment has several, and bed has it.
	cluster string
	bed     *bed.Bed
	// environments that it delivers.
	environments []string
}

// demoEvent is an event with the place that it happened in.
type demoEvent struct {
	place place
	app   string
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
	if d.told && d.keep {
		d.out.say("ended")
	}
	if d.told && !temporary {
		d.out.say("everything is in %s; delete it when you like", d.dir)
	}
	return err
}

// perform starts everything, plays, and stops everything.
func (d *demo) perform(ctx context.Context) error {
	d.out.block(d.introduction())
	d.out.heading("Starting the servers")
	b, err := bed.Start(ctx, bed.Options{Dir: filepath.Join(d.dir, "bed"), Progress: d.out, Cluster: d.guest.config()})
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // everything that was worth keeping was printed
	d.bed = b
	d.agents = []agent{{name: "agent", bed: b, environments: demoEnvironments}}
	d.places = []place{"staging", "production"}
	if d.forge != nil {
		defer d.forge.close()
		if err := d.startForge(ctx); err != nil {
			return err
		}
	}
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

// upstream is what sluice.yaml of an environment says of where its versions come from: on a forge the agents of production propose
// what serves in staging. Elsewhere people promote.
func (d *demo) upstream(environment string) string {
	switch {
	case d.forge == nil:
		return ""
	case environment == "staging":
		return "upstream: {strategy: Auto}\n"
	default:
		return fmt.Sprintf("upstream: {environment: staging, repository: %q, strategy: Auto, soak: 2s}\n", d.url("staging"))
	}
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

// url of one of the demo's repositories.
func (d *demo) url(name string) string {
	if d.forge != nil {
		return d.forge.url(name)
	}
	return d.bed.Git.URL(name)
}

// remote is how people reach a branch of one of the demo's repositories.
func (d *demo) remote(name, branch string) gitsync.Remote {
	return gitsync.Remote{
		URL: d.url(name), Branch: branch, Auth: gitsync.Auth{Username: bed.User, PasswordFile: d.passwordFile()},
	}
}

// createRepository makes an environment repository as jx does, with the first version in it.
func (d *demo) createRepository(ctx context.Context, name string) error {
	create := d.bed.Git.CreateRepo
	if d.forge != nil {
		create = func(name string) error { return d.forge.create(ctx, name) }
	}
	if err := create(name); err != nil {
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
			"namespace: " + d.namespace(name) + "\n" + d.upstream(name)),
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

// deliver runs the agents, as operators would, and follows what they write to git.
func (d *demo) deliver(ctx context.Context, g *errgroup.Group) error {
	d.events = make(chan demoEvent)
	d.ended = map[string]rollout.Event{}
	for _, a := range d.agents {
		if err := d.start(ctx, g, a); err != nil {
			return err
		}
	}
	for _, p := range d.places {
		g.Go(func() error { return d.follow(ctx, p) })
	}
	return nil
}

// log of an agent.
func (d *demo) log(a agent) string { return filepath.Join(d.dir, a.name+".log") }

// start runs an agent.
func (d *demo) start(ctx context.Context, g *errgroup.Group, a agent) error {
	configuration := filepath.Join(d.dir, a.name+".yaml")
	if err := os.WriteFile(configuration, []byte(d.configuration(a)), 0o600); err != nil {
		return fmt.Errorf("writing the agent's configuration: %w", err)
	}
	log, err := os.Create(d.log(a))
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
	return nil
}

// configuration is an agent's.
func (d *demo) configuration(a agent) string {
	cluster := "kubeconfig: " + strconv.Quote(a.bed.Kubeconfig) + "\n"
	if d.guest != nil {
		cluster = "kubeconfig: " + strconv.Quote(d.guest.kubeconfig) + "\n" + "context: " + strconv.Quote(d.guest.context) + "\n" +
			"allowCredentialPlugins: true\n"
	}
	password := strconv.Quote(d.passwordFile())
	text := fmt.Sprintf("apiVersion: sluice.dev/v1alpha1\nkind: Agent\ncluster: %q\ndataDir: %q\n%slisten: none\nprometheus: {address: %q}\n"+
		"charts:\n- {url: %q, username: %s, passwordFile: %s}\nenvironments:\n",
		a.cluster, filepath.Join(d.dir, a.name), cluster, a.bed.PrometheusURL, d.bed.Charts.URL(), bed.User, password)
	looks := d.interval
	if d.forge != nil {
		looks *= 2 // three agents ask one Gitea
	}
	for _, name := range a.environments {
		text += fmt.Sprintf("- name: %s\n  namespace: %s\n  repository: {url: %q, username: %s, passwordFile: %s}\n  interval: %s\n  checkInterval: %s\n",
			name, d.namespace(name), d.url(name), bed.User, password, looks, d.interval)
		if d.forge != nil {
			text += d.forge.configuration(name, password)
		}
	}
	return text
}

// follow reads a place's events from its status branch, as anybody can.
func (d *demo) follow(ctx context.Context, p place) error {
	dir := filepath.Join(d.dir, "people", "follower", strings.ReplaceAll(string(p), "/", "-"))
	repo, err := gitsync.Open(ctx, d.remote(p.environment(), p.statusBranch()), dir)
	if err != nil {
		return fmt.Errorf("following %s: %w", p, err)
	}
	defer repo.Close() //nolint:errcheck // a cache
	last := ""
	for {
		// Until the agent has written to it there is no such branch.
		if tip, err := repo.Fetch(ctx); err == nil && tip.Commit != last {
			history, err := repo.Commits(ctx, tip.Commit, last, 0)
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("following %s: %w", p, err)
			}
			for _, c := range slices.Backward(history) {
				if e, ok := audit.ParseMessage(c.Message); ok {
					select {
					case <-ctx.Done():
						return nil
					case d.events <- demoEvent{p, e.App, e.Event}:
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
