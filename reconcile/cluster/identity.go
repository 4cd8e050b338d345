package cluster

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// UID tells these states from all others, of another cluster or of another namespace: it is that of the namespace that they
// are in, which is made where it is missing. Empty: it may be neither made nor looked at.
func (c *Client) UID(ctx context.Context) (string, error) {
	if err := c.ensureNamespace(ctx, c.cfg.Namespace); err != nil {
		return "", err
	}
	ns, err := c.core.Namespaces().Get(ctx, c.cfg.Namespace, metav1.GetOptions{})
	switch {
	case err == nil:
		return string(ns.UID), nil
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err):
		return "", nil
	default:
		return "", fmt.Errorf("reading namespace %s: %w", c.cfg.Namespace, err)
	}
}
