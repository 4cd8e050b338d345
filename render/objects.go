package render

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/render/manifest"
	"github.com/sluice-cd/sluice/render/objects"
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
		n = 1 + slices.Index(manifest.Documents(file), d.text)
	}
	return fmt.Sprintf("%s, document %d", d.source, n)
}

// located is an object with the document that it came from.
type located struct {
	obj *unstructured.Unstructured
	doc string
}

// decode turns the text into objects, none of them in its namespace yet.
func (r *rendering) decode(files map[string]string, out *product) error {
	crds, err := decodeAll(out.CRDs, nil)
	if err != nil {
		return err
	}
	all, err := decodeAll(out.Manifest, files)
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b located) int { return cmp.Compare(manifest.Order(a.obj), manifest.Order(b.obj)) })
	all = append(crds, all...)

	warnings, err := r.caps.bringUpToDate(all)
	if err != nil {
		return err
	}
	out.Warnings = append(out.Warnings, warnings...)
	nodes := 0
	for _, o := range all {
		if nodes += countNodes(o.obj.Object); nodes > maxNodes {
			return &LimitError{What: "number of fields in what the templates print", Limit: maxNodes, Count: true}
		}
		text, err := json.Marshal(o.obj.Object)
		if err != nil {
			return fmt.Errorf("%s: %w", o.doc, err)
		}
		out.Objects = append(out.Objects, object{JSON: text, Doc: o.doc})
	}
	out.Definitions = len(crds)
	return nil
}

// countNodes counts a value and all that is in it.
func countNodes(v any) int {
	n := 1
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			n += countNodes(e)
		}
	case []any:
		for _, e := range v {
			n += countNodes(e)
		}
	}
	return n
}

// decodeAll decodes text that consists of documents with a Source comment each. Files are where they come from.
func decodeAll(text string, files map[string]string) ([]located, error) {
	var all []located
	for _, doc := range parseDocuments(text) {
		doc.files = files
		decoded, err := manifest.Decode(doc.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", doc, err)
		}
		for _, o := range decoded {
			all = append(all, located{o, doc.String()})
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
	for _, part := range manifest.Documents(text) {
		if rest, ok := strings.CutPrefix(part, sourceMark); ok {
			source, part, _ = strings.Cut(rest, "\n")
		}
		count[source]++
		docs = append(docs, document{source: source, n: count[source], text: part})
	}
	return docs
}

// checkDuplicates refuses two objects with one identity, whatever their versions: only one of them could be applied.
func checkDuplicates(all []located) error {
	seen := make(map[objects.Key]string, len(all))
	for _, o := range all {
		k := objects.KeyOf(o.obj)
		if first, ok := seen[k]; ok {
			return fmt.Errorf("%s: %s %s is already in %s", o.doc, k.Kind, k.Name, first)
		}
		seen[k] = o.doc
	}
	return nil
}
