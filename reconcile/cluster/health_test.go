package cluster_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

func TestHealth(t *testing.T) {
	r := newRig(t)
	for _, test := range []struct {
		name, behaviour    string
		replicas           int
		ready, avail, fail bool
		message            string
	}{
		{"ready", `{}`, 2, true, true, false, ``},
		{"none", `{}`, 0, true, true, false, ``},
		{"crash", `{"ready":"crash"}`, 2, false, false, true, `^0 of 2 pods ready: pod crash-\S+ container app CrashLoopBackOff \(exit \d+, restarts \d+\); and 1 more$`},
		{"never", `{"ready":"never"}`, 2, false, false, false, `^0 of 2 pods ready`},
		{"imagepull", `{"ready":"imagepull"}`, 1, false, false, false, `^0 of 1 pods ready: pod \S+ container app (ImagePullBackOff|ErrImagePull)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			app := r.app
			app.Name, app.ReleaseName = test.name, test.name
			objs := r.objects(strings.Replace(deployment(test.name, "web:1", test.replicas), "metadata: {labels: {app: "+test.name+"}}",
				"metadata: {labels: {app: "+test.name+"}, annotations: {bed.sluice.dev/behaviour: '"+test.behaviour+"'}}", 1))
			d := project.Desired{Stable: objs, StableWorkloads: objs}
			if seen, err := r.Observe(t.Context(), app, d); err != nil || seen.Stable.Ready || !strings.Contains(seen.Stable.Message, "missing") {
				t.Fatalf("before: %+v, %v", seen, err)
			}
			if _, err := r.Apply(t.Context(), app, rollout.State{Phase: rollout.Installing}, d); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Minute, func() (bool, string) {
				seen, err := r.Observe(t.Context(), app, d)
				s := seen.Stable
				ok := err == nil && s.Ready == test.ready && s.Available == test.avail && s.Failed == test.fail &&
					regexp.MustCompile(test.message).MatchString(s.Message) && (test.message != "" || s.Message == "")
				return ok, fmt.Sprintf("%+v %v", s, err)
			})
		})
	}
}

// TestPromotedWorkload updates the stable Deployment itself: it is not ready until its newest spec is rolled out,
// while the pods of the old one keep it available.
func TestPromotedWorkload(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	r.apply(rollout.Installing, d)
	r.awaitReady(d)
	old := r.pods()
	next := r.whole()
	next.Stable = r.objects(configs + "\n---\n" + service + "\n---\n" +
		strings.Replace(deployment("web", "web:2", 2), "metadata: {labels: {app: web}}",
			`metadata: {labels: {app: web}, annotations: {bed.sluice.dev/behaviour: '{"ready":"slow","readyAfterSeconds":2}'}}`, 1))
	next.StableWorkloads = workloads(next.Stable)
	r.apply(rollout.Promoting, next)
	if s := r.observe(next).Stable; s.Ready || !s.Available || s.Failed {
		t.Errorf("right after the update: %+v", s)
	}
	eventually(t, time.Minute, func() (bool, string) {
		s := r.observe(next).Stable
		if !s.Available {
			t.Errorf("not available in mid-update: %+v", s)
		}
		return s.Ready, fmt.Sprintf("%+v", s)
	})
	for uid := range r.pods() {
		if old[uid] != "" {
			t.Errorf("ready while old pod %s is there", old[uid])
		}
	}
	// Once the old pods are gone nothing moves any more, and looking again costs nothing.
	eventually(t, 30*time.Second, func() (bool, string) {
		began := r.flush()
		r.observe(next)
		r.flush()
		q := r.requests(began)
		return len(q) == 0, fmt.Sprintf("looking again cost %v", q)
	})
}

// TestReadinessWakes shows that the loop need not poll while it waits for a workload.
func TestReadinessWakes(t *testing.T) {
	r := newRig(t)
	d := r.whole()
	r.apply(rollout.Installing, d)
	for range 50 {
		r.drain()
		if r.observe(d).Stable.Ready {
			return
		}
		r.awaitCall()
	}
	t.Error("it never became ready")
}
