package gitsync

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// newLargeOrigin has 10,000 directories of one file on main, and commits further commits that change one file
// each. It returns all commits, oldest first.
func newLargeOrigin(b testing.TB, commits int) (*origin, []string) {
	b.Helper()
	o := newOrigin(b)
	var in strings.Builder
	who := "committer Bob <bob@example.com> 1700000000 +0000\ndata 1\nc\n"
	in.WriteString("commit refs/heads/all\nmark :1\n" + who)
	for i := range 10_000 {
		text := fmt.Sprintf("version: 1.0.%d\n", i)
		fmt.Fprintf(&in, "M 100644 inline env/app-%05d/values.yaml\ndata %d\n%s\n", i, len(text), text)
	}
	for i := range commits {
		text := fmt.Sprintf("version: 2.0.%d\n", i)
		fmt.Fprintf(&in, "commit refs/heads/all\nmark :%d\n%s", i+2, who)
		fmt.Fprintf(&in, "M 100644 inline env/app-%05d/values.yaml\ndata %d\n%s\n", i%10_000, len(text), text)
	}
	cmd := gitCommand(o.dir, "fast-import", "--quiet")
	cmd.Stdin = strings.NewReader(in.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("fast-import: %v\n%s", err, out)
	}
	list := strings.Fields(o.git(o.dir, "rev-list", "--reverse", "all"))
	o.git(o.dir, "update-ref", "-d", "refs/heads/all")
	return o, list
}

func (o *origin) setMain(commit string) {
	if err := os.WriteFile(filepath.Join(o.dir, "refs/heads/main"), []byte(commit+"\n"), 0o600); err != nil {
		o.t.Fatal(err)
	}
}

// BenchmarkFetchOneOf10000 fetches a commit that changes one of ten thousand directories, finds which one by its
// hash and reads the file. The server (in part) runs in the same process.
func BenchmarkFetchOneOf10000(b *testing.B) {
	const commits = 200
	o, list := newLargeOrigin(b, commits)
	o.setMain(list[0])
	repo := mustOpen(b, o.serveHTTP("", "").remote())
	mustFetch(b, repo)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n++; n > commits {
			b.StopTimer()
			o.setMain(list[0])
			repo = mustOpen(b, repo.Remote())
			mustFetch(b, repo)
			n = 1
			b.StartTimer()
		}
		o.setMain(list[n])
		s := mustFetch(b, repo)
		if _, err := fs.ReadFile(s.FS(), fmt.Sprintf("env/app-%05d/values.yaml", n-1)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFetchUnmoved fetches a branch that has not moved.
func BenchmarkFetchUnmoved(b *testing.B) {
	o, list := newLargeOrigin(b, 0)
	o.setMain(list[0])
	repo := mustOpen(b, o.serveHTTP("", "").remote())
	mustFetch(b, repo)
	b.ReportAllocs()
	for b.Loop() {
		mustFetch(b, repo)
	}
}

// BenchmarkReadFile reads one file of ten thousand directories, each time another.
func BenchmarkReadFile(b *testing.B) {
	o, list := newLargeOrigin(b, 0)
	o.setMain(list[0])
	f := mustFetch(b, mustOpen(b, o.serveHTTP("", "").remote())).FS()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		if _, err := fs.ReadFile(f, fmt.Sprintf("env/app-%05d/values.yaml", n%10_000)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHash asks for the hash of one directory of ten thousand.
func BenchmarkHash(b *testing.B) {
	o, list := newLargeOrigin(b, 0)
	o.setMain(list[0])
	s := mustFetch(b, mustOpen(b, o.serveHTTP("", "").remote()))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		if _, err := s.Hash(fmt.Sprintf("env/app-%05d", n%10_000)); err != nil {
			b.Fatal(err)
		}
	}
}

// One file is read without walking the tree: what is allocated does not grow with the repository.
func TestReadingOneFileIsLazy(t *testing.T) {
	o, list := newLargeOrigin(t, 0)
	o.setMain(list[0])
	f := mustFetch(t, mustOpen(t, o.serveHTTP("", "").remote())).FS()
	i := 0
	allocs := testing.AllocsPerRun(100, func() {
		i++
		if _, err := fs.ReadFile(f, fmt.Sprintf("env/app-%05d/values.yaml", i)); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 60 {
		t.Errorf("%.0f allocations for one file", allocs)
	}
}

// BenchmarkFiftyWriters is fifty agents that write to one repository over HTTP at the same moment, until all of them have: each to a
// branch of its own, as they tell their status, or all to one, as they would take back fifty releases.
func BenchmarkFiftyWriters(b *testing.B) {
	for name, branch := range map[string]func(i int) string{
		"branches": func(i int) string { return fmt.Sprint("sluice/status/", i) },
		"branch":   func(int) string { return "main" },
	} {
		b.Run(name, func(b *testing.B) { fiftyWriters(b, branch) })
	}
}

func fiftyWriters(b *testing.B, branch func(i int) string) {
	const writers = 50
	o := newOrigin(b)
	o.git(o.dir, "config", "receive.autogc", "false") // no forge does that while somebody waits
	o.commit("base", map[string]string{"README": "x"})
	all := make([]*Writer, writers)
	for i := range all {
		r := o.serveHTTP("", "").remote()
		r.Branch = branch(i)
		all[i] = mustWriter(b, WriterConfig{Remote: r, Create: true})
	}
	var tries atomic.Int64
	rounds := 0
	for b.Loop() {
		rounds++
		var wg sync.WaitGroup
		for i, w := range all {
			wg.Go(func() {
				_, err := w.Commit(b.Context(), func(*Snapshot) (*Change, error) {
					tries.Add(1)
					return &Change{Message: "write", Files: map[string][]byte{fmt.Sprint("w", i): fmt.Append(nil, rounds)}}, nil
				})
				if err != nil {
					b.Error(err)
				}
			})
		}
		wg.Wait()
	}
	if got := o.git(o.dir, "rev-list", "--count", "--all"); got != fmt.Sprint(rounds*writers+1) {
		b.Errorf("%s commits", got)
	}
	b.ReportMetric(float64(tries.Load())/float64(rounds*writers), "tries/write")
}
