package reconcile

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/gitsync"
	"github.com/sluice-cd/sluice/reconcile/charts"
	"github.com/sluice-cd/sluice/render"
)

// BenchmarkOneOf10000Apps is the way from a fetched commit to rendered objects when the commit gives one app of ten
// thousand a version that was never seen: read the environment, find the app, fetch its chart, render it.
func BenchmarkOneOf10000Apps(b *testing.B) {
	b.Run("values in one file", func(b *testing.B) { benchmarkBump(b, 10_000, false) })
	b.Run("values in own files, with templates", func(b *testing.B) { benchmarkBump(b, 10_000, true) })
}

// TestBumpCostsOneApp: what it takes to read a commit that bumps one app does not grow with the number of the others.
func TestBumpCostsOneApp(t *testing.T) {
	const few, many = 20, 1000
	for _, ownFiles := range []bool{false, true} {
		allocs := map[int]float64{}
		for _, apps := range []int{few, many} {
			dir, commits := newEnvironment(t, "http://charts", apps, 1, ownFiles)
			repo := openRepository(t, dir)
			var snapshots []*gitsync.Snapshot
			for _, commit := range commits {
				git(t, dir, "", "update-ref", "refs/heads/main", commit)
				s, err := repo.Fetch(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				snapshots = append(snapshots, s)
			}
			a, n := newReader(t), 0
			a.reads(snapshots[0])
			a.settled()
			allocs[apps] = testing.AllocsPerRun(20, func() {
				n++
				if a.reads(snapshots[n%2]); a.envFault != nil {
					t.Fatal(a.envFault)
				}
			})
		}
		if allocs[many] > allocs[few]+100 {
			t.Errorf("own files %v: %.0f allocations with %d apps, %.0f with %d", ownFiles, allocs[few], few, allocs[many], many)
		}
	}
}

func benchmarkBump(b *testing.B, apps int, ownFiles bool) {
	const bumps = 60
	charts, _ := serveCharts(b, bumps)
	dir, commits := newEnvironment(b, charts, apps, bumps, ownFiles)
	repo := openRepository(b, dir)
	fetch := func(commit string) *gitsync.Snapshot {
		git(b, dir, "", "update-ref", "refs/heads/main", commit)
		s, err := repo.Fetch(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	var a *Agent
	n := bumps
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if n == bumps {
			a, n = settledAgent(b, fetch(commits[0])), 0
		}
		n++
		s := fetch(commits[n])
		b.StartTimer()
		a.reads(s)
		name, ok := a.renders.take()
		if _, more := a.renders.take(); !ok || more {
			b.Fatalf("not exactly one app is to be rendered, but %q", name)
		}
		rel, _, err := a.renderer.Release(b.Context(), a.source, a.apps[name].input)
		if err != nil {
			b.Fatal(err)
		}
		if want := bumped(n); rel.Version != want || len(rel.Objects) != 2 {
			b.Fatalf("%s has version %s and %d objects, want version %s", name, rel.Version, len(rel.Objects), want)
		}
		a.apps[name].rendered = &rendering{input: a.apps[name].input.Digest}
		a.renders.Done(name)
	}
}

// bumped is the version that the nth bump brings.
func bumped(n int) string { return fmt.Sprintf("1.0.%d", n) }

// TestMain is the worker that renders for the tests as well.
func TestMain(m *testing.M) {
	render.BeWorker()
	os.Exit(m.Run())
}

// newReader is an agent that reads commits and renders, without a cluster.
func newReader(tb testing.TB) *Agent {
	tb.Helper()
	fetcher, err := render.NewFetcher(render.FetcherConfig{CacheDir: tb.TempDir(), Transport: http.DefaultTransport})
	if err != nil {
		tb.Fatal(err)
	}
	c := &charts.Charts{Fetcher: fetcher, Renderer: render.NewRenderer(render.RendererConfig{})}
	log := slog.New(slog.DiscardHandler)
	return New(Config{Log: log}, unwary{NewRepository(RepositoryConfig{Environment: "staging", Log: log})}, noCluster{}, c, nil)
}

// unwary is a repository in whose history one can go back and forth.
type unwary struct{ *Repository }

func (unwary) Rewritten(string, string) error { return nil }

// noCluster is one of which nothing is asked but whether somebody has left a command there, which nobody has.
type noCluster struct{ Cluster }

func (noCluster) Direct(string) (id, text string) { return "", "" }

// reads has the agent read a snapshot, as Follow does.
func (a *Agent) reads(s *gitsync.Snapshot) { a.Read(a.git.(unwary).load(s)) }

// settled takes every app of the commit for rendered.
func (a *Agent) settled() {
	for name, ok := a.renders.take(); ok; name, ok = a.renders.take() {
		a.apps[name].rendered = &rendering{input: a.apps[name].input.Digest}
		a.renders.Done(name)
	}
}

// settledAgent takes every app of a commit for rendered, and has rendered one of them.
func settledAgent(b *testing.B, s *gitsync.Snapshot) *Agent {
	b.Helper()
	a := newReader(b)
	a.reads(s)
	if a.envFault != nil {
		b.Fatal(a.envFault)
	}
	a.settled()
	if _, _, err := a.renderer.Release(b.Context(), a.source, &a.source.Env.Apps[0]); err != nil {
		b.Fatal(err)
	}
	return a
}

// newEnvironment makes a bare repository with a Jenkins X environment of so many apps, and a commit for each bump. It
// returns its directory and the commits, oldest first.
func newEnvironment(tb testing.TB, charts string, apps, bumps int, ownFiles bool) (dir string, commits []string) {
	tb.Helper()
	var in strings.Builder
	file := func(name, text string) { fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", name, len(text), text) }
	versions := map[int]string{}
	list := func() string {
		var list strings.Builder
		list.WriteString("dependencies:\n")
		for i := range apps {
			fmt.Fprintf(&list, "- name: app\n  alias: app-%05d\n  version: %s\n  repository: %s\n",
				i, cmp.Or(versions[i], bumped(0)), charts)
		}
		return list.String()
	}
	const who = "committer Bob <bob@example.com> 1700000000 +0000\ndata 1\nc\n"
	in.WriteString("commit refs/heads/all\nmark :1\n" + who)
	file("env/Chart.yaml", "apiVersion: v1\nname: env\nversion: 0.0.1\n")
	file("env/requirements.yaml", list())
	var values strings.Builder
	for i := range apps {
		text := fmt.Sprintf("replicaCount: 2\nimage:\n  tag: v%d\n", i)
		if ownFiles {
			file(fmt.Sprintf("env/app-%05d/values.yaml", i), text)
		}
		fmt.Fprintf(&values, "app-%05d:\n  %s\n", i, strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  "))
	}
	file("env/values.yaml", values.String())
	if ownFiles {
		file("env/templates/_helpers.tpl", "{{ define \"env.team\" }}a-team{{ end }}\n")
		file("env/templates/own.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\n")
	}
	for n := 1; n <= bumps; n++ {
		versions[n*apps/(bumps+1)] = bumped(n)
		fmt.Fprintf(&in, "commit refs/heads/all\nmark :%d\n%s", n+1, who)
		file("env/requirements.yaml", list())
	}
	dir = importRepository(tb, in.String())
	return dir, strings.Fields(git(tb, dir, "", "rev-list", "--reverse", "all"))
}

// importRepository makes a repository of what git fast-import reads.
func importRepository(tb testing.TB, input string) (dir string) {
	tb.Helper()
	dir = filepath.Join(tb.TempDir(), "env.git")
	git(tb, ".", "", "init", "--quiet", "--bare", dir)
	git(tb, dir, input, "fast-import", "--quiet")
	return dir
}

// openRepository reads branch main of a repository on this machine.
func openRepository(tb testing.TB, dir string) *gitsync.Repo {
	tb.Helper()
	repo, err := gitsync.Open(tb.Context(), gitsync.Remote{URL: "file://" + dir, AllowFile: true}, tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = repo.Close() })
	return repo
}

func git(tb testing.TB, dir, input string, args ...string) string {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		tb.Fatalf("git %s: %v\n%s", args[0], err, out)
	}
	return string(out)
}

// serveCharts is a chart repository with chart app in as many versions as there are bumps, and one more. It serves files.
func serveCharts(tb testing.TB, bumps int) (url string, files map[string][]byte) {
	tb.Helper()
	files = map[string][]byte{}
	index := "apiVersion: v1\nentries:\n  app:\n"
	for n := range bumps + 1 {
		files["/app-"+bumped(n)+".tgz"] = packChart(tb, bumped(n))
		index += fmt.Sprintf("  - {version: %s, urls: [app-%s.tgz]}\n", bumped(n), bumped(n))
	}
	files["/index.yaml"] = []byte(index)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = w.Write(files[req.URL.Path])
	}))
	tb.Cleanup(s.Close)
	return s.URL, files
}

func packChart(tb testing.TB, version string) []byte {
	tb.Helper()
	var buf bytes.Buffer
	gz := gzip.NewWriter(&buf)
	w := tar.NewWriter(gz)
	for name, text := range map[string]string{
		"Chart.yaml":  "apiVersion: v2\nname: app\nversion: " + version + "\n",
		"values.yaml": "replicaCount: 1\nimage: {tag: none}\n",
		"templates/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicaCount }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: app, image: "app:{{ .Values.image.tag }}"}]}
`,
		"templates/service.yaml": `apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80}]}
`,
	} {
		if err := w.WriteHeader(&tar.Header{Name: "app/" + name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))}); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			tb.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), gz.Close()); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}
