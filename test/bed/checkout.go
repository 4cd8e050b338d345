package bed

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const modulePath = "github.com/sluice-cd/sluice"

// ErrNotInCheckout is returned where the sources of Sluice are needed and the
// working directory is not inside them.
var ErrNotInCheckout = errors.New("not inside a checkout of " + modulePath +
	`: the test bed is built from its sources; clone the repository and run this command inside it`)

// FindRoot returns the root of the checkout that the working directory is in:
// the nearest directory above whose go.mod is that of Sluice.
func FindRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the checkout: %w", err)
	}
	for {
		if moduleOf(filepath.Join(dir, "go.mod")) == modulePath {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", ErrNotInCheckout
		}
		dir = parent
	}
}

// moduleOf returns the module path of a go.mod, "" if there is none.
func moduleOf(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if module, ok := strings.CutPrefix(lines.Text(), "module "); ok {
			return strings.TrimSpace(module)
		}
	}
	return ""
}
