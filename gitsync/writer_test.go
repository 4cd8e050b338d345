package gitsync

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh/knownhosts"
)

// put is an edit that writes one file.
func put(name, text string) func(*Snapshot) (*Change, error) {
	return func(*Snapshot) (*Change, error) {
		return &Change{Files: map[string][]byte{name: []byte(text)}, Message: "put " + name}, nil
	}
}

func TestCommitIsMinimal(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		o.write(map[string]string{"run.sh": "#!/bin/sh\n", "env/a.yaml": "a\n", "env/b.yaml": "b\n", "old/x": "x\n", "lib-x": "1", "lib/y": "2"})
		if err := os.Chmod(filepath.Join(o.work, "run.sh"), 0o755); err != nil {
			t.Fatal(err)
		}
		tip := o.commit("base", nil)
		w := mustWriter(t, WriterConfig{Remote: r})
		date := time.Date(2026, 3, 4, 5, 6, 7, 0, time.FixedZone("", 3600))
		hash, err := w.Commit(t.Context(), func(s *Snapshot) (*Change, error) {
			if s.Commit != tip {
				t.Errorf("edit sees %s, want %s", s.Commit, tip)
			}
			return &Change{
				Files: map[string][]byte{
					"env/a.yaml": []byte("A\n"), "old/x": nil, "new/deep/file": []byte("n\n"), "run.sh": []byte("#!/bin/bash\n"),
				},
				Message: "four changes\n\nSluice-App: a\n", Author: Identity{"Ann", "ann@example.com"}, Date: date,
			}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := o.git(o.dir, "rev-parse", "main"); got != hash {
			t.Errorf("main is %s, want %s", got, hash)
		}
		const want = "M\tenv/a.yaml\nA\tnew/deep/file\nD\told/x\nM\trun.sh"
		if got := o.git(o.dir, "diff", "--name-status", tip, hash); got != want {
			t.Errorf("changes:\n%s\nwant:\n%s", got, want)
		}
		if got := o.git(o.dir, "ls-tree", hash, "run.sh", "old"); !strings.HasPrefix(got, "100755 blob") || strings.Contains(got, "old") {
			t.Errorf("ls-tree: %s", got)
		}
		got := o.git(o.dir, "log", "-1", "--format=%an %ae|%cn|%ad|%s|%(trailers)|%P", hash)
		if want := "Ann ann@example.com|Ann|Wed Mar 4 05:06:07 2026 +0100|four changes|Sluice-App: a\n|" + tip; got != want {
			t.Errorf("log %q, want %q", got, want)
		}
		o.git(o.dir, "fsck", "--strict")

		// The next one builds on it, by the default identity.
		second, err := w.Commit(t.Context(), put("env/c.yaml", "c\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := o.git(o.dir, "log", "-1", "--format=%an <%ae> %P", second); got != "Sluice <sluice@localhost> "+hash {
			t.Errorf("log %q", got)
		}
		// Somebody else commits in between.
		o.git(o.work, "pull", "-q", "--rebase", "origin", "main")
		theirs := o.commit("theirs", map[string]string{"theirs": "t"})
		third, err := w.Commit(t.Context(), put("env/d.yaml", "d\n"))
		if err != nil {
			t.Fatal(err)
		}
		if got := o.git(o.dir, "log", "-1", "--format=%P", third); got != theirs {
			t.Errorf("parent %s, want %s", got, theirs)
		}
		o.git(o.dir, "fsck", "--strict")
	})
}

func TestNothingToWrite(t *testing.T) {
	o := newOrigin(t)
	tip := o.commit("base", map[string]string{"a": "1"})
	w := mustWriter(t, WriterConfig{Remote: Remote{URL: o.dir, AllowFile: true}})
	boom := errors.New("boom")
	for name, edit := range map[string]func(*Snapshot) (*Change, error){
		"nil":            func(*Snapshot) (*Change, error) { return nil, nil },
		"same content":   put("a", "1"),
		"already absent": func(*Snapshot) (*Change, error) { return &Change{Files: map[string][]byte{"no/such": nil}}, nil },
	} {
		if hash, err := w.Commit(t.Context(), edit); err != nil || hash != "" {
			t.Errorf("%s: %q, %v", name, hash, err)
		}
	}
	if _, err := w.Commit(t.Context(), func(*Snapshot) (*Change, error) { return nil, boom }); err != boom { //nolint:errorlint // the very same
		t.Errorf("error %v", err)
	}
	if got := o.git(o.dir, "rev-parse", "main"); got != tip {
		t.Error("the branch moved")
	}
}

// CommitAll pushes several commits at once; those that change nothing are left out.
// A commit may say something and change nothing, also as the first of its branch.
func TestEmptyCommit(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		o.commit("base", map[string]string{"a": "1"})
		r.Branch = "words"
		w := mustWriter(t, WriterConfig{Remote: r, Create: true})
		var parent string
		for range 2 {
			hash, err := w.Commit(t.Context(), func(*Snapshot) (*Change, error) {
				return &Change{Empty: true, Message: "a word"}, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			got := o.git(o.dir, "log", "-1", "--format=%H %P", "words") + o.git(o.dir, "ls-tree", "words")
			if want := strings.TrimSpace(hash + " " + parent); strings.TrimSpace(got) != want {
				t.Errorf("commit and parent %q, want %q", got, want)
			}
			parent = hash
		}
		o.git(o.dir, "fsck", "--strict")
	})
}

func TestCommitAll(t *testing.T) {
	o := newOrigin(t)
	base := o.commit("base", map[string]string{"d/a": "1", "keep": "k"})
	w := mustWriter(t, WriterConfig{Remote: o.serveHTTP("", "").remote()})
	change := func(message, name, text string) *Change {
		return &Change{Message: message, Files: map[string][]byte{name: []byte(text)}}
	}
	hash, err := w.CommitAll(t.Context(), func(*Snapshot) ([]*Change, error) {
		return []*Change{
			change("one", "d/a", "2"), nil, change("nothing", "d/a", "2"), change("two", "d/b", "2"),
			{Message: "three", Files: map[string][]byte{"d/a": nil, "d/b": nil}},
			change("four", "d/a", "1"),
		}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := o.git(o.dir, "log", "--format=%s", base+".."+hash); got != "four\nthree\ntwo\none" {
		t.Errorf("commits:\n%s", got)
	}
	if got, want := o.git(o.dir, "rev-parse", hash+"^{tree}"), o.git(o.dir, "rev-parse", base+"^{tree}"); got != want {
		t.Error("back where it began, but the tree differs")
	}
	o.git(o.dir, "fsck", "--strict")
	for name, list := range map[string][]*Change{"none": {}, "nil": {nil}, "nothing": {change("x", "keep", "k")}} {
		if hash, err := w.CommitAll(t.Context(), func(*Snapshot) ([]*Change, error) { return list, nil }); err != nil || hash != "" {
			t.Errorf("%s: %q, %v", name, hash, err)
		}
	}
	// One bad change and none of them is pushed.
	_, err = w.CommitAll(t.Context(), func(*Snapshot) ([]*Change, error) {
		return []*Change{change("good", "g", "1"), change("bad", "../b", "1")}, nil
	})
	if err == nil || o.git(o.dir, "rev-parse", "main") != hash {
		t.Errorf("error %v", err)
	}
}

func TestBadChanges(t *testing.T) {
	o := newOrigin(t)
	o.write(map[string]string{"file": "1", "dir/x": "2"})
	if err := os.Symlink("file", filepath.Join(o.work, "link")); err != nil {
		t.Fatal(err)
	}
	o.commit("base", nil)
	w := mustWriter(t, WriterConfig{Remote: Remote{URL: o.dir, AllowFile: true}})
	for name, ch := range map[string]*Change{
		"path out":        {Files: map[string][]byte{"../x": {}}, Message: "m"},
		"absolute":        {Files: map[string][]byte{"/x": {}}, Message: "m"},
		"git's own":       {Files: map[string][]byte{"a/.GIT/config": {}}, Message: "m"},
		"below a file":    {Files: map[string][]byte{"file/x": {}}, Message: "m"},
		"over a dir":      {Files: map[string][]byte{"dir": {}}, Message: "m"},
		"delete a dir":    {Files: map[string][]byte{"dir": nil}, Message: "m"},
		"over a link":     {Files: map[string][]byte{"link": {}}, Message: "m"},
		"below a link":    {Files: map[string][]byte{"link/x": {}}, Message: "m"},
		"file and dir":    {Files: map[string][]byte{"n": {}, "n/x": {}}, Message: "m"},
		"no message":      {Files: map[string][]byte{"n": {}}},
		"forged identity": {Files: map[string][]byte{"n": {}}, Message: "m", Author: Identity{"a", "b>\nparent "}},
	} {
		if hash, err := w.Commit(t.Context(), func(*Snapshot) (*Change, error) { return ch, nil }); err == nil {
			t.Errorf("%s: no error, commit %s", name, hash)
		}
	}
	// A file may make room for a directory.
	ch := &Change{Files: map[string][]byte{"file": nil, "file/x": {}}, Message: "m"}
	if _, err := w.Commit(t.Context(), func(*Snapshot) (*Change, error) { return ch, nil }); err != nil {
		t.Error(err)
	}
	o.git(o.dir, "fsck", "--strict")
}

func TestOrphanBranch(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		r.Branch = "sluice/status/production"
		for _, empty := range []bool{true, false} {
			if !empty {
				o.commit("base", map[string]string{"a": "1"})
				r.Branch += "-2"
			}
			if _, err := mustWriter(t, WriterConfig{Remote: r}).Commit(t.Context(), put("x", "y")); !errors.Is(err, ErrBranchNotFound) {
				t.Fatalf("without Create: %v", err)
			}
			w := mustWriter(t, WriterConfig{Remote: r, Create: true})
			for i := range 3 {
				_, err := w.Commit(t.Context(), func(s *Snapshot) (*Change, error) {
					if (s.Commit == "") != (i == 0) {
						t.Errorf("commit %d sees %q", i, s.Commit)
					}
					if list, err := fs.ReadDir(s.FS(), "."); err != nil || len(list) != i {
						t.Errorf("commit %d sees %v, %v", i, list, err)
					}
					return put(fmt.Sprint("f", i), "x")(s)
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			if got := o.git(o.dir, "rev-list", "--count", r.Branch); got != "3" {
				t.Errorf("%s commits", got)
			}
		}
	})
}

func TestPullRequestBranch(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		base := o.commit("base", map[string]string{"a": "1"})
		w := mustWriter(t, WriterConfig{Remote: r})
		pr, err := w.Branch("sluice/rollback/app-1")
		if err != nil {
			t.Fatal(err)
		}
		var last string
		for i, want := range []func() string{func() string { return base }, func() string { return last }} {
			hash, err := pr.Commit(t.Context(), func(s *Snapshot) (*Change, error) {
				if s.Commit != want() {
					t.Errorf("commit %d sees %s, want %s", i, s.Commit, want())
				}
				return put("a", fmt.Sprint("rolled back ", i))(s)
			})
			if err != nil {
				t.Fatal(err)
			}
			last = hash
		}
		if got := o.git(o.dir, "rev-parse", "main"); got != base {
			t.Error("main moved")
		}
		if got := o.git(o.dir, "rev-list", "sluice/rollback/app-1"); !strings.HasSuffix(got, base) || !strings.HasPrefix(got, last) {
			t.Errorf("history:\n%s", got)
		}
		if _, err := w.Branch("a..b"); err == nil {
			t.Error("a bad branch name was taken")
		}
	})
}

// What is proposed is made upon the branch that it is proposed to, however old the branch is that it was proposed on, and keeps
// what a person has added there where the edit wants that.
func TestPropose(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		o.commit("base", map[string]string{"a": "1", "b": "1"})
		w := mustWriter(t, WriterConfig{Remote: r})
		const name = "sluice/promote/app"
		pr, err := w.Branch(name)
		if err != nil {
			t.Fatal(err)
		}
		propose := func(edit func(base, own *Snapshot) (*Change, error)) string {
			t.Helper()
			hash, err := pr.Propose(t.Context(), edit)
			if err != nil {
				t.Fatal(err)
			}
			return hash
		}
		first := propose(func(base, own *Snapshot) (*Change, error) {
			if own != nil {
				t.Errorf("there is something on the branch already: %s", own.Commit)
			}
			return &Change{Files: map[string][]byte{"a": []byte("2")}, Message: "promote", Upon: base}, nil
		})
		if got := o.git(o.dir, "rev-list", "--count", "main.."+name); got != "1" {
			t.Errorf("%s commits are proposed first", got)
		}
		base := o.commit("elsewhere", map[string]string{"a": "1", "b": "2"})
		second := propose(func(at, own *Snapshot) (*Change, error) {
			if own == nil || own.Commit != first || at.Commit != base {
				t.Errorf("sees %v upon %s", own, at.Commit)
			}
			return &Change{Files: map[string][]byte{"a": []byte("3")}, Message: "promote", Upon: at}, nil
		})
		if got := o.git(o.dir, "rev-parse", name+"^1", name+"^2"); got != first+"\n"+base {
			t.Errorf("parents %s", got)
		}
		if got := o.git(o.dir, "show", name+":b") + o.git(o.dir, "show", name+":a"); got != "23" {
			t.Errorf("the branch says %s", got)
		}
		if hash := propose(func(at, _ *Snapshot) (*Change, error) { return nil, nil }); hash != "" {
			t.Errorf("nothing was proposed as %s", hash)
		}
		third := propose(func(_, own *Snapshot) (*Change, error) {
			return &Change{Files: map[string][]byte{"c": []byte("x")}, Message: "more"}, nil
		})
		if got := o.git(o.dir, "rev-parse", name+"^"); got != second || third == "" {
			t.Errorf("upon the branch itself: parent %s, want %s", got, second)
		}
		o.git(o.dir, "fsck", "--strict")
		if _, err := w.Propose(t.Context(), nil); err == nil {
			t.Error("a branch is proposed to itself")
		}
	})
}

