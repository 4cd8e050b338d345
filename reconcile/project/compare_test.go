package project

import (
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// release is what TestCompare changes a little.
const compared = `
apiVersion: v1
kind: ConfigMap
metadata: {name: config, namespace: ns}
data: {level: info}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: unused, namespace: ns}
data: {unused: "1"}
---
apiVersion: v1
kind: Secret
metadata: {name: secret, namespace: ns}
data: {password: aHVudGVyMg==}
---
apiVersion: v1
kind: Secret
metadata: {name: pull, namespace: ns}
data: {pulled: "1"}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: ns}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: ns, labels: {chart: web-1}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web, tier: front}}
    spec:
      imagePullSecrets: [{name: pull}]
      containers:
      - name: web
        image: web:1
        resources: {limits: {cpu: 1000m}}
        envFrom: [{configMapRef: {name: config}}, {secretRef: {name: secret}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: ns}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: job, image: "job:1"}]}}}}}
---
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {name: web, namespace: ns}
spec: {analysis: {maxWeight: 50}}
`

func TestCompare(t *testing.T) {
	const none, plain, pods = rollout.ChangeNone, rollout.ChangePlain, rollout.ChangePods
	for _, test := range []struct {
		name     string
		old, new string // old is replaced by new in the release
		want     rollout.Change
	}{
		{"nothing", "", "", none},
		{"map order", "{app: web, tier: front}", "{tier: front, app: web}", none},
		{"image", "web:1", "web:2", pods},
		{"quantity spelled otherwise", "cpu: 1000m", "cpu: 1", plain},
		{"empty list", "image: web:1", "image: web:1\n        args: []", plain},
		{"unknown field in the pods", "image: web:1", "image: web:1\n        novelty: 1", pods},
		{"label of the pods", "tier: front", "tier: back", pods},
		{"label of the Deployment", "chart: web-1", "chart: web-2", plain},
		{"replicas", "replicas: 2", "replicas: 3", plain},
		{"Service", "port: 80", "port: 81", plain},
		{"config", "level: info", "level: debug", pods},
		{
			"config, taken out of releases", "config, namespace: ns}\ndata: {level: info}",
			"config, namespace: ns, annotations: {sluice.dev/config-tracking: disabled}}\ndata: {level: debug}", plain,
		},
		{
			"config, Flagger's word", "config, namespace: ns}\ndata: {level: info}",
			"config, namespace: ns, annotations: {flagger.app/config-tracking: disabled}}\ndata: {level: debug}", plain,
		},
		{"config's labels", "config, namespace: ns}", "config, namespace: ns, labels: {a: b}}", plain},
		{"config that nobody uses", `unused: "1"`, `unused: "2"`, plain},
		{"secret", "aHVudGVyMg==", "aHVudGVyMw==", pods},
		{"secret as text", "data: {password: aHVudGVyMg==}", "stringData: {password: hunter2}", plain},
		{"pull secret", `pulled: "1"`, `pulled: "2"`, plain},
		{"config added", "kind: ConfigMap\nmetadata: {name: unused", "kind: ConfigMap\nmetadata: {name: other", plain},
		{"config removed", "kind: ConfigMap\nmetadata: {name: config", "kind: ConfigMap\nmetadata: {name: gone", pods},
		{"workload renamed", "kind: Deployment\nmetadata: {name: web", "kind: Deployment\nmetadata: {name: web2", pods},
		{"workload of another kind", "kind: Deployment", "kind: StatefulSet", pods},
		{"CronJob", "job:1", "job:2", plain},
		{"policy", "maxWeight: 50", "maxWeight: 60", plain},
		{"API version of a Deployment", "apps/v1", "apps/v1beta2", plain},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := strings.Replace(compared, test.old, test.new, 1)
			if changed == compared && test.old != test.new {
				t.Fatal("the test changes nothing")
			}
			from, to := parse(t, compared), parse(t, changed)
			if got := Compare(from, to); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if got := Compare(to, from); got != test.want {
				t.Errorf("the other way: got %q, want %q", got, test.want)
			}
		})
	}
	all := parse(t, compared)
	if got := Compare(nil, nil); got != none {
		t.Errorf("nothing and nothing: got %q", got)
	}
	if got := Compare(nil, all); got != pods {
		t.Errorf("first release: got %q", got)
	}
	if got := Compare(all[:5], all[1:5]); got != plain {
		t.Errorf("without workloads: got %q", got)
	}
}
