package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-cd/sluice/render"
)

// privateCharts is a chart repository that asks for a password.
func privateCharts(t *testing.T, password string) string {
	t.Helper()
	var archive bytes.Buffer
	gz := gzip.NewWriter(&archive)
	w := tar.NewWriter(gz)
	chart := "apiVersion: v2\nname: web\nversion: 1.0.0\n"
	err := w.WriteHeader(&tar.Header{Name: "web/Chart.yaml", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(chart))})
	_, errWrite := w.Write([]byte(chart))
	if err := errors.Join(err, errWrite, w.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"/index.yaml":    []byte("apiVersion: v1\nentries: {web: [{apiVersion: v2, name: web, version: 1.0.0, urls: [web-1.0.0.tgz]}]}\n"),
		"/web-1.0.0.tgz": archive.Bytes(),
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, got, _ := r.BasicAuth(); got != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(files[r.URL.Path])
	}))
	t.Cleanup(s.Close)
	return s.URL
}

// What one environment has fetched with its credentials is out of reach of the others of the agent.
func TestChartsOfAnEnvironment(t *testing.T) {
	url, dir := privateCharts(t, "secret-password"), t.TempDir()
	for name, text := range map[string]string{"right": "secret-password", "agent.yaml": strings.ReplaceAll(`
apiVersion: sluice.dev/v1alpha1
kind: Agent
dataDir: data
prometheus: {address: "http://prometheus:9090"}
charts: [{url: URL}]
environments:
- name: prod
  repository: {url: "https://git.example.com/prod.git"}
  charts: [{url: URL, username: prod, passwordFile: right}]
- name: dev
  repository: {url: "https://git.example.com/dev.git"}
`, "URL", url)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, at, err := readConfig(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c.complete(at.fault)
	if err := errors.Join(at.faults...); err != nil {
		t.Fatal(err)
	}
	fetch := func(e envConfig) error {
		charts, err := c.chartsOf(e, c.DataDir, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = charts.Fetcher.Fetch(t.Context(), render.Ref{Name: "web", Version: "1.0.0", Repository: url})
		return err
	}
	prod, dev := c.Environments[0], c.Environments[1]
	if err := fetch(prod); err != nil {
		t.Fatal("prod has the credentials:", err)
	}
	if err := fetch(dev); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("dev has none, and gets the chart of prod: %v", err)
	}
	if c.Charts = prod.Charts; fetch(dev) != nil {
		t.Error("what is given to all environments is not used for dev")
	}
}
