package render

import (
	"archive/tar"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"helm.sh/helm/v3/pkg/chart/loader"
)

const chartYAML = "apiVersion: v2\nname: app\nversion: 1.0.0\n"

func TestHostileArchives(t *testing.T) {
	header := func(name string, kind byte) *tar.Header {
		return &tar.Header{Name: name, Typeflag: kind, Linkname: "/etc/passwd", Mode: 0o644}
	}
	limits := Limits{}.withDefaults()
	tests := map[string]struct {
		archive []byte
		want    string
	}{
		"parent directory": {packed(t, "app/Chart.yaml", chartYAML, "app/../../etc/cron.d/x", "x"), "illegal path"},
		"base is parent":   {packed(t, "../Chart.yaml", chartYAML), "illegal path"},
		"absolute":         {packed(t, "/app/Chart.yaml", chartYAML), "illegal path"},
		"absolute inside":  {packed(t, "app//etc/passwd", "x"), "illegal path"},
		"windows":          {packed(t, `app\..\..\x`, "x"), "illegal path"},
		"drive":            {packed(t, "app/c:/x", "x"), "illegal path"},
		"no base":          {packed(t, "Chart.yaml", chartYAML), "outside the chart's base directory"},
		"symbolic link":    {pack(t, []*tar.Header{header("app/values.yaml", tar.TypeSymlink)}, nil), "links are refused"},
		"hard link":        {pack(t, []*tar.Header{header("app/values.yaml", tar.TypeLink)}, nil), "links are refused"},
		"device":           {pack(t, []*tar.Header{header("app/dev", tar.TypeChar)}, nil), "links are refused"},
		"empty":            {pack(t, nil, nil), "no files"},
		"large file":       {packed(t, "app/a", strings.Repeat("a", int(limits.File)+1)), `file "a" is larger than the limit of 5 MiB`},
		"subchart escapes": {packed(t, "app/charts/x.tgz", string(packed(t, "x/../../y", "x"))), "illegal path"},
		"bad subchart":     {packed(t, "app/charts/x.tgz", "no archive"), `subchart "charts/x.tgz"`},
		"nested subchart":  {packed(t, "app/charts/x/charts/y.tgz", "no archive"), `subchart "charts/x/charts/y.tgz"`},
		"matryoshka":       {matryoshka(t, 20), "nested more than 8 deep"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := readArchive(tt.archive, limits.allowance(), 0)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func matryoshka(t *testing.T, depth int) []byte {
	inner := []byte("core")
	for range depth {
		inner = packed(t, "x/charts/x.tgz", string(inner))
	}
	return inner
}

func TestBombs(t *testing.T) {
	zeros := make([]byte, 4<<20)
	many := func(n int, kind byte, size int) []byte {
		entries := make([]*tar.Header, n)
		for i := range entries {
			entries[i] = &tar.Header{Name: "app/f", Typeflag: kind, Size: int64(size), Mode: 0o644}
		}
		return pack(t, entries, func(int) []byte { return zeros[:size] })
	}
	bomb := many(26, tar.TypeReg, len(zeros)) // 104 MiB of zeros in 0.1 MiB
	tests := map[string]struct {
		archive []byte
		what    string
	}{
		"zeros":             {bomb, "extracted chart"},
		"zeros in subchart": {packed(t, "app/charts/a.tgz", string(many(13, tar.TypeReg, len(zeros))), "app/charts/b.tgz", string(many(13, tar.TypeReg, len(zeros)))), "extracted chart"},
		"many files":        {many(10_001, tar.TypeReg, 0), "number of files"},
		"many directories":  {many(10_001, tar.TypeDir, 0), "number of files"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var limit *LimitError
			_, err := readArchive(tt.archive, Limits{}.withDefaults().allowance(), 0)
			if !errors.As(err, &limit) || limit.What != tt.what {
				t.Errorf("error %v, want the limit of the %s", err, tt.what)
			}
		})
	}
}

func TestArchiveOverTheLimitIsNotDownloaded(t *testing.T) {
	repo := newChartRepo(t)
	repo.publish("app", "1.0.0", make([]byte, 100<<20))
	f := newTestFetcher(t, FetcherConfig{})
	var limit *LimitError
	_, err := f.Fetch(t.Context(), repo.ref("1.0.0"))
	if !errors.As(err, &limit) || limit.Limit != 10<<20 {
		t.Errorf("error: %v", err)
	}
}

func TestDigestDoesNotDependOnPacking(t *testing.T) {
	sub := packed(t, "sub/Chart.yaml", "apiVersion: v2\nname: sub\nversion: 1.0.0\n")
	fromArchive, err := readArchive(packed(t, "base/Chart.yaml", chartYAML, "base/charts/sub-1.0.0.tgz", string(sub), "base/values.yaml", "a: 1"), Limits{}.withDefaults().allowance(), 0)
	if err != nil {
		t.Fatal(err)
	}
	root, err := loadFiles(fromArchive, Limits{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	dir := fstest.MapFS{
		"c/values.yaml":            {Data: []byte("a: 1")},
		"c/Chart.yaml":             {Data: []byte(chartYAML)},
		"c/charts/sub/Chart.yaml":  {Data: []byte("apiVersion: v2\nname: sub\nversion: 1.0.0\n")},
		"elsewhere/templates/x.md": {},
	}
	c := load(t, newTestFetcher(t, FetcherConfig{}), dir, "c", false)
	if c.Digest() != newChart(root).Digest() {
		t.Error("the same files give two digests")
	}
	dir["c/charts/sub/values.yaml"] = &fstest.MapFile{Data: []byte("b: 1")}
	if changed := load(t, newTestFetcher(t, FetcherConfig{}), dir, "c", false); changed.Digest() == c.Digest() {
		t.Error("a change in a subchart does not change the digest")
	}
}

// FuzzArchive looks for archives that panic, or that get more out than the limits allow.
func FuzzArchive(f *testing.F) {
	f.Add(packed(f, "app/Chart.yaml", chartYAML, "app/templates/a.yaml", "a: {{ .Values.a }}"))
	f.Add(packed(f, "app/charts/x.tgz", string(packed(f, "x/Chart.yaml", chartYAML))))
	limits := Limits{Archive: 1 << 20, File: 1 << 16, Extracted: 1 << 18, Files: 100}.withDefaults()
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := readArchive(data, limits.allowance(), 0)
		if err != nil {
			return
		}
		var size int64
		for _, file := range files {
			size += int64(len(file.Data))
			if strings.HasPrefix(file.Name, "/") || strings.Contains("/"+file.Name+"/", "/../") {
				t.Errorf("path %q", file.Name)
			}
		}
		if size > limits.Extracted || len(files) > limits.Files {
			t.Errorf("%d files of %d bytes", len(files), size)
		}
		if root, err := loadFiles(files, Limits{}.withDefaults()); err == nil {
			collectVolatile(root, map[string]bool{})
		}
	})
}

func TestSameFilesAsHelm(t *testing.T) {
	archive := packed(t, "app/Chart.yaml", chartYAML, "app/values.yaml", "\ufeffa: 1", "app/templates/a.yaml", "x", "app/files/b", "y")
	name := t.TempDir() + "/app.tgz"
	if err := os.WriteFile(name, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := loader.LoadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	files, err := readArchive(archive, Limits{}.withDefaults().allowance(), 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := loadFiles(files, Limits{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range want.Raw {
		if got.Raw[i].Name != f.Name || string(got.Raw[i].Data) != string(f.Data) {
			t.Errorf("file %d: got %s %q, want %s %q", i, got.Raw[i].Name, got.Raw[i].Data, f.Name, f.Data)
		}
	}
}
