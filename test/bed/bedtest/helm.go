package bedtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/test/bed"
)

// HelmProgram is the path of the real helm. It is compiled from the module that test/bed/helm pins, and kept in Go's cache.
func HelmProgram(t testing.TB) string {
	t.Helper()
	root, err := bed.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "tool", "-n", "helm")
	build.Dir, build.Env, build.Stderr = filepath.Join(root, "test", "bed", "helm"), append(os.Environ(), "GOWORK=off"), os.Stderr
	path, err := build.Output()
	if err != nil {
		t.Fatalf("building helm: %v", err)
	}
	return strings.TrimSpace(string(path))
}

// Helm returns what runs the real helm on a namespace of the bed, and gives what it prints.
func Helm(t testing.TB, b *bed.Bed, namespace string) func(args ...string) string {
	t.Helper()
	Need(t, b)
	program := HelmProgram(t)
	home := t.TempDir()
	return func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+b.Kubeconfig, "HELM_NAMESPACE="+namespace, "HOME="+home)
		var failure strings.Builder
		cmd.Stderr = &failure
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, failure.String())
		}
		return string(out)
	}
}
