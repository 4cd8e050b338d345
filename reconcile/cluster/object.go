package cluster

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/render/objects"
)

// Marks that helm install puts on each object of a release, and looks for before it touches one.
const (
	managedByLabel             = "app.kubernetes.io/managed-by"
	releaseNameAnnotation      = "meta.helm.sh/release-name"
	releaseNamespaceAnnotation = "meta.helm.sh/release-namespace"
)

// is says what is amiss with an object, for people who know the app's namespace.
func is(k objects.Key, why string) string { return k.Kind + " " + k.Name + " is " + why }

// prepare returns the object as it is sent to the API server: with Helm's marks and ours, and without what only the
// server may say. It shares everything but its metadata with o. With an error it can't be sent.
func prepare(app delivery.App, owned map[string]string, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	out := maps.Clone(o.Object)
	delete(out, "status")
	was, _ := out["metadata"].(map[string]any)
	meta := maps.Clone(was)
	if meta == nil {
		meta = map[string]any{}
	}
	for _, field := range []string{"creationTimestamp", "resourceVersion", "uid", "generation", "managedFields", "selfLink"} {
		delete(meta, field)
	}
	meta["labels"] = with(with(meta["labels"], owned), map[string]string{managedByLabel: "Helm"})
	annotations := with(meta["annotations"], map[string]string{
		releaseNameAnnotation: app.ReleaseName, releaseNamespaceAnnotation: app.Namespace,
	})
	delete(annotations, objects.CRDsAnnotation)
	meta["annotations"] = annotations
	out["metadata"] = meta
	p := &unstructured.Unstructured{Object: out}
	if objects.KeyOf(p).GroupKind() == objects.Secret {
		return p, encodeStringData(p)
	}
	return p, nil
}

// with returns a copy of a map of strings with some entries set. Entries without a value are dropped, as they are
// by the API server.
func with(m any, set map[string]string) map[string]any {
	old, _ := m.(map[string]any)
	out := make(map[string]any, len(old)+len(set))
	for k, v := range old {
		if v != nil {
			out[k] = v
		}
	}
	for k, v := range set {
		out[k] = v
	}
	return out
}

// encodeStringData moves stringData into data. The server does the same, but records the owner of a field that
// does not exist then, so that a key removed later would stay.
func encodeStringData(secret *unstructured.Unstructured) error {
	text, ok := secret.Object["stringData"].(map[string]any)
	delete(secret.Object, "stringData")
	if !ok || len(text) == 0 {
		return nil
	}
	old, _ := secret.Object["data"].(map[string]any)
	data := make(map[string]any, len(old)+len(text))
	maps.Copy(data, old)
	for k, v := range text {
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("stringData.%s is not a string", k)
		}
		data[k] = base64.StdEncoding.EncodeToString([]byte(s))
	}
	secret.Object["data"] = data
	return nil
}

// hashOf identifies the content of an object as it is applied.
func hashOf(o *unstructured.Unstructured) (string, error) {
	b, err := json.Marshal(o.Object)
	if err != nil {
		return "", fmt.Errorf("encoding %s: %w", objects.KeyOf(o), err)
	}
	return digest(b), nil
}

func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		// Lengths keep the border between parts.
		h.Write([]byte(strconv.Itoa(len(p))))
		h.Write([]byte{':'})
		h.Write(p)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18])
}

// restlessAnnotations are written by controllers to say how things stand, like a status.
var restlessAnnotations = []string{"deployment.kubernetes.io/revision"}

// fingerprint changes whenever somebody changes something in the object that could have been applied.
func fingerprint(o metav1.Object) string {
	version := "g" + strconv.FormatInt(o.GetGeneration(), 10)
	if o.GetGeneration() == 0 {
		version = specVersion(o)
	}
	annotations := o.GetAnnotations()
	for _, name := range restlessAnnotations {
		if _, ok := annotations[name]; ok {
			annotations = maps.Clone(annotations)
			delete(annotations, name)
		}
	}
	return digest([]byte(o.GetUID()), []byte(version), mapText(o.GetLabels()), mapText(annotations))
}

// specVersion stands in for the generation of kinds that have none. Where the server tracks who wrote the
// status apart (a Service, a HorizontalPodAutoscaler), what everybody else wrote is the version; the
// resourceVersion would change with every status. A writer who takes a field of ours changes these records even
// within the second that their times are cut to, for the field moves from our record to his.
func specVersion(o metav1.Object) string {
	var others []metav1.ManagedFieldsEntry
	status := false
	for _, m := range o.GetManagedFields() {
		if m.Subresource == "status" {
			status = true
			continue
		}
		others = append(others, m)
	}
	if !status {
		return "r" + o.GetResourceVersion()
	}
	b, err := json.Marshal(others)
	if err != nil {
		return "r" + o.GetResourceVersion()
	}
	return "m" + digest(b)
}

// mapText is canonical: encoding/json sorts the keys, and a nil map equals an empty one.
func mapText(m map[string]string) []byte {
	if len(m) == 0 {
		return nil
	}
	b, _ := json.Marshal(m)
	return b
}
