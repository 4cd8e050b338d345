package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/sluice-cd/sluice/render/objects"
)

func FuzzNames(f *testing.F) {
	for _, s := range []string{"web", "Web", "web_1", "", "-", "ünïcode", strings.Repeat("x", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if errs := validation.IsDNS1123Label(labelValue(s)); len(errs) > 0 {
			t.Errorf("label %q: %v", labelValue(s), errs)
		}
		c := &Client{cfg: Config{Environment: s}}
		if errs := validation.IsDNS1123Subdomain(c.stateName(s)); len(errs) > 0 {
			t.Errorf("name %q: %v", c.stateName(s), errs)
		}
	})
}

func FuzzDigestText(f *testing.F) {
	f.Add("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		text := digestText(s)
		if errs := validation.IsValidLabelValue(text); len(errs) > 0 || text == "" {
			t.Errorf("label %q: %v", text, errs)
		}
		if len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" && digestOf(text) != s {
			t.Errorf("%s came back as %s", s, digestOf(text))
		}
	})
}

func TestObjectError(t *testing.T) {
	k := objects.Key{Kind: "Service", Namespace: "a", Name: "b"}
	invalid := objectError("applying", k, apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, "b",
		field.ErrorList{field.Invalid(field.NewPath("spec", "clusterIP"), "10.0.0.1", "may not change once set")}))
	want := "applying Service a/b: spec.clusterIP: Invalid value: may not change once set (the field can't be changed in place;"
	if !strings.HasPrefix(invalid.Error(), want) {
		t.Errorf("got  %s\nwant %s…", invalid, want)
	}
}

func TestLoadREST(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	text := `apiVersion: v1
kind: Config
current-context: plain
clusters: [{name: c, cluster: {server: "https://localhost:1"}}]
contexts:
- {name: plain, context: {cluster: c, user: token}}
- {name: plugin, context: {cluster: c, user: exec}}
- {name: old, context: {cluster: c, user: provider}}
users:
- {name: token, user: {token: t}}
- {name: exec, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, interactiveMode: Never}}}
- {name: provider, user: {auth-provider: {name: gcp}}}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		context string
		allow   bool
		want    error
	}{{"", false, nil}, {"plain", false, nil}, {"plugin", false, ErrPlugin}, {"plugin", true, nil}, {"old", true, ErrPlugin}} {
		rc, err := LoadREST(file, test.context, test.allow)
		if !errors.Is(err, test.want) || test.want == nil && (err != nil || rc.Host != "https://localhost:1") {
			t.Errorf("%s: %v, %v", test.context, rc, err)
		}
	}
	if _, err := LoadREST(file, "missing", false); err == nil {
		t.Error("a context that is not there was found")
	}
}

func TestJudgePods(t *testing.T) {
	waiting := func(name, reason string, restarts, exit int32) corev1.Pod {
		p := corev1.Pod{}
		p.Name = name
		c := corev1.ContainerStatus{Name: "app", RestartCount: restarts}
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason}
		if exit != 0 {
			c.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: exit}
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{c}
		return p
	}
	ready := corev1.Pod{}
	ready.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	for _, test := range []struct {
		name string
		pods []corev1.Pod
		want podSum
	}{
		{"none", nil, podSum{message: "0 of 2 pods ready"}},
		{
			"crash loop",
			[]corev1.Pod{ready, waiting("x", "CrashLoopBackOff", 4, 1)},
			podSum{failed: true, message: "1 of 2 pods ready: pod x container app CrashLoopBackOff (exit 1, restarts 4)"},
		},
		{
			"first crashes",
			[]corev1.Pod{waiting("x", "CrashLoopBackOff", 2, 1)},
			podSum{message: "0 of 2 pods ready: pod x container app CrashLoopBackOff (exit 1, restarts 2)"},
		},
		{
			"image",
			[]corev1.Pod{waiting("x", "ImagePullBackOff", 0, 0)},
			podSum{message: "0 of 2 pods ready: pod x container app ImagePullBackOff"},
		},
		{"starting", []corev1.Pod{waiting("x", "ContainerCreating", 0, 0)}, podSum{message: "0 of 2 pods ready"}},
		{
			"the worst first",
			[]corev1.Pod{waiting("x", "ImagePullBackOff", 0, 0), waiting("y", "CrashLoopBackOff", 3, 2)},
			podSum{failed: true, message: "0 of 2 pods ready: pod y container app CrashLoopBackOff (exit 2, restarts 3); and 1 more"},
		},
	} {
		if got := judgePods(test.pods, 2); got != test.want {
			t.Errorf("%s: %+v\nwant %+v", test.name, got, test.want)
		}
	}
}
