// Command sluice is progressive delivery whose only API is git: an agent that rolls out what an environment
// repository asks for and writes the outcome back to it, and the commands that look at both.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/render"
)

// Exit codes, the same for every command.
const (
	exitOK      = 0
	exitFailed  = 1 // the command could not do its work, or was interrupted
	exitUsage   = 2 // the command line or the agent's configuration is wrong
	exitFinding = 3 // it did its work, and what it found is not as it should be; exitCodes says of which command
	exitChange  = 4 // nothing is wrong, and something is yet to come: plan --exit-code, status --wait at its timeout
)

// exitCodes is the end of the root's help.
const exitCodes = `Exit codes:
  0  done
  1  failed or interrupted
  2  wrong command line, or wrong configuration of the agent
  3  validate, render, plan: there are errors; plan --kubeconfig: the cluster would
     reject something;
     status: an app or the environment has an error; status --wait: a release failed;
     doctor: something is missing;
     pause and the like with --wait: the command was refused; promote: the version was rolled back
  4  plan --exit-code: no errors, and something would change;
     status --wait: not finished at the timeout`

// codedError carries an exit code; its text may be empty when everything was said already.
type codedError struct {
	code int
	err  error
}

func (e *codedError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *codedError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &codedError{exitUsage, fmt.Errorf(format, args...)}
}

func main() {
	render.BeWorker()
	// Helm warns of values that it can't merge, with the values, through the standard logger.
	log.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks to end; a second one ends at once.
	context.AfterFunc(ctx, stop)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run executes the command line and returns the exit code.
func run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(&visible{to: os.Stdout})
	root.SetErr(&visible{to: os.Stderr})
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitFailed
	var coded *codedError
	if errors.As(err, &coded) {
		code = coded.code
	} else if errors.Is(err, environments.ErrOtherName) {
		code = exitUsage
	}
	if msg := err.Error(); msg != "" {
		if code != exitUsage { // else it is about what the user has written
			msg = indented(msg)
		}
		fmt.Fprintln(root.ErrOrStderr(), "sluice: "+msg)
	}
	return code
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "sluice",
		Short: "Progressive delivery whose only API is git",
		Long: `Sluice rolls out what a git environment repository asks for, step by step, judged by
Prometheus metrics, and writes the outcome back to git: every step on a status
branch, and a rollback commit on the environment branch when a release fails.

` + exitCodes,
		Example: `  sluice agent --config agent.yaml                # deliver
  sluice plan --repo . --environment production   # what would the newest commit change?
  sluice log --repo https://git.example.com/env.git --environment production`,
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetVersionTemplate("sluice {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var value *pflag.InvalidValueError
		if errors.As(err, &value) {
			return usagef("--%s: got %q, expected %s\nSee '%s --help'", value.GetFlag().Name, value.GetValue(), expectedValue(value.GetFlag()), cmd.CommandPath())
		}
		return usagef("%w\nSee '%s --help'", err, cmd.CommandPath())
	})
	root.AddCommand(newAgent(), newDoctor(), newExplain(), newPlan(), newPromote(), newRender(), newValidate(), newStatus(), newLog(), newWindows(), newVersion())
	for _, a := range asks {
		root.AddCommand(newAsk(a))
	}
	for _, cmd := range root.Commands() {
		cmd.Args = usageArgs(cmd.Args)
	}
	return root
}

// usageArgs makes wrong arguments a usage error, as wrong flags are; and flags that are missing or exclude each other, which cobra
// only finds afterwards and has no hook for.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		var err error
		if check != nil {
			err = check(cmd, args)
		}
		if coded := new(codedError); errors.As(err, &coded) {
			return err // it has said what was expected
		}
		if err != nil {
			err = fmt.Errorf("got %s %q; expected %s", counted(len(args), "argument"), args, cmd.UseLine())
		}
		if err = cmp.Or(err, cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups()); err != nil {
			return usagef("%w\nSee '%s --help'", err, cmd.CommandPath())
		}
		return nil
	}
}

// elsewhere is what others call our commands.
var elsewhere = map[string]string{
	"deploy": "promote", "diff": "plan", "undo": "rollback", "suspend": "hold", "lint": "validate", "template": "render", "history": "log",
	"get": "status",
}

// unknownCommand names the command that was likely meant.
func unknownCommand(root *cobra.Command, name string) error {
	root.SuggestionsMinimumDistance = 2
	likely := root.SuggestionsFor(name)
	if ours := elsewhere[name]; ours != "" {
		likely = []string{ours}
	}
	if len(likely) == 0 {
		return usagef("there is no command %q; see 'sluice --help'", name)
	}
	return usagef("there is no command %q; expected %s; see 'sluice --help'", name, strings.Join(likely, " or "))
}

// expectedValue says what a flag takes.
func expectedValue(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "int":
		return "a whole number"
	case "duration":
		return "a time such as 30s or 10m"
	case "bool":
		return "true or false"
	default:
		return "a " + f.Value.Type()
	}
}

// version is set when a release is built; else it comes from the module's build information.
var version string

func versionText() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "devel"
	}
	return info.Main.Version
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: `  sluice version`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "sluice", versionText())
			return err
		},
	}
}
