package sim

import (
	"fmt"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

const (
	appName    = "croc-hunter-java"
	canaryName = appName + "-canary"
	registry   = "registry/croc-hunter-java:"
)

// A release is named for what its pods do: "good3+1" is good, of template 3, and differs from "good3" in nothing that
// pods notice.
//
//	good   becomes ready and answers well
//	bad    becomes ready and answers with errors
//	steep  answers with errors as soon as it has 40 % of the traffic
//	crash  is in a crash loop
//	never  does not become ready, and does not say why
var kinds = []string{"good", "good", "good", "bad", "steep", "crash", "never"}

// template is what decides a release's pods: "good3" of "good3+1". It is the tag of their image, too.
func template(digest string) string {
	base, _, _ := strings.Cut(digest, "+")
	return base
}

func kind(digest string) string { return strings.TrimRight(template(digest), "0123456789") }

// charts renders, and projects, each thing once.
type charts struct {
	// brought: the chart brings the VirtualService along.
	brought   bool
	releases  map[string][]*unstructured.Unstructured
	changes   map[[2]string]rollout.Change
	projected map[projection]project.Desired
}

// projection is all that a projection depends on here.
type projection struct {
	stable, target string
	phase          rollout.Phase
	weight         int
	drained        bool
	strategy       environments.Strategy
}

func newCharts(brought bool) *charts {
	return &charts{
		brought: brought, releases: map[string][]*unstructured.Unstructured{},
		changes: map[[2]string]rollout.Change{}, projected: map[projection]project.Desired{},
	}
}

// objects of a release; none for none.
func (c *charts) objects(digest string) []*unstructured.Unstructured {
	if digest == "" {
		return nil
	}
	if c.releases[digest] == nil {
		c.releases[digest] = c.render(digest)
	}
	return c.releases[digest]
}

func (c *charts) render(digest string) []*unstructured.Unstructured {
	text := fixture("croc-hunter.yaml")
	if c.brought {
		text += fixture("virtualservice.yaml")
	}
	text = strings.NewReplacer("VERSION", template(digest), "NOTE", digest).Replace(text)
	var objs []*unstructured.Unstructured
	for _, doc := range strings.Split(text, "---\n") {
		j, err := yaml.YAMLToJSONStrict([]byte(doc))
		if err != nil {
			panic(err)
		}
		obj := &unstructured.Unstructured{}
		if err := obj.UnmarshalJSON(j); err != nil {
			panic(err)
		}
		objs = append(objs, obj)
	}
	return objs
}

func fixture(name string) string {
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		panic(err)
	}
	return string(text)
}

func (c *charts) change(from, to string) rollout.Change {
	switch from {
	case "":
		return rollout.ChangePods
	case to:
		return rollout.ChangeNone
	}
	k := [2]string{from, to}
	if _, ok := c.changes[k]; !ok {
		c.changes[k] = project.Compare(c.objects(from), c.objects(to))
	}
	return c.changes[k]
}

func (c *charts) project(s rollout.State, p environments.Policy, with func(project.Input) (project.Desired, error)) (project.Desired, error) {
	k := projection{s.Stable.Digest, s.Target.Digest, s.Phase, s.Weight, s.Drained, p.Strategy}
	if d, ok := c.projected[k]; ok {
		return d, nil
	}
	d, err := with(project.Input{
		App: appName, Namespace: "production", Policy: p, State: s,
		Stable: c.objects(s.Stable.Digest), Target: c.objects(s.Target.Digest),
	})
	if err == nil {
		c.projected[k] = d
	}
	return d, err
}

const (
	interval = 20 * time.Second
	deadline = 90 * time.Second
)

func basePolicy() environments.Policy {
	return environments.Policy{
		Strategy: environments.StrategyCanary, ProgressDeadline: deadline,
		Target:  environments.Target{APIVersion: "apps/v1", Kind: "Deployment", Name: appName},
		Service: environments.Service{Port: 80},
		Analysis: environments.Analysis{
			Interval: interval, Threshold: 2, InconclusiveLimit: 3, StepWeight: 20, MaxWeight: 60,
		},
	}
}

func describe(r rollout.Release) string {
	if r.IsZero() {
		return "none"
	}
	return fmt.Sprintf("%s@%s", r.Digest, r.Commit)
}
