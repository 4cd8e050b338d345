package project

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/objects"
)

var update = flag.Bool("update", false, "rewrite the wanted sections of testdata")

// TestProject runs testdata/*.txtar. Sections: stable.yaml and canary.yaml are the two releases (canary.yaml may be
// absent), policy.yaml a rollout.Plan, policy-before.yaml that of stable.yaml where it is another, states a list of "<phase> <weight>" (and "drained") with one wanted section each.
func TestProject(t *testing.T) {
	for _, file := range glob(t, "testdata/*.txtar") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := input(t, archive)
			var before Desired
			for _, state := range strings.Split(strings.TrimSpace(section(archive, "states")), "\n") {
				plan := in.State.StablePlan
				in.State = parseState(t, state)
				in.State.StablePlan = plan
				var got string
				got, before = show(in, before)
				checkPure(t, in)
				name := "want " + state
				if *update {
					setSection(archive, name, got)
				} else if want := section(archive, name); got != want {
					t.Errorf("%s: got\n%s\nwant\n%s", state, got, want)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestAtRest: without a canary the cluster holds each fixture's objects exactly as the chart renders them, but for the
// replicas that an autoscaler sets, and nothing else but routing and the Service that the policy asks for.
func TestAtRest(t *testing.T) {
	for _, file := range glob(t, "testdata/*.txtar") {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		in := input(t, archive)
		releases := [][]*unstructured.Unstructured{in.Stable, in.Target}
		for i, phase := range []rollout.Phase{rollout.Idle, rollout.Installing} {
			in.State = rollout.State{Phase: phase}
			d, err := Project(in)
			if err != nil {
				t.Errorf("%s, %s: %v", file, phase, err)
				continue
			}
			release := applied(releases[i])
			for _, obj := range release {
				want := copyOf(obj)
				if release.scaler(obj) != nil {
					unstructured.RemoveNestedField(want.Object, "spec", "replicas")
				}
				if !contains(d.Stable, want) && !contains(d.Routing, want) {
					t.Errorf("%s, %s: %s is not as rendered", file, phase, describe(obj))
				}
			}
			for _, obj := range append(d.Stable, d.Routing...) {
				routing := objects.GroupKind(obj).Group == virtualService.Group || isService(obj)
				if release.find(objects.KeyOf(obj)) == nil && !routing {
					t.Errorf("%s, %s: %s is not of the release", file, phase, describe(obj))
				}
			}
			if len(d.Canary) > 0 {
				t.Errorf("%s, %s: a canary of %d objects", file, phase, len(d.Canary))
			}
		}
	}
}

// checkPure projects twice and compares, and makes sure that the input is as it was.
func checkPure(t *testing.T, in Input) {
	t.Helper()
	stable, target := copyAll(in.Stable), copyAll(in.Target)
	a, errA := Project(in)
	b, errB := Project(in)
	if !reflect.DeepEqual(a, b) || fmt.Sprint(errA) != fmt.Sprint(errB) {
		t.Error("projecting twice gave different results")
	}
	for _, obj := range append(append(a.Stable, a.Canary...), a.Routing...) {
		scribble(obj.Object)
	}
	if !reflect.DeepEqual(in.Stable, stable) || !reflect.DeepEqual(in.Target, target) {
		t.Error("the projection changed its input, or shares memory with it")
	}
}

// scribble overwrites everything in a JSON value.
func scribble(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			scribble(e)
			v[k] = "scribble"
		}
	case []any:
		for i, e := range v {
			scribble(e)
			v[i] = "scribble"
		}
	}
}

func copyAll(objs []*unstructured.Unstructured) []*unstructured.Unstructured {
	var c []*unstructured.Unstructured
	for _, obj := range objs {
		c = append(c, copyOf(obj))
	}
	return c
}

// show prints a projection: objects that are exactly as rendered, or as the state before had them, by name, all others
// in full.
func show(in Input, before Desired) (string, Desired) {
	d, err := Project(in)
	if err != nil {
		return "error: " + err.Error() + "\n", d
	}
	var out strings.Builder
	list := func(title string, objs []*unstructured.Unstructured) {
		for _, obj := range objs {
			switch {
			case contains(in.Stable, obj):
				fmt.Fprintf(&out, "--- # %s: as in stable: %s\n", title, describe(obj))
			case contains(in.Target, obj):
				fmt.Fprintf(&out, "--- # %s: as in canary: %s\n", title, describe(obj))
			case contains(before.Canary, obj) || contains(before.Routing, obj):
				fmt.Fprintf(&out, "--- # %s: as before: %s\n", title, describe(obj))
			default:
				text, _ := yaml.Marshal(obj.Object)
				fmt.Fprintf(&out, "--- # %s\n%s", title, text)
			}
		}
	}
	list("stable", d.Stable)
	list("canary", d.Canary)
	list("routing", d.Routing)
	fmt.Fprintf(&out, "---\nservice: %s\ncanaryName: %s\nstableWorkloads: %s\ncanaryWorkloads: %s\n",
		d.Service, d.CanaryName, listNames(d.StableWorkloads), listNames(d.CanaryWorkloads))
	if len(d.Outgoing) > 0 {
		fmt.Fprintf(&out, "outgoing: %s\n", listNames(d.Outgoing))
	}
	for _, w := range d.Warnings {
		fmt.Fprintf(&out, "warning: %s\n", w)
	}
	return strings.ReplaceAll(out.String(), ": \n", ":\n"), d
}

func contains(objs []*unstructured.Unstructured, obj *unstructured.Unstructured) bool {
	for _, o := range objs {
		if reflect.DeepEqual(o.Object, obj.Object) {
			return true
		}
	}
	return false
}

func input(t testing.TB, archive *txtar.Archive) Input {
	t.Helper()
	in := Input{App: "web", Namespace: "production"}
	in.Stable = parse(t, section(archive, "stable.yaml"))
	in.Target = parse(t, section(archive, "canary.yaml"))
	in.Plan = rollout.Plan{Strategy: environments.StrategyCanary}
	if err := yaml.UnmarshalStrict([]byte(section(archive, "policy.yaml")), &in.Plan); err != nil {
		t.Fatal(err)
	}
	if before := section(archive, "policy-before.yaml"); before != "" {
		in.State.StablePlan = &rollout.Plan{Strategy: environments.StrategyCanary}
		if err := yaml.UnmarshalStrict([]byte(before), in.State.StablePlan); err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func parseState(t testing.TB, text string) rollout.State {
	t.Helper()
	text, drained := strings.CutSuffix(text, " drained")
	phase, weight, _ := strings.Cut(text, " ")
	state := rollout.State{Phase: rollout.Phase(phase), Drained: drained}
	if phase == "Idle" {
		state.Phase = rollout.Idle
	}
	if weight != "" {
		var err error
		if state.Weight, err = strconv.Atoi(weight); err != nil {
			t.Fatal(err)
		}
	}
	return state
}

// parse reads a stream of YAML documents as render does: whole numbers are int64.
func parse(t testing.TB, text string) []*unstructured.Unstructured {
	t.Helper()
	var objs []*unstructured.Unstructured
	for _, doc := range strings.Split(text, "\n---\n") {
		doc = strings.TrimPrefix(doc, "---\n")
		if strings.TrimSpace(doc) == "" {
			continue
		}
		j, err := yaml.YAMLToJSONStrict([]byte(doc))
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(j); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		objs = append(objs, obj)
	}
	return objs
}

func section(archive *txtar.Archive, name string) string {
	for _, f := range archive.Files {
		if f.Name == name {
			return string(bytes.TrimSuffix(f.Data, []byte("\n\n"))) // a blank line may close a section
		}
	}
	return ""
}

func setSection(archive *txtar.Archive, name, text string) {
	for i := range archive.Files {
		if archive.Files[i].Name == name {
			archive.Files[i].Data = []byte(text)
			return
		}
	}
	archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(text)})
}

func glob(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s: %v", pattern, err)
	}
	return files
}
