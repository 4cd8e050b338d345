package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/cli"
	"helm.sh/helm/v3/pkg/release"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/sluice-cd/sluice/test/bed"
)

var virtualServices = schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}

// render is what the templates make of what the environment branch asks for, as the command prints it.
func (w *world) render() string {
	w.Helper()
	out, _ := w.sluice("render", "--raw", "--namespace", w.name, "--kubeconfig", w.bed.Kubeconfig, "--chart-repository", w.bed.Charts.URL(),
		"--chart-username", bed.User, "--chart-password-file", filepath.Join(w.dir, "password"))
	return out
}

// servesGit waits until the namespace holds what the environment branch renders to and its routing, nothing else.
func (w *world) servesGit() {
	w.Helper()
	w.serves("VirtualService/" + app)
}

// serves is servesGit with other objects beside those that are rendered.
func (w *world) serves(routing ...string) {
	w.Helper()
	want := map[string]*unstructured.Unstructured{}
	for _, o := range parse(w, w.render()) {
		want[o.GetKind()+"/"+o.GetName()] = o
	}
	w.await("the cluster to hold what git asks for", func() (bool, string) {
		live := w.live()
		names := append(slices.Collect(maps.Keys(want)), routing...)
		slices.Sort(names)
		if got := slices.Sorted(maps.Keys(live)); !slices.Equal(got, names) {
			return false, fmt.Sprintf("%v, want %v", got, names)
		}
		for name, o := range want {
			if at := differs(o.Object, live[name].Object); at != "" {
				return false, name + " differs at " + at
			}
			labels := maps.Clone(o.GetLabels())
			labels["app.kubernetes.io/managed-by"] = "Helm" // as Helm marks what it installs
			labels["sluice.dev/app"], labels["sluice.dev/environment"], labels["sluice.dev/track"] = app, w.name, "stable"
			if !maps.Equal(labels, live[name].GetLabels()) {
				return false, fmt.Sprintf("%s has labels %v, want %v", name, live[name].GetLabels(), labels)
			}
		}
		return true, ""
	})
}

// live are the objects of the kinds that Sluice delivers in these tests, by kind and name.
func (w *world) live() map[string]*unstructured.Unstructured {
	w.Helper()
	all := map[string]*unstructured.Unstructured{}
	for _, resource := range []schema.GroupVersionResource{
		{Group: "apps", Version: "v1", Resource: "deployments"},
		{Version: "v1", Resource: "services"},
		{Version: "v1", Resource: "configmaps"},
		virtualServices,
		{Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"},
	} {
		list, err := w.dyn.Resource(resource).Namespace(w.name).List(context.Background(), metav1.ListOptions{})
		w.must(err)
		for i := range list.Items {
			all[list.Items[i].GetKind()+"/"+list.Items[i].GetName()] = &list.Items[i]
		}
	}
	return all
}

func parse(w *world, manifests string) []*unstructured.Unstructured {
	w.Helper()
	var list []*unstructured.Unstructured
	for documents := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096); ; {
		o := &unstructured.Unstructured{}
		err := documents.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			return list
		}
		w.must(err)
		if len(o.Object) > 0 {
			list = append(list, o)
		}
	}
}

// differs names the first field of want that have says otherwise; fields that only have has are the server's.
func differs(want, have any) string {
	switch want := want.(type) {
	case map[string]any:
		have, ok := have.(map[string]any)
		if !ok {
			return "."
		}
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if at := differs(want[key], have[key]); at != "" {
				return "." + key + at
			}
		}
	case []any:
		have, ok := have.([]any)
		if !ok || len(have) != len(want) {
			return " (the number of items)"
		}
		for i := range want {
			if at := differs(want[i], have[i]); at != "" {
				return fmt.Sprintf("[%d]%s", i, at)
			}
		}
	default:
		x, _ := json.Marshal(want)
		y, _ := json.Marshal(have)
		if !bytes.Equal(x, y) && !reflect.DeepEqual(want, have) {
			return fmt.Sprintf(": %s, want %s", y, x)
		}
	}
	return ""
}

