package environments

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestDocumentedPolicies runs every policy that the documents show, over a chart that has a canary of its own. One of them
// used to promote a release that failed a third of its requests, because it had no checks.
func TestDocumentedPolicies(t *testing.T) {
	names, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(block[1], "rollout:") {
				examples++
				checkExample(t, filepath.Base(name), block[1])
			}
		}
	}
	if examples < 2 {
		t.Errorf("%d examples found in %v", examples, names)
	}
}

func checkExample(t *testing.T, document, example string) {
	t.Helper()
	if !strings.Contains(example, "kind: Environment") {
		example = "apiVersion: sluice.dev/v1alpha1\nkind: Environment\n" + example
	}
	files := fstest.MapFS{
		"sluice.yaml":    mapFile([]byte(example)),
		"env/Chart.yaml": mapFile([]byte("apiVersion: v1\nname: env\nversion: 0.0.1\n")),
		"env/requirements.yaml": mapFile([]byte(
			"dependencies:\n- {name: croc-hunter-java, version: 1.0.0, repository: http://charts}\n")),
	}
	env, err := (&Loader{Environment: "production"}).Load(files, ".")
	if err != nil {
		t.Errorf("%s: %v in\n%s", document, err, example)
		return
	}
	chart := map[string]any{"canary": map[string]any{
		"service":  map[string]any{"hosts": []any{"croc-hunter.example.org"}},
		"analysis": map[string]any{"stepWeight": 10},
	}}
	p, err := ResolvePolicy(env, &env.Apps[0], Said{Values: chart})
	if err != nil || env.Apps[0].Fault != nil {
		t.Errorf("%s: %v %v in\n%s", document, err, env.Apps[0].Fault, example)
		return
	}
	if p.Strategy != StrategyCanary || len(p.Service.Hosts) != 1 || len(p.Analysis.Metrics) == 0 {
		t.Errorf("%s: not a judged canary with its host: %+v, of\n%s", document, p, example)
	}
}
