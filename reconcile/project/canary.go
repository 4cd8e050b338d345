package project

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/render/objects"
)

// broughtForward are the kinds whose new objects a canary needs under their own names: others refer to them, and
// before promotion they only add. PersistentVolumeClaims are among them because pods that name one wait for it, and
// what operators make Secrets of because pods don't start without those.
var broughtForward = []schema.GroupKind{
	objects.CRD,
	{Kind: "ServiceAccount"},
	{Group: "rbac.authorization.k8s.io", Kind: "Role"},
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"},
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"},
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"},
	{Kind: "PersistentVolumeClaim"},
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"},
	{Group: "secrets-store.csi.x-k8s.io", Kind: "SecretProviderClass"},
	// What others make Secrets of.
	{Group: "external-secrets.io", Kind: "ExternalSecret"},
	{Group: "external-secrets.io", Kind: "SecretStore"},
	{Group: "bitnami.com", Kind: "SealedSecret"},
	{Group: "cert-manager.io", Kind: "Certificate"},
	{Group: "cert-manager.io", Kind: "Issuer"},
}

// addCanary adds the canary track in the order of the release under way. known are the objects of both releases,
// whose names no canary may take.
func (a *app) addCanary(d *Desired, known list) error {
	for _, obj := range a.coming {
		made, err := a.canariesOf(obj)
		if err != nil {
			return fmt.Errorf("making the canary of %s: %w", describe(obj), err)
		}
		d.Canary = append(d.Canary, made...)
	}
	served, err := a.canariesOfServing()
	if err != nil {
		return err
	}
	d.Canary = append(d.Canary, served...)
	for _, obj := range d.Canary {
		if taken := known.find(objects.KeyOf(obj)); taken != nil && !slices.Contains(broughtForward, objects.GroupKind(obj)) {
			return fmt.Errorf("the release has a %s of its own, the name that the canary needs", describe(taken))
		}
		if isWorkload(obj) {
			d.CanaryWorkloads = append(d.CanaryWorkloads, obj)
			d.CanaryName = obj.GetName()
		}
	}
	return nil
}

// canariesOf returns what stands in the canary track for one object of the release under way.
func (a *app) canariesOf(obj *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	switch {
	case obj == a.workload:
		return a.canaryWorkload()
	case isWorkload(obj):
		return nil, nil
	case isConfig(obj):
		if a.usesConfig(obj) && a.copied(obj.GetKind(), obj.GetName()) {
			return one(canaryCopy(obj)), nil
		}
		return nil, nil
	case isService(obj):
		if a.provider.joins || !sameNamespace(obj, a.workload) || !serviceSelector(obj).Matches(a.split.stable[0]) {
			return nil, nil
		}
		return a.canaryService(obj)
	case slices.Contains(broughtForward, objects.GroupKind(obj)):
		if a.serving.find(objects.KeyOf(obj)) == nil {
			return one(copyOf(obj)), nil
		}
		return nil, nil
	default:
		return a.counterparts(obj)
	}
}

// canariesOfServing returns the canaries of what only the stable track has, and the canary needs as long as that
// serves: Services through which it is reached, and network policies whose peers are the app's pods.
func (a *app) canariesOfServing() ([]*unstructured.Unstructured, error) {
	var made []*unstructured.Unstructured
	for _, service := range a.services {
		if a.provider.joins {
			break // it is reached through them
		}
		if other := a.coming.find(objects.KeyOf(service)); other != nil && serviceSelector(other).Matches(a.split.stable[0]) {
			continue
		}
		if service == a.made {
			service = a.comingService()
		}
		canary, err := a.canaryService(service)
		if err != nil {
			return nil, fmt.Errorf("making the canary of %s: %w", describe(service), err)
		}
		made = append(made, canary...)
	}
	for _, obj := range a.serving {
		peers, err := a.admitCanary(obj)
		if err != nil {
			return nil, fmt.Errorf("making the canary of %s: %w", describe(obj), err)
		}
		made = append(made, peers...)
	}
	return made, nil
}

// comingService is the Service that the policy asks for as the release under way has it, with the ports of the one before.
func (a *app) comingService() *unstructured.Unstructured {
	c := copyOf(a.made)
	if s := a.in.Plan.Service; s.Port > 0 {
		setAt(c.Object, servicePorts(s, a.workload), "spec", "ports")
	}
	if before := a.in.State.StablePlan; before != nil && before.Service.Port > 0 {
		old := copyOf(a.made)
		setAt(old.Object, servicePorts(before.Service, a.servingWorkload()), "spec", "ports")
		keepPorts(mapAt(c.Object, "spec"), old)
	}
	return c
}

func one(obj *unstructured.Unstructured) []*unstructured.Unstructured {
	return []*unstructured.Unstructured{obj}
}

// kept are the annotations that would keep a canary's objects when the rollout is over.
var kept = []string{"helm.sh/resource-policy", "sluice.dev/prune"}

