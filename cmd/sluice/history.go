package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// statusSource is where the commands that read an audit log look.
type statusSource struct {
	sourceFlags
	branchName string
	statusRepo string
	asJSON     bool
}

func (f *statusSource) register(cmd *cobra.Command) {
	f.sourceFlags.register(cmd)
	f.registerBranch(cmd.Flags())
	cmd.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
}

func (f *statusSource) registerBranch(fl *pflag.FlagSet) {
	fl.StringVar(&f.statusRepo, "status-repo", "", "repository of the status branches: a URL or a directory (default: as sluice.yaml says, else --repo)")
	fl.StringVar(&f.branchName, "status-branch", "", "status branch (default sluice/status/<environment>[/<cluster>])")
}

func (f *statusSource) name() (string, error) {
	if f.branchName != "" {
		return f.branchName, nil
	}
	if f.environment == "" {
		return "", usagef("set --environment or --status-branch: sluice.yaml names no environment")
	}
	return statusBranch(f.environment, f.cluster), nil
}

func newStatus() *cobra.Command {
	var f statusSource
	var all, watch, wait bool
	var commit string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "status [app...]",
		Short: "Show what is running and what is rolling out, from git",
		Long: `Reads the records on the status branch. It needs only git: it shows what the agent wrote
last. For a directory that is its own status branch, or what it last fetched. Exit code 3
when an app or the environment has an error.

For a single app it shows everything: the progress of its rollout with each check, what
blocks it, what to do about that, and its latest events.

--watch keeps the display up to date until interrupted; without a terminal it prints one
line per event. --wait waits until the named apps, or all, are at rest in every cluster
and run what the newest commit, or that of --commit, asks for. It prints the events, and
exits with 3 when a release failed and with 4 when --timeout is reached. Both read the
remote of a clone, not the clone.

--all shows every cluster of the environment with its wave, and when its agent last wrote.
Clusters that a wave names but that have never written are included.`,
		Example: `  sluice status --repo https://git.example.com/production.git --environment production
  git fetch && sluice status --repo . --environment production
  sluice status --repo . --environment production --json croc-hunter-java
  sluice status --repo . --environment production --all
  sluice status --repo . --environment production --watch croc-hunter-java
  git push && sluice status --repo . --environment production --wait --timeout 30m`,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case timeout <= 0:
				return usagef("--timeout: got %s, expected a time such as 30m", timeout)
			case commit != "" && !wait:
				return usagef("--commit needs --wait")
			case watch:
				return f.watch(cmd.Context(), newCanvas(cmd.OutOrStdout()), args)
			case wait:
				return f.wait(cmd.Context(), cmd.OutOrStdout(), args, commit, timeout)
			case all:
				r, err := f.allClusters(cmd.Context(), args)
				if err != nil {
					return err
				}
				return reported(cmd.OutOrStdout(), r, f.asJSON)
			}
			repo, tip, done, err := f.open(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			r, err := newStatusView(args, f.asJSON).read(cmd.Context(), repo, tip)
			if err != nil {
				return err
			}
			return reported(cmd.OutOrStdout(), r, f.asJSON)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "show every cluster of the environment")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "keep the display up to date until interrupted")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the apps run what git asks for")
	cmd.Flags().StringVar(&commit, "commit", "", "with --wait: the commit to wait for, a hash or a revision such as HEAD~1 of a directory (default: the branch's tip)")
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Minute, "with --wait: how long to wait")
	for _, alone := range [][]string{{"watch", "wait"}, {"watch", "all"}, {"wait", "all"}, {"watch", "json"}, {"wait", "json"}, {"wait", "status-branch"}} {
		cmd.MarkFlagsMutuallyExclusive(alone...)
	}
	cmd.MarkFlagsMutuallyExclusive("all", "cluster")
	cmd.MarkFlagsMutuallyExclusive("all", "status-branch")
	return cmd
}

// report is what a command of this file prints.
type report interface {
	print(w io.Writer, asJSON bool) error
	faulty() bool
}

