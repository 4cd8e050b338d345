// Command licences copies the licence texts of everything that a program is linked from into a directory, one folder for each
// module, as most of them ask of whoever hands a program on. It fails where a module has none.
//
//	go run ./deploy/licences DIRECTORY PACKAGE
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: licences directory package")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

// linked is a package that a program is linked from, as go list tells of it.
type linked struct {
	Dir, Root string
	Standard  bool
	Module    *struct {
		Path, Version, Dir string
		Main               bool
	}
}

// isLicence matches the names of files that hold a licence or what it asks to be handed on.
var isLicence = regexp.MustCompile(`(?i)^(licen[sc]es?|copying|copyright|notice|patents)([-_.].*)?$`).MatchString

func run(ctx context.Context, out, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "list", "-deps", "-json=Dir,Root,Standard,Module", pkg) //nolint:gosec // the build's own argument
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("listing what %s is linked from: %w", pkg, err)
	}
	texts := map[string]int{} // by module
	for d := json.NewDecoder(strings.NewReader(string(text))); ; {
		var p linked
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("reading what go list says: %w", err)
		}
		name, root := p.module()
		n, err := copyTexts(p.Dir, root, filepath.Join(out, filepath.FromSlash(name)))
		if err != nil {
			return fmt.Errorf("copying the licence of %s: %w", name, err)
		}
		texts[name] += n
	}
	var faults []error
	for name, n := range texts {
		if n == 0 {
			faults = append(faults, fmt.Errorf("%s has no licence text", name))
		}
	}
	return errors.Join(faults...)
}

// module names the module of a package, and its directory. The standard library is the one called go.
func (p linked) module() (name, root string) {
	switch {
	case p.Standard || p.Module == nil:
		return "go", p.Root
	case p.Module.Main:
		return p.Module.Path, p.Module.Dir
	default:
		return p.Module.Path + "@" + p.Module.Version, p.Module.Dir
	}
}

// copyTexts copies the licence texts of a package's directory and of those above it, up to its module's.
func copyTexts(dir, root, out string) (n int, err error) {
	for {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return n, err
		}
		for _, e := range entries {
			if !e.Type().IsRegular() || !isLicence(e.Name()) || filepath.Ext(e.Name()) == ".go" {
				continue
			}
			below, err := filepath.Rel(root, filepath.Join(dir, e.Name()))
			if err != nil {
				return n, err
			}
			if err := copyFile(filepath.Join(root, below), filepath.Join(out, below)); err != nil {
				return n, err
			}
			n++
		}
		if dir == root || !strings.HasPrefix(dir, root) {
			return n, nil
		}
		dir = filepath.Dir(dir)
	}
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from) //nolint:gosec // of the module cache
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644)
}
