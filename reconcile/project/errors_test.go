package project

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// deployment and service make small objects as YAML.
func deployment(name, labels, selector string) string {
	return "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: " + name + ", namespace: ns}\n" +
		"spec: {selector: " + selector + ", template: {metadata: {labels: " + labels + "}, spec: {}}}\n---\n"
}

func service(name, selector string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + ", namespace: ns}\n" +
		"spec: {selector: " + selector + ", ports: [{port: 80}]}\n---\n"
}

const (
	web       = "{app: web}"
	matchWeb  = "{matchLabels: {app: web}}"
	meshVS    = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: ns}\nspec: "
	namedWeb  = "target: {name: web}"
	statefulS = "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db, namespace: ns}\nspec: {}\n---\n"
)

func TestProjectErrors(t *testing.T) {
	plain := deployment("web", web, matchWeb) + service("web", web)
	for _, test := range []struct {
		name, release, policy string
		phase                 rollout.Phase
		weight                int
		want                  string
	}{
		{"weight", plain, "", rollout.Analyzing, 101, "weight 101 in phase Analyzing, expected 0 to 100"},
		{"every host of the mesh", plain, "service: {hosts: ['*']}", rollout.Starting, 0, "service.hosts has * for callers in the mesh"},
		{"every host of the mesh, too", plain, "service: {hosts: ['*'], gateways: [public, mesh]}", rollout.Starting, 0, "service.hosts has * for callers in the mesh"},
		{
			"matches at other gateways", plain + strings.Replace(service("two", web), "ports: [{port: 80}]", "ports: [{port: 80}, {port: 81}]", 1),
			"service: {name: two, gateways: [public, mesh], match: [{uri: {prefix: /}, gateways: [private]}]}", rollout.Starting, 0,
			"no route is left: each of service.match names gateways that service.gateways does not",
		},
		{"phase", plain, "", "Dancing", 0, `unknown phase "Dancing"`},
		{"nothing to promote", "", "", rollout.Promoting, 0, "phase Promoting without objects of the release under way"},
		{
			"two Deployments", plain + deployment("job", "{app: job}", "{matchLabels: {app: job}}"), "", rollout.Idle, 0,
			"2 Deployments (web, job) and no target: name one in targetRef",
		},
		{
			"StatefulSet", statefulS, "", rollout.Idle, 0,
			"StatefulSet db: a canary of a StatefulSet is not supported yet, expected a Deployment or the strategy Rolling",
		},
		{"target is a StatefulSet", plain + statefulS, "target: {kind: StatefulSet, name: db}", rollout.Idle, 0, "StatefulSet db: a canary of"},
		{
			"target is not there", plain + deployment("job", "{app: job}", "{matchLabels: {app: job}}"), "target: {name: wep}", rollout.Idle, 0,
			"targetRef names workload wep, which is not a workload of the release",
		},
		{
			"target of another group", plain, "target: {apiVersion: argoproj.io/v1alpha1, kind: Deployment, name: web}", rollout.Starting, 0,
			"targetRef names argoproj.io/v1alpha1 Deployment web, which is not a workload of the release",
		},
		{
			"target of no version", plain, "target: {apiVersion: a/b/c, name: web}", rollout.Starting, 0,
			"targetRef names a/b/c workload web, which is not a workload of the release",
		},
		{"no workload to promote", service("web", web), "", rollout.Starting, 0, "no Deployment to make a canary of"},
		{
			"selector on existence", deployment("web", web, "{matchExpressions: [{key: app, operator: Exists}]}"), "", rollout.Starting, 0,
			"Deployment web selects them whatever labels are rewritten, expected a selector on label values",
		},
		{
			"selector of other pods", deployment("web", web, "{matchLabels: {app: wep}}"), "", rollout.Starting, 0,
			`Deployment web: spec.selector "app=wep", expected one that matches the labels of its own pods`,
		},
		{
			"broken selector", deployment("web", web, "{matchExpressions: [{key: app, operator: Is}]}"), "", rollout.Starting, 0,
			"reading spec.selector of Deployment web",
		},
		{
			"pods of another's canary", plain + deployment("mine", "{app: web-canary, tier: x}", "{matchLabels: {app: web-canary, tier: x}}"),
			namedWeb, rollout.Starting, 0, "pods of Deployment mine carry labels (app=web-canary) that would make them canary pods of Deployment web",
		},
		{
			"name taken", plain + service("web-canary", "{app: other}"), "", rollout.Starting, 0,
			"the release has a Service web-canary of its own, the name that the canary needs",
		},
		{
			"two Services", deployment("front", web, matchWeb) + service("a", web) + service("b", web), "", rollout.Idle, 0,
			"2 Services (a, b) select the pods of Deployment front: name the one to route in service.name",
		},
		{
			"Service of other pods", deployment("web", web, matchWeb) + service("web", "{app: other}"), "service: {name: web, port: 80}", rollout.Idle, 0,
			"Service web does not select the pods of Deployment web, expected the Service of the app",
		},
		{
			"Service without a port", deployment("web", web, matchWeb), "service: {name: web}", rollout.Idle, 0,
			"the release has no Service web, and service.port, which would make one, is not set",
		},
		{
			"VirtualService elsewhere", plain + meshVS + "{http: [{route: [{destination: {host: other}}]}]}", "", rollout.Idle, 0,
			"VirtualService web does not route to the app's Service web, expected it to do so or to have another name",
		},
		{
			"weight of a route", plain + meshVS + "{http: [{route: [{destination: {host: web}, weight: 1.5}]}]}", "", rollout.Starting, 0,
			"sharing the routes of VirtualService web: weight 1.5 of host web, expected a whole number from 0 to 1000000",
		},
		{
			"DestinationRule elsewhere", plain + strings.Replace(meshVS, "VirtualService", "DestinationRule", 1) + "{host: other}",
			"service: {trafficPolicy: {tls: {mode: DISABLE}}}", rollout.Idle, 0, "DestinationRule web is not for Service web",
		},
		{"a field that Istio does not know", plain, "service: {retries: {attemps: 3}}", rollout.Idle, 0, "service.retries: unknown field \"attemps\" in istio.networking.v1alpha3.HTTPRetry"},
		{"a match that Istio does not know", plain, "service: {match: [{uri: {prefix: /}}, {uri: {path: /}}]}", rollout.Idle, 0, "service.match[1]: unknown field \"path\""},
		{"a value of another type", plain, "service: {trafficPolicy: {tls: {mode: SOMETIMES}}}", rollout.Idle, 0, "service.trafficPolicy: unknown value"},
		{"a timeout that is none", plain, "service: {timeout: soon}", rollout.Idle, 0, "service.timeout is \"soon\", expected a duration such as 15s"},
		{"a header that is none", plain, "service: {headers: {request: [1]}}", rollout.Idle, 0, "service.headers: "},
		{"a match for TCP", plain, "service: {appProtocol: TCP, match: [{port: many}]}", rollout.Idle, 0, "service.match[0]: "},
		{
			"too much for pods", plain, "{provider: kubernetes, steps: [{weight: 60}]}", rollout.Starting, 0,
			"weight 60, but provider kubernetes shares traffic by pods, of which a canary gets at most as many as the stable track has: expected at most 50",
		},
		{
			"pods that an autoscaler counts", plain + "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {name: web, namespace: ns}\n" +
				"spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}", "{provider: kubernetes, steps: [{weight: 20}]}", rollout.Starting, 0,
			"HorizontalPodAutoscaler web scales Deployment web, but provider kubernetes shares traffic by pods: expected a number of replicas",
		},
		{
			"provider that nobody knows", plain, "provider: smoke", rollout.Starting, 0, `provider "smoke" is not known, expected one of istio, kubernetes`,
		},
		{
			"network policy", plain + "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x, namespace: ns}\n" +
				"spec: {podSelector: {matchExpressions: [{key: a, operator: Is}]}}", "", rollout.Starting, 0,
			"making the canary of NetworkPolicy x: reading NetworkPolicy x",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := Input{App: "shop", Namespace: "ns", Plan: rollout.Plan{Strategy: environments.StrategyCanary}}
			in.Stable = parse(t, test.release)
			in.Target = in.Stable
			in.State = rollout.State{Phase: test.phase, Exposure: rollout.Exposure{Weight: test.weight}}
			if err := yaml.UnmarshalStrict([]byte(test.policy), &in.Plan); err != nil {
				t.Fatal(err)
			}
			d, err := Project(in)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "app shop") {
				t.Errorf("got %v, want app shop and %q", err, test.want)
			}
			if d.Stable != nil || d.Canary != nil || d.Routing != nil {
				t.Error("an error came with objects")
			}
		})
	}
}

