package mask

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func source() Source {
	object := func(o map[string]any) *unstructured.Unstructured { return &unstructured.Unstructured{Object: o} }
	return Source{
		Given: []map[string]any{{
			"database": map[string]any{"password": "s3cr%etP4ss", "pin": 84729105, "user": "shopper", "short": "abc"},
			"service":  map[string]any{"type": "ClusterIP", "port": 8080}, "enabled": true,
			"fullnameOverride": "shop-frontend", "nameOverride": "frontend", "image": map[string]any{"repository": "ghcr.io/acme/shop", "tag": "9.8.7-rc1"},
			"greeting": "Guten Tag", "tier": "gold", "stage": "blue",
			"key": "-----BEGIN KEY-----\nMIIEvAIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----\n",
			"canary": map[string]any{"analysis": map[string]any{
				"metrics": []any{map[string]any{"name": "latency-ninety"}},
				"webhooks": []any{map[string]any{
					"name": "load-ninety", "url": "http://loadtester.test/T0KEN-PATH", "metadata": map[string]any{"token": "h00kT0ken"},
				}},
			}},
			"list": []any{"it's \"quoted\"\tand odd"},
		}},
		Chart: &chart.Chart{
			Metadata: &chart.Metadata{Name: "shop", Version: "1.2.3"},
			Values:   map[string]any{"greeting": "Guten Tag", "pullPolicy": "IfNotPresent"},
		},
		Names: []string{"shop", "jx-production"},
		Objects: []*unstructured.Unstructured{
			object(map[string]any{
				"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "shop-frontend"},
				"spec": map[string]any{"containers": []any{map[string]any{"image": "ghcr.io/acme/shop:9.8.7-rc1"}}},
			}),
			object(map[string]any{
				"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "shop"},
				"data":       map[string]any{"token": base64.StdEncoding.EncodeToString([]byte("t0kenOfTheDay"))},
				"stringData": map[string]any{"default": "changeme-please"},
			}),
		},
	}
}

