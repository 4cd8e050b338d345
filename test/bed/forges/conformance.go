package forges

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync/forge"
)

// Access is what a token may do.
type Access string

// Tokens of a Target.
const (
	Writer  Access = writerToken // everything that Sluice needs
	Reader  Access = readerToken // reads, and writes nothing
	Revoked Access = "revoked-s3cr3t"
)

// Pushed is a branch and its tip.
type Pushed struct{ Branch, Commit string }

// Target is a forge with one repository that the suite may do with as it likes.
type Target interface {
	Name() string
	// Repository is what is tested, with a token.
	Repository(t testing.TB, a Access) forge.Repository
	// Base makes a branch for one test to merge onto.
	Base(t testing.TB) string
	// Push puts a commit on a branch, which is made from base where it is not there.
	Push(t testing.TB, branch, base string) Pushed
	// Clash is Push of something that conflicts with what base has by now.
	Clash(t testing.TB, branch, base string) Pushed
	// RequireCheck and RequireReview protect a branch.
	RequireCheck(t testing.TB, base, name string)
	RequireReview(t testing.TB, base string)
	// Say is a comment by a person.
	Say(t testing.TB, number int, body string)
	// Comments are the bodies of all comments.
	Comments(t testing.TB, number int) []string
}

// open gives a stand-in's repository.
func open(t testing.TB, o forge.Options, a Access) forge.Repository {
	o.Token = func(context.Context) (string, error) { return string(a), nil }
	r, err := forge.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Conformance is what every forge does alike.
func Conformance(t *testing.T, target Target) {
	for name, test := range map[string]func(*suite){
		"Life":      (*suite).life,
		"Labels":    (*suite).labels,
		"Twice":     (*suite).twice,
		"Close":     (*suite).closed,
		"Moved":     (*suite).moved,
		"Clash":     (*suite).clash,
		"Held":      (*suite).held,
		"Failed":    (*suite).failed,
		"AutoMerge": (*suite).autoMerge,
		"Begins":    (*suite).begins,
		"No rule":   (*suite).noRule,
		"Review":    (*suite).review,
		"Checks":    (*suite).checks,
		"Comment":   (*suite).comment,
		"Pages":     (*suite).pages,
		"Missing":   (*suite).missing,
		"Revoked":   (*suite).revoked,
		"Reader":    (*suite).reader,
		"At once":   (*suite).atOnce,
	} {
		t.Run(target.Name()+"/"+name, func(t *testing.T) {
			s := &suite{T: t, target: target, r: target.Repository(t, Writer)}
			s.base = target.Base(t)
			test(s)
		})
	}
}

type suite struct {
	*testing.T
	target Target
	r      forge.Repository
	base   string
}

func (s *suite) need(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// fails looks for the kind of an error and its words, and for a token that must not be in them.
func (s *suite) fails(err, kind error, words ...string) {
	s.Helper()
	if !errors.Is(err, kind) {
		s.Errorf("%v, want %v", err, kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			s.Errorf("%v does not say %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "s3cr3t") {
		s.Errorf("%v quotes the token", err)
	}
}

// branch makes a branch with a commit.
func (s *suite) branch(name string) Pushed {
	s.Helper()
	return s.target.Push(s, name+"-"+s.base, s.base)
}

// opened makes a pull request of a new branch.
func (s *suite) opened(name string, labels ...string) *forge.Pull {
	s.Helper()
	b := s.branch(name)
	p, err := s.r.Create(s.Context(), forge.Pull{Title: "chore: promote shop", Body: "Body.", Head: b.Branch, Base: s.base, Labels: labels})
	s.need(err)
	if p.Commit != b.Commit {
		s.Fatalf("the head of the new pull request is %s, want %s", p.Commit, b.Commit)
	}
	return p
}

func (s *suite) get(number int) forge.Pull {
	s.Helper()
	p, err := s.r.Get(s.Context(), number)
	s.need(err)
	return *p
}

// merged waits until a pull request is merged: a forge may do it after it has answered.
func (s *suite) merged(number int) forge.Pull {
	s.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 300 {
		if p := s.get(number); p.State == forge.Merged {
			return p
		}
		<-tick.C
	}
	s.Fatalf("pull request %d is not merged after 30 s", number)
	return forge.Pull{}
}

func (s *suite) merge(p forge.Pull) error {
	return s.r.Merge(s.Context(), p, "chore: merged by a test")
}

func (s *suite) life() {
	ctx := s.Context()
	b := s.branch("promote")
	none, err := s.r.Find(ctx, b.Branch, s.base)
	s.need(err)
	if none != nil {
		s.Fatalf("found %+v where there is none", none)
	}
	made, err := s.r.Create(ctx, forge.Pull{Title: "chore: promote shop to version 1.2.3", Body: "Why.\n\nAnd how.", Head: b.Branch, Base: s.base, Labels: []string{"env/production"}})
	s.need(err)
	want := forge.Pull{Number: made.Number, URL: made.URL, Title: "chore: promote shop to version 1.2.3", Body: "Why.\n\nAnd how.", Head: b.Branch, Base: s.base, Commit: b.Commit, State: forge.Open, Labels: []string{"env/production"}}
	s.same(*made, want)
	if !strings.HasPrefix(made.URL, "http") {
		s.Errorf("URL %q", made.URL)
	}
	s.same(s.get(made.Number), want)
	found, err := s.r.Find(ctx, b.Branch, s.base)
	s.need(err)
	s.same(*found, want)
	list, err := s.r.List(ctx, s.base)
	s.need(err)
	if len(list) != 1 {
		s.Fatalf("%d pull requests onto %s, want 1", len(list), s.base)
	}
	s.same(list[0], want)

	s.need(s.merge(*made))
	merged := s.merged(made.Number)
	if merged.MergeCommit == "" || merged.MergeCommit == b.Commit {
		s.Errorf("merge commit %q", merged.MergeCommit)
	}
	s.need(s.r.Merge(ctx, *made, "again"))
	s.fails(s.r.Close(ctx, made.Number), forge.ErrConflict, "merged")
	found, err = s.r.Find(ctx, b.Branch, s.base)
	s.need(err)
	if found != nil {
		s.Errorf("found %+v, which is merged", found)
	}
}

func (s *suite) same(got, want forge.Pull) {
	s.Helper()
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		s.Errorf("\ngot  %+v\nwant %+v", got, want)
	}
}

func (s *suite) labels() {
	p := s.opened("labels", "env/staging", "do-not-merge/hold", "dependency/shop")
	p.Title, p.Body, p.Labels = "Another title", "Another body.", []string{"env/production", "made/by update"}
	s.need(s.r.Update(s.Context(), *p))
	got := s.get(p.Number)
	slices.Sort(got.Labels)
	if got.Title != p.Title || got.Body != p.Body || !slices.Equal(got.Labels, []string{"dependency/shop", "env/production", "made/by update"}) {
		s.Errorf("%+v", got)
	}
	p.Body = ""
	s.need(s.r.Update(s.Context(), *p))
	if got := s.get(p.Number); got.Body != "" {
		s.Errorf("%+v", got)
	}
}

func (s *suite) twice() {
	p := s.opened("twice")
	_, err := s.r.Create(s.Context(), forge.Pull{Title: "Again", Head: p.Head, Base: s.base})
	s.fails(err, forge.ErrConflict)
	if _, err := s.r.Create(s.Context(), forge.Pull{Title: "Of nothing", Head: "no-such-branch", Base: s.base}); err == nil {
		s.Error("a pull request of a branch that is not there")
	}
}

func (s *suite) closed() {
	p := s.opened("close")
	s.need(s.r.Close(s.Context(), p.Number))
	s.need(s.r.Close(s.Context(), p.Number))
	if got := s.get(p.Number); got.State != forge.Closed || got.MergeCommit != "" {
		s.Errorf("%+v", got)
	}
	s.fails(s.r.Merge(s.Context(), *p, "no"), forge.ErrConflict, "closed")
}

func (s *suite) moved() {
	p := s.opened("moved")
	b := s.target.Push(s, p.Head, s.base)
	s.fails(s.r.Merge(s.Context(), *p, "no"), forge.ErrConflict, "head")
	now := s.get(p.Number)
	if now.Commit != b.Commit {
		s.Fatalf("head %s, want %s", now.Commit, b.Commit)
	}
	s.need(s.merge(now))
	s.merged(p.Number)
}

func (s *suite) clash() {
	b := s.target.Clash(s, "clash-"+s.base, s.base)
	p, err := s.r.Create(s.Context(), forge.Pull{Title: "Clash", Head: b.Branch, Base: s.base})
	s.need(err)
	s.fails(s.r.Merge(s.Context(), *p, "no"), forge.ErrConflict)
}

func (s *suite) held() {
	p := s.opened("held", "do-not-merge/hold")
	s.fails(s.r.Merge(s.Context(), *p, "no"), forge.ErrNotReady, "do-not-merge/hold")
	p.Labels = nil
	s.need(s.r.Update(s.Context(), *p))
	s.need(s.merge(*p))
	s.merged(p.Number)
}

func (s *suite) failed() {
	p := s.opened("failed")
	s.say(p.Commit, forge.Check{Name: "ci/unit", Verdict: forge.Success})
	s.say(p.Commit, forge.Check{Name: "ci/lint", Verdict: forge.Failure})
	s.fails(s.r.Merge(s.Context(), *p, "no"), forge.ErrNotReady, "ci/lint")
	s.say(p.Commit, forge.Check{Name: "ci/lint", Verdict: forge.Success})
	s.need(s.merge(*p))
	s.merged(p.Number)
}

func (s *suite) say(commit string, c forge.Check) {
	s.Helper()
	s.need(s.r.SetStatus(s.Context(), commit, c))
}

func (s *suite) autoMerge() {
	s.target.RequireCheck(s, s.base, "ci")
	p := s.opened("auto")
	s.say(p.Commit, forge.Check{Name: "ci", Verdict: forge.Pending})
	s.need(s.merge(*p))
	if got := s.get(p.Number); got.State != forge.Open {
		s.Fatalf("%s before its check has passed", got.State)
	}
	s.need(s.r.Merge(s.Context(), *p, "asked again"))
	s.say(p.Commit, forge.Check{Name: "ci", Verdict: forge.Success})
	s.merged(p.Number)
}

// begins: a check that a rule asks for and that has not begun is waited for as one that runs is.
func (s *suite) begins() {
	s.target.RequireCheck(s, s.base, "ci")
	p := s.opened("begins")
	s.need(s.merge(*p))
	if got := s.get(p.Number); got.State != forge.Open {
		s.Fatalf("%s before its check has begun", got.State)
	}
	s.say(p.Commit, forge.Check{Name: "ci", Verdict: forge.Success})
	s.merged(p.Number)
}

// noRule: a check that no rule asks for is waited for as well, by the forge or by the caller.
func (s *suite) noRule() {
	p := s.opened("no-rule")
	s.say(p.Commit, forge.Check{Name: "ci/slow", Verdict: forge.Pending})
	if err := s.merge(*p); err != nil {
		s.fails(err, forge.ErrNotReady, "ci/slow")
	}
	if got := s.get(p.Number); got.State != forge.Open {
		s.Fatalf("%s before its check has passed", got.State)
	}
	s.say(p.Commit, forge.Check{Name: "ci/slow", Verdict: forge.Success})
	if now := s.get(p.Number); now.State == forge.Open {
		s.need(s.merge(now))
	}
	s.merged(p.Number)
}

func (s *suite) review() {
	s.target.RequireReview(s, s.base)
	p := s.opened("review")
	s.fails(s.merge(*p), forge.ErrNotReady)
}

func (s *suite) checks() {
	p := s.opened("checks")
	verdict := func(want forge.Verdict, checks ...forge.Check) {
		s.Helper()
		v, got, err := s.r.Checks(s.Context(), p.Commit)
		s.need(err)
		if v != want || !slices.Equal(got, checks) {
			s.Errorf("%s %+v, want %s %+v", v, got, want, checks)
		}
	}
	verdict(forge.Success)
	b := forge.Check{Name: "sluice/b", Verdict: forge.Pending, Description: "weight 30 %", URL: "https://example.com/b"}
	a := forge.Check{Name: "sluice/a", Verdict: forge.Success, Description: "promoted"}
	s.say(p.Commit, b)
	s.say(p.Commit, a)
	verdict(forge.Pending, a, b)
	s.say(p.Commit, b) // what is said already is no fault
	b.Verdict, b.Description = forge.Failure, "rolled back: "+strings.Repeat("é", 300)
	s.say(p.Commit, b)
	v, got, err := s.r.Checks(s.Context(), p.Commit)
	s.need(err)
	if v != forge.Failure || len(got) != 2 || !strings.HasPrefix(got[1].Description, "rolled back: é") || !strings.HasSuffix(got[1].Description, "é…") {
		s.Errorf("%s %+v", v, got)
	}
	b.Verdict, b.Description = forge.Success, "promoted"
	s.say(p.Commit, b)
	verdict(forge.Success, a, b)
}

func (s *suite) comment() {
	const marker = "<!-- sluice/progress -->"
	p := s.opened("comment")
	comment := func(body string) {
		s.Helper()
		s.need(s.r.Comment(s.Context(), p.Number, marker, body))
	}
	says := func(want ...string) {
		s.Helper()
		if got := s.target.Comments(s, p.Number); !slices.Equal(got, want) {
			s.Errorf("%q, want %q", got, want)
		}
	}
	fake := marker + "\nAll is well."
	s.target.Say(s, p.Number, fake)
	for range maxPage + 1 {
		s.target.Say(s, p.Number, "I quote "+marker)
	}
	others := s.target.Comments(s, p.Number)
	comment("10 %\n\n| a | b |")
	comment("10 %\n\n| a | b |")
	says(append(slices.Clone(others), marker+"\n10 %\n\n| a | b |")...)
	comment("20 %\n")
	says(append(slices.Clone(others), marker+"\n20 %")...)
	s.need(s.r.Comment(s.Context(), p.Number, "<!-- sluice/forecast -->", "Nothing changes."))
	says(append(slices.Clone(others), marker+"\n20 %", "<!-- sluice/forecast -->\nNothing changes.")...)
}

func (s *suite) pages() {
	const many = 2*maxPage + 1
	var numbers []int
	for i := range many {
		numbers = append(numbers, s.opened(fmt.Sprint("page-", i)).Number)
	}
	list, err := s.r.List(s.Context(), s.base)
	s.need(err)
	var got []int
	for _, p := range list {
		got = append(got, p.Number)
	}
	slices.Sort(got)
	if !slices.Equal(got, numbers) {
		s.Errorf("listed %v, want %v", got, numbers)
	}
	commit := list[0].Commit
	for i := range many {
		s.say(commit, forge.Check{Name: fmt.Sprint("ci/", i), Verdict: forge.Success})
	}
	_, checks, err := s.r.Checks(s.Context(), commit)
	s.need(err)
	if len(checks) != many {
		s.Errorf("%d checks, want %d", len(checks), many)
	}
}

func (s *suite) missing() {
	_, err := s.r.Get(s.Context(), 99999)
	s.fails(err, forge.ErrNotFound, "pull request 99999")
	s.fails(s.r.Merge(s.Context(), forge.Pull{Number: 99999}, "no"), forge.ErrNotFound)
	s.fails(s.r.Comment(s.Context(), 99999, "<!-- x -->", "x"), forge.ErrNotFound)
}

// calls are all methods on a pull request that is there; reading ones first.
func calls(ctx context.Context, r forge.Repository, p forge.Pull) (reads, writes map[string]error) {
	reads, writes = map[string]error{}, map[string]error{}
	_, reads["Find"] = r.Find(ctx, p.Head, p.Base)
	_, reads["Get"] = r.Get(ctx, p.Number)
	_, reads["List"] = r.List(ctx, p.Base)
	_, _, reads["Checks"] = r.Checks(ctx, p.Commit)
	_, writes["Create"] = r.Create(ctx, forge.Pull{Title: "x", Head: p.Head, Base: p.Base, Labels: []string{"env/x"}})
	p.Title = "Another"
	writes["Update"] = r.Update(ctx, p)
	writes["Merge"] = r.Merge(ctx, p, "x")
	writes["Close"] = r.Close(ctx, p.Number)
	writes["SetStatus"] = r.SetStatus(ctx, p.Commit, forge.Check{Name: "x", Verdict: forge.Success})
	writes["Comment"] = r.Comment(ctx, p.Number, "<!-- x -->", "x")
	return reads, writes
}

func (s *suite) revoked() {
	p := s.opened("revoked")
	reads, writes := calls(s.Context(), s.target.Repository(s, Revoked), *p)
	for _, all := range []map[string]error{reads, writes} {
		for name, err := range all {
			s.Log(name, err)
			s.fails(err, forge.ErrUnauthorized)
		}
	}
}

func (s *suite) reader() {
	p := s.opened("reader")
	reads, writes := calls(s.Context(), s.target.Repository(s, Reader), *p)
	for name, err := range reads {
		if err != nil {
			s.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range writes {
		s.Log(name, err)
		s.fails(err, forge.ErrForbidden, "it needs")
	}
	if got := s.get(p.Number); got.Title != p.Title || got.State != forge.Open || len(got.Labels) != 0 {
		s.Errorf("%+v", got)
	}
}

// atOnce: one comment, whoever asks how often at the same time on one repository.
func (s *suite) atOnce() {
	p := s.opened("at-once")
	errs := make(chan error)
	for i := range 4 {
		go func() {
			errs <- errors.Join(
				s.r.SetStatus(s.Context(), p.Commit, forge.Check{Name: fmt.Sprint("ci/", i), Verdict: forge.Success}),
				s.r.Comment(s.Context(), p.Number, "<!-- one -->", "The same."))
		}()
	}
	for range 4 {
		s.need(<-errs)
	}
	if got := s.target.Comments(s, p.Number); len(got) != 1 {
		s.Errorf("%q", got)
	}
}
