package e2e

import (
	"context"
	"os/exec"
	"strings"
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
	rest := out
	for _, want := range []string{
		"production  croc-hunter-java: installed 0.0.129",
		"advanced to 10% (0.0.129 -> 0.0.130)", "advanced to 20%", "advanced to 30%", "advanced to 40%",
		"advanced to 50% (0.0.129 -> 0.0.130): success rate 100.00% >= 99%",
		"production  croc-hunter-java: promoted (0.0.129 -> 0.0.130)",
		"held at 10% (0.0.130 -> 0.0.131): success rate",
		"rolling back 0.0.131 to 0.0.130",
		"git log of production, branch main",
		"\n    -  version: 0.0.131  # written by jx promote\n    +  version: 0.0.130  # written by jx promote\n",
		"git log of production, branch sluice/status/production",
	} {
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