// TestMasked holds that a value is known in whatever spelling, and whatever words are around it.
func TestMasked(t *testing.T) {
	m := New(source())
	const odd = "it's \"quoted\"\tand odd"
	for in, want := range map[string]string{
		"no template \"s3cr%etP4ss\" associated":                             "no template \"***\" associated",
		"parse \"postgres://app:s3cr%etP4ss@db/x\": bad escape \"%et\"":      "parse \"postgres://app:***@db/x\": bad escape \"***\"",
		"SHOUTED S3CR%ETP4SS":                                                "SHOUTED ***",
		"glued-xs3cr%etP4ssx":                                                "glued-x***x",
		"escaped " + url.QueryEscape("s3cr%etP4ss"):                          "escaped ***",
		"expected string, got Value:84729105":                                "expected string, got Value:***",
		"expected string, got Value:8.4729105e+07":                           "expected string, got Value:***",
		"gate load-ninety of http://loadtester.test/T0KEN-PATH: h00kT0ken":   "gate load-ninety of ***: ***",
		"by shopper, not by shoppers":                                        "by ***, not by shoppers",
		"in gold, golden":                                                    "in ***, golden",
		"base64 " + base64.StdEncoding.EncodeToString([]byte("s3cr%etP4ss")): "base64 ***",
		"token dDBrZW5PZlRoZURheQ== or t0kenOfTheDay":                        "token *** or ***",
		"a Secret's default changeme-please":                                 "a Secret's default ***",
		"quoted " + strconv.Quote(odd):                                       "quoted \"***\"",
		"quoted twice " + strconv.Quote(strconv.Quote(odd)):                  "quoted twice \"\\\"***\\\"\"",
		"in YAML 'it''s \"quoted\"\tand odd'":                                "in YAML '***'",
		"a line: MIIEvAIBADANBgkq":                                           "a line: ***",
		"a piece: `s3cr%et...`":                                              "a piece: `***...`",
		"unknown anchor 'etP4ss' referenced":                                 "unknown anchor '***' referenced",
		"can't parse \"P4ss\" as it isn't a date":                            "can't parse \"***\" as it isn't a date",
	} {
		if got := m.Text(in); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
	for _, before := range []string{"", "x", "xy", "user:"} {
		text := base64.StdEncoding.EncodeToString([]byte(before + "s3cr%etP4ss" + "@host"))
		if got := m.Text(text); !strings.Contains(got, Mark) || strings.Contains(got, "cj") && strings.Contains(got, "ZXRQ") {
			t.Errorf("base64 after %q: %s -> %s", before, text, got)
		}
	}
}

// TestKept holds that faults stay readable: what everybody may read, and what faults are about, is not masked.
func TestKept(t *testing.T) {
	m := New(source())
	for _, text := range []string{
		"rendering shop (chart shop 1.2.3): true, abc, 8080 and ClusterIP",
		"applying Deployment jx-production/shop-frontend: spec.template.spec.containers[name=\"shop\"].image: required",
		"env/values.yaml:9: database.password: is a map; expected a string",
		"Back-off pulling image \"ghcr.io/acme/shop:9.8.7-rc1\"",
		"Guten Tag; pullPolicy IfNotPresent",
		"Deployment jx-production/shop-frontend-canary: 1 of 2 pods are ready",
		"latency-ninety 69.36% < 99% (failed check 1 of 5)",
		"execution error at (shop/templates/all.yaml:4:14): a name is needed",
		"", " ",
	} {
		if got := m.Text(text); got != text {
			t.Errorf("%s\n got %s", text, got)
		}
	}
	if got := (*Mask)(nil).Text("s3cr%etP4ss"); got != "s3cr%etP4ss" {
		t.Errorf("nil masks: %s", got)
	}
}

func TestError(t *testing.T) {
	m := New(source())
	plain := errors.New("nothing in it")
	if got := m.Error(plain); got == nil || got.Error() != plain.Error() {
		t.Errorf("got %v", got)
	}
	err := m.Error(fmt.Errorf("reading s3cr%%etP4ss: %w", io.ErrUnexpectedEOF))
	if err.Error() != "reading ***: unexpected EOF" || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if got := m.Error(nil); got != nil {
		t.Errorf("got %v", got)
	}
}

// TestOldObjects holds that of a release of which nobody knows any more what was given, what programs read is masked.
func TestOldObjects(t *testing.T) {
	m := New(source()).With(Source{Settings: true, Objects: []*unstructured.Unstructured{{Object: map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "old-shop"},
		"spec": map[string]any{"env": []any{map[string]any{"name": "DB_PASSWORD", "value": "0ldP4ss"}}},
	}}}})
	const text = "Deployment old-shop: env[name=\"DB_PASSWORD\"]: 0ldP4ss, s3cr%etP4ss"
	if got, want := m.Text(text), "Deployment old-shop: env[name=\"DB_PASSWORD\"]: ***, ***"; got != want {
		t.Errorf("got %s", got)
	}
}

// TestLong holds that a text of any length is bounded, and that its end gives nothing away.
func TestLong(t *testing.T) {
	m := New(source())
	for _, n := range []int{longestKept - 4, longestRead - 4, longestRead} {
		got := m.Text(strings.Repeat(".", n) + "s3cr%etP4ss" + strings.Repeat(".", longestRead))
		if len(got) > longestKept+len("...")+len(Mark) || strings.Contains(got, "s3c") {
			t.Errorf("%d: %d bytes, ends in %s", n, len(got), got[len(got)-20:])
		}
	}
}

// FuzzText holds that no value of some length is left in any text.
func FuzzText(f *testing.F) {
	f.Add("s3cretP4ss", "no template %q", "x")
	f.Add("\xff\xfe1234", "%s", "é")
	f.Fuzz(func(t *testing.T, value, before, after string) {
		m := New(Source{Given: []map[string]any{{"k": value}}})
		if v := strings.TrimSpace(value); len([]rune(v)) >= 8 && !strings.Contains(Mark, v) && len(before)+len(value) < longestKept {
			got := m.Text(before + value + after)
			if strings.Contains(got, v) && !strings.Contains(before+Mark+after, v) {
				t.Fatalf("%q in %q", v, got)
			}
		}
	})
}
