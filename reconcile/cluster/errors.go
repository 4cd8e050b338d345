package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ErrConflict is returned by SaveState, DeleteState and Apply when another writer has written the app's state
// since it was loaded: an agent that has just lost its lease, or a person. Nothing more of the app can be written
// before LoadState has said what it is now.
var ErrConflict = errors.New("another writer has changed the saved state")

// ObjectError is what the API server has against one object. Objects of an app fail one by one, so Apply
// returns several of them joined.
type ObjectError struct {
	Key Key
	// Verb is what was being done, such as "applying".
	Verb string
	// Fields that the server complained about, such as "spec.selector"; may be empty.
	Fields []string
	// Terminal: the same object will be refused again; only another release can help.
	Terminal bool
	text     string
	err      error
}

func (e *ObjectError) Error() string { return fmt.Sprintf("%s %s: %s", e.Verb, e.Key, e.text) }
func (e *ObjectError) Unwrap() error { return e.err }

// Terminal reports whether an error of Apply holds nothing but refusals that repeating can't help.
func Terminal(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !Terminal(e) {
				return false
			}
		}
		return true
	}
	var oe *ObjectError
	return errors.As(err, &oe) && oe.Terminal
}

// objectError says what the server has against an object, by field, in as few words as there are.
func objectError(verb string, key Key, err error) error {
	e := &ObjectError{Key: key, Verb: verb, err: err, text: err.Error(), Terminal: terminal(err)}
	var parts []string
	for _, c := range causes(err) {
		e.Fields = append(e.Fields, c.Field)
		parts = append(parts, c.Field+": "+c.Message)
	}
	if len(parts) > 0 {
		e.text = strings.Join(parts, "; ")
	}
	if immutable(e.text) {
		e.text += " (the field can't be changed in place; delete the object by hand, or give it another name in the chart)"
	}
	if key.groupKind() == secretKind {
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
	e.text = fmt.Sprintf("the API server refuses it (%s)", apierrors.ReasonForError(e.err))
	if len(e.Fields) > 0 {
		e.text += ": " + strings.Join(e.Fields, ", ")
	}
	e.err = errors.New(e.text)
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

// Refused reports whether an error is the answer of a cluster that is there, and that somebody has to do something
// about: a right that is missing, an object that admission denies, a Helm operation of somebody else, a state that
// somebody broke. Joined errors are refused when one of them is.
func Refused(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(joined.Unwrap(), Refused)
	}
	return errors.Is(err, ErrHelmBusy) || errors.Is(err, ErrReleaseTooLarge) || errors.Is(err, ErrReleaseLost) ||
		errors.Is(err, ErrStateTooLarge) || errors.Is(err, ErrBrokenState) ||
		apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || terminal(err)
}

func terminal(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err)
}
