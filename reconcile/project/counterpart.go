package project

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/render/objects"
)

// counterparts returns the canaries of an object that selects pods, scales the workload or sets rules for a Service.
func (a *app) counterparts(obj *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	gk := objects.GroupKind(obj)
	if r := roleOf(obj); r.does == selects {
		return a.selectCanary(obj, r)
	}
	if s, ok := scalerOf(gk); ok {
		return a.scaleCanary(obj, s), nil
	}
	if gk == serviceMonitor {
		return a.monitorCanary(obj)
	}
	return a.router.counterpart(obj), nil
}

// selectCanary copies an object that selects stable pods but would miss the canary's.
func (a *app) selectCanary(obj *unstructured.Unstructured, r role) ([]*unstructured.Unstructured, error) {
	selector, err := r.selector(obj)
	if err != nil || !r.reaches(obj, a.workload) || !a.split.misses(selector) {
		return nil, err
	}
	c := canaryCopy(obj)
	if r.plain {
		setAt(c.Object, anyMap(a.split.retargetLabels(textsAt(obj.Object, r.path...))), r.path...)
	} else {
		setAt(c.Object, a.split.retarget(mapAt(obj.Object, r.path...)), r.path...)
	}
	if objects.GroupKind(obj) == networkPolicy {
		_, err = a.addPeers(c)
	}
	return one(c), err
}

// admitCanary returns a copy of a network policy of the stable track whose peers are the app's stable pods, for the
// same pods as the original and with the canary's pods among the peers. Network policies add up, so the original
// stays as it is.
func (a *app) admitCanary(obj *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	if objects.GroupKind(obj) != networkPolicy {
		return nil, nil
	}
	c := canaryCopy(obj)
	setAt(c.Object, suffixed(obj.GetName(), "-canary-peers"), "metadata", "name")
	changed, err := a.addPeers(c)
	if err != nil || !changed {
		return nil, err
	}
	return one(c), nil
}

var networkPolicy = schema.GroupKind{Group: "networking.k8s.io", Kind: "NetworkPolicy"}

// addPeers puts the canary's pods beside the stable ones in a network policy's peers, in place.
func (a *app) addPeers(policy *unstructured.Unstructured) (changed bool, err error) {
	for _, list := range peerLists(policy) {
		for _, peer := range mapsAt(list.rule, list.field) {
			selector := mapAt(peer, "podSelector")
			missed, err := a.missed(selector)
			if err != nil {
				return false, fmt.Errorf("reading a podSelector of its peers: %w", err)
			}
			if missed {
				added := copyMap(peer)
				added["podSelector"] = a.split.retarget(selector)
				list.rule[list.field] = append(listAt(list.rule, list.field), added)
				changed = true
			}
		}
	}
	return changed, nil
}

// peerList is where a rule of a network policy lists its peers.
type peerList struct {
	rule  map[string]any
	field string
}

func peerLists(policy *unstructured.Unstructured) []peerList {
	var lists []peerList
	for _, rule := range mapsAt(policy.Object, "spec", "ingress") {
		lists = append(lists, peerList{rule, "from"})
	}
	for _, rule := range mapsAt(policy.Object, "spec", "egress") {
		lists = append(lists, peerList{rule, "to"})
	}
	return lists
}

// scalerField says where the objects of a kind name the workload that they scale.
type scalerField struct {
	schema.GroupKind
	path []string
	// replicas: it sets the number of replicas (else their size), at least as many as least says, or by itself.
	replicas bool
	least    []string
	itself   int
}

var scalerFields = []scalerField{
	{GroupKind: schema.GroupKind{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}, path: []string{"spec", "scaleTargetRef"}, replicas: true, least: []string{"spec", "minReplicas"}, itself: 1},
	{GroupKind: schema.GroupKind{Group: "keda.sh", Kind: "ScaledObject"}, path: []string{"spec", "scaleTargetRef"}, replicas: true, least: []string{"spec", "minReplicaCount"}},
	{GroupKind: schema.GroupKind{Group: "autoscaling.k8s.io", Kind: "VerticalPodAutoscaler"}, path: []string{"spec", "targetRef"}},
}

func scalerOf(gk schema.GroupKind) (scalerField, bool) {
	for _, s := range scalerFields {
		if s.GroupKind == gk {
			return s, true
		}
	}
	return scalerField{}, false
}

