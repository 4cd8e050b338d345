// Package rules checks the agent's alert rules as promtool does: by Prometheus's own reader of rules, and by its own engine on
// series that should and should not alert. It is in the servers' module because that has Prometheus; test/e2e runs it.
package rules

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

var file = flag.String("rules", "", "file with groups of rules, of an agent in namespace sluice")

func TestRules(t *testing.T) {
	if *file == "" {
		t.Skip("there is no -rules; go test ./test/e2e -run TestAlertRules gives them")
	}
	text, err := os.ReadFile(*file)
	if err != nil {
		t.Fatal(err)
	}
	groups, faults := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, fault := range faults {
		t.Error(fault)
	}
	if t.Failed() {
		t.FailNow()
	}
	alerts := map[string]rulefmt.Rule{}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			alerts[r.Alert] = r
		}
	}
	tested := map[string]bool{}
	for _, tc := range cases {
		tested[tc.alert] = true
		t.Run(tc.alert+" "+tc.name, func(t *testing.T) {
			r, ok := alerts[tc.alert]
			if !ok {
				t.Fatal("there is no such rule")
			}
			if got := firing(t, r.Expr, tc.series); got != tc.fires {
				t.Errorf("after two hours it fires %d times, want %d: %s", got, tc.fires, r.Expr)
			}
		})
	}
	for name := range alerts {
		if !tested[name] {
			t.Errorf("no series test the alert %s", name)
		}
	}
}

// cases are series at intervals of a minute, the last after two hours, and how many alerts come of them.
var cases = []struct {
	alert, name string
	series      []string
	fires       int
}{
	{"SluiceDown", "one of two answers", []string{up("a", "1x120"), up("b", "0x120")}, 0},
	{"SluiceDown", "none answers", []string{up("a", "0x120")}, 1},
	{"SluiceDown", "none is there", nil, 1},
	{"SluiceRestarts", "never", []string{started("5x120")}, 0},
	{"SluiceRestarts", "all the time", []string{started("0+60x120")}, 1},
	{"SluiceRolledBack", "just now, for the first time", []string{events("a", "RolledBack", "_x118 1x1")}, 1},
	{"SluiceRolledBack", "just now, again", []string{events("a", "RolledBack", "1x110 2x10")}, 1},
	{"SluiceRolledBack", "long ago", []string{events("a", "RolledBack", "1x120")}, 0},
	{"SluiceRolledBack", "long ago, and the agent is new", []string{events("a", "RolledBack", "3x110 _x10")}, 0},
	{"SluiceRolledBack", "another leads by now", []string{events("a", "RolledBack", "1x120"), events("b", "RolledBack", "_x118 1x1")}, 1},
	{"SluiceRolledBack", "something else happened", []string{events("a", "Promoted", "_x118 1x1")}, 0},
	{"SluiceDegraded", "just now", []string{events("a", "Degraded", "_x118 1x1")}, 1},
	{"SluiceStalled", "just now", []string{events("a", "Stalled", "_x118 1x1")}, 1},
	{"SluiceCanaryStuck", "a canary since the beginning", []string{weight("a", "10x120"), last("a", "0x120")}, 1},
	{"SluiceCanaryStuck", "a canary that goes on", []string{weight("a", "10x120"), last("a", "0x110 6600x10")}, 0},
	{"SluiceCanaryStuck", "no canary", []string{weight("a", "0x120"), last("a", "0x120")}, 0},
	{"SluiceGitUnread", "just now", []string{of("last_fetch_timestamp_seconds", "a", "0+60x120")}, 0},
	{"SluiceGitUnread", "not for two hours", []string{of("last_fetch_timestamp_seconds", "a", "0x120")}, 1},
	{"SluiceGitUnread", "by another agent, which leads by now", []string{of("last_fetch_timestamp_seconds", "a", "0x118"), of("last_fetch_timestamp_seconds", "b", "0+60x120")}, 0},
	{"SluiceGitUnwritten", "all is told", []string{of("errors", "a", "0x120")}, 0},
	{"SluiceGitUnwritten", "told in a minute", []string{of("untold_event_timestamp_seconds", "a", "0+60x120")}, 0},
	{"SluiceGitUnwritten", "not for two hours", []string{of("untold_event_timestamp_seconds", "a", "0x120")}, 1},
	{"SluiceErrors", "none", []string{of("errors", "a", "0x120")}, 0},
	{"SluiceErrors", "two", []string{of("errors", "a", "2x120")}, 1},
	{"SluiceRenderWorkersDie", "once", []string{of("render_worker_deaths_total", "a", "0x100 1x20")}, 0},
	{"SluiceRenderWorkersDie", "all the time", []string{of("render_worker_deaths_total", "a", "0+1x120")}, 1},
	{"SluiceCanaryStuck", "another leads by now", []string{weight("a", "10x60 _x60"), last("a", "0x60 _x60"), weight("b", "_x60 10x60"), last("b", "_x60 6600x60")}, 0},
}

// of is a metric of an environment.
func of(metric, pod, values string) string {
	return "sluice_" + metric + `{pod="` + pod + `",environment="production"} ` + values
}

func up(pod, values string) string {
	return `up{namespace="sluice",job="sluice",pod="` + pod + `"} ` + values
}

func started(values string) string {
	return `process_start_time_seconds{namespace="sluice",job="sluice",pod="a"} ` + values
}

func events(pod, kind, values string) string {
	return `sluice_events_total{pod="` + pod + `",environment="production",app="web",type="` + kind + `"} ` + values
}

func weight(pod, values string) string {
	return `sluice_canary_weight{pod="` + pod + `",environment="production",app="web"} ` + values
}

func last(pod, values string) string {
	return `sluice_last_decision_timestamp_seconds{pod="` + pod + `",environment="production",app="web"} ` + values
}

// firing counts what an expression answers with after two hours.
func firing(t *testing.T, expr string, series []string) int {
	t.Helper()
	storage := promqltest.LoadedStorage(t, "load 1m\n  "+strings.Join(slices.Concat([]string{"other 1"}, series), "\n  "))
	t.Cleanup(func() { _ = storage.Close() })
	engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
	q, err := engine.NewInstantQuery(context.Background(), storage, nil, expr, time.Unix(2*60*60, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	result := q.Exec(context.Background())
	vector, err := result.Vector()
	if err != nil {
		t.Fatal(err)
	}
	return len(vector)
}
