package environments

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/test/generated"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestDocumentedSettings: whatever a document shows of sluice.yaml is read, and its schema takes it.
func TestDocumentedSettings(t *testing.T) {
	s := generated.Schema(t, settingsSchema(t))
	blocks := yamlBlocks(t)
	for _, b := range blocks {
		if !b.isSettings() {
			continue
		}
		if err := reads([]byte(b.whole())); err != nil {
			t.Errorf("%s: %v in\n%s", b.document, err, b.text)
		}
		if err := valid(t, s, []byte(b.whole())); err != nil {
			t.Errorf("%s: %v in\n%s", b.document, err, b.text)
		}
	}
}

// block is an example of YAML in a document.
type block struct{ document, text string }

func yamlBlocks(t *testing.T) (blocks []block) {
	t.Helper()
	names := []string{"../README.md"}
	for _, glob := range []string{"../docs/*.md", "../docs/*/*.md"} {
		found, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			blocks = append(blocks, block{filepath.Base(name), m[1]})
		}
	}
	return blocks
}

// isSettings reports whether a block is of sluice.yaml: it says so, or it has nothing but keys of its own.
func (b block) isSettings() bool {
	var document map[string]any
	if err := yaml.Unmarshal([]byte(b.text), &document); err != nil || document["kind"] == settingsKind {
		return true // and what can't be parsed can't be read
	}
	for key := range document {
		if _, known := settingsFields[key]; !known || key == "kind" {
			return false
		}
	}
	return true
}

// whole is the block with what says that it is a sluice.yaml.
func (b block) whole() string {
	if strings.Contains(b.text, "kind: "+settingsKind) {
		return b.text
	}
	return "apiVersion: " + settingsAPIVersion + "\nkind: " + settingsKind + "\n" + b.text
}

// TestDocumentedPolicies runs every policy that the documents show, over a chart that has a canary of its own. One of them
// used to promote a release that failed a third of its requests, because it had no checks.
func TestDocumentedPolicies(t *testing.T) {
	examples := 0
	for _, b := range yamlBlocks(t) {
		if strings.Contains(b.text, "rollout:") {
			examples++
			checkExample(t, b.document, b.whole())
		}
	}
	if examples < 2 {
		t.Errorf("%d examples found", examples)
	}
}

func checkExample(t *testing.T, document, example string) {
	t.Helper()
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

// TestQuickstartRepository reads the environment that the quick start has people type.
func TestQuickstartRepository(t *testing.T) {
	text, err := os.ReadFile("../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	files := fstest.MapFS{}
	for _, block := range regexp.MustCompile("(?s)```(?:yaml)?\n# (\\S+)\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		files[block[1]] = mapFile([]byte(block[2]))
	}
	env, err := (&Loader{}).Load(files, ".")
	if err != nil {
		t.Fatal(err)
	}
	if len(env.Apps) != 1 || env.Apps[0].Fault != nil || len(env.Warnings) > 0 {
		t.Fatalf("apps %+v, warnings %q", env.Apps, env.Warnings)
	}
	app := &env.Apps[0]
	if p, err := ResolvePolicy(env, app, Said{}); err != nil || p.Strategy != StrategyCanary || len(p.Analysis.Metrics) != 2 {
		t.Errorf("%+v, %v; expected a canary with the two built-in checks", p, err)
	}
	if asks := app.Asks(); asks != "6.7.0" {
		t.Errorf("asks for %q", asks)
	}
}