// weights are those of the app's VirtualService, as a watch of the API server shows them.
type weights struct {
	w    *world
	mu   sync.Mutex
	seen []int
}

// watchWeights watches from now on; the app is at rest. It fails the test when weights do not add up to 100.
func (w *world) watchWeights() *weights {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.Cleanup(cancel)
	events, err := w.dyn.Resource(virtualServices).Namespace(w.name).Watch(ctx, metav1.ListOptions{})
	w.must(err)
	v := &weights{w: w}
	ended := make(chan struct{})
	w.Cleanup(func() { <-ended })
	w.Cleanup(events.Stop)
	go func() {
		defer close(ended)
		for e := range events.ResultChan() {
			if vs, ok := e.Object.(*unstructured.Unstructured); ok {
				v.note(vs)
			}
		}
	}()
	return v
}

func (v *weights) note(vs *unstructured.Unstructured) {
	v.mu.Lock()
	defer v.mu.Unlock()
	routes, _, _ := unstructured.NestedSlice(vs.Object, "spec", "http")
	for _, r := range routes {
		destinations, _, _ := unstructured.NestedSlice(r.(map[string]any), "route")
		canary, total := 0, 0
		for _, d := range destinations {
			weight, _, _ := unstructured.NestedInt64(d.(map[string]any), "weight")
			host, _, _ := unstructured.NestedString(d.(map[string]any), "destination", "host")
			total += int(weight)
			if strings.HasPrefix(host, app+"-canary") {
				canary += int(weight)
			}
		}
		if len(destinations) > 1 && total != 100 {
			v.w.Errorf("the weights of VirtualService %s add up to %d", vs.GetName(), total)
		}
		if n := len(v.seen); n == 0 || v.seen[n-1] != canary {
			v.seen = append(v.seen, canary)
		}
	}
}

// were waits until the weights that were seen, each change of them, are these.
func (v *weights) were(want ...int) {
	v.w.Helper()
	v.w.await(fmt.Sprintf("the VirtualService's weights to have been %v", want), func() (bool, string) {
		v.mu.Lock()
		defer v.mu.Unlock()
		return slices.Equal(v.seen, want), fmt.Sprint(v.seen)
	})
}

// helm is the real Helm on the world's namespace.
func (w *world) helm() *action.Configuration {
	w.Helper()
	settings := cli.New()
	settings.KubeConfig = w.bed.Kubeconfig
	settings.SetNamespace(w.name)
	cfg := &action.Configuration{}
	w.must(cfg.Init(settings.RESTClientGetter(), w.name, "secret", func(string, ...any) {}))
	return cfg
}

func brief(list []*release.Release) []string {
	var lines []string
	for _, r := range list {
		lines = append(lines, fmt.Sprintf("%d %s %s", r.Version, r.Info.Status, r.Chart.Metadata.Version))
	}
	return lines
}

// awaitHelmHistory waits until helm history shows the revisions, as "2 deployed 0.0.130".
func (w *world) awaitHelmHistory(want ...string) []*release.Release {
	w.Helper()
	var list []*release.Release
	w.await("helm history to be "+strings.Join(want, ", "), func() (bool, string) {
		var err error
		list, err = action.NewHistory(w.helm()).Run(app)
		w.must(err)
		slices.SortFunc(list, func(x, y *release.Release) int { return x.Version - y.Version })
		got := brief(list)
		return slices.Equal(got, want), strings.Join(got, ", ")
	})
	return list
}

// helmShows fails the test unless helm list shows one release in this state, and helm get manifest what git asks for.
func (w *world) helmShows(want string) {
	w.Helper()
	list, err := action.NewList(w.helm()).Run()
	w.must(err)
	if got := brief(list); !slices.Equal(got, []string{want}) {
		w.Errorf("helm list shows %v, want %s", got, want)
	}
	got, err := action.NewGet(w.helm()).Run(app)
	w.must(err)
	if manifest, asked := strings.TrimSpace(got.Manifest), strings.TrimSpace(w.render()); manifest != asked {
		w.Errorf("helm get manifest shows\n%s\nwant what git asks for\n%s", manifest, asked)
	}
}
