package rollout

import (
	"cmp"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
)

// Release identifies one app at one commit.
type Release struct {
	// Version of the chart.
	Version string `json:"version,omitempty"`
	// Image is the tag of its image, where the environment says where that stands; promotions go by it then.
	Image string `json:"image,omitempty"`
	// Digest is the release's identity; equal digests hold equal objects. Empty: no release.
	Digest string `json:"digest,omitempty"`
	// Commit of the environment branch that asked for it: the cause. It is the commit that last changed what decides
	// this app, not the tip of the branch, or every push elsewhere would count as asking for a failed release again.
	Commit string `json:"commit,omitempty"`
	// By is the author of Commit; empty: not known.
	By string `json:"by,omitempty"`
	// Revision of its Helm release record. A release has one before it is taken over.
	Revision int `json:"revision,omitempty"`
	// Stamp marks the stable track's pods where nothing but their config tells them from the release before; see
	// project.Stamp. It comes with Revision.
	Stamp string `json:"stamp,omitempty"`
}

// Name is the version as people name it: the image's tag where there is one, else the chart's.
func (r Release) Name() string { return cmp.Or(r.Image, r.Version) }

// IsZero reports whether there is no release.
func (r Release) IsZero() bool { return r.Digest == "" }

// State is all that can't be observed again. It lives in the cluster beside the app and is saved before it is
// acted upon. The zero State is an app that was never seen.
type State struct {
	Phase Phase `json:"phase,omitempty"`
	// Stable is the release that serves.
	Stable Release `json:"stable,omitzero"`
	// Target is the release under way; zero at rest.
	Target Release `json:"target,omitzero"`
	// Rollouts counts the rollouts begun; the present one's id is <app>/<Rollouts>.
	Rollouts int64 `json:"rollouts,omitempty"`
	// Step indexes the plan's steps; Exposure is what the canary gets.
	Step int `json:"step,omitempty"`
	Exposure
	// Peak is the highest weight that this rollout's canary was given; 0: it never took traffic.
	Peak int `json:"peak,omitempty"`
	// Drained, in Draining and RollingBack: the canary track has had no traffic for the drain delay, or never had
	// any. It is no longer part of the projection. See Tracks.
	Drained bool `json:"drained,omitempty"`
	// Since is when the present phase and weight were decided, or in their course Drained. Deadlines count from it.
	Since time.Time `json:"since,omitzero"`
	// StepSince is when users were first seen to be led as this phase and weight say; zero until then. Intervals are
	// measured from it, so a step is never shortened by a crash or an API server that was away.
	StepSince time.Time `json:"stepSince,omitzero"`
	// LastCheck is when the last counted verdict was asked.
	LastCheck time.Time `json:"lastCheck,omitzero"`
	// FailedChecks of this rollout, and InconclusiveChecks in a row.
	FailedChecks       int `json:"failedChecks,omitempty"`
	InconclusiveChecks int `json:"inconclusiveChecks,omitempty"`
	// Lost: the canary was not available under traffic, and no check has passed or failed since.
	Lost bool `json:"lost,omitempty"`
	// Stalled says what the app waits for that may never come: data, or something that only a person can mend. Empty: nothing.
	Stalled string `json:"stalled,omitempty"`
	// Pause: a person has paused this rollout. Hold: a person keeps what git asks for from beginning.
	Pause *Asked `json:"pause,omitempty"`
	Hold  *Asked `json:"hold,omitempty"`
	// Waiting names the closed gates that the app waits for; empty: none.
	Waiting string `json:"waiting,omitempty"`
	// Approved are the approvals of the release under way, or at rest of the one that is to begin. They are for one try.
	Approved []Approval `json:"approved,omitempty"`
	// Override: a person lets the release under way, or the one that is to begin, pass closed windows and a freeze.
	Override *Override `json:"override,omitempty"`
	// LastCommand is the ID of the newest command that was taken, be it done or refused.
	LastCommand string `json:"lastCommand,omitempty"`
	// LastDirect is the ID of the newest that was taken of those that people leave beside the State.
	LastDirect string `json:"lastDirect,omitempty"`
	// Reason of the last decision, in numbers.
	Reason string `json:"reason,omitempty"`
	// Outcome of the last rollout: Installed, Promoted, RolledBack, Superseded, Aborted, Recovered; empty before the
	// first. During RollingBack it already is what this rollout will end as.
	Outcome EventType `json:"outcome,omitempty"`
	// StablePlan is Stable's plan while another release is under way, and Plan is that one's.
	StablePlan *Plan `json:"stablePlan,omitempty"`
	// Returning: the rolling update under way goes back to a release that served before, because a person asked, or git has gone back
	// to it. Following: it was git, by another cluster's rollback commit, so there is no other course, and nothing to write there.
	Returning bool `json:"returning,omitempty"`
	Following bool `json:"following,omitempty"`
	// Served are the releases that were stable before Stable, newest first, at most 5.
	Served []Served `json:"served,omitempty"`
	// Rejected releases, newest last, at most 10.
	Rejected []Rejection `json:"rejected,omitempty"`
	// Revert is the rollback commit that git still owes; nil when none is due.
	Revert *Revert `json:"revert,omitempty"`
	// Plan that the projection follows, kept so that git may be away; see Governed.
	Plan *Plan `json:"plan,omitempty"`
	// LastSeq is the number of the newest event; Outbox holds the events that the audit log has not accepted yet.
	LastSeq int64   `json:"lastSeq,omitempty"`
	Outbox  []Event `json:"outbox,omitempty"`
	// Untold are the events that webhooks have still to be told of, oldest first, at most 100. They have their numbers
	// for themselves, so that git and a webhook wait for each other in nothing.
	Untold []Untold `json:"untold,omitempty"`
}

