package charts

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/source"
	"github.com/sluice-cd/sluice/render"
	"github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
	"github.com/sluice-cd/sluice/test/bed/chartrepo"
)

// TestMain is the worker that renders for the tests as well.
func TestMain(m *testing.M) {
	render.BeWorker()
	os.Exit(m.Run())
}

// rendered renders a chart of these files with values, as the agent does: fetched from a repository, under an umbrella chart.
func rendered(t *testing.T, files map[string]string, values string) (warnings []string, fault error) {
	t.Helper()
	rel, err := released(t, files, values, "")
	if rel != nil {
		warnings = rel.Warnings
	}
	return warnings, err
}

func released(t *testing.T, files map[string]string, values string, crds environments.CRDs) (*release.Release, error) {
	t.Helper()
	server, err := chartrepo.New(chartrepo.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	c := &chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: "web", Version: "1.0.0"}}
	for name, text := range files {
		switch file := (&chart.File{Name: name, Data: []byte(text)}); name {
		case "values.yaml":
			c.Raw = append(c.Raw, file)
			if err := yaml.Unmarshal(file.Data, &c.Values); err != nil {
				t.Fatal(err)
			}
		case "values.schema.json":
			c.Schema = file.Data
		case "crds/a.yaml":
			c.Files = append(c.Files, file)
		default:
			c.Templates = append(c.Templates, file)
		}
	}
	if err := server.AddChart(c); err != nil {
		t.Fatal(err)
	}
	fetcher, err := render.NewFetcher(render.FetcherConfig{CacheDir: t.TempDir(), Access: []render.Access{{URL: server.URL()}}})
	if err != nil {
		t.Fatal(err)
	}
	app := environments.App{
		Name: "web", ReleaseName: "web", Namespace: "jx-production", CRDs: crds,
		Chart: environments.ChartRef{Name: "web", Version: "1.0.0", Repository: server.URL()},
	}
	if err := yaml.Unmarshal([]byte(values), &app.Values); err != nil {
		t.Fatal(err)
	}
	env := &environments.Environment{
		Name: "production", Umbrella: environments.Umbrella{
			Name: "env", Version: "0.0.1", Globals: map[string]any{"license": "L1cense-Key"},
		},
	}
	all := &Charts{Fetcher: fetcher, Renderer: render.NewRenderer(render.RendererConfig{})}
	rel, _, err := all.Release(t.Context(), source.Commit{Snapshot: &gitsync.Snapshot{}, Env: env}, &app)
	return rel, err
}

// TestDefinitions: what comes from crds/ is marked with what sluice.yaml wants to become of it, and a template's definition is not.
func TestDefinitions(t *testing.T) {
	const definition = "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: %s}\n"
	files := map[string]string{"crds/a.yaml": fmt.Sprintf(definition, "a.example.com"), "templates/b.yaml": fmt.Sprintf(definition, "b.example.com")}
	for crds, want := range map[environments.CRDs]string{
		environments.CRDsCreate: objects.CRDsCreate, environments.CRDsCreateReplace: objects.CRDsCreateReplace,
	} {
		rel, err := released(t, files, "{}", crds)
		if err != nil {
			t.Fatal(err)
		}
		marks := map[string]string{}
		for _, o := range rel.Objects {
			marks[o.GetName()] = o.GetAnnotations()[objects.CRDsAnnotation]
		}
		if len(marks) != 2 || marks["a.example.com"] != want || marks["b.example.com"] != "" {
			t.Errorf("%s: %v", crds, marks)
		}
	}
}

