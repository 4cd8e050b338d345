package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// asked is what a webhook was asked, in Flagger's form: a field more or less is a fault.
type asked struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Phase     string            `json:"phase"`
	Checksum  string            `json:"checksum"`
	Metadata  map[string]string `json:"metadata"`
}

// receiver is a server that webhooks lead to, a path for each.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	says   map[string]int
	got    map[string][]asked
	faults []string
}

// secret is in every address and in the metadata, and must not be told.
const secret = "T0KEN-0f-a-webh00k"

func newReceiver(t *testing.T) *receiver {
	r := &receiver{says: map[string]int{}, got: map[string][]asked{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		var a asked
		body := json.NewDecoder(q.Body)
		body.DisallowUnknownFields()
		if err := body.Decode(&a); err != nil || q.Method != http.MethodPost || q.URL.Query().Get("token") != secret {
			r.faults = append(r.faults, fmt.Sprintf("%s %s: %v", q.Method, q.URL, err))
		}
		path := strings.Trim(q.URL.Path, "/")
		r.got[path] = append(r.got[path], a)
		if code := r.says[path]; code != 0 {
			w.WriteHeader(code)
			fmt.Fprintf(w, "not yet, %s", q.URL.RawQuery)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// say has a webhook answer with a status from now on.
func (r *receiver) say(path string, code int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.says[path] = code
}

// list is what a webhook was asked until now.
func (r *receiver) list(path string) []asked {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got[path])
}

// policy is one with a webhook of each type, the path of which is the type.
func (r *receiver) policy() string {
	var hooks []string
	for _, of := range []environments.HookType{
		environments.ConfirmRollout, environments.PreRollout, environments.DuringRollout, environments.ConfirmTrafficIncrease,
		environments.ConfirmPromotion, environments.OnRollback, environments.PostRollout, environments.OnEvent,
	} {
		hooks = append(hooks, fmt.Sprintf("{name: my-%[1]s, type: %[1]s, url: '%[2]s/%[1]s?token=%[3]s', metadata: {key: %[3]s}}", of, r.URL, secret))
	}
	return "analysis: {webhooks: [" + strings.Join(hooks, ", ") + "]}"
}

// TestWebhooks: a closed confirm-rollout keeps a rollout from beginning, and nothing of it is prepared; the others are asked at their
// moments, also by an agent that was killed in the middle; a rollback one has a good release go back; and who is told hears of every
// event, in order, and of the ends, with Flagger's payload. Nothing of an address or of metadata is in git or in the log.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	hooks := newReceiver(t)
	w.allow = "namespaces: [" + w.namespace + "], clusterKinds: [CustomResourceDefinition], webhooks: ['" + strings.TrimPrefix(hooks.URL, "http://") + "']"
	w.rollout("", hooks.policy())
	hooks.say("confirm-rollout", http.StatusForbidden)
	hooks.say("rollback", http.StatusForbidden)
	w.install()

	w.bump("0.0.130")
	w.says("gate webhook my-confirm-rollout is closed: it answered 403 Forbidden: not yet")
	w.intervals(3)
	if names := w.names("apps", "v1", "deployments"); !slices.Equal(names, []string{app}) {
		t.Errorf("while it waits to begin there are %v", names)
	}
	for _, path := range []string{"pre-rollout", "rollout", "confirm-traffic-increase", "confirm-promotion", "rollback", "post-rollout"} {
		if list := hooks.list(path); len(list) > 0 {
			t.Errorf("before the rollout %s was asked %+v", path, list)
		}
	}
	hooks.say("confirm-rollout", http.StatusOK)
	w.awaitEvent(rollout.Advanced, "0.0.130", 2)
	w.kill()
	w.start()
	w.awaitEvent(rollout.Promoted, "0.0.130", 1)
	for path, least := range map[string]int{
		"confirm-rollout": 4, "pre-rollout": 1, "rollout": 5, "confirm-traffic-increase": 5, "confirm-promotion": 1, "rollback": 5,
	} {
		list := hooks.list(path)
		if len(list) < least {
			t.Errorf("%s was asked %d times, want %d", path, len(list), least)
		}
		for _, a := range list {
			if a.Name != app || a.Namespace != w.namespace || a.Phase != "Progressing" || a.Checksum == "" || len(a.Metadata) != 1 || a.Metadata["key"] != secret {
				t.Errorf("%s was asked %+v", path, a)
			}
		}
	}

	w.bump("0.0.131")
	w.awaitEvent(rollout.Advanced, "0.0.131", 1)
	hooks.say("rollback", http.StatusOK)
	if e := w.awaitEvent(rollout.RolledBack, "0.0.131", 1); e.Reason != "webhook my-rollback says so: it answered 200 OK" {
		t.Errorf("rolled back for %q", e.Reason)
	}
	w.awaitEvent(rollout.RollbackCommitted, "0.0.131", 1)
	hooks.heard(w)
	w.servesGit()
	hooks.unrevealed(w)
}

// heard: the webhooks that are told have been told of every event and of both ends, each at least once.
func (r *receiver) heard(w *world) {
	w.Helper()
	w.await("the webhooks to be told of all", func() (bool, string) {
		var want, got []string
		for _, e := range w.events() {
			want = append(want, audit.Describe(app, e.Event))
		}
		for _, a := range r.list("event") {
			if level := a.Metadata["eventType"]; level != "Normal" && level != "Warning" || !regexp.MustCompile(`^\d{13}$`).MatchString(a.Metadata["timestamp"]) || a.Metadata["key"] != secret {
				w.Fatalf("told %+v", a)
			}
			got = append(got, a.Metadata["eventMessage"])
		}
		got = slices.Compact(got) // the agent was killed
		return slices.Equal(got, want), fmt.Sprintf("told of\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	})
	var phases []string
	for _, a := range r.list("post-rollout") {
		phases = append(phases, a.Phase)
	}
	if !slices.Equal(phases, []string{"Succeeded", "Failed"}) {
		w.Errorf("told of the ends %v", phases)
	}
}

// unrevealed: what may hold a token is in no commit and in no line of the log.
func (r *receiver) unrevealed(w *world) {
	w.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, fault := range r.faults {
		w.Error(fault)
	}
	var text bytes.Buffer
	text.WriteString(w.log.tail(1 << 20))
	for _, c := range w.history(w.statusBranch()) {
		text.WriteString(c.Message)
	}
	text.WriteString(w.file(w.statusBranch(), "apps/"+app+".yaml") + w.file(w.statusBranch(), "README.md"))
	out, _ := w.sluice("status")
	text.WriteString(out)
	if i := strings.Index(text.String(), secret); i >= 0 {
		w.Errorf("told to others: %s", text.String()[max(0, i-200):i+100])
	}
}
