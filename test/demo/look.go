package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/sluice-cd/sluice/test/bed"
)

// lookAround ends the demo, or leaves it running.
func (d *demo) lookAround(ctx context.Context) error {
	if !d.keep {
		d.out.block("Next: go run ./cmd/demo --keep leaves everything running and shows what to try.\n")
		return nil
	}
	if err := d.clone(ctx); err != nil {
		return err
	}
	d.out.heading("Everything is left running; Ctrl-C ends it. In another terminal")
	d.out.block(strings.Join(d.setUp(), "\n"))
	d.out.heading("Try these in order, and watch here: retry " + demoBad + "; go back to " + demoFirst + "; and forward again")
	d.out.block(strings.Join(d.asks(), "\n"))
	d.out.heading("Look around")
	d.out.block(strings.Join(d.commands(), "\n"))
	if d.forge != nil {
		d.out.heading("On the forge")
		d.out.block(d.forge.places())
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-d.events:
			d.hear(e)
		}
	}
}

// look is a clone of production, as people have one.
func (d *demo) look() string { return filepath.Join(d.dir, "look", "production") }

// clone makes it, with who pushes and with what password.
func (d *demo) clone(ctx context.Context) error {
	if err := os.RemoveAll(d.look()); err != nil { // what an older demo had there
		return err
	}
	scheme, address, _ := strings.Cut(d.url("production"), "://")
	for _, args := range [][]string{
		{"clone", "--quiet", scheme + "://" + bed.User + ":" + bed.Password + "@" + address, d.look()},
		{"-C", d.look(), "config", "user.name", "You"},
		{"-C", d.look(), "config", "user.email", "you@example.com"},
	} {
		if out, err := exec.CommandContext(ctx, "git", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("cloning production to look at: %w\n%s", err, out)
		}
	}
	return nil
}

// setUp is typed first.
func (d *demo) setUp() []string {
	kubeconfig := d.bed.Kubeconfig
	if d.guest != nil {
		kubeconfig = d.guest.kubeconfig
	}
	return []string{
		"cd " + quoted(d.look()),
		"export KUBECONFIG=" + quoted(kubeconfig) + " PATH=" + quoted(filepath.Dir(d.sluice)) + ":$PATH",
	}
}

// asks are what people can ask of what is left running, in this order.
func (d *demo) asks() []string {
	return []string{
		"git revert --no-edit HEAD && git push",
		"sluice rollback --environment production --to " + demoFirst + " --wait --reason 'just to see' " + demoApp,
		"git pull --quiet && git revert --no-edit HEAD && git push",
	}
}

// commands to look around with.
func (d *demo) commands() []string {
	flags := ""
	if d.guest != nil && d.guest.context != "" {
		flags = " --context " + quoted(d.guest.context)
	}
	namespace := " -n " + d.namespace("production")
	var all []string
	for _, p := range d.places[1:] {
		of := " --environment production"
		if _, cluster, several := strings.Cut(string(p), "/"); several {
			of += " --cluster " + cluster
		}
		all = append(all, "git fetch && sluice status"+of, "sluice log"+of)
	}
	all = append(all,
		"git show origin/main",
		"git show origin/"+d.places[1].statusBranch()+":README.md",
		"sluice plan --commit HEAD~1 --chart-repository "+quoted(d.bed.Charts.URL())+" --chart-username "+bed.User+
			" --chart-password-file "+quoted(d.passwordFile()),
		"kubectl"+flags+namespace+" get deployments,pods,virtualservices",
		"helm"+strings.ReplaceAll(flags, "--context", "--kube-context")+namespace+" history "+demoApp,
		"curl "+quoted(d.bed.PrometheusURL+"/api/v1/query?query=istio_requests_total"),
	)
	for _, a := range d.agents {
		all = append(all, "tail "+quoted(d.log(a)))
	}
	return all
}

// quoted is an argument as a shell takes it.
func quoted(arg string) string {
	if strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._:@=,+-") == "" {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