// scales reports whether obj scales the workload. KEDA takes a reference without a kind for a Deployment.
func (s scalerField) scales(obj, workload *unstructured.Unstructured) bool {
	ref := mapAt(obj.Object, s.path...)
	kind := stringAt(ref, "kind")
	if kind == "" {
		kind = "Deployment"
	}
	return kind == workload.GetKind() && stringAt(ref, "name") == workload.GetName() && sameNamespace(obj, workload)
}

// scaler returns the object of the release that sets a workload's replicas, or nil. Then the number is never applied:
// the two would take turns.
func (o list) scaler(workload *unstructured.Unstructured) *unstructured.Unstructured {
	for _, obj := range o {
		if s, ok := scalerOf(objects.GroupKind(obj)); ok && s.replicas && s.scales(obj, workload) {
			return obj
		}
	}
	return nil
}

// LeastAnnotation is on a canary's workload that is scaled: with how many pods it begins, and without which it is not ready.
const LeastAnnotation = "sluice.dev/least-pods"

// least is how many pods a scaler of replicas leaves its workload at least. A canary of none could not be judged.
func least(scaler *unstructured.Unstructured) int64 {
	s, _ := scalerOf(objects.GroupKind(scaler))
	n, said := intAt(scaler.Object, s.least...)
	if !said {
		n = s.itself
	}
	return int64(max(n, 1))
}

// Empty reports whether the workload that a canary would be made of is to have no pods. Then there is nothing to judge, and
// nobody must be sent there.
func Empty(objs []*unstructured.Unstructured, target environments.Target) bool {
	release := applied(objs)
	w, err := FindTarget(release, target)
	if w == nil || err != nil || release.scaler(w) != nil {
		return false
	}
	n, said := intAt(w.Object, "spec", "replicas")
	return said && n == 0
}

// scaleCanary copies an autoscaler of the workload for its canary. It leaves that a pod at least.
func (a *app) scaleCanary(obj *unstructured.Unstructured, s scalerField) []*unstructured.Unstructured {
	if !s.scales(obj, a.workload) {
		return nil
	}
	c := canaryCopy(obj)
	setAt(c.Object, canaryName(a.workload.GetName()), append(s.path[:len(s.path):len(s.path)], "name")...)
	if s.replicas {
		setAt(c.Object, least(obj), s.least...)
	}
	unstructured.RemoveNestedField(c.Object, "spec", "idleReplicaCount")
	// KEDA makes an HPA of that name.
	if hpa := mapAt(c.Object, "spec", "advanced", "horizontalPodAutoscalerConfig"); stringAt(hpa, "name") != "" {
		hpa["name"] = canaryName(stringAt(hpa, "name"))
	}
	return one(c)
}

var serviceMonitor = schema.GroupKind{Group: "monitoring.coreos.com", Kind: "ServiceMonitor"}

// monitorCanary copies a ServiceMonitor that selects a canary's Service which no monitor of the stable track selects.
// There is seldom one: the canary's Service keeps the labels of the Service that it is copied from.
func (a *app) monitorCanary(obj *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	for _, service := range selecting(a.workload, a.coming) {
		selected, err := monitors(obj, service)
		if err != nil {
			return nil, err
		}
		if !selected {
			continue
		}
		watched, err := a.serving.monitored(service)
		if err != nil {
			return nil, err
		}
		if !watched {
			return one(canaryCopy(obj)), nil
		}
	}
	return nil, nil
}

// monitored reports whether a ServiceMonitor of the release selects a Service.
func (o list) monitored(service *unstructured.Unstructured) (bool, error) {
	for _, obj := range o {
		if objects.GroupKind(obj) != serviceMonitor {
			continue
		}
		if selected, err := monitors(obj, service); err != nil || selected {
			return selected, err
		}
	}
	return false, nil
}

// monitors reports whether a ServiceMonitor selects a Service, by its labels.
func monitors(monitor, service *unstructured.Unstructured) (bool, error) {
	selector, err := objects.Selector(mapAt(monitor.Object, "spec", "selector"))
	if err != nil {
		return false, fmt.Errorf("reading spec.selector of %s: %w", describe(monitor), err)
	}
	return selector.Matches(labels.Set(textsAt(service.Object, "metadata", "labels"))), nil
}
