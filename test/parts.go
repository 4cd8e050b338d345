package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

const module = "github.com/sluice-cd/sluice"

// pkg is what matters of a package here.
type pkg struct {
	path string
	// tested: it has tests.
	tested bool
	// bed: its tests need the test bed.
	bed bool
	// heavy: its tests link Kubernetes or Helm, which the race detector makes slow to compile.
	heavy bool
	// brief: some of its tests do less when testing.Short says so.
	brief bool
}

// raced reports whether the part race runs it.
func (p pkg) raced() bool { return p.tested && !p.bed && !p.heavy }

// heavyImports are the beginnings of the packages that make others heavy. Of Helm it is the engine and the client, not the
// package of a chart's values; of Kubernetes the client, not the types of pods, which the projection compares.
var heavyImports = []string{"k8s.io/client-go/", "helm.sh/helm/v3/pkg/engine", "helm.sh/helm/v3/pkg/storage", "k8s.io/apiserver/"}

func (s *session) unit() error {
	// What the race detector will run to the full is not run twice.
	race := slices.ContainsFunc(s.chosen, func(p part) bool { return p.name == "race" }) && s.noRace() == ""
	list, err := s.choose(func(p pkg) bool { return !p.bed && (!race || !p.raced() || p.brief) })
	if err != nil {
		return err
	}
	args := []string{"-timeout=20m"}
	if s.short {
		args = append(args, "-short")
	}
	return s.goTest(append(args, list...)...)
}

func (s *session) race() error {
	if why := s.noRace(); why != "" {
		return fmt.Errorf("%w: %s", errSkipped, why)
	}
	list, err := s.choose(pkg.raced)
	if err != nil || len(list) == 0 {
		return err
	}
	return s.goTest(append([]string{"-race", "-short", "-timeout=20m"}, list...)...)
}

// noRace says why there is no race detector; empty: there is one.
func (s *session) noRace() string {
	out, err := s.output("go", "env", "CGO_ENABLED", "CC")
	cgo, cc, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil || cgo != "1" {
		return "the race detector needs cgo"
	}
	if _, err := exec.LookPath(strings.Fields(cc + " cc")[0]); err != nil {
		return "the race detector needs a C compiler"
	}
	return ""
}

func (s *session) fuzz() error {
	list, err := s.choose(func(p pkg) bool { return p.tested && !p.bed })
	if err != nil {
		return err
	}
	out, err := s.output("go", append([]string{"test", noVet, "-list=^Fuzz"}, list...)...)
	if err != nil {
		fmt.Printf("%s", out)
		return fmt.Errorf("listing fuzz targets: %w", err)
	}
	targets := fuzzTargets(out)
	dir, err := os.MkdirTemp("", "sluice-fuzz-")
	if err != nil {
		return fmt.Errorf("making a directory for programs: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left is in the temporary directory
	var failed []string
	for i, t := range targets {
		fmt.Printf("--- %d of %d\n", i+1, len(targets))
		err := s.fuzzOne(t, dir)
		for tries := 1; endedLate(err) && tries < fuzzTries && s.ctx.Err() == nil; tries++ {
			fmt.Println("--- the engine tripped over its own deadline (go.dev/issue/75804) and found nothing: once more")
			err = s.fuzzOne(t, dir)
		}
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		if err != nil {
			failed = append(failed, t.name)
		}
	}
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, ", "))
	}
	return nil
}

// fuzzTries bounds how often a target is fuzzed when the engine fails and not the target.
const fuzzTries = 3

// endedLate reports whether fuzzing failed for nothing but the engine's own deadline. Go before 1.27 sometimes takes
// the end of -fuzztime for a failure (go.dev/issue/75804): then the target's whole complaint is that one line, where a
// finding names the failing input, and a hung or crashed worker says so.
func endedLate(err error) bool {
	var failed *showError
	return errors.As(err, &failed) && lateEnd.MatchString(failed.output)
}

var lateEnd = regexp.MustCompile(`(?m)^--- FAIL: Fuzz\w+ \([0-9.]+s\)\n    context deadline exceeded\nFAIL$`)

// guidedFrom is the time for each target from which it pays to compile everything that a package needs once more.
const guidedFrom = 30 * time.Second

// fuzzOne fuzzes one target. go test -fuzz compiles everything that a package needs once more, to learn what its inputs cover. For
// a few seconds that takes longer than the fuzzing, and where it is Kubernetes or Helm for minutes too, so those go without, in a
// program below dir that all targets of a package share.
func (s *session) fuzzOne(t target, dir string) error {
	flags := []string{"-run=^$", "-fuzz=^" + t.name + "$", "-fuzztime=" + s.fuzzTime.String(), "-fuzzminimizetime=20x"}
	heavy := slices.ContainsFunc(s.found, func(p pkg) bool { return p.path == t.path && p.heavy })
	if !heavy && s.fuzzTime >= guidedFrom {
		return s.goTest(append(flags, t.path)...)
	}
	program := filepath.Join(dir, strings.ReplaceAll(t.path, "/", "-")+".test")
	if _, err := os.Stat(program); err != nil {
		if err := s.show("go", "test", "-c", "-o", program, t.path); err != nil {
			return err
		}
	}
	for i, f := range flags {
		flags[i] = "-test." + strings.TrimPrefix(f, "-")
	}
	// The program runs where go test would run it: its seeds are in testdata.
	return s.show("sh", append([]string{
		"-c", `cd "$1" && shift && exec "$@"`, "sh", strings.TrimPrefix(t.path, module+"/"), program,
		"-test.fuzzcachedir=" + filepath.Join(dir, "cache"),
	}, flags...)...)
}

