package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// session is one run of the command.
type session struct {
	ctx      context.Context
	short    bool
	fuzzTime time.Duration
	// chosen are the parts that this run has.
	chosen []part
	// found are the packages, once they are listed.
	found []pkg
}

// errSkipped ends a part that can't run here and need not.
var errSkipped = errors.New("skipped")

// all runs parts one after the other and sums up.
func (s *session) all(chosen []part) int {
	var summary []string
	failed := false
	start := time.Now()
	s.chosen = chosen
	for _, p := range chosen {
		fmt.Printf("\n=== %s: %s\n", p.name, p.about)
		begun := time.Now()
		result := "ok"
		switch err := p.run(s); {
		case s.ctx.Err() != nil:
			result = "interrupted"
			failed = true
		case errors.Is(err, errSkipped):
			result = err.Error()
		case err != nil:
			result = "FAILED: " + err.Error()
			failed = true
		}
		line := fmt.Sprintf("%-5s %8s  %s", p.name, time.Since(begun).Round(100*time.Millisecond), result)
		fmt.Println("===", line)
		summary = append(summary, line)
		if s.ctx.Err() != nil {
			break
		}
	}
	fmt.Printf("\n=== summary, after %s\n%s\n", time.Since(start).Round(time.Second), strings.Join(summary, "\n"))
	if failed {
		return 1
	}
	return 0
}

// noVet: .ci/run has go vet among its linters. go test's own would read each dependency once more, Kubernetes among them, which takes
// minutes with an empty cache.
const noVet = "-vet=off"

// goTest runs go test and shows what it prints.
func (s *session) goTest(args ...string) error {
	return s.show("go", append([]string{"test", noVet}, args...)...)
}

// show runs a command and shows what it prints. The error of one that fails is a *showError.
func (s *session) show(name string, args ...string) error {
	fmt.Println("$", name, abbreviate(args))
	var out bytes.Buffer
	cmd := s.command(name, args...)
	cmd.Stdout = io.MultiWriter(os.Stdout, &out)
	cmd.Stderr = cmd.Stdout
	if err := cmd.Run(); err != nil {
		return &showError{err, out.String()}
	}
	return nil
}

// showError is the failure of a command whose output was shown.
type showError struct {
	error
	output string
}

func (e *showError) Unwrap() error { return e.error }

// output runs a command and gives what it prints; its complaints are shown.
func (s *session) output(name string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	cmd := s.command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	err := cmd.Run()
	return out.Bytes(), err
}

// command asks politely before it kills: tests stop the servers that they started.
func (s *session) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.ctx, name, args...)
	group(cmd)
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// abbreviate shows arguments with this module's packages by their last part.
func abbreviate(args []string) string {
	return strings.ReplaceAll(strings.Join(args, " "), module+"/", "./")
}
