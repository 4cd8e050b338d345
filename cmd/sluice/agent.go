package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	metrics "github.com/sluice-cd/sluice/analysis/prometheus"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/cluster"
	"github.com/sluice-cd/sluice/render"
)

func newAgent() *cobra.Command {
	var f agentFlags
	var logFormat string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent: deliver environments until stopped",
		Long: `Follows environment repositories, delivers what they ask for and writes the outcome
back. Configure it with a file or, for a single environment, with flags. Flags override
the file.

SIGTERM and SIGINT stop it cleanly; killed at any moment, it resumes where it was. It
serves /healthz, /readyz and /metrics.`,
		Example: `  sluice agent --config /etc/sluice/agent.yaml
  sluice agent --config agent.yaml --kubeconfig ~/.kube/config --listen 127.0.0.1:8080
  sluice agent --environment production --repo https://git.example.com/production.git \
    --username sluice --password-file git-token --prometheus http://prometheus.istio-system:9090`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.config(cmd)
			if err != nil {
				return &codedError{exitUsage, err}
			}
			log, err := newLogger(cmd.ErrOrStderr(), logFormat, verbose)
			if err != nil {
				return err
			}
			if os.Getenv("GOGC") == "" {
				// It rests most of the time: memory is dearer than the little more that collecting costs when it works.
				debug.SetGCPercent(50)
			}
			return runAgent(cmd.Context(), c, log)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&logFormat, "log-format", "text", "text or json")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log every reconcile, not only what happens")
	return cmd
}

func newLogger(w io.Writer, format string, verbose bool) (*slog.Logger, error) {
	opts := &slog.HandlerOptions{}
	if verbose {
		opts.Level = slog.LevelDebug
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	default:
		return nil, usagef("--log-format: got %q, expected text or json", format)
	}
}

// runAgent delivers every environment of the configuration.
func runAgent(ctx context.Context, c *config, log *slog.Logger) error {
	rest, err := cluster.LoadREST(c.Kubeconfig, c.Context, c.AllowCredentialPlugins)
	if err != nil {
		return err
	}
	asker, err := c.Prometheus.client()
	if err != nil {
		return err
	}
	if !render.Confined {
		log.Warn("on this platform the memory and CPU time of templates are not limited: deliver only charts that you trust")
	}
	registry := prometheus.NewRegistry()
	d := &deliveries{config: c, rest: rest, metrics: asker, hosts: render.NewHosts(time.Now), onEvent: newEventMetrics(registry).observe, log: log}
	g, ctx := errgroup.WithContext(ctx)
	var environments []*environment
	for _, e := range c.Environments {
		env, err := d.open(ctx, e)
		if err != nil {
			return err
		}
		environments = append(environments, env)
	}
	registry.MustRegister(&healthMetrics{environments})
	g.Go(func() error { return serve(ctx, c.Listen, environments, registry, log) })
	for _, e := range environments {
		g.Go(func() error {
			return persevere(ctx, log.With("environment", e.Name), func() error { return e.run(ctx, c) })
		})
	}
	return g.Wait()
}

// persevere delivers an environment until ctx is done: when that ends before, because its cluster is away or its lease was
// lost, it begins again after a pause. The other environments of the process go on meanwhile.
func persevere(ctx context.Context, log *slog.Logger, deliver func() error) error {
	for pause := time.Second; ; pause = min(2*pause, time.Minute) {
		begun := time.Now()
		err := deliver()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		if time.Since(begun) > time.Minute {
			pause = time.Second
		}
		log.Error("the environment is not delivered", "error", err, "again", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// serve answers /healthz, /readyz and /metrics until ctx is done.
func serve(ctx context.Context, listen string, environments []*environment, registry *prometheus.Registry, log *slog.Logger) error {
	if listen == "none" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if stuck := stuck(environments); len(stuck) > 0 {
			http.Error(w, "stuck: "+strings.Join(stuck, "; "), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if waiting := unready(environments); len(waiting) > 0 {
			http.Error(w, "waiting for "+strings.Join(waiting, ", "), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listening for health and metrics: %w", err)
	}
	log.Info("listening", "address", l.Addr().String())
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health and metrics: %w", err)
	}
	return nil
}

// stuck says what hangs in the environments that this process delivers, so that only a restart can help.
func stuck(environments []*environment) []string {
	var out []string
	for _, e := range environments {
		if e.standby.Load() {
			continue
		}
		for _, what := range e.agent.Load().Stuck() {
			out = append(out, e.Name+": "+what)
		}
	}
	return out
}

// unready names the environments that this process delivers and has not looked at once. One that another process
// leads is none of them: a process that stands by is ready to, or an update that waits for it would never end.
func unready(environments []*environment) []string {
	var names []string
	for _, e := range environments {
		if !e.standby.Load() && !e.agent.Load().Synced() {
			names = append(names, e.Name)
		}
	}
	return names
}

// remote is how the agent reaches an environment repository.
func (r repositoryConfig) remote() gitsync.Remote {
	return gitsync.Remote{URL: r.URL, Branch: r.Branch, AllowFile: r.AllowFile, CAFile: r.CAFile, Auth: gitsync.Auth{
		Username: r.Username, PasswordFile: r.PasswordFile, TokenFile: r.TokenFile,
		SSHKeyFile: r.SSHKeyFile, PassphraseFile: r.PassphraseFile, KnownHostsFile: r.KnownHostsFile,
	}}
}

// client asks that Prometheus.
func (p prometheusConfig) client() (*metrics.Client, error) {
	return metrics.New(metrics.Config{
		Address: p.Address, Timeout: time.Duration(p.Timeout), Username: p.Username, PasswordFile: p.PasswordFile,
		BearerTokenFile: p.BearerTokenFile, CAFile: p.CAFile, InsecureSkipVerify: p.InsecureSkipVerify,
	})
}

// hostIdentity tells this process from the others that would lead.
func hostIdentity() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}