// An edit of a snapshot is read like any other and reaches no remote.
func TestEdited(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		o.commit("base", map[string]string{"a": "1", "d/b": "1"})
		repo, err := Open(t.Context(), r, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer repo.Close()
		tip, err := repo.Fetch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		edited, err := tip.Edited(t.Context(), Change{Files: map[string][]byte{"d/b": []byte("2")}, Message: "edit"})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := fs.ReadFile(edited.FS(), "d/b"); err != nil || string(got) != "2" {
			t.Errorf("reads %q, %v", got, err)
		}
		if again, err := repo.At(edited.Commit); err != nil || again.Subject != "edit" {
			t.Errorf("the edit is not beside it: %v", err)
		}
		if same, err := tip.Edited(t.Context(), Change{}); err != nil || same != tip {
			t.Errorf("nothing is edited to %v, %v", same, err)
		}
		if got := o.git(o.dir, "rev-parse", "main"); got != tip.Commit {
			t.Error("main moved")
		}
	})
}

// Writers that race for a branch all get their commits in, one after the other.
func TestRace(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		o.commit("base", map[string]string{"counter": "0", "README": "x"})
		const writers, commits = 3, 5
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range writers {
			w := mustWriter(t, WriterConfig{Remote: r, Attempts: 200})
			wg.Go(func() {
				for j := range commits {
					_, err := w.Commit(t.Context(), func(s *Snapshot) (*Change, error) {
						b, err := fs.ReadFile(s.FS(), "counter")
						if err != nil {
							return nil, err
						}
						var n int
						if _, err := fmt.Sscan(string(b), &n); err != nil {
							return nil, err
						}
						return &Change{Message: "count", Files: map[string][]byte{
							"counter": fmt.Append(nil, n+1), fmt.Sprintf("w%d/%d", i, j): []byte("x"),
						}}, nil
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%d commits of %d writers in %v", writers*commits, writers, time.Since(begin).Round(time.Millisecond))
		if got := o.git(o.dir, "show", "main:counter"); got != fmt.Sprint(writers*commits) {
			t.Errorf("counter %s", got)
		}
		if got := o.git(o.dir, "rev-list", "--count", "--no-merges", "main"); got != fmt.Sprint(writers*commits+1) {
			t.Errorf("%s commits", got)
		}
		if got := len(strings.Fields(o.git(o.dir, "ls-tree", "-r", "--name-only", "main"))); got != writers*commits+2 {
			t.Errorf("%d files", got)
		}
		o.git(o.dir, "fsck", "--strict")
	})
}

// One Writer is used by many.
func TestCommitsOfOneWriterSerialize(t *testing.T) {
	o := newOrigin(t)
	o.commit("base", map[string]string{"a": "1"})
	w := mustWriter(t, WriterConfig{Remote: o.serveHTTP("", "").remote(), Attempts: 1})
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if _, err := w.Commit(t.Context(), put(fmt.Sprint("f", i), "x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := o.git(o.dir, "rev-list", "--count", "main"); got != "11" {
		t.Errorf("%s commits", got)
	}
}

// Somebody pushes between our fetch and our push, in each way that a server can say so.
func TestLostRaceIsNeverOverwritten(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		o.commit("base", map[string]string{"a": "1"})
		w := mustWriter(t, WriterConfig{Remote: r})
		calls := 0
		var theirs string
		hash, err := w.Commit(t.Context(), func(s *Snapshot) (*Change, error) {
			calls++
			if calls == 1 {
				theirs = o.commit("theirs", map[string]string{"theirs": "x"})
			}
			return put("ours", "x")(s)
		})
		if err != nil || calls != 2 {
			t.Fatalf("%v after %d calls", err, calls)
		}
		if got := o.git(o.dir, "log", "-1", "--format=%P", hash); got != theirs {
			t.Errorf("parent %s, want %s", got, theirs)
		}
	})
}

func TestRejected(t *testing.T) {
	for name, serve := range map[string]func(*origin) Remote{
		"http": func(o *origin) Remote { return o.serveHTTP("", "").remote() },
		"ssh":  func(o *origin) Remote { return o.serveSSH().remote(o) },
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t)
			o.commit("base", map[string]string{"a": "1"})
			o.hook("pre-receive", "echo 'GH006: Protected branch update failed, fetch first' >&2\nexit 1\n")
			calls := 0
			_, err := mustWriter(t, WriterConfig{Remote: serve(o)}).Commit(t.Context(), func(s *Snapshot) (*Change, error) {
				calls++
				return put("b", "2")(s)
			})
			var rejected *RejectedError
			if !errors.As(err, &rejected) || rejected.Unauthorized || rejected.Branch != "main" || !strings.Contains(err.Error(), "GH006") {
				t.Errorf("error %v", err)
			}
			if calls != 1 {
				t.Errorf("%d attempts at a protected branch", calls)
			}
		})
	}
	t.Run("checked out", func(t *testing.T) {
		o := newOrigin(t)
		o.commit("base", map[string]string{"a": "1"})
		_, err := mustWriter(t, WriterConfig{Remote: Remote{URL: o.work, AllowFile: true}}).Commit(t.Context(), put("b", "2"))
		if rejected := new(RejectedError); !errors.As(err, &rejected) {
			t.Errorf("error %v", err)
		}
	})
}

