package render

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/render/release"
)

// document is one YAML document of a release.
type document struct {
	source string // the template
	n      int    // its number in the text that it was read from, from 1
	text   string // without the Source comment
	// files are the rendered templates, for telling where the document was before Helm sorted them; nil for crds/.
	files map[string]string
}

// String names the place for a person: the template, and the number of the document in it.
func (d document) String() string {
	n := d.n
	if file, ok := d.files[d.source]; ok {
		n = 1 + slices.Index(splitDocuments(file), d.text)
	}
	return fmt.Sprintf("%s, document %d", d.source, n)
}

// located is an object with the document that it came from.
type located struct {
	obj *unstructured.Unstructured
	doc document
}

// decode turns the release's text into its objects. It returns the kinds whose scope nobody knew.
func (j *job) decode(files map[string]string, out *release.Release) ([]schema.GroupVersionKind, error) {
	crds, err := decodeAll(out.CRDs, nil)
	if err != nil {
		return nil, err
	}
	objects, err := decodeAll(out.Manifest, files)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(objects, func(a, b located) int { return cmp.Compare(installOrder(a.obj), installOrder(b.obj)) })
	objects = append(crds, objects...)

	warnings, err := j.caps.bringUpToDate(objects)
	if err != nil {
		return nil, err
	}
	out.Warnings = append(out.Warnings, warnings...)
	guessed := newScopes(objects, j.in.Namespaced).place(objects, out.Namespace)
	if err := checkDuplicates(objects); err != nil {
		return nil, err
	}
	for _, o := range objects {
		out.Objects = append(out.Objects, o.obj)
	}
	return guessed, nil
}

// installOrder is the place of an object in Helm's order of installation; CRDs come before everything, kinds that Helm
// does not know come last.
func installOrder(o *unstructured.Unstructured) int {
	if o.GetKind() == "CustomResourceDefinition" {
		return -1
	}
	if at, ok := installIndex[o.GetKind()]; ok {
		return at
	}
	return len(installIndex)
}

var installIndex = func() map[string]int {
	m := make(map[string]int, len(releaseutil.InstallOrder))
	for i, kind := range releaseutil.InstallOrder {
		m[kind] = i
	}
	return m
}()

// decodeAll decodes text that consists of documents with a Source comment each. Files are where they come from.
func decodeAll(text string, files map[string]string) ([]located, error) {
	var all []located
	for _, doc := range parseDocuments(text) {
		doc.files = files
		objects, err := decodeDocument(doc.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", doc, err)
		}
		for _, o := range objects {
			all = append(all, located{o, doc})
		}
	}
	return all, nil
}

const sourceMark = "# Source: "

// parseDocuments splits the text of a release. A document without a Source comment belongs to the template before it:
// files in crds/ may hold several.
func parseDocuments(text string) []document {
	var docs []document
	count := map[string]int{}
	source := ""
	for _, part := range splitDocuments(text) {
		if rest, ok := strings.CutPrefix(part, sourceMark); ok {
			source, part, _ = strings.Cut(rest, "\n")
		}
		count[source]++
		docs = append(docs, document{source: source, n: count[source], text: part})
	}
	return docs
}

// decodeDocument returns the objects of one YAML document: none when it is empty or only comments, several when it is a
// List.
func decodeDocument(text string) (objects []*unstructured.Unstructured, err error) {
	defer func() {
		if r := recover(); r != nil {
			objects, err = nil, fmt.Errorf("decoding YAML: %v", r)
		}
	}()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("decoding YAML: %w", err)
	}
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return nil, nil
	}
	var content map[string]any
	if err := utiljson.Unmarshal(data, &content); err != nil {
		return nil, errors.New("not an object: expected a map with apiVersion, kind and metadata")
	}
	return flatten(content, "", 0)
}

// flatten checks an object, or the items of a List, which may be Lists themselves.
func flatten(content map[string]any, where string, depth int) ([]*unstructured.Unstructured, error) {
	if len(content) == 0 && where == "" {
		return nil, nil
	}
	kind, _ := content["kind"].(string)
	items, isList := content["items"].([]any)
	if !isList || !strings.HasSuffix(kind, "List") {
		if kind == "List" && content["items"] == nil {
			return nil, nil
		}
		obj, err := checkObject(content, where)
		if err != nil {
			return nil, err
		}
		return []*unstructured.Unstructured{obj}, nil
	}
	if depth > maxNesting {
		return nil, fmt.Errorf("%sLists are nested more than %d deep", where, maxNesting)
	}
	var objects []*unstructured.Unstructured
	for i, item := range items {
		at := fmt.Sprintf("%sitems[%d]: ", where, i)
		m, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%snot an object", at)
		}
		inheritType(m, content, kind)
		inner, err := flatten(m, at, depth+1)
		if err != nil {
			return nil, err
		}
		objects = append(objects, inner...)
	}
	return objects, nil
}

// inheritType gives the items of a typed list, such as a RoleList, their type where they leave it out.
func inheritType(item, list map[string]any, kind string) {
	if element := strings.TrimSuffix(kind, "List"); element != "" && item["kind"] == nil && item["apiVersion"] == nil {
		item["kind"], item["apiVersion"] = element, list["apiVersion"]
	}
}

func checkObject(content map[string]any, where string) (*unstructured.Unstructured, error) {
	apiVersion, _ := content["apiVersion"].(string)
	kind, _ := content["kind"].(string)
	meta, _ := content["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	for _, field := range []struct{ name, value string }{
		{"apiVersion", apiVersion}, {"kind", kind}, {"metadata.name", name},
	} {
		if field.value == "" {
			return nil, fmt.Errorf("%s%s is missing or no text%s", where, field.name, describe(kind, name))
		}
	}
	if _, err := schema.ParseGroupVersion(apiVersion); err != nil {
		return nil, fmt.Errorf("%s%s is no apiVersion%s", where, quote(apiVersion), describe(kind, name))
	}
	if ns, ok := meta["namespace"]; ok && ns != nil {
		if _, ok := ns.(string); !ok {
			return nil, fmt.Errorf("%smetadata.namespace is no text%s", where, describe(kind, name))
		}
	}
	return &unstructured.Unstructured{Object: content}, nil
}

// describe adds what is known of an object to an error about what is not.
func describe(kind, name string) string {
	if kind == "" && name == "" {
		return ""
	}
	return " (" + strings.TrimSpace(kind+" "+name) + ")"
}

// checkDuplicates refuses two objects with one identity, whatever their versions: only one of them could be applied.
func checkDuplicates(objects []located) error {
	type identity struct{ group, kind, namespace, name string }
	seen := make(map[identity]document, len(objects))
	for _, o := range objects {
		gvk := o.obj.GroupVersionKind()
		id := identity{gvk.Group, gvk.Kind, o.obj.GetNamespace(), o.obj.GetName()}
		if first, ok := seen[id]; ok {
			return fmt.Errorf("%s: %s %s is already in %s", o.doc, gvk.Kind, o.obj.GetName(), first)
		}
		seen[id] = o.doc
	}
	return nil
}
