package forges

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/gitsync/forge"
)

// GitLab is a stand-in of GitLab's API, with one project, acme/platform/prod.
type GitLab struct{ *state }

// NewGitLab starts one.
func NewGitLab(t testing.TB) *GitLab {
	return &GitLab{newState(t, gitLabRoutes)}
}

// Options are those for its project.
func (g *GitLab) Options() forge.Options {
	return forge.Options{Kind: forge.GitLab, Address: g.server.URL + "/acme/platform/prod.git"}
}

// Name implements Target.
func (g *GitLab) Name() string { return "GitLab" }

// Repository implements Target.
func (g *GitLab) Repository(t testing.TB, a Access) forge.Repository { return open(t, g.Options(), a) }

func gitLabPassed(state string) bool { return state == "success" }

func gitLabRoutes(s *state, mux *http.ServeMux) {
	const project = "/api/v4/projects/{project}"
	g := gitLabServer{s}
	handle := func(pattern string, write bool, f func(http.ResponseWriter, *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if g.admit(w, r, write) {
				f(w, r)
			}
		})
	}
	const requests = project + "/merge_requests"
	handle("GET "+requests, false, g.list)
	handle("POST "+requests, true, g.create)
	handle("GET "+requests+"/{number}", false, g.with(g.get))
	handle("PUT "+requests+"/{number}", true, g.with(g.edit))
	handle("PUT "+requests+"/{number}/merge", true, g.with(g.merge))
	handle("GET "+requests+"/{number}/notes", false, g.with(g.notes))
	handle("POST "+requests+"/{number}/notes", true, g.with(g.note))
	handle("PUT "+requests+"/{number}/notes/{id}", true, g.with(g.editNote))
	handle("GET "+project+"/repository/commits/{commit}/statuses", false, g.jobs)
	handle("POST "+project+"/statuses/{commit}", true, g.setStatus)
	handle("GET /api/v4/user", false, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, map[string]any{"username": gitLabUsers[bearer(r)]})
	})
	handle("/", false, func(w http.ResponseWriter, _ *http.Request) { message(w, 404, "404 Not Found") })
}

var gitLabUsers = map[string]string{writerToken: "sluice-bot", readerToken: "reader", personToken: "person"}

type gitLabServer struct{ *state }

func (g gitLabServer) admit(w http.ResponseWriter, r *http.Request, write bool) bool {
	user := gitLabUsers[bearer(r)]
	project := r.PathValue("project")
	switch {
	case user == "":
		answer(w, 401, map[string]any{"error": "invalid_token", "error_description": "Token was revoked. You have to re-authorize from the user."})
	case user == "reader" && write:
		answer(w, 403, map[string]any{"error": "insufficient_scope", "error_description": "The request requires higher privileges than provided by the access token.", "scope": "api"})
	case project != "" && project != "acme/platform/prod":
		message(w, 404, "404 Project Not Found")
	default:
		return true
	}
	return false
}

func (g gitLabServer) with(f func(http.ResponseWriter, *http.Request, *pull)) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		number, _ := strconv.Atoi(r.PathValue("number"))
		if p := g.find(number); p != nil {
			f(w, r, p)
			return
		}
		message(w, 404, "404 Not found")
	}
}

func gitLabPages[T any](w http.ResponseWriter, r *http.Request, list []T, shown func(T) any) {
	some, next := page(r.URL.Query(), list)
	if next != 0 {
		w.Header().Set("X-Next-Page", strconv.Itoa(next))
	}
	all := []any{}
	for _, one := range some {
		all = append(all, shown(one))
	}
	answer(w, 200, all)
}

func (g gitLabServer) shown(p *pull) any {
	state := map[forge.State]string{forge.Open: "opened", forge.Merged: "merged", forge.Closed: "closed"}[p.state]
	m := map[string]any{
		"iid": p.number, "web_url": fmt.Sprint(g.server.URL, "/acme/platform/prod/-/merge_requests/", p.number),
		"title": p.title, "description": p.body, "source_branch": p.head, "target_branch": p.base,
		"source_project_id": 1, "target_project_id": 1, "sha": g.branches[p.head], "state": state,
		"labels": append([]string{}, p.labels...), "detailed_merge_status": g.mergeStatus(p), "merge_when_pipeline_succeeds": p.auto,
	}
	if p.state == forge.Merged {
		m["merge_commit_sha"] = p.mergeCommit
	}
	return m
}

func (g gitLabServer) mergeStatus(p *pull) string {
	lacking := g.lacking(p, gitLabPassed)
	switch {
	case p.state != forge.Open:
		return "not_open"
	case g.clashes[p.head]:
		return "conflict"
	case lacking == "review":
		return "not_approved"
	case lacking != "":
		return "ci_must_pass"
	}
	return "mergeable"
}

func (g gitLabServer) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var list []*pull
	for _, p := range slices.Backward(g.pulls) {
		if p.state == forge.Open && (q.Get("source_branch") == "" || q.Get("source_branch") == p.head) && (q.Get("target_branch") == "" || q.Get("target_branch") == p.base) {
			list = append(list, p)
		}
	}
	gitLabPages(w, r, list, g.shown)
}

// commas splits a list as GitLab takes labels.
func commas(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(l string) bool { return l == "" })
}

