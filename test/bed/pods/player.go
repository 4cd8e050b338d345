// Package pods plays the pods of the test bed. It stands in for the scheduler
// and for kubelet: it puts up one node, binds every pod to it, reports the pod's
// status as its behaviour says, and removes pods that are to be deleted. No
// container ever runs. Pod addresses are of a private range that nobody dials.
//
// What it leaves out of a real cluster: resources, affinities and taints do not
// hold a pod back, volumes are never mounted, probes are never sent, and a pod
// ends at once when deleted, whatever its grace period.
package pods

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

// NodeName is the one node of the bed.
const NodeName = "bed"

const (
	nodeIP  = "10.0.0.1"
	workers = 16 // enough to keep the API server of a small machine busy
)

// Player plays all pods of one cluster. It is stateless towards the cluster: it
// may be stopped and another one started at any time.
type Player struct {
	client kubernetes.Interface
	table  *behaviour.Table
	pods   corelisters.PodLister
	queue  workqueue.TypedRateLimitingInterface[types.NamespacedName]
	book   book
}

// Start puts up the node and plays until ctx ends. It returns once the pods
// that exist are known.
func Start(ctx context.Context, config *rest.Config, table *behaviour.Table) (*Player, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "bed-pods"
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("creating the pod player's client: %w", err)
	}
	if err := putUpNode(ctx, client); err != nil {
		return nil, err
	}

	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Pods()
	p := &Player{
		client: client,
		table:  table,
		pods:   informer.Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](20*time.Millisecond, 2*time.Second)),
	}
	if _, err := informer.Informer().AddEventHandler(p.handlers()); err != nil {
		return nil, fmt.Errorf("watching pods: %w", err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.Informer().HasSynced) {
		return nil, fmt.Errorf("listing pods: %w", ctx.Err())
	}
	table.OnChange(p.playAll)
	context.AfterFunc(ctx, p.queue.ShutDown)
	for range workers {
		go p.work(ctx)
	}
	return p, nil
}

func putUpNode(ctx context.Context, client kubernetes.Interface) error {
	room := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("1000"),
		corev1.ResourceMemory: resource.MustParse("1000Gi"),
		corev1.ResourcePods:   resource.MustParse("10000"),
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: NodeName, Labels: map[string]string{
			corev1.LabelHostname: NodeName, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeIP}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Played"}},
			NodeInfo:   corev1.NodeSystemInfo{KubeletVersion: "played", OperatingSystem: "linux", Architecture: "amd64"},
		},
	}
	if _, err := client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating node %s: %w", NodeName, err)
	}
	return nil
}

func (p *Player) handlers() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			pod := obj.(*corev1.Pod)
			p.book.keep(pod)
			p.queue.Add(keyOf(pod))
		},
		UpdateFunc: func(_, obj any) { p.queue.Add(keyOf(obj.(*corev1.Pod))) },
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			p.book.release(obj.(*corev1.Pod))
		},
	}
}

func keyOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

// playAll looks at every pod again, after the table changed.
func (p *Player) playAll() {
	for _, pod := range p.book.pods() {
		p.queue.Add(pod)
	}
}

func (p *Player) work(ctx context.Context) {
	for {
		key, stop := p.queue.Get()
		if stop {
			return
		}
		if again, err := p.play(ctx, key); err != nil {
			p.queue.AddRateLimited(key)
		} else {
			p.queue.Forget(key)
			if again > 0 {
				p.queue.AddAfter(key, again)
			}
		}
		p.queue.Done(key)
	}
}

// play brings one pod a step further and returns when to look at it again; 0
// means when it changes.
func (p *Player) play(ctx context.Context, key types.NamespacedName) (again time.Duration, err error) {
	pod, err := p.pods.Pods(key.Namespace).Get(key.Name)
	if err != nil {
		return 0, nil //nolint:nilerr // gone
	}
	if pod.DeletionTimestamp != nil {
		return 0, ignoreGone(p.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		}))
	}
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return 0, nil
	}
	if pod.Spec.NodeName == "" {
		if err := p.bind(ctx, pod); err != nil {
			return 0, ignoreGone(err)
		}
	}
	now := time.Now()
	e := p.book.of(pod, now)
	status, again := statusOf(pod, p.table.Of(pod), e.ip, e.start, now)
	played := playedPart(status)
	if reflect.DeepEqual(e.played, played) {
		return again, nil
	}
	if err := p.report(ctx, pod, status); err != nil {
		return again, ignoreGone(err)
	}
	p.book.note(pod, played)
	return again, nil
}

