package render

import (
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
)

// upgrade says how objects of a removed API version become ones of the version that took its place.
type upgrade struct {
	// to is the version that took its place; empty when none did.
	to string
	// change brings the object's fields to the new shape and says what it filled in; nil when the shape is the same.
	change func(obj map[string]any) (filled []string, err error)
}

// upgrades lists what Kubernetes has removed, by apiVersion/kind. Fields that an object leaves out take the
// defaults of the new version, except where the old default keeps a webhook from blocking the cluster.
var upgrades = map[string]upgrade{
	"extensions/v1beta1/Deployment":        {"apps/v1", selectTemplate},
	"extensions/v1beta1/DaemonSet":         {"apps/v1", selectTemplate},
	"extensions/v1beta1/ReplicaSet":        {"apps/v1", selectTemplate},
	"extensions/v1beta1/Ingress":           {"networking.k8s.io/v1", ingress},
	"extensions/v1beta1/NetworkPolicy":     {"networking.k8s.io/v1", nil},
	"extensions/v1beta1/PodSecurityPolicy": {},
	"policy/v1beta1/PodSecurityPolicy":     {},

	"apps/v1beta1/Deployment":            {"apps/v1", selectTemplate},
	"apps/v1beta1/StatefulSet":           {"apps/v1", selectTemplate},
	"apps/v1beta1/ControllerRevision":    {"apps/v1", nil},
	"apps/v1beta2/Deployment":            {"apps/v1", selectTemplate},
	"apps/v1beta2/DaemonSet":             {"apps/v1", selectTemplate},
	"apps/v1beta2/ReplicaSet":            {"apps/v1", selectTemplate},
	"apps/v1beta2/StatefulSet":           {"apps/v1", selectTemplate},
	"apps/v1beta2/ControllerRevision":    {"apps/v1", nil},
	"batch/v1beta1/CronJob":              {"batch/v1", nil},
	"batch/v2alpha1/CronJob":             {"batch/v1", nil},
	"policy/v1beta1/PodDisruptionBudget": {"policy/v1", disruptionBudget},

	"networking.k8s.io/v1beta1/Ingress":      {"networking.k8s.io/v1", ingress},
	"networking.k8s.io/v1beta1/IngressClass": {"networking.k8s.io/v1", nil},

	"autoscaling/v2beta1/HorizontalPodAutoscaler": {"autoscaling/v2", autoscaler},
	"autoscaling/v2beta2/HorizontalPodAutoscaler": {"autoscaling/v2", nil},

	"rbac.authorization.k8s.io/v1beta1/Role":               {"rbac.authorization.k8s.io/v1", nil},
	"rbac.authorization.k8s.io/v1beta1/RoleBinding":        {"rbac.authorization.k8s.io/v1", nil},
	"rbac.authorization.k8s.io/v1beta1/ClusterRole":        {"rbac.authorization.k8s.io/v1", nil},
	"rbac.authorization.k8s.io/v1beta1/ClusterRoleBinding": {"rbac.authorization.k8s.io/v1", nil},

	"apiextensions.k8s.io/v1beta1/CustomResourceDefinition": {"apiextensions.k8s.io/v1", customResource},
	"apiregistration.k8s.io/v1beta1/APIService":             {"apiregistration.k8s.io/v1", nil},
	"admissionregistration.k8s.io/v1beta1/MutatingWebhookConfiguration": {
		"admissionregistration.k8s.io/v1", webhooks,
	},
	"admissionregistration.k8s.io/v1beta1/ValidatingWebhookConfiguration": {
		"admissionregistration.k8s.io/v1", webhooks,
	},

	"storage.k8s.io/v1beta1/StorageClass":       {"storage.k8s.io/v1", nil},
	"storage.k8s.io/v1beta1/VolumeAttachment":   {"storage.k8s.io/v1", nil},
	"storage.k8s.io/v1beta1/CSIDriver":          {"storage.k8s.io/v1", nil},
	"storage.k8s.io/v1beta1/CSINode":            {"storage.k8s.io/v1", nil},
	"storage.k8s.io/v1beta1/CSIStorageCapacity": {"storage.k8s.io/v1", nil},

	"scheduling.k8s.io/v1alpha1/PriorityClass": {"scheduling.k8s.io/v1", nil},
	"scheduling.k8s.io/v1beta1/PriorityClass":  {"scheduling.k8s.io/v1", nil},
	"coordination.k8s.io/v1beta1/Lease":        {"coordination.k8s.io/v1", nil},
	"node.k8s.io/v1beta1/RuntimeClass":         {"node.k8s.io/v1", nil},
	"discovery.k8s.io/v1beta1/EndpointSlice":   {},

	"certificates.k8s.io/v1beta1/CertificateSigningRequest": {},

	"flowcontrol.apiserver.k8s.io/v1beta1/FlowSchema":                 {"flowcontrol.apiserver.k8s.io/v1", nil},
	"flowcontrol.apiserver.k8s.io/v1beta2/FlowSchema":                 {"flowcontrol.apiserver.k8s.io/v1", nil},
	"flowcontrol.apiserver.k8s.io/v1beta3/FlowSchema":                 {"flowcontrol.apiserver.k8s.io/v1", nil},
	"flowcontrol.apiserver.k8s.io/v1beta1/PriorityLevelConfiguration": {"flowcontrol.apiserver.k8s.io/v1", priorityLevel},
	"flowcontrol.apiserver.k8s.io/v1beta2/PriorityLevelConfiguration": {"flowcontrol.apiserver.k8s.io/v1", priorityLevel},
	"flowcontrol.apiserver.k8s.io/v1beta3/PriorityLevelConfiguration": {"flowcontrol.apiserver.k8s.io/v1", nil},
}

