package gitsync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
)

// transports runs a test over every way to reach a repository.
func transports(t *testing.T, test func(t *testing.T, o *origin, r Remote)) {
	t.Run("http", func(t *testing.T) {
		o := newOrigin(t)
		test(t, o, o.serveHTTP("agent", "s3cr3t-pass").remote())
	})
	t.Run("ssh", func(t *testing.T) {
		o := newOrigin(t)
		test(t, o, o.serveSSH().remote(o))
	})
	t.Run("file", func(t *testing.T) {
		o := newOrigin(t)
		test(t, o, Remote{URL: "file://" + o.dir, AllowFile: true})
	})
}

func TestFetchFollowsTheBranch(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		repo := mustOpen(t, r)
		if _, err := repo.Fetch(t.Context()); !errors.Is(err, ErrBranchNotFound) {
			t.Fatalf("empty repository: error %v", err)
		}
		first := o.commit("first", map[string]string{"env/requirements.yaml": "a: 1\n", "README.md": "hi\n"})
		s1 := mustFetch(t, repo)
		if s1.Commit != first || s1.Subject != "first" || s1.Author != (Identity{"Ann", "ann@example.com"}) || s1.Time.IsZero() {
			t.Fatalf("snapshot %+v, want commit %s", s1, first)
		}
		if again := mustFetch(t, repo); again != s1 {
			t.Error("an unmoved branch made another snapshot")
		}
		second := o.commit("second", map[string]string{"env/requirements.yaml": "a: 2\n"})
		s2 := mustFetch(t, repo)
		if s2.Commit != second {
			t.Fatalf("commit %s, want %s", s2.Commit, second)
		}
		for snap, want := range map[*Snapshot]string{s1: "a: 1\n", s2: "a: 2\n"} {
			if b, err := fs.ReadFile(snap.FS(), "env/requirements.yaml"); err != nil || string(b) != want {
				t.Errorf("%s: %q, %v", snap.Subject, b, err)
			}
		}
		sameHash(t, s1, s2, "README.md", true)
		sameHash(t, s1, s2, "env", false)
		if got, want := hashOf(t, s2, "env"), o.git(o.work, "rev-parse", "HEAD:env"); got != want {
			t.Errorf("hash of env: %s, git says %s", got, want)
		}

		// Rewound: the branch loses its second commit and gets another.
		o.git(o.work, "reset", "-q", "--hard", first)
		third := o.commit("third", map[string]string{"env/requirements.yaml": "a: 3\n"})
		s3 := mustFetch(t, repo)
		if s3.Commit != third {
			t.Fatalf("after the force push: %s, want %s", s3.Commit, third)
		}
		if old, err := repo.At(first); err != nil || old.Subject != "first" {
			t.Errorf("At(first): %v, %v", old, err)
		}
		if _, err := repo.At(strings.Repeat("1", 40)); err == nil {
			t.Error("At an unknown commit: no error")
		}
	})
}

func hashOf(t *testing.T, s *Snapshot, name string) string {
	t.Helper()
	h, err := s.Hash(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func sameHash(t *testing.T, a, b *Snapshot, name string, want bool) {
	t.Helper()
	if got := hashOf(t, a, name) == hashOf(t, b, name); got != want {
		t.Errorf("hash of %s equal: %v, want %v", name, got, want)
	}
}

// Where other branches are is told by the fetch of the one branch, be it there or not.
func TestWatch(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		r.Branch = "env"
		repo := mustOpen(t, r)
		repo.Watch("main")
		repo.Watch("elsewhere")
		first := o.commit("first", nil)
		if _, err := repo.Fetch(t.Context()); !errors.Is(err, ErrBranchNotFound) || repo.Tip("main") != first {
			t.Errorf("main at %q, want %s; %v", repo.Tip("main"), first, err)
		}
		o.git(o.work, "push", "-q", "origin", "HEAD:env")
		mustFetch(t, repo)
		second := o.commit("second", nil)
		mustFetch(t, repo)
		if got := repo.Tip("main"); got != second {
			t.Errorf("main at %q, want %s", got, second)
		}
		o.git(o.dir, "branch", "-D", "main")
		mustFetch(t, repo)
		if got := repo.Tip("main") + repo.Tip("elsewhere"); got != "" {
			t.Errorf("branches that are not there are at %q", got)
		}
	})
}

