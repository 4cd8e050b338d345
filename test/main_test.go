package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestPackages(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"long_test.go": "package c", "brief_test.go": "package c // if testing.Short() {"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := packages(strings.NewReader(`
{"ImportPath": "m/a", "Deps": ["fmt"]}
{"ImportPath": "m/a.test", "Deps": ["fmt", "m/a [m/a.test]", "helm.sh/helm/v3/pkg/engine"]}
{"ImportPath": "m/a [m/a.test]", "ForTest": "m/a"}
{"ImportPath": "m/b", "Deps": ["` + module + `/test/bed"]}
{"ImportPath": "m/c", "Dir": "` + dir + `", "XTestGoFiles": ["long_test.go", "brief_test.go"]}
{"ImportPath": "m/c.test", "Deps": ["` + module + `/test/bed [m/c.test]"]}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []pkg{{path: "m/a", tested: true, heavy: true}, {path: "m/b"}, {path: "m/c", tested: true, bed: true, brief: true}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if _, err := packages(strings.NewReader(`{"ImportPath": 1}`)); err == nil {
		t.Error("nonsense was read")
	}
}

// TestTheRaceDetectorSeesTheLoop: the simulation, which drives it, links nothing that keeps it out of part race.
func TestTheRaceDetectorSeesTheLoop(t *testing.T) {
	list, err := exec.CommandContext(t.Context(), "go", "list", "-test", "-deps", "./sim", "../reconcile/delivery").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(list)) {
		if isHeavy(dep) {
			t.Errorf("it links %s", strings.TrimSpace(dep))
		}
	}
}

func TestFuzzTargets(t *testing.T) {
	got := fuzzTargets([]byte("FuzzA\nFuzzB\nok  \tm/a\t0.01s\n?   \tm/b\t[no test files]\nok  \tm/c\t0.02s [no tests to run]\nFuzzD\nok  \tm/d\t1s\n"))
	want := []target{{"m/a", "FuzzA"}, {"m/a", "FuzzB"}, {"m/d", "FuzzD"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestEndedLate(t *testing.T) {
	for name, tt := range map[string]struct {
		output string
		want   bool
	}{
		"deadline": {"fuzz: elapsed: 10s, execs: 1\n--- FAIL: FuzzA (10.11s)\n    context deadline exceeded\nFAIL\nexit status 1\n", true},
		"finding": {"--- FAIL: FuzzA (3.20s)\n    --- FAIL: FuzzA (0.00s)\n        a_test.go:9: context deadline exceeded\n    \n" +
			"    Failing input written to testdata/fuzz/FuzzA/1\nFAIL\n", false},
		"hung":     {"--- FAIL: FuzzA (10.11s)\n    context deadline exceeded\n    fuzzing process hung or terminated unexpectedly\nFAIL\n", false},
		"no build": {"a.go:1: syntax error\nFAIL\tm/a [build failed]\n", false},
	} {
		if got := endedLate(&showError{errors.New("exit status 1"), tt.output}); got != tt.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	if endedLate(errors.New("context deadline exceeded")) {
		t.Error("an error that is no failed command")
	}
}

func TestChoose(t *testing.T) {
	for _, tt := range []struct {
		only  string
		short bool
		want  string
	}{
		{"", false, "unit race fuzz bed e2e"},
		{"", true, "unit"},
		{"fuzz, unit", false, "unit fuzz"},
		{"unti", false, ""},
	} {
		chosen, err := choose(tt.only, tt.short)
		var names []string
		for _, p := range chosen {
			names = append(names, p.name)
		}
		if got := strings.Join(names, " "); got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("--only=%q --short=%t: %q, %v", tt.only, tt.short, got, err)
		}
	}
}