// TestCheck: what would only show in a later phase shows before a rollout begins.
func TestCheck(t *testing.T) {
	in := Input{App: "shop", Namespace: "ns", Stable: parse(t, deployment("web", web, matchWeb)+service("web", web))}
	in.Plan.Strategy = environments.StrategyCanary
	in.Target = in.Stable
	if err := Check(in); err != nil {
		t.Errorf("a release that can be rolled out: %v", err)
	}
	in.Target = parse(t, deployment("web", web, matchWeb)+service("a", web)+service("b", web))
	if err := Check(in); err == nil || !strings.Contains(err.Error(), "2 Services (a, b)") {
		t.Errorf("two Services after promotion: got %v", err)
	}
	in.Plan.Strategy = environments.StrategyRolling
	if err := Check(in); err != nil {
		t.Errorf("two Services without a canary: %v", err)
	}
	in.Target = parse(t, deployment("web", "{app: web, part: x}", "{matchLabels: {app: web, part: x}}")+service("web", web))
	const want = `spec.selector of Deployment web changes from "app=web" to "app=web,part=x", which Kubernetes refuses`
	if err := Check(in); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("another selector: got %v", err)
	}
	in.Target = parse(t, deployment("web2", "{app: web, part: x}", "{matchLabels: {app: web, part: x}}")+service("web", web))
	if err := Check(in); err != nil {
		t.Errorf("another selector under another name: %v", err)
	}
}

