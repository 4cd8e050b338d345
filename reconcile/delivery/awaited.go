package delivery

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/reconcile/project"
	kube "github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

// Awaited is what a release can't do without, and that nothing makes but a hook of its chart: hooks are not run. It is a Secret that its
// pods need, or the caBundle of an admission webhook without which the API server refuses whatever the webhook is for.
type Awaited struct {
	// Object is the Secret, or the configuration of the webhook.
	Object kube.Key
	// Sure: the hook is the Secret, or runs something that is told the object's name. Else it runs something beforehand, which may make it.
	Sure bool
	hook release.Hook
}

// AwaitedBy lists what a release waits for. What no hook could make is left out: somebody else makes it.
func AwaitedBy(rel *release.Release) (all []Awaited) {
	for _, k := range project.Unmade(rel.Objects) {
		for _, fits := range []func(release.Hook) bool{
			func(h release.Hook) bool { return isSecret(h, k.Name) || makes(h, k.Name) },
			func(h release.Hook) bool { return mentions(h.Manifest, k.Name) },
			func(release.Hook) bool { return true },
		} {
			i := slices.IndexFunc(rel.Hooks, func(h release.Hook) bool { return beforehand(h) && fits(h) })
			if i < 0 {
				continue
			}
			h := rel.Hooks[i]
			all = append(all, Awaited{Object: k, Sure: isSecret(h, k.Name) || makes(h, k.Name), hook: h})
			break
		}
	}
	for _, o := range rel.Objects {
		if !untrusted(o) || injected(o) {
			continue
		}
		told := func(h release.Hook) bool { return beforehand(h) && makes(h, o.GetName()) }
		if i := slices.IndexFunc(rel.Hooks, told); i >= 0 {
			all = append(all, Awaited{Object: kube.KeyOf(o), Sure: true, hook: rel.Hooks[i]})
		}
	}
	return all
}

// admission are the kinds that have the API server ask webhooks.
var admission = []schema.GroupKind{
	{Group: "admissionregistration.k8s.io", Kind: "ValidatingWebhookConfiguration"},
	{Group: "admissionregistration.k8s.io", Kind: "MutatingWebhookConfiguration"},
}

// untrusted reports whether an object has the API server ask a Service whose certificate it has nothing to hold against, and refuse
// everything while it can't.
func untrusted(o *unstructured.Unstructured) bool {
	webhooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
	return slices.Contains(admission, kube.GroupKind(o)) && slices.ContainsFunc(webhooks, func(w any) bool {
		webhook, _ := w.(map[string]any)
		client, _ := webhook["clientConfig"].(map[string]any)
		bundle, _ := client["caBundle"].(string)
		return client["service"] != nil && bundle == "" && webhook["failurePolicy"] != "Ignore"
	})
}

// injected reports whether an object asks a controller for its caBundle.
func injected(o *unstructured.Unstructured) bool {
	for name := range o.GetAnnotations() {
		if strings.HasPrefix(name, "cert-manager.io/inject-") || name == "service.beta.openshift.io/inject-cabundle" {
			return true
		}
	}
	return false
}

func beforehand(h release.Hook) bool {
	return slices.ContainsFunc(h.Events, func(e string) bool { return strings.HasSuffix(e, "-install") || strings.HasSuffix(e, "-upgrade") })
}

func isSecret(h release.Hook, name string) bool { return h.Kind == "Secret" && h.Name == name }

// makes reports whether a hook runs something that is told a Secret's name and has no use for it itself.
func makes(h release.Hook, name string) bool {
	var o unstructured.Unstructured
	if !mentions(h.Manifest, name) || yaml.Unmarshal([]byte(h.Manifest), &o.Object) != nil {
		return false
	}
	pod := kube.PodSpec(&o)
	return pod != nil && !project.Uses(pod, "Secret", name)
}

// mentions reports whether a text has a name that is not part of a longer one.
func mentions(text, name string) bool {
	return regexp.MustCompile(`(^|[^a-z0-9.-])` + regexp.QuoteMeta(name) + `($|[^a-z0-9.-])`).MatchString(text)
}

// String warns of it where the cluster can't be asked.
func (a Awaited) String() string {
	if a.webhook() {
		return fmt.Sprintf("%s has no caBundle but the one that its hook %s %s (%s) would write, which is not run: the API server would refuse whatever the webhook is for; "+
			"expected a caBundle in the chart, one that cert-manager injects, or failurePolicy: Ignore",
			a.Object, a.hook.Kind, a.hook.Name, strings.Join(a.hook.Events, ", "))
	}
	perhaps := " but "
	if !a.Sure {
		perhaps = " but perhaps "
	}
	return fmt.Sprintf("pods need Secret %s, which nothing of the release makes%sits hook %s %s (%s), which is not run; "+
		"expected the Secret to be there, or in the chart", a.Object.Name, perhaps, a.hook.Kind, a.hook.Name, strings.Join(a.hook.Events, ", "))
}

func (a Awaited) webhook() bool { return slices.Contains(admission, a.Object.GroupKind()) }

// There reports whether somebody has made it.
func (a Awaited) There(ctx context.Context, objs Others) (bool, error) {
	if !a.webhook() {
		return objs.Has(ctx, a.Object)
	}
	live, err := objs.Outside(ctx, "", admission)
	return slices.ContainsFunc(live, func(o *unstructured.Unstructured) bool { return kube.KeyOf(o) == a.Object && !untrusted(o) }), err
}

// Missing refuses a release whose pods would never start, or that would have the API server refuse others' objects. It is over when
// somebody has made what is awaited.
func (a Awaited) Missing() error { return missingError{a} }

type missingError struct{ Awaited }

func (e missingError) Error() string {
	if e.webhook() {
		return e.String() + ". It goes on by itself when that is there"
	}
	return e.Object.String() + " is not there: " + e.String() + ". It goes on by itself when it is there"
}

// Is implements errors.Is.
func (missingError) Is(target error) bool { return target == ErrRefused }

// supplied reports what git asks for waits for; nil: nothing, or nobody can tell.
func (l *look) supplied(ctx context.Context) error {
	var faults []error
	for _, a := range AwaitedBy(l.Desired.Release) {
		if !a.Sure {
			continue
		}
		there, err := a.There(ctx, l.Objects)
		if err == nil && !there {
			err = a.Missing()
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}
