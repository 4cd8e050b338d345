// Command prepare builds the servers of the test bed and the forge, so that no test has to wait for the compiler.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/sluice-cd/sluice/test/bed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "prepare:", err)
		os.Exit(1)
	}
}

// run builds from the checkout in the working directory.
func run(ctx context.Context) error {
	root, err := filepath.Abs(".")
	if err != nil {
		return fmt.Errorf("finding the checkout: %w", err)
	}
	program, err := bed.Build(ctx, root, os.Stdout)
	if err != nil {
		return err
	}
	fmt.Println("the test bed is built:", program)
	if program, err = bed.BuildGitea(ctx, root, os.Stdout); err != nil {
		return err
	}
	fmt.Println("the forge is built:", program)
	return nil
}
