package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/registry"
)

// ociServer answers as a registry does for pulling, with token authentication when user is set.
type ociServer struct {
	*httptest.Server
	blobs    map[string][]byte
	tags     map[string]string // to the digest of a manifest
	user     string
	requests []string
}

func newOCIServer(t *testing.T) *ociServer {
	t.Helper()
	s := &ociServer{blobs: map[string][]byte{}, tags: map[string]string{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *ociServer) blob(data []byte) map[string]any {
	digest := "sha256:" + sha256Hex(data)
	s.blobs[digest] = data
	return map[string]any{"digest": digest, "size": len(data)}
}

func (s *ociServer) push(t *testing.T, tag string, archive []byte, mediaType string) {
	t.Helper()
	s.pushSigned(t, tag, archive, mediaType, nil)
}

// pushSigned is push with a layer for the provenance, unless that is nil.
func (s *ociServer) pushSigned(t *testing.T, tag string, archive []byte, mediaType string, provenance []byte) {
	t.Helper()
	layer, config := s.blob(archive), s.blob([]byte("{}"))
	layer["mediaType"], config["mediaType"] = mediaType, registry.ConfigMediaType
	layers := []any{layer}
	if provenance != nil {
		signature := s.blob(provenance)
		signature["mediaType"] = registry.ProvLayerMediaType
		layers = append(layers, signature)
	}
	data, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": layers,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.tags[tag] = s.blob(data)["digest"].(string)
}

func (s *ociServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests = append(s.requests, r.URL.Path)
	if r.URL.Path == "/token" {
		if user, pass, _ := r.BasicAuth(); user != s.user || pass != "secret-password" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"token": "pull-token"}`)
		return
	}
	if s.user != "" && r.Header.Get("Authorization") != "Bearer pull-token" {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="registry",scope="repository:charts/app:pull"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	rest, ok := strings.CutPrefix(strings.Replace(r.URL.Path, "/charts/", "/", 1), "/v2/app/") // of a registry with a path or without
	kind, name, _ := strings.Cut(rest, "/")
	if digest, tagged := s.tags[name]; tagged && kind == "manifests" {
		name = digest
	}
	data, found := s.blobs[name]
	switch {
	case ok && rest == "tags/list":
		var tags []string
		for tag := range s.tags {
			tags = append(tags, tag)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"name": "charts/app", "tags": tags})
	case ok && found:
		if kind == "manifests" {
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		}
		w.Header().Set("Docker-Content-Digest", name)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		if r.Method != http.MethodHead {
			_, _ = w.Write(data)
		}
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *ociServer) repository() string {
	return "oci://" + strings.TrimPrefix(s.URL, "http://") + "/charts"
}

func TestFetchOCI(t *testing.T) {
	s := newOCIServer(t)
	s.user = "robot"
	for _, v := range []string{"1.0.0", "1.1.0", "2.0.0-rc.1", "1.1.1+build.7"} {
		s.push(t, strings.ReplaceAll(v, "+", "_"), simpleChart(t, "app", v, "x"), registry.ChartLayerMediaType)
	}
	s.tags["latest"] = s.tags["1.0.0"]
	dir := t.TempDir()
	access := []Access{{URL: s.repository(), Username: "robot", Password: "secret-password"}}
	f := newTestFetcher(t, FetcherConfig{CacheDir: dir, Access: access})
	for version, want := range map[string]string{
		"1.0.0": "1.0.0", "~1.0": "1.0.0", "": "1.1.1+build.7", "1.1.1+build.7": "1.1.1+build.7", ">1-0": "2.0.0-rc.1",
	} {
		c, err := f.Fetch(t.Context(), Ref{"app", version, s.repository()})
		if err != nil {
			t.Errorf("%q: %v", version, err)
		} else if c.Version() != want {
			t.Errorf("%q: got %s, want %s", version, c.Version(), want)
		}
	}
	s.requests = nil
	again := newTestFetcher(t, FetcherConfig{CacheDir: dir, Access: access})
	if _, err := again.Fetch(t.Context(), Ref{"app", "1.0.0", s.repository()}); err != nil || len(s.requests) > 0 {
		t.Errorf("a cached version: %v, requests %q", err, s.requests)
	}
}

// TestFetchOCIOfHost: a chart may be at the root of a registry.
func TestFetchOCIOfHost(t *testing.T) {
	s := newOCIServer(t)
	s.push(t, "1.0.0", simpleChart(t, "app", "1.0.0", "x"), registry.ChartLayerMediaType)
	for _, end := range []string{"", "/", "/charts/"} {
		ref := Ref{"app", "1.0.0", strings.TrimSuffix(s.repository(), "/charts") + end}
		if _, err := newTestFetcher(t, FetcherConfig{}).Fetch(t.Context(), ref); err != nil {
			t.Errorf("%s: %v", ref.Repository, err)
		}
	}
}

func TestFetchOCIErrors(t *testing.T) {
	s := newOCIServer(t)
	s.push(t, "1.0.0", simpleChart(t, "app", "1.0.0", "x"), registry.ChartLayerMediaType)
	s.push(t, "2.0.0", []byte("an image"), "application/vnd.oci.image.layer.v1.tar+gzip")
	s.push(t, "3.0.0", make([]byte, 11<<20), registry.ChartLayerMediaType)
	s.push(t, "4.0.0", simpleChart(t, "app", "4.0.0", "x"), registry.ChartLayerMediaType)
	for digest, data := range s.blobs {
		if slices.Equal(data, simpleChart(t, "app", "4.0.0", "x")) {
			s.blobs[digest] = slices.Concat(data[:len(data)-1], []byte{'!'})
		}
	}
	f := newTestFetcher(t, FetcherConfig{})
	for version, want := range map[string]string{
		"1.0.1": "no version 1.0.1; nearest are 4.0.0, 3.0.0, 2.0.0, 1.0.0",
		"^9.0":  "no version ^9.0",
		"2.0.0": "is no Helm chart",
		"3.0.0": "chart archive is larger than the limit of 10 MiB",
		"4.0.0": "does not fit its digest",
	} {
		_, err := f.Fetch(t.Context(), Ref{"app", version, s.repository()})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", version, err, want)
		}
	}
	if _, err := f.Fetch(t.Context(), Ref{"app", "1.0.1", s.repository()}); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v is not ErrNotFound", err)
	}
	s.user = "robot"
	wrong := newTestFetcher(t, FetcherConfig{Access: []Access{{URL: s.repository(), Username: "robot", Password: "secret-wrong"}}})
	if _, err := wrong.Fetch(t.Context(), Ref{"app", "1.0.0", s.repository()}); err == nil || strings.Contains(err.Error(), "secret-") {
		t.Errorf("error: %v", err)
	}
}

func TestIndexThatLeadsToARegistry(t *testing.T) {
	s := newOCIServer(t)
	archive := simpleChart(t, "app", "1.0.0", "x")
	s.push(t, "1.0.0", archive, registry.ChartLayerMediaType)
	repo := newChartRepo(t)
	repo.files["/charts/index.yaml"] = fmt.Appendf(nil, "apiVersion: v1\nentries: {app: [{version: 1.0.0, digest: %s, urls: ['%s/app:1.0.0']}]}",
		sha256Hex(archive), s.repository())
	if _, err := newTestFetcher(t, FetcherConfig{}).Fetch(t.Context(), repo.ref("1.0.0")); err != nil {
		t.Error(err)
	}
}
