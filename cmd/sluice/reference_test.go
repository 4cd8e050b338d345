package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sluice-cd/sluice/test/generated"
)

const (
	configReference = "../../docs/reference-agent.md"
	configSchemaAt  = "../../docs/schema/agent.json"
)

// required are the fields that their file can't be without, by the path of what they are in.
var required = map[string][]string{
	"config":                         {"environments", "prometheus"},
	"config.prometheus":              {"address"},
	"config.charts":                  {"url"},
	"config.environments":            {"name", "repository"},
	"config.environments.charts":     {"url"},
	"config.environments.repository": {"url"},
	"promotion":                      {"apiVersion", "kind", "environments"},
	"promotion.environments":         {"name", "repository"},
}

// UPDATE_DOCS=1 go test ./cmd/sluice -run TestReference writes what is made of the types of the configuration.
func TestReference(t *testing.T) {
	generated.Check(t, "UPDATE_DOCS", configReference, configReferenceText(t))
	generated.Check(t, "UPDATE_DOCS", configSchemaAt, agentSchema(t))
}

// comments are those of the fields of this package's structs, by type and field: config.Listen.
func comments(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	told, files := map[string]string{}, token.NewFileSet()
	for _, name := range names {
		file, err := parser.ParseFile(files, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if of, ok := spec.Type.(*ast.StructType); ok {
				for _, f := range of.Fields.List {
					for _, name := range f.Names {
						told[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
					}
				}
			}
			return true
		})
	}
	return told
}

// configRow is a field with its path, as people are told of it.
type configRow struct {
	path, is, fallback, says string
	of                       reflect.Type
}

// configRows lists the fields of a type in their order, and what is in them.
func configRows(told map[string]string, of reflect.Type, in, at string) (rows []configRow) {
	for f := range of.Fields() {
		name := f.Tag.Get("yaml")
		path := strings.TrimPrefix(at+"."+name, ".")
		r := configRow{path: path, of: f.Type, is: nounOf(f), fallback: f.Tag.Get("default"), says: told[of.Name()+"."+f.Name]}
		if slices.Contains(required[in], name) || in == "config" && (name == "apiVersion" || name == "kind") {
			r.fallback = "required"
		}
		if word := r.fallback; word != "" && word != "required" && !strings.Contains(word, " ") && r.is != "object" {
			r.fallback = "`" + word + "`"
		}
		rows = append(rows, r)
		inner, list := f.Type, ""
		if inner.Kind() == reflect.Slice {
			inner, list = inner.Elem(), "[]"
		}
		if inner.Kind() == reflect.Struct {
			rows = append(rows, configRows(told, inner, in+"."+name, path+list)...)
		}
	}
	return rows
}

func nounOf(f reflect.StructField) string {
	if words := f.Tag.Get("enum"); words != "" {
		return "`" + strings.Join(strings.Fields(words), "`, `") + "`"
	}
	switch {
	case f.Type == reflect.TypeFor[duration]():
		return "duration"
	case f.Type.Kind() == reflect.Bool:
		return "true or false"
	case f.Type.Kind() == reflect.String:
		return "text"
	case f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.String:
		return "list: text"
	case f.Type.Kind() == reflect.Slice:
		return "list of objects"
	}
	return "object"
}

// configReferenceText is docs/reference-agent.md.
func configReferenceText(t *testing.T) string {
	t.Helper()
	told := comments(t)
	var b strings.Builder
	b.WriteString(`# Reference of agent.yaml and .sluice.yaml

<!-- Made of the code that reads the fields, by UPDATE_DOCS=1 go test ./cmd/sluice -run TestReference. -->

Every field, with its default. An unknown field is an error. [agent.md](agent.md) says how they are used;
sluice.yaml and policies have a [reference of their own](reference.md).

Durations are written ` + "`90s`, `1m30s` or `24h`" + `. ` + "`[]`" + ` in a path is an element of a list. Files are named from the folder of agent.yaml.

## agent.yaml

Editors that know JSON Schema complete and check it when it begins with

` + "```yaml\n# yaml-language-server: $schema=https://raw.githubusercontent.com/sluice-cd/sluice/main/docs/schema/agent.json\napiVersion: sluice.dev/v1alpha1\nkind: Agent\n```\n\n")
	writeRows(t, &b, configRows(told, reflect.TypeFor[config](), "config", ""))
	b.WriteString("\n## .sluice.yaml\n\nBeside the source of an app: where `sluice promote` brings it; see [promotion.md](promotion.md).\n\n")
	writeRows(t, &b, configRows(told, reflect.TypeFor[promotionFile](), "promotion", ""))
	return b.String()
}

