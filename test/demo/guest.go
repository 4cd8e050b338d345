package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/sluice-cd/sluice/reconcile/cluster"
)

// guest is a cluster of the user's that the demo is a guest of: it makes namespaces of its own there, and takes them
// away.
type guest struct {
	kubeconfig, context string
	rest                *rest.Config
	kube                kubernetes.Interface
}

func newGuest(kubeconfig, kubeContext string) (*guest, error) {
	path, err := filepath.Abs(kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", kubeconfig, err)
	}
	// The user named the file, and runs what it says each time that they use kubectl.
	rc, err := cluster.LoadREST(path, kubeContext, true)
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, fmt.Errorf("preparing a client of %s: %w", rc.Host, err)
	}
	return &guest{kubeconfig: path, context: kubeContext, rest: rc, kube: kube}, nil
}

// config is the cluster's; nil for no guest.
func (g *guest) config() *rest.Config {
	if g == nil {
		return nil
	}
	return g.rest
}

// istio is what the demo routes with.
const istio = "networking.istio.io/v1"

// check says before anything is built or started whether the demo can be held there.
func (g *guest) check(ctx context.Context, namespaces []string) error {
	switch _, err := g.kube.Discovery().ServerResourcesForGroupVersion(istio); {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("the cluster at %s does not serve %s: install Istio, of which the base chart is enough "+
			"(helm install istio-base base --repo https://istio-release.storage.googleapis.com/charts -n istio-system --create-namespace)",
			g.rest.Host, istio)
	case err != nil:
		return fmt.Errorf("asking the cluster at %s what it serves: %w", g.rest.Host, err)
	}
	for _, name := range namespaces {
		switch _, err := g.kube.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); {
		case err == nil:
			return fmt.Errorf("namespace %s exists on the cluster at %s, where the demo makes one of its own: end the demo that made it, or use another cluster",
				name, g.rest.Host)
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("looking for namespace %s: %w", name, err)
		}
	}
	return nil
}

// remove takes the demo's namespaces away; what it can't, it tells.
func (g *guest) remove(ctx context.Context, namespaces []string, out *narrator) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var faults []error
	for _, name := range namespaces {
		if err := g.kube.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			faults = append(faults, err)
		}
	}
	if err := errors.Join(faults...); err != nil {
		out.say("the demo's namespaces are left in the cluster: %v", err)
	}
}
