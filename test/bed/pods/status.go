package pods

import (
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// firstBackOff and maxBackOff bound the pause between two restarts of a
// crashing pod. Kubelet's are 10 s and 5 min; ours are short so that a test
// sees the count rise.
const (
	firstBackOff = time.Second
	maxBackOff   = 30 * time.Second
)

// statusOf is the status that kubelet would report of a bound pod at a time,
// started at another, and after how long it will report another one; 0 if never.
func statusOf(pod *corev1.Pod, b behaviour.Behaviour, ip string, start, now time.Time) (corev1.PodStatus, time.Duration) {
	r := report{pod: pod, start: metav1.NewTime(start.Truncate(time.Second)), ip: ip, now: metav1.NewTime(now.Truncate(time.Second))}
	age := now.Sub(start)

	switch b.Ready { //nolint:exhaustive // ready at once is what the rest does
	case behaviour.Crashing:
		if runsOnce(pod) {
			return r.ended(corev1.PodFailed, 1), 0
		}
		restarts, next := restartsAfter(age)
		return r.waiting("CrashLoopBackOff", "back-off restarting failed container", restarts), next
	case behaviour.NoImage:
		return r.waiting("ImagePullBackOff", "Back-off pulling image", 0), 0
	case behaviour.NeverReady:
		return r.running(false), 0
	case behaviour.ReadySlowly:
		if wait := time.Duration(b.ReadyAfterSeconds*float64(time.Second)) - age; wait > 0 {
			return r.running(false), wait
		}
	}
	if runsOnce(pod) {
		return r.ended(corev1.PodSucceeded, 0), 0
	}
	return r.running(true), 0
}

// runsOnce tells the pods of jobs, which end, from those of services.
func runsOnce(pod *corev1.Pod) bool { return pod.Spec.RestartPolicy != corev1.RestartPolicyAlways }

// restartsAfter counts the restarts of a pod that crashes at once, and returns
// the time to the next one. Restart n (from 1) comes after the sum of the first
// n pauses, which double up to maxBackOff.
func restartsAfter(age time.Duration) (restarts int32, next time.Duration) {
	at, pause := firstBackOff, firstBackOff
	for at <= age && restarts < math.MaxInt32 {
		restarts++
		pause = min(2*pause, maxBackOff)
		at += pause
	}
	return restarts, at - age
}

// report builds the statuses of one pod.
type report struct {
	pod        *corev1.Pod
	ip         string
	start, now metav1.Time
}

func (r report) running(ready bool) corev1.PodStatus {
	return r.status(corev1.PodRunning, ready, corev1.ContainerStatus{
		Ready: ready, Started: new(true),
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: r.start}},
	})
}

func (r report) waiting(reason, message string, restarts int32) corev1.PodStatus {
	phase, container := corev1.PodPending, corev1.ContainerStatus{
		RestartCount: restarts, Started: new(false),
		State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}},
	}
	if reason == "CrashLoopBackOff" {
		phase = corev1.PodRunning
		container.LastTerminationState.Terminated = r.terminated(1)
	}
	return r.status(phase, false, container)
}

func (r report) ended(phase corev1.PodPhase, exitCode int32) corev1.PodStatus {
	return r.status(phase, false, corev1.ContainerStatus{
		Started: new(false),
		State:   corev1.ContainerState{Terminated: r.terminated(exitCode)},
	})
}

func (r report) terminated(exitCode int32) *corev1.ContainerStateTerminated {
	reason := "Completed"
	if exitCode != 0 {
		reason = "Error"
	}
	return &corev1.ContainerStateTerminated{ExitCode: exitCode, Reason: reason, StartedAt: r.start, FinishedAt: r.start}
}

// status gives every container the same state.
func (r report) status(phase corev1.PodPhase, ready bool, state corev1.ContainerStatus) corev1.PodStatus {
	readiness, reason := corev1.ConditionFalse, "ContainersNotReady"
	switch {
	case ready:
		readiness, reason = corev1.ConditionTrue, ""
	case phase == corev1.PodSucceeded:
		reason = "PodCompleted"
	}
	s := corev1.PodStatus{
		Phase:     phase,
		HostIP:    nodeIP,
		PodIP:     r.ip,
		PodIPs:    []corev1.PodIP{{IP: r.ip}},
		StartTime: &r.start,
		QOSClass:  r.pod.Status.QOSClass,
		Conditions: []corev1.PodCondition{
			r.condition(corev1.PodScheduled, corev1.ConditionTrue, ""),
			r.condition(corev1.PodInitialized, corev1.ConditionTrue, ""),
			r.condition(corev1.ContainersReady, readiness, reason),
			r.condition(corev1.PodReady, readiness, reason),
		},
	}
	for _, c := range r.pod.Spec.InitContainers {
		s.InitContainerStatuses = append(s.InitContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, ImageID: c.Image, Ready: true,
			State: corev1.ContainerState{Terminated: r.terminated(0)},
		})
	}
	for _, c := range r.pod.Spec.Containers {
		container := state
		container.Name, container.Image, container.ImageID = c.Name, c.Image, c.Image
		container.ContainerID = "bed://" + string(r.pod.UID) + "/" + c.Name
		s.ContainerStatuses = append(s.ContainerStatuses, container)
	}
	return s
}

// condition keeps the time of a condition that does not change: deployments
// count minReadySeconds from it.
func (r report) condition(kind corev1.PodConditionType, status corev1.ConditionStatus, reason string) corev1.PodCondition {
	c := corev1.PodCondition{Type: kind, Status: status, Reason: reason, LastTransitionTime: r.now}
	for _, old := range r.pod.Status.Conditions {
		if old.Type == kind && old.Status == status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	return c
}