// reported prints a report, and says by the exit code whether there is a fault in it.
func reported(w io.Writer, r report, asJSON bool) error {
	if err := r.print(w, asJSON); err != nil {
		return err
	}
	if r.faulty() {
		return &codedError{code: exitFinding}
	}
	return nil
}

// missingBranch explains a status branch that is not there, by those that are.
func (f *sourceFlags) missingBranch(ctx context.Context, err error, branch string) error {
	if !errors.Is(err, gitsync.ErrBranchNotFound) {
		return err
	}
	all, fault := f.statusBranchNames(ctx, statusPrefix)
	if fault != nil {
		return errors.Join(err, fault)
	}
	return noStatusBranch(branch, all)
}

// noStatusBranch refuses the name of a status branch that is none of those that there are.
func noStatusBranch(branch string, all []string) error {
	if len(all) == 0 {
		return usagef("there is no status branch %q, nor any other: no agent has written to this repository yet, or the clone needs a git fetch", branch)
	}
	return &codedError{exitUsage, environments.UnknownName("status branch", branch, "repository", all)}
}

// statusReport is what status prints.
type statusReport struct {
	audit.Status
	Apps []audit.Record `json:"apps"`
	// now is when it is read, from which ages count.
	now time.Time
}

// statusView is how status shows a status branch: a table, or one app.
type statusView struct {
	apps []string
	one  bool
}

func newStatusView(apps []string, asJSON bool) statusView {
	return statusView{apps: apps, one: len(apps) == 1 && !asJSON}
}

func (v statusView) read(ctx context.Context, repo *gitsync.Repo, tip *gitsync.Snapshot) (report, error) {
	st, err := readStatus(tip.FS(), v.apps)
	st.now = time.Now()
	if err != nil || !v.one {
		return st, err
	}
	return readApp(ctx, repo, tip, st, st.now)
}

func readStatus(fsys fs.FS, names []string) (statusReport, error) {
	st, err := audit.ReadStatus(fsys)
	if err != nil {
		return statusReport{}, err
	}
	out := statusReport{Status: st, Apps: []audit.Record{}}
	if len(names) == 0 {
		all, err := audit.ReadAll(fsys)
		out.Apps = append(out.Apps, slices.DeleteFunc(all, func(r audit.Record) bool { return r.Gone() && r.Fault == "" })...)
		return out, err
	}
	for _, n := range names {
		r, ok, err := audit.Read(fsys, n)
		if err != nil {
			return out, err
		}
		if !ok {
			return out, recorded(fsys, n)
		}
		out.Apps = append(out.Apps, r)
	}
	return out, nil
}

// recorded refuses the name of an app that the status branch has no record of.
func recorded(fsys fs.FS, name string) error {
	if _, ok, err := audit.Read(fsys, name); ok || err != nil {
		return err
	}
	all, err := audit.ReadAll(fsys)
	var names []string
	for _, r := range all {
		if !r.Gone() {
			names = append(names, r.App)
		}
	}
	if len(names) == 0 && err != nil {
		return err
	}
	return listed([]string{name}, names)
}

func (st statusReport) faulty() bool {
	return st.Faults() != "" || slices.ContainsFunc(st.Apps, func(r audit.Record) bool { return r.Fault != "" })
}

func (st statusReport) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, st)
	}
	if st.Fault != "" {
		if err := tell(w, "the environment can't be read: %s", st.Fault); err != nil {
			return err
		}
	}
	if st.Upstream != "" {
		if err := tell(w, "no promotions from upstream: %s", st.Upstream); err != nil {
			return err
		}
	}
	if st.Silent(st.now) {
		if err := tell(w, "%s", silence(st.Status)); err != nil {
			return err
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "APP\tSERVES\tROLLING OUT\tWEIGHT\tPHASE\tSINCE (UTC)\tAGE\tNOTE")
	for _, r := range st.Apps {
		serves, target, weight, phase, since, note := columns(r)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cell(r.App), serves, target, weight, phase, since, lasting(st.now.Sub(r.Since)), note)
	}
	return t.Flush()
}

// silence is what is told of a status branch that no running agent would have left so.
func silence(s audit.Status) string {
	return fmt.Sprintf("nothing from the agent since %s UTC: it writes at least once a day, so it is not running or can't push", s.Updated.UTC().Format(time.DateTime))
}