// writeRows tells what is in a type once, where it first is.
func writeRows(t *testing.T, b *strings.Builder, rows []configRow) {
	t.Helper()
	b.WriteString("| field | is | default | what it does |\n|---|---|---|---|\n")
	first, again := map[reflect.Type]string{}, ""
	for _, r := range rows {
		if again != "" && (strings.HasPrefix(r.path, again+".") || strings.HasPrefix(r.path, again+"[].")) {
			continue
		}
		if place, told := first[r.of]; told {
			r.is, again = "as `"+place+"`", r.path
		} else if strings.Contains(r.is, "object") {
			first[r.of] = r.path
		}
		if r.says == "" {
			t.Errorf("%s has no comment that says what it does", r.path)
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", r.path, r.is, r.fallback, r.says)
	}
}

// configSchema makes JSON Schemas of types of the configuration.
type configSchema struct {
	told map[string]string
	// without are fields of the whole that are left out.
	without []string
	// written by people, who leave keys empty and numbers without quotes.
	written bool
}

func (s configSchema) of(t reflect.Type, at string) map[string]any {
	switch {
	case t == reflect.TypeFor[duration]():
		return map[string]any{"type": s.kinds("string"), "pattern": `^([0-9.]+(ns|us|ms|s|m|h))+$`}
	case t.Kind() == reflect.String:
		return map[string]any{"type": s.kinds("string", "number", "boolean")}
	case t.Kind() == reflect.Bool:
		return map[string]any{"type": s.kinds("boolean")}
	case t.Kind() == reflect.Slice:
		list := map[string]any{"type": s.kinds("array"), "items": s.of(t.Elem(), at)}
		if at == "config.environments" {
			list["minItems"] = 1
		}
		return list
	case t.Kind() == reflect.Struct:
		return s.ofStruct(t, at)
	default:
		panic("no schema for " + t.String() + " at " + at)
	}
}

func (s configSchema) ofStruct(t reflect.Type, at string) map[string]any {
	properties := map[string]any{}
	for f := range t.Fields() {
		name := f.Tag.Get("yaml")
		if at == "config" && slices.Contains(s.without, name) {
			continue
		}
		property := s.of(f.Type, at+"."+name)
		if words := f.Tag.Get("enum"); words != "" {
			property = map[string]any{"enum": s.words(words, at == "config")}
		}
		property["description"] = s.told[t.Name()+"."+f.Name]
		if fallback := f.Tag.Get("default"); fallback != "" {
			property["description"] = s.told[t.Name()+"."+f.Name] + " Default: " + fallback + "."
		}
		properties[name] = property
	}
	out := map[string]any{"type": s.kinds("object"), "additionalProperties": false, "properties": properties}
	names := slices.Clone(required[at])
	if at == "config" && s.without == nil {
		names = append([]string{"apiVersion", "kind"}, names...)
	}
	if names != nil {
		out["required"] = names
	}
	for _, name := range names {
		if p := properties[name].(map[string]any); p["type"] == "string" {
			p["minLength"] = 1
		}
	}
	return out
}

// words are those of a tag. What may be absent may be empty where people write it.
func (s configSchema) words(tag string, needed bool) (out []any) {
	for _, w := range strings.Fields(tag) {
		out = append(out, w)
	}
	if s.written && !needed {
		out = append(out, "", nil)
	}
	return out
}

// kinds are those that a value may be of: the first, and what passes for it where people write it.
func (s configSchema) kinds(kind string, besides ...string) any {
	if s.written {
		return append([]string{kind, "null"}, besides...)
	}
	return kind
}

// agentSchema is the JSON Schema of agent.yaml.
func agentSchema(t *testing.T) string {
	t.Helper()
	schema := configSchema{told: comments(t), written: true}.of(reflect.TypeFor[config](), "config")
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "agent.yaml"
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

// TestReferenceTellsTheDefaults: what is filled in where nothing is said is what the tags say.
func TestReferenceTellsTheDefaults(t *testing.T) {
	c := config{Environments: []envConfig{{Name: "<name>"}}}
	c.complete(func(_, _, _ string) {})
	c.Git.Name, c.Git.Email = c.Git.identity().Name, c.Git.identity().Email
	c.Environments[0].StatusBranch = statusBranch("<name>", "") + "[/<cluster>]"
	checkDefaults(t, reflect.ValueOf(c), "")
}

func checkDefaults(t *testing.T, of reflect.Value, at string) {
	t.Helper()
	for i := range of.NumField() {
		f, v := of.Type().Field(i), of.Field(i)
		path := at + f.Tag.Get("yaml")
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct && v.Len() > 0 {
			checkDefaults(t, v.Index(0), path+"[].")
		}
		if v.Kind() == reflect.Struct {
			checkDefaults(t, v, path+".")
		}
		if v.Kind() != reflect.String && v.Type() != reflect.TypeFor[duration]() || v.IsZero() || path == "dataDir" || path == "environments[].name" {
			continue
		}
		filled := fmt.Sprint(v.Interface())
		if d, ok := v.Interface().(duration); ok {
			filled = time.Duration(d).String()
		}
		if filled != f.Tag.Get("default") {
			t.Errorf("%s is %q where nothing is said, and its tag says %q", path, filled, f.Tag.Get("default"))
		}
	}
}

// TestReferenceTellsTheWords: any other word than those of the tag is refused.
func TestReferenceTellsTheWords(t *testing.T) {
	write := func(kind, queries, forge string) string {
		return "apiVersion: sluice.dev/v1alpha1\nkind: " + kind + "\nprometheus: {address: http://p:9090}\n" +
			"environments:\n- name: production\n  repository: {url: https://git.example.com/acme/production.git}\n" +
			"  allow: {queries: " + queries + "}\n  forge: {kind: " + forge + ", tokenFile: token, api: https://git.example.com}\n"
	}
	if faults := faultsOf(t, write("Agent", "own", "gitea")); len(faults) > 0 {
		t.Errorf("refused: %v", faults)
	}
	for _, text := range []string{write("Other", "own", "gitea"), write("Agent", "other", "gitea"), write("Agent", "own", "other")} {
		if len(faultsOf(t, text)) != 1 {
			t.Errorf("%v of\n%s", faultsOf(t, text), text)
		}
	}
}

// faultsOf is all that is wrong with an agent.yaml.
func faultsOf(t *testing.T, text string) []error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, d, err := readConfig(file)
	if err != nil {
		return []error{err}
	}
	c.complete(d.fault)
	return d.faults
}

// TestSchemaAgreesWithTheReader puts values of each kind into each field: the schema takes what the reader takes.
func TestSchemaAgreesWithTheReader(t *testing.T) {
	s := generated.Schema(t, agentSchema(t))
	samples := []any{true, 7, 1.5, "x", "7m", nil, []any{}, []any{"x"}, []any{map[string]any{"x": "y"}}, map[string]any{}, map[string]any{"x": "y"}}
	for _, r := range configRows(comments(t), reflect.TypeFor[config](), "config", "") {
		if r.fallback == "required" || strings.HasPrefix(r.is, "`") {
			continue
		}
		for _, v := range samples {
			document := agentWith(r.path, v)
			text, err := yaml.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			reads := (&decoder{}).decode(bytes.NewReader(text), &config{}) == nil
			if asked := s.Validate(document) == nil; asked != reads {
				t.Errorf("%s: %v: schema %t, reader %t: %v", r.path, v, asked, reads, s.Validate(document))
			}
		}
	}
}

// agentWith is an agent.yaml with a value at a path.
func agentWith(path string, v any) map[string]any {
	environment := map[string]any{"name": "production", "repository": map[string]any{"url": "https://git.example.com/a.git"}}
	document := map[string]any{
		"apiVersion": "sluice.dev/v1alpha1", "kind": "Agent", "prometheus": map[string]any{"address": "http://p:9090"}, "environments": []any{environment},
	}
	in := document
	keys := strings.Split(path, ".")
	for _, key := range keys[:len(keys)-1] {
		name, list := strings.CutSuffix(key, "[]")
		switch {
		case name == "environments":
			in = environment
			continue
		case in[name] == nil && list:
			in[name] = []any{map[string]any{"url": "https://charts.example.com"}}
		case in[name] == nil:
			in[name] = map[string]any{}
			if name == "upstream" || name == "status" {
				in[name] = map[string]any{"url": "https://git.example.com/b.git"}
			}
		}
		if list {
			in = in[name].([]any)[0].(map[string]any)
		} else {
			in = in[name].(map[string]any)
		}
	}
	in[keys[len(keys)-1]] = v
	return document
}
