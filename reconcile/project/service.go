package project

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

// leading is the plan by which users are led. A new release's is it from its promotion on: until then the users of the one that serves are
// led as they were, and the canary gets its share of them. Where no policy has led them, the new one does from the start, or nobody would
// come.
func (in Input) leading() rollout.Plan {
	switch before := in.State.StablePlan; in.State.Phase {
	case rollout.Starting, rollout.Analyzing, rollout.RollingBack:
		if before != nil && (before.Canary() || before.Routed()) {
			return *before
		}
	default:
	}
	return in.Plan
}

// service says how users are led. What said nothing to the provider by which they were led says nothing to another one either.
func (in Input) service() environments.Service {
	plan := in.leading()
	if s := plan.Service; routeless(plan) && !routeless(rollout.Plan{Provider: in.provider()}) {
		return environments.Service{
			Name: s.Name, Port: s.Port, PortName: s.PortName, TargetPort: s.TargetPort, AppProtocol: s.AppProtocol,
			PortDiscovery: s.PortDiscovery, Labels: s.Labels, Annotations: s.Annotations,
		}
	}
	return plan.Service
}

// provider shares the app's traffic. Where users come by routes that it has generated, it is that of the release which serves until no
// canary is there any more: another one would take the routes away in the middle of a rollout, and its canary's pods have other labels.
// Else the new release's may have what it needs from the start.
func (in Input) provider() string {
	before := in.State.StablePlan
	if before == nil || !before.Canary() && !before.Public() || routeless(*before) {
		return in.Plan.Provider
	}
	switch in.State.Phase {
	case rollout.Starting, rollout.Analyzing, rollout.RollingBack, rollout.Promoting:
		return before.Provider
	case rollout.Draining:
		if !in.State.Drained {
			return before.Provider
		}
	default:
	}
	return in.Plan.Provider
}

// routeless reports whether the provider that a plan names makes no routes.
func routeless(p rollout.Plan) bool {
	provider, err := providerOf(p.Provider)
	return err == nil && len(provider.generates) == 0
}

// mainService names the Service that users address: the policy's, else the one named as the workload, else the one
// that a VirtualService routes to, else the only one that is not headless; empty when there is none.
func (a *app) mainService(routed string) (string, error) {
	if name := a.says.Name; name != "" {
		return name, nil
	}
	workload := a.servingWorkload().GetName()
	if a.service(workload) != nil {
		return workload, nil
	}
	if routed != "" {
		return routed, nil
	}
	candidates := slices.DeleteFunc(slices.Clone(a.services), func(s *unstructured.Unstructured) bool {
		return len(a.services) > 1 && stringAt(s.Object, "spec", "clusterIP") == "None"
	})
	switch {
	case len(candidates) == 1:
		return candidates[0].GetName(), nil
	case len(candidates) > 1:
		return "", fmt.Errorf("%d Services (%s) select the pods of %s: name the one to route in service.name",
			len(candidates), listNames(candidates), describe(a.workload))
	default:
		return "", nil
	}
}

// missingService returns the Service that the policy asks for and the release does not have: the one that it names,
// or with a port alone one named as the workload. It is nil when nothing is missing.
func (a *app) missingService() (*unstructured.Unstructured, error) {
	s := a.says
	switch {
	case s.Name != "" && a.service(s.Name) == nil:
		return a.generateService(s.Name)
	case s.Name == "" && s.Port > 0 && len(a.services) == 0:
		return a.generateService(a.servingWorkload().GetName())
	default:
		return nil, nil
	}
}

// generateService makes the policy's Service. It selects what the workload selects.
func (a *app) generateService(name string) (*unstructured.Unstructured, error) {
	s := a.says
	workload := a.servingWorkload()
	if other := a.serving.find(objects.Key{Kind: "Service", Namespace: a.namespace(), Name: name}); other != nil {
		return nil, fmt.Errorf("%s does not select the pods of %s, expected the Service of the app", describe(other), describe(workload))
	}
	if s.Port <= 0 {
		return nil, fmt.Errorf("the release has no Service %s, and service.port, which would make one, is not set", name)
	}
	selector := textsAt(objects.PodSelector(workload), "matchLabels")
	if len(selector) == 0 {
		selector = objects.PodLabels(workload)
	}
	c := a.newObject("v1", "Service", name)
	a.addMetadata(c)
	c.Object["spec"] = map[string]any{"type": "ClusterIP", "selector": anyMap(selector), "ports": servicePorts(s, workload)}
	return c, nil
}

// servicePorts are the policy's port and, with portDiscovery, the other ports that the pods' containers declare.
func servicePorts(s environments.Service, workload *unstructured.Unstructured) []any {
	var target any = int64(s.Port)
	if s.TargetPort != "" {
		target = s.TargetPort
		if n, err := strconv.ParseInt(s.TargetPort, 10, 32); err == nil {
			target = n
		}
	}
	name := cmp.Or(s.PortName, "http")
	first := map[string]any{"name": name, "port": int64(s.Port), "targetPort": target, "protocol": "TCP"}
	if s.AppProtocol != "" {
		first["appProtocol"] = s.AppProtocol
	}
	ports := []any{first}
	if !s.PortDiscovery {
		return ports
	}
	names, numbers := []string{name}, []int{s.Port}
	for _, container := range mapsAt(podSpec(workload), "containers") {
		for _, port := range mapsAt(container, "ports") {
			number, ok := intAt(port, "containerPort")
			name := cmp.Or(stringAt(port, "name"), "port-"+strconv.Itoa(number))
			if !ok || name == target || target == int64(number) || slices.Contains(names, name) || slices.Contains(numbers, number) {
				continue
			}
			names, numbers = append(names, name), append(numbers, number)
			ports = append(ports, map[string]any{
				"name": name, "port": int64(number), "targetPort": name, "protocol": cmp.Or(stringAt(port, "protocol"), "TCP"),
			})
			if stringAt(port, "name") == "" {
				ports[len(ports)-1].(map[string]any)["targetPort"] = int64(number)
			}
		}
	}
	return ports
}

// containerPort is the number that a port of a Service leads to in the stable track's pods; 0 when they do not say.
func (a *app) containerPort(port map[string]any) int {
	name := stringAt(port, "targetPort")
	if name == "" {
		if number, ok := intAt(port, "targetPort"); ok {
			return number
		}
		number, _ := intAt(port, "port")
		return number
	}
	if number, err := strconv.Atoi(name); err == nil {
		return number
	}
	for _, container := range mapsAt(podSpec(a.servingWorkload()), "containers") {
		for _, p := range mapsAt(container, "ports") {
			if stringAt(p, "name") == name {
				number, _ := intAt(p, "containerPort")
				return number
			}
		}
	}
	return 0
}

func (a *app) newObject(apiVersion, kind, name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": apiVersion,
		"kind":       kind,
		"metadata":   map[string]any{"name": name, "namespace": a.namespace()},
	}}
}

// addMetadata puts the policy's labels and annotations on a generated object.
func (a *app) addMetadata(obj *unstructured.Unstructured) {
	if labels := a.says.Labels; len(labels) > 0 {
		setAt(obj.Object, anyMap(labels), "metadata", "labels")
	}
	if annotations := a.says.Annotations; len(annotations) > 0 {
		setAt(obj.Object, anyMap(annotations), "metadata", "annotations")
	}
}
