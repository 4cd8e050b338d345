package environments

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/test/generated"
)

const (
	referenceFile = "../docs/reference.md"
	schemaFile    = "../docs/schema/sluice.json"
)

// UPDATE_DOCS=1 go test ./environments -run TestReference writes what is made of the tables of fields.
func TestReference(t *testing.T) {
	generated.Check(t, "UPDATE_DOCS", referenceFile, reference())
	generated.Check(t, "UPDATE_DOCS", schemaFile, settingsSchema(t))
}

// Each field says what it does.
func TestEachFieldIsTold(t *testing.T) {
	for _, s := range sectionsOfReference() {
		for _, r := range rowsOf(s.path, s.of) {
			if r.says == "" || r.noun == "" || strings.Contains(r.says, "|") {
				t.Errorf("%s %s: its table says %q, %q", s.title, r.path, r.noun, r.says)
			}
		}
	}
}

// section is a table of the reference.
type section struct {
	title, before string
	// path is what the paths in it begin with.
	path string
	of   map[string]about
}

func sectionsOfReference() []section {
	return []section{
		{title: "sluice.yaml", of: settingsFields.abouts(), before: "The file of an environment, at its path in the repository. Each field may be absent unless it is required."},
		{title: "windows", path: "windows", of: windowsFields.abouts(), before: "Of an environment or of an app; see [windows.md](windows.md)."},
		{title: "rollout", path: "rollout", of: rolloutFields.abouts(), before: "A policy in sluice.yaml; which place decides is in [concepts.md](concepts.md#the-policy)."},
		{title: "analysis", path: "analysis", of: analysisFields.abouts(), before: "Of a policy, wherever it stands."},
		{title: "service", path: "service", of: serviceFields.abouts(), before: "Of a policy, wherever it stands. What Istio defines is put into its objects as it is said."},
		{
			title: "Canary objects and canary: in values", of: without(canaryObjectFields.abouts(), rolloutFields.abouts()),
			before: "What a `Canary` object's `spec`, and `canary:` in an app's values, have besides. They have the fields of [rollout](#rollout) but for `strategy` and `target`.",
		},
		{title: "canary: in values alone", path: "canary", of: switchFields.abouts()},
		{title: "MetricTemplate", path: "spec", of: metricTemplateFields.abouts(), before: "Of those that charts render; see [flagger.md](flagger.md#metrictemplate)."},
	}
}

func without(all, some map[string]about) map[string]about {
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(name string, _ about) bool { _, there := some[name]; return there })
	return out
}

// row is a field with its path.
type row struct {
	path string
	about
}

// rowsOf lists fields by path: those that one begins a file with first, then what has an effect before what has none.
func rowsOf(at string, of map[string]about) (rows []row) {
	names := slices.SortedFunc(maps.Keys(of), func(a, b string) int {
		return strings.Compare(of[a].order()+a, of[b].order()+b)
	})
	for _, name := range names {
		a := of[name]
		path := strings.TrimPrefix(at+"."+name, ".")
		rows = append(rows, row{path, a})
		if a.name == "" {
			rows = append(rows, rowsOf(path+a.within, a.inner)...)
		}
	}
	return rows
}

func (a about) order() string {
	switch {
	case a.required:
		return "0"
	case strings.HasPrefix(a.says, "No effect:") || strings.HasPrefix(a.says, "Refused:"):
		return "2"
	}
	return "1"
}

// reference is docs/reference.md.
func reference() string {
	var b strings.Builder
	b.WriteString(`# Reference of sluice.yaml and of policies

<!-- Made of the code that reads the fields, by UPDATE_DOCS=1 go test ./environments -run TestReference. -->

Every field, with its default. An unknown field is an error.
agent.yaml and .sluice.yaml have a [reference of their own](reference-agent.md), and so has
the [command line](cli.md).

Durations are written ` + "`90s`, `1m30s` or `24h`" + `, or as plain seconds, and are at most a year. ` + "`[]`" + ` in a path is an element of a list.

Editors that know JSON Schema (VS Code with its YAML extension, Neovim, IntelliJ) complete and check sluice.yaml when it begins with

` + "```yaml\n# yaml-language-server: $schema=https://raw.githubusercontent.com/sluice-cd/sluice/main/docs/schema/sluice.json\napiVersion: sluice.dev/v1alpha1\nkind: Environment\n```\n")
	for _, s := range sectionsOfReference() {
		fmt.Fprintf(&b, "\n## %s\n", s.title)
		if s.before != "" {
			fmt.Fprintf(&b, "\n%s\n", s.before)
		}
		b.WriteString("\n| field | is | default | what it does |\n|---|---|---|---|\n")
		for _, r := range rowsOf(s.path, s.of) {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", r.path, r.kindText(), r.defaultText(), r.says)
		}
	}
	return b.String()
}

// kindText leads to where the fields of a shape are.
func (r row) kindText() string {
	if r.name != "" {
		return "[" + r.name + "](#" + r.name + ")"
	}
	return r.noun
}

func (r row) defaultText() string {
	if r.required {
		return "required"
	}
	return r.fallback
}

// settingsSchema is the JSON Schema of sluice.yaml.
func settingsSchema(t *testing.T) string {
	t.Helper()
	definitions := map[string]any{}
	schema := schemaOf(settingsFields.abouts(), definitions)
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "sluice.yaml"
	schema["$defs"] = definitions
	return indentedJSON(t, schema)
}

func indentedJSON(t *testing.T, v any) string {
	t.Helper()
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// schemaOf is the schema of an object with fields. A shape with a name is put into the definitions.
func schemaOf(of map[string]about, definitions map[string]any) map[string]any {
	properties, required := map[string]any{}, []string{}
	for name, a := range of {
		properties[name] = a.property(definitions)
		if a.required {
			required = append(required, name)
		}
	}
	slices.Sort(required)
	out := map[string]any{"type": objectOrNull["type"], "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

func (a about) property(definitions map[string]any) map[string]any {
	schema := maps.Clone(a.schema)
	if a.inner != nil {
		inner := schemaOf(a.inner, definitions)
		switch {
		case a.name != "":
			definitions[a.name] = inner
			schema = map[string]any{"$ref": "#/$defs/" + a.name}
		case a.within == "[]":
			schema["items"] = inner
		case a.within != "":
			schema["additionalProperties"] = inner
		default:
			schema = inner
		}
	}
	schema["description"] = a.says
	if fallback := a.fallback; fallback != "" {
		schema["description"] = a.says + " Default: " + strings.TrimSuffix(fallback, ".") + "."
	}
	return schema
}

// valid is what a schema says of YAML.
func valid(t *testing.T, s *jsonschema.Schema, text []byte) error {
	t.Helper()
	converted, err := yaml.YAMLToJSON(text)
	if err != nil {
		t.Fatal(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(converted))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(document)
}
