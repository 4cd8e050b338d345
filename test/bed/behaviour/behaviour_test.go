package behaviour_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

func TestShortImage(t *testing.T) {
	for image, want := range map[string]string{
		"app:1":                              "app:1",
		"app":                                "app:latest",
		"localhost:5000/team/app:0.1.2":      "app:0.1.2",
		"localhost:5000/team/app":            "app:latest",
		"gcr.io/x/app:1@sha256:0123456789ab": "app:1",
	} {
		if got := behaviour.ShortImage(image); got != want {
			t.Errorf("ShortImage(%q) = %q, want %q", image, got, want)
		}
	}
}

func TestOfPrefersTheAnnotationThenTheTable(t *testing.T) {
	var table behaviour.Table
	table.Set("app:2", behaviour.Behaviour{ErrorRate: .3})
	pod := func(image, annotation string) *corev1.Pod {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "sidecar:1"}, {Image: image}}}}
		if annotation != "" {
			p.ObjectMeta = metav1.ObjectMeta{Annotations: map[string]string{behaviour.Annotation: annotation}}
		}
		return p
	}
	for _, c := range []struct {
		name string
		pod  *corev1.Pod
		want behaviour.Behaviour
	}{
		{"unknown image", pod("registry/app:1", ""), behaviour.Healthy},
		{"image in the table", pod("registry/app:2", ""), behaviour.Behaviour{ErrorRate: .3, LatencyMillis: 20}},
		{"annotation", pod("registry/app:2", `{"ready":"crash","latencyMillis":5}`), behaviour.Behaviour{Ready: behaviour.Crashing, LatencyMillis: 5}},
		{"broken annotation", pod("registry/app:2", `{`), behaviour.Behaviour{ErrorRate: .3, LatencyMillis: 20}},
	} {
		if got := table.Of(c.pod); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}