// TestProjectWithoutCanary: an app that cannot have a canary is projected as rendered as long as none is asked for.
func TestProjectWithoutCanary(t *testing.T) {
	for name, release := range map[string]string{
		"StatefulSet":     statefulS,
		"no workload":     service("web", web),
		"two Deployments": deployment("a", web, matchWeb) + deployment("b", web, matchWeb),
	} {
		in := Input{App: "shop", Namespace: "ns", Stable: parse(t, release)}
		in.Plan.Strategy = environments.StrategyRolling
		if name == "no workload" {
			in.Plan.Strategy = environments.StrategyCanary
		}
		d, err := Project(in)
		if err != nil || len(d.Stable) != len(in.Stable) || len(d.Routing) > 0 {
			t.Errorf("%s: %d objects and %d of routing, error %v", name, len(d.Stable), len(d.Routing), err)
		}
	}
}

// TestRoutingWithoutCanary: hosts, gateways and Services of the policy stay when its canary goes; what no canary was ever made of
// was never routed, and a policy without hosts needs no mesh.
func TestRoutingWithoutCanary(t *testing.T) {
	public := environments.Service{Hosts: []string{"web.example.org"}, Gateways: []string{"public"}, Port: 80}
	for _, test := range []struct {
		name, release string
		service       environments.Service
		want          []string
	}{
		{"hosts", deployment("web", web, matchWeb) + service("web", web), public, []string{"VirtualService web"}},
		{"a Service of the policy", deployment("web", web, matchWeb), environments.Service{Port: 80}, []string{"Service web"}},
		{
			"hosts and a Service of the policy", deployment("web", web, matchWeb), public,
			[]string{"Service web", "VirtualService web"},
		},
		{"the mesh alone", deployment("web", web, matchWeb) + service("web", web), environments.Service{Port: 80, Timeout: "1s"}, nil},
		{"StatefulSet", statefulS, public, nil},
		{"two Deployments", deployment("a", web, matchWeb) + deployment("b", web, matchWeb), public, nil},
	} {
		in := Input{App: "web", Namespace: "ns", Stable: parse(t, test.release)}
		in.Plan = rollout.Plan{Strategy: environments.StrategyRolling, Service: test.service}
		in.Target = in.Stable
		if err := Check(in); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		for _, phase := range []rollout.Phase{rollout.Idle, rollout.Installing, rollout.Updating} {
			in.State = rollout.State{Phase: phase}
			d, err := Project(in)
			var got []string
			for _, obj := range d.Routing {
				got = append(got, describe(obj))
			}
			if err != nil || !slices.Equal(got, test.want) || len(d.Stable) != len(in.Stable) {
				t.Errorf("%s in %q: routing %q, want %q; error %v", test.name, phase, got, test.want, err)
			}
		}
	}
}

