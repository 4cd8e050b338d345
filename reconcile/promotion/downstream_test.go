package promotion

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// What waits for a person, or is withdrawn, asks the forge nothing more until something has changed.
func TestDownstreamAtRest(t *testing.T) {
	s := newStage(t, true, strings.Replace(auto, "Auto", "Manual", 1))
	s.event(rollout.Promoted, "1.0.0", "1.1.0")
	s.now = s.now.Add(time.Hour)
	quiet := func(when string) {
		t.Helper()
		s.look()
		before := s.forge.asked.Load()
		s.look()
		if asked := s.forge.asked.Load() - before; asked != 0 {
			t.Errorf("%s: it asks %d times", when, asked)
		}
	}
	quiet("proposed")
	s.event(rollout.Held, "1.1.0", "")
	quiet("withdrawn")
	if s.forge.all[0].State != forge.Closed {
		t.Errorf("it is not withdrawn: %+v", s.forge.all[0])
	}
	s.event(rollout.Promoted, "1.1.0", "1.2.0")
	s.event(rollout.Unheld, "1.2.0", "")
	s.now = s.now.Add(time.Hour)
	quiet("the next one")
	if len(s.forge.all) != 2 || !strings.HasSuffix(s.forge.all[1].Title, "1.2.0") {
		t.Errorf("the next one is proposed as %+v", s.forge.all)
	}
}

func (f *pulls) Close(_ context.Context, number int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all[number-1].State = forge.Closed
	return f.fault
}

// stage is staging and production, with a clock.
type stage struct {
	t                *testing.T
	staging, product *repository
	forge            *pulls
	now              time.Time
	log              bytes.Buffer
	seq              int64
	// image is the tag of what staging tells of; empty: it does not say.
	image string
	*Downstream
}

// newStage has production follow staging by what its sluice.yaml says of upstream, "URL" being where that is.
func newStage(t *testing.T, f bool, upstream string) *stage {
	s := &stage{t: t, staging: newRepository(t), product: newRepository(t), now: time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)}
	s.product.put("sluice.yaml", "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: production\nupstream: "+
		strings.ReplaceAll(upstream, "URL", "file://"+s.staging.dir)+"\n")
	cfg := DownstreamConfig{
		Environment: "production", Path: ".", Source: "a test", DataDir: t.TempDir(),
		Remote:   gitsync.Remote{URL: s.product.dir, AllowFile: true, Branch: "main"},
		Status:   gitsync.Remote{URL: s.product.dir, AllowFile: true},
		Upstream: gitsync.Remote{URL: "file://" + s.staging.dir, AllowFile: true},
		Now:      func() time.Time { return s.now },
		Log:      slog.New(slog.NewTextHandler(&s.log, nil)),
	}
	if f {
		s.forge = &pulls{repo: s.product, verdict: forge.Success}
		cfg.Forge = s.forge
	}
	s.Downstream = &Downstream{cfg: cfg}
	s.start()
	return s
}