// playedPart is the part of a status that the player decides; times that move
// with the clock and fields that the API server fills do not count.
func playedPart(s corev1.PodStatus) corev1.PodStatus {
	played := corev1.PodStatus{Phase: s.Phase, PodIP: s.PodIP}
	for _, c := range s.Conditions {
		played.Conditions = append(played.Conditions, corev1.PodCondition{Type: c.Type, Status: c.Status, Reason: c.Reason})
	}
	for _, c := range s.ContainerStatuses {
		played.ContainerStatuses = append(played.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: c.Ready, RestartCount: c.RestartCount,
			State: corev1.ContainerState{Waiting: c.State.Waiting},
		})
	}
	return played
}

func (p *Player) bind(ctx context.Context, pod *corev1.Pod) error {
	return p.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: NodeName},
	}, metav1.CreateOptions{})
}

// report replaces the status of a pod. The patch names the pod's UID, so that
// it fails on another pod of that name.
func (p *Player) report(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = p.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// ignoreGone drops the errors that say that the pod, or the pod of that UID, is
// no longer there: its next event, if any, says more.
func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// book holds what the player knows of each pod beyond the cache, which runs
// behind its own writes: without it each pod would be reported twice. It gives
// out the pod addresses 10.244.0.1 to 10.244.255.254, each to one pod at a time.
// The zero value is ready; methods may run concurrently.
type book struct {
	mu    sync.Mutex
	last  int // number of the address given last
	byUID map[types.UID]*entry
	taken map[string]bool
}

type entry struct {
	pod    types.NamespacedName
	ip     string
	start  time.Time
	played corev1.PodStatus // playedPart of the last report
}

// keep enters a pod that a player before us has reported.
func (b *book) keep(pod *corev1.Pod) {
	if pod.Status.PodIP == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	e := &entry{pod: keyOf(pod), ip: pod.Status.PodIP, start: time.Now(), played: playedPart(pod.Status)}
	if pod.Status.StartTime != nil {
		e.start = pod.Status.StartTime.Time
	}
	b.enter(pod.UID, e)
}

// of returns the entry of a pod, which begins at the first call.
func (b *book) of(pod *corev1.Pod, now time.Time) entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := b.byUID[pod.UID]; ok {
		return *e
	}
	for {
		b.last = b.last%65_024 + 1 // 256 networks of 254
		ip := fmt.Sprintf("10.244.%d.%d", (b.last-1)/254, (b.last-1)%254+1)
		if !b.taken[ip] {
			e := &entry{pod: keyOf(pod), ip: ip, start: now}
			b.enter(pod.UID, e)
			return *e
		}
	}
}

func (b *book) enter(uid types.UID, e *entry) {
	if b.byUID == nil {
		b.byUID, b.taken = map[types.UID]*entry{}, map[string]bool{}
	}
	b.byUID[uid] = e
	b.taken[e.ip] = true
}

// note keeps what was reported of a pod, unless the pod is gone by now.
func (b *book) note(pod *corev1.Pod, played corev1.PodStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := b.byUID[pod.UID]; ok {
		e.played = played
	}
}

func (b *book) release(pod *corev1.Pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e, ok := b.byUID[pod.UID]; ok {
		delete(b.taken, e.ip)
		delete(b.byUID, pod.UID)
	}
}

func (b *book) pods() []types.NamespacedName {
	b.mu.Lock()
	defer b.mu.Unlock()
	keys := make([]types.NamespacedName, 0, len(b.byUID))
	for _, e := range b.byUID {
		keys = append(keys, e.pod)
	}
	return keys
}
