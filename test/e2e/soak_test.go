package e2e

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
	"github.com/sluice-cd/sluice/test/bed/behaviour"
)

var (
	rolloutsFlag = flag.Int("rollouts", 3, "number of rollouts of the soak")
	seedFlag     = flag.Uint64("seed", 0, "what the soak's accidents are drawn by; 0: the clock")
)

// soak is three environments under one agent, to which accidents happen while they roll out.
type soak struct {
	*world // which has the agent
	r      *rand.Rand
	envs   []*soaked
	begun  int
	counts map[string]int
	// blind are the times in which the played users may not see the cluster as it is: they watch the API server too.
	blind []span
}

type span struct{ from, to time.Time }

// catchUp is how long whoever watches the API server may take to have it back.
const catchUp = 15 * time.Second

// soaked is one of the environments.
type soaked struct {
	*world
	// wanted is the version of the rollout under way, bad whether it fails; empty: none is.
	wanted string
	bad    bool
	since  time.Time
	// attack is the hostile chart that came with it; nil: none.
	attack *attack
}

// TestSoak: rollouts, good, bad and hostile, in three environments of one agent, to which accidents happen: SIGKILLs, servers that
// go away, states that are deleted, edits by hand. Every event is in the audit log once and in order, no step is shortened,
// users are served all the time, git says what serves, and the agent gets over it.
//
// It takes as long as one likes, with the whole bed for itself: go test ./test/e2e -run '^TestSoak$' -rollouts 200 -timeout 6h -v. A
// kubelet and users are played, as everywhere on the bed.
func TestSoak(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	fmt.Fprintln(os.Stderr, "soak: -seed", seed)
	s := newSoak(t, seed)
	t.Cleanup(func() {
		t.Logf("seed %d: %s", seed, s.tally())
		_ = s.bed.StartAPIServer(context.Background())
		_ = s.bed.StartPrometheus(context.Background())
	})
	begin := time.Now()
	for s.begun < *rolloutsFlag || s.busy() {
		for _, e := range s.envs {
			s.look(e)
		}
		if s.begun < *rolloutsFlag && s.r.IntN(3) == 0 {
			s.accident()
		}
	}
	for _, e := range s.envs {
		e.settled()
		e.servesGit()
		e.stepsLasted(e.checkInterval)
		s.servedAlways(e, begin)
		s.counts["events"] += len(e.events())
	}
}

func newSoak(t *testing.T, seed uint64) *soak {
	t.Helper()
	s := &soak{r: rand.New(rand.NewPCG(seed, 0)), counts: map[string]int{}}
	for range 3 {
		w := newWorld(t)
		w.allow = "namespaces: [" + w.name + "]"
		w.behave("0.0.131", behaviour.Behaviour{ErrorRate: 0.3})
		s.envs = append(s.envs, &soaked{world: w})
	}
	s.world = s.envs[0].world
	for _, e := range s.envs[1:] {
		s.neighbours = append(s.neighbours, e.world)
	}
	s.install()
	for _, e := range s.envs {
		e.awaitEvent(rollout.Installed, "0.0.129", 1)
	}
	return s
}

func (s *soak) busy() bool {
	return slices.ContainsFunc(s.envs, func(e *soaked) bool { return e.wanted != "" })
}

// servedAlways fails the test where users found no pod since then, but where it is not known.
func (s *soak) servedAlways(e *soaked, begin time.Time) {
	s.Helper()
	history := s.bed.Traffic.History(e.name, e.host())
	for i, h := range history {
		last := span{h.Time, time.Now()}
		if i+1 < len(history) {
			last.to = history[i+1].Time
		}
		known := !slices.ContainsFunc(s.blind, func(b span) bool { return b.from.Before(last.to) && last.from.Before(b.to) })
		if h.Unserved > 0 && last.to.After(begin) && known {
			s.Errorf("%s: %.0f %% of the requests find no pod from %s for %s: %v", e.name, h.Unserved*100,
				last.from.UTC().Format(time.TimeOnly), last.to.Sub(last.from), h.ByWorkload)
		}
	}
	if len(history) == 0 {
		s.Errorf("%s had no users", e.name)
	}
}

// tally is what has happened so far.
func (s *soak) tally() string {
	text := fmt.Sprintf("%d rollouts", s.begun)
	for _, what := range slices.Sorted(maps.Keys(s.counts)) {
		text += fmt.Sprintf(", %d %s", s.counts[what], what)
	}
	return text
}

// look begins an environment's next rollout where its last one is over.
func (s *soak) look(e *soaked) {
	s.Helper()
	if e.wanted != "" && !s.over(e) {
		if r := e.record(); time.Since(e.since) > time.Minute && s.r.IntN(20) == 0 {
			fmt.Fprintf(os.Stderr, "soak: %s wants %s since %s: %s %s to %s, fault %q\n", e.name, e.wanted, time.Since(e.since).Round(time.Second), r.Phase, r.Serves.Version, r.Target.Version, r.Fault)
		}
		if time.Since(e.since) > 10*time.Minute {
			s.Fatalf("%s: the rollout of %s is not over after %s: %v", e.name, e.wanted, time.Since(e.since), story(e.events()))
		}
		return
	}
	if e.attack != nil {
		e.leave()
	}
	if e.wanted = ""; s.begun == *rolloutsFlag {
		return
	}
	s.begun++
	serves := e.record().Serves.Version
	good := slices.DeleteFunc([]string{"0.0.129", "0.0.130", "0.0.132"}, func(v string) bool { return v == serves })
	e.wanted, e.bad, e.since = good[s.r.IntN(len(good))], false, time.Now()
	switch s.r.IntN(3) {
	case 0:
		e.wanted, e.bad = "0.0.131", true
	case 1:
		hostile := slices.DeleteFunc(slices.Clone(attacks), func(a attack) bool { return a.name == "byhand" }) // which needs an object
		e.attack = &hostile[s.r.IntN(len(hostile))]
		e.invite(s.victim(e))
		s.counts["hostile charts"]++
	}
	e.bump(e.wanted)
	fmt.Fprintf(os.Stderr, "soak: %s rolls out %s (%s)\n", e.name, e.wanted, s.tally())
}

