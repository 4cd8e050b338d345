package forge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"code.gitea.io/sdk/gitea"
	"github.com/google/go-github/v88/github"
	gitlab "gitlab.com/gitlab-org/api/client-go"
)

// on runs a test with each driver against a server that answers everything alike.
func on(t *testing.T, answer http.HandlerFunc, test func(*testing.T, Repository)) {
	server := httptest.NewServer(answer)
	defer server.Close()
	for _, kind := range []string{GitHub, GitLab, Gitea} {
		t.Run(kind, func(t *testing.T) {
			r, err := New(Options{Kind: kind, Address: server.URL + "/acme/prod", Token: token})
			if err != nil {
				t.Fatal(err)
			}
			test(t, r)
		})
	}
}

// each calls every method.
func each(ctx context.Context, r Repository, check func(name string, err error)) {
	_, err := r.Find(ctx, "head", "main")
	check("Find", err)
	_, err = r.Get(ctx, 1)
	check("Get", err)
	_, err = r.List(ctx, "main")
	check("List", err)
	_, err = r.Create(ctx, Pull{Head: "head", Base: "main", Labels: []string{"a"}})
	check("Create", err)
	check("Update", r.Update(ctx, Pull{Number: 1}))
	check("Merge", r.Merge(ctx, Pull{Number: 1}, "title"))
	check("Close", r.Close(ctx, 1))
	_, _, err = r.Checks(ctx, strings.Repeat("a", 40))
	check("Checks", err)
	check("SetStatus", r.SetStatus(ctx, strings.Repeat("a", 40), Check{Name: "x", Verdict: Success}))
	check("Comment", r.Comment(ctx, 1, "<!-- x -->", "x"))
}

// Whatever a forge answers, an error says what it means, once, without asking again, and never repeats the token.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		header map[string]string
		body   string
		want   error // nil: Limited
	}{
		"broken":    {500, nil, `{"message":"boom"}`, ErrUnavailable},
		"gateway":   {502, nil, "<html>Bad Gateway</html>", ErrUnavailable},
		"upkeep":    {503, map[string]string{"Retry-After": "3600"}, "", ErrUnavailable},
		"limit":     {429, map[string]string{"Retry-After": "30"}, "", nil},
		"primary":   {403, map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": fmt.Sprint(time.Now().Add(time.Minute).Unix())}, `{"message":"API rate limit exceeded"}`, nil},
		"secondary": {403, nil, `{"message":"You have exceeded a secondary rate limit. Please wait a few minutes before you try again."}`, nil},
		"quoting":   {401, nil, `{"message":"token s3cr3t-token is not known"}`, ErrUnauthorized},
		"endless":   {403, nil, strings.Repeat("no ", 1<<20), ErrForbidden},
		"controls":  {404, nil, "\x1b[31mred", ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			on(t, func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				for k, v := range c.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			}, func(t *testing.T, r Repository) {
				each(t.Context(), r, func(method string, err error) {
					var l Limited
					switch {
					case c.want != nil && !errors.Is(err, c.want):
						t.Errorf("%s: %v, want %v", method, err, c.want)
					case c.want == nil && (!errors.As(err, &l) || time.Until(l.Until) < 20*time.Second || time.Until(l.Until) > 2*time.Minute):
						t.Errorf("%s: %v", method, err)
					case strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 3000:
						t.Errorf("%s: %q", method, err)
					}
					if n := asked.Swap(0); n != 1 && (method != "Comment" || n > 3) { // who am I may be refused, and Gitea breaks at what is missing
						t.Errorf("%s asked %d times", method, n)
					}
				})
			})
		})
	}
}

// What is no answer of such a forge is an error without a kind.
func TestNoForge(t *testing.T) {
	on(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>Welcome!</html>") }, func(t *testing.T, r Repository) {
		if _, err := r.Get(t.Context(), 1); err == nil || errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
	})
	on(t, func(w http.ResponseWriter, _ *http.Request) {
		for range maxAnswer>>20 + 1 {
			io.WriteString(w, strings.Repeat(" ", 1<<20))
		}
	}, func(t *testing.T, r Repository) {
		if _, err := r.Get(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "larger than") {
			t.Error(err)
		}
	})
}