func TestBranches(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		if names, err := Branches(t.Context(), r, ""); err != nil || len(names) > 0 {
			t.Errorf("an empty repository: %v, %v", names, err)
		}
		o.commit("first", nil)
		for _, branch := range []string{"status/b", "status/a/x", "other"} {
			o.git(o.work, "push", "-q", "origin", "HEAD:refs/heads/"+branch)
		}
		r.Branch = "nowhere"
		names, err := Branches(t.Context(), r, "status/")
		if err != nil || !slices.Equal(names, []string{"status/a/x", "status/b"}) {
			t.Errorf("branches %v, %v", names, err)
		}
	})
}

func TestCanPush(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		if err := CanPush(t.Context(), r); err != nil {
			t.Errorf("an empty repository: %v", err)
		}
		tip := o.commit("first", nil)
		if err := CanPush(t.Context(), r); err != nil {
			t.Errorf("a branch that is there: %v", err)
		}
		r.Branch = "nowhere"
		if err := CanPush(t.Context(), r); err != nil {
			t.Errorf("a branch that is to be made: %v", err)
		}
		if got := o.git(o.dir, "for-each-ref", "--format=%(refname) %(objectname)"); strings.TrimSpace(got) != "refs/heads/main "+tip {
			t.Errorf("afterwards there is %s", got)
		}
	})
}

