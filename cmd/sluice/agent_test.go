package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-cd/sluice/reconcile"
	"github.com/sluice-cd/sluice/reconcile/charts"
	"github.com/sluice-cd/sluice/render"
)

// fresh is an environment of which nothing was looked at yet.
func fresh(name string) *environment {
	e := &environment{
		envConfig: envConfig{Name: name}, charts: &charts.Charts{Renderer: render.NewRenderer(render.RendererConfig{})},
	}
	e.agent.Store(reconcile.New(reconcile.Config{Log: slog.New(slog.DiscardHandler)}, nil, nil, nil, nil))
	return e
}

// A replica that waits for the lease is ready: a Deployment that is updated waits for it before the leader ends.
func TestReadiness(t *testing.T) {
	staging, production := fresh("staging"), fresh("production")
	all := []*environment{staging, production}
	if got := unready(all); !slices.Equal(got, []string{"staging", "production"}) {
		t.Errorf("before anything was looked at: waiting for %v", got)
	}
	production.standby.Store(true)
	if got := unready(all); !slices.Equal(got, []string{"staging"}) {
		t.Errorf("while another leads production: waiting for %v", got)
	}
}

// An environment whose delivery ends begins again, later each time, until the process is to stop.
func TestPersevere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		var tries []time.Duration
		begun := time.Now()
		err := persevere(ctx, slog.New(slog.DiscardHandler), func() error {
			if tries = append(tries, time.Since(begun)); len(tries) == 5 {
				stop()
			}
			return errors.New("its cluster is away")
		})
		if want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second}; err != nil || !slices.Equal(tries, want) {
			t.Errorf("tried at %v, want %v; %v", tries, want, err)
		}
	})
}

func FuzzDecodeConfig(f *testing.F) {
	f.Add("apiVersion: sluice.dev/v1alpha1\nkind: Agent\nenvironments:\n- name: production\n  interval: 30s\n")
	f.Add("a: &a [*a]\nenvironments: *a\n")
	f.Add("environments: [{repository: {allowFile: s3cret}}]\n")
	f.Add("? [a]\n: b\n")
	f.Fuzz(func(t *testing.T, text string) {
		d := &decoder{file: "agent.yaml"}
		var c config
		if err := d.decode(strings.NewReader(text), &c); err != nil && !strings.Contains(err.Error(), "agent.yaml") {
			t.Errorf("the fault names no file: %v", err)
		}
		c.complete(d.fault)
	})
}

// What watches the agent is told of the environments that it delivers, and of no other's.
func TestHealthMetrics(t *testing.T) {
	leads, waits := fresh("staging"), fresh("production")
	waits.standby.Store(true)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(&healthMetrics{[]*environment{leads, waits}})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.Metric {
			got = append(got, fmt.Sprintf("%s %s %v", f.GetName(), m.GetLabel()[0].GetValue(), m.GetGauge().GetValue()))
		}
	}
	if want := []string{
		"sluice_apps staging 0", "sluice_errors staging 0", "sluice_git_write_failures_total staging 0", "sluice_render_seconds staging 0",
		"sluice_render_worker_deaths_total staging 0",
	}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
