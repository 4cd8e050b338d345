package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/notifications"
	apiv1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/prometheus/common/model"
)

// runPrometheus puts Prometheus's own parts together: scraping, storage, query
// engine and HTTP API. Its command is not used because the service discoveries
// that come with it double the build; targets are given by flag.
func runPrometheus(ctx context.Context, args []string, ready func()) error {
	flags := flag.NewFlagSet("prometheus", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory of the storage; kept over restarts")
	listen := flags.String("listen", "127.0.0.1:9090", "address to serve on")
	interval := flags.Duration("scrape-interval", 200*time.Millisecond, "time between two scrapes of a target")
	var targets []string
	flags.Func("target", "host:port whose /metrics is scraped; may be repeated", func(s string) error {
		targets = append(targets, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		return errors.New("--dir is required")
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))

	db, err := tsdb.Open(filepath.Join(*dir, "data"), logger, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		return fmt.Errorf("opening the storage: %w", err)
	}
	defer func() { _ = db.Close() }()

	cfg, err := config.Load(scrapeConfig(targets, *interval), logger)
	if err != nil {
		return fmt.Errorf("loading the configuration: %w", err)
	}
	scraping, err := scrape.NewManager(
		&scrape.Options{DiscoveryReloadOnStartup: true}, logger, nil, nil, db, prometheus.NewRegistry())
	if err != nil {
		return fmt.Errorf("starting the scraper: %w", err)
	}
	if err := scraping.ApplyConfig(cfg); err != nil {
		return fmt.Errorf("configuring the scraper: %w", err)
	}
	groups := make(chan map[string][]*targetgroup.Group, 1)
	groups <- map[string][]*targetgroup.Group{jobName: {staticGroup(targets)}}
	go func() { _ = scraping.Run(groups) }()
	defer scraping.Stop()

	return serve(ctx, *listen, prometheusHandler(db, scraping, cfg, logger, *listen), ready)
}

const jobName = "bed"

func scrapeConfig(targets []string, interval time.Duration) string {
	if len(targets) == 0 {
		return ""
	}
	return fmt.Sprintf(`scrape_configs:
- job_name: %s
  scrape_interval: %s
  scrape_timeout: %s
  static_configs:
  - targets: [%s]
`, jobName, model.Duration(interval), model.Duration(interval), strings.Join(targets, ", "))
}

func staticGroup(targets []string) *targetgroup.Group {
	group := &targetgroup.Group{Source: "flags"}
	for _, t := range targets {
		group.Targets = append(group.Targets, model.LabelSet{model.AddressLabel: model.LabelValue(t)})
	}
	return group
}

// prometheusHandler is the HTTP API, at the same paths as that of the command.
func prometheusHandler(db *tsdb.DB, scraping *scrape.Manager, cfg *config.Config, logger *slog.Logger, address string) http.Handler {
	promParser := parser.NewParser(parser.Options{})
	engine := promql.NewEngine(promql.EngineOpts{
		Logger:               logger,
		MaxSamples:           50_000_000,
		Timeout:              2 * time.Minute,
		LookbackDelta:        5 * time.Minute,
		EnableAtModifier:     true,
		EnableNegativeOffset: true,
		Parser:               promParser,
	})
	api := apiv1.NewAPI(
		engine, db, nil, db,
		func(context.Context) apiv1.ScrapePoolsRetriever { return scraping },
		func(context.Context) apiv1.TargetRetriever { return scraping },
		func(context.Context) apiv1.AlertmanagerRetriever {
			return noAlertmanagers{}
		},
		func() config.Config { return *cfg },
		map[string]string{},
		apiv1.GlobalURLOptions{ListenAddress: address, Host: address, Scheme: "http"},
		func(next http.HandlerFunc) http.HandlerFunc { return next },
		adminStats{db}, "", false, false, 0,
		logger,
		func(context.Context) apiv1.RulesRetriever { return noRules{} },
		0, 0, 0, false, nil,
		func() (apiv1.RuntimeInfo, error) { return apiv1.RuntimeInfo{}, nil },
		&apiv1.PrometheusVersion{Version: "3.16.0", GoVersion: "bed"},
		func() []notifications.Notification { return nil },
		func() (<-chan notifications.Notification, func(), bool) { return nil, func() {}, false },
		prometheus.NewRegistry(), prometheus.NewRegistry(),
		nil, false, nil, false, false, false,
		5*time.Minute, false, false, nil, nil,
		apiv1.OpenAPIOptions{Version: "3.16.0"},
		promParser, false, 2*time.Minute,
	)
	router := route.New()
	api.Register(router)

	mux := http.NewServeMux()
	mux.Handle("/api/v1/", http.StripPrefix("/api/v1", router))
	healthy := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "Prometheus Server is Ready.") }
	mux.HandleFunc("/-/ready", healthy)
	mux.HandleFunc("/-/healthy", healthy)
	return mux
}

// adminStats fills what the API's status pages ask of the storage.
type adminStats struct{ *tsdb.DB }

func (a adminStats) Stats(label string, limit int) (*tsdb.Stats, error) {
	return a.Head().Stats(label, limit), nil
}

func (a adminStats) WALReplayStatus() (tsdb.WALReplayStatus, error) {
	return tsdb.WALReplayStatus{}, nil
}

func (a adminStats) BlockMetas() ([]tsdb.BlockMeta, error) { return a.DB.BlockMetas(), nil }

// noRules stands for a rule manager: the bed evaluates no rules.
type noRules struct{}

func (noRules) RuleGroups() []*rules.Group           { return nil }
func (noRules) AlertingRules() []*rules.AlertingRule { return nil }

// noAlertmanagers stands for a notifier: the bed sends no alerts.
type noAlertmanagers struct{}

func (noAlertmanagers) Alertmanagers() []*url.URL        { return nil }
func (noAlertmanagers) DroppedAlertmanagers() []*url.URL { return nil }