// bringUpToDate converts, in place, the objects whose API version the cluster no longer serves.
func (c *capabilities) bringUpToDate(objects []located) (warnings []string, err error) {
	for _, o := range objects {
		apiVersion, kind, name := o.obj.GetAPIVersion(), o.obj.GetKind(), o.obj.GetName()
		if w := c.retarget(o.obj.Object); w != "" {
			warnings = append(warnings, fmt.Sprintf("%s %s: %s", kind, name, w))
		}
		up, removed := upgrades[apiVersion+"/"+kind]
		if !removed {
			continue
		}
		if served, known := c.serves(apiVersion, kind); known && served {
			continue
		}
		filled, err := c.upgrade(up, o.obj.Object, kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %s %s: the cluster does not serve %s: %w", o.doc, kind, name, apiVersion, err)
		}
		w := fmt.Sprintf("%s %s: the cluster does not serve %s; brought to %s", kind, name, apiVersion, up.to)
		if len(filled) > 0 {
			w += " (" + strings.Join(filled, "; ") + ")"
		}
		warnings = append(warnings, w)
	}
	return warnings, nil
}

// retarget brings the reference up to date by which autoscalers find their workload: by its API group, which has changed
// with its version.
func (c *capabilities) retarget(obj map[string]any) (warning string) {
	target := table(obj, "spec", "scaleTargetRef")
	apiVersion, _ := target["apiVersion"].(string)
	kind, _ := target["kind"].(string)
	up := upgrades[apiVersion+"/"+kind]
	if served, known := c.serves(apiVersion, kind); up.to == "" || known && served {
		return ""
	}
	target["apiVersion"] = up.to
	return fmt.Sprintf("spec.scaleTargetRef: the cluster does not serve %s; brought to %s", apiVersion, up.to)
}

func (c *capabilities) upgrade(up upgrade, obj map[string]any, kind string) ([]string, error) {
	if up.to == "" {
		return nil, fmt.Errorf("no later version can stand for it; the chart has to change")
	}
	if served, known := c.serves(up.to, kind); known && !served {
		return nil, fmt.Errorf("nor does it serve %s", up.to)
	}
	var filled []string
	if up.change != nil {
		var err error
		if filled, err = up.change(obj); err != nil {
			return nil, fmt.Errorf("it can't be brought to %s: %w", up.to, err)
		}
	}
	obj["apiVersion"] = up.to
	return filled, nil
}

// table returns a map inside a map; nil when it is not there or something else.
func table(m map[string]any, path ...string) map[string]any {
	for _, key := range path {
		m, _ = m[key].(map[string]any)
	}
	return m
}

// tables returns the maps in a list.
func tables(m map[string]any, key string) []map[string]any {
	list, _ := m[key].([]any)
	var out []map[string]any
	for _, e := range list {
		if t, ok := e.(map[string]any); ok {
			out = append(out, t)
		}
	}
	return out
}

