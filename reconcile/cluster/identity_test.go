package cluster

import (
	"net/http"
	"net/http/httptest"
	"testing"

	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// TestUID: the namespace of the states tells; an API server that is away is no answer.
func TestUID(t *testing.T) {
	for name, c := range map[string]struct {
		code  int
		want  string
		fails bool
	}{
		"there":                 {200, "uid-of-jx-production", false},
		"not to be seen":        {403, "", false},
		"not made yet":          {404, "uid-of-jx-production", false},
		"the API server breaks": {500, "", true},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			ns := "jx-production"
			if r.Method == http.MethodPost {
				c.code = 200
			}
			w.WriteHeader(c.code)
			if c.code == 200 {
				_, _ = w.Write([]byte(`{"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "` + ns + `", "uid": "uid-of-` + ns + `"}}`))
				return
			}
			reason := map[int]string{403: "Forbidden", 404: "NotFound", 500: "InternalError"}[c.code]
			_, _ = w.Write([]byte(`{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "` + reason + `"}`))
		}))
		core, err := coreclient.NewForConfig(&rest.Config{Host: srv.URL})
		if err != nil {
			t.Fatal(err)
		}
		client := &Client{core: core, cfg: Config{Namespace: "jx-production"}}
		if got, err := client.UID(t.Context()); got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		srv.Close()
	}
}
