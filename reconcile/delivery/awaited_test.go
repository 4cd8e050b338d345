package delivery

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/sluice-cd/sluice/reconcile/rollout"
	kube "github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

func hook(kind, name, manifest string) release.Hook {
	return release.Hook{Kind: kind, Name: name, Events: []string{"pre-install", "pre-upgrade"}, Manifest: manifest}
}

// awaits asks for the nth release with a Secret that its pods need.
func awaits(t *testing.T, n int, hooks ...release.Hook) *Desired {
	t.Helper()
	d := asks(n)
	d.Release.Hooks = hooks
	pod := kube.PodSpec(d.Release.Objects[0])
	pod["volumes"] = []any{map[string]any{"name": "cert", "secret": map[string]any{"secretName": "web-cert"}}}
	return d
}

const certgen = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: certgen}\nspec: {template: {spec: {containers: [{name: c, args: [--secret=web-cert]}]}}}\n"

// TestAwaitedSecret: a release whose pods need a Secret that only a hook would make begins neither first nor later, names the hook, and
// goes on by itself when somebody has made the Secret. What nobody can tell keeps nothing from beginning.
func TestAwaitedSecret(t *testing.T) {
	ready := rollout.Track{Ready: true}
	secret := kube.Key{Kind: "Secret", Namespace: "production", Name: "web-cert"}
	uses := strings.Replace(certgen, "args: [--secret=web-cert]", "args: [web-cert], envFrom: [{secretRef: {name: web-cert}}]", 1)
	for name, c := range map[string]struct {
		hook    release.Hook
		refused string
	}{
		"a Job that is told the name": {hook("Job", "certgen", certgen), "nothing of the release makes but its hook Job certgen (pre-install, pre-upgrade), which is not run"},
		"the Secret itself":           {hook("Secret", "web-cert", "kind: Secret"), "its hook Secret web-cert"},
		"a longer name":               {hook("Job", "certgen", strings.Replace(certgen, "web-cert", "web-cert-old", 1)), ""},
		"a Job that needs it too":     {hook("Job", "migrate", uses), ""},
		"another Job":                 {hook("Job", "backup", strings.Replace(certgen, "web-cert", "all", 1)), ""},
	} {
		for _, s := range []rollout.State{under(rollout.Idle), under(rollout.Starting), {Phase: rollout.Idle, Plan: &plan}} {
			fake := &cluster{missing: []kube.Key{secret}, seen: Seen{Applied: true, Stable: ready, Canary: ready}}
			got, err := decide(t, fake, Facts{Desired: awaits(t, 3, c.hook)}, s)
			begun := got.Saved.State.Target.Digest == "3" || got.Saved.State.Stable.Digest == "3"
			if c.refused == "" {
				if err != nil || got.Fault != nil || !begun {
					t.Errorf("%s, %s: fault %v, %v", name, s.Phase, got.Fault, err)
				}
				continue
			}
			if !errors.Is(err, ErrRefused) || got.Fault == nil || begun || !strings.Contains(got.Fault.Error(), "Secret production/web-cert is not there: ") ||
				!strings.Contains(got.Fault.Error(), c.refused) {
				t.Errorf("%s, %s: begun %t, fault %v", name, s.Phase, begun, got.Fault)
			}
			fake.missing = nil
			got, err = decide(t, fake, Facts{Desired: awaits(t, 3, c.hook)}, got.Saved.State)
			begun = got.Saved.State.Target.Digest == "3" || s.InFlight() // what is under way goes back first
			if err != nil || got.Fault != nil || !begun {
				t.Errorf("%s, %s, made by somebody: begun %t, fault %v, %v", name, s.Phase, begun, got.Fault, err)
			}
		}
	}
}

