package cluster

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// UID tells these states from all others, of another cluster or of another namespace: it is that of the namespace that they
// are in. Empty: there is none yet, or it may not be looked at.
func (c *Client) UID(ctx context.Context) (string, error) {
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
