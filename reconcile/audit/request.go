package audit

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Request is a commit on the command branch: what a person asks of an app's rollout.
type Request struct {
	// Names: Cluster is empty for every cluster of the environment.
	Names
	// App by name, or AllApps.
	App  string
	Kind rollout.CommandKind
	// To is the version that it is about; empty: whichever there is. Of an Accept it is the commit.
	To string
	// Reason is what the person says.
	Reason string
	// Expires is when it is no longer to be taken.
	Expires time.Time
	// Source is the program that wrote the commit.
	Source string
	// By is who asks where that is no commit's author: of a request that is left in the cluster.
	By string
	// ID tells requests apart that are equal in all else: of commits with the same one the first counts, so that a push whose
	// answer was lost can be made again. Empty: the commit stands for itself.
	ID string
}

// AllApps is the App of a Request that is for every app of the environment.
const AllApps = "*"

// ErrNoRequest is returned for a commit that asks nothing.
var ErrNoRequest = errors.New("it has no trailer Sluice-Command")

// DefaultExpiry is how long a Request is good for when it says nothing else.
const DefaultExpiry = time.Hour

// words are those of the kinds that there are.
var words = map[rollout.CommandKind]string{
	rollout.Pause: "pause", rollout.Resume: "resume", rollout.Advance: "advance", rollout.AdvanceFully: "advance-full",
	rollout.Abort: "abort", rollout.Retry: "retry", rollout.Hold: "hold", rollout.Unhold: "unhold",
	rollout.Approve: "approve", rollout.OverrideGates: "override", rollout.Rollback: "rollback", rollout.Accept: "accept",
}

// Word is what a kind of request is called in commits and on the command line.
func Word(k rollout.CommandKind) string {
	if w, ok := words[k]; ok {
		return w
	}
	return strings.ToLower(string(k))
}

// Subject says it in one line, such as "pause croc-hunter-java in production".
func (r Request) Subject() string {
	subject, where := r.App, r.Environment
	if r.App == AllApps {
		subject = "all apps"
	}
	if r.Cluster != "" {
		where += "/" + r.Cluster
	}
	return clean(fmt.Sprintf("%s %s in %s", r.typed(), subject, where), 250)
}

// typed is the kind as it is typed: a trailer is one word, and a command may have a flag.
func (r Request) typed() string {
	if r.Kind == rollout.AdvanceFully {
		return "advance --full"
	}
	return Word(r.Kind)
}

// Message of the commit. It is the person's own, who may well mean an issue by his words.
func (r Request) Message() string {
	expires := ""
	if !r.Expires.IsZero() {
		expires = r.Expires.UTC().Format(time.RFC3339)
	}
	return compose(r.Subject(), []string{clean(r.Reason, longestText)}, []trailer{
		{"Environment", r.Environment},
		{"Cluster", r.Cluster},
		{"App", r.App},
		{"Command", Word(r.Kind)},
		{"To", r.To},
		{"Reason", r.Reason},
		{"Expires", expires},
		{"Source", r.Source},
		{"By", r.By},
		{"Id", r.ID},
	})
}

// longestName bounds what a request says besides its reason, longestMessage its message: it ends up in states and in git.
const (
	longestName    = 200
	longestMessage = 64 << 10
)

// Person is who asks, as git has it, on one line of bearable length.
func Person(by string) string { return clean(by, longestName) }

// ParseRequest reads the message of a commit that was made at a time. It returns ErrNoRequest for one that asks nothing. A
// word that it does not know becomes the Kind as it is, so that whoever asked hears that nobody knows it.
func ParseRequest(msg string, made time.Time) (Request, error) {
	if len(msg) > longestMessage {
		return Request{}, fmt.Errorf("its message has %d bytes: expected at most %d", len(msg), longestMessage)
	}
	t := parseTrailers(msg)
	word := clean(strings.ToLower(t["Command"]), 40)
	if word == "" {
		return Request{}, ErrNoRequest
	}
	r := Request{
		Names: Names{Environment: t["Environment"], Cluster: t["Cluster"]}, App: t["App"], Kind: rollout.CommandKind(word),
		To: clean(t["To"], longestName), Reason: clean(t["Reason"], longestText), Source: clean(t["Source"], longestName),
		By: Person(t["By"]), ID: clean(t["Id"], longestName), Expires: made.Add(DefaultExpiry),
	}
	for kind, w := range words {
		if w == word {
			r.Kind = kind
		}
	}
	if r.App == "" {
		return r, fmt.Errorf("it has no trailer Sluice-App: expected the name of an app, or %s for all", AllApps)
	}
	if text := t["Expires"]; text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return r, fmt.Errorf("its trailer Sluice-Expires is %q: expected a time such as 2026-03-01T12:00:00Z", clean(text, 80))
		}
		r.Expires = at
	}
	return r, nil
}
