package pods

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// brief writes what kubectl would show of a status.
func brief(s corev1.PodStatus) string {
	c := s.ContainerStatuses[0]
	state := string(s.Phase)
	if c.State.Waiting != nil {
		state += " " + c.State.Waiting.Reason
	}
	if c.State.Terminated != nil {
		state += fmt.Sprintf(" exit %d", c.State.Terminated.ExitCode)
	}
	ready := "0/1"
	for _, condition := range s.Conditions {
		if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
			ready = "1/1"
		}
	}
	return fmt.Sprintf("%s %s restarts %d", ready, state, c.RestartCount)
}

func TestStatusOf(t *testing.T) {
	start := time.Unix(1e9, 0)
	for _, c := range []struct {
		name    string
		b       behaviour.Behaviour
		restart corev1.RestartPolicy
		age     time.Duration
		want    string
		next    time.Duration
	}{
		{"healthy", behaviour.Healthy, corev1.RestartPolicyAlways, 0, "1/1 Running restarts 0", 0},
		{"never ready", behaviour.Behaviour{Ready: behaviour.NeverReady}, corev1.RestartPolicyAlways, time.Hour, "0/1 Running restarts 0", 0},
		{"slow, before", behaviour.Behaviour{Ready: behaviour.ReadySlowly, ReadyAfterSeconds: 5}, corev1.RestartPolicyAlways, 2 * time.Second, "0/1 Running restarts 0", 3 * time.Second},
		{"slow, after", behaviour.Behaviour{Ready: behaviour.ReadySlowly, ReadyAfterSeconds: 5}, corev1.RestartPolicyAlways, 5 * time.Second, "1/1 Running restarts 0", 0},
		{"crashing, first", behaviour.Behaviour{Ready: behaviour.Crashing}, corev1.RestartPolicyAlways, 0, "0/1 Running CrashLoopBackOff restarts 0", time.Second},
		{"crashing, later", behaviour.Behaviour{Ready: behaviour.Crashing}, corev1.RestartPolicyAlways, 4 * time.Second, "0/1 Running CrashLoopBackOff restarts 2", 3 * time.Second},
		{"no image", behaviour.Behaviour{Ready: behaviour.NoImage}, corev1.RestartPolicyAlways, time.Hour, "0/1 Pending ImagePullBackOff restarts 0", 0},
		{"job", behaviour.Healthy, corev1.RestartPolicyNever, 0, "0/1 Succeeded exit 0 restarts 0", 0},
		{"slow job, before", behaviour.Behaviour{Ready: behaviour.ReadySlowly, ReadyAfterSeconds: 5}, corev1.RestartPolicyNever, 0, "0/1 Running restarts 0", 5 * time.Second},
		{"failing job", behaviour.Behaviour{Ready: behaviour.Crashing}, corev1.RestartPolicyNever, 0, "0/1 Failed exit 1 restarts 0", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: c.restart, Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}}
			status, next := statusOf(pod, c.b, "10.244.0.1", start, start.Add(c.age))
			if got := brief(status); got != c.want || next != c.next {
				t.Errorf("got %s, next %s; want %s, next %s", got, next, c.want, c.next)
			}
		})
	}
}

func TestConditionTimesStayWhileConditionsDo(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyAlways, Containers: []corev1.Container{{Name: "app", Image: "app:1"}}}}
	start := time.Unix(1e9, 0)
	pod.Status, _ = statusOf(pod, behaviour.Healthy, "10.244.0.1", start, start)
	later, _ := statusOf(pod, behaviour.Behaviour{Ready: behaviour.NeverReady}, "10.244.0.1", start, start.Add(time.Minute))
	for _, c := range later.Conditions {
		changed := c.Type == corev1.PodReady || c.Type == corev1.ContainersReady
		if c.LastTransitionTime.After(start) != changed {
			t.Errorf("%s changed at %s", c.Type, c.LastTransitionTime)
		}
	}
}

func TestAddressesAreOfOnePodAtATime(t *testing.T) {
	var b book
	seen := map[string]bool{}
	pod := func(i int) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i))}}
	}
	for i := range 3000 {
		ip := b.of(pod(i), time.Time{}).ip
		if seen[ip] || b.of(pod(i), time.Time{}).ip != ip {
			t.Fatalf("pod %d: address %s", i, ip)
		}
		seen[ip] = true
	}
	b.release(pod(7))
	if len(b.taken) != 2999 || len(b.pods()) != 2999 {
		t.Errorf("%d addresses, %d pods", len(b.taken), len(b.pods()))
	}
}
