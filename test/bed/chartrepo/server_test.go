package chartrepo_test

import (
	"io"
	"net/http"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/repo"
	"sigs.k8s.io/yaml"

	"github.com/sluice-cd/sluice/test/bed/chartrepo"
)

func get(t *testing.T, url, user, password string) (int, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(user, password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}

func TestServesWhatIsAdded(t *testing.T) {
	s, err := chartrepo.New(chartrepo.Options{Dir: t.TempDir(), User: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Stop() }()
	for _, version := range []string{"1.0.0", "1.1.0"} {
		if err := s.AddChart(&chart.Chart{Metadata: &chart.Metadata{APIVersion: "v2", Name: "app", Version: version}}); err != nil {
			t.Fatal(err)
		}
	}

	if code, _ := get(t, s.URL()+"/index.yaml", "u", "wrong"); code != http.StatusUnauthorized {
		t.Errorf("wrong password: %d", code)
	}
	code, body := get(t, s.URL()+"/index.yaml", "u", "p")
	var index repo.IndexFile
	if err := yaml.Unmarshal(body, &index); err != nil || code != http.StatusOK {
		t.Fatalf("index: %d, %v", code, err)
	}
	if len(index.Entries["app"]) != 2 || index.Entries["app"][0].Version != "1.1.0" {
		t.Fatalf("index: %s", body)
	}
	if code, body := get(t, index.Entries["app"][0].URLs[0], "u", "p"); code != http.StatusOK || len(body) == 0 {
		t.Errorf("package: %d, %d bytes", code, len(body))
	}
	for _, path := range []string{"/", "/missing.tgz", "/../server.go", "/.index.yaml"} {
		if code, _ := get(t, s.URL()+path, "u", "p"); code != http.StatusNotFound {
			t.Errorf("%s: %d", path, code)
		}
	}

	s.SetIndex([]byte("{"))
	if _, body := get(t, s.URL()+"/index.yaml", "u", "p"); string(body) != "{" {
		t.Errorf("bad index: %s", body)
	}
	s.SetHuge("app-2.0.0.tgz", 1<<20)
	if _, body := get(t, s.URL()+"/app-2.0.0.tgz", "u", "p"); len(body) != 1<<20 {
		t.Errorf("huge archive: %d bytes", len(body))
	}
	if n := s.Requests("index.yaml"); n != 2 {
		t.Errorf("%d requests for the index, want the 2 admitted", n)
	}
}