func TestWrongPassword(t *testing.T) {
	const password = "hunter2-is-wrong"
	o := newOrigin(t)
	o.commit("base", map[string]string{"a": "1"})
	srv := o.serveHTTP("agent", "right")
	r := srv.remote()
	r.Auth.Password = password
	_, err := mustOpen(t, r).Fetch(t.Context())
	if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, r), password) {
		t.Errorf("fetch: %v", err)
	}
	_, err = mustWriter(t, WriterConfig{Remote: r}).Commit(t.Context(), put("b", "2"))
	var rejected *RejectedError
	if !errors.As(err, &rejected) || !rejected.Unauthorized || strings.Contains(fmt.Sprint(err, rejected), password) {
		t.Errorf("commit: %v", err)
	}

	// A file that is rotated is read again; the branch is read with one credential and written with another.
	file := filepath.Join(t.TempDir(), "password")
	r.WriteAuth = Auth{Username: "agent", PasswordFile: file}
	r.Auth = Auth{Username: "agent", Password: "right"}
	w := mustWriter(t, WriterConfig{Remote: r})
	for text, want := range map[string]bool{password + "\n": false, "right\n": true} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(t.Context(), put("b", "2")); (err == nil) != want || err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("with %q: %v", text, err)
		}
	}
}

// A server, or a proxy on the way, that repeats the request's headers does not bring the password into the error.
func TestEchoedCredentials(t *testing.T) {
	const password = "hunter2-is-right"
	o := newOrigin(t)
	srv := o.serveHTTP("agent", password)
	srv.onRequest(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		http.Error(w, "bad header Authorization: "+r.Header.Get("Authorization"), http.StatusForbidden)
		return true
	})
	_, err := mustOpen(t, srv.remote()).Fetch(t.Context())
	encoded := base64.StdEncoding.EncodeToString([]byte("agent:" + password))
	if err == nil || !strings.Contains(err.Error(), "bad header") || strings.Contains(err.Error(), encoded) {
		t.Errorf("error %v", err)
	}
}

