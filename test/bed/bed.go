// Package bed starts the test bed: a real Kubernetes API server with the
// controllers that rollouts depend on, a real Prometheus, an OCI registry, Git
// over HTTP and SSH, and a chart repository, all on loopback and all gone when
// their starter is. What one machine lacks is played: pods (package pods) and
// users with their service mesh (package traffic), as tests script it (package
// behaviour). The README says what is real and what is not.
//
// A Bed takes seconds to start, once its servers are compiled (Build), so
// tests share one per test binary: see package bedtest.
package bed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
	"github.com/sluice-cd/sluice/test/bed/chartrepo"
	"github.com/sluice-cd/sluice/test/bed/gitserver"
	"github.com/sluice-cd/sluice/test/bed/loopback"
	"github.com/sluice-cd/sluice/test/bed/pods"
	"github.com/sluice-cd/sluice/test/bed/traffic"
)

// User and Password are what the Git server, the chart repository and the OCI
// registry ask for.
const (
	User     = "sluice"
	Password = "open-sesame"
)

// Options say what a Bed is like. The zero value is a bed in a temporary
// directory that starts silently.
type Options struct {
	// Dir holds the data and logs of every server. Empty means a temporary
	// directory that Close removes.
	Dir string
	// Progress gets lines about building and starting; nil means none.
	Progress io.Writer
	// ScrapeInterval is Prometheus's; 0 means 200 ms.
	ScrapeInterval time.Duration
	// Cluster is used in place of a control plane of the bed's own; nil means its
	// own. Nothing is installed there and its pods are not played: it must serve
	// Istio's routing objects, and run pods. Only users are played.
	Cluster *rest.Config
	// ScrapeTargets are further host:port whose /metrics Prometheus scrapes,
	// besides the traffic model's.
	ScrapeTargets []string
}

// Bed is a running test bed. Its methods may be called concurrently.
type Bed struct {
	// Dir holds the data and logs (*.log) of every server.
	Dir string
	// Kubeconfig is the file of an administrator's kubeconfig; there is none with
	// Options.Cluster.
	Kubeconfig string
	// AuditLog is the file to which the API server writes each request as a
	// line of JSON (audit.k8s.io/v1 Event, level Metadata).
	AuditLog string
	// PrometheusURL is the base address of Prometheus.
	PrometheusURL string
	// RegistryAddr is the host:port of the OCI registry, plain HTTP.
	RegistryAddr string

	Git        *gitserver.Server
	Charts     *chartrepo.Server
	Behaviours *behaviour.Table
	Traffic    *traffic.Model

	config       *rest.Config
	controlPlane *server
	prometheus   *server
	registry     *server
	temporary    bool
	stopPlayers  context.CancelFunc
}

// Start builds the servers if needed, which the first time takes minutes, and
// starts everything. ctx bounds the start alone; Close ends the bed.
func Start(ctx context.Context, options Options) (*Bed, error) {
	root, err := FindRoot()
	if err != nil {
		return nil, err
	}
	program, err := Build(ctx, root, options.Progress)
	if err != nil {
		return nil, err
	}
	b := &Bed{Dir: options.Dir, Behaviours: &behaviour.Table{}}
	if b.Dir == "" {
		b.temporary = true
		if b.Dir, err = os.MkdirTemp("", "sluice-bed-"); err != nil {
			return nil, err
		}
	}
	if err := b.start(ctx, root, program, options); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Bed) start(ctx context.Context, root, program string, options Options) error {
	begin := time.Now()
	say := func(what string) {
		if options.Progress != nil {
			fmt.Fprintf(options.Progress, "%s (%.1f s)\n", what, time.Since(begin).Seconds())
		}
	}
	if err := b.defineServers(program); err != nil {
		return err
	}
	if err := b.startGitAndCharts(); err != nil {
		return err
	}
	say("git and chart repository are up")

	limited, cancel := context.WithTimeout(ctx, 5*time.Minute) // seconds, unless the machine is busy
	defer cancel()
	if err := b.registry.start(limited); err != nil {
		return err
	}
	if options.Cluster != nil {
		b.config = rest.CopyConfig(options.Cluster)
	} else if err := b.startControlPlane(limited, root); err != nil {
		return err
	}
	say("the API server is up")
	if err := b.startPlayers(limited, options.Cluster == nil); err != nil {
		return err
	}
	if err := b.startPrometheus(limited, options); err != nil {
		return err
	}
	say("pods, users and Prometheus are up")
	return nil
}

