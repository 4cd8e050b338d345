package prometheus

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"

	"github.com/sluice-cd/sluice/analysis"
)

// mesh answers built-in queries of an Istio mesh with one success rate for each workload, and a million requests.
type mesh struct {
	mu    sync.Mutex
	asked []string
	// rates are what it knows, by namespace and workload.
	rates map[string]float64
	// heavy is a workload whose series are too many for the server.
	heavy string
	// away: it answers nothing.
	away bool
}

var names = regexp.MustCompile(`destination_workload_namespace=~"([^"]*)",destination_workload=~"([^"]*)"`)

func (m *mesh) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.FormValue("query")
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, query)
	of := names.FindStringSubmatch(query)
	switch {
	case m.away:
		http.Error(w, "starting", http.StatusServiceUnavailable)
	case query == "time()":
		fmt.Fprint(w, serverTime)
	case m.heavy != "" && strings.Contains(of[2], m.heavy):
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"status":"error","errorType":"execution","error":"query processing would load too many samples"}`)
	default:
		var series []string
		namespaces, workloads := regexp.MustCompile("^("+of[1]+")$"), regexp.MustCompile("^("+of[2]+")$")
		for at, value := range m.rates {
			namespace, workload, _ := strings.Cut(at, "/")
			if !namespaces.MatchString(namespace) || !workloads.MatchString(workload) {
				continue
			}
			if strings.HasPrefix(query, "sum by (destination_workload_namespace, destination_workload) (increase(") {
				value = 1e6
			}
			series = append(series, fmt.Sprintf(
				`{"metric":{"destination_workload_namespace":%q,"destination_workload":%q},"value":[1,"%g"]}`, namespace, workload, value))
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[%s]}}`, strings.Join(series, ","))
	}
}

// inMemory is the way to a server without a network.
type inMemory struct{ http.Handler }

func (h inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

func (m *mesh) queries() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.asked)
}

func rate(t *testing.T, namespace, workload string, window time.Duration) []analysis.Check {
	t.Helper()
	c, err := analysis.NewCheck(analysis.Metric{Name: analysis.SuccessRate, Window: window},
		analysis.Vars{Namespace: namespace, Target: workload})
	if err != nil {
		t.Fatal(err)
	}
	return []analysis.Check{c}
}

// TestManyCanaries: 300 canaries that are asked about at the same time get their own answers by a few queries, and later
// ones by one round for each time that answers go stale.
func TestManyCanaries(t *testing.T) {
	m := &mesh{rates: map[string]float64{"b/app-0-canary": -1}} // in no answer to namespace a
	for i := range 300 {
		m.rates[fmt.Sprintf("a/app-%d-canary", i)] = float64(i)
	}
	s := httptest.NewServer(m)
	defer s.Close()
	c := client(t, Config{Address: s.URL})
	ask := func() {
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				got := c.Ask(t.Context(), rate(t, "a", fmt.Sprintf("app-%d-canary", i), time.Minute))[0]
				if got.Err != nil || !got.Present || got.Value != float64(i) || got.Requests != 1e6 {
					t.Errorf("app-%d: %+v", i, got)
				}
			})
		}
		wg.Wait()
	}
	ask()
	// Whoever comes while a round without him is under way waits for the next: at most one for all that came meanwhile.
	if n := m.queries(); n > 3*20 {
		t.Errorf("%d queries for 300 canaries", n)
	}
	c.rounds.last = map[time.Duration]*round{}
	before := m.queries()
	ask()
	if n := m.queries() - before; n > 3*3 {
		t.Errorf("%d queries when all are known, want three in a round", n)
	}
	if got := c.Ask(t.Context(), rate(t, "a", "nobody", time.Minute))[0]; got.Err != nil || got.Present || got.Requests != 0 {
		t.Errorf("a workload without series: %+v", got)
	}
	if got := c.Ask(t.Context(), rate(t, "b", "app-0-canary", time.Minute))[0]; got.Value != -1 {
		t.Errorf("a workload of the same name in another namespace: %+v", got)
	}
}

