package project

import (
	"fmt"
	"slices"

	"github.com/sluice-cd/sluice/render/objects"
)

// contended warns of what pods of both tracks would have at a time, and is made for one: volumes that one node mounts, ports and
// directories of a node.
func (a *app) contended() (warnings []string) {
	const both = "which pods of the release before have too"
	warn := func(format string, args ...any) {
		warnings = append(warnings, fmt.Sprintf("the canary of %s ", describe(a.workload))+fmt.Sprintf(format, args...))
	}
	pod, stable := podSpec(a.workload), podSpec(a.servingWorkload())
	for _, volume := range mapsAt(pod, "volumes") {
		claim, path := mapAt(volume, "persistentVolumeClaim"), stringAt(volume, "hostPath", "path")
		name := stringAt(claim, "claimName")
		if !writes(pod, volume) {
			continue
		}
		if name != "" && mountsClaim(stable, name) {
			switch modes := a.accessModes(name); {
			case len(modes) > 0 && !slices.Contains(modes, any("ReadWriteMany")) && !slices.Contains(modes, any("ReadOnlyMany")):
				warn("mounts PersistentVolumeClaim %s, %s: two versions write to it, and as %v it does not start on another node", name, both, modes[0])
			default:
				warn("mounts PersistentVolumeClaim %s, %s: two versions write to it", name, both)
			}
		}
		if path != "" && slices.ContainsFunc(mapsAt(stable, "volumes"), func(v map[string]any) bool { return stringAt(v, "hostPath", "path") == path }) {
			warn("mounts %s of its node, %s", path, both)
		}
	}
	ports := hostPorts(stable)
	for port := range hostPorts(pod) {
		if ports[port] {
			warn("takes port %d of its node, %s: it does not start where one of them runs", port, both)
		}
	}
	slices.Sort(warnings)
	return warnings
}

// writes reports whether a container of a pod mounts one of its volumes to write to it.
func writes(pod, volume map[string]any) bool {
	if at(volume, "persistentVolumeClaim", "readOnly") == true {
		return false
	}
	return slices.ContainsFunc(slices.Concat(mapsAt(pod, "initContainers"), mapsAt(pod, "containers")), func(c map[string]any) bool {
		return slices.ContainsFunc(mapsAt(c, "volumeMounts"), func(m map[string]any) bool {
			return m["name"] == volume["name"] && m["readOnly"] != true
		})
	})
}

func mountsClaim(pod map[string]any, name string) bool {
	return slices.ContainsFunc(mapsAt(pod, "volumes"), func(v map[string]any) bool {
		return stringAt(v, "persistentVolumeClaim", "claimName") == name
	})
}

// accessModes of a claim, of whichever release has it; none where neither does.
func (a *app) accessModes(claim string) []any {
	k := objects.Key{Kind: "PersistentVolumeClaim", Namespace: a.workload.GetNamespace(), Name: claim}
	for _, release := range []list{a.coming, a.stable} {
		if obj := release.find(k); obj != nil {
			return listAt(obj.Object, "spec", "accessModes")
		}
	}
	return nil
}

// hostPorts are the ports of their node that a pod's containers ask for: with its network, all that they declare.
func hostPorts(pod map[string]any) map[int]bool {
	found := map[int]bool{}
	for _, container := range mapsAt(pod, "containers") {
		for _, port := range mapsAt(container, "ports") {
			number, ok := intAt(port, "hostPort")
			if !ok && pod["hostNetwork"] == true {
				number, ok = intAt(port, "containerPort")
			}
			found[number] = found[number] || ok
		}
	}
	delete(found, 0)
	return found
}
