// Command demo shows Sluice at work, on a machine that has Go and git and nothing else: it builds Sluice, the servers and the
// story, and tells how far it is from its first second on.
//
// It is of the standard library alone, so that it is compiled at once.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	module = "github.com/sluice-cd/sluice"

	usage = `Usage: go run ./cmd/demo [flags]

Starts a real Kubernetes control plane, Prometheus, git server and chart repository on
loopback, creates a staging and a production repository, runs "sluice agent" for both, and
merges two new versions of croc-hunter-java: 0.0.130, which is fine, and 0.0.131, which
answers with 500s.

It runs from a checkout of Sluice and builds Sluice and those servers the first time,
which takes about ten minutes on two cores. Pods becoming ready and user traffic are
simulated (requests follow the real routing objects); everything else is real.

With --forge the repositories are on a Gitea, and each promotion is a pull request: to
staging by "sluice promote", from there by the agents of production, which is in two
clusters. Gitea is built the first time, which takes about five minutes more.

With --kubeconfig the demo uses your cluster instead of its own control plane. The cluster
needs Istio's CRDs (its base chart is enough) and runs real pods, of the image
docker.io/nginxinc/nginx-unprivileged:stable-alpine; user traffic is still simulated.
The demo works in the namespaces sluice-demo-staging and sluice-demo-production, which
must not exist yet and are deleted at the end.

Examples:
  go run ./cmd/demo
  go run ./cmd/demo --interval 5s --keep
  go run ./cmd/demo --forge --keep
  go run ./cmd/demo --kubeconfig ~/.kube/config --context kind-kind

Exit codes: 1 when it fails or is interrupted, 2 for a wrong command line, 3 when a
version did not end as expected.

Flags:
`
)

// options are the flags, and what test/demo is told.
type options struct {
	Sluice     string
	Interval   time.Duration
	Dir        string
	Keep       bool
	Forge      bool
	Kubeconfig string
	Context    string
}

func main() { os.Exit(run(os.Args[1:])) }

// run returns the exit code.
func run(args []string) int {
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	story, err := build(ctx, &o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	return tell(ctx, story, o)
}

// parse reads the command line.
func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.DurationVar(&o.Interval, "interval", time.Second, "time between checks, and the least time at each step")
	flags.StringVar(&o.Dir, "dir", "", "keep everything in this directory (default: a temporary one, removed at the end)")
	flags.BoolVar(&o.Keep, "keep", false, "leave it running at the end, and print how to look around")
	flags.BoolVar(&o.Forge, "forge", false, "promote by pull requests on a Gitea, to two clusters of production")
	flags.StringVar(&o.Kubeconfig, "kubeconfig", "", "use this cluster instead of a control plane of the demo's own")
	flags.StringVar(&o.Context, "context", "", "context of the kubeconfig")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		flags.SetOutput(os.Stdout)
		flags.PrintDefaults()
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w; see 'go run ./cmd/demo --help'", err)
	case flags.NArg() > 0:
		return o, fmt.Errorf("got %q, expected flags only; see 'go run ./cmd/demo --help'", flags.Arg(0))
	case o.Interval < time.Second:
		return o, fmt.Errorf("--interval: got %s, expected 1s or more", o.Interval)
	case o.Forge && o.Kubeconfig != "":
		return o, errors.New("--forge: needs two clusters, and makes them; expected no --kubeconfig with it")
	case o.Context != "" && o.Kubeconfig == "":
		return o, errors.New("--context: expected --kubeconfig with it")
	}
	return o, nil
}

// build compiles Sluice and the story into the user's cache, and returns the story.
func build(ctx context.Context, o *options) (story string, err error) {
	root, err := checkout()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache directory: %w", err)
	}
	dir := filepath.Join(cache, "sluice", "demo")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	o.Sluice, story = filepath.Join(dir, "sluice"), filepath.Join(dir, "story")
	for program, source := range map[string]string{o.Sluice: "./cmd/sluice", story: "./test/demo"} {
		if err := compile(ctx, root, program, source); err != nil {
			return "", err
		}
	}
	return story, nil
}

// checkout finds the root of the checkout that the demo was started in.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the checkout: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module "+module+"\n") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("not inside a checkout of " + module)
		}
	}
}

// compile builds a program and tells how far it is: in a terminal each second, in one line, else each ten.
func compile(ctx context.Context, root, program, source string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-v", "-o", program, source)
	cmd.Dir = root
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("building %s: %w", source, err)
	}
	begin, p := time.Now(), &progress{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.read(stderr)
	}()
	p.show(source, begin, done)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", source, err, p.problems.String())
	}
	return nil
}

// progress is what a build has said.
type progress struct {
	downloaded, compiled atomic.Int32
	// problems are the lines that are no progress. They are read when the build is over.
	problems strings.Builder
}

// read counts what go build -v says: a line for each module that it downloads and each package that it compiles.
func (p *progress) read(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "go: downloading "):
			p.downloaded.Add(1)
		case strings.ContainsAny(line, " \t#"):
			fmt.Fprintln(&p.problems, line)
		default:
			p.compiled.Add(1)
		}
	}
}

// show tells of a build until it is done; of one that has nothing to do it says nothing.
func (p *progress) show(source string, begin time.Time, done <-chan struct{}) {
	every, end, before := 10*time.Second, "\n", ""
	if info, err := os.Stdout.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		every, end, before = time.Second, "", "\r\x1b[K"
	}
	say := func(end string) {
		fmt.Printf("%s%7.1fs  building %s (about four minutes the first time): %d modules downloaded, %d packages compiled%s",
			before, time.Since(begin).Seconds(), source, p.downloaded.Load(), p.compiled.Load(), end)
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	said := time.Time{}
	for {
		select {
		case <-done:
			if !said.IsZero() {
				say("\n")
			}
			return
		case now := <-ticker.C:
			if now.Sub(said) >= every {
				said = now
				say(end)
			}
		}
	}
}

// tell runs the story and returns its exit code.
func tell(ctx context.Context, story string, o options) int {
	told, err := json.Marshal(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	cmd := exec.CommandContext(ctx, story, string(told))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A terminal's Ctrl-C reaches the story by itself; it ends in order.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	case err != nil && ctx.Err() == nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	default:
		return 0
	}
}
