package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/environments/windows"
)

func newWindows() *cobra.Command {
	var f sourceFlags
	var asJSON bool
	var at string
	cmd := &cobra.Command{
		Use:   "windows [app...]",
		Short: "Show when rollouts may start and advance",
		Long: `Shows whether the windows of sluice.yaml are open, when that changes, and whether the
environment is frozen: for the environment, and for each app with windows of its own.`,
		Example: `  sluice windows --repo . --environment production
  sluice windows --repo . --environment production --at 2026-12-24T18:00:00Z`,
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now()
			if at != "" {
				var err error
				if now, err = time.Parse(time.RFC3339, at); err != nil {
					return usagef("--at: got %q, expected a time such as 2026-03-01T12:00:00Z", at)
				}
			}
			o, err := f.openings(cmd.Context(), args, now.Truncate(time.Second).UTC())
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), asJSON)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&at, "at", "", "the time to check (default: now)")
	return cmd
}

// openings is what windows prints.
type openings struct {
	Environment string    `json:"environment"`
	Commit      string    `json:"commit"`
	At          time.Time `json:"at"`
	// Frozen is why the environment is frozen; empty: it is not.
	Frozen string    `json:"frozen,omitempty"`
	Apps   []opening `json:"apps"`
}

// opening is whether rollouts of an app may get on.
type opening struct {
	// App is empty for all that have no windows of their own.
	App    string `json:"app,omitempty"`
	Open   bool   `json:"open"`
	Reason string `json:"reason,omitempty"`
	// Until is when it is closed, or opened; Then is until when that lasts. Zero: for a long time.
	Until time.Time `json:"until,omitzero"`
	Then  time.Time `json:"then,omitzero"`
}

func (f *sourceFlags) openings(ctx context.Context, names []string, now time.Time) (*openings, error) {
	_, tip, done, err := f.open(ctx, "")
	if err != nil {
		return nil, err
	}
	defer done()
	loader := environments.Loader{Environment: f.environment}
	env, err := loader.Load(tip.FS(), f.path)
	if err != nil {
		return nil, err
	}
	apps, err := pick(env, names)
	if err != nil {
		return nil, err
	}
	out := &openings{Environment: env.Name, Commit: tip.Commit, At: now}
	out.Frozen, _ = environments.Freeze(tip.FS(), f.path)
	if len(names) == 0 {
		out.Apps = append(out.Apps, openingOf("", now, env.Windows))
		apps = slices.DeleteFunc(slices.Clone(apps), func(a *environments.App) bool { return a.Windows == nil })
	}
	for _, a := range apps {
		out.Apps = append(out.Apps, openingOf(a.Name, now, env.Windows, a.Windows))
	}
	return out, nil
}

func openingOf(app string, now time.Time, sets ...*windows.Set) opening {
	o := opening{App: app, Open: true}
	for _, s := range sets {
		if state := s.At(now); !state.Open {
			o.Open, o.Reason = false, state.Reason
		}
	}
	if o.Until = windows.Change(now, sets...).UTC(); !o.Until.IsZero() {
		o.Then = windows.Change(o.Until, sets...).UTC()
	}
	return o
}

func (o *openings) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, o)
	}
	if o.Frozen != "" {
		if err := tell(w, "%s is frozen: %s. Only rollbacks run, and releases that sluice override lets pass.", o.Environment, o.Frozen); err != nil {
			return err
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "APP\tNOW\tUNTIL\tTHEN UNTIL\tWHY")
	for _, a := range o.Apps {
		now := "closed"
		if a.Open {
			now = "open"
		}
		name := a.App
		if name == "" {
			name = "(all)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, now, moment(a.Until), moment(a.Then), cell(a.Reason))
	}
	return t.Flush()
}

// moment is a time for a table.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.RFC3339)
}