func TestUnknownHostKey(t *testing.T) {
	o := newOrigin(t)
	o.commit("base", map[string]string{"a": "1"})
	srv := o.serveSSH()
	other, _ := newKey(t)
	for name, tt := range map[string]struct{ line, hint string }{
		"unknown": {"", "add to " + srv.knownHosts + ": " + knownhosts.Line([]string{srv.addr}, srv.hostKey)},
		"changed": {knownhosts.Line([]string{srv.addr}, other.PublicKey()) + "\n", srv.knownHosts + " has another one in line 1"},
	} {
		if err := os.WriteFile(srv.knownHosts, []byte(tt.line), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := mustOpen(t, srv.remote(o)).Fetch(t.Context())
		if err == nil || !strings.Contains(err.Error(), "host key SHA256:") || !strings.Contains(err.Error(), tt.hint) {
			t.Errorf("%s: error %v, want the hint %q", name, err, tt.hint)
		}
	}
	r := srv.remote(o)
	if err := os.WriteFile(srv.knownHosts, []byte(knownhosts.Line([]string{srv.addr}, srv.hostKey)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stranger := newKey(t)
	if err := os.WriteFile(srv.keyFile, stranger, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := mustWriter(t, WriterConfig{Remote: r}).Commit(t.Context(), put("b", "2"))
	if rejected := new(RejectedError); !errors.As(err, &rejected) || !rejected.Unauthorized {
		t.Errorf("wrong key: %v", err)
	}
}

func TestSSHRepositoryNotFound(t *testing.T) {
	o := newOrigin(t)
	r := o.serveSSH().remote(o)
	r.URL += "-no-such"
	if _, err := mustOpen(t, r).Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("error %v", err)
	}
}

// The server takes the push and then the connection breaks.
func TestLostAnswer(t *testing.T) {
	o := newOrigin(t)
	o.commit("base", map[string]string{"a": "1"})
	srv := o.serveHTTP("", "")
	drop := func(after func()) {
		srv.onRequest(func(_ http.ResponseWriter, r *http.Request, git http.Handler) bool {
			if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "git-receive-pack") {
				return false
			}
			git.ServeHTTP(&discard{header: http.Header{}}, r)
			after()
			panic(http.ErrAbortHandler)
		})
	}
	back := func() { srv.onRequest(func(http.ResponseWriter, *http.Request, http.Handler) bool { return false }) }
	count := func() string { return o.git(o.dir, "rev-list", "--count", "main") }

	t.Run("tip is ours", func(t *testing.T) {
		drop(back)
		calls := 0
		hash, err := mustWriter(t, WriterConfig{Remote: srv.remote()}).Commit(t.Context(), func(s *Snapshot) (*Change, error) {
			calls++
			return put("b", "2")(s)
		})
		if err != nil || hash != o.git(o.dir, "rev-parse", "main") || calls != 1 || count() != "2" {
			t.Errorf("%s, %v after %d calls, %s commits", hash, err, calls, count())
		}
	})
	t.Run("tip is built on ours", func(t *testing.T) {
		drop(func() {
			back()
			o.git(o.work, "pull", "-q", "--rebase", "origin", "main")
			o.commit("theirs", map[string]string{"theirs": "x"})
		})
		saw := false
		hash, err := mustWriter(t, WriterConfig{Remote: srv.remote()}).Commit(t.Context(), func(s *Snapshot) (*Change, error) {
			if _, err := fs.Stat(s.FS(), "c"); err == nil {
				saw = true
				return nil, nil
			}
			return put("c", "3")(s)
		})
		if err != nil || hash != "" || !saw || count() != "4" {
			t.Errorf("%s, %v, saw its own: %v, %s commits", hash, err, saw, count())
		}
	})
	t.Run("server stays away", func(t *testing.T) {
		gone := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool { panic(http.ErrAbortHandler) }
		drop(func() { srv.onRequest(gone) })
		w := mustWriter(t, WriterConfig{Remote: srv.remote()})
		_, err := w.Commit(t.Context(), put("d", "4"))
		if rejected := new(RejectedError); err == nil || errors.As(err, &rejected) {
			t.Fatalf("error %v", err)
		}
		back()
		if hash, err := w.Commit(t.Context(), put("d", "4")); err != nil || hash != "" || count() != "5" {
			t.Errorf("next call: %q, %v, %s commits", hash, err, count())
		}
	})
}

// discard is a ResponseWriter whose client is gone.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }

func TestRedirects(t *testing.T) {
	o := newOrigin(t)
	o.commit("base", map[string]string{"a": "1"})
	srv := o.serveHTTP("agent", "s3cr3t-pass")

	var leaked string
	thief := newOrigin(t).serveHTTP("", "")
	thief.onRequest(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		leaked += r.Header.Get("Authorization") + "!"
		return false
	})
	srv.onRequest(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		http.Redirect(w, r, thief.URL+r.URL.RequestURI(), http.StatusMovedPermanently)
		return true
	})
	_, err := mustOpen(t, srv.remote()).Fetch(t.Context())
	if err == nil || !strings.Contains(err.Error(), "redirected to another host") || leaked != "" {
		t.Errorf("to another host: %v, %q leaked", err, leaked)
	}
	_, err = mustWriter(t, WriterConfig{Remote: srv.remote()}).Commit(t.Context(), put("b", "2"))
	if err == nil || leaked != "" {
		t.Errorf("to another host: %v, %q leaked", err, leaked)
	}

	srv.onRequest(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.HasPrefix(r.URL.Path, "/old.git") {
			return false
		}
		http.Redirect(w, r, strings.Replace(r.URL.RequestURI(), "/old.git", "/env.git", 1), http.StatusMovedPermanently)
		return true
	})
	r := srv.remote()
	r.URL = srv.URL + "/old.git"
	if _, err := mustOpen(t, r).Fetch(t.Context()); err != nil {
		t.Errorf("renamed on the same host: %v", err)
	}
	if _, err := mustWriter(t, WriterConfig{Remote: r}).Commit(t.Context(), put("b", "2")); err != nil {
		t.Errorf("renamed on the same host: %v", err)
	}
}