// canaryCopy returns a copy of obj under its canary's name.
func canaryCopy(obj *unstructured.Unstructured) *unstructured.Unstructured {
	c := copyOf(obj)
	setAt(c.Object, canaryName(obj.GetName()), "metadata", "name")
	dropAnnotations(c, func(name string) bool { return slices.Contains(kept, name) })
	return c
}

func dropAnnotations(obj *unstructured.Unstructured, drop func(name string) bool) {
	annotations := mapAt(obj.Object, "metadata", "annotations")
	if annotations == nil {
		return
	}
	for name := range annotations {
		if drop(name) {
			delete(annotations, name)
		}
	}
	if len(annotations) == 0 {
		unstructured.RemoveNestedField(obj.Object, "metadata", "annotations")
	}
}

// canaryWorkload copies the workload under judgement, with as many replicas as its release asks for.
func (a *app) canaryWorkload() ([]*unstructured.Unstructured, error) {
	c := canaryCopy(a.workload)
	setAt(c.Object, a.split.retarget(objects.PodSelector(a.workload)), "spec", "selector")
	setAt(c.Object, anyMap(a.split.canary), "spec", "template", "metadata", "labels")
	if scaler := a.coming.scaler(a.workload); scaler != nil {
		unstructured.RemoveNestedField(c.Object, "spec", "replicas")
		setAt(c.Object, strconv.FormatInt(least(scaler), 10), "metadata", "annotations", LeastAnnotation)
	}
	if n, ok := a.router.replicas(); ok {
		setAt(c.Object, int64(n), "spec", "replicas")
	}
	pod := podSpec(c)
	a.pointToCopies(pod)
	return one(c), a.spreadCanary(pod)
}

// spreadCanary rewrites the selectors by which pods of the app keep away from each other or together, so that the
// canary's pods are spread like the stable ones, among themselves.
func (a *app) spreadCanary(pod map[string]any) error {
	terms := mapsAt(pod, "topologySpreadConstraints")
	for _, affinity := range []string{"podAffinity", "podAntiAffinity"} {
		rules := mapAt(pod, "affinity", affinity)
		terms = append(terms, mapsAt(rules, "requiredDuringSchedulingIgnoredDuringExecution")...)
		for _, preferred := range mapsAt(rules, "preferredDuringSchedulingIgnoredDuringExecution") {
			if term := mapAt(preferred, "podAffinityTerm"); term != nil {
				terms = append(terms, term)
			}
		}
	}
	for _, term := range terms {
		selector := mapAt(term, "labelSelector")
		missed, err := a.missed(selector)
		if err != nil {
			return fmt.Errorf("reading a labelSelector of its pods: %w", err)
		}
		if missed {
			term["labelSelector"] = a.split.retarget(selector)
		}
	}
	return nil
}

// missed reports whether a metav1.LabelSelector selects stable pods but not canary pods.
func (a *app) missed(selector map[string]any) (bool, error) {
	s, err := objects.Selector(selector)
	if err != nil {
		return false, err
	}
	return a.split.misses(s), nil
}

// outward are the fields of a Service that give it addresses of its own outside the cluster.
var outward = []string{
	"clusterIPs", "externalIPs", "externalName", "loadBalancerIP", "loadBalancerSourceRanges", "loadBalancerClass",
	"healthCheckNodePort", "externalTrafficPolicy", "allocateLoadBalancerNodePorts",
}

// exposing are prefixes of the annotations by which controllers publish a Service outside the cluster.
var exposing = []string{"external-dns.alpha.kubernetes.io/", "fabric8.io/", "getambassador.io/"}

