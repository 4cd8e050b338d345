package forges

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/gitsync/forge"
)

// GitHub is a stand-in of GitHub Enterprise Server's API, with one repository, acme/prod.
type GitHub struct{ *state }

// NewGitHub starts one.
func NewGitHub(t testing.TB) *GitHub {
	return &GitHub{newState(t, gitHubRoutes)}
}

// Options are those for its repository.
func (g *GitHub) Options() forge.Options {
	return forge.Options{Kind: forge.GitHub, Address: g.server.URL + "/acme/prod.git"}
}

// Name implements Target.
func (g *GitHub) Name() string { return "GitHub" }

// Run says that a check run ended, or runs when the verdict is pending.
func (g *GitHub) Run(commit string, c forge.Check) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.checks[commit] = append(g.checks[commit], c)
}

// Repository implements Target.
func (g *GitHub) Repository(t testing.TB, a Access) forge.Repository { return open(t, g.Options(), a) }

func gitHubPassed(state string) bool { return state == "success" }

func gitHubRoutes(s *state, mux *http.ServeMux) {
	const repo = "/api/v3/repos/acme/prod"
	g := gitHubServer{s}
	handle := func(pattern string, write bool, f func(http.ResponseWriter, *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if g.admit(w, r, write) {
				f(w, r)
			}
		})
	}
	handle("GET "+repo, false, g.repository)
	handle("GET "+repo+"/pulls", false, g.list)
	handle("POST "+repo+"/pulls", true, g.create)
	handle("GET "+repo+"/pulls/{number}", false, g.with(g.get))
	handle("PATCH "+repo+"/pulls/{number}", true, g.with(g.edit))
	handle("PUT "+repo+"/pulls/{number}/merge", true, g.with(g.merge))
	handle("POST "+repo+"/issues/{number}/labels", true, g.with(g.label))
	handle("DELETE "+repo+"/issues/{number}/labels/{label}", true, g.with(g.unlabel))
	handle("GET "+repo+"/issues/{number}/comments", false, g.with(g.comments))
	handle("POST "+repo+"/issues/{number}/comments", true, g.with(g.comment))
	handle("PATCH "+repo+"/issues/comments/{id}", true, g.editComment)
	handle("GET "+repo+"/commits/{commit}/status", false, g.combined)
	handle("GET "+repo+"/commits/{commit}/check-runs", false, g.checkRuns)
	handle("POST "+repo+"/statuses/{commit}", true, g.setStatus)
	handle("POST /api/graphql", true, g.graphQL)
	handle("GET /api/v3/user", false, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 200, map[string]any{"login": gitHubUsers[bearer(r)]})
	})
	handle("/", false, func(w http.ResponseWriter, _ *http.Request) { message(w, 404, "Not Found") })
	mux.HandleFunc("GET /api/v3/app", g.app(func(w http.ResponseWriter) { answer(w, 200, map[string]any{"slug": "sluice"}) }))
	mux.HandleFunc("POST /api/v3/app/installations/7/access_tokens", g.app(func(w http.ResponseWriter) {
		answer(w, 201, map[string]any{"token": appToken, "expires_at": time.Now().Add(time.Hour)})
	}))
}

// appToken is what the App's installation is given.
const appToken = "installation-s3cr3t"

var gitHubUsers = map[string]string{writerToken: "sluice-bot", readerToken: "reader", personToken: "person", appToken: "sluice[bot]"}

type gitHubServer struct{ *state }

// app answers who signs with a key, as a JWT that is not looked into.
func (g gitHubServer) app(f func(http.ResponseWriter)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.Count(bearer(r), ".") != 2 {
			message(w, 401, "A JSON web token could not be decoded")
			return
		}
		f(w)
	}
}

func (g gitHubServer) admit(w http.ResponseWriter, r *http.Request, write bool) bool {
	user := gitHubUsers[bearer(r)]
	switch {
	case user == "":
		message(w, 401, "Bad credentials")
	case user == "reader" && write:
		message(w, 403, "Resource not accessible by personal access token")
	case bearer(r) == appToken && r.URL.Path == "/api/v3/user":
		message(w, 403, "Resource not accessible by integration")
	default:
		return true
	}
	return false
}

// with finds the pull request.
func (g gitHubServer) with(f func(http.ResponseWriter, *http.Request, *pull)) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		number, _ := strconv.Atoi(r.PathValue("number"))
		if p := g.find(number); p != nil {
			f(w, r, p)
			return
		}
		message(w, 404, "Not Found")
	}
}

func (g gitHubServer) repository(w http.ResponseWriter, _ *http.Request) {
	answer(w, 200, map[string]any{"id": 1, "allow_merge_commit": true, "allow_squash_merge": true, "allow_rebase_merge": true})
}