// selectTemplate fills the selector, which the old versions defaulted to the labels of the pod template, and drops
// fields that are gone.
func selectTemplate(obj map[string]any) (filled []string, err error) {
	spec := table(obj, "spec")
	if spec == nil {
		return nil, fmt.Errorf("it has no spec")
	}
	for _, gone := range []string{"rollbackTo", "templateGeneration"} {
		if _, ok := spec[gone]; ok {
			delete(spec, gone)
			filled = append(filled, "spec."+gone+" dropped")
		}
	}
	selector := table(spec, "selector")
	if len(table(selector, "matchLabels")) > 0 || len(tables(selector, "matchExpressions")) > 0 {
		return filled, nil
	}
	labels := table(spec, "template", "metadata", "labels")
	if len(labels) == 0 {
		return nil, fmt.Errorf("it has neither a selector nor labels in its pod template")
	}
	copied := make(map[string]any, len(labels))
	for k, v := range labels {
		copied[k] = v
	}
	spec["selector"] = map[string]any{"matchLabels": copied}
	return append(filled, "spec.selector set to the labels of the pod template"), nil
}

// ingress brings backends to their new shape and names the path type that the old versions implied.
func ingress(obj map[string]any) (filled []string, err error) {
	spec := table(obj, "spec")
	if backend, ok := spec["backend"]; ok {
		delete(spec, "backend")
		spec["defaultBackend"] = backend
		if err := ingressBackend(table(spec, "defaultBackend")); err != nil {
			return nil, fmt.Errorf("spec.backend: %w", err)
		}
	}
	for _, rule := range tables(spec, "rules") {
		for _, p := range tables(table(rule, "http"), "paths") {
			if p["pathType"] == nil {
				p["pathType"] = "ImplementationSpecific"
				filled = []string{"pathType set to ImplementationSpecific"}
			}
			if err := ingressBackend(table(p, "backend")); err != nil {
				return nil, fmt.Errorf("a path's backend: %w", err)
			}
		}
	}
	return filled, nil
}

func ingressBackend(backend map[string]any) error {
	if backend["resource"] != nil || backend["service"] != nil {
		return nil
	}
	name, _ := backend["serviceName"].(string)
	if name == "" {
		return fmt.Errorf("it has no serviceName")
	}
	port := map[string]any{}
	switch p := backend["servicePort"].(type) {
	case int64:
		port["number"] = p
	case float64:
		port["number"] = int64(p)
	case string:
		if n, err := strconv.ParseInt(p, 10, 32); err == nil {
			port["number"] = n
		} else {
			port["name"] = p
		}
	default:
		return fmt.Errorf("it has no servicePort")
	}
	delete(backend, "serviceName")
	delete(backend, "servicePort")
	backend["service"] = map[string]any{"name": name, "port": port}
	return nil
}

// disruptionBudget keeps an empty selector from selecting every pod: in the old version it selected none.
func disruptionBudget(obj map[string]any) ([]string, error) {
	spec := table(obj, "spec")
	selector, ok := spec["selector"].(map[string]any)
	if !ok || len(table(selector, "matchLabels")) > 0 || len(tables(selector, "matchExpressions")) > 0 {
		return nil, nil
	}
	delete(spec, "selector")
	return []string{"empty spec.selector dropped, as it selected no pods"}, nil
}

// autoscaler brings the metrics of autoscaling/v2beta1 to the shape of v2.
func autoscaler(obj map[string]any) ([]string, error) {
	for i, m := range tables(table(obj, "spec"), "metrics") {
		if err := autoscalerMetric(m); err != nil {
			return nil, fmt.Errorf("spec.metrics[%d]: %w", i, err)
		}
	}
	return nil, nil
}

func autoscalerMetric(m map[string]any) error {
	kind, _ := m["type"].(string)
	key := strings.ToLower(kind[:min(1, len(kind))]) + kind[min(1, len(kind)):]
	source := table(m, key)
	if source == nil {
		return fmt.Errorf("it has no %s", quote(key))
	}
	if kind == "Object" {
		source["describedObject"] = source["target"]
		delete(source, "target")
	}
	switch kind {
	case "Resource", "ContainerResource":
	case "Pods", "Object", "External":
		metric := map[string]any{}
		move(source, "metricName", metric, "name")
		move(source, "selector", metric, "selector")
		move(source, "metricSelector", metric, "selector")
		source["metric"] = metric
	default:
		return fmt.Errorf("unknown type %s", quote(kind))
	}
	target := map[string]any{}
	// The last one that is given decides, as an average goes before a plain value.
	for _, t := range []struct{ from, to, kind string }{
		{"targetValue", "value", "Value"},
		{"averageValue", "averageValue", "AverageValue"},
		{"targetAverageValue", "averageValue", "AverageValue"},
		{"targetAverageUtilization", "averageUtilization", "Utilization"},
	} {
		if move(source, t.from, target, t.to) {
			target["type"] = t.kind
		}
	}
	if len(target) == 0 {
		return fmt.Errorf("it has no target")
	}
	if target["type"] != "Value" {
		delete(target, "value")
	}
	source["target"] = target
	return nil
}

