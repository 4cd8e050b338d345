package e2e

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/sluice-cd/sluice/test/bed"
	"github.com/sluice-cd/sluice/test/bed/bedtest"
)

// demo runs the README's first command inside the checkout and returns what it prints.
func demo(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root, err := bed.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append([]string{"run", "./cmd/demo", "--dir", t.TempDir()}, args...)...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// told holds that the whole story was told, in its order.
func told(t *testing.T, out string) {
	t.Helper()
	inOrder(t, out,
		"production     installed 0.0.129",
		"advanced to 10%", "advanced to 20%", "advanced to 30%", "advanced to 40%", "advanced to 50%: success rate 100.00% >= 99%",
		"production     promoted (0.0.129 -> 0.0.130)",
		"held at 10%: success rate",
		"rolling back 0.0.131 to 0.0.130",
		"What git says now",
		"\n    -  version: 0.0.131  # written by jx promote\n    +  version: 0.0.130  # written by jx promote\n",
		"0.0.131 was rolled back in production: success rate",
	)
}

// inOrder holds that the demo tells these, one after the other.
func inOrder(t *testing.T, out string, wants ...string) {
	t.Helper()
	rest := out
	for _, want := range wants {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("the demo does not tell %q at its place:\n%s", want, out)
		}
		rest = after
	}
}

func TestDemo(t *testing.T) {
	bedtest.Need(t, shared)
	out, err := demo(t)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	told(t, out)
}

// What is left running takes what it says that one can ask of it, as it is printed.
func TestDemoKept(t *testing.T) {
	bedtest.Need(t, shared)
	root, err := bed.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "run", "./cmd/demo", "--dir", t.TempDir(), "--keep")
	out := &lockedBuffer{}
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)
		_ = cmd.Wait()
	})
	says := func(what string, times int) {
		t.Helper()
		err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 5*time.Minute, true, func(context.Context) (bool, error) {
			return strings.Count(out.tail(1<<20), what) >= times, nil
		})
		if err != nil {
			t.Fatalf("the demo does not say %q:\n%s", what, out.tail(1<<20))
		}
	}
	says("Look around", 1)
	says("tail ", 1)
	script := typed(t, out.tail(1<<20))
	// People wait until they have seen what came of one before they try the next.
	for _, wait := range []struct{ before, until string }{
		{"sluice rollback ", "roll back 0.0.131"}, {"git pull ", "roll back 0.0.130"},
	} {
		script = strings.Replace(script, "\n"+wait.before,
			"\nuntil git fetch -q && git log -1 --format=%s origin/main | grep '^"+app+": "+wait.until+"'; do sleep 1; done\n"+wait.before, 1)
	}
	sh := exec.CommandContext(ctx, "sh", "-ec", script)
	sh.Dir = root
	said, err := sh.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s\nthe demo:\n%s", script, err, said, out.tail(3000))
	}
	if want := "rolled back 0.0.130 to 0.0.129: rolled back by You: just to see"; !strings.Contains(string(said), want) {
		t.Errorf("nothing says %q:\n%s", want, said)
	}
	says("production     promoted (0.0.129 -> 0.0.130)", 2) // the first time was in the story
}

// typed are the commands that a kept demo prints, as a script. What asks for programs that need not be here is left out.
func typed(t *testing.T, out string) string {
	t.Helper()
	_, out, found := strings.Cut(out, "In another terminal\n")
	if !found {
		t.Fatalf("the demo prints no commands:\n%s", out)
	}
	var script []string
	for line := range strings.Lines(out) {
		command, printed := strings.CutPrefix(line, "    ")
		if word, _, _ := strings.Cut(command, " "); printed && !slices.Contains([]string{"kubectl", "helm", "curl"}, word) {
			script = append(script, strings.TrimSpace(command))
		}
	}
	return strings.Join(script, "\n")
}

// The bed's cluster, whose pods are played, stands in for one of the user's.
func TestDemoOnAClusterThatRunsAlready(t *testing.T) {
	b := bedtest.Need(t, shared)
	namespaces := kubernetes.NewForConfigOrDie(b.REST()).CoreV1().Namespaces()
	gone := func(name string) {
		t.Helper()
		err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
			_, err := namespaces.Get(ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err), nil
		})
		if err != nil {
			t.Fatalf("namespace %s does not go: %v", name, err)
		}
	}
	theirs := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "sluice-demo-production"}}
	if _, err := namespaces.Create(t.Context(), theirs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	out, err := demo(t, "--kubeconfig", b.Kubeconfig)
	if err == nil || !strings.Contains(out, "namespace sluice-demo-production exists on the cluster") {
		t.Errorf("over a namespace of somebody's: %v\n%s", err, out)
	}
	if err := namespaces.Delete(t.Context(), "sluice-demo-production", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone("sluice-demo-production")

	out, err = demo(t, "--kubeconfig", b.Kubeconfig)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	told(t, out)
	gone("sluice-demo-staging")
	gone("sluice-demo-production")
}
