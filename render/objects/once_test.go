package objects

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestOnce: of what is there twice one stays, so that the pods do what they did, or it is refused.
func TestOnce(t *testing.T) {
	service := parse(t, "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80, targetPort: http}, {port: 81, targetPort: admin}]}}")
	for _, c := range []struct{ in, out, says string }{
		{"env: [{name: A, value: a}, {name: B, value: b}]", "", ""},
		{"env: [{name: A, value: a}, {name: B, value: b}, {name: A, value: c}]", "env: [{name: B, value: b}, {name: A, value: c}]", "env A of container c is there twice, and the last one counts"},
		{"env: [{name: A, value: a}, {name: B, value: $(A)}, {name: A, value: c}]", "", "env A of container c is there twice, and a value refers to it; expected it once"},
		{"env: [{name: A, value: a}, {name: A, value: $(A)c}]", "", "env A of container c is there twice, and a value refers to it; expected it once"},
		{"ports: [{name: x, containerPort: 80}, {name: more, containerPort: 80, protocol: UDP}]", "", ""},
		{"ports: [{name: x, containerPort: 80}, {name: more, containerPort: 80, protocol: TCP}]", "ports: [{name: more, containerPort: 80, protocol: TCP}]", "port 80/TCP of container c is there twice, and counts as more"},
		{"ports: [{name: http, containerPort: 80}, {name: more, containerPort: 80}]", "ports: [{name: http, containerPort: 80}]", "port 80/TCP of container c is there twice, and counts as http"},
		{"ports: [{containerPort: 80}, {containerPort: 80}]", "ports: [{containerPort: 80}]", "port 80/TCP of container c is there twice"},
		{"ports: [{name: http, containerPort: 80}, {name: admin, containerPort: 80}]", "", "port 80/TCP of container c is there twice, as http and admin, and referred to by both names; expected one name"},
		{"env: not a list", "", ""},
	} {
		for _, kind := range []string{
			"{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {spec: {initContainers: [{name: c, %s}]}}}}",
			"{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c, %s}]}}",
			"{apiVersion: batch/v1, kind: CronJob, metadata: {name: web}, spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: c, %s}]}}}}}}",
		} {
			in := parse(t, fmt.Sprintf(kind, c.in))
			before := in.DeepCopy()
			names := func() map[string]bool { return PortNames([]*unstructured.Unstructured{service, in}) }
			out, _, err := Once(in, names)
			want := before
			if c.out != "" {
				want = parse(t, fmt.Sprintf(kind, c.out))
			}
			if !equal(out, want) || !equal(in, before) || (err != nil) != strings.Contains(c.says, "expected") {
				t.Errorf("%s: %v, %v", c.in, out.Object, err)
			}
			var says []string
			if c.says != "" {
				says = []string{in.GetKind() + " web: " + c.says}
			}
			if got := Twice([]*unstructured.Unstructured{service, in}); !slices.Equal(got, says) {
				t.Errorf("%s: says %q, want %q", c.in, got, says)
			}
		}
	}
}

func equal(x, y *unstructured.Unstructured) bool { return fmt.Sprint(x.Object) == fmt.Sprint(y.Object) }
