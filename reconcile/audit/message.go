package audit

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Names say where a commit comes from.
type Names struct {
	// Environment by name.
	Environment string `json:"environment"`
	// Cluster by name; empty where an environment has one only.
	Cluster string `json:"cluster,omitempty"`
}

// Entry is one commit of the audit log, or a rollback commit, read back.
type Entry struct {
	Names
	// App is empty where the entry is about the environment.
	App string `json:"app,omitempty"`
	// Event without its Results and without the commit that asked for From, which the trailers don't hold.
	rollout.Event
}

// trailer is one line at the end of a commit message; key has no Sluice- in front.
type trailer struct{ key, value string }

const prefix = "Sluice-"

// message puts together a commit message that Sluice writes, of whatever text: forges do nothing with its words. Of the trailers
// only those that tell something are changed for that; the others are identifiers.
func message(subject string, body []string, trailers []trailer) string {
	for i, part := range body {
		body[i] = defused(part)
	}
	for i, t := range trailers {
		if t.key == "Reason" || t.key == "By" {
			trailers[i].value = defused(clean(t.value, longestText))
		}
	}
	return compose(defused(clean(subject, 250)), body, trailers)
}

// compose puts a commit message together. Parts of the body that are empty are left out.
func compose(subject string, body []string, trailers []trailer) string {
	var b strings.Builder
	b.WriteString(clean(subject, 250))
	b.WriteString("\n")
	for _, part := range body {
		if strings.HasPrefix(part, "---") || strings.HasPrefix(part, "#") {
			part = " " + part // else git takes it for the end of the message, and finds no trailers
		}
		if part != "" {
			b.WriteString("\n" + part + "\n")
		}
	}
	b.WriteString("\n")
	for _, t := range trailers {
		if value := clean(t.value, longestText); value != "" {
			b.WriteString(prefix + t.key + ": " + value + "\n")
		}
	}
	return b.String()
}

// eventMessage is the message of an event's commit.
func eventMessage(n Names, app string, e rollout.Event) string {
	return message(Subject(app, e), []string{clean(e.Reason, longestText), checkList(e.Results)}, []trailer{
		{"Environment", n.Environment},
		{"Cluster", n.Cluster},
		{"App", app},
		{"Event", string(e.Type)},
		{"Seq", positive(e.Seq)},
		{"Time", e.Time.UTC().Format(time.RFC3339Nano)},
		{"Rollout", positive(e.Rollout)},
		{"From", e.From.Version},
		{"From-Image", e.From.Image},
		{"From-Digest", e.From.Digest},
		{"To", e.To.Version},
		{"To-Image", e.To.Image},
		{"To-Digest", e.To.Digest},
		{"Cause", e.To.Commit},
		{"Weight", strconv.Itoa(e.Weight)},
		{"Commit", e.Commit},
		{"Branch", e.Branch},
		{"URL", e.URL},
		{"By", e.By},
		{"Command", e.Command},
		{"Signed", signed(e)},
		{"Reason", e.Reason},
	})
}

// verified says of a command that its signature is that of who asked, claimed that nothing says so but the commit.
const verified, claimed = "verified", "claimed"

func signed(e rollout.Event) string {
	switch {
	case e.Command == "":
		return ""
	case e.Verified:
		return verified
	default:
		return claimed
	}
}

// faultMessage is the message of a commit that tells of a fault, or that it is gone, and why. app is empty for the environment.
func faultMessage(n Names, app, fault, gone string, now time.Time) string {
	typ, subject, reason := ErrorCleared, app, gone
	if fault != "" {
		typ, reason = Error, fault
	}
	if app == "" {
		subject = n.Environment
	}
	return message(Subject(subject, rollout.Event{Type: typ}), []string{clean(reason, longestText)}, []trailer{
		{"Environment", n.Environment},
		{"Cluster", n.Cluster},
		{"App", app},
		{"Event", string(typ)},
		{"Time", now.UTC().Format(time.RFC3339Nano)},
		{"Reason", reason},
	})
}

