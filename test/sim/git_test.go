package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// repository is the git server: the environment branch, and the status branch as the events that it records.
type repository struct {
	commits []commit
	log     []rollout.Event
}

// commit of the environment branch.
type commit struct {
	id string
	// digest is the release that the branch asks for; empty: the app is not listed.
	digest string
	// off: the app's chart switches it off.
	off bool
	// crowd is how many other apps the branch lists.
	crowd  int
	policy environments.Policy
	// rollback is the rollout that the agent's commit takes back; 0: somebody else's commit.
	rollback int64
	// takes is the release that another cluster's agent takes back with the commit; empty: it is none of those.
	takes string
}

func (g *repository) tip() commit { return g.commits[len(g.commits)-1] }

// push adds what change makes of the tip.
func (g *repository) push(change func(*commit)) commit {
	c := commit{policy: basePolicy()}
	if len(g.commits) > 0 {
		c = g.tip()
	}
	c.rollback, c.off, c.takes = 0, false, ""
	change(&c)
	c.id = fmt.Sprint("c", len(g.commits)+1)
	g.commits = append(g.commits, c)
	return c
}

// cause is the commit that asked for what tip says: the newest that changed it.
func (g *repository) cause(tip string) string {
	i := g.index(tip)
	for i > 0 && g.commits[i-1].digest == g.commits[i].digest {
		i--
	}
	return g.commits[i].id
}

func (g *repository) index(id string) int {
	for i, c := range g.commits {
		if c.id == id {
			return i
		}
	}
	panic("no commit " + id)
}

func (g *repository) at(id string) commit { return g.commits[g.index(id)] }

// tookBack reports whether a commit takes a release back that failed in another cluster, good as it is in this one.
func (g *repository) tookBack(digest string) bool {
	return slices.ContainsFunc(g.commits, func(c commit) bool { return c.takes == digest })
}

// errMovedOn answers a rollback that compares with what is no longer there.
var errMovedOn = errors.New("the branch has moved on")

// revert is the rollback commit as a compare-and-set: changed is false when the tip says it all already.
func (g *repository) revert(r rollout.Revert) (id string, changed bool, err error) {
	failed, stable := g.at(r.From.Commit).digest, g.at(r.To.Commit).digest
	switch g.tip().digest {
	case stable:
		return "", false, nil
	case failed:
		c := g.push(func(c *commit) { c.digest, c.rollback = stable, r.Rollout })
		return c.id, true, nil
	default:
		return "", false, errMovedOn
	}
}

// found looks for a rollback commit of ours whose answer was lost.
func (g *repository) found(r rollout.Revert) string {
	for i := len(g.commits) - 1; i > g.index(r.From.Commit); i-- {
		if g.commits[i].rollback == r.Rollout {
			return g.commits[i].id
		}
	}
	return ""
}

// record adds the events that the log does not hold. ahead is the log's last number when it is higher than any that
// the app's state gave; then nothing is written.
func (g *repository) record(lastSeq int64, events []rollout.Event) (ahead int64) {
	n := int64(len(g.log))
	earlierIncarnation := func(e rollout.Event) bool { return e.Seq <= n && e.Time.After(g.log[n-1].Time) }
	if n > lastSeq || slices.ContainsFunc(events, earlierIncarnation) {
		return n
	}
	for _, e := range events {
		if e.Seq > n {
			g.log = append(g.log, e)
		}
	}
	return 0
}

// measure is the metrics server's answer about the canary: the success rate that the cluster gives its users.
func (w *world) measure() analysis.Sample {
	weight := w.cluster.canaryWeight()
	var image string
	for _, p := range w.cluster.endpoints(canaryName) {
		if p.ready {
			image = p.image
		}
	}
	k := kind(trim(image))
	s := analysis.Sample{Present: true, Requests: 100, Value: 100}
	switch {
	case w.promAway:
		s = analysis.Sample{Err: errAway}
	case weight == 0 || image == "":
		s = analysis.Sample{}
	case k == "bad" || k == "steep" && weight >= 40:
		s.Value = 90
		if w.chance(10) {
			s.Value = 10 // beyond doubt
		}
	default:
		w.watch.passed(image, weight, w.now)
	}
	w.logf("metrics: %v at %d%% of %s", s.Value, weight, trim(image))
	return s
}

// passing remembers a pass as the metrics server gave it.
type passing struct {
	image  string
	weight int64
	at     time.Time
}
