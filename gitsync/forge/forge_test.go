package forge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func token(context.Context) (string, error) { return "s3cr3t-token", nil }

func TestPlace(t *testing.T) {
	for _, c := range []struct{ kind, address, api, want string }{
		{"", "https://github.com/acme/prod.git", "", "github https://api.github.com acme/prod"},
		{"", "git@github.com:acme/prod", "", "github https://api.github.com acme/prod"},
		{"", "ssh://git@ssh.github.com:443/acme/prod.git", "", "github https://api.github.com acme/prod"},
		{"", "git@gitlab.com:acme/platform/prod.git", "", "gitlab https://gitlab.com acme/platform/prod"},
		{"", "https://codeberg.org/acme/prod/", "", "gitea https://codeberg.org acme/prod"},
		{"github", "https://git.example.com/acme/prod", "", "github https://git.example.com/api/v3 acme/prod"},
		{"gitlab", "https://git.example.com:8443/acme/a/b/prod", "", "gitlab https://git.example.com:8443 acme/a/b/prod"},
		{"gitea", "http://127.0.0.1:3000/acme/prod", "", "gitea http://127.0.0.1:3000 acme/prod"},
		{"gitea", "https://example.com/forge/acme/prod", "", "gitea https://example.com/forge acme/prod"},
		{"gitea", "ssh://git@git.example.com:2222/acme/prod", "https://code.example.com/", "gitea https://code.example.com acme/prod"},
		{"", "https://git.example.com/acme/prod", "", "name the kind"},
		{"bitbucket", "https://git.example.com/acme/prod", "", "bitbucket"},
		{"", "https://github.com/prod", "", "OWNER/NAME"},
		{"", "/srv/git/prod", "", "no forge"},
		{"gitea", "http://git.example.com/acme/prod", "", "use https"},
		{"gitea", "https://git.example.com/acme/prod", "code.example.com", "api:"},
		{"gitea", "https://me:s3cr3t@git.example.com/acme/prod", "", "holds a password"},
	} {
		o := Options{Kind: c.kind, Address: c.address, API: c.api, Token: token}
		got := ""
		if r, err := New(o); err != nil {
			got = err.Error()
		} else {
			p := r.(*repository).place
			got = p.kind + " " + p.api.String() + " " + p.path()
		}
		if !strings.Contains(got, c.want) || strings.Contains(got, "s3cr3t") {
			t.Errorf("%s %s %s: %s, want %s", c.kind, c.address, c.api, got, c.want)
		}
	}
}

// Pages of commits are found by the address alone, and hold no credential.
func TestCommitPages(t *testing.T) {
	for _, c := range []struct{ kind, address, want string }{
		{"", "https://github.com/acme/prod.git", "https://github.com/acme/prod/commit/"},
		{"", "git@github.com:acme/prod", "https://github.com/acme/prod/commit/"},
		{"github", "https://git.example.com/acme/prod", "https://git.example.com/acme/prod/commit/"},
		{"", "git@gitlab.com:acme/platform/prod.git", "https://gitlab.com/acme/platform/prod/-/commit/"},
		{"gitea", "http://127.0.0.1:3000/forge/acme/prod.git", "http://127.0.0.1:3000/forge/acme/prod/commit/"},
		{"", "https://git.example.com/acme/prod", ""},
		{"gitea", "https://me:s3cr3t@git.example.com/acme/prod", ""},
		{"", "/srv/git/prod", ""},
	} {
		if got := CommitPages(c.kind, c.address); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.kind, c.address, got, c.want)
		}
	}
}

// So are pages of a file's history.
func TestHistoryPage(t *testing.T) {
	for _, c := range []struct{ kind, address, want string }{
		{"", "git@github.com:acme/prod", "https://github.com/acme/prod/commits/sluice/status/eu/apps/web.yaml"},
		{"", "https://gitlab.com/acme/platform/prod.git", "https://gitlab.com/acme/platform/prod/-/commits/sluice/status/eu/apps/web.yaml"},
		{"gitea", "http://127.0.0.1:3000/acme/prod.git", "http://127.0.0.1:3000/acme/prod/commits/branch/sluice/status/eu/apps/web.yaml"},
		{"", "https://git.example.com/acme/prod", ""},
	} {
		if got := HistoryPage(c.kind, c.address, "sluice/status/eu", "apps/web.yaml"); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.kind, c.address, got, c.want)
		}
	}
}