func move(from map[string]any, key string, to map[string]any, as string) bool {
	v, ok := from[key]
	if !ok || v == nil {
		return false
	}
	delete(from, key)
	to[as] = v
	return true
}

// webhooks fills what the old version defaulted otherwise, and refuses what the new one does not allow.
func webhooks(obj map[string]any) ([]string, error) {
	for i, w := range tables(obj, "webhooks") {
		if effects, _ := w["sideEffects"].(string); effects != "None" && effects != "NoneOnDryRun" {
			return nil, fmt.Errorf("webhooks[%d].sideEffects has to be None or NoneOnDryRun, and only the chart knows", i)
		}
		for key, old := range map[string]any{
			"failurePolicy":           "Ignore",
			"matchPolicy":             "Exact",
			"timeoutSeconds":          int64(30),
			"admissionReviewVersions": []any{"v1beta1"},
		} {
			if w[key] == nil {
				w[key] = old
			}
		}
	}
	return []string{"defaults of v1beta1 written out"}, nil
}

// priorityLevel renames a field.
func priorityLevel(obj map[string]any) ([]string, error) {
	limited := table(obj, "spec", "limited")
	if limited != nil {
		move(limited, "assuredConcurrencyShares", limited, "nominalConcurrencyShares")
	}
	return nil, nil
}

// customResource moves what apiextensions v1 says for each version to the versions.
func customResource(obj map[string]any) (filled []string, err error) {
	spec := table(obj, "spec")
	if spec == nil {
		return nil, fmt.Errorf("it has no spec")
	}
	versions := tables(spec, "versions")
	if len(versions) == 0 {
		name, _ := spec["version"].(string)
		if name == "" {
			return nil, fmt.Errorf("it names no version")
		}
		versions = []map[string]any{{"name": name, "served": true, "storage": true}}
		spec["versions"] = []any{versions[0]}
	}
	delete(spec, "version")
	preserve, said := spec["preserveUnknownFields"].(bool)
	preserve = preserve || !said
	delete(spec, "preserveUnknownFields")
	for _, v := range versions {
		if crdVersion(spec, v, preserve) {
			filled = []string{"a schema that preserves unknown fields"}
		}
	}
	for _, gone := range []string{"validation", "subresources", "additionalPrinterColumns"} {
		delete(spec, gone)
	}
	crdConversion(spec)
	if spec["scope"] == nil {
		spec["scope"] = "Namespaced"
	}
	return filled, nil
}

// crdVersion gives one version its schema, subresources and columns; true when fields outside the schema were
// allowed until now and have to be from now on.
func crdVersion(spec, v map[string]any, preserve bool) (filled bool) {
	for from, to := range map[string]string{
		"validation": "schema", "subresources": "subresources", "additionalPrinterColumns": "additionalPrinterColumns",
	} {
		if v[to] == nil && spec[from] != nil {
			v[to] = runtime.DeepCopyJSONValue(spec[from])
		}
	}
	for _, column := range tables(v, "additionalPrinterColumns") {
		move(column, "JSONPath", column, "jsonPath")
	}
	openAPI := table(v, "schema", "openAPIV3Schema")
	if openAPI == nil {
		openAPI = map[string]any{}
		v["schema"] = map[string]any{"openAPIV3Schema": openAPI}
		preserve = true
	}
	if openAPI["type"] == nil {
		openAPI["type"] = "object"
	}
	if preserve && openAPI["x-kubernetes-preserve-unknown-fields"] == nil {
		openAPI["x-kubernetes-preserve-unknown-fields"] = true
		return true
	}
	return false
}

func crdConversion(spec map[string]any) {
	conversion := table(spec, "conversion")
	if conversion == nil || conversion["webhookClientConfig"] == nil {
		return
	}
	webhook := map[string]any{"conversionReviewVersions": []any{"v1beta1"}}
	move(conversion, "webhookClientConfig", webhook, "clientConfig")
	move(conversion, "conversionReviewVersions", webhook, "conversionReviewVersions")
	conversion["webhook"] = webhook
}
