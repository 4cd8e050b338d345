package delivery

import (
	"errors"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// ErrConflict is returned by States and by Apply when another writer has written the app's state since it was loaded:
// an agent that has just lost its lease, or a person. Nothing more of the app can be written before LoadState has said
// what it is now.
var ErrConflict = errors.New("another writer has changed the saved state")

// ErrBrokenState is returned for a state that is not as Sluice wrote it. Nobody knows then what the app was in the middle
// of, so it must be left alone.
var ErrBrokenState = errors.New("the saved state can't be read")

// ErrStateTooLarge is returned by SaveState and Apply for a state that does not fit into a Secret, as after thousands of
// rollouts whose events no status branch has taken.
var ErrStateTooLarge = errors.New("the state, with the events that git has not taken yet, is larger than the 1 MiB that Kubernetes allows")

// ErrNotOurs is returned by Existing for objects that somebody else has, who may let go of them.
var ErrNotOurs = errors.New("it is somebody else's")

// ErrRefused is returned by Try for objects that the API server would not take: as they are, or with the rights and in the
// cluster that there are.
var ErrRefused = errors.New("the API server refuses it")

// ErrReleaseLost is returned by ReleaseObjects for a release without a Helm record that can be read. Somebody has
// deleted it, or helm uninstall has.
var ErrReleaseLost = errors.New("its Helm record is gone")

// ErrOrdered is returned by History for a release that is still to be rendered. The app is looked at when it is there.
var ErrOrdered = errors.New("it is being rendered again")

// ErrHelmBusy is returned by AddRelease and Adopt while another Helm client has an operation under way on the release, or
// died in one. Somebody has to finish it, or roll it back.
var ErrHelmBusy = errors.New("another Helm client has an operation under way")

// ErrReleaseTooLarge is returned by AddRelease when the record of a release does not fit into a Secret.
var ErrReleaseTooLarge = errors.New("its Helm record is larger than the 1 MiB that Kubernetes allows; leave large files out of the chart (.helmignore)")

// Refused reports whether an error is the answer of a cluster that is there, and that somebody has to do something
// about: a right that is missing, an object that admission denies, a Helm operation of somebody else, a state that
// somebody broke. Joined errors are refused when one of them is.
func Refused(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(joined.Unwrap(), Refused)
	}
	return errors.Is(err, ErrHelmBusy) || errors.Is(err, ErrReleaseTooLarge) || errors.Is(err, ErrReleaseLost) ||
		errors.Is(err, ErrNotOurs) || errors.Is(err, ErrRefused) || errors.Is(err, ErrStateTooLarge) || errors.Is(err, ErrBrokenState) ||
		apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsRequestEntityTooLargeError(err)
}