// pages answers with a part of a list, and a link to the next.
func gitHubPages[T any](w http.ResponseWriter, r *http.Request, list []T, wrap func([]T) any) {
	some, next := page(r.URL.Query(), list)
	if next != 0 {
		u := *r.URL
		q := u.Query()
		q.Set("page", strconv.Itoa(next))
		u.RawQuery = q.Encode()
		w.Header().Set("Link", fmt.Sprintf(`<http://%s%s>; rel="next"`, r.Host, u.String()))
	}
	answer(w, 200, wrap(some))
}

func plainList[T any](list []T) any { return list }

func (g gitHubServer) shown(p *pull) map[string]any {
	repo := map[string]any{"id": 1, "full_name": "acme/prod"}
	m := map[string]any{
		"number": p.number, "node_id": fmt.Sprint("PR_", p.number), "html_url": fmt.Sprint(g.server.URL, "/acme/prod/pull/", p.number),
		"title": p.title, "body": p.body, "state": "open", "draft": false,
		"head":             map[string]any{"ref": p.head, "label": "acme:" + p.head, "sha": g.branches[p.head], "repo": repo},
		"base":             map[string]any{"ref": p.base, "label": "acme:" + p.base, "sha": g.branches[p.base], "repo": repo},
		"labels":           gitHubLabels(p),
		"merge_commit_sha": strings.Repeat("f", 40), // of a trial merge, until it is merged
		"mergeable_state":  g.mergeableState(p),
	}
	if p.state != forge.Open {
		m["state"] = "closed"
	}
	if p.state == forge.Merged {
		m["merged_at"], m["merged"], m["merge_commit_sha"] = "2026-01-02T03:04:05Z", true, p.mergeCommit
	}
	return m
}

func (g gitHubServer) mergeableState(p *pull) string {
	switch {
	case g.clashes[p.head]:
		return "dirty"
	case g.lacking(p, gitHubPassed) != "":
		return "blocked"
	}
	return "clean"
}

func gitHubLabels(p *pull) []map[string]any {
	labels := []map[string]any{}
	for _, l := range p.labels {
		labels = append(labels, map[string]any{"name": l})
	}
	return labels
}

func (g gitHubServer) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var list []any
	for _, p := range slices.Backward(g.pulls) {
		if p.state == forge.Open && (q.Get("head") == "" || q.Get("head") == "acme:"+p.head) && (q.Get("base") == "" || q.Get("base") == p.base) {
			list = append(list, g.shown(p))
		}
	}
	gitHubPages(w, r, list, plainList)
}

func (g gitHubServer) create(w http.ResponseWriter, r *http.Request) {
	p := asked[struct{ Title, Body, Head, Base string }](r)
	refuse := func(why map[string]any) {
		answer(w, 422, map[string]any{"message": "Validation Failed", "errors": []any{why}})
	}
	switch {
	case g.branches[p.Head] == "":
		refuse(map[string]any{"resource": "PullRequest", "field": "head", "code": "invalid"})
	case g.open(p.Head, p.Base) != nil:
		refuse(map[string]any{"resource": "PullRequest", "code": "custom", "message": "A pull request already exists for acme:" + p.Head + "."})
	default:
		answer(w, 201, g.shown(g.add(p.Title, p.Body, p.Head, p.Base, nil)))
	}
}

func (g gitHubServer) get(w http.ResponseWriter, _ *http.Request, p *pull) {
	answer(w, 200, g.shown(p))
}

func (g gitHubServer) edit(w http.ResponseWriter, r *http.Request, p *pull) {
	change := asked[struct{ Title, Body, State *string }](r)
	if change.Title != nil {
		p.title = *change.Title
	}
	if change.Body != nil {
		p.body = *change.Body
	}
	if change.State != nil && *change.State == "closed" && p.state == forge.Open {
		p.state = forge.Closed
	}
	answer(w, 200, g.shown(p))
}

func (g gitHubServer) merge(w http.ResponseWriter, r *http.Request, p *pull) {
	how := asked[struct {
		Title  string `json:"commit_title"`
		SHA    string
		Method string `json:"merge_method"`
	}](r)
	lacking := g.lacking(p, gitHubPassed)
	name, isCheck := strings.CutPrefix(lacking, "check ")
	switch {
	case p.state != forge.Open || g.clashes[p.head]:
		message(w, 405, "Pull Request is not mergeable")
	case how.SHA != g.branches[p.head]:
		message(w, 409, "Head branch was modified. Review and try the merge again.")
	case isCheck:
		message(w, 405, fmt.Sprintf("Required status check %q is expected.", name))
	case lacking != "":
		message(w, 405, "At least 1 approving review is required by reviewers with write access.")
	default:
		g.state.merge(p, how.Title)
		answer(w, 200, map[string]any{"sha": p.mergeCommit, "merged": true})
	}
}