// The Writer's store begins anew when it has grown, and nobody notices.
func TestWriterStorePruned(t *testing.T) {
	o := newOrigin(t)
	o.commit("base", map[string]string{"a": "1"})
	w := mustWriter(t, WriterConfig{Remote: o.serveHTTP("", "").remote()})
	if _, err := w.Commit(t.Context(), put("b", "2")); err != nil {
		t.Fatal(err)
	}
	for i := range maxWriterPacks {
		if err := os.WriteFile(filepath.Join(w.store.packDir(), fmt.Sprintf("pack-%d.pack", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Commit(t.Context(), put("c", "3")); err != nil {
		t.Fatal(err)
	}
	if packs, err := w.store.packs(); err != nil || len(packs) > 3 {
		t.Errorf("packs %v, %v", packs, err)
	}
}

func TestCommitEndsWithItsContext(t *testing.T) {
	o := newOrigin(t)
	o.commit("base", map[string]string{"a": "1"})
	w := mustWriter(t, WriterConfig{Remote: o.serveHTTP("", "").remote()})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.Commit(ctx, func(s *Snapshot) (*Change, error) {
		cancel()
		return put("b", "2")(s)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// The git program understands what encodePack writes.
func TestPackIsGits(t *testing.T) {
	pack, err := encodePack([]packObject{newObject(3, []byte("x")), newObject(3, []byte(strings.Repeat("long ", 1000))), newObject(3, nil)})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "p.pack"), pack, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("git", "index-pack", "--strict", filepath.Join(dir, "p.pack"))
	cmd.Stderr = io.Discard
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
}
