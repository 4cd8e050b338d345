package prometheus

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/analysis"
)

// server answers queries as a Prometheus does, from recorded answers, and remembers what it was asked.
type server struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string]string
	asked   []string
	times   map[string]bool
	header  http.Header
}

const (
	serverTime = `{"status":"success","data":{"resultType":"scalar","result":[1772366400.125,"1772366400.125"]}}`
	noSeries   = `{"status":"success","data":{"resultType":"vector","result":[]}}`
)

func vector(values ...string) string {
	var series []string
	for i, v := range values {
		series = append(series, fmt.Sprintf(`{"metric":{"i":"%d"},"value":[1772366400.125,%q]}`, i, v))
	}
	return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(series, ",") + `]}}`
}

func start(t *testing.T, answers map[string]string) *server {
	t.Helper()
	s := &server{answers: answers, times: map[string]bool{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.FormValue("query")
	s.mu.Lock()
	s.asked = append(s.asked, query)
	s.header = r.Header.Clone()
	if query != "time()" && query != "vector(1)" {
		s.times[r.FormValue("time")] = true
	}
	answer, ok := s.answers[query]
	s.mu.Unlock()
	switch {
	case query == "slow":
		<-r.Context().Done()
	case r.URL.Path != "/api/v1/query":
		http.NotFound(w, r)
	case ok && strings.HasPrefix(answer, "{"):
		if strings.Contains(answer, `"status":"error"`) {
			w.WriteHeader(http.StatusBadRequest)
		}
		fmt.Fprint(w, answer)
	case ok && answer == "who are you":
		http.Error(w, answer, http.StatusUnauthorized)
	case ok && answer == "redirect":
		http.Redirect(w, r, "http://elsewhere.example.com/", http.StatusTemporaryRedirect)
	case ok:
		http.Error(w, answer, http.StatusServiceUnavailable)
	case query == "time()":
		fmt.Fprint(w, serverTime)
	default:
		fmt.Fprint(w, vector("1"))
	}
}

func client(t *testing.T, c Config) *Client {
	t.Helper()
	client, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestAnswers(t *testing.T) {
	huge := `{"status":"success","data":{"resultType":"string","result":[1,"` + strings.Repeat("x", maxResponse) + `"]}}`
	tests := []struct {
		name, answer string
		present      bool
		value        float64
		err          string
	}{
		{"one series", vector("69.17"), true, 69.17, ""},
		{"infinite", vector("+Inf"), true, math.Inf(1), ""},
		{"not a number", vector("NaN"), false, 0, ""},
		{"no series", noSeries, false, 0, ""},
		{"a scalar", `{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}`, true, 7, ""},
		{"several series", vector("1", "2", "3"), false, 0, "answers with 3 series, expected one"},
		{"a matrix", `{"status":"success","data":{"resultType":"matrix","result":[]}}`, false, 0, "answers with a matrix"},
		{"a string", `{"status":"success","data":{"resultType":"string","result":[1,"x"]}}`, false, 0, "string"},
		{
			"a histogram",
			`{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"1","sum":"1","buckets":[]}]}]}}`,
			false, 0, "histogram",
		},
		{"a refused query", `{"status":"error","errorType":"bad_data","error":"parse error: unexpected end of input"}`, false, 0, "bad_data: parse error: unexpected end of input"},
		{"a server that is not up", "starting", false, 0, "503"},
		{"a server that does not know us", "who are you", false, 0, "401"},
		{"no JSON", `{"status":`, false, 0, "asking prometheus"},
		{"no data", `{"status":"success"}`, false, 0, "expected a number"},
		{"a redirect", "redirect", false, 0, "307"},
		{"more than anybody reads", huge, false, 0, "larger than 4 MiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, map[string]string{"q": tt.answer})
			got := client(t, Config{Address: s.URL}).Ask(t.Context(), []analysis.Check{{Name: "check", Query: "q"}})[0]
			if tt.err != "" {
				if got.Err == nil || !strings.Contains(got.Err.Error(), tt.err) || got.Present {
					t.Fatalf("got %+v, want an error with %q", got, tt.err)
				}
				return
			}
			if got.Err != nil || got.Present != tt.present || got.Value != tt.value || got.Requests != -1 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestRound(t *testing.T) {
	s := start(t, map[string]string{
		"rate":    `{"status":"success","warnings":["PromQL info: metric might not be a counter","partial response"],"data":{"resultType":"vector","result":[{"metric":{},"value":[1,"99"]}]}}`,
		"traffic": vector("600"), "quiet": noSeries,
		"broken": `{"status":"error","errorType":"execution","error":"too many samples"}`,
	})
	got := client(t, Config{Address: s.URL + "/"}).Ask(t.Context(), []analysis.Check{
		{Name: "rate", Query: "rate", Traffic: "traffic"},
		{Name: "p99", Query: "p99", Traffic: "traffic"},
		{Name: "idle", Query: "p99", Traffic: "quiet"},
		{Name: "uncounted", Query: "p99", Traffic: "broken"},
		{Name: "empty"},
	})
	if g := got[0]; g.Value != 99 || g.Requests != 600 || len(g.Warnings) != 1 || g.Warnings[0] != "partial response" {
		t.Errorf("rate: %+v", g)
	}
	if g := got[1]; g.Value != 1 || g.Requests != 600 || len(g.Warnings) != 0 {
		t.Errorf("p99: %+v", g)
	}
	if g := got[2]; g.Requests != 0 || g.Err != nil {
		t.Errorf("idle: %+v", g)
	}
	if g := got[3]; g.Err == nil || !strings.Contains(g.Err.Error(), "counting requests: asking prometheus: execution: too many samples") {
		t.Errorf("uncounted: %+v", g)
	}
	if got[4].Err == nil {
		t.Error("a check without a query has an answer")
	}
	if len(s.asked) != 6 {
		t.Errorf("asked %q; shared queries are asked once", s.asked)
	}
	if len(s.times) != 1 || !s.times["1772366400.125"] {
		t.Errorf("asked for %v, want the server's time for all", s.times)
	}
}

func TestServerAway(t *testing.T) {
	s := start(t, nil)
	s.Close()
	c := client(t, Config{Address: strings.Replace(s.URL, "http://", "http://sluice:hunter2@", 1)})
	for _, got := range c.Ask(t.Context(), make([]analysis.Check, 3)) {
		if got.Err == nil || !strings.Contains(got.Err.Error(), "refused") {
			t.Errorf("got %+v", got)
		}
	}
	if err := c.Ready(t.Context()); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Ready: %v", err)
	}
}

func TestTimeoutAndCancel(t *testing.T) {
	s := start(t, nil)
	c := client(t, Config{Address: s.URL, Timeout: time.Second})
	checks := []analysis.Check{{Query: "slow"}, {Query: "fast"}}
	got := c.Ask(t.Context(), checks)
	if err := got[0].Err; err == nil || err.Error() != "asking prometheus: no answer within 1s" {
		t.Errorf("slow: %v", err)
	}
	if got[1].Err != nil || !got[1].Present {
		t.Errorf("fast: %+v", got[1])
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Ask(cancelled, checks)[1].Err; err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("cancelled: %v", err)
	}
}

func TestSigningIn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, nil)
	write("hunter2\n")
	header := func(c *Client) string {
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		return s.header.Get("Authorization")
	}
	for name, tt := range map[string]struct {
		config Config
		want   string
	}{
		"none":                  {Config{}, ""},
		"basic":                 {Config{Username: "sluice", Password: "hunter2"}, "Basic c2x1aWNlOmh1bnRlcjI="},
		"basic from a file":     {Config{Username: "sluice", PasswordFile: file}, "Basic c2x1aWNlOmh1bnRlcjI="},
		"basic from the URL":    {Config{Address: strings.Replace(s.URL, "://", "://sluice:hunter2@", 1)}, "Basic c2x1aWNlOmh1bnRlcjI="},
		"bearer":                {Config{BearerToken: "tok"}, "Bearer tok"},
		"bearer from a file":    {Config{BearerTokenFile: file}, "Bearer hunter2"},
		"headers come along":    {Config{Headers: map[string]string{"X-Scope-Orgid": "t1"}}, ""},
		"headers may authorize": {Config{Headers: map[string]string{"Authorization": "Custom x"}}, "Custom x"},
	} {
		if tt.config.Address == "" {
			tt.config.Address = s.URL
		}
		if got := header(client(t, tt.config)); got != tt.want {
			t.Errorf("%s: Authorization %q, want %q", name, got, tt.want)
		}
		if want := tt.config.Headers["X-Scope-Orgid"]; s.header.Get("X-Scope-Orgid") != want {
			t.Errorf("%s: X-Scope-OrgID %q", name, s.header.Get("X-Scope-Orgid"))
		}
	}
	rotating := client(t, Config{Address: s.URL, BearerTokenFile: file})
	header(rotating)
	write("next")
	if got := header(rotating); got != "Bearer next" {
		t.Errorf("after the file rotated: %q", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := rotating.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "reading the bearer token") {
		t.Errorf("without the file: %v", err)
	}
}

// TestEchoedSecrets: a proxy that puts what it was sent into its error page.
func TestEchoedSecrets(t *testing.T) {
	s := start(t, map[string]string{
		"time()": `{"status":"error","errorType":"bad_data","error":"user sluice with s3cr3tpass and t0psecret may not"}`,
	})
	c := client(t, Config{Address: s.URL, Username: "sluice", Password: "s3cr3tpass", Headers: map[string]string{"X-Key": "t0psecret"}})
	err := c.Ask(t.Context(), make([]analysis.Check, 1))[0].Err
	if err == nil || strings.Contains(err.Error(), "s3cr3tpass") || strings.Contains(err.Error(), "t0psecret") {
		t.Errorf("error = %v", err)
	}
}

func TestTLS(t *testing.T) {
	s := &server{times: map[string]bool{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := client(t, Config{Address: s.URL}).Ready(t.Context()); err == nil {
		t.Error("a certificate that nobody vouches for is trusted")
	}
	if err := client(t, Config{Address: s.URL, CAFile: ca}).Ready(t.Context()); err != nil {
		t.Errorf("with its certificate: %v", err)
	}
	if err := client(t, Config{Address: s.URL, InsecureSkipVerify: true}).Ready(t.Context()); err != nil {
		t.Errorf("without verification: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]Config{
		"is not an http or https URL":  {Address: "prometheus:9090"},
		"an http or https":             {Address: "sluice:hunter2@prometheus:9090"},
		"http or https URL":            {Address: "ftp://hunter2@prometheus"},
		"not a URL":                    {Address: "http://u:hunter2@[::1"},
		"query or a fragment":          {Address: "http://p/?x=1"},
		"both name a user":             {Address: "http://u:p@p", Username: "x"},
		"a password and a bearer":      {Address: "http://p", Username: "x", BearerToken: "y"},
		"password and passwordFile":    {Address: "http://p", Username: "x", Password: "a", PasswordFile: "b"},
		"bearerToken and bearerTokenF": {Address: "http://p", BearerToken: "a", BearerTokenFile: "b"},
		"without a username":           {Address: "http://p", Password: "x"},
		"expected more than 0":         {Address: "http://p", Timeout: -1},
		"no such file":                 {Address: "https://p", CAFile: empty + ".not"},
		"holds none":                   {Address: "https://p", CAFile: empty},
	} {
		_, err := New(c)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("New(%+v) = %v, want an error with %q", c, err, want)
		}
	}
}

func TestManyQueriesAreBounded(t *testing.T) {
	var mu sync.Mutex
	var now, most int
	hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		fmt.Fprint(w, serverTime)
		mu.Lock()
		now--
		mu.Unlock()
	}))
	defer hs.Close()
	var checks []analysis.Check
	for i := range 100 {
		checks = append(checks, analysis.Check{Query: fmt.Sprint(i)})
	}
	for i, s := range client(t, Config{Address: hs.URL}).Ask(t.Context(), checks) {
		if s.Err != nil || !s.Present {
			t.Fatalf("%d: %+v", i, s)
		}
	}
	if most > concurrent {
		t.Errorf("%d queries at once", most)
	}
}
