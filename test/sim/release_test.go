package sim

import (
	"fmt"
	"hash/crc32"
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
	// appName and canaryName are the Services.
	appName    = "croc-hunter-java"
	canaryName = appName + canarySuffix
	registry   = "registry/croc-hunter-java:"

	canarySuffix = "-canary"
)

// A release is named for what its pods do: "good3+1" is good, of template 3, and differs from "good3" in nothing that
// pods notice. "good3.web" runs them in a Deployment of another name, and with other labels; the Service stays.
//
//	good   becomes ready and answers well
//	bad    becomes ready and answers with errors
//	steep  answers with errors as soon as it has 40 % of the traffic
//	crash  is in a crash loop
//	never  does not become ready, and does not say why
var kinds = []string{"good", "good", "good", "bad", "steep", "crash", "never"}

// names are what releases call their Deployment, after the app's name.
var names = []string{"", "", ".web", ".srv"}

// template is what decides a release's pods: "good3.web" of "good3.web+1". It is the tag of their image, too.
func template(digest string) string {
	base, _, _ := strings.Cut(digest, "+")
	return base
}

func kind(digest string) string {
	base, _, _ := strings.Cut(template(digest), ".")
	return strings.TrimRight(base, "0123456789")
}

// workload is the name of a release's Deployment.
func workload(digest string) string {
	_, name, renamed := strings.Cut(template(digest), ".")
	if !renamed {
		return appName
	}
	return appName + "-" + name
}

// isCanary reports whether a Deployment of that name belongs to a canary track.
func isCanary(deployment string) bool { return strings.HasSuffix(deployment, canarySuffix) }

// charts renders each release once.
type charts struct {
	// brought: the chart brings the VirtualService along.
	brought bool
	// named: the policy names the Deployment, as the release calls it; else it means the only one.
	named bool
	// service is how users find the pods.
	service  service
	releases map[string][]*unstructured.Unstructured
}

// service says where the app's Service comes from and what it selects.
type service int

const (
	// ownService is the chart's, for the labels that go with the Deployment's name.
	ownService service = iota
	// commonService is the chart's, for a label that the pods of all releases have.
	commonService
	// madeService is the policy's; the chart has none.
	madeService
)

func newCharts() *charts {
	return &charts{releases: map[string][]*unstructured.Unstructured{}}
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
	selector := "app: jx-" + workload(digest)
	if c.service == commonService {
		selector = "draft: draft-app"
	}
	text = strings.NewReplacer(
		"VERSION", template(digest), "NOTE", digest, "WORKLOAD", workload(digest), "SELECTOR", selector,
	).Replace(text)
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
		if obj.GetKind() != "Service" || c.service != madeService {
			objs = append(objs, obj)
		}
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

// policy is p as a release has it, whose chart names the Deployment, the Service, or neither.
func (c *charts) policy(p environments.Policy, digest string) environments.Policy {
	if c.named {
		p.Target = environments.Target{APIVersion: "apps/v1", Kind: "Deployment", Name: workload(digest)}
	}
	if c.service == madeService {
		p.Service.Name = appName
	}
	p.Service.Timeout = timeoutOf(template(digest))
	return p
}

// timeoutOf the requests to a release, by which its routing is known.
func timeoutOf(template string) string {
	return fmt.Sprintf("%ds", 1+crc32.ChecksumIEEE([]byte(template))%1000)
}

// input of the projection of a state.
func (c *charts) input(s rollout.State) project.Input {
	return project.Input{
		App: appName, Namespace: "production", Plan: *s.Plan, State: s,
		Stable: c.objects(s.Stable.Digest), Target: c.objects(s.Target.Digest),
	}
}

const (
	interval = 20 * time.Second
	deadline = 90 * time.Second
)

// leastRate is the success rate in percent that still passes.
var leastRate = 99.0

func basePolicy() environments.Policy {
	return environments.Policy{
		Strategy: environments.StrategyCanary, ProgressDeadline: deadline,
		Service: environments.Service{Port: 80},
		Analysis: environments.Analysis{
			Interval: interval, Threshold: 2, InconclusiveLimit: 3, StepWeight: 20, MaxWeight: 60,
			Metrics: []environments.Metric{{Name: "request-success-rate", Interval: interval, Min: &leastRate}},
		},
	}
}

func describe(r rollout.Release) string {
	if r.IsZero() {
		return "none"
	}
	return fmt.Sprintf("%s@%s", r.Digest, r.Commit)
}
