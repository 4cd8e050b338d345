package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/sluice-cd/sluice/environments"
)

// explanation is what explain prints.
type explanation struct {
	App     string `json:"app"`
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// Fields of the policy that have a value, each with the place that said it.
	Fields []environments.Field `json:"fields"`
	// Ignored are the fields that were said and have no effect.
	Ignored []string `json:"ignored,omitempty"`
	// Waves are the clusters in the order in which they get a release of it; empty: all at once.
	Waves string `json:"waves,omitempty"`
}

func newExplain() *cobra.Command {
	var f inspection
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain app",
		Short: "Show an app's policy, and where each field is set",
		Long: `Renders an app and prints the fields of its policy, each with its value, what sets it,
and the file and line. Fields that nothing sets show their default. If several places set
a field, the one that wins is shown. For a field from a chart's own files the chart is
named, without a line. It fails if the policy can't be read, and names the field.`,
		Example: `  sluice explain --repo . --environment production croc-hunter-java
  sluice explain --repo . --environment production --json croc-hunter-java`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, src, apps, err := f.apps(cmd.Context(), args)
			if err != nil {
				return err
			}
			defer v.close()
			rel, policy, err := v.charts.Release(cmd.Context(), src, apps[0])
			if err != nil {
				return err
			}
			fields, err := v.charts.Explain(src, apps[0], rel)
			if err != nil {
				return err
			}
			out := explanation{App: apps[0].Name, Version: rel.Version, Commit: src.Commit, Fields: fields, Ignored: policy.Ignored, Waves: src.Env.Waves.String()}
			return out.print(cmd.OutOrStdout(), asJSON)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (e explanation) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, e)
	}
	if e.Waves != "" {
		if err := tell(w, "clusters: %s", e.Waves); err != nil {
			return err
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FIELD\tVALUE\tSET BY\tWHERE")
	for _, f := range e.Fields {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", cell(f.Name), cell(f.Value), cell(f.Source), dash(cell(position(f))))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, field := range e.Ignored {
		if err := tell(w, "warning: the policy's %s has no effect here", field); err != nil {
			return err
		}
	}
	return nil
}

// position is where a field stands, as an editor takes it.
func position(f environments.Field) string {
	if f.File == "" || f.Line == 0 {
		return f.File
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}
