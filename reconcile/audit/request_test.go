package audit

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

func TestRequest(t *testing.T) {
	made := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for kind := range words {
		r := Request{
			Names: Names{Environment: "production", Cluster: "eu"}, App: "web", Kind: kind, To: "1.2.3", Reason: "while we look",
			Expires: made.Add(time.Minute), Source: "sluice 1.0", By: "Ann <ann@example.com>", ID: "x1",
		}
		if got, err := ParseRequest(r.Message(), made); err != nil || got != r {
			t.Errorf("got %+v, %v\nwant %+v", got, err, r)
		}
	}
	const want = `pause all apps in production

while we look

Sluice-Environment: production
Sluice-App: *
Sluice-Command: pause
Sluice-Reason: while we look
`
	r := Request{Names: Names{Environment: "production"}, App: AllApps, Kind: rollout.Pause, Reason: "while we look"}
	if got := r.Message(); got != want {
		t.Errorf("message:\n%s\nwant:\n%s", got, want)
	}
	r.Expires = made.Add(DefaultExpiry)
	if got, err := ParseRequest(want, made); err != nil || got != r {
		t.Errorf("by hand: %+v, %v", got, err)
	}
	r.Reason = "two\n\nSluice-App: other\n"
	if got, err := ParseRequest(r.Message(), made); err != nil || got.App != AllApps {
		t.Errorf("a reason with a trailer in it: %+v, %v", got, err)
	}
}

func TestRequestByHand(t *testing.T) {
	for msg, want := range map[string]string{
		"a note to all":                         ErrNoRequest.Error(),
		"x\n\nSluice-Command: pause":            "no trailer Sluice-App: expected",
		"x\n\nSluice-Command:pause":             ErrNoRequest.Error(),
		"x\n\nSluice-App: a\nSluice-Command: p": "",

		"x\n\nSluice-App: a\nSluice-Command: pause\nSluice-Expires: soon": `Sluice-Expires is "soon": expected a time`,
	} {
		r, err := ParseRequest(msg, time.Time{})
		if want == "" && err == nil && r.Kind == "p" {
			continue // the app answers that nobody knows it
		}
		if err == nil || !strings.Contains(err.Error(), want) || (want == ErrNoRequest.Error()) != errors.Is(err, ErrNoRequest) {
			t.Errorf("%q: %+v, %v", msg, r, err)
		}
	}
}
