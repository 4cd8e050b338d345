// Command prepare builds what the tests run and is no part of Sluice, so that no test has to wait for the compiler.
//
//	go run ./test/prepare              everything
//	go run ./test/prepare servers      some of it
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/sluice-cd/sluice/test/bed"
)

// program is one that is built.
type program struct {
	name  string
	build func(ctx context.Context, root string, progress io.Writer) (string, error)
}

var programs = []program{
	{"servers", bed.Build},
	{"forge", bed.BuildGitea},
	{"istiod", bed.BuildIstiod},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}

// run builds from the checkout in the working directory; no names: everything.
func run(ctx context.Context, names []string) error {
	var all []string
	for _, p := range programs {
		all = append(all, p.name)
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return fmt.Errorf("there is no %q; expected some of %s", name, strings.Join(all, ", "))
		}
	}
	root, err := filepath.Abs(".")
	if err != nil {
		return fmt.Errorf("finding the checkout: %w", err)
	}
	for _, p := range programs {
		if len(names) > 0 && !slices.Contains(names, p.name) {
			continue
		}
		built, err := p.build(ctx, root, os.Stdout)
		if err != nil {
			return err
		}
		fmt.Printf("%s: built, %s\n", p.name, built)
	}
	return nil
}