// defineServers chooses the ports, which a bed keeps for its life.
func (b *Bed) defineServers(program string) error {
	var ports [5]int
	for i := range ports {
		port, err := loopback.Port()
		if err != nil {
			return err
		}
		ports[i] = port
	}
	b.Kubeconfig = filepath.Join(b.Dir, "kubeconfig")
	b.AuditLog = filepath.Join(b.Dir, "audit.jsonl")
	b.PrometheusURL = fmt.Sprintf("http://127.0.0.1:%d", ports[3])
	b.RegistryAddr = fmt.Sprintf("127.0.0.1:%d", ports[4])
	b.controlPlane = b.server(program, "controlplane",
		"--dir="+filepath.Join(b.Dir, "controlplane"), "--kubeconfig-out="+b.Kubeconfig, "--audit-log="+b.AuditLog,
		"--port="+strconv.Itoa(ports[0]), "--etcd-port="+strconv.Itoa(ports[1]), "--etcd-peer-port="+strconv.Itoa(ports[2]),
		"--assets="+os.Getenv(assetsVariable))
	b.registry = b.server(program, "registry", "--listen="+b.RegistryAddr, "--auth="+User+":"+Password)
	b.prometheus = b.server(program, "prometheus",
		"--dir="+filepath.Join(b.Dir, "prometheus"), "--listen="+strings.TrimPrefix(b.PrometheusURL, "http://"))
	return nil
}

func (b *Bed) server(program, name string, args ...string) *server {
	return &server{name: name, program: program, args: args, log: filepath.Join(b.Dir, name+".log")}
}

func (b *Bed) startGitAndCharts() (err error) {
	b.Git, err = gitserver.New(gitserver.Options{Dir: filepath.Join(b.Dir, "git"), User: User, Password: Password})
	if err != nil {
		return err
	}
	if err := b.Git.Start(); err != nil {
		return err
	}
	b.Charts, err = chartrepo.New(chartrepo.Options{Dir: filepath.Join(b.Dir, "charts"), User: User, Password: Password})
	if err != nil {
		return err
	}
	return b.Charts.Start()
}

func (b *Bed) startControlPlane(ctx context.Context, root string) error {
	if err := b.controlPlane.start(ctx); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", b.Kubeconfig)
	if err != nil {
		return fmt.Errorf("reading the kubeconfig: %w", err)
	}
	b.config = config
	if err := installCRDs(ctx, root, config); err != nil {
		return fmt.Errorf("installing custom resources: %w", err)
	}
	return nil
}

// startPlayers starts what lives as long as the bed; ctx bounds the start.
func (b *Bed) startPlayers(ctx context.Context, own bool) error {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.stopPlayers = cancel
	release := context.AfterFunc(ctx, cancel) // a start that takes too long
	defer release()
	config := rest.CopyConfig(b.config)
	if own {
		config.Dial = loopback.DialPatiently // tests stop the API server
		if _, err := pods.Start(life, config, b.Behaviours); err != nil {
			return err
		}
	}
	model, err := traffic.Start(life, config, b.Behaviours)
	b.Traffic = model
	return err
}

func (b *Bed) startPrometheus(ctx context.Context, options Options) error {
	interval := options.ScrapeInterval
	if interval == 0 {
		interval = 200 * time.Millisecond
	}
	b.prometheus.args = append(b.prometheus.args, "--scrape-interval="+interval.String())
	for _, target := range append([]string{b.Traffic.Address()}, options.ScrapeTargets...) {
		b.prometheus.args = append(b.prometheus.args, "--target="+target)
	}
	return b.prometheus.start(ctx)
}

// REST is an administrator's client configuration, without a rate limit. Each
// call returns another copy.
func (b *Bed) REST() *rest.Config {
	config := rest.CopyConfig(b.config)
	config.QPS = -1
	return config
}

// StopAPIServer takes the control plane away: API server, etcd and controllers.
// Pods and users go on as they were.
func (b *Bed) StopAPIServer() error { return b.controlPlane.stop() }

// KillAPIServer is StopAPIServer as a crash.
func (b *Bed) KillAPIServer() error { return b.controlPlane.kill() }

// StartAPIServer starts a stopped control plane: same address, same data.
func (b *Bed) StartAPIServer(ctx context.Context) error { return b.controlPlane.start(ctx) }

// StopPrometheus takes Prometheus away.
func (b *Bed) StopPrometheus() error { return b.prometheus.stop() }

// StartPrometheus starts a stopped Prometheus: same address, same data.
func (b *Bed) StartPrometheus(ctx context.Context) error { return b.prometheus.start(ctx) }

// StopRegistry takes the OCI registry away, and its content with it.
func (b *Bed) StopRegistry() error { return b.registry.stop() }

// StartRegistry starts a stopped OCI registry, empty, on the same address.
func (b *Bed) StartRegistry(ctx context.Context) error { return b.registry.start(ctx) }

// PIDs are the process ids of the servers that run, by name, for measurements.
func (b *Bed) PIDs() map[string]int {
	pids := map[string]int{}
	for _, s := range []*server{b.controlPlane, b.prometheus, b.registry} {
		if pid := s.pid(); pid != 0 {
			pids[s.name] = pid
		}
	}
	return pids
}

// Close stops everything, and removes the directory if the bed made it.
func (b *Bed) Close() error {
	var errs []error
	if b.stopPlayers != nil {
		b.stopPlayers()
	}
	for _, s := range []*server{b.prometheus, b.registry, b.controlPlane} {
		if s != nil {
			errs = append(errs, s.stop())
		}
	}
	if b.Git != nil {
		errs = append(errs, b.Git.Stop())
	}
	if b.Charts != nil {
		errs = append(errs, b.Charts.Stop())
	}
	if b.temporary {
		errs = append(errs, os.RemoveAll(b.Dir))
	}
	return errors.Join(errs...)
}