// canaryService copies a Service for the canary's pods; it is reachable inside the cluster only. It keeps the
// Service's labels, so that a ServiceMonitor that selects by them sees both.
func (a *app) canaryService(service *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	c := canaryCopy(service)
	spec := mapAt(c.Object, "spec")
	for _, field := range outward {
		delete(spec, field)
	}
	if spec["clusterIP"] != "None" {
		delete(spec, "clusterIP")
	}
	if t := stringAt(spec, "type"); t == "NodePort" || t == "LoadBalancer" {
		spec["type"] = "ClusterIP"
	}
	for _, port := range mapsAt(spec, "ports") {
		delete(port, "nodePort")
	}
	dropAnnotations(c, func(name string) bool {
		return slices.ContainsFunc(exposing, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
	})
	if old := a.stable.find(objects.KeyOf(service)); old != nil {
		keepPorts(spec, old)
	}
	selector := a.split.retargetLabels(textsAt(service.Object, "spec", "selector"))
	spec["selector"] = anyMap(selector)
	for _, release := range []list{a.stable, a.coming} {
		if other := release.selects(labels.SelectorFromSet(selector)); other != nil {
			return nil, fmt.Errorf("its canary's selector (%s) would match pods of %s", labels.Set(selector), describe(other))
		}
	}
	return one(c), nil
}

// keepPorts adds to a canary's Service the ports that only the stable one has, as long as they can be told where they
// lead now: routes name the stable Service's ports until promotion. A port is known again by its name, an only one in
// any case.
func keepPorts(spec map[string]any, stable *unstructured.Unstructured) {
	ports, old := mapsAt(spec, "ports"), mapsAt(stable.Object, "spec", "ports")
	all := listAt(spec, "ports")
	for _, p := range old {
		same := func(field string) func(map[string]any) bool {
			return func(q map[string]any) bool { return at(q, field) == at(p, field) && protocolOf(q) == protocolOf(p) }
		}
		if slices.ContainsFunc(ports, same("port")) {
			continue
		}
		i := slices.IndexFunc(ports, same("name"))
		if len(ports) == 1 && len(old) == 1 {
			i = 0
		}
		if i < 0 {
			continue
		}
		added := copyMap(ports[i])
		if added["targetPort"] == nil {
			added["targetPort"] = added["port"]
		}
		added["port"] = at(p, "port")
		all = append(all, added)
	}
	if len(all) == len(ports) {
		return
	}
	// Names are there to tell several ports apart; what stands before the first dash is the protocol's, to Istio.
	for i, p := range mapsAt(map[string]any{"ports": all}, "ports") {
		if name := stringAt(p, "name"); i >= len(ports) || name == "" {
			p["name"] = fmt.Sprintf("%s-%v", cmp.Or(name, "port"), p["port"])
		}
	}
	spec["ports"] = all
}

func protocolOf(port map[string]any) string { return cmp.Or(stringAt(port, "protocol"), "TCP") }

// deferred warns of what a canary does without until promotion, and of what its workload says against one.
func (a *app) deferred() []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	for _, obj := range a.coming {
		old := a.serving.find(objects.KeyOf(obj))
		switch {
		case old == nil && isWorkload(obj) && obj != a.workload:
			warn("%s is new and comes with promotion; the canary of %s runs without it", describe(obj), describe(a.workload))
		case old != nil && isWorkload(obj) && obj != a.workload && !equalTemplates(old, obj):
			warn("%s changes too: it comes with promotion, and nothing judges it; the canary of %s runs beside the present one", describe(obj), describe(a.workload))
		case old != nil && slices.Contains(broughtForward, objects.GroupKind(obj)) && !sameContent(old, obj):
			warn("%s changes with promotion; the canary runs with its present content", describe(obj))
		}
	}
	if stringAt(a.workload.Object, "spec", "strategy", "type") == "Recreate" {
		warn("%s has the strategy Recreate, as if two versions must not run at once, but its canary runs beside it",
			describe(a.workload))
	}
	return slices.Concat(warnings, a.strayPorts(), a.contended())
}

// strayPorts warns of Services whose ports would lead where pods of the other release do not listen: promotion changes the Service at once,
// and pods one by one; where canary pods join the stable Service, they are reached by its ports before that.
func (a *app) strayPorts() (warnings []string) {
	warn := func(service *unstructured.Unstructured, port, target any, pods, until string) {
		warnings = append(warnings, fmt.Sprintf("%s sends port %v to %v, where pods of the %s release do not listen: requests to them fail until %s; "+
			"expected a port that both have, such as a named one", describe(service), port, target, pods, until))
	}
	for _, service := range a.services {
		before, after := a.versions(service.GetName())
		if before == nil || after == nil {
			continue
		}
		for _, next := range mapsAt(after.Object, "spec", "ports") {
			for _, old := range mapsAt(before.Object, "spec", "ports") {
				from, to := targetOf(old), targetOf(next)
				if at(old, "port") != at(next, "port") || from == to {
					continue
				}
				if !listens(a.servingWorkload(), to) {
					warn(service, at(next, "port"), to, "present", "promotion has replaced them")
				}
				if a.provider.joins && !listens(a.workload, from) {
					warn(service, at(old, "port"), from, "new", "promotion")
				}
			}
		}
	}
	return warnings
}

// targetOf is the port of pods, a number or a name, that a Service's port leads to.
func targetOf(port map[string]any) string {
	if target := at(port, "targetPort"); target != nil && target != "" {
		return fmt.Sprint(target)
	}
	return fmt.Sprint(at(port, "port"))
}

// listens reports whether a workload's pods have a port of that number or name. What they don't say they are taken not to have.
func listens(workload *unstructured.Unstructured, target string) bool {
	for _, container := range mapsAt(podSpec(workload), "containers") {
		for _, p := range mapsAt(container, "ports") {
			if stringAt(p, "name") == target || fmt.Sprint(at(p, "containerPort")) == target {
				return true
			}
		}
	}
	return false
}

// sameContent compares two objects but for their labels, which charts change with every version.
func sameContent(x, y *unstructured.Unstructured) bool {
	a, b := copyOf(x), copyOf(y)
	for _, obj := range []*unstructured.Unstructured{a, b} {
		unstructured.RemoveNestedField(obj.Object, "metadata", "labels")
	}
	return equalObjects(a, b)
}