func (g gitLabServer) create(w http.ResponseWriter, r *http.Request) {
	in := asked[struct {
		Title, Description, Labels string
		Source                     string `json:"source_branch"`
		Target                     string `json:"target_branch"`
	}](r)
	switch known := g.open(in.Source, in.Target); {
	case g.branches[in.Source] == "":
		answer(w, 400, map[string]any{"message": map[string]any{"source_branch": []string{"does not exist"}}})
	case known != nil:
		answer(w, 409, map[string]any{"message": []string{fmt.Sprint("Another open merge request already exists for this source branch: !", known.number)}})
	default:
		answer(w, 201, g.shown(g.add(in.Title, in.Description, in.Source, in.Target, commas(in.Labels))))
	}
}

func (g gitLabServer) get(w http.ResponseWriter, _ *http.Request, p *pull) {
	answer(w, 200, g.shown(p))
}

func (g gitLabServer) edit(w http.ResponseWriter, r *http.Request, p *pull) {
	in := asked[struct {
		Title, Description *string
		Add                string `json:"add_labels"`
		Remove             string `json:"remove_labels"`
		Event              string `json:"state_event"`
	}](r)
	if in.Title != nil {
		p.title = *in.Title
	}
	if in.Description != nil {
		p.body = *in.Description
	}
	removed := commas(in.Remove)
	p.labels = slices.DeleteFunc(append(p.labels, commas(in.Add)...), func(l string) bool { return slices.Contains(removed, l) })
	if in.Event == "close" && p.state == forge.Open {
		p.state = forge.Closed
	}
	answer(w, 200, g.shown(p))
}

func (g gitLabServer) merge(w http.ResponseWriter, r *http.Request, p *pull) {
	in := asked[struct {
		Title string `json:"merge_commit_message"`
		SHA   string
		Auto  bool `json:"auto_merge"`
	}](r)
	switch state := g.mergeStatus(p); {
	case bearer(r) == personToken:
		message(w, 401, "401 Unauthorized") // GitLab's word for a role that is too low
	case in.SHA != "" && in.SHA != g.branches[p.head]:
		message(w, 409, "SHA does not match HEAD of source branch: "+g.branches[p.head])
	case in.Auto && (state == "ci_must_pass" || state == "mergeable" && g.runs(p)):
		p.auto, p.autoTitle = true, in.Title
		answer(w, 200, g.shown(p))
	case state != "mergeable" || in.Auto: // there is no pipeline to wait for
		message(w, 405, "405 Method Not Allowed")
	default:
		g.state.merge(p, in.Title)
		answer(w, 200, g.shown(p))
	}
}

// runs tells whether the pipeline of a merge request does.
func (g gitLabServer) runs(p *pull) bool {
	return slices.ContainsFunc(g.statuses[g.branches[p.head]], func(c status) bool { return c.state == "running" })
}

func gitLabNote(c remark) any {
	return map[string]any{"id": c.id, "body": c.body, "author": map[string]any{"username": c.author}}
}

func (g gitLabServer) notes(w http.ResponseWriter, r *http.Request, p *pull) {
	gitLabPages(w, r, p.comments, gitLabNote)
}

func (g gitLabServer) note(w http.ResponseWriter, r *http.Request, p *pull) {
	c := remark{g.next(), gitLabUsers[bearer(r)], asked[struct{ Body string }](r).Body}
	p.comments = append(p.comments, c)
	answer(w, 201, gitLabNote(c))
}

func (g gitLabServer) editNote(w http.ResponseWriter, r *http.Request, p *pull) {
	id, _ := strconv.Atoi(r.PathValue("id"))
	i := slices.IndexFunc(p.comments, func(c remark) bool { return c.id == id })
	switch {
	case i < 0:
		message(w, 404, "404 Not found")
	case p.comments[i].author != gitLabUsers[bearer(r)]:
		message(w, 403, "403 Forbidden")
	default:
		p.comments[i].body = asked[struct{ Body string }](r).Body
		answer(w, 200, gitLabNote(p.comments[i]))
	}
}

func (g gitLabServer) jobs(w http.ResponseWriter, r *http.Request) {
	gitLabPages(w, r, g.statuses[r.PathValue("commit")], func(c status) any {
		return map[string]any{"name": c.name, "status": c.state, "description": c.description, "target_url": c.url, "allow_failure": false}
	})
}

// setStatus has GitLab's state machine: what runs can't be said to run again, and what has ended begins anew.
func (g gitLabServer) setStatus(w http.ResponseWriter, r *http.Request) {
	in := asked[struct {
		State, Name, Description string
		URL                      string `json:"target_url"`
	}](r)
	commit := r.PathValue("commit")
	list := g.statuses[commit]
	i := slices.IndexFunc(list, func(c status) bool { return c.name == in.Name })
	if i >= 0 && list[i].state == in.State && in.State == "running" {
		message(w, 400, `Cannot transition status via :run from :running (Reason(s): Status cannot transition via "run")`)
		return
	}
	said := status{name: in.Name, state: in.State, description: in.Description, url: in.URL}
	if i >= 0 {
		list[i] = said
	} else {
		g.statuses[commit] = append(list, said)
	}
	g.mergeReady(gitLabPassed)
	answer(w, 201, map[string]any{"name": in.Name, "status": in.State})
}
