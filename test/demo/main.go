// Command demo tells the story of a promotion that succeeds and of one that is rolled back in git, with the sluice program, on
// the test bed. It is started by cmd/demo, which has built both and knows the flags.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options are what cmd/demo says, as JSON in the only argument.
type options struct {
	// Sluice is the program under demonstration.
	Sluice     string
	Interval   time.Duration
	Dir        string
	Keep       bool
	Forge      bool
	Kubeconfig string
	Context    string
}

// otherwiseError says that the story went otherwise than it is told.
type otherwiseError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "demo:", err)
	var otherwise *otherwiseError
	if errors.As(err, &otherwise) {
		os.Exit(3)
	}
	os.Exit(1)
}

func run(ctx context.Context) error {
	var o options
	if len(os.Args) != 2 || json.Unmarshal([]byte(os.Args[1]), &o) != nil {
		return errors.New("this is started by: go run ./cmd/demo")
	}
	d := &demo{out: newNarrator(os.Stdout), sluice: o.Sluice, interval: o.Interval, dir: o.Dir, keep: o.Keep}
	if o.Forge {
		d.forge = &forge{}
	}
	if o.Kubeconfig != "" {
		var err error
		if d.guest, err = newGuest(o.Kubeconfig, o.Context); err != nil {
			return err
		}
	}
	return d.run(ctx)
}