// ServingPlan is the plan by which Stable is served, also while another release is under way; nil: not known.
func (s State) ServingPlan() *Plan {
	if s.InFlight() {
		return s.StablePlan
	}
	return s.Plan
}

// Served is a release that was stable, until another took its place, and the plan that its projection followed; nil: not known.
type Served struct {
	Release Release   `json:"release"`
	Until   time.Time `json:"until"`
	Plan    *Plan     `json:"plan,omitempty"`
}

// Untold is an event and who is to be told of it: the webhooks of the plan under which it happened, whatever git says by the time that
// they are asked.
type Untold struct {
	Event
	Hooks []environments.Webhook `json:"hooks,omitempty"`
}

// Rejection remembers a release that failed. It is not tried again until git asks anew (another Commit) or a
// person says retry.
type Rejection struct {
	Release Release `json:"release"`
	Reason  string  `json:"reason"`
}

// Revert asks the git writer to put the environment branch back from one release to another, as a
// compare-and-set.
type Revert struct {
	From   Release `json:"from"`
	To     Release `json:"to"`
	Reason string  `json:"reason"`
	// Rollout that failed.
	Rollout int64 `json:"rollout,omitempty"`
	// GitFirst: the cluster has not gone back; it follows what git says then.
	GitFirst bool `json:"gitFirst,omitempty"`
	// Hooks are told how it ends: those of the plan under which the rollout failed. Git has another one by then.
	Hooks []environments.Webhook `json:"hooks,omitempty"`
}

// TakenBack is what another cluster's rollback commit says: that a release was taken back in git because it failed there.
type TakenBack struct {
	// Cluster that has written it, Release what it takes back, by version, digest and the commit that had asked for it. Reason says
	// why.
	Cluster string
	Release Release
	Reason  string
}

// Change is how far two releases are apart.
type Change string

const (
	// ChangeNone: equal digests.
	ChangeNone Change = ""
	// ChangePlain: something differs, but no pod would change (replicas, HPA, annotations of objects, Services).
	ChangePlain Change = "Plain"
	// ChangePods: pods, or configuration that they use, differ. Worth a rollout.
	ChangePods Change = "Pods"
)

