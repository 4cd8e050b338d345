package feedback

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
)

func TestForetold(t *testing.T) {
	names := audit.Names{Environment: "production", Cluster: "us"}
	at := Parted{Branch: "main", Base: "aaaaaaaaaaaaaaaa", Head: "0123456789abcdef", Moved: true}
	f := Forecast{
		Apps: []ForecastApp{{"web", "web: canary 1 -> 2"}, {"api", "api: error: @team <b>\nspec: ```"}},
		Text: "web: canary 1 -> 2\n  +  ```\n", LeftOut: 3,
	}.bounded()
	f.LeftOut = 3
	got := Foretold(names, at, f, "web 2 was rolled back here: success rate 69% < 99%", []audit.Record{
		{App: "api", Held: "Ann: wait"}, {App: "db", Held: "Ann: wait"},
	})
	const want = "**Forecast for production/us**: what merging 0123456789 would do\n\n" +
		"- web: canary 1 -> 2\n" +
		"- api: error: @\u200bteam &lt;b> spec: ```\n" +
		"\n**Rolled back before**: web 2 was rolled back here: success rate 69% &lt; 99%\n" +
		"\n**On hold**: api: Ann: wait\n" +
		"\n<details><summary>Details</summary>\n\n````text\nweb: canary 1 -> 2\n  +  ```\n````\n" +
		"\n3 more lines: run `sluice plan` to see them.\n\n</details>\n" +
		"\n0123456789 is compared with aaaaaaaaaa, where it left `main`. That branch has moved on since; this does not include it.\n"
	if got != want {
		t.Errorf("got\n%s", got)
	}
	if got := Foretold(names, Parted{Head: "0123456789"}, Forecast{}, "", nil); !strings.Contains(got, "\nNo app changes.\n") || strings.Contains(got, "compared") {
		t.Errorf("of nothing it says\n%s", got)
	}
	if got := Foretold(names, at, Forecast{Fault: "env/requirements.yaml, line 3: no"}, "", nil); !strings.Contains(got, "\nNo forecast: env/requirements.yaml, line 3: no\n") {
		t.Errorf("of a fault it says\n%s", got)
	}
}

// TestForecastsFit: whatever a forecast says, the comment is within what a forge takes, and says what is not there.
func TestForecastsFit(t *testing.T) {
	for _, text := range []string{
		strings.Repeat("a line of it\n", 10_000), strings.Repeat("x", 100_000), strings.Repeat("`", 100_000) + "\n", strings.Repeat("`", 24_000),
		strings.Repeat("é", 20_000) + "\n" + strings.Repeat("é", 20_000) + "\nend",
	} {
		f := Forecast{Text: text}
		for i := range 1000 {
			f.Apps = append(f.Apps, ForecastApp{Line: fmt.Sprint("app ", i, strings.Repeat("<@#|", 100))})
		}
		body := Foretold(audit.Names{Environment: "production"}, Parted{Base: "a"}, f.bounded(), "", nil)
		if len(body) > 60_000 {
			t.Errorf("%.5q: %d bytes", text, len(body))
		}
		if cut := len(text) > maxForecast; cut != strings.Contains(body, "more lines: run") {
			t.Errorf("%.5q: it does not say what is left out", text)
		}
		if strings.Count(body, "<details>") != strings.Count(body, "</details>") {
			t.Errorf("%.5q: what is begun is not ended", text)
		}
	}
}

// place is a repository with its forge, where everything is as the test makes it.
type place struct {
	*testing.T
	dir, work string
	open      []forge.Pull
	merged    map[int]forge.Pull
	comments  map[int]string
	// told counts comments that were made or edited, made the forecasts by head.
	told   int
	made   []string
	fault  error
	answer Forecast
	now    time.Time
	log    strings.Builder
}

func (p *place) Get(_ context.Context, number int) (*forge.Pull, error) {
	if pull, ok := p.merged[number]; ok {
		return &pull, nil
	}
	for _, pull := range p.open {
		if pull.Number == number {
			return &pull, nil
		}
	}
	return nil, forge.ErrNotFound
}

func (p *place) List(context.Context, string) ([]forge.Pull, error) {
	return append([]forge.Pull{}, p.open...), nil
}

func (p *place) SetStatus(context.Context, string, forge.Check) error { return nil }

func (p *place) Comment(_ context.Context, number int, _, body string) error {
	if p.fault != nil {
		return p.fault
	}
	p.told++
	p.comments[number] = body
	return nil
}

func (p *place) forecast(_ context.Context, _, head *gitsync.Snapshot) Forecast {
	p.made = append(p.made, head.Commit)
	return p.answer
}

