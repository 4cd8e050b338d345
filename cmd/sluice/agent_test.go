package main

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/reconcile"
)

// A replica that waits for the lease is ready: a Deployment that is updated waits for it before the leader ends.
func TestReadiness(t *testing.T) {
	fresh := func(name string) *environment {
		return &environment{
			envConfig: envConfig{Name: name},
			agent:     reconcile.New(reconcile.Config{Log: slog.New(slog.DiscardHandler)}, nil, nil, nil, nil),
		}
	}
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
