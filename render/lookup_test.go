package render

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/render/lookup"
	"github.com/sluice-cd/sluice/render/release"
)

// kept is a chart that keeps a password as most do.
const kept = `{{- $s := lookup "v1" "Secret" .Release.Namespace "db" }}
apiVersion: v1
kind: Secret
metadata: {name: db}
data:
  {{- if $s }}
  password: {{ index $s.data "password" }}
  {{- else }}
  password: {{ randAlphaNum 12 | b64enc }}
  {{- end }}
`

func secret(name, password string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name, "namespace": "prod"},
		"data": map[string]any{"password": base64.StdEncoding.EncodeToString([]byte(password))},
	}}
}

// holding answers with objects of a cluster, all of them the release's own or none.
func holding(own bool, all ...*unstructured.Unstructured) lookup.Func {
	return func(_ context.Context, q lookup.Question) (f lookup.Found, _ error) {
		for _, o := range all {
			if o.GetKind() == q.Kind && o.GetNamespace() == q.Namespace && (q.Name == "" || q.Name == o.GetName()) {
				f.Objects = append(f.Objects, lookup.Object{Unstructured: o, Own: own})
			}
		}
		return f, nil
	}
}

func passwordOf(t *testing.T, r *release.Release) string {
	t.Helper()
	text, _, _ := unstructured.NestedString(r.Objects[0].Object, "data", "password")
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLookupKeepsPasswords: what a chart has made up once it finds again, and that is no other release; what it is not told of is a
// warning that names it.
func TestLookupKeepsPasswords(t *testing.T) {
	in := input(chartOf(t, map[string]string{"a.yaml": kept}))
	offline := mustRender(t, in)
	in.Lookup = holding(true)
	first := mustRender(t, in)
	in.Lookup = holding(true, secret("db", "hunter2hunter"))
	again := mustRender(t, in)
	if got := passwordOf(t, again); got != "hunter2hunter" {
		t.Errorf("the password became %q", got)
	}
	if first.Digest != again.Digest || first.Digest != offline.Digest {
		t.Error("what the release itself has made makes another release of it")
	}
	if passwordOf(t, first) == passwordOf(t, offline) || !slices.Equal(again.Volatile, []string{"randAlphaNum", "lookup"}) {
		t.Errorf("volatile %q", again.Volatile)
	}
	const unasked = "templates look up Secret prod/db and are told of nothing: there is no cluster to ask"
	if !slices.Contains(offline.Warnings, unasked) || slices.Contains(again.Warnings, unasked) || len(again.Told) != 1 {
		t.Errorf("warnings offline %q, else %q", offline.Warnings, again.Warnings)
	}
}

// TestLookupOfOthers: what others have made is a part of what a release depends on, but for what changes by itself.
func TestLookupOfOthers(t *testing.T) {
	in := input(chartOf(t, map[string]string{"a.yaml": fmt.Sprintf(configMap, "a") +
		`data: {names: "{{ range (lookup "v1" "ConfigMap" "prod" "").items }}{{ .metadata.name }}={{ .data.n }} {{ end }}", none: "{{ (lookup "v1" "ConfigMap" "prod" "c").data }}"}`}))
	other := func(version, n string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "b", "namespace": "prod", "resourceVersion": version},
			"data": map[string]any{"n": n},
		}}
	}
	digests := map[string]bool{}
	for _, o := range []*unstructured.Unstructured{other("1", "x"), other("2", "x"), other("3", "y")} {
		in.Lookup = holding(false, o)
		rel := mustRender(t, in)
		digests[rel.Digest] = true
		if want := `names: "b=` + o.Object["data"].(map[string]any)["n"].(string) + ` "`; !strings.Contains(rel.Manifest, want) {
			t.Errorf("%s\nwant %s", rel.Manifest, want)
		}
	}
	if len(digests) != 2 {
		t.Errorf("%d releases, want one for each content", len(digests))
	}
}

// TestLookupFails: where nobody knows, nothing is rendered; a template that asks without an end is stopped; and neither is
// remembered.
func TestLookupFails(t *testing.T) {
	in := input(chartOf(t, map[string]string{"a.yaml": kept}))
	in.Lookup = func(context.Context, lookup.Question) (lookup.Found, error) {
		return lookup.Found{}, errors.New("connection refused")
	}
	if _, err := cold.Render(t.Context(), in); err == nil || !strings.Contains(err.Error(), "app/templates/a.yaml:1") ||
		!strings.Contains(err.Error(), "looking up Secret prod/db: connection refused") {
		t.Errorf("error: %v", err)
	}
	in.Lookup = holding(true, secret("db", "hunter2hunter"))
	mustRender(t, in)
	for name, template := range map[string]string{
		"number of lookups is over the limit of 1000":                  `{{ range until 1001 }}{{ $x := lookup "v1" "Secret" "prod" (print .) }}{{ end }}`,
		"what the templates look up is larger than the limit of 8 MiB": `{{ range until 3 }}{{ $x := lookup "v1" "Secret" "prod" "" }}{{ end }}`,
		"a secret: ***": `{{ fail (print "a secret: " ((index (lookup "v1" "Secret" "prod" "db").data "password") | b64dec)) }}`,
	} {
		asks := input(chartOf(t, map[string]string{"a.yaml": template}))
		asks.Lookup = holding(true, secret("db", "hunter2hunter"), secret("large", strings.Repeat("x", 3<<20)))
		if _, err := cold.Render(t.Context(), asks); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("error: %.300v\nwant %s", err, name)
		}
	}
}
