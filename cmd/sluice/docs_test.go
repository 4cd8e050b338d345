package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/sluice-cd/sluice/test/generated"
)

const cliReference = "../../docs/cli.md"

// UPDATE_DOCS=1 go test ./cmd/sluice -run TestCommandReference writes what the commands say of themselves.
func TestCommandReference(t *testing.T) {
	generated.Check(t, "UPDATE_DOCS", cliReference, cliReferenceText())
}

// cliReferenceText is docs/cli.md.
func cliReferenceText() string {
	var b strings.Builder
	b.WriteString(`# The command line

<!-- Made of the commands, by UPDATE_DOCS=1 go test ./cmd/sluice -run TestCommandReference. -->

`)
	fmt.Fprintf(&b, "```\n%s\n```\n\n| command | what it does |\n|---|---|\n", exitCodes)
	commands := newRoot().Commands()
	for _, c := range commands {
		fmt.Fprintf(&b, "| [%s](#%s) | %s |\n", c.Name(), slug("sluice "+c.Name()), c.Short)
	}
	b.WriteString("\nHow a command is used, without running it, `sluice COMMAND --help` says as well.\n")
	for _, c := range commands {
		c.InitDefaultHelpFlag()
		fmt.Fprintf(&b, "\n## sluice %s\n\n", c.Name())
		text := c.Long
		if text == "" {
			text = c.Short + "."
		}
		fmt.Fprintf(&b, "```\n%s\n\n%s```\n", text, c.UsageString())
	}
	return b.String()
}

// document is one that users read.
type document struct{ file, text string }

func documents(t *testing.T) (out []document) {
	t.Helper()
	for _, glob := range []string{"../../*.md", "../../docs/*.md", "../../docs/*/*.md"} {
		names, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, document{name, string(text)})
		}
	}
	if len(out) < 20 {
		t.Fatalf("%d documents found", len(out))
	}
	return out
}

var (
	fence    = regexp.MustCompile("(?ms)^ *```(\\w*)\n(.*?)^ *```$")
	codeSpan = regexp.MustCompile("`[^`\n]+`")
	link     = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// prose is the text without its blocks.
func (d document) prose() string { return fence.ReplaceAllString(d.text, "") }

// blocks are those of the languages given.
func (d document) blocks(languages ...string) (out []string) {
	for _, m := range fence.FindAllStringSubmatch(d.text, -1) {
		if slices.Contains(languages, m[1]) {
			out = append(out, m[2])
		}
	}
	return out
}

// slug is the anchor that forges give a heading.
func slug(heading string) string {
	kept := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z':
			return r
		}
		return -1
	}, strings.ToLower(heading))
	return kept
}

func anchors(text string) (out []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		out = append(out, slug(m[1]))
	}
	return out
}

// Each link inside the repository leads somewhere.
func TestDocumentsLinks(t *testing.T) {
	seen := 0
	for _, d := range documents(t) {
		prose := codeSpan.ReplaceAllString(d.prose(), "code")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			seen++
			path, anchor, _ := strings.Cut(m[1], "#")
			target := d.file
			if path != "" {
				target = filepath.Join(filepath.Dir(d.file), path)
			}
			if err := leads(target, anchor); err != nil {
				t.Errorf("%s: %s: %v", d.file, m[1], err)
			}
		}
	}
	if seen < 50 {
		t.Errorf("%d links found", seen)
	}
}

func leads(file, anchor string) error {
	if anchor == "" {
		_, err := os.Stat(file)
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if there := anchors(document{text: string(text)}.prose()); !slices.Contains(there, anchor) {
		return fmt.Errorf("there is no such heading; expected one of %s", strings.Join(there, ", "))
	}
	return nil
}

// commandLine is a line of a shell, or of a pipeline's YAML, that runs sluice.
var commandLine = regexp.MustCompile(`^(?:\$ |- run: |- |.* -- )?\s*(?:\./|/)?sluice (.*)$`)

// Each command line of a document is one that the command would take.
func TestDocumentsCommandLines(t *testing.T) {
	seen := 0
	for _, d := range documents(t) {
		for _, block := range d.blocks("sh", "console", "yaml") {
			for _, line := range commandLines(block) {
				seen++
				if err := parses(words(line)); err != nil {
					t.Errorf("%s: sluice %s: %v", d.file, line, err)
				}
			}
		}
	}
	if seen < 15 {
		t.Errorf("%d command lines found", seen)
	}
}

// And so is each example that a command gives of itself.
func TestExamplesOfCommands(t *testing.T) {
	root := newRoot()
	for _, c := range append(root.Commands(), root) {
		if c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, line := range commandLines(c.Example) {
			if err := parses(words(line)); err != nil {
				t.Errorf("%s: sluice %s: %v", c.CommandPath(), line, err)
			}
		}
	}
}

// commandLines are what follows sluice in the lines of a text that run it.
func commandLines(text string) (out []string) {
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\\\n", " "), "\n") {
		if m := commandLine.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			out = append(out, m[1])
		}
	}
	return out
}

