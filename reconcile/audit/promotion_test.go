package audit

import (
	"strings"
	"testing"
)

func TestPromotion(t *testing.T) {
	p := Promotion{
		Environment: "production", App: "web", From: "1.0.0", To: "1.1.0",
		Base: "0123456789abcdef0123456789abcdef01234567", Upstream: "staging", Source: "sluice 1.0",
	}
	msg := p.Message()
	if want := `chore: promote web to version 1.1.0

production had 1.0.0 before. It runs in staging.

Sluice-Promotion: production
Sluice-App: web
Sluice-From: 1.0.0
Sluice-To: 1.1.0
Sluice-Upstream: staging
Sluice-Base: 0123456789abcdef0123456789abcdef01234567
Sluice-Source: sluice 1.0
`; msg != want {
		t.Errorf("message:\n%s", msg)
	}
	if got, ok := ParsePromotion(msg); !ok || got != p {
		t.Errorf("read back as %+v", got)
	}
	if IsOwn(msg) {
		t.Error("it is taken for an agent's event")
	}
	for _, other := range []string{"", "chore: promote web to version 1.1.0\n", "x\n\nSluice-App: web\nSluice-To: 1\n"} {
		if p, ok := ParsePromotion(other); ok {
			t.Errorf("%q is taken for %+v", other, p)
		}
	}
	p.App, p.To = "web\nSluice-Base: x", "Fixes #1 @team [skip ci]"
	msg = p.Message()
	if got, ok := ParsePromotion(msg); !ok || got.Base != "0123456789abcdef0123456789abcdef01234567" || strings.Contains(msg, "[skip ci]\n\n") {
		t.Errorf("a name forges a trailer, or words act: %+v in\n%s", got, msg)
	}
}
