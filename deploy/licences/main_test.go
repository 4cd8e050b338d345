package main

import (
	"os"
	"path/filepath"
	"testing"
)

// Every module that the agent is linked from has a licence text, so that the image can be built.
func TestLicencesOfTheAgent(t *testing.T) {
	out := t.TempDir()
	if err := run(t.Context(), out, "../../cmd/sluice"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"go/LICENSE", "helm.sh/helm/v3@*/LICENSE", "github.com/go-git/go-git/v5@*/LICENSE", "github.com/sluice-cd/sluice/LICENSE"} {
		if found, _ := filepath.Glob(filepath.Join(out, want)); len(found) != 1 {
			t.Errorf("%s: found %v", want, found)
		}
	}
}

func TestNoLicence(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "license_test.go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := copyTexts(dir, dir, t.TempDir()); n != 0 || err != nil {
		t.Errorf("it found %d, %v", n, err)
	}
}