// TestRenamedWorkload: a rollback ends although the policy already names the workload as the failed release does.
func TestRenamedWorkload(t *testing.T) {
	in := Input{App: "shop", Namespace: "ns", Plan: rollout.Plan{Strategy: environments.StrategyCanary}}
	in.Plan.Target = environments.Target{Kind: "Deployment", Name: "web2"}
	in.Stable = parse(t, deployment("web", web, matchWeb)+service("web", web))
	in.Target = parse(t, deployment("web2", web, matchWeb)+service("web", web))
	for _, state := range []string{"Starting", "Analyzing 10", "Promoting 10", "Draining 0", "RollingBack 0", "RollingBack 0 drained", "Idle"} {
		in.State = parseState(t, state)
		d, err := Project(in)
		if err != nil {
			t.Errorf("%s: %v", state, err)
		} else if d.Service != "web" || len(d.Routing) != 1 {
			t.Errorf("%s: Service %q, %d objects of routing", state, d.Service, len(d.Routing))
		}
	}
}

func TestFindCanary(t *testing.T) {
	canary := func(name, target string) string {
		return "apiVersion: flagger.app/v1alpha3\nkind: Canary\nmetadata: {name: " + name + "}\n" +
			"spec: {targetRef: {kind: Deployment, name: " + target + "}}\n---\n"
	}
	for _, test := range []struct{ name, objects, want, wantErr string }{
		{"none", service("web", web), "", ""},
		{"one", service("web", web) + canary("web", "web"), "web", ""},
		{"two of one", canary("a", "web") + canary("b", "web"), "", "Canary a and Canary b both target Deployment web, expected one Canary object"},
		{"two of two", canary("a", "web") + canary("b", "job"), "", "Canary a targets Deployment web and Canary b targets Deployment job"},
	} {
		objs := parse(t, test.objects)
		got, err := FindCanary(append(objs, nil))
		if test.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("%s: got error %v, want %q", test.name, err, test.wantErr)
			}
			continue
		}
		if err != nil || stringAt(got, "metadata", "name") != test.want {
			t.Errorf("%s: got %v, %v", test.name, got, err)
		}
		if scribble(got); test.want != "" && objs[1].GetName() != "web" {
			t.Errorf("%s: the result shares memory with the release", test.name)
		}
	}
}

// TestApplied: nothing of Flagger's is applied, in whatever version and namespace; its MetricTemplates are read.
func TestApplied(t *testing.T) {
	const flagger = "apiVersion: flagger.app/%s\nkind: %s\nmetadata: {name: a, namespace: elsewhere}\n---\n"
	objs := parse(t, service("web", web)+fmt.Sprintf(flagger, "v1beta1", "MetricTemplate")+fmt.Sprintf(flagger, "v1alpha1", "MetricTemplate")+
		fmt.Sprintf(flagger, "v1beta1", "AlertProvider")+fmt.Sprintf(flagger, "v1beta1", "Canary"))
	if got := Applied(append(objs, nil)); len(got) != 1 || got[0].GetName() != "web" {
		t.Errorf("applied: %v", got)
	}
	templates := MetricTemplates(append(objs, nil))
	if len(templates) != 2 {
		t.Fatalf("templates: %v", templates)
	}
	if scribble(templates[0]); objs[1].GetName() != "a" {
		t.Error("the result shares memory with the release")
	}
}

