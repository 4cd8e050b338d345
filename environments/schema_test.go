package environments

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/test/generated"
)

// reads is what the reader says of a sluice.yaml, apps included.
func reads(text []byte) error {
	s, err := parseSettings(settingsName, text)
	if err != nil {
		return err
	}
	for _, app := range s.apps {
		err = errors.Join(err, app.fault)
	}
	return err
}

// What is read of any fixture, the schema takes.
func TestSchemaTakesWhatIsRead(t *testing.T) {
	s := generated.Schema(t, settingsSchema(t))
	var names []string
	for _, dir := range []string{"testdata/*/*.txtar", "../cmd/sluice/testdata/*.txtar"} {
		found, err := filepath.Glob(dir)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	seen := 0
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			if filepath.Base(f.Name) != settingsName || reads(f.Data) != nil {
				continue
			}
			seen++
			if err := valid(t, s, f.Data); err != nil {
				t.Errorf("%s: %v in\n%s", name, err, f.Data)
			}
		}
	}
	if seen < 20 {
		t.Errorf("%d fixtures were read", seen)
	}
}

// samples are values of each kind. None is anything that some field alone would take.
var samples = []any{true, 7, -1, 1.5, "x", "7m", "https://x.test/", []any{}, []any{"x"}, []any{map[string]any{}}, map[string]any{}, map[string]any{"x": "y"}}

// beyondSchema ends the paths of fields that depend on what stands beside them.
var beyondSchema = []string{"metrics[].name", "upstream.environment", "upstream.repository", "waves[].clusters"}

// TestSchemaAgreesWithTheReader puts each sample into each field. Names may not look like numbers in the schema, for YAML has them
// written otherwise than they are meant: 1e3, 0x10.
func TestSchemaAgreesWithTheReader(t *testing.T) {
	s := generated.Schema(t, settingsSchema(t))
	for _, r := range leaves("", settingsFields.abouts()) {
		for _, v := range samples {
			document := nest(strings.ReplaceAll(r.path, "<app>", "web"), v).(map[string]any)
			maps.Copy(document, map[string]any{"apiVersion": settingsAPIVersion, "kind": settingsKind})
			text, err := yaml.Marshal(document)
			if err != nil {
				t.Fatal(err)
			}
			fault := reads(text)
			asked, read := valid(t, s, text) == nil, fault == nil
			if !read && toldTwice(fault) {
				t.Errorf("%s: %v: told twice: %v", r.path, v, fault)
			}
			tooMuch := asked && !read && !slices.ContainsFunc(beyondSchema, func(end string) bool { return strings.HasSuffix(r.path, end) })
			tooLittle := read && !asked && (!strings.HasPrefix(r.noun, "DNS label") && !strings.HasPrefix(r.noun, "name"))
			if tooMuch || tooLittle {
				t.Errorf("%s: %v: schema %t, reader %t: %v", r.path, v, asked, read, fault)
			}
		}
	}
}

// toldTwice reports whether a fault has one problem in several lines.
func toldTwice(fault error) bool {
	seen := map[string]bool{}
	for line := range strings.SplitSeq(fault.Error(), "\n") {
		problem, _, _ := strings.Cut(line, "; expected")
		if seen[problem] {
			return true
		}
		seen[problem] = true
	}
	return false
}

// leaves are all fields, those of named shapes at each place.
func leaves(at string, of map[string]about) (rows []row) {
	for _, name := range slices.Sorted(maps.Keys(of)) {
		a := of[name]
		path := strings.TrimPrefix(at+"."+name, ".")
		rows = append(rows, row{path, a})
		rows = append(rows, leaves(path+a.within, a.inner)...)
	}
	return rows
}