// words cuts a line as a shell does, as far as documents need it: up to a comment, a pipe or a redirection.
func words(line string) (out []string) {
	for _, w := range regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`).FindAllString(line, -1) {
		if w[0] == '#' || w[0] == '|' || w[0] == '>' || w == "&&" {
			break
		}
		out = append(out, strings.Trim(w, `"'`))
	}
	return out
}

// parses is why a command line would be refused before anything is done.
func parses(args []string) error {
	cmd, rest, err := newRoot().Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// What the text names of the command line is there: commands, and their flags.
func TestDocumentsNameFlags(t *testing.T) {
	for _, d := range documents(t) {
		if strings.HasSuffix(d.file, "CHANGELOG.md") {
			continue // what was there once
		}
		for _, span := range codeSpan.FindAllString(d.prose(), -1) {
			args := strings.Fields(strings.Trim(span, "`"))
			if len(args) < 2 || args[0] != "sluice" || strings.ToUpper(args[1]) == args[1] {
				continue
			}
			cmd, _, err := newRoot().Find(args[1:2])
			if err != nil || cmd.Name() != args[1] {
				t.Errorf("%s: %s: there is no such command", d.file, span)
				continue
			}
			if missing := unknownFlags(cmd, args); missing != nil {
				t.Errorf("%s: %s: there is no flag %v", d.file, span, missing)
			}
		}
	}
}

func unknownFlags(cmd *cobra.Command, args []string) (missing []string) {
	cmd.InitDefaultHelpFlag()
	known := map[string]bool{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) { known[f.Name] = true })
	for _, a := range args {
		name, isFlag := strings.CutPrefix(a, "--")
		if name, _, _ = strings.Cut(name, "="); isFlag && name != "" && !known[strings.TrimRight(name, ",.;:")] {
			missing = append(missing, a)
		}
	}
	return missing
}

// Each example of YAML is what its reader takes. Those of sluice.yaml are read in package environments.
func TestDocumentsYAML(t *testing.T) {
	agent := generated.Schema(t, agentSchema(t))
	values, err := os.ReadFile(chartSchema)
	if err != nil {
		t.Fatal(err)
	}
	chart := generated.Schema(t, string(values))
	read := map[string]int{}
	for _, d := range documents(t) {
		for _, block := range d.blocks("yaml") {
			var document map[string]any
			if err := yaml.Unmarshal([]byte(block), &document); err != nil {
				t.Errorf("%s: %v in\n%s", d.file, err, block)
				continue
			}
			what := whatIs(block, document)
			read[what]++
			switch what {
			case "agent":
				err = readsAgent(block)
				if err == nil {
					err = agent.Validate(completed(document))
				}
			case "promotion":
				err = (&decoder{}).decode(strings.NewReader(block), &promotionFile{})
			case "values":
				err = chart.Validate(document)
			default:
				err = nil
			}
			if err != nil {
				t.Errorf("%s: %v in\n%s", d.file, err, block)
			}
		}
	}
	for _, what := range []string{"agent", "promotion", "values"} {
		if read[what] == 0 {
			t.Errorf("no example of %s found", what)
		}
	}
}

// whatIs names what reads an example; empty: another program, or package environments.
func whatIs(text string, document map[string]any) string {
	switch {
	case document["kind"] == "Agent", strings.HasPrefix(text, "# agent.yaml\n"):
		return "agent"
	case document["kind"] == "Promotion":
		return "promotion"
	case strings.HasPrefix(text, "# values.yaml\n"):
		return "values"
	}
	return ""
}

func readsAgent(text string) error {
	return (&decoder{}).decode(strings.NewReader(text), &config{})
}

// completed is part of an agent.yaml with what it can't be without.
func completed(part map[string]any) any {
	whole := agentWith("cluster", "")
	for key, v := range part {
		whole[key] = v
	}
	environments, _ := whole["environments"].([]any)
	for _, e := range environments {
		if e, ok := e.(map[string]any); ok && e["repository"] == nil {
			e["repository"] = map[string]any{"url": "https://git.example.com/production.git"}
		}
	}
	return whole
}
