package cluster

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/render/objects"
)

// ObjectError is what the API server has against one object. Objects of an app fail one by one, so Apply
// returns several of them joined.
type ObjectError struct {
	Key objects.Key
	// Verb is what was being done, such as "applying".
	Verb string
	// Fields that the server complained about, such as "spec.selector"; may be empty.
	Fields []string
	text   string
	err    error
}

func (e *ObjectError) Error() string { return fmt.Sprintf("%s %s: %s", e.Verb, e.Key, e.text) }
func (e *ObjectError) Unwrap() error { return e.err }

// objectError says what the server has against an object, by field, in as few words as there are.
func objectError(verb string, key objects.Key, err error) error {
	e := &ObjectError{Key: key, Verb: verb, err: err, text: withoutValues(err.Error())}
	var parts []string
	for _, c := range causes(err) {
		e.Fields = append(e.Fields, c.Field)
		parts = append(parts, c.Field+": "+withoutValues(c.Message))
	}
	if len(parts) > 0 {
		e.text = strings.Join(parts, "; ")
	}
	if immutable(err.Error()) {
		e.text += " (the field can't be changed in place; delete the object by hand, or give it another name in the chart)"
	}
	if key.GroupKind() == objects.Secret {
		e.hideValues()
	}
	return e
}

// hideValues leaves of the server's words about a Secret only the fields, since the rest may quote a value.
func (e *ObjectError) hideValues() {
	var status apierrors.APIStatus
	if !errors.As(e.err, &status) {
		return
	}
	e.text = "the API server refuses it"
	if reason := apierrors.ReasonForError(e.err); reason != metav1.StatusReasonUnknown {
		e.text += fmt.Sprintf(" (%s)", reason)
	}
	if len(e.Fields) > 0 {
		e.text += ": " + strings.Join(e.Fields, ", ")
	}
	e.err = errors.New(e.text)
}

// The API server repeats values where it complains of them. A text or a number has an end, after which comes what it has against
// it; anything else is printed in a way that has none, so that nothing after it is kept on its line.
var (
	complaint = regexp.MustCompile(`(?m)((?:Invalid|Unsupported|Duplicate) value|Not found): ` +
		`(?:(?:"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null)(: |$)|.*)`)
	mistyped = regexp.MustCompile(`(expected [^,\n]*), got .*`)
)

// withoutValues is the API server's text without the values that it repeats. Fields, and what is expected of them, stay.
func withoutValues(text string) string {
	return mistyped.ReplaceAllString(complaint.ReplaceAllString(text, "$1$2"), "$1")
}

// immutable recognises the wordings of the API server's validations for fields that are set once.
func immutable(text string) bool {
	return strings.Contains(text, "immutable") || strings.Contains(text, "may not change once set") ||
		strings.Contains(text, "updates to") && strings.Contains(text, "are forbidden")
}

func causes(err error) []metav1.StatusCause {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	var out []metav1.StatusCause
	for _, c := range status.Status().Details.Causes {
		if c.Field != "" {
			out = append(out, c)
		}
	}
	return out
}
