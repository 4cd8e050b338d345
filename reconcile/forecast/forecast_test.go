package forecast

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

func TestForecast(t *testing.T) {
	canary := rollout.NewPlan(environments.Policy{
		Strategy: environments.StrategyCanary,
		Analysis: environments.Analysis{Interval: time.Minute, MaxWeight: 20, StepWeight: 10},
	})
	suspended := canary
	suspended.Suspend = true
	approved := canary
	approved.Approval, approved.FourEyes = []rollout.Moment{rollout.AtBegin, rollout.AtPromotion}, true
	for _, test := range []struct {
		name     string
		from, to Release
		events   string
		under    string
	}{
		{"first install", Release{}, release("1", 2, canary), "0s InstallStarted, 0s Installed", ""},
		{
			"canary", release("1", 2, canary), release("2", 2, canary),
			"0s RolloutStarted, 0s Advanced 10, 1m0s Advanced 20, 2m0s PromotionStarted 20, 2m30s Promoted",
			"Deployment/web-canary, Service/web-canary, VirtualService/web",
		},
		{"rolling", release("1", 2, rollout.Plan{}), release("2", 2, rollout.Plan{}), "0s RolloutStarted, 0s Promoted", ""},
		{"what no pod sees", release("1", 2, canary), release("1", 3, canary), "0s Applied", ""},
		{"the same", release("1", 2, canary), release("1", 2, canary), "", ""},
		{
			"approved", release("1", 2, canary), release("2", 2, approved),
			"0s Waiting, 0s Approved, 0s RolloutStarted, 0s Advanced 10, 1m0s Advanced 20, 2m0s Waiting 20, 2m0s Approved 20, " +
				"3m0s PromotionStarted 20, 3m30s Promoted",
			"Deployment/web-canary, Service/web-canary, VirtualService/web",
		},
		{"suspended", release("1", 2, canary), release("2", 2, suspended), "0s Waiting", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := Of("web", "production", test.from, test.to)
			if err != nil {
				t.Fatal(err)
			}
			var events []string
			for _, e := range f.Events {
				text := fmt.Sprint(e.After, " ", e.Type)
				if e.Weight > 0 {
					text += fmt.Sprint(" ", e.Weight)
				}
				events = append(events, text)
			}
			if got := strings.Join(events, ", "); got != test.events {
				t.Errorf("events %s\nwant   %s", got, test.events)
			}
			var under []string
			for _, o := range f.Under {
				if name := o.GetKind() + "/" + o.GetName(); strings.HasSuffix(name, "-canary") || o.GetKind() == "VirtualService" {
					under = append(under, name)
				}
			}
			slices.Sort(under)
			if got := strings.Join(under, ", "); got != test.under {
				t.Errorf("with traffic %s, want %s", got, test.under)
			}
		})
	}
}

// What could not be carried through has no forecast.
func TestUnfit(t *testing.T) {
	other := release("2", 2, rollout.Plan{})
	if err := unstructured.SetNestedField(other.Objects[0].Object, "other", "spec", "selector", "matchLabels", "app"); err != nil {
		t.Fatal(err)
	}
	if _, err := Of("web", "production", release("1", 2, rollout.Plan{}), other); err == nil || !strings.Contains(err.Error(), "Kubernetes refuses") {
		t.Error(err)
	}
}

func release(image string, replicas int, plan rollout.Plan) Release {
	var r Release
	for _, text := range []string{
		fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: %d, selector: {matchLabels: {app: web}},
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: "web:%s"}]}}}}`, replicas, image),
		`{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80}]}}`,
	} {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
			panic(err)
		}
		r.Objects = append(r.Objects, o)
	}
	r.ID = rollout.Release{Version: image, Digest: fmt.Sprint(image, "-", replicas)}
	r.Plan = plan
	return r
}
