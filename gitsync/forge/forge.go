// Package forge speaks of pull requests, checks and statuses with the forge that holds one repository. What it is told to do it
// does at once or says why not: it keeps nothing, retries nothing, and waits for nothing but the answer.
//
// Forges differ in their words; here they are GitHub's: a merge request is a pull request, a note a comment, a pipeline's job a
// check. What no forge enforces is the callers' to see to: only Merge looks at labels.
package forge

import (
	"context"
	"errors"
	"time"
)

// State is what became of a pull request.
type State string

// States of a pull request.
const (
	Open   State = "open"
	Merged State = "merged"
	Closed State = "closed" // without being merged
)

// Pull is a pull request.
type Pull struct {
	Number int
	// URL is for people.
	URL, Title, Body string
	// Head and Base are branches of the repository. The head of a fork's pull request has its owner before it, with a colon,
	// so that it is never taken for a branch of the repository.
	Head, Base string
	// Commit is the tip of Head that the forge knows.
	Commit string
	State  State
	// MergeCommit is where the base branch was after the merge; empty until then.
	MergeCommit string
	Labels      []string
}

// Verdict is what checks say.
type Verdict string

// Verdicts.
const (
	Pending Verdict = "pending"
	Success Verdict = "success"
	Failure Verdict = "failure"
)

// Check is what one system says of a commit: a commit status, a check run, a job of a pipeline.
type Check struct {
	Name             string
	Verdict          Verdict
	Description, URL string
}

// Repository is one repository on a forge. Methods are safe for concurrent use, and end within a minute. Their errors are those
// below where a caller may want to do something about them, and fit for people: they quote no token.
type Repository interface {
	// Find gives the open pull request of a branch of this repository; nil when there is none.
	Find(ctx context.Context, head, base string) (*Pull, error)
	// Get gives a pull request, whatever its state.
	Get(ctx context.Context, number int) (*Pull, error)
	// List gives all open pull requests onto base.
	List(ctx context.Context, base string) ([]Pull, error)
	// Create opens one with p's title, body, head, base and labels; labels that the repository has not are made. ErrConflict: the
	// branch has an open one. Where a forge sets labels in a request of their own, an error may leave a pull request without
	// them: Find it, and Update.
	Create(ctx context.Context, p Pull) (*Pull, error)
	// Update sets title, body and labels. Labels that begin with env/ or do-not-merge/ are replaced, all others kept.
	Update(ctx context.Context, p Pull) error
	// Merge merges p if its head is still p.Commit, in a way that the repository allows. While checks are pending it asks the
	// forge to merge once they pass; nil means that it will. A pull request with a label that begins with do-not-merge/, or with
	// a check that failed, is not merged. Merge of what is merged is no error. It is the forge's rules that say what becomes of a
	// merge to come when the head moves.
	Merge(ctx context.Context, p Pull, title string) error
	// Close closes a pull request without merging it. Close of what is closed is no error.
	Close(ctx context.Context, number int) error
	// Checks gives what is said of a commit, and the verdict of all of it: Success when nothing is.
	Checks(ctx context.Context, commit string) (Verdict, []Check, error)
	// SetStatus says something of a commit; what was said under that name before is replaced.
	SetStatus(ctx context.Context, commit string, c Check) error
	// Comment keeps one comment that begins with marker, a line of its own that the page does not show (<!-- ... -->): made once,
	// edited afterwards, left alone when it says body already. Comments of others are not taken for it.
	Comment(ctx context.Context, number int, marker, body string) error
}

// Errors that a caller may act upon.
var (
	// ErrUnauthorized: the token is not known, or not any more. Somebody has to give a new one.
	ErrUnauthorized = errors.New("the forge refuses the token: it is wrong, has expired, or was revoked")
	// ErrForbidden: the token is known, and may not do this; the text says which right it needs.
	ErrForbidden = errors.New("the token lacks a right")
	// ErrNotFound: it is not there, or the token may not see it: forges do not tell these apart.
	ErrNotFound = errors.New("not found, or the token may not see it")
	// ErrConflict: the pull request is not what the caller thinks: its head moved, it conflicts with its base, it is closed, or
	// the branch has one already. To be looked at again before anything else.
	ErrConflict = errors.New("conflict")
	// ErrNotReady: checks are pending, reviews missing, a branch rule or label holds it; the text says which. It may pass later.
	ErrNotReady = errors.New("not ready to be merged")
	// ErrUnavailable: no answer, or one that says that the forge is broken. To be tried again.
	ErrUnavailable = errors.New("the forge is not available")
)

// Limited is the error of a forge that has had enough requests for now, of this kind or at all.
type Limited struct {
	// Until is when to ask again.
	Until time.Time
}

// Error implements error.
func (l Limited) Error() string {
	return "the forge limits requests until " + l.Until.UTC().Format(time.RFC3339)
}

// Pause is how long to wait after an answer before the next look: d, and until the forge takes requests again where it has said so.
func Pause(err error, d time.Duration, now time.Time) time.Duration {
	var limited Limited
	if errors.As(err, &limited) {
		return max(d, limited.Until.Sub(now))
	}
	return d
}