func TestNewWantsOneCredential(t *testing.T) {
	for want, o := range map[string]Options{
		"no credentials":            {},
		"give one of them":          {Token: token, App: &App{}},
		"no RSA private key in PEM": {App: &App{ID: 1, InstallationID: 2, Key: []byte("s3cr3t")}},
		"no credential for gitlab":  {Kind: GitLab, App: &App{}},
	} {
		o.Address = "https://github.com/acme/prod"
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestRelabel(t *testing.T) {
	add, remove := relabel([]string{"env/staging", "do-not-merge/hold", "team/a"}, []string{"env/production", "team/b", "env/production"})
	if !slices.Equal(add, []string{"env/production", "team/b"}) || !slices.Equal(remove, []string{"env/staging", "do-not-merge/hold"}) {
		t.Errorf("add %v, remove %v", add, remove)
	}
}

func TestMergeable(t *testing.T) {
	asked := Pull{Number: 1, Commit: "aaaa"}
	open := Pull{Number: 1, Commit: "aaaa", State: Open}
	moved, merged, closed, hold := open, open, open, open
	moved.Commit, merged.State, closed.State, hold.Labels = "bbbb", Merged, Closed, []string{"env/x", "do-not-merge/hold"}
	for _, c := range []struct {
		now    Pull
		checks []Check
		want   error
		says   string
	}{
		{open, nil, nil, ""},
		{open, []Check{{"a", Success, "", ""}, {"b", Pending, "", ""}}, nil, ""},
		{open, []Check{{"a", Pending, "", ""}, {"b", Failure, "", ""}}, ErrNotReady, "checks failed: b"},
		{merged, []Check{{"b", Failure, "", ""}}, nil, ""},
		{moved, nil, ErrConflict, "bbbb"},
		{closed, nil, ErrConflict, "closed"},
		{hold, nil, ErrNotReady, "do-not-merge/hold"},
	} {
		err := mergeable(asked, c.now, c.checks)
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v %v: %v, want %v %s", c.now, c.checks, err, c.want, c.says)
		}
	}
}

func TestJudge(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	in := func(d time.Duration) error { return Limited{now.Add(d)} }
	for _, c := range []struct {
		status int
		header http.Header
		said   string
		want   error
	}{
		{401, nil, "Bad credentials", ErrUnauthorized},
		{403, nil, "Resource not accessible by integration", ErrForbidden},
		{403, http.Header{"X-Ratelimit-Remaining": {"12"}}, "no right", ErrForbidden},
		{403, http.Header{"X-Ratelimit-Remaining": {"0"}, "X-Ratelimit-Reset": {"1800000600"}}, "API rate limit exceeded", in(10 * time.Minute)},
		{429, http.Header{"Ratelimit-Reset": {"1800000030"}}, "", in(30 * time.Second)},
		{429, http.Header{"Retry-After": {"7"}, "X-Ratelimit-Reset": {"1800000600"}}, "", in(7 * time.Second)},
		{429, http.Header{"Retry-After": {now.Add(time.Hour).UTC().Format(http.TimeFormat)}}, "", in(time.Hour)},
		{429, http.Header{"Retry-After": {"99999999999"}}, "", in(24 * time.Hour)},
		{429, nil, "", in(time.Minute)},
		{403, http.Header{"Retry-After": {"60"}, "X-Ratelimit-Remaining": {"4000"}}, "", in(time.Minute)},
		{403, http.Header{"X-Ratelimit-Remaining": {"4000"}, "X-Ratelimit-Reset": {"1800000600"}}, "You have exceeded a secondary rate limit", in(time.Minute)},
		{404, nil, "", ErrNotFound},
		{409, nil, "", ErrConflict},
		{422, nil, "Validation Failed", nil},
		{500, nil, "", ErrUnavailable},
		{503, http.Header{"Retry-After": {"5"}}, "", ErrUnavailable},
	} {
		res := &http.Response{StatusCode: c.status, Status: http.StatusText(c.status), Header: c.header}
		f := judge(res, c.said, now)
		var l Limited
		var want Limited
		same := errors.Is(f, c.want) || f.kind == nil && c.want == nil
		if errors.As(c.want, &want) {
			same = errors.As(f, &l) && l.Until.Equal(want.Until)
		}
		if !same || !strings.Contains(f.Error(), c.said) {
			t.Errorf("%d %v %s: %v %v, want %v", c.status, c.header, c.said, f.kind, f, c.want)
		}
	}
}

func TestSaid(t *testing.T) {
	for body, want := range map[string]string{
		`{"message":"Validation Failed","errors":[{"resource":"PullRequest","message":"A pull request already exists for acme:x."}]}`: "Validation Failed: A pull request already exists for acme:x.",
		`{"message":["Another open merge request already exists: !1"]}`:                                                               `["Another open merge request already exists: !1"]`,
		`{"error":"insufficient_scope","error_description":"The request requires higher privileges","scope":"api"}`:                   "insufficient_scope: The request requires higher privileges",
		"<html>502 Bad Gateway</html>": "",
		"upstream\n is gone":           "upstream is gone",
		"":                             "",
	} {
		if got := said([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestShorten(t *testing.T) {
	if got := shorten("weight  30 %\nof äöü", 12); got != "weight 30 %…" {
		t.Errorf("%q", got)
	}
	if got := cut(strings.Repeat("é", maxText)); len(got) > maxText+50 || !strings.HasSuffix(got, "no more)") {
		t.Errorf("%d bytes", len(got))
	}
}

// A list that never ends is a fault of the server, not a loop of ours.
func TestEveryEnds(t *testing.T) {
	_, err := every(func(page int) ([]int, int, error) { return []int{page}, page + 1, nil })
	if err == nil || !strings.Contains(err.Error(), "100 pages") {
		t.Error(err)
	}
}

// A forge that has had enough says when to come again.
func TestPause(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, test := range []struct {
		err  error
		want time.Duration
	}{
		{nil, time.Minute},
		{ErrUnavailable, time.Minute},
		{fmt.Errorf("listing: %w", Limited{now.Add(time.Hour)}), time.Hour},
		{errors.Join(ErrUnavailable, Limited{now.Add(time.Second)}), time.Minute},
	} {
		if got := Pause(test.err, time.Minute, now); got != test.want {
			t.Errorf("%v: %s, want %s", test.err, got, test.want)
		}
	}
}

// Only hosts that everybody knows say which kind of forge they are.
func TestKindOf(t *testing.T) {
	for addr, want := range map[string]string{
		"https://GitHub.com/acme/prod.git": GitHub, "git@gitlab.com:acme/prod.git": GitLab, "ssh://git@codeberg.org/acme/prod": Gitea,
		"https://git.example.com/acme/prod": "", "/srv/git/prod.git": "", "": "", "https://u:p@github.com/x/y": "",
	} {
		if got := KindOf(addr); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
}
