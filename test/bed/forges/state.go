// Package forges has what tests need of forges: stand-ins of GitHub's and GitLab's APIs, and the suite that every forge passes,
// the stand-ins and a real Gitea alike.
//
// The stand-ins are not GitHub and GitLab. They are written by their documentation and by what their users report, keep their state
// in memory, and know the requests that Sluice makes and no others. What they show is that a driver speaks an API as documented,
// and what it does when things go wrong; not that the forge does as documented.
package forges

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-cd/sluice/gitsync/forge"
)

// Tokens that a stand-in knows. Any other is one that it does not know any more.
const (
	writerToken = "writer-s3cr3t"
	readerToken = "reader-s3cr3t"
	personToken = "person-s3cr3t"
)

// maxPage is the most that a stand-in gives at once: few, so that a test need not make hundreds.
const maxPage = 3

// state is what a stand-in's one repository holds.
type state struct {
	mu       sync.Mutex
	server   *httptest.Server
	serial   int
	branches map[string]string // tips
	clashes  map[string]bool   // branches that conflict with their base
	pulls    []*pull
	statuses map[string][]status      // by commit
	checks   map[string][]forge.Check // GitHub's check runs
	rules    map[string]rule          // by branch
}

// rule protects a branch.
type rule struct {
	checks []string
	review bool
}

type pull struct {
	number                  int
	title, body, head, base string
	state                   forge.State
	mergeCommit             string
	labels                  []string
	comments                []remark
	auto                    bool
	autoTitle               string
}

type remark struct {
	id           int
	author, body string
}

// status is what was said of a commit, in the forge's word.
type status struct {
	name, state, description, url string
}

func newState(t testing.TB, routes func(*state, *http.ServeMux)) *state {
	s := &state{
		branches: map[string]string{}, clashes: map[string]bool{}, statuses: map[string][]status{},
		checks: map[string][]forge.Check{}, rules: map[string]rule{},
	}
	mux := http.NewServeMux()
	routes(s, mux)
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.server.Close)
	return s
}

func (s *state) next() int {
	s.serial++
	return s.serial
}

func (s *state) commit() string {
	sum := sha1.Sum([]byte(fmt.Sprint("commit ", s.next())))
	return hex.EncodeToString(sum[:])
}

// Base implements Target.
func (s *state) Base(t testing.TB) string {
	return s.Push(t, "base-"+strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-")), "").Branch
}

// Push implements Target.
func (s *state) Push(_ testing.TB, branch, _ string) Pushed {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.branches[branch] = s.commit()
	return Pushed{branch, s.branches[branch]}
}

// Clash implements Target.
func (s *state) Clash(t testing.TB, branch, base string) Pushed {
	pushed := s.Push(t, branch, base)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clashes[branch] = true
	return pushed
}

// RequireCheck implements Target.
func (s *state) RequireCheck(_ testing.TB, base, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules[base] = rule{checks: []string{name}}
}

// RequireReview implements Target.
func (s *state) RequireReview(_ testing.TB, base string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules[base] = rule{review: true}
}

// Say implements Target.
func (s *state) Say(_ testing.TB, number int, body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(number)
	p.comments = append(p.comments, remark{s.next(), "person", body})
}

// Comments implements Target.
func (s *state) Comments(_ testing.TB, number int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var bodies []string
	for _, c := range s.find(number).comments {
		bodies = append(bodies, c.body)
	}
	return bodies
}

func (s *state) find(number int) *pull {
	for _, p := range s.pulls {
		if p.number == number {
			return p
		}
	}
	return nil
}

func (s *state) open(head, base string) *pull {
	for _, p := range s.pulls {
		if p.state == forge.Open && p.head == head && p.base == base {
			return p
		}
	}
	return nil
}

func (s *state) add(title, body, head, base string, labels []string) *pull {
	p := &pull{number: s.next(), title: title, body: body, head: head, base: base, state: forge.Open, labels: labels}
	s.pulls = append(s.pulls, p)
	return p
}

// lacking says which rule of its base a pull request does not meet; empty: none.
func (s *state) lacking(p *pull, passed func(state string) bool) string {
	r := s.rules[p.base]
	for _, name := range r.checks {
		i := slices.IndexFunc(s.statuses[s.branches[p.head]], func(c status) bool { return c.name == name })
		if i < 0 || !passed(s.statuses[s.branches[p.head]][i].state) {
			return "check " + name
		}
	}
	if r.review {
		return "review"
	}
	return ""
}

func (s *state) merge(p *pull, title string) {
	p.state, p.mergeCommit = forge.Merged, s.commit()
	s.branches[p.base] = p.mergeCommit
	_ = title
}

// mergeReady merges what waited for a status.
func (s *state) mergeReady(passed func(state string) bool) {
	for _, p := range s.pulls {
		pending := func(c status) bool { return c.state == "running" || c.state == "pending" }
		if p.auto && p.state == forge.Open && s.lacking(p, passed) == "" && !slices.ContainsFunc(s.statuses[s.branches[p.head]], pending) {
			s.merge(p, p.autoTitle)
		}
	}
}

// page is a part of a list, by the query's page and per_page, and the number of the next; 0: there is none.
func page[T any](query url.Values, list []T) ([]T, int) {
	number, _ := strconv.Atoi(query.Get("page"))
	number = max(number, 1)
	size, _ := strconv.Atoi(query.Get("per_page"))
	if size < 1 || size > maxPage {
		size = maxPage
	}
	begin := min((number-1)*size, len(list))
	end := min(begin+size, len(list))
	if end == len(list) {
		return list[begin:end], 0
	}
	return list[begin:end], number + 1
}

func answer(w http.ResponseWriter, code int, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(what)
}

func message(w http.ResponseWriter, code int, text string) {
	answer(w, code, map[string]any{"message": text})
}

// asked reads the body of a request.
func asked[T any](r *http.Request) T {
	var body T
	_ = json.NewDecoder(r.Body).Decode(&body)
	return body
}

func bearer(r *http.Request) string {
	_, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return token
}
