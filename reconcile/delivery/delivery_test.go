package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/project"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/render/mask"
	kube "github.com/sluice-cd/sluice/render/objects"
	"github.com/sluice-cd/sluice/render/release"
)

// cluster is a cluster in which everything is as seen says, and of which parts are in trouble.
type cluster struct {
	seen Seen
	// saved is the state that was saved last, deleted: it is gone.
	saved   rollout.State
	deleted bool
	// found is what there is of an app without a state.
	found rollout.Found
	// asked is what metrics were asked about last.
	asked []analysis.Check
	// another: the releases have two workloads.
	another bool
	// tried is what was asked about.
	tried []project.Desired
	// live is what else is in the namespace.
	live []*unstructured.Unstructured
	// missing are objects that are not there.
	missing []kube.Key
	// taken are objects that were left to the app.
	taken []string
	// What they answer.
	foreign, refused, unlisted, unkept, unsaved, unapplied, lost, away error
	// hooks are the answers of webhooks, by name, and questions what they were asked.
	hooks     map[string]Answer
	questions []Question
	// again is why a lost release can't be rendered again; past is its plan where it can.
	again error
	past  rollout.Plan
}

func (c *cluster) Observe(context.Context, App, project.Desired) (Seen, error) { return c.seen, c.away }

func (c *cluster) Apply(context.Context, App, rollout.State, project.Desired) (int, error) {
	return 0, c.unapplied
}

func (c *cluster) Outside(context.Context, string, []schema.GroupKind) ([]*unstructured.Unstructured, error) {
	return c.live, c.unlisted
}

func (c *cluster) Existing(context.Context, App, []*unstructured.Unstructured) ([]string, error) {
	return c.taken, c.foreign
}

func (c *cluster) Try(_ context.Context, _ App, d project.Desired) error {
	c.tried = append(c.tried, d)
	return c.refused
}

func (c *cluster) Has(_ context.Context, k kube.Key) (bool, error) {
	return !slices.Contains(c.missing, k), c.unlisted
}

func (c *cluster) LoadState(context.Context, App) (Saved, bool, error) { return Saved{}, false, nil }
func (c *cluster) Intend(App, project.Desired)                         {}
func (c *cluster) SaveState(_ context.Context, s Saved) (Saved, error) {
	c.saved = s.State
	return s, c.unsaved
}

func (c *cluster) DeleteState(context.Context, Saved) error {
	c.deleted = true
	return nil
}

func (c *cluster) Adopt(context.Context, App) (rollout.Found, error) { return c.found, c.away }

func (c *cluster) AddRelease(_ context.Context, _ App, _ rollout.Release, _ *release.Release, after int) (int, error) {
	return after + 1, c.unkept
}

func (c *cluster) ReleaseObjects(_ context.Context, _ App, n int) ([]*unstructured.Unstructured, error) {
	out := objects(n)
	if c.another {
		second := objects(n)[0]
		second.SetName("web-2")
		out = append(out, second)
	}
	return out, c.lost
}
func (c *cluster) SettleReleases(context.Context, App, rollout.State) error { return nil }
func (c *cluster) Ask(_ context.Context, checks []analysis.Check) []analysis.Sample {
	c.asked = checks
	return make([]analysis.Sample, len(checks))
}

func (c *cluster) Again(context.Context, string, rollout.Release) (Past, error) {
	return Past{Plan: c.past}, c.again
}

const oldSecret = "0ldP4ssword"

