package objects

import (
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// PodSpec is the spec of the pods that an object is or makes; nil: it makes none.
func PodSpec(o *unstructured.Unstructured) map[string]any {
	spec := field(o.Object, "spec")
	switch gk := GroupKind(o); {
	case gk.Group == "" && gk.Kind == "Pod":
		return spec
	case gk.Group == "batch" && gk.Kind == "CronJob":
		return field(spec, "jobTemplate", "spec", "template", "spec")
	case gk.Group == "apps", gk.Group == "batch", gk.Group == "" && gk.Kind == "ReplicationController":
		return field(spec, "template", "spec")
	default:
		return nil
	}
}

func field(m map[string]any, path ...string) map[string]any {
	for _, name := range path {
		m, _ = m[name].(map[string]any)
	}
	return m
}

// Once returns an object as server-side apply takes it: without entries that a list of its pods has twice. Helm takes those, and
// of an environment variable the last one counts for the kubelet. Dropped says what was left out, for people; with nothing to leave
// out the object is o itself. Of a port that is listed under several names the one stays by which it is asked for, see [PortNames];
// names is called where there is such a port.
//
// It is an error when leaving anything out would change what the pods do.
func Once(o *unstructured.Unstructured, names func() map[string]bool) (once *unstructured.Unstructured, dropped []string, err error) {
	if !hasTwice(PodSpec(o)) {
		return o, nil, nil
	}
	once = o.DeepCopy()
	pod := PodSpec(once)
	if list := maps(pod, "imagePullSecrets"); list != nil {
		kept := lasts(list, byName)
		if len(kept) < len(list) {
			pod["imagePullSecrets"] = anys(kept)
			dropped = append(dropped, "imagePullSecrets of its pods has an entry twice")
		}
	}
	for _, container := range containers(pod) {
		for _, lose := range []func(map[string]any, func() map[string]bool) ([]string, error){loseEnv, losePorts} {
			lost, err := lose(container, names)
			if err != nil {
				return o, nil, err
			}
			dropped = append(dropped, lost...)
		}
	}
	return once, dropped, nil
}

// Twice says what Once would leave out of objects, or why it can't.
func Twice(all []*unstructured.Unstructured) (warnings []string) {
	for _, o := range all {
		_, dropped, err := Once(o, func() map[string]bool { return PortNames(all) })
		if err != nil {
			dropped = []string{err.Error()}
		}
		for _, what := range dropped {
			warnings = append(warnings, o.GetKind()+" "+o.GetName()+": "+what)
		}
	}
	return warnings
}

// PortNames are the names by which objects ask for ports.
func PortNames(all []*unstructured.Unstructured) map[string]bool {
	names := map[string]bool{}
	for _, o := range all {
		portNames(o.Object, names)
	}
	return names
}

func portNames(v any, names map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if name, ok := e.(string); ok && (k == "targetPort" || k == "port" || k == "portName") {
				names[name] = true
			}
			portNames(e, names)
		}
	case []any:
		for _, e := range v {
			portNames(e, names)
		}
	}
}

func containers(pod map[string]any) (all []map[string]any) {
	return append(maps(pod, "initContainers"), maps(pod, "containers")...)
}

// maps are the entries of a list; nil where it is none of maps alone.
func maps(m map[string]any, name string) []map[string]any {
	list, _ := m[name].([]any)
	out := make([]map[string]any, 0, len(list))
	for _, e := range list {
		entry, ok := e.(map[string]any)
		if !ok {
			return nil
		}
		out = append(out, entry)
	}
	return out
}

func anys(list []map[string]any) []any {
	out := make([]any, len(list))
	for i, e := range list {
		out[i] = e
	}
	return out
}

func byName(e map[string]any) any { return e["name"] }

func byPort(e map[string]any) any {
	protocol, _ := e["protocol"].(string)
	if protocol == "" {
		protocol = "TCP"
	}
	return fmt.Sprint(e["containerPort"], "/", protocol)
}

// hasTwice tells whether there is anything to leave out.
func hasTwice(pod map[string]any) bool {
	if twice(maps(pod, "imagePullSecrets"), byName) {
		return true
	}
	for _, c := range containers(pod) {
		if twice(maps(c, "env"), byName) || twice(maps(c, "ports"), byPort) {
			return true
		}
	}
	return false
}

func twice(list []map[string]any, key func(map[string]any) any) bool {
	if len(list) < 2 {
		return false
	}
	seen := make(map[any]bool, len(list))
	for _, e := range list {
		seen[key(e)] = true
	}
	return len(seen) < len(list)
}

// lasts keeps the last entry of each key, where it stands.
func lasts(list []map[string]any, key func(map[string]any) any) (kept []map[string]any) {
	last := map[any]int{}
	for i, e := range list {
		last[key(e)] = i
	}
	for i, e := range list {
		if last[key(e)] == i {
			kept = append(kept, e)
		}
	}
	return kept
}

// loseEnv keeps the last of each variable. A value that refers to an earlier one would be another.
func loseEnv(container map[string]any, _ func() map[string]bool) (dropped []string, err error) {
	list := maps(container, "env")
	seen, told := map[any]bool{}, map[any]bool{}
	for _, e := range list {
		if value, ok := e["value"].(string); ok {
			for name := range seen {
				if twice(named(list, name), byName) && strings.Contains(value, fmt.Sprint("$(", name, ")")) {
					return nil, fmt.Errorf("env %v of container %v is there twice, and a value refers to it; expected it once", name, container["name"])
				}
			}
		}
		if name := e["name"]; seen[name] && !told[name] {
			told[name] = true
			dropped = append(dropped, fmt.Sprintf("env %v of container %v is there twice, and the last one counts", name, container["name"]))
		}
		seen[e["name"]] = true
	}
	if len(dropped) > 0 {
		container["env"] = anys(lasts(list, byName))
	}
	return dropped, nil
}

func named(list []map[string]any, name any) (out []map[string]any) {
	for _, e := range list {
		if e["name"] == name {
			out = append(out, e)
		}
	}
	return out
}

// losePorts keeps one entry of each port: the one whose name is in use, or the last.
func losePorts(container map[string]any, names func() map[string]bool) (dropped []string, err error) {
	list := maps(container, "ports")
	if !twice(list, byPort) {
		return nil, nil
	}
	used := names()
	var kept []map[string]any
	at := map[any]int{}
	for _, e := range list {
		i, known := at[byPort(e)]
		if !known {
			at[byPort(e)] = len(kept)
			kept = append(kept, e)
			continue
		}
		old := kept[i]
		was, _ := old["name"].(string)
		now, _ := e["name"].(string)
		switch {
		case used[was] && used[now] && was != now:
			return nil, fmt.Errorf("port %v of container %v is there twice, as %s and %s, and referred to by both names; expected one name", byPort(e), container["name"], was, now)
		case !used[was]:
			kept[i] = e
		}
		if !reflect.DeepEqual(old, e) {
			dropped = append(dropped, fmt.Sprintf("port %v of container %v is there twice, and counts as %v", byPort(e), container["name"], kept[i]["name"]))
		} else {
			dropped = append(dropped, fmt.Sprintf("port %v of container %v is there twice", byPort(e), container["name"]))
		}
	}
	container["ports"] = anys(kept)
	return dropped, nil
}
