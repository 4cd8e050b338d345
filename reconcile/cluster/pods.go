package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/sluice-cd/sluice/render/objects"
)

// hopelessRestarts is how often a container must have crashed before its pod counts as failed.
const hopelessRestarts = 3

const revisionAnnotation = "deployment.kubernetes.io/revision"

var replicaSets = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}

// newestPods lists the pods of a workload's newest revision.
func (c *Client) newestPods(ctx context.Context, k objects.Key, obj *unstructured.Unstructured) ([]corev1.Pod, error) {
	selector, err := objects.Selector(objects.PodSelector(obj))
	if err != nil {
		return nil, fmt.Errorf("reading the selector of %s: %w", k, err)
	}
	label, value, err := c.newestRevision(ctx, k, obj, selector)
	if err != nil || value == "" {
		return nil, err
	}
	newest, err := labels.NewRequirement(label, selection.Equals, []string{value})
	if err != nil {
		return nil, fmt.Errorf("selecting the newest pods of %s: %w", k, err)
	}
	// The API server's cache is good enough, and spares etcd.
	list, err := c.core.Pods(k.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: selector.Add(*newest).String(), ResourceVersion: "0",
	})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of %s: %w", k, err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil }), nil
}

// newestRevision is the label by which the pods of a workload's newest revision are told from the others; an
// empty value while there are none.
func (c *Client) newestRevision(ctx context.Context, k objects.Key, obj *unstructured.Unstructured, s labels.Selector) (label, value string, err error) {
	switch k.Kind {
	case "StatefulSet":
		value, _, _ = unstructured.NestedString(obj.Object, "status", "updateRevision")
		return "controller-revision-hash", value, nil
	case "DaemonSet":
		return "pod-template-generation", obj.GetAnnotations()["deprecated.daemonset.template.generation"], nil
	}
	list, err := c.metadata.Resource(replicaSets).Namespace(k.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: s.String(), ResourceVersion: "0",
	})
	if err != nil {
		return "", "", fmt.Errorf("listing the ReplicaSets of %s: %w", k, err)
	}
	revision := obj.GetAnnotations()[revisionAnnotation]
	for _, rs := range list.Items {
		if metav1.IsControlledBy(&rs, obj) && rs.Annotations[revisionAnnotation] == revision {
			return "pod-template-hash", rs.Labels["pod-template-hash"], nil
		}
	}
	return "", "", nil
}

// podSum is what the pods of one revision amount to.
type podSum struct {
	failed  bool
	message string
}

// judgePods counts ready pods and looks for those that will not become ready by waiting.
func judgePods(pods []corev1.Pod, wanted int64) podSum {
	var sum podSum
	ready := 0
	var failures, troubles []string
	for i := range pods {
		p := &pods[i]
		if podReady(p) {
			ready++
			continue
		}
		trouble, failed := podTrouble(p)
		switch {
		case failed:
			failures = append(failures, trouble)
		case trouble != "":
			troubles = append(troubles, trouble)
		}
	}
	sum.failed = len(failures) > 0
	sum.message = fmt.Sprintf("%d of %d pods ready", ready, wanted)
	if why := firstOf(append(failures, troubles...), 1); why != "" {
		sum.message += ": " + why
	}
	return sum
}

func podReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// podTrouble says what keeps a pod from being ready, and whether waiting will not help. An image that can't be
// pulled may still appear, so that is left to the deadline.
func podTrouble(p *corev1.Pod) (trouble string, failed bool) {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			if w := c.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				crashing := w.Reason == "CrashLoopBackOff"
				return fmt.Sprintf("pod %s container %s %s", p.Name, c.Name, waitingText(c)), crashing && c.RestartCount >= hopelessRestarts
			}
			if t := c.State.Terminated; t != nil && t.ExitCode != 0 {
				return fmt.Sprintf("pod %s container %s %s (exit %d, restarts %d)", p.Name, c.Name, t.Reason, t.ExitCode, c.RestartCount), false
			}
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return fmt.Sprintf("pod %s is not scheduled (%s)", p.Name, c.Message), false
		}
	}
	return "", false
}

func waitingText(c corev1.ContainerStatus) string {
	w := c.State.Waiting
	if t := c.LastTerminationState.Terminated; t != nil {
		return fmt.Sprintf("%s (exit %d, restarts %d)", w.Reason, t.ExitCode, c.RestartCount)
	}
	if c.RestartCount > 0 {
		return fmt.Sprintf("%s (restarts %d)", w.Reason, c.RestartCount)
	}
	return w.Reason
}

// firstOf joins at most n of the texts, sorted so that equal worlds give equal words, and counts the others.
func firstOf(texts []string, n int) string {
	if len(texts) > 1 && n > 1 {
		slices.Sort(texts)
	}
	if len(texts) <= n {
		return strings.Join(texts, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(texts[:n], "; "), len(texts)-n)
}
