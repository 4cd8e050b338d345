package project

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/render/objects"
)

// StampAnnotation is put on the pod templates of the stable track when a release changed nothing but the config
// that its pods use. Kubernetes would keep such pods, with the config that they started with.
const StampAnnotation = "sluice.dev/config"

// Stamp is what distinguishes the pods of release to from those of release from, when their templates do not: a hash
// of the config that they use. It is empty when the templates differ, or the config does not.
//
// The stable track carries the stamp for as long as the release serves (rollout.Release.Stamp). A first install and an
// adopted release have none, so they are exactly what the chart renders.
func Stamp(from, to []*unstructured.Unstructured) string {
	a, b := index(from), index(to)
	if !podsDiffer(a, b) {
		return ""
	}
	for k, obj := range b {
		if isWorkload(obj) && (a[k] == nil || !equalTemplates(a[k], obj)) {
			return ""
		}
	}
	used := map[string]map[string]string{}
	for _, workload := range b {
		if !isWorkload(workload) {
			continue
		}
		for _, ref := range configOf(podSpec(workload)) {
			k := objects.Key{Kind: ref.kind, Namespace: workload.GetNamespace(), Name: ref.name()}
			if obj := b[k]; obj != nil && isTracked(obj) {
				used[k.Kind+"/"+k.Name] = dataOf(obj)
			}
		}
	}
	text, err := json.Marshal(used)
	if err != nil {
		return "" // strings always encode
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// stamp puts the stamps of the releases on the stable track onto the pod templates of their workloads that use config.
func (d *Desired) stamp(in Input) error {
	serving, _ := in.State.Tracks()
	return errors.Join(stampAll(d.StableWorkloads, serving.Stamp), stampAll(d.retained, in.State.Stable.Stamp))
}

func stampAll(workloads []*unstructured.Unstructured, stamp string) error {
	if stamp == "" {
		return nil
	}
	for _, workload := range workloads {
		if len(configOf(podSpec(workload))) == 0 {
			continue
		}
		err := unstructured.SetNestedField(workload.Object, stamp,
			"spec", "template", "metadata", "annotations", StampAnnotation)
		if err != nil {
			return fmt.Errorf("stamping the pods of %s: %w", describe(workload), err)
		}
	}
	return nil
}