// TestAwaitedCertificate: a webhook that would have the API server refuse everything until a hook has run is applied neither first nor
// later, unless somebody else sees to its caBundle or has seen to it.
func TestAwaitedCertificate(t *testing.T) {
	configuration := func(change func(webhook, metadata map[string]any)) *unstructured.Unstructured {
		webhook := map[string]any{"name": "web.example.com", "clientConfig": map[string]any{"service": map[string]any{"name": "web"}}}
		metadata := map[string]any{"name": "web-admission"}
		change(webhook, metadata)
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "metadata": metadata, "webhooks": []any{webhook},
		}}
	}
	job := hook("Job", "patch", strings.ReplaceAll(certgen, "web-cert", "web-admission"))
	for name, c := range map[string]struct {
		change  func(webhook, metadata map[string]any)
		hook    release.Hook
		refused bool
	}{
		"a hook is told its name":  {func(map[string]any, map[string]any) {}, job, true},
		"fails by name":            {func(w, _ map[string]any) { w["failurePolicy"] = "Fail" }, job, true},
		"a hook of something else": {func(map[string]any, map[string]any) {}, hook("Job", "patch", certgen), false},
		"fails open":               {func(w, _ map[string]any) { w["failurePolicy"] = "Ignore" }, job, false},
		"by a URL":                 {func(w, _ map[string]any) { w["clientConfig"] = map[string]any{"url": "https://example.com"} }, job, false},
		"brings its own":           {func(w, _ map[string]any) { w["clientConfig"].(map[string]any)["caBundle"] = "Y2E=" }, job, false},
		"cert-manager's": {func(_, m map[string]any) {
			m["annotations"] = map[string]any{"cert-manager.io/inject-ca-from": "production/web"}
		}, job, false},
	} {
		d := asks(3)
		d.Release.Hooks = []release.Hook{c.hook}
		d.Release.Objects = append(d.Release.Objects, configuration(c.change))
		fake := &cluster{seen: Seen{Applied: true, Stable: rollout.Track{Ready: true}}}
		begun := func() (bool, error) {
			got, err := decide(t, fake, Facts{Desired: d}, rollout.State{Phase: rollout.Idle, Plan: &plan})
			return got.Saved.State.Target.Digest == "3", err
		}
		ok, err := begun()
		if ok == c.refused || c.refused && (!errors.Is(err, ErrRefused) ||
			!strings.Contains(err.Error(), "ValidatingWebhookConfiguration web-admission has no caBundle but the one that its hook Job patch (pre-install, pre-upgrade) would write")) {
			t.Errorf("%s: begun %t: %v", name, ok, err)
		}
		if !c.refused && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		live := configuration(func(w, _ map[string]any) { w["clientConfig"].(map[string]any)["caBundle"] = "Y2E=" })
		fake.live = []*unstructured.Unstructured{live}
		if ok, err := begun(); !ok || err != nil {
			t.Errorf("%s, and somebody has seen to it: begun %t: %v", name, ok, err)
		}
	}
}

// TestAwaitedBy: a hook that is the Secret, or makes it, is named before one that only may, and no other kind of hook at all.
func TestAwaitedBy(t *testing.T) {
	backup, probe := hook("Job", "backup", "all"), hook("Pod", "probe", "web-cert")
	probe.Events = []string{"test"}
	for name, c := range map[string]struct {
		hooks []release.Hook
		want  string
		sure  bool
	}{
		"none":      {nil, "", false},
		"a test":    {[]release.Hook{probe}, "", false},
		"perhaps":   {[]release.Hook{probe, backup}, "but perhaps its hook Job backup", false},
		"says it":   {[]release.Hook{backup, hook("ConfigMap", "script", "web-cert")}, "but perhaps its hook ConfigMap script", false},
		"makes it":  {[]release.Hook{backup, hook("ConfigMap", "script", "web-cert"), hook("Job", "certgen", certgen)}, "makes but its hook Job certgen", true},
		"is it":     {[]release.Hook{backup, hook("Secret", "web-cert", "kind: Secret")}, "makes but its hook Secret web-cert", true},
		"not YAML":  {[]release.Hook{hook("Job", "odd", "{web-cert")}, "but perhaps its hook Job odd", false},
		"no object": {[]release.Hook{hook("Job", "odd", "web-cert")}, "but perhaps its hook Job odd", false},
	} {
		all := AwaitedBy(awaits(t, 1, c.hooks...).Release)
		if c.want == "" && len(all) == 0 {
			continue
		}
		if len(all) != 1 || all[0].Sure != c.sure || !strings.Contains(all[0].String(), c.want) {
			t.Errorf("%s: %v", name, all)
		}
	}
	made := awaits(t, 1, backup).Release
	made.Objects = append(made.Objects, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "web-cert", "namespace": "production"},
	}})
	if all := AwaitedBy(made); len(all) > 0 {
		t.Errorf("of the release: %v", all)
	}
}