// target is one fuzz target.
type target struct{ path, name string }

// fuzzTargets reads what go test -list prints: the names of a package, then a line that names the package.
func fuzzTargets(out []byte) []target {
	var targets []target
	var names []string
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 2 && fields[0] == "ok":
			for _, name := range names {
				targets = append(targets, target{fields[1], name})
			}
			names = nil
		case len(fields) == 1 && strings.HasPrefix(fields[0], "Fuzz"):
			names = append(names, fields[0])
		}
	}
	return targets
}

func (s *session) bed() error {
	return s.show("go", "run", "./test/prepare", "servers")
}

// others builds, beside the tests that wait most of their time, what only some of the last of them need. Those wait for it.
func (s *session) others() (over func()) {
	name, args := "go", []string{"run", "./test/prepare"}
	if nice, err := exec.LookPath("nice"); err == nil {
		name, args = nice, append([]string{"-n", "19", name}, args...)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.show(name, args...); err != nil {
			fmt.Println("building what some tests need:", err, "(they build it themselves, or fail)")
		}
	}()
	return func() { <-ended }
}

func (s *session) e2e() error {
	list, err := s.choose(func(p pkg) bool { return p.tested && p.bed })
	if err != nil || len(list) == 0 {
		return err
	}
	defer s.others()()
	// One package at a time: each starts servers of its own. Results are not taken from go's cache, which does not know
	// that test/e2e builds and runs cmd/sluice.
	return s.goTest(append([]string{"-p=1", "-count=1", "-timeout=60m"}, list...)...)
}

// choose lists the paths of the packages that are wanted.
func (s *session) choose(wanted func(pkg) bool) ([]string, error) {
	if s.found == nil {
		out, err := s.output("go", "list", "-test", "-json=ImportPath,ForTest,Deps,Dir,TestGoFiles,XTestGoFiles", "./...")
		if err != nil {
			return nil, fmt.Errorf("listing packages: %w", err)
		}
		if s.found, err = packages(bytes.NewReader(out)); err != nil {
			return nil, fmt.Errorf("listing packages: %w", err)
		}
	}
	var list []string
	for _, p := range s.found {
		if wanted(p) {
			list = append(list, p.path)
		}
	}
	return list, nil
}

// packages reads what go list -test -json prints. A package with tests comes with a program <path>.test, whose
// dependencies are those of the tests.
func packages(r io.Reader) ([]pkg, error) {
	byPath, tests := map[string]pkg{}, map[string]pkg{}
	for dec := json.NewDecoder(r); ; {
		var listed struct {
			ImportPath, ForTest, Dir        string
			Deps, TestGoFiles, XTestGoFiles []string
		}
		if err := dec.Decode(&listed); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		path, isTest := strings.CutSuffix(listed.ImportPath, ".test")
		switch {
		case isTest:
			tests[path] = pkg{tested: true, bed: uses(listed.Deps, module+"/test/bed"), heavy: slices.ContainsFunc(listed.Deps, isHeavy)}
		case listed.ForTest == "":
			brief, err := mentions(listed.Dir, slices.Concat(listed.TestGoFiles, listed.XTestGoFiles), "testing.Short()")
			if err != nil {
				return nil, err
			}
			byPath[path] = pkg{path: path, brief: brief}
		}
	}
	for path, t := range tests {
		p := byPath[path]
		p.path, p.tested, p.bed, p.heavy = path, t.tested, t.bed, t.heavy
		byPath[path] = p
	}
	list := make([]pkg, 0, len(byPath))
	for _, p := range byPath {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b pkg) int { return strings.Compare(a.path, b.path) })
	return list, nil
}

// mentions reports whether one of the files of a directory has a text.
func mentions(dir string, files []string, text string) (bool, error) {
	for _, file := range files {
		content, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || bytes.Contains(content, []byte(text)) {
			return err == nil, err
		}
	}
	return false, nil
}

// uses reports whether a package is among dependencies, compiled for a test or not.
func uses(deps []string, path string) bool {
	return slices.ContainsFunc(deps, func(dep string) bool {
		dep, _, _ = strings.Cut(dep, " ")
		return dep == path
	})
}

func isHeavy(dep string) bool {
	return slices.ContainsFunc(heavyImports, func(prefix string) bool { return strings.HasPrefix(dep, prefix) })
}
