// Package manifest turns the text of a release into objects: the documents of a text, the objects of a document, and the order
// in which Helm installs kinds. It is pure.
//
// It is apart from package objects, which the parts that decide use, for it brings Helm's packages with it.
package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"helm.sh/helm/v3/pkg/releaseutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/render/objects"
)

// MaxNesting is how deep Lists may be in Lists.
const MaxNesting = 10

// Order is the place of an object in Helm's order of installation; CRDs come before everything, kinds that Helm does not
// know come last.
func Order(o *unstructured.Unstructured) int { return OrderOf(objects.GroupKind(o)) }

// OrderOf is the same for a kind.
func OrderOf(gk schema.GroupKind) int {
	if gk == objects.CRD {
		return -1
	}
	if at, ok := order[gk.Kind]; ok {
		return at
	}
	return len(order)
}

var order = func() map[string]int {
	m := make(map[string]int, len(releaseutil.InstallOrder))
	for i, kind := range releaseutil.InstallOrder {
		m[kind] = i
	}
	return m
}()

// Parse decodes the objects of a text of YAML documents, in order.
func Parse(text string) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for i, doc := range Documents(text) {
		some, err := Decode(doc)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		all = append(all, some...)
	}
	return all, nil
}

// Documents splits text as Helm does, in order. Empty documents are left out.
//
// Helm's own releaseutil.SplitManifests does it by the regular expression (?:^|\s*\n)---\s*, which takes longer than anything else
// where a chart brings megabytes of definitions.
func Documents(text string) (docs []string) {
	text = strings.TrimSpace(text)
	add := func(doc string) {
		if doc != "" {
			docs = append(docs, strings.TrimSpace(doc))
		}
	}
	from := 0
	if strings.HasPrefix(text, separator) {
		from = skipSpace(text, len(separator))
	}
	for {
		i := strings.Index(text[from:], "\n"+separator)
		if i < 0 {
			add(text[from:])
			return docs
		}
		add(strings.TrimRight(text[from:from+i], spaces))
		from = skipSpace(text, from+i+1+len(separator))
	}
}

// separator stands between documents, at the beginning of a line.
const separator = "---"

// spaces are what a regular expression takes for them.
const spaces = "\t\n\f\r "

func skipSpace(text string, from int) int {
	return len(text) - len(strings.TrimLeft(text[from:], spaces))
}

// Decode returns the objects of one YAML document: none when it is empty or only comments, several when it is a List. Each
// has an apiVersion, a kind and a name. No text makes it panic.
func Decode(text string) (all []*unstructured.Unstructured, err error) {
	defer func() {
		if r := recover(); r != nil {
			all, err = nil, fmt.Errorf("decoding YAML: %v", r)
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
	if depth > MaxNesting {
		return nil, fmt.Errorf("%sLists are nested more than %d deep", where, MaxNesting)
	}
	var all []*unstructured.Unstructured
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
		all = append(all, inner...)
	}
	return all, nil
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
		return nil, fmt.Errorf("%s%.200q is no apiVersion%s", where, apiVersion, describe(kind, name))
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