func TestNames(t *testing.T) {
	long := strings.Repeat("x", 50) + "-." + strings.Repeat("y", 20)
	for _, name := range []string{"web", long, long + "z", strings.Repeat("a", 56), strings.Repeat("a", 57)} {
		got := canaryName(name)
		if len(got) > maxName || !strings.HasSuffix(got, "-canary") || strings.Contains(got, ".-") {
			t.Errorf("%s: got %s", name, got)
		}
	}
	if canaryName(long) == canaryName(long+"z") {
		t.Error("two long names got one canary name")
	}
	if got := canaryValue(""); got != "canary" {
		t.Errorf("empty label: got %q", got)
	}
}

// FuzzMalformed: whatever a chart renders, nothing panics.
func FuzzMalformed(f *testing.F) {
	f.Add(deployment("web", web, matchWeb)+service("web", web)+meshVS+"{http: [{route: [{destination: {host: web}}]}]}", "port: 80", uint8(4))
	f.Add(compared, "match: [a, {uri: b}]\nappProtocol: tcp", uint8(3))
	f.Add("kind: 7\n---\nspec: []\n---\napiVersion: apps/v1\nkind: Deployment\nspec: {template: 3, selector: {matchLabels: [1]}}", "", uint8(5))
	f.Add("apiVersion: apps/v1\nkind: Deployment\nmetadata: {annotations: {a: 1}, name: 9}\nspec: {selector: {matchLabels: {a: b}}, "+
		"template: {metadata: {labels: {a: b, c: 1}}, spec: {volumes: {}, containers: [1, {env: [{valueFrom: 1}]}]}}}", "", uint8(4))
	f.Fuzz(func(t *testing.T, text, service string, phase uint8) {
		var objs []*unstructured.Unstructured
		for _, doc := range strings.Split(text, "\n---\n") {
			obj := &unstructured.Unstructured{}
			if yaml.Unmarshal([]byte(doc), &obj.Object) == nil {
				objs = append(objs, obj)
			}
		}
		in := Input{App: "a", Namespace: "ns", Stable: objs, Target: objs, Plan: rollout.Plan{Strategy: environments.StrategyCanary}}
		_ = yaml.Unmarshal([]byte(service), &in.Plan.Service)
		in.State = rollout.State{Phase: phases[int(phase)%len(phases)], Exposure: rollout.Exposure{Weight: 10}}
		d, err := Project(in)
		if err != nil && len(d.Stable) > 0 {
			t.Error("an error came with objects")
		}
		_, _ = Warnings(in, objs)
		_, _ = FindCanary(objs)
		Compare(objs, objs[:len(objs)/2])
	})
}

// TestProviders: what a policy may name is there.
func TestProviders(t *testing.T) {
	for _, name := range environments.Providers {
		if _, known := providers[name]; !known {
			t.Errorf("%s is not there", name)
		}
		_, err := analysis.NewCheck(analysis.Metric{Name: analysis.SuccessRate, Provider: name}, analysis.Vars{})
		if err != nil && strings.Contains(err.Error(), "nobody knows") {
			t.Errorf("what %s measures is not known: %v", name, err)
		}
	}
	if len(environments.Providers) != len(providers) {
		t.Errorf("%d providers are there, and a policy may name %d", len(providers), len(environments.Providers))
	}
}

// TestTargetVersion: a target is found by the group of its API version, in whichever version the chart writes it.
func TestTargetVersion(t *testing.T) {
	objs := parse(t, deployment("web", web, matchWeb))
	for _, version := range []string{"", "apps/v1", "apps/v1beta2", "extensions/v1beta1"} {
		if w, err := FindTarget(objs, environments.Target{APIVersion: version, Name: "web"}); err != nil || w == nil {
			t.Errorf("apiVersion %q: %v", version, err)
		}
	}
}
