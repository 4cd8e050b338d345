package audit

import (
	"fmt"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// RollbackMessage is the message of the commit on the environment branch that puts a failed release back.
func RollbackMessage(n Names, app string, r rollout.Revert) string {
	failed, stable := label(r.From, r.To), label(r.To, r.From)
	where := clean(n.Environment, 80)
	if n.Cluster != "" {
		where += "/" + clean(n.Cluster, 80)
	}
	story := fmt.Sprintf("%s is back on %s.\nTo try %s again, revert this commit.",
		where, stable, failed)
	if r.GitFirst {
		story = fmt.Sprintf("%s goes from %s to %s by the usual rollout of this commit.", where, failed, stable)
	}
	if r.From.Commit != "" {
		story += "\n" + failed + " was introduced by commit " + clean(r.From.Commit, 80) + "."
	}
	return message(clean(app, 80)+": roll back "+failed+" -> "+stable, []string{clean(r.Reason, longestText), story}, []trailer{
		{"Environment", n.Environment},
		{"Cluster", n.Cluster},
		{"App", app},
		{"Event", string(Rollback)},
		{"Rollout", positive(r.Rollout)},
		{"From", r.From.Version},
		{"From-Image", r.From.Image},
		{"From-Digest", r.From.Digest},
		{"To", r.To.Version},
		{"To-Image", r.To.Image},
		{"To-Digest", r.To.Digest},
		{"Cause", r.From.Commit},
		{"Reason", r.Reason},
	})
}

// IsRollback reports whether the message is that of a commit that did what r asks for, on behalf of whatever cluster:
// the same app went back between the same versions, because of the same commit.
func IsRollback(msg, app string, r rollout.Revert) bool {
	t := parseTrailers(msg)
	return IsOwn(msg) && t["Event"] == string(Rollback) && t["App"] == clean(app, longestText) &&
		t["From"] == clean(r.From.Version, longestText) && t["To"] == clean(r.To.Version, longestText) &&
		t["Cause"] == clean(r.From.Commit, longestText)
}

// TakenBack is what the rollback commit of another cluster takes back of an app, where the message is that of one: of this environment,
// and by a cluster that has a name; nil: it is none. Whether it may is not told by a message that anybody can write, but by what comes
// of it: see [rollout.TakenBack].
func TakenBack(msg string, own Names, app string) *rollout.TakenBack {
	e, ok := ParseMessage(msg)
	if !ok || e.Type != Rollback || e.Environment != own.Environment || e.App != clean(app, longestText) || e.Cluster == own.Cluster || e.Cluster == "" {
		return nil
	}
	t := parseTrailers(msg)
	return &rollout.TakenBack{
		Cluster: clean(e.Cluster, 80), Release: rollout.Release{Version: t["From"], Digest: t["From-Digest"], Commit: t["Cause"]},
		Reason: clean(e.Reason, longestText), // which is saved with the state, and may be as long as a commit
	}
}