// columns of a record in a table.
func columns(r audit.Record) (serves, target, weight, phase, since, note string) {
	weight = "-"
	if r.Target.Name() != "" {
		weight = rollout.Percent(r.Weight)
	}
	return dash(cell(r.Serves.Name())), dash(cell(r.Target.Name())), weight, cell(r.Phase), r.Since.UTC().Format(time.DateTime), cell(statusNote(r))
}

// statusNote is the most important thing that a person should know of an app.
func statusNote(r audit.Record) string {
	switch {
	case r.Fault != "":
		return "error: " + r.Fault
	case r.Degraded != "":
		return "degraded: " + r.Degraded
	case r.Stalled != "":
		return "stalled: " + r.Stalled
	case r.Paused != "":
		return "paused by " + r.Paused
	case r.Held != "":
		return "held by " + r.Held
	case r.Waiting != "":
		return "waiting: " + r.Waiting
	case r.Target.Name() == "" && r.Last.Outcome != "" && r.Last.Release.Name() != r.Serves.Name():
		return ending(r)
	default:
		return r.Reason
	}
}

// ending tells of a release that does not serve, and where git is left with it.
func ending(r audit.Record) string {
	word := r.Last.Became()
	if word == "" {
		return r.Reason
	}
	text := r.Last.Release.Name() + " " + word
	if r.Last.Reason != "" {
		text += ": " + r.Last.Reason
	}
	if r.RollbackProposed != "" {
		text += "; the revert in git waits to be merged: branch " + r.RollbackProposed
		if r.RollbackURL != "" {
			text += ": " + r.RollbackURL
		}
	}
	if r.RollbackSkipped != "" {
		text += "; not reverted in git: " + r.RollbackSkipped
	}
	return text
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newLog() *cobra.Command {
	var f statusSource
	var limit int
	cmd := &cobra.Command{
		Use:   "log [app]",
		Short: "Show the audit log, from git",
		Long: `Reads the commits of the status branch, newest first: what happened, with the measured
values, and which commit triggered it.`,
		Example: `  sluice log --repo https://git.example.com/production.git --environment production
  sluice log --repo . --environment production --limit 0 --json croc-hunter-java`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usagef("--limit: got %d, expected the number of entries, or 0 for all", limit)
			}
			repo, tip, done, err := f.open(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			history, err := repo.Commits(cmd.Context(), tip.Commit, "", 0)
			if err != nil {
				return err
			}
			list := entries(history, args, limit)
			if len(list) == 0 && len(args) > 0 {
				if err := recorded(tip.FS(), args[0]); err != nil {
					return err
				}
			}
			return printLog(cmd.OutOrStdout(), list, f.asJSON)
		},
	}
	f.register(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "at most this many entries; 0 for all")
	return cmd
}

// logEntry is an entry of the audit log with the commit that holds it.
type logEntry struct {
	audit.Entry
	Hash string `json:"hash"`
}

func entries(history []gitsync.Commit, apps []string, limit int) []logEntry {
	out := []logEntry{}
	for _, c := range history {
		e, ok := audit.ParseMessage(c.Message)
		if !ok || len(apps) > 0 && e.App != apps[0] {
			continue
		}
		if e.Time.IsZero() {
			e.Time = c.Time
		}
		out = append(out, logEntry{e, c.Hash})
		if len(out) == limit {
			break
		}
	}
	return out
}

func printLog(w io.Writer, list []logEntry, asJSON bool) error {
	if asJSON {
		return printJSON(w, list)
	}
	for _, e := range list {
		subject := e.App
		if subject == "" {
			subject = e.Environment
		}
		text := audit.Describe(subject, e.Event)
		if e.To.Commit != "" {
			text += fmt.Sprintf(" (triggered by %.10s)", e.To.Commit)
		}
		if err := tell(w, "%.10s  %s UTC  %s", e.Hash, e.Time.UTC().Format(time.DateTime), text); err != nil {
			return err
		}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false) // reasons compare numbers
	return enc.Encode(v)
}