// start begins anew, as a process does.
func (s *stage) start() {
	s.t.Helper()
	s.Downstream = NewDownstream(s.cfg)
	if err := s.open(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(s.Downstream.close)
}

func (s *stage) look() {
	s.t.Helper()
	if err := s.Look(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// event has an agent of staging tell of web.
func (s *stage) event(typ rollout.EventType, from, to string) {
	s.t.Helper()
	s.tells("staging", typ, from, to)
}

// tells has an agent of an environment tell of web, in the repository of staging.
func (s *stage) tells(environment string, typ rollout.EventType, from, to string) {
	s.t.Helper()
	s.seq++
	e := rollout.Event{
		Seq: s.seq, Time: s.now, Type: typ, Rollout: s.seq, By: "Ann <ann@example.com>", Command: "c1",
		From: rollout.Release{Version: from, Digest: from}, To: rollout.Release{Version: to, Image: s.image, Digest: to + s.image},
	}
	w, err := gitsync.NewWriter(gitsync.WriterConfig{
		Remote: gitsync.Remote{URL: s.staging.dir, AllowFile: true, Branch: "sluice/status/" + environment}, Create: true,
	}, s.t.TempDir())
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Close()
	_, err = w.CommitAll(s.t.Context(), func(tip *gitsync.Snapshot) (out []*gitsync.Change, err error) {
		var at fs.FS
		if tip.Commit != "" {
			at = tip.FS()
		}
		update, err := audit.Commits(at, audit.Batch{
			Names: audit.Names{Environment: environment}, Now: s.now,
			Apps: []audit.App{{Name: "web", State: rollout.State{LastSeq: s.seq}, Events: []rollout.Event{e}}},
		})
		for _, c := range update.Commits {
			out = append(out, &gitsync.Change{Files: c.Files, Message: c.Message, Date: c.Date})
		}
		return out, err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// What was rolled back here is not proposed, also where the status branches are in another repository than the environment.
func TestDownstreamWithAStatusRepository(t *testing.T) {
	s := newStage(t, false, auto)
	s.cfg.Status = s.cfg.Upstream
	s.start()
	s.tells("production", rollout.RollbackStarted, "1.0.0", "1.1.0")
	s.tells("production", rollout.RolledBack, "1.0.0", "1.1.0")
	s.event(rollout.Promoted, "1.0.0", "1.1.0")
	s.now = s.now.Add(time.Hour)
	s.look()
	s.asks("1.0.0")
	s.event(rollout.Promoted, "1.1.0", "1.2.0")
	s.now = s.now.Add(time.Hour)
	s.look()
	s.asks("1.2.0")
}

func (s *stage) asks(version string) {
	s.t.Helper()
	if got := s.product.list("main"); !strings.Contains(got, "version: "+version+" # promoted") {
		s.t.Errorf("production asks for\n%s\nwant %s\n%s", got, version, s.log.String())
	}
}

const auto = `{environment: staging, repository: "URL", strategy: Auto, soak: 30m}`

// What serves upstream is proposed once it has soaked, and merged once the checks have passed.
func TestDownstream(t *testing.T) {
	s := newStage(t, true, auto)
	s.look() // staging has told of nothing yet
	s.event(rollout.RolloutStarted, "1.0.0", "1.1.0")
	s.look()
	s.event(rollout.Promoted, "1.0.0", "1.1.0")
	s.now = s.now.Add(29 * time.Minute)
	s.look()
	if len(s.forge.all) != 0 {
		t.Fatalf("it was proposed before it had soaked: %+v", s.forge.all)
	}
	s.now = s.now.Add(time.Minute)
	s.forge.verdict = forge.Pending
	s.look()
	before := s.forge.read.Load()
	s.look()
	if again := s.forge.read.Load() - before; again != 0 {
		t.Errorf("what waits, and was found, is read %d times more", again)
	}
	if len(s.forge.all) != 1 || !strings.Contains(s.forge.all[0].Body, "It runs in **staging**") || len(s.forge.all[0].Labels) != 1 {
		t.Fatalf("proposed as %+v", s.forge.all)
	}
	s.asks("1.0.0")
	s.forge.verdict = forge.Success
	s.look()
	s.asks("1.1.0")
	s.look()
	if len(s.forge.all) != 1 {
		t.Errorf("it is proposed again: %+v", s.forge.all)
	}
	for _, want := range []string{"1.1.0 is soaking upstream", "check build: pending", "1.1.0 was merged"} {
		if strings.Count(s.log.String(), want) != 1 {
			t.Errorf("the log does not say %q once:\n%s", want, s.log.String())
		}
	}
}

// Without a forge Auto is a commit, in a window that is open and without a freeze, and Manual a branch.
func TestDownstreamWithoutForge(t *testing.T) {
	s := newStage(t, false, auto+"\nwindows: {allow: [{schedule: \"0 14 * * *\", duration: 1h, timezone: UTC}]}")
	s.event(rollout.Promoted, "1.0.0", "1.1.0")
	s.now = s.now.Add(time.Hour)
	s.look()
	s.asks("1.0.0")
	s.now = s.now.Add(time.Hour)
	s.product.put("sluice.freeze", "we are on holiday\n")
	s.look()
	s.asks("1.0.0")
	s.product.git(s.product.work, "rm", "-q", "sluice.freeze")
	s.product.write("README.md", "we are back")
	s.product.git(s.product.work, "push", "-q", "origin", "HEAD:main")
	s.look()
	s.asks("1.1.0")
	if got := s.product.git(s.product.dir, "log", "-1", "--format=%s%n%b", "main"); !strings.Contains(got, "Sluice-Upstream: staging") {
		t.Errorf("committed as %s", got)
	}
	manual := newStage(t, false, strings.Replace(auto, "Auto", "Manual", 1))
	manual.event(rollout.Promoted, "1.0.0", "1.1.0")
	manual.now = manual.now.Add(time.Hour)
	manual.look()
	manual.asks("1.0.0")
	if !strings.Contains(manual.product.list(branch), "version: 1.1.0 #") {
		t.Errorf("the branch says\n%s", manual.product.list(branch))
	}
}

// Where an image is the version its tag is carried, with what is written beside it, and not again once somebody has taken it back.
func TestDownstreamCarriesImages(t *testing.T) {
	s := newStage(t, false, auto+"\napps: {web: {image: {tag: image.tag}}}")
	s.product.put("env/values.yaml", "web:\n  image:\n    tag: a1  # what runs\n")
	s.event(rollout.Promoted, "1.0.0", "1.0.0")
	s.now = s.now.Add(time.Hour)
	runs := func(want string) {
		t.Helper()
		s.look()
		if got := s.product.git(s.product.dir, "show", "main:env/values.yaml"); got != "web:\n  image:\n    tag: "+want+"  # what runs" {
			t.Errorf("want %s, got\n%s", want, got)
		}
		s.asks("1.0.0")
	}
	runs("a1")
	if !strings.Contains(s.log.String(), "upstream does not say which image it serves") {
		t.Errorf("the log says %s", s.log.String())
	}
	s.image = "b2"
	s.event(rollout.Promoted, "1.0.0", "1.0.0")
	s.now = s.now.Add(time.Hour)
	runs("b2")
	if got := s.product.git(s.product.dir, "log", "-1", "--format=%s", "main"); got != "chore: promote web to version b2" {
		t.Errorf("committed as %s", got)
	}
	s.product.git(s.product.work, "pull", "-q", "origin", "main")
	s.product.put("env/values.yaml", "web:\n  image:\n    tag: a1  # what runs\n")
	runs("a1")
}

// A person's no counts: what was closed, put back, or rolled back does not come again by itself.
func TestDownstreamTakesNo(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		s := newStage(t, true, auto)
		s.forge.verdict = forge.Failure
		s.event(rollout.Promoted, "1.0.0", "1.1.0")
		s.now = time.Now().Add(time.Hour) // commits have the machine's time
		s.look()
		s.forge.all[0].State = forge.Closed
		s.look()
		s.start()
		s.now = s.now.Add(time.Hour)
		s.look()
		if len(s.forge.all) != 1 || !strings.Contains(s.log.String(), "1.1.0 is not proposed again: the pull request was closed") {
			t.Errorf("%d pull requests:\n%s", len(s.forge.all), s.log.String())
		}
		s.event(rollout.Promoted, "1.1.0", "1.2.0")
		s.now = s.now.Add(time.Hour)
		s.look()
		if len(s.forge.all) != 2 || !strings.HasSuffix(s.forge.all[1].Title, "1.2.0") {
			t.Errorf("the next one is proposed as %+v", s.forge.all)
		}
	})
	t.Run("a crash before the pull request", func(t *testing.T) {
		s := newStage(t, true, auto)
		s.forge.verdict = forge.Pending
		s.event(rollout.Promoted, "1.0.0", "1.1.0")
		s.now = time.Now().Add(time.Minute)
		p := proposal("1.1.0")
		p.Upstream = "staging"
		mustPropose(t, s.product.proposer(nil), p)
		s.now = s.now.Add(time.Minute)
		s.product.put("sluice.yaml", strings.Replace(s.product.git(s.product.dir, "show", "main:sluice.yaml"), "soak: 30m", "soak: 1s", 1))
		s.look()
		if len(s.forge.all) != 1 {
			t.Errorf("%d pull requests\n%s", len(s.forge.all), s.log.String())
		}
	})
	t.Run("put back", func(t *testing.T) {
		s := newStage(t, true, auto)
		s.event(rollout.Promoted, "1.0.0", "1.1.0")
		s.now = s.now.Add(time.Hour)
		s.look()
		s.asks("1.1.0")
		s.product.put("env/Chart.yaml", list)
		s.look()
		s.asks("1.0.0")
		if len(s.forge.all) != 1 || !strings.Contains(s.log.String(), "1.1.0 was promoted here before by commit") {
			t.Errorf("%d pull requests:\n%s", len(s.forge.all), s.log.String())
		}
	})
	t.Run("rolled back, and no status branch says so yet", func(t *testing.T) {
		s := newStage(t, true, auto)
		s.event(rollout.Promoted, "1.0.0", "1.1.0")
		s.now = s.now.Add(time.Hour)
		s.product.put("env/Chart.yaml", strings.Replace(list, "1.0.0", "1.1.0", 1)) // by hand, in words of his own
		s.product.putBack("1.1.0", "1.0.0")
		s.look()
		s.asks("1.0.0")
		if len(s.forge.all) != 0 || !strings.Contains(s.log.String(), "1.1.0 was promoted here before by commit") {
			t.Errorf("%d pull requests:\n%s", len(s.forge.all), s.log.String())
		}
	})
	t.Run("rolled back by a pull request", func(t *testing.T) {
		s := newStage(t, true, auto)
		s.event(rollout.Promoted, "1.0.0", "1.1.0")
		s.now = s.now.Add(time.Hour)
		s.product.put("env/Chart.yaml", strings.Replace(list, "1.0.0", "1.1.0", 1))
		promoted := s.product.git(s.product.work, "rev-parse", "HEAD")
		s.product.putBack("1.1.0", "1.0.0")
		s.product.git(s.product.work, "checkout", "-q", "-B", "main", promoted)
		s.product.git(s.product.work, "merge", "-q", "--no-ff", "-m", "Merge pull request 7", "origin/main")
		s.product.git(s.product.work, "push", "-q", "--force", "origin", "HEAD:main")
		s.look()
		s.asks("1.0.0")
		if len(s.forge.all) != 0 {
			t.Errorf("%d pull requests:\n%s", len(s.forge.all), s.log.String())
		}
	})
	t.Run("promoted and rolled back by others during a look", func(t *testing.T) {
		s := newStage(t, true, auto)
		s.event(rollout.Promoted, "1.0.0", "1.1.0")
		s.now = s.now.Add(time.Hour)
		s.forge.first = func() {
			p := proposal("1.1.0")
			p.Strategy = environments.PromotionAuto
			mustPropose(t, s.product.proposer(nil), p)
			s.product.putBack("1.1.0", "1.0.0")
		}
		s.look()
		s.look()
		s.asks("1.0.0")
		if len(s.forge.all) != 0 {
			t.Errorf("%d pull requests:\n%s", len(s.forge.all), s.log.String())
		}
		s.event(rollout.Promoted, "1.1.0", "1.2.0")
		s.now = s.now.Add(time.Hour)
		s.look()
		s.asks("1.2.0")
	})
	t.Run("another environment of the repository had it", func(t *testing.T) {
		s := newStage(t, true, auto)
		s.product.put("staging/Chart.yaml", list)
		p := proposal("1.1.0")
		p.Environment, p.Path, p.Strategy = "staging", "staging", environments.PromotionAuto
		mustPropose(t, s.product.proposer(nil), p)
		s.event(rollout.Promoted, "1.0.0", "1.1.0")
		s.now = s.now.Add(time.Hour)
		s.look()
		s.asks("1.1.0")
	})
	t.Run("on hold upstream", func(t *testing.T) {
		s := newStage(t, true, strings.Replace(auto, "Auto", "Manual", 1))
		s.event(rollout.Promoted, "1.0.0", "1.1.0")
		s.now = s.now.Add(time.Hour)
		s.look()
		s.event(rollout.Held, "1.1.0", "")
		s.look()
		if s.forge.all[0].State != forge.Closed || !strings.Contains(s.log.String(), "withdrawn: it is on hold upstream") {
			t.Errorf("%+v\n%s", s.forge.all, s.log.String())
		}
	})
}

// A repository does not choose whom the agent asks.
func TestDownstreamAsksNobodyElse(t *testing.T) {
	s := newStage(t, true, `{environment: staging, repository: "https://elsewhere.example.com/x.git"}`)
	if err := s.Look(t.Context()); err == nil || !strings.Contains(err.Error(), "set environments[production].upstream.url to it") {
		t.Errorf("%v", err)
	}
	s.product.put("sluice.yaml", "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: production\n")
	s.look() // and the user gets out again
}

// TestDownstreamIsRefused: a credential that is refused upstream is told to who keeps the status branch, and so is that it is over. A
// remote that is away is not: it passes by itself.
func TestDownstreamIsRefused(t *testing.T) {
	answer := http.StatusUnauthorized
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(answer) }))
	t.Cleanup(up.Close)
	s := newStage(t, true, "{environment: staging, repository: "+up.URL+"/staging.git}")
	s.cfg.Upstream = gitsync.Remote{URL: up.URL + "/staging.git", Auth: gitsync.Auth{Username: "reader", Password: "pl4nted"}}
	var told []string
	s.cfg.OnFault = func(text string) { told = append(told, text) }
	s.start()
	look := func() {
		t.Helper()
		s.report(s.Look(t.Context()))
	}
	look()
	if len(told) != 1 || !strings.Contains(told[0], "reading what serves in staging: ") || strings.Contains(told[0], "pl4nted") {
		t.Errorf("of a refusal it tells %q", told)
	}
	answer = http.StatusServiceUnavailable
	if look(); len(told) != 1 {
		t.Errorf("of one that is away it tells %q", told[1:])
	}
	s.product.put("sluice.yaml", "apiVersion: sluice.dev/v1alpha1\nkind: Environment\nenvironment: production\n")
	if look(); len(told) != 2 || told[1] != "" {
		t.Errorf("in the end it tells %q", told)
	}
}

// Two agents of one environment do what one does.
func TestTwoDownstreams(t *testing.T) {
	s := newStage(t, true, strings.Replace(auto, "Auto", "Manual", 1))
	s.event(rollout.Promoted, "1.0.0", "1.1.0")
	s.now = s.now.Add(time.Hour)
	first := s.Downstream
	s.cfg.DataDir = t.TempDir()
	s.start()
	done := make(chan error)
	for _, d := range []*Downstream{first, s.Downstream} {
		go func() { done <- d.Look(t.Context()) }()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if len(s.forge.all) != 1 {
		t.Errorf("%d pull requests", len(s.forge.all))
	}
}