// TestFaultsHoldNoValues renders charts that choke on a password, with Helm's own engine. Errors go to the status branch.
func TestFaultsHoldNoValues(t *testing.T) {
	const password, pin = "s3cr%etP4ss!", "84729105"
	values := fmt.Sprintf(`
password: %q
pin: %s
url: "postgres://app:%s@db:5432/x"
open: "{{ \"%s"
inner: "{{/* %s */}}{{ .Values.a.b }}"
date: "2026-01-%s"
quoted: "a'b\"c%s"
lines: "first\n%s\nlast"
`, password, pin, password, password, password, password, password, password)
	schema := func(what string) string {
		return `{"$schema": "http://json-schema.org/draft-07/schema#", "properties": {"password": ` + what + `}}`
	}
	for name, tt := range map[string]struct {
		file, text string
		// want is what has to be left of the fault.
		want string
	}{
		"tpl does not parse": {"", `{{ tpl .Values.open . }}`, "env/charts/web/templates/a.yaml:1"},
		"tpl fails":          {"", `{{ tpl .Values.inner . }}`, "nil pointer evaluating"},
		"range":              {"", `{{ range .Values.password }}{{ end }}`, "range can't iterate over ***"},
		"anchor":             {"", `a: *{{ .Values.password }}`, "YAML parse error on env/charts/web/templates/a.yaml"},
		"pattern":            {"values.schema.json", schema(`{"pattern": "^[0-9]+$"}`), "at '/password': '***' does not match pattern"},
		"format":             {"values.schema.json", schema(`{"format": "email"}`), "at '/password': '***' is not valid email"},

		"urlParse":          {"", `{{ urlParse .Values.url }}`, "unable to parse url"},
		"urlParse, made up": {"", `{{ urlParse (printf "postgres://app:%s@db:5432/x" .Values.password) }}`, `invalid URL escape "***"`},
		"semverCompare":     {"", `{{ semverCompare .Values.password "1.0.0" }}`, `improper constraint: "***"`},
		"mustToDate":        {"", `{{ mustToDate "2006-01-02" .Values.password }}`, `parsing time "***"`},
		"mustDateModify":    {"", `{{ now | mustDateModify .Values.password }}`, `time: invalid duration "***"`},
		"include":           {"", `{{ include .Values.password . }}`, `no template "***"`},
		"fail":              {"", `{{ fail (printf "%s is too weak" .Values.password) }}`, "*** is too weak"},
		"required":          {"", `{{ required (printf "beside %s a name is needed" .Values.password) .Values.none }}`, "beside *** a name is needed"},
		"metadata.name":     {"", "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Values.password }}\n  name: {{ .Values.password }}\n", ""},

		"a part of a date":     {"", `{{ mustToDate "2006-01-02" .Values.date }}`, `cannot parse "***"`},
		"base64":               {"", `{{ fail (b64enc (printf "user:%s" .Values.password)) }}`, ""},
		"quoted twice":         {"", `{{ fail (quote (quote .Values.quoted)) }}`, ""},
		"as JSON":              {"", `{{ fail (toJson .Values) }}`, "execution error"},
		"as YAML":              {"", `{{ fail (toYaml .Values) }}`, "execution error"},
		"shouted":              {"", `{{ fail (upper .Values.password) }}`, "***"},
		"escaped for a URL":    {"", `{{ fail (urlquery .Values.password) }}`, "***"},
		"a line":               {"", `{{ fail (index (splitList "\n" .Values.lines) 1) }}`, "***"},
		"a global":             {"", `{{ fail .Values.global.license }}`, "***"},
		"a number":             {"", `{{ fail (toString .Values.pin) }}`, "***"},
		"a number as it is":    {"", `{{ fail (printf "%.0f is no pin" .Values.pin) }}`, "*** is no pin"},
		"an index":             {"", `{{ index .Values .Values.password "x" }}`, ""},
		"a regular expression": {"", `{{ mustRegexMatch (printf "(%s" .Values.password) "x" }}`, "error parsing regexp: missing closing )"},
		"a base of numbers":    {"", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: [{{ .Values.password }}}", "YAML parse error"},
		"a policy": {
			"", "apiVersion: flagger.app/v1beta1\nkind: Canary\nmetadata: {name: web}\nspec: {analysis: {interval: {{ .Values.password | quote }}}}",
			"spec.analysis.interval",
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := tt.file
			if file == "" {
				file = "templates/a.yaml"
			}
			_, err := rendered(t, map[string]string{file: tt.text}, values)
			if name == "metadata.name" && err == nil {
				return // Helm takes the second
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v\nwant %q", err, tt.want)
			}
			for _, secret := range []string{
				"s3cr", "S3CR", "P4SS", "etP4", "P4ss", "84729105", "8.47", "L1cense", base64.StdEncoding.EncodeToString([]byte("user:" + password))[8:18],
			} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%v\nholds %s", err, secret)
				}
			}
			if !strings.HasPrefix(err.Error(), "rendering web 1.0.0: rendering web (chart web 1.0.0): ") && name != "a policy" {
				t.Errorf("%v does not say what it is about", err)
			}
		})
	}
}

