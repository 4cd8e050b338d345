package bed_test

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BenchmarkThousandPods reports how long the bed takes from the creation of 50
// Deployments of 20 pods to all of them ready, and to all of them gone.
func BenchmarkThousandPods(b *testing.B) {
	c, err := newClient()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		ns, err := newNamespace(b.Context(), c)
		if err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		for i := range 50 {
			if err := create(b.Context(), c, ns, fmt.Sprint("app-", i), "app:1", 20, 10); err != nil {
				b.Fatal(err)
			}
		}
		eventually(b, 10*time.Minute, func() (bool, string) {
			deployments, err := c.AppsV1().Deployments(ns).List(b.Context(), metav1.ListOptions{})
			if err != nil {
				return false, err.Error()
			}
			ready := int32(0)
			for _, d := range deployments.Items {
				ready += d.Status.ReadyReplicas
			}
			return ready == 1000, fmt.Sprintf("%d pods are ready", ready)
		})
		b.ReportMetric(time.Since(begin).Seconds(), "s-ready/op")
		begin = time.Now()
		if err := c.CoreV1().Namespaces().Delete(b.Context(), ns, metav1.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
		eventually(b, 10*time.Minute, func() (bool, string) {
			_, err := c.CoreV1().Namespaces().Get(b.Context(), ns, metav1.GetOptions{})
			return err != nil, "the namespace is still there"
		})
		b.ReportMetric(time.Since(begin).Seconds(), "s-gone/op")
	}
}
