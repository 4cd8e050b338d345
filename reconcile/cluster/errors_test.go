package cluster

import (
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/sluice-cd/sluice/render/objects"
)

// TestErrorsKeepFields holds that the API server's words keep what they are about and lose the value.
func TestErrorsKeepFields(t *testing.T) {
	spec := field.NewPath("spec")
	gk := schema.GroupKind{Group: "apps", Kind: "Deployment"}
	status := func(text string) error { return &apierrors.StatusError{ErrStatus: metav1.Status{Message: text}} }
	invalid := func(list ...*field.Error) error { return apierrors.NewInvalid(gk, "web", list) }
	for name, tt := range map[string]struct {
		err  error
		want string
	}{
		"a typed patch": {
			status("failed to create typed patch object (x/web; apps/v1, Kind=Deployment): errors:\n" +
				"  .spec.env[name=\"PIN\"].value: expected string, got &value.valueUnstructured{Value:84729105}\n  .spec.x: expected map, got &{s3cret}"),
			"failed to create typed patch object (x/web; apps/v1, Kind=Deployment): errors:\n  .spec.env[name=\"PIN\"].value: expected string\n  .spec.x: expected map",
		},
		"a text":     {invalid(field.Invalid(spec.Child("a"), `s3"cret`, "must be a name")), "spec.a: Invalid value: must be a name"},
		"a number":   {invalid(field.Invalid(spec.Child("a"), 84729105, "must be less")), "spec.a: Invalid value: must be less"},
		"an object":  {invalid(field.Invalid(spec, map[string]string{"k": "s3cret: x"}, "field is wrong")), "spec: Invalid value"},
		"unchanging": {invalid(field.Invalid(spec, map[string]string{"k": "s3cret"}, "field is immutable")), "spec: Invalid value (the field can't be changed in place; delete the object by hand, or give it another name in the chart)"},
		"a choice":   {invalid(field.NotSupported(spec.Child("a"), "s3cret", []string{"x", "y"})), `spec.a: Unsupported value: supported values: "x", "y"`},
		"twice":      {invalid(field.Duplicate(spec.Child("a"), "s3cret"), field.Required(spec.Child("b"), "say it")), "spec.a: Duplicate value; spec.b: Required value: say it"},
		"a type":     {invalid(field.TypeInvalid(spec.Child("a"), "string", "a in body must be of type integer")), "spec.a: Invalid value: a in body must be of type integer"},
	} {
		got := objectError("applying", objects.Key{Kind: "ConfigMap", Namespace: "x", Name: "web"}, tt.err)
		text, ok := strings.CutPrefix(got.Error(), "applying ConfigMap x/web: ")
		if !ok || text != tt.want && !strings.HasSuffix(text, tt.want) || strings.Contains(text, "s3") || strings.Contains(text, "84729105") {
			t.Errorf("%s:\n got %s\nwant %s", name, got, tt.want)
		}
	}
	secret := objectError("applying", objects.Key{Kind: "Secret", Namespace: "x", Name: "web"}, status(".data.pin: expected string, got 5"))
	if want := "applying Secret x/web: the API server refuses it"; secret.Error() != want {
		t.Errorf("got %s", secret)
	}
	if got := objectError("applying", objects.Key{Kind: "X", Name: "x"}, errors.New("Invalid value of mine")); got.Error() != "applying X x: Invalid value of mine" {
		t.Errorf("got %s", got)
	}
}