// victim is the environment that a hostile one attacks.
func (s *soak) victim(e *soaked) string { return s.envs[(slices.Index(s.envs, e)+1)%len(s.envs)].name }

// over reports whether the rollout of an environment has come to its end: git and the audit log say that what should serve does.
func (s *soak) over(e *soaked) bool {
	s.Helper()
	r := e.record()
	if r.Phase != "Idle" || !strings.Contains(e.file("main", requirements), "version: "+r.Serves.Version) {
		return false
	}
	if e.bad == (r.Serves.Version == e.wanted) {
		return false
	}
	if a := e.attack; a != nil {
		fill := strings.NewReplacer("PROD", s.victim(e), "DEV", e.name)
		if !strings.Contains(faultOf(e.file(e.statusBranch(), "README.md"), a.name), fill.Replace(a.want)) {
			return false
		}
	}
	end := "promoted"
	if e.bad {
		end = "rolled back"
	}
	s.counts[end]++
	return true
}

// record of the app on the status branch.
func (e *soaked) record() audit.Record {
	e.Helper()
	r, err := audit.ParseRecord([]byte(e.file(e.statusBranch(), audit.File(app))))
	e.must(err)
	return r
}

// invite adds the hostile chart to the environment, and leave takes it off the list.
func (e *soaked) invite(prod string) {
	e.Helper()
	dir := "charts/" + e.attack.name
	fill := strings.NewReplacer("PROD", prod, "DEV", e.name)
	e.edit("chore: add "+e.attack.name, func(tip *gitsync.Snapshot) (map[string][]byte, error) {
		list, err := fs.ReadFile(tip.FS(), requirements)
		return map[string][]byte{
			path.Join(dir, "Chart.yaml"):       []byte("apiVersion: v2\nname: " + e.attack.name + "\nversion: 1.0.0\n"),
			path.Join(dir, "values.yaml"):      []byte("a: '{{ tpl (index .Values \"a\") . }}'\n"),
			path.Join(dir, "templates/a.yaml"): []byte(fill.Replace(e.attack.template)),
			requirements:                       []byte(string(list) + e.attack.entry()),
		}, err
	})
}

func (e *soaked) leave() {
	e.Helper()
	e.edit("chore: remove "+e.attack.name, func(tip *gitsync.Snapshot) (map[string][]byte, error) {
		list, err := fs.ReadFile(tip.FS(), requirements)
		return map[string][]byte{requirements: []byte(strings.Replace(string(list), e.attack.entry(), "", 1))}, err
	})
	e.attack = nil
}

// entry of a hostile chart in the list of apps.
func (a attack) entry() string {
	return "- name: " + a.name + "\n  version: 1.0.0\n  repository: file://../charts/" + a.name + "\n"
}

// accident happens to the agent, to a server or to one of the environments. It is over when it returns; what follows from it is not.
func (s *soak) accident() {
	s.Helper()
	e := s.envs[s.r.IntN(len(s.envs))]
	pause := func() { s.intervals(1 + s.r.IntN(3)) }
	accidents := []struct {
		name   string
		happen func()
	}{
		{"SIGKILLs", func() { s.kill(); s.start() }},
		{"SIGKILLs", func() { s.kill(); s.start() }},
		{"SIGTERMs", func() { s.stop(); s.start() }},
		{"API server kills", func() {
			from := time.Now()
			s.must(s.bed.KillAPIServer())
			pause()
			s.must(s.bed.StartAPIServer(context.Background()))
			s.blind = append(s.blind, span{from, time.Now().Add(catchUp)})
		}},
		{"Prometheus outages", func() {
			s.must(s.bed.StopPrometheus())
			pause()
			s.must(s.bed.StartPrometheus(context.Background()))
		}},
		{"git outages", func() {
			repository := s.bed.Git.Path(e.name)
			s.must(os.Rename(repository, repository+".away"))
			pause()
			s.must(os.Rename(repository+".away", repository))
		}},
		{"deleted states", func() {
			err := s.kube.CoreV1().Secrets(e.stateNamespace()).Delete(context.Background(), e.stateName(), metav1.DeleteOptions{})
			s.must(err)
		}},
		{"edits of labels", func() { e.patch("apps", "v1", "deployments", app, `{"metadata":{"labels":{"app":"mine"}}}`) }},
		{"edits of replicas", func() { e.patch("apps", "v1", "deployments", app, `{"spec":{"replicas":3}}`) }},
		{"edits of configuration", func() { e.patch("", "v1", "configmaps", app, `{"data":{"evil":"1"}}`) }},
	}
	a := accidents[s.r.IntN(len(accidents))]
	fmt.Fprintf(os.Stderr, "soak: %s (%s)\n", a.name, e.name)
	a.happen()
	s.counts[a.name]++
}
