package render

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/rogpeppe/go-internal/txtar"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/render/release"
)

var update = flag.Bool("update", false, "write golden files anew")

// chartOf makes a chart of templates; a name without a slash is put into templates/.
func chartOf(t testing.TB, files map[string]string) *Chart {
	t.Helper()
	fsys := fstest.MapFS{"app/Chart.yaml": {Data: []byte(chartYAML)}}
	for name, text := range files {
		if !strings.Contains(name, "/") && name != "Chart.yaml" && !strings.HasPrefix(name, "values.") {
			name = "templates/" + name
		}
		fsys["app/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return load(t, newTestFetcher(t, FetcherConfig{}), fsys, "app", false)
}

func input(c *Chart) Input {
	return Input{ReleaseName: "app", Namespace: "prod", Chart: c}
}

func mustRender(t testing.TB, in Input) *release.Release {
	t.Helper()
	r, err := cold.Render(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"

func TestServedVersionsGolden(t *testing.T) {
	const name = "testdata/served/removed.txtar"
	a, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	rel := mustRender(t, input(chartOf(t, map[string]string{"in.yaml": string(a.Files[0].Data)})))
	var objects bytes.Buffer
	for _, o := range rel.Objects {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&objects, "---\n%s", text)
	}
	got := &txtar.Archive{Comment: a.Comment, Files: []txtar.File{
		a.Files[0],
		{Name: "warnings", Data: []byte(strings.Join(rel.Warnings, "\n") + "\n")},
		{Name: "out.yaml", Data: objects.Bytes()},
	}}
	if *update {
		if err := os.WriteFile(name, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if text := txtar.Format(got); !bytes.Equal(text, txtar.Format(a)) {
		t.Errorf("got (go test -update writes it):\n%s", text)
	}
	if strings.Contains(rel.Manifest, "apps/v1\nkind: Deployment\nmetadata: {name: web}") {
		t.Error("the manifest's text was changed")
	}
}

func TestObjectsThatCannotBeServed(t *testing.T) {
	for text, want := range map[string]string{
		"apiVersion: policy/v1beta1\nkind: PodSecurityPolicy\nmetadata: {name: p}":                                                  "app/templates/a.yaml, document 1: PodSecurityPolicy p: the cluster does not serve policy/v1beta1: no later version",
		"apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: d}\nspec: {template: {}}":                               "neither a selector nor labels",
		"apiVersion: extensions/v1beta1\nkind: Deployment\nmetadata: {name: d}":                                                     "it has no spec",
		"apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: i}\nspec: {backend: {serviceName: a}}":                     "spec.backend: it has no servicePort",
		"apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: i}\nspec: {rules: [{http: {paths: [{path: /}]}}]}":         "a path's backend: it has no serviceName",
		"apiVersion: autoscaling/v2beta1\nkind: HorizontalPodAutoscaler\nmetadata: {name: h}\nspec: {metrics: [{type: Pods}]}":      `spec.metrics[0]: it has no "pods"`,
		"apiVersion: autoscaling/v2beta1\nkind: HorizontalPodAutoscaler\nmetadata: {name: h}\nspec: {metrics: [{}]}":                `spec.metrics[0]: it has no ""`,
		"apiVersion: admissionregistration.k8s.io/v1beta1\nkind: MutatingWebhookConfiguration\nmetadata: {name: m}\nwebhooks: [{}]": "webhooks[0].sideEffects",
		"apiVersion: apiextensions.k8s.io/v1beta1\nkind: CustomResourceDefinition\nmetadata: {name: c}\nspec: {}":                   "it names no version",
	} {
		_, err := cold.Render(t.Context(), input(chartOf(t, map[string]string{"a.yaml": text})))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\nerror %v, want %q", text, err, want)
		}
	}
}

func TestTheClusterDecidesWhatIsServed(t *testing.T) {
	in := input(chartOf(t, map[string]string{
		"a.yaml": "apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata: {name: p}\nspec: {}",
	}))
	for name, tt := range map[string]struct {
		versions chartutil.VersionSet
		want     string // apiVersion, or the error
	}{
		"none given":   {nil, "policy/v1"},
		"Helm's own":   {chartutil.DefaultVersionSet, "policy/v1"},
		"old cluster":  {chartutil.VersionSet{"policy/v1beta1", "policy/v1beta1/PodDisruptionBudget"}, "policy/v1beta1"},
		"both":         {chartutil.VersionSet{"policy/v1beta1/PodDisruptionBudget", "policy/v1/PodDisruptionBudget"}, "policy/v1beta1"},
		"new cluster":  {chartutil.VersionSet{"policy/v1", "policy/v1/PodDisruptionBudget"}, "policy/v1"},
		"without PDBs": {chartutil.VersionSet{"v1", "v1/Pod"}, "nor does it serve policy/v1"},
	} {
		in.Capabilities = &chartutil.Capabilities{KubeVersion: chartutil.DefaultCapabilities.KubeVersion, APIVersions: tt.versions}
		got := ""
		if rel, err := cold.Render(t.Context(), in); err != nil {
			got = err.Error()
		} else {
			got = rel.Objects[0].GetAPIVersion()
		}
		if got != tt.want && !strings.HasSuffix(got, ": "+tt.want) {
			t.Errorf("%s: got %s, want %s", name, got, tt.want)
		}
	}
}

func TestObjectsOrderAndScope(t *testing.T) {
	widget := "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: widgets.w.io}\n" +
		"spec: {group: w.io, scope: Cluster, names: {kind: Widget}}\n"
	c := chartOf(t, map[string]string{
		"crds/widget.yaml": widget,
		"a.yaml": `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: s, namespace: other}}
- {apiVersion: v1, kind: Namespace, metadata: {name: team}}
- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Secret, metadata: {name: nested}}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleList
items: [{metadata: {name: r}}]
---
{apiVersion: w.io/v1, kind: Widget, metadata: {name: w}}
---
{apiVersion: known.io/v1, kind: Cluster, metadata: {name: k, namespace: x}}
---
{apiVersion: unknown.io/v1, kind: Thing, metadata: {name: u}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: g}}
---
{apiVersion: v1, kind: List, items: []}
---
# nothing but a comment
`,
		"b.yaml": "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: templated}\nspec: {}",
	})
	in := input(c)
	in.Namespaced = func(gvk schema.GroupVersionKind) (bool, bool) { return false, gvk.Group == "known.io" }
	var got []string
	for _, o := range mustRender(t, in).Objects {
		got = append(got, o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName())
	}
	want := []string{
		"CustomResourceDefinition /widgets.w.io", "CustomResourceDefinition /templated", "Namespace /team", "Secret prod/nested",
		"Role prod/r", "Service other/s", "Deployment prod/d", "Cluster /k", "GatewayClass /g", "Thing prod/u", "Widget /w",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestALearnedKindIsPlacedAnew(t *testing.T) {
	in := input(chartOf(t, map[string]string{"a.yaml": "{apiVersion: x.io/v1, kind: Thing, metadata: {name: a}}"}))
	known := false
	in.Namespaced = func(schema.GroupVersionKind) (bool, bool) { return false, known }
	r := NewRenderer(RendererConfig{})
	for _, want := range []string{"prod", ""} {
		rel, err := r.Render(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if got := rel.Objects[0].GetNamespace(); got != want {
			t.Errorf("known %t: namespace %q, want %q", known, got, want)
		}
		known = true
	}
}

func TestRenderErrors(t *testing.T) {
	cm := fmt.Sprintf(configMap, "a")
	for name, tt := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no kind":          {map[string]string{"a.yaml": cm + "---\napiVersion: v1\nmetadata: {name: b}\n"}, "app/templates/a.yaml, document 2: kind is missing or no text (b)"},
		"no apiVersion":    {map[string]string{"a.yaml": "kind: Pod\nmetadata: {name: b}"}, "apiVersion is missing"},
		"no name":          {map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod"}, "metadata.name is missing or no text (Pod)"},
		"generated name":   {map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}"}, "metadata.name is missing"},
		"number as name":   {map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: 1}"}, "metadata.name is missing or no text (Pod)"},
		"bad apiVersion":   {map[string]string{"a.yaml": "apiVersion: a/b/c\nkind: Pod\nmetadata: {name: x}"}, `"a/b/c" is no apiVersion (Pod x)`},
		"namespace number": {map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: x, namespace: 1}"}, "metadata.namespace is no text"},
		"a list":           {map[string]string{"a.yaml": "- a"}, "YAML parse error on app/templates/a.yaml"},
		"broken YAML":      {map[string]string{"a.yaml": "a: b\n c: d"}, "YAML parse error on app/templates/a.yaml: error converting YAML to JSON: yaml: line 2"},
		"second broken":    {map[string]string{"a.yaml": cm + "---\na: [\n"}, "(in document 2 of 2)"},
		"before sorting":   {map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\n---\n" + cm}, "app/templates/a.yaml, document 1: metadata.name"},
		"broken item":      {map[string]string{"a.yaml": "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: a}}, {kind: Pod}]"}, "items[1]: apiVersion is missing"},
		"item no map":      {map[string]string{"a.yaml": "apiVersion: v1\nkind: List\nitems: [1]"}, "items[0]: not an object"},
		"duplicate":        {map[string]string{"a.yaml": cm, "b.yaml": cm}, "app/templates/b.yaml, document 1: ConfigMap a is already in app/templates/a.yaml, document 1"},
		"template":         {map[string]string{"a.yaml": "a: {{ .Values.x.y }}"}, "app/templates/a.yaml:1"},
		"fail":             {map[string]string{"a.yaml": `{{ fail "set the host" }}`}, "set the host"},
		"parse":            {map[string]string{"a.yaml": "a: {{ if }}"}, "parse error at (app/templates/a.yaml:1)"},
		"env":              {map[string]string{"a.yaml": `{{ env "HOME" }}`}, `function "env" not defined`},
		"kubeVersion":      {map[string]string{"Chart.yaml": chartYAML + "kubeVersion: '>=9.0.0'"}, "chart requires kubeVersion >=9.0.0"},
		"schema":           {map[string]string{"values.yaml": "a: x", "values.schema.json": `{"properties": {"a": {"type": "integer"}}}`}, "values don't meet the specifications of the schema(s) in the following chart(s):\napp:\n- at '/a': got string, want integer"},
		"broken schema":    {map[string]string{"values.schema.json": "{"}, "unexpected EOF"},
		"crd":              {map[string]string{"crds/a.yaml": "kind: CustomResourceDefinition"}, "app/crds/a.yaml, document 1: apiVersion is missing"},
		"endless include":  {map[string]string{"a.yaml": `{{ define "x" }}{{ include "x" . }}{{ end }}{{ include "x" . }}`}, "rendering template has a nested reference name"},
	} {
		_, err := cold.Render(t.Context(), input(chartOf(t, tt.files)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v\nwant %q", name, err, tt.want)
		} else if !strings.HasPrefix(err.Error(), "rendering app (chart app 1.0.0): ") {
			t.Errorf("%s: error %v does not name the app", name, err)
		}
	}
	for name, in := range map[string]Input{
		"no chart":     {ReleaseName: "a"},
		"release name": {ReleaseName: "A b", Chart: chartOf(t, nil)},
		"alias":        {ReleaseName: "a", Alias: "b", Chart: chartOf(t, nil)},
		"umbrella":     {ReleaseName: "a", Umbrella: &Umbrella{}, Chart: chartOf(t, nil)},
		"not JSON":     {ReleaseName: "a", Values: map[string]any{"f": func() {}}, Chart: chartOf(t, nil)},
	} {
		if _, err := cold.Render(t.Context(), in); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSchemaFetchesNothing(t *testing.T) {
	secret := t.TempDir() + "/secret.json"
	if err := os.WriteFile(secret, []byte(`{"type": "integer"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	repo := newChartRepo(t)
	for _, ref := range []string{"file://" + secret, repo.URL + "/schema.json", repo.URL + "/schema.json#/definitions/x", "file:///dev/zero"} {
		rel := mustRender(t, input(chartOf(t, map[string]string{
			"values.yaml": "a: x", "values.schema.json": `{"properties": {"a": {"$ref": "` + ref + `"}}}`,
		})))
		if len(rel.Warnings) != 1 || !strings.Contains(rel.Warnings[0], "which is not fetched") {
			t.Errorf("%s: warnings %q", ref, rel.Warnings)
		}
	}
	if got := repo.seen(); len(got) > 0 {
		t.Errorf("requests: %q", got)
	}
}

func TestVolatileFunctions(t *testing.T) {
	for text, want := range map[string][]string{
		`{{ randAlphaNum 10 }}`:                                                                  {"randAlphaNum"},
		`{{ if true }}{{ else }}{{ $c := genCA "a" 1 }}{{ end }}`:                                {"genCA"},
		`{{ range (list (now | date "2006")) }}{{ end }}`:                                        {"now"},
		`{{ define "x" }}{{ uuidv4 }}{{ end }}`:                                                  {"uuidv4"},
		`{{ (genSelfSignedCert "a" nil nil 1).Cert }}`:                                           {"genSelfSignedCert"},
		`{{ template "x" (now) }}`:                                                               {"now"},
		`{{ keys .Values | sortAlpha }} {{ sortAlpha (keys .Values) }} {{ len (keys .Values) }}`: nil,
		`{{ range keys .Values }}{{ end }}`:                                                      {"keys"},
		`now {{/* now */}} {{ "now" }} {{ .Values.now }}`:                                        nil,
		`{{ broken`: nil,
		`{{ with .Values.values }}{{ .randAlphaNum }}{{ end }}`: nil,
	} {
		c := chartOf(t, map[string]string{"_x.tpl": text})
		found := map[string]bool{}
		collectVolatile(c.root, found)
		if got := slices.Sorted(maps.Keys(found)); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", text, got, want)
		}
	}
}

func TestDigest(t *testing.T) {
	plain := map[string]string{"a.yaml": fmt.Sprintf(configMap, "a") + "data: {v: {{ .Values.v | quote }}}", "crds/x.yaml": "# x"}
	random := map[string]string{"a.yaml": fmt.Sprintf(configMap, "a") + "data: {v: {{ randAlphaNum 20 }}}"}
	digest := func(files map[string]string, v string) (string, string) {
		in := input(chartOf(t, files))
		in.Values = map[string]any{"v": v}
		rel := mustRender(t, in)
		return rel.Digest, rel.Manifest
	}
	d1, m1 := digest(plain, "1")
	d2, m2 := digest(plain, "1")
	if d1 != d2 || m1 != m2 {
		t.Error("the same input rendered twice differs")
	}
	if d3, _ := digest(plain, "2"); d3 == d1 {
		t.Error("another manifest has the same digest")
	}
	for name, in := range map[string]Input{
		"in another namespace": {ReleaseName: "rel", Namespace: "other"}, "by another name": {ReleaseName: "other", Namespace: "ns"},
	} {
		in.Chart, in.Values = chartOf(t, plain), map[string]any{"v": "1"}
		if mustRender(t, in).Digest == d1 {
			t.Errorf("%s the digest is the same", name)
		}
	}
	plain["crds/x.yaml"] = "# y"
	if d4, _ := digest(plain, "1"); d4 == d1 {
		t.Error("another CRD has the same digest")
	}
	r1, t1 := digest(random, "1")
	r2, t2 := digest(random, "1")
	if t1 == t2 || r1 != r2 {
		t.Errorf("a chart with random text: digests %s, %s", r1, r2)
	}
	if r3, _ := digest(random, "2"); r3 == r1 {
		t.Error("other values have the same digest")
	}
	in := input(chartOf(t, map[string]string{"a.yaml": fmt.Sprintf(configMap, "a") + "data: {v: {{ tpl .Values.v . }}}"}))
	in.Values = map[string]any{"v": "{{ now }}"}
	if rel := mustRender(t, in); !slices.Equal(rel.Volatile, []string{"now"}) || len(rel.Warnings) != 1 {
		t.Errorf("a template in the values: volatile %q, warnings %q", rel.Volatile, rel.Warnings)
	}
	in = input(chartOf(t, map[string]string{"a.yaml": fmt.Sprintf(configMap, "a") + `data: {v: {{ include "env.id" . }}}`}))
	in.Umbrella = &Umbrella{Name: "env", Version: "0.0.1", Chart: chartOf(t, map[string]string{"_x.tpl": `{{ define "env.id" }}{{ uuidv4 }}{{ end }}`})}
	if rel := mustRender(t, in); !slices.Equal(rel.Volatile, []string{"uuidv4"}) {
		t.Errorf("a named template of the umbrella: volatile %q", rel.Volatile)
	}
}

func TestRenderCache(t *testing.T) {
	c := chartOf(t, map[string]string{"a.yaml": fmt.Sprintf(configMap, "a") + "data: {v: {{ randAlphaNum 20 }}}"})
	r := NewRenderer(RendererConfig{})
	var wg sync.WaitGroup
	got := make([]*release.Release, 20)
	for i := range got {
		wg.Go(func() {
			var err error
			in := input(c)
			in.Values = map[string]any{"port": 80}
			if got[i], err = r.Render(t.Context(), in); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, rel := range got {
		if rel.Manifest != got[0].Manifest {
			t.Error("one input was rendered twice")
		}
	}
	in := input(c)
	in.Capabilities = &chartutil.Capabilities{KubeVersion: chartutil.KubeVersion{Version: "v1.37.0"}}
	if rel, err := r.Render(t.Context(), in); err != nil || rel == got[0] {
		t.Errorf("another cluster got the same release, %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Render(ctx, in); !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
}

func TestRenderDoesNotChangeItsInput(t *testing.T) {
	f := readFixture(t, "testdata/parity/umbrella.txtar")
	fetcher := newTestFetcher(t, FetcherConfig{})
	c := load(t, fetcher, f.fsys, "env/charts/importer", false)
	in := Input{
		ReleaseName: "jx", Chart: c, Umbrella: &Umbrella{Name: "env", Version: "1.0.0", Globals: map[string]any{"a": "b"}, Values: map[string]any{}},
		Values: map[string]any{"settings": map[string]any{"x": nil}}, ImportValues: []any{"exported"},
	}
	before := newChart(c.root)
	deps := *c.root.Metadata.Dependencies[0]
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { mustRender(t, in) })
	}
	wg.Wait()
	if !reflect.DeepEqual(deps, *c.root.Metadata.Dependencies[0]) || before.Digest() != newChart(c.root).Digest() {
		t.Error("rendering changed the chart")
	}
	if len(in.Umbrella.Values) > 0 || len(in.Values) != 1 {
		t.Error("rendering changed the values")
	}
}

func TestReleaseFields(t *testing.T) {
	in := input(chartOf(t, map[string]string{
		"Chart.yaml": chartYAML + "appVersion: '7'\ndeprecated: true\n", "values.yaml": "canary: {enable: false, x: 1}",
		"old.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: old, annotations: {helm.sh/hook: crd-install}}",
	}))
	in.Umbrella = &Umbrella{Name: "env", Version: "0.0.1", Globals: map[string]any{"domain": "d"}}
	in.Values = map[string]any{"canary": map[string]any{"enable": true}}
	rel := mustRender(t, in)
	wantValues := map[string]any{"canary": map[string]any{"enable": true, "x": 1.0}, "global": map[string]any{"domain": "d"}}
	wantConfig := map[string]any{"canary": map[string]any{"enable": true}, "global": map[string]any{"domain": "d"}}
	if !reflect.DeepEqual(rel.Values, wantValues) {
		t.Errorf("values %v", rel.Values)
	}
	if !reflect.DeepEqual(rel.Config, wantConfig) {
		t.Errorf("config %v", rel.Config)
	}
	wantWarnings := []string{
		`env/charts/app/templates/old.yaml: ConfigMap old is not applied: Helm does not know its hook "crd-install"`,
		"chart app is deprecated",
	}
	if !slices.Equal(rel.Warnings, wantWarnings) {
		t.Errorf("warnings %q", rel.Warnings)
	}
	if rel.AppVersion != "7" || rel.Version != "1.0.0" || rel.Name != "app" || rel.Namespace != "prod" || rel.Chart != in.Chart.Helm() {
		t.Errorf("release %+v", rel)
	}
}

// FuzzDecode looks for text that panics, or objects without an identity.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"---\n# Source: a\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n---\n# only\n",
		"kind: List\nitems: [{}, null, 1]", "a: &a [*a]", "kind: XList\napiVersion: v1\nitems: [{metadata: {name: x}}]", "{}", "null", "!!binary x",
		"apiVersion: extensions/v1beta1\nkind: Ingress\nmetadata: {name: a}\nspec: {rules: [{http: {paths: [{}]}}]}",
		"apiVersion: autoscaling/v2beta1\nkind: HorizontalPodAutoscaler\nmetadata: {name: a}\nspec: {metrics: [{type: Object, object: {}}]}",
		"apiVersion: apiextensions.k8s.io/v1beta1\nkind: CustomResourceDefinition\nmetadata: {name: a}\nspec: {version: v1, validation: 1, conversion: {}}",
	} {
		f.Add(seed)
	}
	caps := newCapabilities(nil)
	f.Fuzz(func(t *testing.T, text string) {
		objects, err := decodeAll(text, nil)
		if err != nil {
			return
		}
		if _, err := caps.bringUpToDate(objects); err != nil {
			return
		}
		newScopes(objects, nil).place(objects, "prod")
		for _, o := range objects {
			if o.obj.GetKind() == "" || o.obj.GetAPIVersion() == "" || o.obj.GetName() == "" {
				t.Errorf("object without identity: %v", o.obj)
			}
			o.obj.DeepCopy()
		}
	})
}
