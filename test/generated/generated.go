// Package generated holds files of the repository to the code that they are made of. It is for tests.
package generated

import (
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Check fails the test unless a file says what the code says. With the variable of that name set in the environment, it writes the
// file.
func Check(t *testing.T, update, file, want string) {
	t.Helper()
	if os.Getenv(update) != "" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil { //nolint:gosec // it is in the repository
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file) //nolint:gosec // the test names it
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s does not say what the code says; %s=1 go test -run %s writes it", file, update, t.Name())
	}
}

// Schema compiles a JSON Schema that is made of the code, so that it can be asked.
func Schema(t *testing.T, text string) *jsonschema.Schema {
	t.Helper()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}
