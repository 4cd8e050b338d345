package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	o, err := parse([]string{"--interval", "5s", "--keep", "--dir", "x", "--kubeconfig", "k", "--context", "c"})
	if want := (options{Interval: 5 * time.Second, Keep: true, Dir: "x", Kubeconfig: "k", Context: "c"}); err != nil || o != want {
		t.Errorf("%+v, %v", o, err)
	}
	for args, want := range map[string]string{
		"--interval 10ms":        "--interval: got 10ms, expected 1s or more",
		"--forge --kubeconfig k": "--forge: needs two clusters",
		"--context c":            "--context: expected --kubeconfig with it",
		"now":                    `got "now", expected flags only`,
		"--no-such":              "not defined: -no-such; see 'go run ./cmd/demo --help'",
		"--interval soon":        `invalid value "soon"`,
	} {
		if _, err := parse(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	if _, err := parse([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
}

// The checkout is found from inside of it, and nowhere else.
func TestCheckout(t *testing.T) {
	root, err := checkout()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "cmd", "demo", "main.go")); err != nil {
		t.Error(err)
	}
	t.Chdir(t.TempDir())
	if _, err := checkout(); err == nil || !strings.Contains(err.Error(), "not inside a checkout of "+module) {
		t.Error(err)
	}
}

// What go build says is progress or a problem.
func TestProgress(t *testing.T) {
	var p progress
	p.read(strings.NewReader("go: downloading k8s.io/api v0.37.2\nunicode\nk8s.io/api/core/v1\n# example.com/x\n./x.go:1:1: syntax error\n"))
	if p.downloaded.Load() != 1 || p.compiled.Load() != 2 || p.problems.String() != "# example.com/x\n./x.go:1:1: syntax error\n" {
		t.Errorf("%d downloaded, %d compiled, problems %q", p.downloaded.Load(), p.compiled.Load(), p.problems.String())
	}
	if err := compile(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "x"), "./nowhere"); err == nil || !strings.Contains(err.Error(), "building ./nowhere") {
		t.Error(err)
	}
}
