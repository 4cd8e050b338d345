package gitsync

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// RejectedError is returned when the remote understood a push and does not want it: the branch is protected, a
// hook declined it, or the credentials may not write. Trying again does not help; a pull request might.
type RejectedError struct {
	// Branch that was not written.
	Branch string
	// Unauthorized: the credentials are wrong, or may not write to this repository at all.
	Unauthorized bool
	// Reason in the remote's words.
	Reason string
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("push to %s was rejected: %s", e.Branch, e.Reason)
}

// lostRace has what git, go-git and the forges say when the branch was not where the push expected it.
var lostRace = []string{
	"non-fast-forward",            // git, go-git
	"non-fast forward",            // JGit
	"fetch first",                 // git's client wording, repeated by forges
	"cannot lock ref",             // git: "is at X but expected Y", and a lock held by another push
	"incorrect old value",         // git 2.46 and later, GitLab
	"failed to update ref",        // git, older
	"failed to lock",              // git, older; Bitbucket
	"stale info",                  // git
	"object not found",            // go-git, when the tip is one that it never fetched
	"reference already exists",    // git: a branch that somebody else created at the same time
	": already exists",            // JGit, likewise
	"reference does not exist",    // git: a branch that somebody else deleted at the same time
	"no such ref",                 // JGit, likewise
	"reference has changed",       // libgit2, go-git's storage
	"reference does not point",    // Gitaly
	"invalid old id sent",         // JGit (Gerrit, Bitbucket Server): over HTTP its word for every lost race
	"lock error",                  // JGit
	"lock_failure",                // JGit, by the name of its result
	"tf401028",                    // Azure DevOps: "has already been updated by another client"
	"already been updated",        // Azure DevOps
	"please try again",            // GitHub, when it is busy with the same reference
	"expected old",                // Gitea
	"unable to resolve reference", // git, when a reference vanished in between
}

// serverTrouble has reports that are neither a lost race nor a decision.
var serverTrouble = []string{
	"unpacker error", "unable to migrate objects", "internal server error", "internal error", "timeout", "timed out",
	"no space left", "failed to write", "disk quota", "not attempted", "server bug",
}

// deniedText matches what servers say to somebody who may not.
var deniedText = regexp.MustCompile(`(?i)permission|denied|not allowed|unauthori[sz]ed|forbidden|read[- ]only|access rights|authenticat`)

// pushOutcome is what became of a push.
type pushOutcome int

const (
	// pushLost: somebody else was faster. Fetch, edit again, push again.
	pushLost pushOutcome = iota
	// pushRejected: the remote does not want it.
	pushRejected
	// pushFailed: something broke; whether the push arrived is not known.
	pushFailed
)

// classify tells what the error of a push means. reported: it is the remote's verdict on the reference rather
// than a failure on the way.
func classify(err error, reported bool) pushOutcome {
	text := strings.ToLower(err.Error())
	switch {
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return pushLost
	case unauthorized(err):
		return pushRejected
	case strings.Contains(text, "hook declined"): // whatever else the hook had to say
		return pushRejected
	case containsAny(text, lostRace):
		return pushLost
	case !reported || containsAny(text, serverTrouble) || strings.HasSuffix(text, ": failure"):
		// A bare "failure" is what GitHub says of a branch during its outages ("fatal error in commit_refs").
		return pushFailed
	}
	return pushRejected
}

// Unauthorized reports whether a remote refused something because of the credentials.
func Unauthorized(err error) bool {
	var rejected *RejectedError
	return err != nil && (unauthorized(err) || errors.As(err, &rejected) && rejected.Unauthorized)
}

func unauthorized(err error) bool {
	return errors.Is(err, transport.ErrAuthenticationRequired) || errors.Is(err, transport.ErrAuthorizationFailed) ||
		strings.Contains(err.Error(), "ssh: unable to authenticate")
}

func containsAny(text string, words []string) bool {
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}
