// Package bedtest shares one test bed among the tests of a package. It is apart
// from package bed so that programs that use a bed do not link package testing.
//
//	var shared *bed.Bed
//
//	func TestMain(m *testing.M) { os.Exit(bedtest.Main(m, &shared)) }
package bedtest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/sluice-cd/sluice/test/bed"
)

// scrape is a flag of every package that shares a bed. Scraping hundreds of apps five times a second takes more of a machine
// than all that is measured there.
var scrape = flag.Duration("scrape", 0, "time between two scrapes of Prometheus, for benchmarks of many apps; 0: the bed's own")

// Main runs the tests of a package on a bed that they share, which it starts
// before them and closes after them. With -short it starts none, and shared
// stays nil: tests that need it call Need.
func Main(m *testing.M, shared **bed.Bed) (code int) {
	flag.Parse()
	if testing.Short() {
		return m.Run()
	}
	b, err := bed.Start(context.Background(), bed.Options{Progress: os.Stderr, ScrapeInterval: *scrape})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := b.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	*shared = b
	return m.Run()
}

// Need skips a test that has no bed because of -short.
func Need(t testing.TB, b *bed.Bed) *bed.Bed {
	t.Helper()
	if b == nil {
		t.Skip("needs the test bed, which -short leaves out")
	}
	return b
}