// TestFaultsStayReadable holds that what everybody may read stays: the chart's defaults, names, and short words.
func TestFaultsStayReadable(t *testing.T) {
	files := map[string]string{
		"values.yaml": "mode: cautious\nport: 12345\n",
		"templates/a.yaml": `{{ fail (printf "%s of %s in %s: mode %s and port %v, type %s, on %v, name %s" .Chart.Version .Release.Name
			.Release.Namespace .Values.mode .Values.port .Values.type .Values.works .Values.name) }}`,
	}
	_, err := rendered(t, files, "{mode: cautious, port: 12345, type: ClusterIP, works: true, name: web}")
	const want = "1.0.0 of web in jx-production: mode cautious and port 12345, type ClusterIP, on true, name web"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v\nwant %s", err, want)
	}
}

func TestUnencryptedRepository(t *testing.T) {
	for repository, want := range map[string]int{
		"http://charts.example.com/stable": 1, "https://charts.example.com": 0, "oci://ghcr.io/acme": 0, "http://127.0.0.1:8879": 0, "": 0,
	} {
		app := &environments.App{Chart: environments.ChartRef{Repository: repository}}
		if got := unencrypted(app); len(got) != want {
			t.Errorf("%s: %v", repository, got)
		}
	}
}

func TestWarningsHoldNoValues(t *testing.T) {
	warnings, err := rendered(t, map[string]string{
		"templates/a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: x, annotations: {helm.sh/hook: {{ .Values.password }}}}",
	}, "password: s3cretP4ss")
	text := fmt.Sprint(warnings)
	if err != nil || strings.Contains(text, "s3cret") || !strings.Contains(text, "Helm does not know its hook \"***\"") {
		t.Errorf("%v, %v", warnings, err)
	}
}

// TestMetricTemplates: a chart's MetricTemplate is the query of its Canary's check, sees the app's namespace alone, and may stand in
// a namespace that the environment may not touch, as it is never applied.
func TestMetricTemplates(t *testing.T) {
	const objects = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: web}]}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: web}
spec:
  targetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  service: {port: 80}
  analysis:
    stepWeight: 20
    metrics: [{name: slow, templateRef: {name: slow, namespace: flagger-system}, threshold: 1}]