// Track is what is seen of the stable or the canary track, against the projection of the present State. Ready implies
// Available.
type Track struct {
	// Ready: applied as projected, and every workload has rolled out completely.
	Ready bool
	// Available: it can take the traffic that it is meant to have.
	Available bool
	// Failed: it will not become ready by waiting (crash loop, and the like).
	Failed bool
	// Message says why it is not ready, for people.
	Message string
}

// Observation is everything that Next may know of the world. It is made against the projection of the State that
// Next is called with, and only after the cluster has been looked at: a zero Track is a track that is seen not to be
// there, not one that nobody looked at.
type Observation struct {
	// Now is the present, never zero.
	Now time.Time
	// Desired is what git asks for; zero: not known (git is away, or the app's source has a fault): hold the course.
	// When State.Takes, it carries its Revision and its Stamp.
	Desired Release
	// TakenBack: the commit that asks for Desired is a rollback commit of another cluster; nil: it is not.
	TakenBack *TakenBack
	// Removed: git is known not to list the app any more.
	Removed bool
	// FromStable and FromTarget: how Desired differs from State.Stable and State.Target.
	FromStable, FromTarget Change
	// Plan of Desired, or of the release under way while Desired is not known. It may change at any time. While Desired
	// is Unfit, Next goes by State.Plan.
	Plan Plan
	// Unfit says why Desired can't be taken over; empty: it can, or nobody has looked. Ask when State.Takes. The course is
	// held then, as if Desired were not known: once it was taken over there might be no way back out.
	Unfit string
	// Applied: the cluster holds the whole projection of the present State, and nothing that it does not hold any
	// more. In Removing the projection is empty, so that Applied says that everything is gone.
	Applied bool
	// Exposed: users are led as the present State says: the routing and the workloads of both tracks are as projected.
	// Where Applied holds, it does too. A step begins with it, so that an object that has nothing to do with the traffic
	// keeps no canary from being judged.
	Exposed bool
	// WatchedSince is since when the cluster has answered without a gap; zero: always. Deadlines count from it at the
	// earliest, so that an API server that was away is never taken for pods that do not start.
	WatchedSince time.Time
	Stable       Track
	Canary       Track
	// Warnings for people of a rollout to Desired, should one begin now. They decide nothing.
	Warnings []string
	// Taken are the objects, by kind and name, that others have left to the app and that would be taken over should it begin now.
	Taken []string
	// Verdict of a round of checks asked since the last Next; nil: none. Ask when State.CheckDue.
	Verdict *analysis.Verdict
	// Admission is the verdict of the plan's pre-rollout webhooks on a canary that has had no traffic; nil: not all have answered yet.
	Admission *analysis.Verdict
	// Recall is why a rollback webhook of the plan would have the rollout go back; empty: none would.
	Recall string
	// Reverted is the git writer's answer to State.Revert; nil: none yet.
	Reverted *Reverted
	// Recorded is the highest event number that the audit log holds.
	Recorded int64
	// Told is the number of the newest of State.Untold that all whom it concerns have been told of, or that is of no use to try again;
	// 0: none.
	Told int64
	// Ahead is the audit log's last number where it belongs to an earlier incarnation of the app, and the Outbox is to be
	// numbered on after it: the State was lost, or the app was removed and is listed again. 0: it does not.
	Ahead int64
	// Commands are what people have asked since State.LastCommand, oldest first.
	Commands []Command
	// Direct is the command that somebody has left beside the State, as while git is away; nil: there is none. It is taken before
	// the others.
	Direct *Command
	// Gates of the app, as they are for Desired.
	Gates []Gate
}

// Reverted is the outcome of a rollback commit: committed, proposed, or skipped.
type Reverted struct {
	// Commit that put the environment branch back, or would when Branch is merged.
	Commit string
	// Branch on which the rollback waits for somebody to merge it; empty: it does not wait.
	Branch string
	// URL of the pull request by which it is to be merged; empty: none is known.
	URL string
	// Skipped says why nothing was written ("the branch has moved on to 0.0.132").
	Skipped string
	// Rollout of the Revert that is answered, so that a late answer is not taken for a newer one's; 0: the present.
	Rollout int64
}
