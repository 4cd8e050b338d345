package main

import (
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

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
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
		return "", usagef("--environment or --status-branch: one of them is needed")
	}
	return statusBranch(f.environment, f.cluster), nil
}

func newStatus() *cobra.Command {
	var f statusSource
	var all bool
	cmd := &cobra.Command{
		Use:   "status [app...]",
		Short: "Show what serves and what is under way, from git",
		Long: `Reads the records on the status branch. It needs nothing but git: what is shown is
what the agent wrote last. A directory is asked for its own branch, or for what it last
fetched. Exit code 3 when an app or the environment has a fault.

--all shows every cluster of the environment, with its wave, and when its agent last had a
word on each app. One that a wave names and nobody has heard of is shown too.`,
		Example: `  sluice status --repo https://git.example.com/production.git --environment production
  git fetch && sluice status --repo . --environment production
  sluice status --repo . --environment production --json croc-hunter-java
  sluice status --repo . --environment production --all`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all {
				r, err := f.allClusters(cmd.Context(), args)
				if err != nil {
					return err
				}
				return reported(cmd.OutOrStdout(), r, f.asJSON)
			}
			branch, err := f.name()
			if err != nil {
				return err
			}
			_, tip, done, err := f.open(cmd.Context(), branch)
			if err != nil {
				return missingBranch(err, branch)
			}
			defer done()
			st, err := readStatus(tip.FS(), args)
			if err != nil {
				return err
			}
			return reported(cmd.OutOrStdout(), st, f.asJSON)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "every cluster of the environment")
	cmd.MarkFlagsMutuallyExclusive("all", "cluster")
	cmd.MarkFlagsMutuallyExclusive("all", "status-branch")
	return cmd
}

// reported prints a report, and says by the exit code whether there is a fault in it.
func reported(w io.Writer, r interface {
	print(w io.Writer, asJSON bool) error
	faulty() bool
}, asJSON bool,
) error {
	if err := r.print(w, asJSON); err != nil {
		return err
	}
	if r.faulty() {
		return &codedError{code: exitFinding}
	}
	return nil
}

// missingBranch explains a branch that is not there.
func missingBranch(err error, branch string) error {
	if errors.Is(err, gitsync.ErrBranchNotFound) {
		return fmt.Errorf("there is no branch %s: no agent has written to this repository yet, or under another name: %w", branch, err)
	}
	return err
}

// statusReport is what status prints.
type statusReport struct {
	audit.Status
	Apps []audit.Record `json:"apps"`
}

func readStatus(fsys fs.FS, names []string) (statusReport, error) {
	st, err := audit.ReadStatus(fsys)
	if err != nil {
		return statusReport{}, err
	}
	out := statusReport{Status: st, Apps: []audit.Record{}}
	if len(names) == 0 {
		all, err := audit.ReadAll(fsys)
		if err != nil {
			return out, err
		}
		out.Apps = append(out.Apps, all...)
	}
	for _, n := range names {
		r, ok, err := audit.Read(fsys, n)
		if err != nil {
			return out, err
		}
		if !ok {
			return out, fmt.Errorf("the status branch has no app %q", n)
		}
		out.Apps = append(out.Apps, r)
	}
	return out, nil
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
		if err := tell(w, "no version comes from upstream: %s", st.Upstream); err != nil {
			return err
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "APP\tSERVES\tROLLING OUT\tWEIGHT\tPHASE\tSINCE\tNOTE")
	for _, r := range st.Apps {
		serves, target, weight, phase, since, note := columns(r)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", cell(r.App), serves, target, weight, phase, since, note)
	}
	return t.Flush()
}

// columns of a record in a table.
func columns(r audit.Record) (serves, target, weight, phase, since, note string) {
	weight = "-"
	if r.Target.Version != "" {
		weight = fmt.Sprintf("%d %%", r.Weight)
	}
	return dash(cell(r.Serves.Version)), dash(cell(r.Target.Version)), weight, cell(r.Phase), r.Since.UTC().Format(time.DateTime), cell(statusNote(r))
}

// statusNote is the most important thing that a person should know of an app.
func statusNote(r audit.Record) string {
	switch {
	case r.Fault != "":
		return "fault: " + r.Fault
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
	case r.Target.Version == "" && r.Last.Outcome != "" && r.Last.Release.Version != r.Serves.Version:
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
	text := r.Last.Release.Version + " " + word
	if r.Last.Reason != "" {
		text += ": " + r.Last.Reason
	}
	if r.RollbackProposed != "" {
		text += "; the rollback waits on branch " + r.RollbackProposed + " to be merged"
		if r.RollbackURL != "" {
			text += ": " + r.RollbackURL
		}
	}
	if r.RollbackSkipped != "" {
		text += "; git was not put back: " + r.RollbackSkipped
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
		Long: `Reads the commits of the status branch, newest first: what happened, on what numbers,
and which commit asked for it.`,
		Example: `  sluice log --repo https://git.example.com/production.git --environment production
  sluice log --repo . --environment production --limit 0 --json croc-hunter-java`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			branch, err := f.name()
			if err != nil {
				return err
			}
			repo, tip, done, err := f.open(cmd.Context(), branch)
			if err != nil {
				return missingBranch(err, branch)
			}
			defer done()
			history, err := repo.Commits(cmd.Context(), tip.Commit, "", 0)
			if err != nil {
				return err
			}
			return printLog(cmd.OutOrStdout(), entries(history, args, limit), f.asJSON)
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
			text += fmt.Sprintf(" [asked for by %.10s]", e.To.Commit)
		}
		if err := tell(w, "%.10s  %s  %s", e.Hash, e.Time.UTC().Format(time.DateTime), text); err != nil {
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
