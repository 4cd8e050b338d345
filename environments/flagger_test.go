package environments

import (
	"bytes"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// schema is what is read of a definition's schema.
type schema struct {
	Type       string            `json:"type"`
	Enum       []string          `json:"enum"`
	Properties map[string]schema `json:"properties"`
	Items      *schema           `json:"items"`
}

// flaggerSpecs are the schemas of the specs of Flagger's kinds.
func flaggerSpecs(t *testing.T) map[string]schema {
	t.Helper()
	text, err := os.ReadFile("testdata/flagger/crd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	specs := map[string]schema{}
	for _, document := range bytes.Split(text, []byte("\n---\n")) {
		var crd struct {
			Spec struct {
				Names    struct{ Kind string }
				Versions []struct {
					Schema struct{ OpenAPIV3Schema schema }
				}
			}
		}
		if err := yaml.Unmarshal(document, &crd); err != nil {
			t.Fatal(err)
		}
		specs[crd.Spec.Names.Kind] = crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	}
	return specs
}

// flaggerRow is a row of the tables in docs/flagger.md.
var flaggerRow = regexp.MustCompile("(?m)^\\| `([^`{]+)` \\| (honoured|not needed|refused) \\| (.*)\\|$")

// documentedFields are the rows under a heading: what becomes of each field, and which are newer than the schema.
func documentedFields(t *testing.T, heading string) (states map[string]string, newer []string) {
	t.Helper()
	text, err := os.ReadFile("../docs/flagger.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## "+heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	states = map[string]string{}
	for _, row := range flaggerRow.FindAllStringSubmatch(section, -1) {
		states[row[1]] = row[2]
		if strings.Contains(row[3], "newer than") {
			newer = append(newer, row[1])
		}
	}
	return states, newer
}

// undocumented are the paths of a schema that neither have a row nor are part of one that has.
func undocumented(s schema, path string, rows map[string]string) (missing []string) {
	if _, ok := rows[path]; ok {
		return nil
	}
	for s.Items != nil {
		s, path = *s.Items, path+"[]"
	}
	if len(s.Properties) == 0 {
		return []string{path}
	}
	for name, inner := range s.Properties {
		missing = append(missing, undocumented(inner, strings.TrimPrefix(path+"."+name, "."), rows)...)
	}
	return missing
}

// at is the schema that a path leads to.
func (s schema) at(path string) (schema, bool) {
	for name := range strings.SplitSeq(path, ".") {
		name, list := strings.CutSuffix(name, "[]")
		inner, ok := s.Properties[name]
		if !ok {
			return schema{}, false
		}
		if s = inner; list {
			s = *s.Items
		}
	}
	return s, true
}

// sample is a value of a schema that is not off.
func (s schema) sample() any {
	switch {
	case len(s.Enum) > 0:
		return s.Enum[len(s.Enum)-1]
	case s.Items != nil:
		return []any{s.Items.sample()}
	}
	switch s.Type {
	case "number", "integer":
		return 1
	case "boolean":
		return true
	case "object":
		return map[string]any{"name": "x"}
	}
	return "1m"
}

// nest puts a value where a path leads.
func nest(path string, v any) any {
	names := strings.Split(path, ".")
	for _, name := range slices.Backward(names) {
		name, list := strings.CutSuffix(name, "[]")
		if list {
			v = []any{v}
		}
		v = map[string]any{name: v}
	}
	return v
}

// becomes is what a decoder makes of a field, in the words of docs/flagger.md.
func becomes(d *decoder, path string) string {
	path = strings.ReplaceAll(path, "[]", "[0]")
	for _, pf := range d.faults {
		switch at := pf.path.String(); {
		case at != path && !strings.HasPrefix(at, path+"."):
		case strings.HasSuffix(pf.fault.Problem, "is not supported yet"):
			return "refused"
		default:
			return pf.fault.Problem
		}
	}
	if slices.Contains(d.ignored, path) {
		return "not needed"
	}
	return "honoured"
}

// TestFlaggerFields: each field of Flagger's definitions has a row in docs/flagger.md that says what becomes of it, and that is what
// becomes of it.
func TestFlaggerFields(t *testing.T) {
	read := map[string]func(d *decoder, spec any){
		"Canary":         func(d *decoder, spec any) { decodeObject(d, nil, spec, canaryObjectFields, &draft{}) },
		"MetricTemplate": func(d *decoder, spec any) { decodeObject(d, nil, spec, metricTemplateFields, &metricTemplate{}) },
	}
	samples := map[string]any{"provider": "istio", "analysis.metrics[].name": "request-duration", "analysis.webhooks[].url": "http://x/", "service.apex": map[string]any{"labels": map[string]any{"a": "b"}}}
	for kind, spec := range flaggerSpecs(t) {
		rows, newer := documentedFields(t, kind)
		if missing := undocumented(spec, "", rows); len(missing) > 0 {
			slices.Sort(missing)
			t.Errorf("%s: docs/flagger.md has no rows for %s", kind, strings.Join(missing, ", "))
		}
		for _, path := range slices.Sorted(maps.Keys(rows)) {
			s, known := spec.at(path)
			if known == slices.Contains(newer, path) {
				t.Errorf("%s: %s: in the schema: %t, newer than it: %t", kind, path, known, !known)
			}
			v, given := samples[path]
			if !given {
				v = s.sample()
			}
			var d decoder
			read[kind](&d, nest(path, v))
			if got := becomes(&d, path); got != rows[path] {
				t.Errorf("%s: %s with %v: %s, and docs/flagger.md says %s", kind, path, v, got, rows[path])
			}
		}
	}
}

// TestFlaggerFieldsAreDocumented: what is read of Flagger's and is not in its definitions has a row as well. Fields of Sluice's own
// are elsewhere.
func TestFlaggerFieldsAreDocumented(t *testing.T) {
	rows, _ := documentedFields(t, "Canary")
	own := []string{"rollbackWindow", "analysis.inconclusiveLimit", "analysis.approval", "analysis.fourEyes"}
	old := []string{"canaryAnalysis"} // Flagger's own old name of analysis
	documented := func(path string) bool {
		return slices.Contains(own, path) || slices.Contains(old, path) ||
			slices.ContainsFunc(slices.Collect(maps.Keys(rows)), func(row string) bool {
				return row == path || strings.HasPrefix(row, path+".") || strings.HasPrefix(row, path+"[]")
			})
	}
	for prefix, names := range map[string][]string{
		"": canaryObjectFields.names(), "analysis.": analysisFields.names(), "analysis.metrics[].": metricFields.names(), "analysis.webhooks[].": webhookFields.names(),
		"service.": serviceFields.names(),
	} {
		for _, name := range names {
			if !documented(prefix + name) {
				t.Errorf("docs/flagger.md has no row for %s", prefix+name)
			}
		}
	}
}