---
apiVersion: flagger.app/v1beta1
kind: MetricTemplate
metadata: {name: slow, namespace: flagger-system}
spec: {provider: {type: prometheus}, query: '%s'}
---
apiVersion: flagger.app/v1beta1
kind: AlertProvider
metadata: {name: slack, namespace: flagger-system}
spec: {type: slack, channel: general}
`
	for query, want := range map[string]string{
		`slow{app="{{ "{{ target }}" }}"}`: "",
		`slow{namespace="secret"}`:         `it asks for namespace "secret"`,
	} {
		rel, err := released(t, map[string]string{"templates/a.yaml": fmt.Sprintf(objects, query)}, "{}", "")
		if err != nil {
			t.Fatal(err)
		}
		app := &environments.App{Name: "web", Namespace: "jx-production"}
		c := &Charts{Allow: &allow.Rules{Own: app.Namespace}}
		policy, err := c.policy(source.Commit{Env: &environments.Environment{}}, app, rel)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", query, err)
			}
			continue
		}
		if err != nil || len(policy.Analysis.Metrics) != 1 || policy.Analysis.Metrics[0].Query != `slow{app="{{ target }}"}` {
			t.Errorf("%s: %+v, %v", query, policy.Analysis.Metrics, err)
		}
	}
}

// TestWebhooksHaveToBeAllowed: a policy with a webhook that agent.yaml does not allow is a fault that says what to allow, and nothing
// of what the address holds.
func TestWebhooksHaveToBeAllowed(t *testing.T) {
	const objects = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: web}]}}
`
	rel, err := released(t, map[string]string{
		"values.yaml":      "canary: {analysis: {stepWeight: 20, webhooks: [{name: load, url: 'http://loadtester.test/T0K3N'}]}}",
		"templates/a.yaml": objects,
	}, "{}", "")
	if err != nil {
		t.Fatal(err)
	}
	app := &environments.App{Name: "web", Namespace: "jx-production"}
	src := source.Commit{Env: &environments.Environment{}}
	_, err = (&Charts{Allow: &allow.Rules{Own: app.Namespace}}).policy(src, app, rel)
	const want = "webhook load is not allowed by agent.yaml, allow.webhooks; it would have to hold loadtester.test"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	p, err := (&Charts{Allow: &allow.Rules{Own: app.Namespace, Webhooks: []string{"loadtester.test"}}}).policy(src, app, rel)
	if err != nil || len(p.Analysis.Webhooks) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestUnmadeSecrets: a Secret that pods need and a hook alone would make is told, with the hook; others are not.
func TestUnmadeSecrets(t *testing.T) {
	const pods = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  selector: {matchLabels: {app: web}}\n  template:\n" +
		"    metadata: {labels: {app: web}}\n    spec:\n      volumes: [{name: a, secret: {secretName: web-cert%s}}]\n      containers: [{name: c, image: web}]\n"
	const hook = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: %s, annotations: {helm.sh/hook: %s}}\nspec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: c, args: [%s]}]}}}\n"
	certgen, other := fmt.Sprintf(hook, "certgen", "pre-install", "web-cert"), fmt.Sprintf(hook, "backup", "pre-upgrade", "all")
	const warning = "pods need Secret web-cert, which nothing of the release makes but%s its hook Job %s (%s), which is not run; expected the Secret to be there, or in the chart"
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a hook":           {map[string]string{"a.yaml": fmt.Sprintf(pods, ""), "b.yaml": other, "c.yaml": certgen}, fmt.Sprintf(warning, "", "certgen", "pre-install")},
		"a hook, perhaps":  {map[string]string{"a.yaml": fmt.Sprintf(pods, ""), "b.yaml": other}, fmt.Sprintf(warning, " perhaps", "backup", "pre-upgrade")},
		"no hook":          {map[string]string{"a.yaml": fmt.Sprintf(pods, "")}, ""},
		"a test":           {map[string]string{"a.yaml": fmt.Sprintf(pods, ""), "b.yaml": fmt.Sprintf(hook, "probe", "test", "web-cert")}, ""},
		"done without":     {map[string]string{"a.yaml": fmt.Sprintf(pods, ", optional: true"), "b.yaml": certgen}, ""},
		"of the release":   {map[string]string{"a.yaml": fmt.Sprintf(pods, ""), "b.yaml": certgen, "c.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: web-cert}\n"}, ""},
		"of a Certificate": {map[string]string{"a.yaml": fmt.Sprintf(pods, ""), "b.yaml": certgen, "c.yaml": "apiVersion: cert-manager.io/v1\nkind: Certificate\nmetadata: {name: web}\nspec: {secretName: web-cert}\n"}, ""},
	} {
		files := map[string]string{}
		for file, text := range c.files {
			files["templates/"+file] = text
		}
		warnings, err := rendered(t, files, "{}")
		if got := strings.Join(warnings, "\n"); err != nil || got != c.want {
			t.Errorf("%s: %q, %v\nwant %q", name, got, err, c.want)
		}
	}
}