func (g gitHubServer) graphQL(w http.ResponseWriter, r *http.Request) {
	q := asked[struct {
		Query     string
		Variables struct {
			Input struct{ PullRequestID, ExpectedHeadOid, CommitHeadline, MergeMethod string }
		}
	}](r)
	fail := func(kind, text string) {
		answer(w, 200, map[string]any{"data": nil, "errors": []any{map[string]any{"type": kind, "message": text}}})
	}
	number, _ := strconv.Atoi(strings.TrimPrefix(q.Variables.Input.PullRequestID, "PR_"))
	p := g.find(number)
	switch {
	case !strings.Contains(q.Query, "enablePullRequestAutoMerge") || p == nil:
		fail("NOT_FOUND", "Could not resolve to a node")
	case q.Variables.Input.ExpectedHeadOid != g.branches[p.head]:
		fail("UNPROCESSABLE", "Head sha does not match expectedHeadOid")
	case len(g.rules[p.base].checks) == 0:
		fail("UNPROCESSABLE", "Pull request is in clean status")
	default:
		p.auto, p.autoTitle = true, q.Variables.Input.CommitHeadline
		answer(w, 200, map[string]any{"data": map[string]any{"enablePullRequestAutoMerge": map[string]any{"clientMutationId": nil}}})
	}
}

func (g gitHubServer) label(w http.ResponseWriter, r *http.Request, p *pull) {
	for _, l := range asked[[]string](r) {
		if !slices.Contains(p.labels, l) {
			p.labels = append(p.labels, l)
		}
	}
	answer(w, 200, gitHubLabels(p))
}

func (g gitHubServer) unlabel(w http.ResponseWriter, r *http.Request, p *pull) {
	i := slices.Index(p.labels, r.PathValue("label"))
	if i < 0 {
		message(w, 404, "Label does not exist")
		return
	}
	p.labels = slices.Delete(p.labels, i, i+1)
	answer(w, 200, gitHubLabels(p))
}

func gitHubRemark(c remark) map[string]any {
	return map[string]any{"id": c.id, "body": c.body, "user": map[string]any{"login": c.author}}
}

func (g gitHubServer) comments(w http.ResponseWriter, r *http.Request, p *pull) {
	gitHubPages(w, r, p.comments, func(some []remark) any {
		list := []any{}
		for _, c := range some {
			list = append(list, gitHubRemark(c))
		}
		return list
	})
}

func (g gitHubServer) comment(w http.ResponseWriter, r *http.Request, p *pull) {
	c := remark{g.next(), gitHubUsers[bearer(r)], asked[struct{ Body string }](r).Body}
	p.comments = append(p.comments, c)
	answer(w, 201, gitHubRemark(c))
}

func (g gitHubServer) editComment(w http.ResponseWriter, r *http.Request) {
	id, _ := strconv.Atoi(r.PathValue("id"))
	for _, p := range g.pulls {
		for i, c := range p.comments {
			if c.id == id {
				p.comments[i].body = asked[struct{ Body string }](r).Body
				answer(w, 200, gitHubRemark(p.comments[i]))
				return
			}
		}
	}
	message(w, 404, "Not Found")
}

func (g gitHubServer) combined(w http.ResponseWriter, r *http.Request) {
	gitHubPages(w, r, g.statuses[r.PathValue("commit")], func(some []status) any {
		list := []any{}
		for _, c := range some {
			list = append(list, map[string]any{"context": c.name, "state": c.state, "description": c.description, "target_url": c.url})
		}
		return map[string]any{"state": "pending", "statuses": list}
	})
}

func (g gitHubServer) checkRuns(w http.ResponseWriter, r *http.Request) {
	gitHubPages(w, r, g.checks[r.PathValue("commit")], func(some []forge.Check) any {
		list := []any{}
		for _, c := range some {
			run := map[string]any{"name": c.Name, "status": "completed", "conclusion": string(c.Verdict), "html_url": c.URL}
			if c.Verdict == forge.Pending {
				run["status"], run["conclusion"] = "in_progress", nil
			}
			list = append(list, run)
		}
		return map[string]any{"check_runs": list}
	})
}

func (g gitHubServer) setStatus(w http.ResponseWriter, r *http.Request) {
	in := asked[struct {
		State, Context, Description string
		URL                         string `json:"target_url"`
	}](r)
	if len([]rune(in.Description)) > 140 {
		message(w, 422, "Validation Failed: description is too long (maximum is 140 characters)")
		return
	}
	commit := r.PathValue("commit")
	g.statuses[commit] = slices.DeleteFunc(g.statuses[commit], func(c status) bool { return c.name == in.Context })
	g.statuses[commit] = append(g.statuses[commit], status{name: in.Context, state: in.State, description: in.Description, url: in.URL})
	g.mergeReady(gitHubPassed)
	answer(w, 201, map[string]any{"state": in.State, "context": in.Context})
}