// A server that lets everybody read and only some write.
func TestCanNotPush(t *testing.T) {
	o := newOrigin(t)
	srv := o.serveHTTP("", "")
	o.commit("first", nil)
	srv.onRequest(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.URL.Query().Get("service") != "git-receive-pack" {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	if _, err := Branches(t.Context(), srv.remote(), ""); err != nil {
		t.Fatal(err)
	}
	if err := CanPush(t.Context(), srv.remote()); !Unauthorized(err) {
		t.Errorf("it says %v, want that it is forbidden", err)
	}
}

func TestReopenedAfterRestart(t *testing.T) {
	o := newOrigin(t)
	srv := o.serveHTTP("", "")
	dir := filepath.Join(t.TempDir(), "repo")
	first := o.commit("first", map[string]string{"a": "1", "b/c": "2"})
	for range 2 {
		repo, err := Open(t.Context(), srv.remote(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if s := mustFetch(t, repo); s.Commit != first {
			t.Fatalf("commit %s", s.Commit)
		}
		if err := repo.Close(); err != nil {
			t.Fatal(err)
		}
		srv.requests.Store(0)
	}
	repo, err := Open(t.Context(), srv.remote(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	mustFetch(t, repo)
	if n := srv.requests.Load(); n != 1 {
		t.Errorf("%d requests after a restart with nothing new, want the probe alone", n)
	}
}

// A branch that has not moved costs one request each time, on a connection that stays open; so does a push, two.
func TestIdleIsCheap(t *testing.T) {
	o := newOrigin(t)
	o.commit("first", map[string]string{"a": "1"})
	srv := o.serveHTTP("agent", "s3cr3t-pass")
	var mu sync.Mutex
	var requests []string
	from := map[string]bool{}
	srv.onRequest(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		mu.Lock()
		defer mu.Unlock()
		requests = append(requests, r.Method+" "+r.URL.Path)
		from[r.RemoteAddr] = true
		return false
	})
	repo := mustOpen(t, srv.remote())
	mustFetch(t, repo)
	requests = nil
	for range 5 {
		mustFetch(t, repo)
	}
	if len(requests) != 5 || len(from) != 1 {
		t.Errorf("5 looks made %d connections and %q", len(from), requests)
	}
	w := mustWriter(t, WriterConfig{Remote: srv.remote()})
	for i := range 4 {
		if i == 1 { // the first one fetches the tip
			requests = nil
			clear(from)
		}
		if _, err := w.Commit(t.Context(), put("b", strings.Repeat("x", i+1))); err != nil {
			t.Fatal(err)
		}
	}
	if len(requests) != 6 || len(from) != 1 {
		t.Errorf("3 pushes made %d connections and %q", len(from), requests)
	}
}

func TestBrokenStoreIsFetchedAgain(t *testing.T) {
	o := newOrigin(t)
	r := o.serveHTTP("", "").remote()
	o.commit("first", map[string]string{"a": "1"})
	for name, damage := range map[string]func(path string) error{
		"truncated pack": func(p string) error { return os.Truncate(p, 20) },
		"missing pack":   os.Remove,
		"garbage index": func(p string) error {
			return os.WriteFile(strings.TrimSuffix(p, "pack")+"idx", []byte("garbage"), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filledStore(t, r)
			packs, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*.pack"))
			if len(packs) != 1 {
				t.Fatalf("packs: %v", packs)
			}
			_ = os.Chmod(packs[0], 0o600)
			_ = os.Remove(strings.TrimSuffix(packs[0], "pack") + "idx.tmp")
			if name == "garbage index" {
				_ = os.Remove(strings.TrimSuffix(packs[0], "pack") + "idx")
			}
			if err := damage(packs[0]); err != nil {
				t.Fatal(err)
			}
			readsOne(t, r, dir)
		})
	}
}

// filledStore is the directory of a closed Repo that has fetched.
func filledStore(t *testing.T, r Remote) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "repo")
	repo, err := Open(t.Context(), r, dir)
	if err != nil {
		t.Fatal(err)
	}
	mustFetch(t, repo)
	_ = repo.Close()
	return dir
}

// readsOne opens a store again and reads "1" from file a.
func readsOne(t *testing.T, r Remote, dir string) {
	t.Helper()
	repo, err := Open(t.Context(), r, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer repo.Close()
	if b, err := fs.ReadFile(mustFetch(t, repo).FS(), "a"); err != nil || string(b) != "1" {
		t.Errorf("read %q, %v", b, err)
	}
}

// A crash while the index of the first pack is written leaves an index that is not whole, and go-git would keep it.
func TestHalfWrittenIndex(t *testing.T) {
	o := newOrigin(t)
	r := o.serveHTTP("", "").remote()
	o.commit("first", map[string]string{"a": "1"})
	for name, pack := range map[string]bool{"before its pack": false, "beside its pack": true} {
		t.Run(name, func(t *testing.T) {
			dir := filledStore(t, r)
			files, _ := filepath.Glob(filepath.Join(dir, "objects/pack/*"))
			if len(files) != 2 {
				t.Fatalf("pack directory holds %v", files)
			}
			var err error
			for _, f := range files {
				_ = os.Chmod(f, 0o600)
				switch {
				case strings.HasSuffix(f, ".idx"):
					err = errors.Join(err, os.Truncate(f, 100))
				case !pack:
					err = errors.Join(err, os.Remove(f))
				}
			}
			if err := errors.Join(err, os.Remove(filepath.Join(dir, "refs/heads/main"))); err != nil {
				t.Fatal(err)
			}
			readsOne(t, r, dir)
		})
	}
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Remote{URL: "https://example.com/x.git"}, dir); err == nil {
		t.Fatal("no error")
	}
	if _, err := os.Stat(filepath.Join(dir, "thesis.tex")); err != nil {
		t.Fatal("the file is gone")
	}
}

func TestAnotherRemoteEmptiesTheStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "repo")
	for _, text := range []string{"one", "two"} {
		o := newOrigin(t)
		o.commit("c", map[string]string{"a": text})
		repo, err := Open(t.Context(), o.serveHTTP("", "").remote(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := fs.ReadFile(mustFetch(t, repo).FS(), "a"); err != nil || string(b) != text {
			t.Errorf("read %q, %v", b, err)
		}
		_ = repo.Close()
	}
}

func TestManyFetchesAreTidied(t *testing.T) {
	o := newOrigin(t)
	repo := mustOpen(t, Remote{URL: o.dir, AllowFile: true})
	var commits []string
	for i := range maxSmallPacks + 5 {
		commits = append(commits, o.commit("c", map[string]string{"n": strings.Repeat("x", i+1)}))
		mustFetch(t, repo)
	}
	packs, err := repo.store.packs()
	if err != nil || len(packs) >= maxSmallPacks {
		t.Errorf("%d packs, %v", len(packs), err)
	}
	for i, c := range commits {
		s, err := repo.At(c)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := fs.ReadFile(s.FS(), "n"); err != nil || len(b) != i+1 {
			t.Errorf("commit %d: %q, %v", i, b, err)
		}
	}
}

// A linked work tree is read as what it is linked to is, packed and larger than what is kept in memory of it; and so is a path that
// goes up.
func TestLinkedWorkTree(t *testing.T) {
	o := newOrigin(t)
	text := make([]byte, 9<<20) // go-git keeps eight
	_, _ = rand.NewChaCha8([32]byte{}).Read(text)
	large := string(text)
	o.commit("c", map[string]string{"f": large})
	o.git(o.work, "repack", "-adq")
	linked := filepath.Join(t.TempDir(), "linked")
	o.git(o.work, "worktree", "add", "-q", "-b", "other", linked)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	up, err := filepath.Rel(here, linked)
	if err != nil || !strings.HasPrefix(up, "..") {
		t.Fatalf("%s, %v", up, err)
	}
	for _, path := range []string{linked, up} {
		s := mustFetch(t, mustOpen(t, Remote{URL: path, Branch: "other", AllowFile: true}))
		if got, err := fs.ReadFile(s.FS(), "f"); err != nil || string(got) != large {
			t.Errorf("%s: %d bytes of another text, %v", path, len(got), err)
		}
	}
}

// What was fetched is handed over though the store can't be put in order.
func TestUntidyStoreIsFollowed(t *testing.T) {
	o := newOrigin(t)
	repo := mustOpen(t, Remote{URL: o.dir, AllowFile: true})
	o.commit("c", map[string]string{"n": "0"})
	mustFetch(t, repo)
	stray := filepath.Join(repo.store.packDir(), "stray.pack") // has no index, so that nothing can be joined
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range maxSmallPacks + 5 {
		commit := o.commit("c", map[string]string{"n": strings.Repeat("x", i+1)})
		if got := mustFetch(t, repo); got.Commit != commit {
			t.Fatalf("fetched %s, want %s", got.Commit, commit)
		}
	}
	if err := repo.store.tidy(); err == nil {
		t.Fatal("the store can be tidied all the same")
	}
	if err := os.Remove(stray); err != nil {
		t.Fatal(err)
	}
	o.commit("c", map[string]string{"n": "last"})
	mustFetch(t, repo)
	if packs, err := repo.store.packs(); err != nil || len(packs) >= maxSmallPacks {
		t.Errorf("%d packs are left when it can be tidied again, %v", len(packs), err)
	}
}

// A store that grew faster than its remote begins anew, and nothing that is read from it notices.
func TestGrownStoreIsReplaced(t *testing.T) {
	o := newOrigin(t)
	noise := make([]byte, 100_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	for i, b := range noise {
		noise[i] = 'a' + b%26
	}
	for name, tt := range map[string]struct {
		limit int64
		grows bool
	}{"whole in one pack": {30_000, false}, "whole is too large": {14_000, true}} {
		t.Run(name, func(t *testing.T) {
			r := o.serveHTTP("", "").remote()
			r.Limits.Pack = tt.limit
			o.git(o.work, "checkout", "-q", "--orphan", "fresh-"+strings.ReplaceAll(name, " ", "-"))
			r.Branch = o.git(o.work, "branch", "--show-current")
			repo := mustOpen(t, r)
			var snaps []*Snapshot
			var sizes []int64
			for i := range 10 {
				text := fmt.Sprintf("%s%d\n", noise[:20_000], i)
				if tt.grows { // each is another part of the noise, so that no delta helps
					text = fmt.Sprintf("%s%d\n", noise[i*10_000:][:10_000], i)
				}
				o.commit("c", map[string]string{"n": text})
				snaps = append(snaps, mustFetch(t, repo))
				packs, err := repo.store.packs()
				if err != nil {
					t.Fatal(err)
				}
				var size int64
				for _, n := range packs {
					size += n
				}
				sizes = append(sizes, size)
			}
			if shrank := !slices.IsSorted(sizes); shrank == tt.grows || repo.grown != tt.grows {
				t.Errorf("the store had %v bytes, one after the other; grown is %t", sizes, repo.grown)
			}
			for i, s := range snaps {
				if b, err := fs.ReadFile(s.FS(), "n"); err != nil || !strings.HasSuffix(string(b), fmt.Sprintf("%d\n", i)) {
					t.Errorf("commit %d: %d bytes, %v", i, len(b), err)
				}
				if at, err := repo.At(s.Commit); err != nil || at.Commit != s.Commit {
					t.Errorf("commit %d: %v", i, err)
				}
			}
		})
	}
}

func TestCommitsAndLastChange(t *testing.T) {
	o := newOrigin(t)
	repo := mustOpen(t, Remote{URL: o.dir, AllowFile: true})
	var c []string
	for _, v := range []string{"1", "1", "2", "2", "2"} {
		c = append(c, o.commit("set "+v+"\n\nbody", map[string]string{"v": v}))
	}
	mustFetch(t, repo)
	list, err := repo.Commits(t.Context(), c[4], c[1], 0)
	if err != nil || len(list) != 3 || list[0].Hash != c[4] || list[2].Hash != c[2] {
		t.Fatalf("commits %v, %v", list, err)
	}
	if got := list[0]; got.Subject() != "set 2" || got.Author.Name != "Ann" || got.Committer.Name != "Bob" || got.Parents[0] != c[3] || got.Message != "set 2\n\nbody\n" {
		t.Errorf("commit %+v", got)
	}
	if all, err := repo.Commits(t.Context(), c[4], "", 0); err != nil || len(all) != 5 {
		t.Errorf("%d commits, %v", len(all), err)
	}
	same := func(a, b *Snapshot) (bool, error) {
		x, errX := a.Hash("v")
		y, errY := b.Hash("v")
		return x == y, errors.Join(errX, errY)
	}
	for _, tt := range []struct {
		name, tip, stop string
		limit           int
		want            string
	}{
		{"changed in the middle", c[4], "", 0, c[2]},
		{"at the beginning", c[1], "", 0, c[0]},
		{"not past stop", c[4], c[3], 0, c[3]},
		{"tip is stop", c[4], c[4], 0, c[4]},
		{"limit", c[4], "", 2, c[3]},
	} {
		if got, err := repo.LastChange(t.Context(), tt.tip, tt.stop, tt.limit, same); err != nil || got != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.name, got, err, tt.want)
		}
	}
}

func TestFSConforms(t *testing.T) {
	o := newOrigin(t)
	o.write(map[string]string{"a/b/c.txt": "c", "a/d.txt": "d", "top": "t", "x-y": "1", "x/z": "2"})
	for link, target := range map[string]string{"a/up": "../top", "dirlink": "a/b", "a/self": "./d.txt"} {
		if err := os.Symlink(target, filepath.Join(o.work, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(o.work, "top"), 0o755); err != nil {
		t.Fatal(err)
	}
	o.commit("c", nil)
	s := mustFetch(t, mustOpen(t, Remote{URL: o.dir, AllowFile: true}))
	if err := fstest.TestFS(s.FS(), "a/b/c.txt", "a/d.txt", "top", "x-y", "x/z", "a/up", "dirlink"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"a/up": "t", "dirlink/c.txt": "c", "a/self": "d"} {
		if b, err := fs.ReadFile(s.FS(), name); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if fi, err := fs.Stat(s.FS(), "top"); err != nil || fi.Mode() != 0o555 {
		t.Errorf("top: %v, %v", fi, err)
	}
}

// List gives what ReadDir and Hash give.
func TestList(t *testing.T) {
	o := newOrigin(t)
	o.write(map[string]string{"env/a/values": "1", "env/a-b": "2", "env/a.d/x": "3", "env/run": "4"})
	for link, target := range map[string]string{"env/file": "run", "env/dangling": "nowhere", "way": "env"} {
		if err := os.Symlink(target, filepath.Join(o.work, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(o.work, "env/run"), 0o755); err != nil {
		t.Fatal(err)
	}
	o.git(o.work, "add", ".")
	submodule := strings.Repeat("1", 40)
	o.git(o.work, "update-index", "--add", "--cacheinfo", "160000,"+submodule+",env/sub")
	o.git(o.work, "commit", "-q", "-m", "c")
	o.git(o.work, "push", "-q", "origin", "HEAD")
	f := mustFetch(t, mustOpen(t, Remote{URL: o.dir, AllowFile: true})).FS().(*treeFS)
	for _, dir := range []string{".", "env", "env/a", "way"} {
		entries, err := f.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var want, got []string
		for _, e := range entries {
			hash, err := f.Hash(path.Join(dir, e.Name()))
			switch e.Type() {
			case fs.ModeSymlink:
				hash, err = "", nil
			case fs.ModeIrregular:
				hash, err = submodule, nil
			}
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprintln(e.Name(), e.Type(), hash))
		}
		err = f.List(dir, func(name []byte, mode fs.FileMode, hash []byte) {
			got = append(got, fmt.Sprintln(string(name), mode, string(hash)))
		})
		if slices.Sort(got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v\nwant %q", dir, got, err, want)
		}
	}
	for name, want := range map[string]error{
		"env/run": errNotDir, "nowhere": fs.ErrNotExist, "env/sub": errSubmodule, "env/dangling": fs.ErrNotExist, "../x": fs.ErrInvalid,
	} {
		err := f.List(name, func([]byte, fs.FileMode, []byte) { t.Errorf("%s has entries", name) })
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", name, err, want)
		}
	}
}

func TestSymlinksNeverLeave(t *testing.T) {
	o := newOrigin(t)
	o.write(map[string]string{"d/file": "x"})
	links := map[string]string{
		"d/out": "../../etc/passwd", "abs": "/etc/passwd", "loop": "loop", "d/ping": "pong", "d/pong": "ping",
		"deep": "d/../../d/file", "dangling": "nowhere", "long": strings.Repeat("d/../", 800) + "d/file",
	}
	for link, target := range links {
		if err := os.Symlink(target, filepath.Join(o.work, link)); err != nil {
			t.Fatal(err)
		}
	}
	o.commit("c", nil)
	f := mustFetch(t, mustOpen(t, Remote{URL: o.dir, AllowFile: true})).FS()
	for name, want := range map[string]error{
		"d/out": errLinkOut, "abs": errLinkAbs, "loop": errLinkDepth, "d/ping": errLinkDepth,
		"deep": errLinkOut, "dangling": fs.ErrNotExist, "loop/x": errLinkDepth, "abs/x": errLinkAbs,
		"d/file/x": fs.ErrNotExist, "../x": fs.ErrInvalid, "/d/file": fs.ErrInvalid, "d//file": fs.ErrInvalid,
	} {
		if _, err := fs.ReadFile(f, name); !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", name, err, want)
		}
	}
}

func TestSubmodulesAreRefused(t *testing.T) {
	o := newOrigin(t)
	o.write(map[string]string{"a": "1"})
	o.git(o.work, "add", "a")
	o.git(o.work, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",vendor/sub")
	o.git(o.work, "commit", "-q", "-m", "sub")
	o.git(o.work, "push", "-q", "origin", "HEAD")
	f := mustFetch(t, mustOpen(t, Remote{URL: o.dir, AllowFile: true})).FS()
	// It is listed, so that nobody takes it for absent.
	list, err := fs.ReadDir(f, "vendor")
	if err != nil || len(list) != 1 || list[0].Type() != fs.ModeIrregular {
		t.Errorf("vendor: %v, %v", list, err)
	}
	for _, name := range []string{"vendor/sub", "vendor/sub/x"} {
		if _, err := fs.ReadFile(f, name); err == nil || !strings.Contains(err.Error(), "submodule") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestPointersOfLFSAreNoContent(t *testing.T) {
	o := newOrigin(t)
	const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
	o.commit("c", map[string]string{
		"chart.tgz": pointer, "prose": "as in: " + pointer, "doc": "version https://git-lfs.github.com/spec/v1 is what it begins with\n",
	})
	f := mustFetch(t, mustOpen(t, Remote{URL: o.dir, AllowFile: true})).FS()
	if _, err := fs.ReadFile(f, "chart.tgz"); !errors.Is(err, errPointer) {
		t.Errorf("chart.tgz: error %v", err)
	}
	for _, name := range []string{"prose", "doc"} {
		if _, err := fs.ReadFile(f, name); err != nil {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestLimits(t *testing.T) {
	o := newOrigin(t)
	srv := o.serveHTTP("", "")
	noise := make([]byte, 0, 300_000)
	for i := range cap(noise) {
		noise = append(noise, byte('a'+(i*i/7+i*31)%26))
	}
	o.commit("c", map[string]string{"small": "x", "big": string(noise)})

	t.Run("file", func(t *testing.T) {
		r := srv.remote()
		r.Limits.File = 1000
		f := mustFetch(t, mustOpen(t, r)).FS()
		if _, err := fs.ReadFile(f, "big"); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "big") {
			t.Errorf("error %v", err)
		}
		if _, err := fs.ReadFile(f, "small"); err != nil {
			t.Error(err)
		}
	})
	t.Run("object", func(t *testing.T) {
		r := srv.remote()
		r.Limits.Object = 1000
		if _, err := mustOpen(t, r).Fetch(t.Context()); !errors.Is(err, ErrTooLarge) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("objects", func(t *testing.T) {
		r := srv.remote()
		r.Limits.Objects = 3 // a commit, a tree and two files are four
		if _, err := mustOpen(t, r).Fetch(t.Context()); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "4 objects") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("pack", func(t *testing.T) {
		r := srv.remote()
		r.Limits.Pack = 500
		repo := mustOpen(t, r)
		for range 2 {
			if _, err := repo.Fetch(t.Context()); !errors.Is(err, ErrTooLarge) {
				t.Errorf("error %v", err)
			}
		}
	})
}

func TestServerDownAndUp(t *testing.T) {
	o := newOrigin(t)
	o.commit("c", map[string]string{"a": "1"})
	srv := o.serveHTTP("", "")
	repo := mustOpen(t, srv.remote())
	srv.onRequest(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
		http.Error(w, "maintenance", http.StatusServiceUnavailable)
		return true
	})
	if _, err := repo.Fetch(t.Context()); err == nil || !strings.Contains(err.Error(), "503") {
		t.Fatalf("error %v", err)
	}
	// Down in the middle of a pack.
	srv.onRequest(func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method != http.MethodPost {
			return false
		}
		w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
		_, _ = w.Write([]byte("0008NAK\n0015\x01PACK\x00\x00\x00\x02\x00\x00"))
		panic(http.ErrAbortHandler)
	})
	if _, err := repo.Fetch(t.Context()); err == nil {
		t.Fatal("no error for half a pack")
	}
	srv.onRequest(func(http.ResponseWriter, *http.Request, http.Handler) bool { return false })
	mustFetch(t, repo)
}

func TestContextEndsAnExchange(t *testing.T) {
	o := newOrigin(t)
	o.commit("c", map[string]string{"a": "1"})
	stuck := make(chan struct{})
	srv := o.serveHTTP("", "")
	t.Cleanup(func() { close(stuck) })
	srv.onRequest(func(http.ResponseWriter, *http.Request, http.Handler) bool { <-stuck; return true })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := mustOpen(t, srv.remote()).Fetch(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

// A reference that somebody is just writing, and a lock that a crash left, keep nobody from reading the others.
func TestLocksAreNoReferences(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		first := o.commit("first", map[string]string{"a": "1"})
		if err := os.WriteFile(filepath.Join(o.dir, "refs", "heads", "other.lock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		repo := mustOpen(t, r)
		if s := mustFetch(t, repo); s.Commit != first {
			t.Errorf("commit %s, want %s", s.Commit, first)
		}
		if _, err := mustWriter(t, WriterConfig{Remote: r}).Commit(t.Context(), put("x", "y")); err != nil {
			t.Error(err)
		}
	})
}

// vanishing is a file system whose directories lose a file while they are listed, the first times.
type vanishing struct {
	billy.Filesystem
	times *int
}

func (v vanishing) ReadDir(path string) ([]os.FileInfo, error) {
	if *v.times > 0 {
		*v.times--
		return nil, &os.PathError{Op: "lstat", Path: path, Err: os.ErrNotExist}
	}
	return v.Filesystem.ReadDir(path)
}

// A repository in which a file is just being renamed has all of its branches.
func TestListingWhileFilesGo(t *testing.T) {
	o := newOrigin(t)
	o.commit("first", map[string]string{"a": "1"})
	times := 3
	dir := sharedDir{vanishing{osfs.New(o.dir), &times}}
	if infos, err := dir.ReadDir("refs/heads"); err != nil || len(infos) != 1 {
		t.Errorf("branches %v, %v", infos, err)
	}
	if _, err := dir.ReadDir("refs/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// TestDescends: ancestors are found across merges, an orphan is told apart, and a history that is not whole says so.
func TestDescends(t *testing.T) {
	o := newOrigin(t)
	first := o.commit("first", map[string]string{"a": "1"})
	o.git(o.work, "checkout", "-q", "-b", "side")
	side := o.commit("side", map[string]string{"b": "1"})
	o.git(o.work, "checkout", "-q", "main")
	second := o.commit("second", map[string]string{"a": "2"})
	o.git(o.work, "merge", "-q", "--no-ff", "-m", "merge", "side")
	merge := o.commit("third", map[string]string{"a": "3"})
	o.git(o.work, "checkout", "-q", "--orphan", "other")
	orphan := o.commit("orphan", map[string]string{"a": "1"})
	repo := mustOpen(t, Remote{URL: "file://" + o.dir, AllowFile: true})
	mustFetch(t, repo)
	o.setMain(orphan)
	mustFetch(t, repo)
	const nowhere = "0123456789012345678901234567890123456789"
	for _, c := range []struct {
		commit, from string
		want         bool
	}{
		{merge, merge, true},
		{merge, first, true},
		{merge, side, true},
		{merge, second, true},
		{first, second, false},
		{side, second, false},
		{orphan, first, false},
		{merge, orphan, false},
		{merge, nowhere, false},
	} {
		if got, err := repo.Descends(c.commit, c.from, 100); got != c.want || err != nil {
			t.Errorf("%.7s descends from %.7s: %t, %v", c.commit, c.from, got, err)
		}
	}
	if ok, err := repo.Descends(merge, first, 2); ok || err != nil {
		t.Errorf("a limit of 2: %t, %v", ok, err)
	}
	if ok, err := repo.Descends(nowhere, first, 100); ok || err == nil {
		t.Errorf("a history that is not here: %t, %v", ok, err)
	}
}

// TestFetchBeside: another branch comes with its history, wherever the two have parted, and after the store was begun anew.
func TestFetchBeside(t *testing.T) {
	transports(t, func(t *testing.T, o *origin, r Remote) {
		o.commit("first", map[string]string{"a": "1"})
		second := o.commit("second", map[string]string{"a": "2"})
		o.git(o.work, "checkout", "-q", "-b", "change")
		o.commit("one", map[string]string{"b": "1"})
		two := o.commit("two", map[string]string{"b": "2"})
		o.git(o.work, "checkout", "-q", "main")
		third := o.commit("third", map[string]string{"a": "3"})
		o.git(o.work, "checkout", "-q", "--orphan", "unrelated")
		o.commit("unrelated", map[string]string{"a": "1"})

		repo := mustOpen(t, r)
		for _, begun := range []string{"new", "anew"} {
			tip := mustFetch(t, repo)
			head, err := repo.FetchBeside(t.Context(), "change")
			if err != nil || tip.Commit != third || head.Commit != two {
				t.Fatalf("%s: %+v, %v", begun, head, err)
			}
			if b, err := fs.ReadFile(head.FS(), "b"); string(b) != "2" {
				t.Errorf("%s: it has %q, %v", begun, b, err)
			}
			if base, err := repo.MergeBase(tip.Commit, two, 100); err != nil || base.Commit != second {
				t.Errorf("%s: they have parted at %+v, %v", begun, base, err)
			}
			if again := mustFetch(t, repo); again.Commit != third {
				t.Errorf("%s: the branch is at %s", begun, again.Commit)
			}
			if err := repo.store.reset(""); err != nil {
				t.Fatal(err)
			}
			repo.last = nil
		}
		tip := mustFetch(t, repo)
		other, err := repo.FetchBeside(t.Context(), "unrelated")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := repo.MergeBase(tip.Commit, other.Commit, 100); err == nil || !strings.Contains(err.Error(), "no history in common") {
			t.Errorf("of the unrelated one: %v", err)
		}
		if _, err := repo.MergeBase(tip.Commit, other.Commit, 1); err == nil || !strings.Contains(err.Error(), "more than 1 commits ago") {
			t.Errorf("with a limit: %v", err)
		}
		for branch, want := range map[string]string{"nowhere": ErrBranchNotFound.Error(), "../x": "fetching branch"} {
			if _, err := repo.FetchBeside(t.Context(), branch); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", branch, err)
			}
		}
	})
}

// TestWriterTip: a Writer reads its branch as the remote has it, be it its own work or somebody else's.
func TestWriterTip(t *testing.T) {
	o := newOrigin(t)
	w, err := NewWriter(WriterConfig{Remote: Remote{URL: "file://" + o.dir, AllowFile: true}}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Tip(t.Context()); !errors.Is(err, ErrBranchNotFound) {
		t.Errorf("no branch: %v", err)
	}
	for n := range 2 {
		want := o.commit("by hand", map[string]string{"a": fmt.Sprint(n)})
		for range 2 {
			tip, err := w.Tip(t.Context())
			if err != nil || tip.Commit != want {
				t.Fatalf("%v, want %s, %v", tip, want, err)
			}
			if b, err := fs.ReadFile(tip.FS(), "a"); err != nil || string(b) != fmt.Sprint(n) {
				t.Errorf("%s, %v", b, err)
			}
		}
	}
	mine, err := w.Commit(t.Context(), func(*Snapshot) (*Change, error) {
		return &Change{Message: "mine", Files: map[string][]byte{"a": nil}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if tip, err := w.Tip(t.Context()); err != nil || tip.Commit != mine {
		t.Errorf("%v, want %s, %v", tip, mine, err)
	}
}
