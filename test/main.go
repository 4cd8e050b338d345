// Command test runs every test of the project: unit tests, the race detector where it compiles fast, fuzzing, and
// the end-to-end tests on real servers, which it builds first.
//
//	go run ./test                  everything; about an hour on two cores with cold caches, half of it compiling
//	go run ./test --short          unit tests only
//	go run ./test --only=unit,e2e  some of the parts
//
// A part that fails does not stop the others. The exit code is 1 when any part failed, 2 when nothing could run.
//
// It imports nothing but the standard library, so that it starts, and says what it is doing, at once.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// part is one kind of test.
type part struct {
	name, about string
	// long: left out by --short.
	long bool
	run  func(*session) error
}

var parts = []part{
	{"unit", "tests of the packages that need no servers", false, (*session).unit},
	{"race", "those that compile fast with the race detector, with it", true, (*session).race},
	{"fuzz", "every fuzz target for a while", true, (*session).fuzz},
	{"bed", "build the servers that all end-to-end tests need", true, (*session).bed},
	{"e2e", "tests on the test bed", true, (*session).e2e},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

// run is main with an exit code.
func run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("test", flag.ContinueOnError)
	flags.Usage = func() { usage(flags) }
	short := flags.Bool("short", false, "unit tests only")
	only := flags.String("only", "", "parts to run, separated by commas; default all")
	fuzzTime := flags.Duration("fuzztime", 2*time.Second, "how long each fuzz target runs")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	chosen, err := choose(*only, *short)
	if err == nil {
		err = requirements(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "test:", err)
		return 2
	}
	s := &session{ctx: ctx, short: *short, fuzzTime: *fuzzTime}
	return s.all(chosen)
}

func usage(flags *flag.FlagSet) {
	out := flags.Output()
	fmt.Fprintln(out, "usage: go run ./test [flags]\n\nParts:")
	for _, p := range parts {
		fmt.Fprintf(out, "  %-5s %s\n", p.name, p.about)
	}
	fmt.Fprintln(out, "\nFlags:")
	flags.PrintDefaults()
}

// choose picks the parts to run.
func choose(only string, short bool) ([]part, error) {
	var chosen []part
	wanted := map[string]bool{}
	for name := range strings.SplitSeq(only, ",") {
		if name = strings.TrimSpace(name); name != "" {
			wanted[name] = true
		}
	}
	byDefault := len(wanted) == 0
	for _, p := range parts {
		if byDefault && (!short || !p.long) || wanted[p.name] {
			chosen = append(chosen, p)
		}
		delete(wanted, p.name)
	}
	for name := range wanted {
		return nil, fmt.Errorf("--only: no part %q; see --help", name)
	}
	return chosen, nil
}

// requirements names everything that is missing, with what to do about it.
func requirements(ctx context.Context) error {
	var missing []error
	for _, tool := range []struct{ name, hint string }{
		{"go", "install Go 1.26 or newer from https://go.dev/dl"},
		{"git", "install git; tests compare with it"},
	} {
		if _, err := exec.LookPath(tool.name); err != nil {
			missing = append(missing, fmt.Errorf("%s is not on PATH: %s", tool.name, tool.hint))
		}
	}
	if err := errors.Join(missing...); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("finding the checkout: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	if _, err := os.Stat(filepath.Join(root, "test", "main.go")); err != nil {
		return errors.New("not inside a checkout of sluice")
	}
	return os.Chdir(root)
}
