package project

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// TestWarnings runs testdata/warnings/*.txtar: like TestProject's, with live.yaml and one section of warnings.
func TestWarnings(t *testing.T) {
	for _, file := range glob(t, "testdata/warnings/*.txtar") {
		t.Run(file, func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := input(t, archive)
			warnings, err := Warnings(in, parse(t, section(archive, "live.yaml")))
			got := strings.Join(warnings, "\n") + "\n"
			if err != nil {
				got = fmt.Sprintf("error: %v\n", err)
			}
			if *update {
				setSection(archive, "want", got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if want := section(archive, "want"); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}