func (p *place) git(args ...string) string {
	p.Helper()
	cmd := exec.CommandContext(p.Context(), "git", args...)
	cmd.Dir = p.work
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Ann", "GIT_AUTHOR_EMAIL=a@b",
		"GIT_COMMITTER_NAME=Ann", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	if err != nil {
		p.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// push commits to a branch, which is made if it is not there.
func (p *place) push(branch, message string) string {
	p.Helper()
	p.git("checkout", "-q", "-B", branch)
	p.git("commit", "-q", "--allow-empty", "-m", message)
	p.git("push", "-q", "origin", branch)
	return p.git("rev-parse", "HEAD")
}

func newPlace(t *testing.T) (*place, *Reporter) {
	t.Helper()
	dir := t.TempDir()
	p := &place{T: t, dir: filepath.Join(dir, "env.git"), work: dir, comments: map[int]string{}, now: now, answer: Forecast{Text: "web: canary 1 -> 2"}}
	p.git("init", "-q", "--bare", "-b", "main", p.dir)
	p.git("clone", "-q", p.dir, filepath.Join(dir, "work"))
	p.work = filepath.Join(dir, "work")
	p.push("main", "first")
	remote := gitsync.Remote{URL: p.dir, AllowFile: true, Branch: "main"}
	r := New(Config{
		Names: audit.Names{Environment: "production"}, Path: ".", Remote: remote, Status: remote, Forge: p, Forecast: p.forecast,
		DataDir: filepath.Join(dir, "data"), Now: func() time.Time { return p.now }, Log: slog.New(slog.NewTextHandler(&p.log, nil)),
	})
	if err := r.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return p, r
}

// TestForecastFollows: a forecast is made when there is something new to tell, and told when it says something new.
func TestForecastFollows(t *testing.T) {
	p, r := newPlace(t)
	head := p.push("change", "one")
	p.git("checkout", "-q", "main")
	p.open = []forge.Pull{
		{Number: 1, Head: "change", Base: "main", Commit: head},
		{Number: 2, Head: "somebody:change", Base: "main", Commit: head},
		{Number: 3, Head: "gone", Base: "main", Commit: head},
	}
	look := func(what string, made, told int, say string) {
		t.Helper()
		p.made, p.told = nil, 0
		if err := r.Look(t.Context()); err != nil && p.fault == nil {
			t.Errorf("%s: %v", what, err)
		}
		if len(p.made) != made || p.told != told || !strings.Contains(p.comments[1], say) || len(p.comments) > 1 {
			t.Errorf("%s: %d made, %d told, %+v", what, len(p.made), p.told, p.comments)
		}
	}
	p.fault = errors.New("the forge is away")
	look("the forge is away", 1, 0, "")
	p.fault = nil
	look("it is back", 0, 1, "web: canary 1 -> 2")
	look("nothing is new", 0, 0, "it left `main`.")
	p.push("main", "second")
	look("the branch has gone on", 0, 1, "has moved on since")
	look("nothing is new", 0, 0, "")
	p.git("checkout", "-q", "change")
	p.open[0].Commit = p.push("change", "two")
	p.answer = Forecast{Fault: "the chart host is away", Again: true}
	look("the head has moved", 1, 1, "the chart host is away")
	look("nothing is new", 0, 0, "")
	p.now = p.now.Add(forecastAgain + time.Second)
	p.answer = Forecast{Text: "web: canary 1 -> 3"}
	look("a fault is old", 1, 1, "web: canary 1 -> 3")
	p.now = p.now.Add(24 * time.Hour)
	look("a forecast is old", 0, 0, "")
	p.git("merge", "-q", "-m", "merge", "main")
	p.open[0].Commit = p.push("change", "three")
	look("the branch was merged into it", 1, 1, "it left `main`.\n")
	p.git("checkout", "-q", "main")
	p.git("merge", "-q", "--no-ff", "-m", "merge", "change")
	p.git("push", "-q", "origin", "main")
	before := p.git("rev-parse", "main^1")
	look("it was merged, and the forge does not know it yet", 0, 0, "web: canary 1 -> 3")
	p.git("push", "-q", "--force", "origin", before+":main")
	p.answer = Forecast{Text: "web: canary 1 -> 4"}
	p.git("checkout", "-q", "-B", "more", before)
	p.git("commit", "-q", "--allow-empty", "-m", "third")
	p.git("push", "-q", "origin", "more:main")
	look("the merge was taken back, and the branch has gone on", 0, 1, "has moved on since")
	p.open = p.open[1:]
	look("it is closed", 0, 0, "")
	if len(r.foretold) != 0 {
		t.Errorf("%d are kept", len(r.foretold))
	}
}

// A forecast that takes too long is given up, and made again later.
func TestForecastInTime(t *testing.T) {
	p, r := newPlace(t)
	p.open = []forge.Pull{{Number: 1, Head: "change", Base: "main", Commit: p.push("change", "one")}}
	slow := true
	r.cfg.Forecast = func(ctx context.Context, _, _ *gitsync.Snapshot) Forecast {
		if slow {
			<-ctx.Done()
		}
		return p.answer
	}
	r.forecastTime = time.Millisecond
	if err := r.Look(t.Context()); err != nil || !strings.Contains(p.comments[1], "No forecast: it was not made in 1ms") {
		t.Errorf("%v: %s", err, p.comments[1])
	}
	slow, r.forecastTime, p.now = false, forecastTime, p.now.Add(forecastAgain+time.Second)
	if err := r.Look(t.Context()); err != nil || !strings.Contains(p.comments[1], "web: canary 1 -> 2") {
		t.Errorf("then %v: %s", err, p.comments[1])
	}
}

// TestFloodOfPulls: of many pull requests the newest come first, a few at each look, and the log says what is left out.
func TestFloodOfPulls(t *testing.T) {
	p, r := newPlace(t)
	head := p.push("change", "one")
	const many = maxForecasts + 5
	for n := range many {
		p.open = append(p.open, forge.Pull{Number: n + 1, Head: "change", Base: "main", Commit: head})
	}
	for n := 1; n <= maxForecasts/forecastsALook+1; n++ {
		if err := r.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := min(n*forecastsALook, maxForecasts); len(p.made) != want || p.comments[many-want+1] == "" || p.comments[many-want] != "" {
			t.Fatalf("after %d looks %d were made, told are %d", n, len(p.made), len(p.comments))
		}
	}
	if got := p.log.String(); strings.Count(got, "the oldest get no forecast") != 1 || !strings.Contains(got, "without=5") {
		t.Errorf("the log says %s", got)
	}
}