// TestOneIsTooMuch: a workload whose query the server refuses takes no other's answer away.
func TestOneIsTooMuch(t *testing.T) {
	m := &mesh{rates: map[string]float64{"a/one": 1, "a/two": 2, "a/huge": 3}, heavy: "huge"}
	s := httptest.NewServer(m)
	defer s.Close()
	c := client(t, Config{Address: s.URL})
	var checks []analysis.Check
	for _, workload := range []string{"one", "two", "huge"} {
		checks = append(checks, rate(t, "a", workload, time.Minute)...)
	}
	got := c.Ask(t.Context(), checks)
	if got[0].Value != 1 || got[0].Err != nil || got[1].Value != 2 || got[1].Err != nil {
		t.Errorf("the others: %+v", got[:2])
	}
	if got[2].Err == nil || !strings.Contains(got[2].Err.Error(), "too many samples") {
		t.Errorf("the refused one: %+v", got[2])
	}
}

// TestAnswersGetOld: an answer is given again for a tenth of its window, and no longer than a second.
func TestAnswersGetOld(t *testing.T) {
	for window, old := range map[time.Duration]time.Duration{time.Minute: time.Second, 5 * time.Second: 500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			m := &mesh{rates: map[string]float64{"a/one": 1}}
			c := client(t, Config{Address: "http://prometheus"})
			served, err := api.NewClient(api.Config{Address: "http://prometheus", RoundTripper: inMemory{m}})
			if err != nil {
				t.Fatal(err)
			}
			c.api = v1.NewAPI(served) // without the network, which knows nothing of the bubble's time
			ask := func() analysis.Sample { return c.Ask(t.Context(), rate(t, "a", "one", window))[0] }
			ask()
			time.Sleep(old)
			ask()
			if n := m.queries(); n != 3 {
				t.Errorf("%d queries within %s, want one round of 3", n, old)
			}
			time.Sleep(time.Nanosecond)
			m.rates["a/one"] = 2
			if got := ask(); got.Value != 2 || m.queries() != 6 {
				t.Errorf("after it: %+v, %d queries", got, m.queries())
			}
			// A server that was away is asked again, and what nobody asks for any more is forgotten.
			m.away = true
			time.Sleep(2 * time.Second)
			if got := ask(); got.Err == nil || !strings.Contains(got.Err.Error(), "503") {
				t.Errorf("away: %+v", got)
			}
			m.away = false
			time.Sleep(remembered + time.Second)
			c.Ask(t.Context(), rate(t, "a", "other", window))
			if last := m.asked[len(m.asked)-1]; strings.Contains(last, "one") {
				t.Errorf("asked %s", last)
			}
		})
	}
}

// TestRoundOfAnother: who waits for a round that another began may stop waiting, and a round does not end with its beginner.
func TestRoundOfAnother(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		<-release
		(&mesh{rates: map[string]float64{"a/one": 1}}).ServeHTTP(w, r)
	}))
	defer s.Close()
	c := client(t, Config{Address: s.URL})
	beginner, leave := context.WithCancel(t.Context())
	checks := rate(t, "a", "one", time.Minute)
	go c.Ask(beginner, checks)
	for {
		c.rounds.mu.Lock()
		begun := c.rounds.last[time.Minute] != nil
		c.rounds.mu.Unlock()
		if begun {
			break
		}
		time.Sleep(time.Millisecond)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if got := c.Ask(gone, checks)[0]; got.Err == nil || !strings.Contains(got.Err.Error(), "canceled") {
		t.Errorf("who stopped waiting: %+v", got)
	}
	second := make(chan analysis.Sample)
	go func() { second <- c.Ask(t.Context(), checks)[0] }()
	leave()
	close(release)
	if got := <-second; got.Err != nil || got.Value != 1 {
		t.Errorf("who waited: %+v", got)
	}
}
