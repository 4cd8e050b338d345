package webhooks

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/allow"
	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// asker runs one; the channel has the apps that have news.
func asker(t *testing.T, rules allow.Rules) (*Asker, <-chan string) {
	t.Helper()
	a := New(Config{Allow: rules, Now: time.Now})
	news := make(chan string, 100)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.Run(ctx, func(app string) { news <- app })
	}()
	t.Cleanup(func() { stop(); <-ended })
	return a, news
}

func server(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // before that a server does not see that who asked has gone
		r.Body = io.NopCloser(bytes.NewReader(body))
		handle(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func question(url string) delivery.Question {
	return delivery.Question{
		App: delivery.App{Name: "web", Namespace: "production"}, Slot: "rollout 0", About: "1", Checksum: "d2",
		Hook: environments.Webhook{
			Name: "load", Type: environments.DuringRollout, URL: url, Timeout: 5 * time.Second,
			Metadata: map[string]string{"cmd": "hey -z 1m", "token": "s3cret-in-metadata", "header": `hey -H "X-Key: s3cret"`}, Canary: "podinfo",
		},
	}
}

// answered asks and waits for the answer.
func answered(t *testing.T, a *Asker, news <-chan string, q delivery.Question) delivery.Answer {
	t.Helper()
	for {
		if answer, ok := a.Ask(q); ok {
			return answer
		}
		select {
		case <-news:
		case <-time.After(10 * time.Second):
			t.Fatal("no answer in 10 s")
		}
	}
}

func TestPayload(t *testing.T) {
	got := make(chan string, 1)
	url := server(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.Header.Get("Content-Type") + " " + string(body)
	})
	a, news := asker(t, allow.Everything)
	if answer := answered(t, a, news, question(url)); answer.Outcome != analysis.Pass || answer.Said != "it answered 200 OK" {
		t.Errorf("%+v", answer)
	}
	const want = `POST application/json {"name":"podinfo","namespace":"production","phase":"Progressing","checksum":"d2","metadata":{"cmd":"hey -z 1m","header":"hey -H \"X-Key: s3cret\"","token":"s3cret-in-metadata"}}`
	if text := <-got; text != want {
		t.Errorf("asked %s\nwant  %s", text, want)
	}
	q := question(url)
	q.Hook.Canary, q.About = "", "2"
	answered(t, a, news, q)
	var p payload
	_, body, _ := strings.Cut(<-got, "{")
	if err := json.Unmarshal([]byte("{"+body), &p); err != nil || p.Name != "web" {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestTold: who is told of events gets Flagger's keys beside the policy's, which never take their place, and who is told of an end alone
// does not.
func TestTold(t *testing.T) {
	got := make(chan string, 1)
	url := server(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- string(body)
	})
	a, news := asker(t, allow.Everything)
	at := time.UnixMilli(1772366400000)
	from, to := rollout.Release{Version: "0.0.129"}, rollout.Release{Version: "0.0.130"}
	for _, test := range []struct {
		hook  environments.HookType
		event rollout.Event
		want  string
	}{
		{
			environments.OnEvent,
			rollout.Event{Type: rollout.Advanced, Weight: 20, Reason: "success rate 100% >= 99%"},
			`"phase":"Progressing","checksum":"d2","metadata":{"cluster":"eu","eventMessage":"web: advanced to 20% (0.0.129 -\u003e 0.0.130): success rate 100% \u003e= 99%","eventType":"Normal","timestamp":"1772366400000"}}`,
		},
		{
			environments.OnEvent,
			rollout.Event{Type: rollout.RollbackStarted},
			`"phase":"Failed","checksum":"d2","metadata":{"cluster":"eu","eventMessage":"web: rolling back 0.0.130 to 0.0.129","eventType":"Warning","timestamp":"1772366400000"}}`,
		},
		{environments.PostRollout, rollout.Event{Type: rollout.Promoted}, `"phase":"Succeeded","checksum":"d2","metadata":{"cluster":"eu","eventType":"mine"}}`},
	} {
		q := question(url)
		test.event.From, test.event.To, test.event.Time = from, to, at
		q.Hook.Type, q.Event, q.About = test.hook, &test.event, string(test.event.Type)
		q.Hook.Metadata = map[string]string{"cluster": "eu", "eventType": "mine"}
		answered(t, a, news, q)
		if text, want := <-got, `{"name":"podinfo","namespace":"production",`+test.want; text != want {
			t.Errorf("told %s\nwant %s", text, want)
		}
	}
}

// TestAnswers: a status of success is a yes, and all else a no. What is told has none of what the request had in it.
func TestAnswers(t *testing.T) {
	elsewhere := server(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("say") {
		case "accepted":
			w.WriteHeader(http.StatusAccepted)
		case "halted":
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write([]byte("closed\n\x1b[31mby\tAnn"))
		case "away":
			http.Redirect(w, r, elsewhere, http.StatusFound)
		case "echo":
			w.WriteHeader(http.StatusBadRequest)
			body, _ := io.ReadAll(r.Body)
			_, _ = fmt.Fprintf(w, "no %s in %s %s", r.URL.Query().Get("key"), r.URL, body)
		case "long":
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = w.Write([]byte(strings.Repeat("so ", 100_000)))
		case "cut":
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("so"))
		case "slow":
			select {
			case <-r.Context().Done():
			case <-time.After(10 * time.Second):
			}
		}
	})
	refusing := httptest.NewServer(http.NotFoundHandler())
	refusing.Close()
	a, news := asker(t, allow.Everything)
	for _, test := range []struct {
		url     string
		outcome analysis.Outcome
		said    string
	}{
		{url + "?say=accepted", analysis.Pass, "it answered 202 Accepted"},
		{url + "?say=halted", analysis.Fail, "it answered 403 Forbidden: closed"},
		{url + "?say=away", analysis.Fail, "it answered 302 Found"},
		{url + "/T0K3N-in-path?say=echo&key=s3cret", analysis.Fail, "it answered 400 Bad Request: no *** in "},
		{url + "?say=long", analysis.Fail, "it answered 500 Internal Server Error: so so"},
		{url + "?say=cut", analysis.Fail, "it has not answered: unexpected EOF"},
		{url + "?say=slow", analysis.Fail, "it has not answered: not within 300ms"},
		{refusing.URL + "/T0K3N-in-path", analysis.Fail, "it has not answered: dial tcp"},
		{"http://nowhere.invalid/T0K3N-in-path", analysis.Fail, "it has not answered: "},
	} {
		q := question(test.url)
		q.Hook.Timeout = 300 * time.Millisecond
		answer := answered(t, a, news, q)
		if answer.Outcome != test.outcome || !strings.HasPrefix(answer.Said, test.said) || answer.At.IsZero() {
			t.Errorf("%s: %+v", test.url, answer)
		}
		if len(answer.Said) > mostSaid+60 || strings.ContainsAny(answer.Said, "\n\x1b") || strings.Contains(answer.Said, "T0K3N") || strings.Contains(answer.Said, "s3cret") {
			t.Errorf("%s: told %q", test.url, answer.Said)
		}
	}
}

