package manifest

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/releaseutil"
)

func FuzzParse(f *testing.F) {
	f.Add("---\napiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]\n---\n# nothing\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n")
	f.Add("kind: A\nitems: [{}]")
	f.Add("apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleList\nitems: [{metadata: {name: r}}]")
	f.Fuzz(func(t *testing.T, text string) {
		objs, err := Parse(text)
		for _, o := range objs {
			if err == nil && (o.GetAPIVersion() == "" || o.GetKind() == "" || o.GetName() == "") {
				t.Errorf("an object without a name in %q", text)
			}
		}
	})
}

func TestParse(t *testing.T) {
	objs, err := Parse("a: &a\n---\n# nothing\n")
	if err == nil || !strings.HasPrefix(err.Error(), "document 1: apiVersion is missing") {
		t.Errorf("%v, %v", objs, err)
	}
	deep := strings.Repeat(`{"apiVersion":"v1","kind":"List","items":[`, MaxNesting+2) + strings.Repeat("]}", MaxNesting+2)
	if _, err := Parse(deep); err == nil || !strings.Contains(err.Error(), "nested more than") {
		t.Errorf("deep Lists: %v", err)
	}
	objs, err = Parse(`
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleList
items: [{metadata: {name: a}}, {metadata: {name: b}}]
---
{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Pod, metadata: {name: c}}]}]}
`)
	var got []string
	for _, o := range objs {
		got = append(got, o.GetAPIVersion()+" "+o.GetKind()+" "+o.GetName())
	}
	want := "rbac.authorization.k8s.io/v1 Role a, rbac.authorization.k8s.io/v1 Role b, v1 Pod c"
	if strings.Join(got, ", ") != want || err != nil {
		t.Errorf("got %s, %v", strings.Join(got, ", "), err)
	}
}

// TestDocumentsAsHelm: texts of what matters to it are split as Helm splits them.
func TestDocumentsAsHelm(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	parts := []string{"---", "--", "-", "\n", "\n", "\r\n", " ", "\t", "\v", "\u00a0", "a", "a: b", "# c"}
	for range 20_000 {
		var b strings.Builder
		for range r.IntN(12) {
			b.WriteString(parts[r.IntN(len(parts))])
		}
		var want []string
		split := releaseutil.SplitManifests(b.String())
		keys := slices.Collect(maps.Keys(split))
		sort.Sort(releaseutil.BySplitManifestsOrder(keys))
		for _, k := range keys {
			want = append(want, split[k])
		}
		if got := Documents(b.String()); !slices.Equal(got, want) {
			t.Fatalf("%q is split to %q, by Helm to %q", b.String(), got, want)
		}
	}
}
