package render

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/sluice-cd/sluice/render/manifest"
	"github.com/sluice-cd/sluice/render/objects"
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
		n = 1 + slices.Index(manifest.Documents(file), d.text)
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
	all, err := decodeAll(out.Manifest, files)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(all, func(a, b located) int { return cmp.Compare(manifest.Order(a.obj), manifest.Order(b.obj)) })
	all = append(crds, all...)

	warnings, err := j.caps.bringUpToDate(all)
	if err != nil {
		return nil, err
	}
	out.Warnings = append(out.Warnings, warnings...)
	guessed := newScopes(all, j.in.Namespaced).place(all, out.Namespace)
	if err := checkDuplicates(all); err != nil {
		return nil, err
	}
	for _, o := range all {
		out.Objects = append(out.Objects, o.obj)
	}
	return guessed, nil
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
	seen := make(map[objects.Key]document, len(all))
	for _, o := range all {
		k := objects.KeyOf(o.obj)
		if first, ok := seen[k]; ok {
			return fmt.Errorf("%s: %s %s is already in %s", o.doc, k.Kind, k.Name, first)
		}
		seen[k] = o.doc
	}
	return nil
}