func TestRetries(t *testing.T) {
	var asked atomic.Int32
	url := server(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	a, news := asker(t, allow.Everything)
	q := question(url)
	if answer := answered(t, a, news, q); answer.Outcome != analysis.Fail || asked.Load() != 1 {
		t.Errorf("without retries: %+v after %d", answer, asked.Load())
	}
	asked.Store(0)
	q.About, q.Hook.Retries = "2", 1
	if answer := answered(t, a, news, q); answer.Outcome != analysis.Pass || asked.Load() != 2 {
		t.Errorf("with one: %+v after %d", answer, asked.Load())
	}
}

// TestWall: what the operator has not allowed is not asked, whatever a saved policy says.
func TestWall(t *testing.T) {
	url := server(t, func(http.ResponseWriter, *http.Request) { t.Error("it was asked") })
	a, news := asker(t, allow.Rules{Webhooks: []string{"loadtester.test"}})
	answer := answered(t, a, news, question(url+"/T0K3N-in-path"))
	if answer.Outcome != analysis.Inconclusive || !strings.Contains(answer.Said, "allow.webhooks") || strings.Contains(answer.Said, "T0K3N") {
		t.Errorf("%+v", answer)
	}
}

// TestOneQuestionAtATime: a question is asked once; another one takes its place, and is not answered by what the first is; an answer
// that is old counts until the next one is there; and a webhook that does not answer holds nobody else up.
func TestOneQuestionAtATime(t *testing.T) {
	var asked atomic.Int32
	release := make(chan struct{})
	slow := server(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	url := server(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	a, news := asker(t, allow.Everything)
	stuck := question(slow)
	stuck.App.Name = "stuck"
	a.Ask(stuck)

	q := question(url)
	first := answered(t, a, news, q)
	for range 10 {
		if again, ok := a.Ask(q); !ok || again != first {
			t.Fatalf("%+v, %t", again, ok)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
	q.About = "2"
	if _, ok := a.Ask(q); ok {
		t.Error("the answer to one question was taken for another one's")
	}
	second := answered(t, a, news, q)
	q.Every = time.Nanosecond
	if old, ok := a.Ask(q); !ok || old.At != second.At {
		t.Errorf("while it is asked again: %+v, %t", old, ok)
	}
	<-news
	if newer, ok := a.Ask(q); !ok || !newer.At.After(second.At) {
		t.Errorf("asked again: %+v, %t", newer, ok)
	}
	if _, ok := a.Ask(stuck); ok {
		t.Error("the one that is stuck has answered")
	}
	// Its next question ends the one that is being asked.
	stuck.About, stuck.Hook.URL = "2", url
	if answer := answered(t, a, news, stuck); answer.Outcome != analysis.Pass {
		t.Errorf("%+v", answer)
	}
	close(release)
}

// TestAskedAgainByTheNext: who runs next asks what nobody had answered.
func TestAskedAgainByTheNext(t *testing.T) {
	arrived := make(chan struct{}, 2)
	url := server(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	a := New(Config{Allow: allow.Everything, Now: time.Now})
	for range 2 {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.Run(ctx, func(string) { t.Error("there is no news") }) }()
		if _, ok := a.Ask(question(url)); ok {
			t.Error("answered")
		}
		<-arrived
		stop()
		if err := <-ended; err == nil {
			t.Error("Run has ended without a reason")
		}
	}
}