// restoredMessage is the message of a commit that writes files again.
func restoredMessage(n Names, files []string, now time.Time) string {
	reason := "missing, damaged or edited files: " + strings.Join(files, ", ")
	return message(Subject(n.Environment, rollout.Event{Type: Restored}), []string{clean(reason, longestText)}, []trailer{
		{"Environment", n.Environment},
		{"Cluster", n.Cluster},
		{"Event", string(Restored)},
		{"Time", now.UTC().Format(time.RFC3339Nano)},
		{"Reason", reason},
	})
}

// aliveMessage is the message of a commit that says no more than that the agent runs.
func aliveMessage(n Names, now time.Time) string {
	return message(Subject(n.Environment, rollout.Event{Type: Alive}), nil, []trailer{
		{"Environment", n.Environment},
		{"Cluster", n.Cluster},
		{"Event", string(Alive)},
		{"Time", now.UTC().Format(time.RFC3339Nano)},
	})
}

// checkList shows every check behind an event, those that passed too.
func checkList(results []analysis.Result) string {
	var lines []string
	for _, r := range results {
		line := fmt.Sprintf("- %s: %s, %s", clean(r.Check, 80), clean(string(r.Outcome), 20), clean(r.Reason, longestText))
		if r.Decisive {
			line += " (decisive)"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func positive(n int64) string {
	if n <= 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// ParseMessage reads a commit message that this package wrote. It reports false for every other one, also for those
// that were written here and damaged since.
func ParseMessage(msg string) (Entry, bool) {
	t := parseTrailers(msg)
	e := Entry{
		Names: Names{Environment: t["Environment"], Cluster: t["Cluster"]},
		App:   t["App"],
		Event: rollout.Event{
			Type:   rollout.EventType(t["Event"]),
			From:   rollout.Release{Version: t["From"], Image: t["From-Image"], Digest: t["From-Digest"]},
			To:     rollout.Release{Version: t["To"], Image: t["To-Image"], Digest: t["To-Digest"], Commit: t["Cause"]},
			Reason: t["Reason"],
			Commit: t["Commit"],
			Branch: t["Branch"],
			URL:    t["URL"],
			By:     t["By"], Command: t["Command"], Verified: t["Signed"] == verified,
		},
	}
	if e.Environment == "" || e.Type == "" {
		return Entry{}, false
	}
	weight := number(t["Weight"])
	e.Seq, e.Rollout, e.Weight = number(t["Seq"]), number(t["Rollout"]), int(weight)
	if e.Seq < 0 || e.Rollout < 0 || weight < 0 || weight > 100 {
		return Entry{}, false
	}
	if t["Time"] != "" {
		at, err := time.Parse(time.RFC3339Nano, t["Time"])
		if err != nil {
			return Entry{}, false
		}
		e.Time = at.UTC()
	}
	return e, true
}

// IsOwn reports whether an agent wrote the commit with this message. Anybody can write such a message; where that
// matters the committer is to be looked at too.
func IsOwn(msg string) bool {
	_, ok := ParseMessage(msg)
	return ok
}

// number reads a count; empty is 0, anything that is none is negative.
func number(s string) int64 {
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return -1
	}
	return int64(n)
}

// parseTrailers reads the Sluice- lines of the last paragraph. The first of equal keys counts.
func parseTrailers(msg string) map[string]string {
	msg = strings.TrimRight(strings.ReplaceAll(msg, "\r\n", "\n"), "\n")
	if i := strings.LastIndex(msg, "\n\n"); i >= 0 {
		msg = msg[i+2:]
	} else {
		return nil
	}
	t := map[string]string{}
	for line := range strings.Lines(msg) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		key, own := strings.CutPrefix(key, prefix)
		if _, dup := t[key]; ok && own && !dup {
			t[key] = value
		}
	}
	return t
}