// objects of the nth release.
func objects(n int) []*unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	text := fmt.Sprintf(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: production}, spec: {
		selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: "web:%d", env: [{name: PIN, value: %s}]}]}}}}`,
		n, oldSecret)
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		panic(err)
	}
	return []*unstructured.Unstructured{o}
}

var plan = rollout.Plan{Strategy: environments.StrategyCanary, Service: environments.Service{Port: 80}, Deadline: time.Minute}

func id(n int) rollout.Release {
	return rollout.Release{Version: fmt.Sprint(n), Digest: fmt.Sprint(n), Commit: fmt.Sprint("c", n), Revision: n}
}

func asks(n int) *Desired {
	want := id(n)
	want.Revision = 0
	return &Desired{ID: want, Release: &release.Release{Namespace: "production", Version: want.Version, Digest: want.Digest, Objects: objects(n)}, Plan: plan}
}

func under(phase rollout.Phase) rollout.State {
	s := rollout.State{Phase: phase, Stable: id(1), Plan: &plan, LastSeq: 1}
	if phase != rollout.Idle {
		s.Target, s.Rollouts = id(2), 1
	}
	if phase == rollout.Analyzing {
		s.Weight, s.Peak = 10, 10
	}
	return s
}

func decide(t *testing.T, c *cluster, f Facts, s rollout.State) (Decision, error) {
	t.Helper()
	f.Saved = Saved{App: App{Name: "web", Namespace: "production", ReleaseName: "web"}, State: s}
	d := &Delivery{
		Objects: c, States: c, Records: c, Metrics: c, History: c, Hooks: hooks{c}, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) },
	}
	return d.Decide(t.Context(), f)
}

// A save whose answer is lost leaves nobody sure of what the cluster holds; one that was refused, or beaten, does not.
func TestSaveWithoutAnswer(t *testing.T) {
	for unsaved, want := range map[error]bool{
		errors.New("http2: client connection lost"): true, ErrConflict: false, ErrStateTooLarge: false,
		apierrors.NewForbidden(schema.GroupResource{}, "", nil): false,
	} {
		c := &cluster{unsaved: unsaved, seen: Seen{Applied: true, Exposed: true, Canary: rollout.Track{Failed: true}}}
		dec, err := decide(t, c, Facts{Desired: asks(2)}, under(rollout.Analyzing))
		if !errors.Is(err, unsaved) || dec.Unsure != want || dec.Moved {
			t.Errorf("%v: unsure %v, moved %v; %v", unsaved, dec.Unsure, dec.Moved, err)
		}
	}
}

// A release that can't be kept, whatever is wrong with its record, keeps no canary from being judged, and is told.
func TestReleaseThatCannotBeKept(t *testing.T) {
	for _, unkept := range []error{ErrReleaseTooLarge, ErrHelmBusy, errors.New("etcdserver: request timed out")} {
		c := &cluster{unkept: unkept, seen: Seen{
			Applied: true, Stable: rollout.Track{Ready: true}, Canary: rollout.Track{Available: true, Failed: true},
		}}
		plain := asks(2) // but for what no pod sees, so that it would take the target's place at once
		plain.ID.Digest = "2+1"
		plain.Release.Objects[0].SetAnnotations(map[string]string{"note": "1"})
		got, err := decide(t, c, Facts{Desired: plain}, under(rollout.Analyzing))
		if c.saved.Phase != rollout.RollingBack {
			t.Errorf("%v: a canary that failed is %q", unkept, c.saved.Phase)
		}
		if told := errors.Is(got.Fault, unkept); told != Refused(unkept) || !errors.Is(err, unkept) {
			t.Errorf("%v: fault %v, error %v", unkept, got.Fault, err)
		}
		// It is not begun at rest either, and gets in when it can be kept.
		if got, _ := decide(t, c, Facts{Desired: asks(3)}, under(rollout.Idle)); got.Saved.State.InFlight() {
			t.Errorf("%v: begun all the same", unkept)
		}
		c.unkept = nil
		got, err = decide(t, c, Facts{Desired: asks(3)}, under(rollout.Idle))
		if target := got.Saved.State.Target; err != nil || target.Digest != "3" || target.Revision != 2 {
			t.Errorf("kept: target %+v, %v", target, err)
		}
	}
}

// While git asks for what can't be taken over, a canary is judged by the checks of its own plan, when that has them due.
func TestUnfitPlan(t *testing.T) {
	own, late := plan, plan
	own.Interval, own.Metrics = 10*time.Second, []environments.Metric{{Name: "own", Query: "1"}}
	late.Interval, late.Metrics = time.Hour, []environments.Metric{{Name: "late", Query: "1"}}
	ready := rollout.Track{Ready: true}
	c := &cluster{unkept: ErrReleaseTooLarge, seen: Seen{Applied: true, Stable: ready, Canary: ready}}
	plain := asks(2)
	plain.ID.Digest, plain.Plan = "2+1", late
	plain.Release.Objects[0].SetAnnotations(map[string]string{"note": "1"})
	s := under(rollout.Analyzing)
	s.Plan, s.StepSince = &own, time.Date(2026, 3, 1, 11, 59, 50, 0, time.UTC)
	if _, err := decide(t, c, Facts{Desired: plain}, s); !errors.Is(err, ErrReleaseTooLarge) {
		t.Fatal(err)
	}
	if len(c.asked) != 1 || c.asked[0].Name != "own" || !c.saved.LastCheck.After(s.StepSince) {
		t.Errorf("asked about %+v, last check at %s", c.asked, c.saved.LastCheck)
	}
}

// A rollout that could not be carried through is not begun, and what is under way goes on.
func TestUnfitRelease(t *testing.T) {
	other := asks(3)
	selector := map[string]any{"matchLabels": map[string]any{"app": "other"}}
	if err := unstructured.SetNestedMap(other.Release.Objects[0].Object, selector, "spec", "selector"); err != nil {
		t.Fatal(err)
	}
	c := &cluster{seen: Seen{Applied: true, Stable: rollout.Track{Ready: true}, Canary: rollout.Track{Ready: true}}}
	got, err := decide(t, c, Facts{Desired: other}, under(rollout.Idle))
	if err != nil || got.Fault == nil || got.Saved.State.InFlight() {
		t.Errorf("at rest: %q, fault %v, %v", got.Saved.State.Phase, got.Fault, err)
	}
	got, err = decide(t, c, Facts{Desired: other}, under(rollout.Starting))
	if err != nil || got.Fault == nil || got.Saved.State.Phase != rollout.Analyzing {
		t.Errorf("under way: %q, fault %v, %v", got.Saved.State.Phase, got.Fault, err)
	}

	if got, err = decide(t, c, Facts{Desired: asks(4)}, under(rollout.Idle)); err != nil || got.Fault != nil || got.Saved.State.Phase != rollout.Starting {
		t.Errorf("a mended one: %q, fault %v, %v", got.Saved.State.Phase, got.Fault, err)
	}
}

// What is somebody else's is not touched: nothing begins, neither the first release nor a later one, until it is put right. What
// somebody has left to the app is told.
func TestSomebodyElsesObject(t *testing.T) {
	ready := rollout.Track{Ready: true}
	for _, s := range []rollout.State{under(rollout.Idle), {Phase: rollout.Idle, Plan: &plan}} {
		c := &cluster{foreign: fmt.Errorf("it belongs to somebody: %w", ErrNotOurs), seen: Seen{Applied: true, Stable: ready, Canary: ready}}
		got, err := decide(t, c, Facts{Desired: asks(3)}, s)
		if !errors.Is(err, c.foreign) || !errors.Is(got.Fault, c.foreign) || got.Saved.State.InFlight() {
			t.Errorf("%q, fault %v, %v", got.Saved.State.Phase, got.Fault, err)
		}
		c.foreign, c.taken = nil, []string{"ConfigMap production/web"}
		got, err = decide(t, c, Facts{Desired: asks(3)}, s)
		if err != nil || got.Fault != nil || len(got.Events) != 2 || got.Events[1].Type != rollout.Adopted || got.Events[1].Reason != "ConfigMap production/web" {
			t.Errorf("left to it: fault %v, %v, events %+v", got.Fault, err, got.Events)
		}
	}
}

// While Flagger steers the workload nothing is taken over, whether there was anything before or not.
func TestSteeredByFlagger(t *testing.T) {
	canary := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": map[string]any{"name": "web", "namespace": "production"},
		"spec": map[string]any{"targetRef": map[string]any{"kind": "Deployment", "name": "web"}},
	}}
	ready := rollout.Track{Ready: true}
	for _, s := range []rollout.State{under(rollout.Idle), {Phase: rollout.Idle, Plan: &plan}} {
		c := &cluster{live: []*unstructured.Unstructured{canary}, seen: Seen{Applied: true, Stable: ready, Canary: ready}}
		got, err := decide(t, c, Facts{Desired: asks(3)}, s)
		if !errors.Is(err, ErrNotOurs) || !errors.Is(got.Fault, ErrNotOurs) || got.Saved.State.InFlight() {
			t.Errorf("%q, fault %v, %v", got.Saved.State.Phase, got.Fault, err)
		}
		if c.live = nil; s.Stable.IsZero() {
			// What another tool has deployed, too: nothing of it is saved, or applied.
			c := &cluster{live: []*unstructured.Unstructured{canary}, found: rollout.Found{Stable: id(1)}}
			got, err := decide(t, c, Facts{Desired: asks(3)}, s)
			if !errors.Is(err, ErrNotOurs) || !errors.Is(got.Fault, ErrNotOurs) || got.Acts() || !c.saved.Stable.IsZero() {
				t.Errorf("another tool's: fault %v, %v, saved %+v", got.Fault, err, c.saved)
			}
		}
		if got, err = decide(t, c, Facts{Desired: asks(3)}, s); err != nil || got.Fault != nil || len(got.Events) == 0 {
			t.Errorf("let go: fault %v, %v, events %+v", got.Fault, err, got.Events)
		}
	}
}

// What the API server would refuse, of the release or of its canary, begins no rollout, and is asked again: it may be the cluster's
// to mend. Of what serves nothing yet nothing is asked.
func TestRefusedRelease(t *testing.T) {
	ready := rollout.Track{Ready: true}
	refused := fmt.Errorf("spec.template: field is immutable: %w", ErrRefused)
	for _, s := range []rollout.State{under(rollout.Idle), under(rollout.Starting)} {
		c := &cluster{refused: refused, seen: Seen{Applied: true, Stable: ready, Canary: ready}}
		got, err := decide(t, c, Facts{Desired: asks(3)}, s)
		if now := got.Saved.State; !errors.Is(err, refused) || !errors.Is(got.Fault, refused) || now.Target.Digest == "3" || now.Stable != s.Stable {
			t.Errorf("%s: %+v, fault %v, %v", s.Phase, now, got.Fault, err)
		}
		var names []string
		for _, o := range append(c.tried[0].Stable, c.tried[0].Canary...) {
			names = append(names, o.GetKind()+" "+o.GetName())
		}
		if got := strings.Join(names, ", "); got != "Deployment web, Deployment web-canary, Service web-canary" {
			t.Errorf("%s: asked about %s", s.Phase, got)
		}
		c.refused = nil
		if got, err = decide(t, c, Facts{Desired: asks(3)}, s); err != nil || got.Fault != nil || !got.Saved.State.InFlight() {
			t.Errorf("%s, put right: %q, fault %v, %v", s.Phase, got.Saved.State.Phase, got.Fault, err)
		}
	}
	c := &cluster{refused: refused, seen: Seen{Applied: true}}
	if got, err := decide(t, c, Facts{Desired: asks(3)}, rollout.State{Plan: &plan}); err != nil || got.Saved.State.Phase != rollout.Installing || len(c.tried) > 0 {
		t.Errorf("a first install: %q, %v, asked about %v", got.Saved.State.Phase, err, c.tried)
	}
}

// An app that is to change its namespace stays where it is, whatever it is in the middle of, until git has it back.
func TestMovedApp(t *testing.T) {
	moved := asks(3)
	moved.Release.Namespace = "elsewhere"
	c := &cluster{seen: Seen{Applied: true, Stable: rollout.Track{Ready: true}, Canary: rollout.Track{Ready: true}}}
	for _, phase := range []rollout.Phase{rollout.Idle, rollout.Starting} {
		s := under(phase)
		got, err := decide(t, c, Facts{Desired: moved}, s)
		if err != nil || got.Fault == nil || !strings.Contains(got.Fault.Error(), "web lives in namespace production, and git now says elsewhere") {
			t.Errorf("%s: fault %v, %v", phase, got.Fault, err)
		}
		if now := got.Saved.State; now.Target.Digest == "3" || now.Stable != s.Stable {
			t.Errorf("%s: %+v", phase, now)
		}
	}
	if got, err := decide(t, c, Facts{Desired: asks(1)}, under(rollout.Idle)); err != nil || got.Fault != nil {
		t.Errorf("back where it was: %v, %v", got.Fault, err)
	}
}

// TestValuesStayInside holds that what the cluster says of an app's objects loses the app's values before anybody hears of it:
// in faults, in what is not ready, and in the reasons of events, which are saved.
func TestValuesStayInside(t *testing.T) {
	const secret = "s3cretP4ss"
	failed := rollout.Track{Failed: true, Available: true, Message: "exec: \"" + secret + "\": not found"}
	for name, c := range map[string]*cluster{
		"unkept": {unkept: apierrors.NewBadRequest("admission: " + secret)},
		"seen":   {seen: Seen{Applied: true, Pending: secret, Stable: failed, Canary: failed}},
		"away":   {away: errors.New("no answer: " + secret)},
		"undone": {seen: Seen{Applied: true, Stable: rollout.Track{Ready: true}, Canary: failed}, unapplied: errors.New(secret)},
	} {
		for _, phase := range []rollout.Phase{rollout.Idle, rollout.Analyzing} {
			f := Facts{Desired: asks(3), Unfinished: true}
			f.Desired.Release.Mask = mask.New(mask.Source{Given: []map[string]any{{"password": secret}}})
			dec, err := decide(t, c, f, under(phase))
			_, undone := (&Delivery{Objects: c, Records: c}).Act(t.Context(), dec)
			told := fmt.Sprint(err, undone, dec.Fault, dec.Seen, dec.Events, c.saved)
			silent := name == "unkept" && phase == rollout.Analyzing // there is nothing to keep
			if strings.Contains(told, secret) || !silent && !strings.Contains(told, mask.Mark) {
				t.Errorf("%s, %s: %s", name, phase, told)
			}
		}
	}
	// Of a release whose values nobody knows any more what programs read is masked.
	c := &cluster{away: errors.New("the old " + oldSecret)}
	if _, err := decide(t, c, Facts{}, under(rollout.Analyzing)); err == nil || strings.Contains(err.Error(), oldSecret) {
		t.Errorf("an old value: %v", err)
	}
}

// What lives beside the app and can't be listed is told, and keeps no rollout from beginning.
func TestUnlistedNeighbours(t *testing.T) {
	c := &cluster{unlisted: errors.New("conversion webhook is down"), seen: Seen{Applied: true, Stable: rollout.Track{Ready: true}}}
	got, err := decide(t, c, Facts{Desired: asks(2)}, under(rollout.Idle))
	if err != nil || got.Fault != nil || got.Saved.State.Phase != rollout.Starting || !strings.Contains(got.Events[0].Reason, "conversion webhook is down") {
		t.Errorf("%+v, %v", got, err)
	}
}

// A removed app goes although nobody knows any more what it was made of, and is forgotten when git has its last word.
func TestRemoval(t *testing.T) {
	c := &cluster{lost: ErrReleaseLost, seen: Seen{Applied: true}}
	got, err := decide(t, c, Facts{Removed: true}, under(rollout.Analyzing))
	if err != nil || got.Saved.State.Phase != rollout.Removing {
		t.Fatalf("taken off the list: %q, %v", got.Saved.State.Phase, err)
	}
	got, err = decide(t, c, Facts{Removed: true}, got.Saved.State)
	if err != nil || len(got.Events) != 1 || got.Events[0].Type != rollout.Removed || c.deleted {
		t.Fatalf("all gone: %+v, %v", got.Events, err)
	}
	if got, err = decide(t, c, Facts{Removed: true}, got.Saved.State); err != nil || got.Gone {
		t.Fatalf("git is away: gone %t, %v", got.Gone, err)
	}
	got, err = decide(t, c, Facts{Removed: true, Recorded: got.Saved.State.LastSeq}, got.Saved.State)
	if err != nil || !got.Gone || !c.deleted {
		t.Errorf("git knows: gone %t, deleted %t, %v", got.Gone, c.deleted, err)
	}
	c.deleted = false
	if got, err := decide(t, c, Facts{Removed: true}, rollout.State{}); err != nil || !got.Gone || c.deleted {
		t.Errorf("never saved: gone %t, deleted %t, %v", got.Gone, c.deleted, err)
	}
}

// A cluster that is not seen, whichever of its answers is missing, is blind for the look, and a fault only when somebody has
// to put something right.
func TestBlind(t *testing.T) {
	for _, test := range []struct {
		name  string
		c     cluster
		fault bool
	}{
		{"away", cluster{away: errors.New("connection refused")}, false},
		{"records away", cluster{lost: errors.New("connection refused")}, false},
		{"no right", cluster{away: apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "web", nil)}, true},
		{"record lost", cluster{lost: ErrReleaseLost, again: errors.New("no commit is known that asked for it")}, true},
		{"record lost, to be rendered again", cluster{lost: ErrReleaseLost, again: ErrOrdered}, false},
	} {
		got, err := decide(t, &test.c, Facts{Desired: asks(3)}, under(rollout.Analyzing))
		if err == nil || !got.Blind || got.Moved || (got.Fault != nil) != test.fault {
			t.Errorf("%s: blind %t, moved %t, fault %v, error %v", test.name, got.Blind, got.Moved, got.Fault, err)
		}
	}
}

// A rollout whose state was lost is given up: traffic goes to what serves, the event says so, and it is saved before
// anything is done.
func TestLostState(t *testing.T) {
	c := &cluster{
		found: rollout.Found{Lost: true, Stable: id(1), Target: id(2), Canary: true, Revision: 2},
		seen:  Seen{Applied: true, Stable: rollout.Track{Ready: true}, Canary: rollout.Track{Ready: true}},
	}
	got, err := decide(t, c, Facts{Desired: asks(2)}, rollout.State{})
	if err != nil || c.saved.Phase != rollout.RollingBack || c.saved.Weight != 0 || c.saved.Drained {
		t.Errorf("saved %+v, %v", c.saved, err)
	}
	if len(got.Events) != 1 || got.Events[0].Type != rollout.Recovered {
		t.Errorf("events %+v", got.Events)
	}
	// The policy that it had is the one of the commit that asked for it, which may have to be read first.
	other := asks(3)
	c.past = rollout.Plan{Strategy: environments.StrategyCanary, Service: environments.Service{Port: 80, Timeout: "5s"}}
	if _, err = decide(t, c, Facts{Desired: other}, rollout.State{}); err != nil || c.saved.StablePlan == nil || c.saved.StablePlan.Service.Timeout != "5s" {
		t.Errorf("git has moved on: saved %+v, %v", c.saved, err)
	}
	c.found.Target = rollout.Release{}
	if _, err = decide(t, c, Facts{Desired: other}, rollout.State{}); err != nil || c.saved.Phase != rollout.Idle || c.saved.Plan.Service.Timeout != "5s" {
		t.Errorf("git has moved on, at rest: saved %+v, %v", c.saved, err)
	}
	c.saved, c.again, c.found.Target = rollout.State{}, ErrOrdered, id(2)
	if got, err = decide(t, c, Facts{Desired: other}, rollout.State{}); !errors.Is(err, ErrOrdered) || got.Fault != nil || got.Moved {
		t.Errorf("not read yet: saved %+v, %v", c.saved, err)
	}
	// Where git does not tell it, it is that of what git asks for now. Where that of what git asks for now does not fit it, there is a way out.
	c.again = errors.New("no commit is known that asked for it")
	other.Plan.Target = environments.Target{Kind: "Deployment", Name: "another"}
	got, err = decide(t, c, Facts{Desired: other}, rollout.State{})
	if err != nil || c.saved.Phase != rollout.RollingBack || c.saved.Plan.Target != (environments.Target{}) {
		t.Errorf("another policy: saved %+v, %v", c.saved, err)
	}
	c.another = true // so that the policy has to name one
	got, err = decide(t, c, Facts{Desired: other}, rollout.State{})
	if err != nil || !c.saved.Target.IsZero() || c.saved.Phase != rollout.Idle || got.Events[0].Type != rollout.Recovered {
		t.Errorf("another policy, two workloads: saved %+v, %v", c.saved, err)
	}
	// While it is not known what git asks for, nobody knows the policy either.
	c.saved = rollout.State{}
	if got, err := decide(t, c, Facts{}, rollout.State{}); err != nil || got.Moved {
		t.Errorf("git unknown: %+v, %v", got, err)
	}
	got, err = decide(t, c, Facts{Removed: true}, rollout.State{})
	if err != nil || c.saved.LastSeq != 1 || got.Events[0].Type != rollout.Removed {
		t.Errorf("not listed, and nothing is left: saved %+v, events %+v, %v", c.saved, got.Events, err)
	}
	c.seen = Seen{}
	if _, err = decide(t, c, Facts{Removed: true}, rollout.State{}); err != nil || c.saved.Phase != rollout.Removing {
		t.Errorf("not listed: saved %+v, %v", c.saved, err)
	}
}

// What a look did not act upon to its end, the next one does, be everything in the cluster as desired: the records may not
// say it yet.
func TestUnfinished(t *testing.T) {
	c := &cluster{seen: Seen{Applied: true, Stable: rollout.Track{Ready: true}}}
	at := decided(t, c, Facts{Desired: asks(1)})
	if at.Acts() {
		t.Error("acts at rest")
	}
	if at = decided(t, c, Facts{Desired: asks(1), Unfinished: true}); !at.Acts() {
		t.Error("what was left undone is not taken up")
	}
	if at = decided(t, c, Facts{Desired: asks(1), Unfinished: true, HoldCorrections: true}); at.Acts() {
		t.Error("a fight goes on without a pause")
	}
}

// What git was told is dropped from the state with the next write that there is a reason for, or at rest.
func TestAcknowledged(t *testing.T) {
	events := []rollout.Event{{Seq: 1, Type: rollout.RolloutStarted}, {Seq: 2, Type: rollout.Advanced}}
	c := &cluster{seen: Seen{Applied: true, Stable: rollout.Track{Ready: true, Available: true}, Canary: rollout.Track{Ready: true, Available: true}}}
	s := under(rollout.Analyzing)
	s.Since = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s.StepSince, s.LastSeq, s.Outbox = s.Since, 2, events
	if got, err := decide(t, c, Facts{Desired: asks(2), Recorded: 1}, s); err != nil || got.Moved || len(got.Saved.State.Outbox) != 2 {
		t.Errorf("under way: moved %t, %v", got.Moved, err)
	}
	s.StepSince = time.Time{}
	if got, err := decide(t, c, Facts{Desired: asks(2), Recorded: 1}, s); err != nil || got.Moved || got.Saved.State.StepSince.IsZero() {
		t.Errorf("seen to be held: moved %t, %+v, %v", got.Moved, got.Saved.State, err)
	}
	c.seen.Canary = rollout.Track{Failed: true} // a reason
	if got, err := decide(t, c, Facts{Desired: asks(2), Recorded: 1}, s); err != nil || !got.Moved || len(c.saved.Outbox) != 2 || c.saved.Outbox[0].Seq != 2 {
		t.Errorf("with a reason: moved %t, %d left, %v", got.Moved, len(c.saved.Outbox), err)
	}
	rest := under(rollout.Idle)
	rest.LastSeq, rest.Outbox = 2, events
	if got, err := decide(t, c, Facts{Desired: asks(1), Recorded: 2}, rest); err != nil || !got.Moved || len(c.saved.Outbox) != 0 {
		t.Errorf("at rest: moved %t, %d left, %v", got.Moved, len(c.saved.Outbox), err)
	}
}

func decided(t *testing.T, c *cluster, f Facts) Decision {
	t.Helper()
	got, err := decide(t, c, f, under(rollout.Idle))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// What a release has twice is told when its rollout begins, with a canary or without.
func TestWhatIsThereTwiceIsTold(t *testing.T) {
	for _, strategy := range []environments.Strategy{environments.StrategyCanary, environments.StrategyRolling} {
		want := asks(2)
		want.Plan.Strategy = strategy
		pod := want.Release.Objects[0].Object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
		container := pod["containers"].([]any)[0].(map[string]any)
		container["env"] = append(container["env"].([]any), map[string]any{"name": "PIN", "value": "another"})
		c := &cluster{seen: Seen{Applied: true, Exposed: true, Stable: rollout.Track{Ready: true, Available: true}}}
		got, err := decide(t, c, Facts{Desired: want}, under(rollout.Idle))
		const warning = "warning: Deployment web: env PIN of container c is there twice, and the last one counts"
		if err != nil || len(got.Events) == 0 || !strings.Contains(got.Events[0].Reason, warning) {
			t.Errorf("%s: %+v, %v", strategy, got.Events, err)
		}
	}
}