func TestNobodyThere(t *testing.T) {
	on(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, _ := w.(http.Hijacker).Hijack()
		conn.Close()
	}, func(t *testing.T, r Repository) {
		each(t.Context(), r, func(method string, err error) {
			if !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%s: %v", method, err)
			}
		})
	})
}

// The caller's context ends a call, and its error says so.
func TestSilence(t *testing.T) {
	on(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, func(t *testing.T, r Repository) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := r.Get(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

// A redirect to another host does not get the token.
func TestRedirectElsewhere(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("asked elsewhere, with %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	on(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, func(t *testing.T, r Repository) {
		if _, err := r.Get(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "sends elsewhere") {
			t.Error(err)
		}
	})
}

func TestTokenThatCanNotBeRead(t *testing.T) {
	for want, give := range map[string]func(context.Context) (string, error){
		"no such file": func(context.Context) (string, error) { return "", errors.New("open /run/token: no such file") },
		"it is empty":  func(context.Context) (string, error) { return "", nil },
		"has spaces":   func(context.Context) (string, error) { return "s3cr3t\n", nil },
	} {
		r, err := New(Options{Kind: Gitea, Address: "http://127.0.0.1:1/acme/prod", Token: give})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Get(t.Context(), 1); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A fork has branches of the same names.
func TestForksHaveOtherBranches(t *testing.T) {
	mine, other := int64(1), int64(2)
	ref, label := "promote", "mallory:promote"
	pulls := map[string]*Pull{
		"mallory:promote": gitHubPull(&github.PullRequest{
			Head: &github.PullRequestBranch{Ref: &ref, Label: &label, Repo: &github.Repository{ID: &other}},
			Base: &github.PullRequestBranch{Repo: &github.Repository{ID: &mine}},
		}),
		"2:promote": gitLabPull(&gitlab.BasicMergeRequest{SourceBranch: ref, SourceProjectID: 2, TargetProjectID: 1}),
		"?:promote": giteaPull(&gitea.PullRequest{Head: &gitea.PRBranchInfo{Ref: ref, RepoID: 2}, Base: &gitea.PRBranchInfo{RepoID: 1}}),
	}
	for want, p := range pulls {
		if p.Head != want {
			t.Errorf("head %q, want %q", p.Head, want)
		}
	}
	if p := gitHubPull(&github.PullRequest{Head: &github.PullRequestBranch{Ref: &ref, Label: &label}, Base: &github.PullRequestBranch{Repo: &github.Repository{ID: &mine}}}); p.Head != label {
		t.Errorf("the head of a fork that is gone is %q", p.Head)
	}
}

// GitLab says a role that is too low with 401; its merge states name what is missing.
func TestGitLabObstacles(t *testing.T) {
	for state, want := range map[string]error{
		"mergeable": nil, "ci_still_running": ErrNotReady, "conflict": ErrConflict, "need_rebase": ErrConflict,
		"not_approved": ErrNotReady, "draft_status": ErrNotReady, "checking": ErrNotReady,
	} {
		if err := gitLabObstacle(state, false); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", state, err, want)
		}
	}
	if err := gitLabObstacle("ci_still_running", true); err != nil {
		t.Error(err)
	}
}

// Gitea's list of labels has no links, and its pages may be shorter than asked for.
func TestGiteaPages(t *testing.T) {
	res := func(header ...string) *gitea.Response {
		h := http.Header{}
		for i := 0; i < len(header); i += 2 {
			h.Set(header[i], header[i+1])
		}
		return &gitea.Response{Response: &http.Response{Header: h}}
	}
	linked := res("Link", `<http://x?page=7>; rel="next"`)
	linked.NextPage = 7
	for _, c := range []struct {
		page, items int
		res         *gitea.Response
		want        int
	}{
		{1, 3, res("X-Total-Count", "7"), 2},
		{2, 3, res("X-Total-Count", "7"), 3},
		{1, 3, res("X-Total-Count", "3"), 0},
		{1, 3, res(), 2},
		{4, 0, res("X-Total-Count", "7"), 0},
		{6, 3, linked, 7},
		{7, 1, res("Link", `<http://x?page=1>; rel="first"`), 0},
	} {
		if _, got, _ := giteaNext(c.page, make([]int, c.items), c.res, nil); got != c.want {
			t.Errorf("page %d of %d items %v: %d, want %d", c.page, c.items, c.res.Header, got, c.want)
		}
	}
}
