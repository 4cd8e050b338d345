package redact

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"https://u:p@example.com/x":                                    "https://xxxxx@example.com/x",
		"https://token@example.com/x":                                  "https://xxxxx@example.com/x",
		"ssh://git@example.com/x":                                      "ssh://git@example.com/x",
		"https://u:p/w@example.com/x":                                  "https://xxxxx@example.com/x",
		"https://u:p@ss@example.com/x":                                 "https://xxxxx@example.com/x",
		"oci://example.com:5000/chart@sha256:aa":                       "oci://example.com:5000/chart@sha256:aa",
		"https://example.com/x@v1":                                     "https://example.com/x@v1",
		`Get "https://a:b@c/d": a@b https://e:f@g`:                     `Get "https://xxxxx@c/d": a@b https://xxxxx@g`,
		"https://example.com/x?a=1&private_token=zz":                   "https://example.com/x?a=1&private_token=xxxxx",
		"no url at all, token=x":                                       "no url at all, token=xxxxx",
		"https://b.s3.example.com/x?X-Amz-Signature=aa11&X-Amz-Date=1": "https://b.s3.example.com/x?X-Amz-Signature=xxxxx&X-Amz-Date=xxxxx",
		`Get "https://u:p%40ss@host/x": EOF`:                           `Get "https://xxxxx@host/x": EOF`,
		"Authorization: Bearer abc.def-ghi":                            "Authorization: Bearer xxxxx",
		"sent Bearer eyJhbGciOiJIUzI1NiJ9 to it":                       "sent Bearer xxxxx to it",
		"authorization=s3cr3tvalue; bad":                               "authorization=xxxxx; bad",
		`{"password": "hunter2", "a": 1}`:                              `{"password": "xxxxx", "a": 1}`,
		"x?access_token=abc&y=1":                                       "x?access_token=xxxxx&y=1",
		"reading the bearer token: no such file":                       "reading the bearer token: no such file",
		"open /run/secret: permission denied":                          "open /run/secret: permission denied",
		`parse error: unexpected "}" in basic matcher`:                 `parse error: unexpected "}" in basic matcher`,
	} {
		if got := Text(in); got != want {
			t.Errorf("Text(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestMessageHasNoSecretsAndNoControls(t *testing.T) {
	got := Message("bad s3cr3t\x1b[31m\u009b31m from https://u:p@h/\r\nforged "+strings.Repeat("x", 5000), "s3cr3t")
	if strings.Contains(got, "s3cr3t") || strings.ContainsAny(got, "\x1b\r\u009b") || len(got) > MaxMessage+10 || strings.Contains(got, "u:p") {
		t.Errorf("%q", got)
	}
}

// A password that is well-formed user information never survives, wherever the URL stands.
func FuzzText(f *testing.F) {
	f.Add("user", "hunter2-hunter2", "see ", " and https://x@y")
	f.Fuzz(func(t *testing.T, user, password, before, after string) {
		// What looks like host:port/path@version is no password.
		digits := password
		if i := strings.IndexAny(password, "/?#"); i >= 0 {
			digits = password[:i]
		}
		if len(password) < 8 || strings.ContainsAny(user+password, " \t\r\n\"'`<>@") || strings.ContainsAny(user, "/?#:") ||
			strings.Contains(before+after+"https://example.com/x", password) || digits != "" && strings.Trim(digits, "0123456789") == "" {
			return
		}
		text := before + "https://" + user + ":" + password + "@example.com/x" + after
		if got := Text(text); strings.Contains(got, password) && !strings.Contains(Mark, password) {
			t.Errorf("Text(%q) = %q", text, got)
		}
		Text(password)
	})
}

// BenchmarkHostile is a text that is made to be slow; its time grows with its length, and no faster.
func BenchmarkHostile(b *testing.B) {
	for _, n := range []int{1e4, 1e6} {
		text := strings.Repeat("://a:", n/5)
		b.Run(fmt.Sprint(n, " bytes"), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				Text(text)
			}
		})
	}
}

func TestSecretsInUse(t *testing.T) {
	if got := Text("bad s3cr3t at abc", "s3cr3t", "abc", ""); got != "bad xxxxx at abc" {
		t.Error(got)
	}
}

func TestURLs(t *testing.T) {
	const text = `Get "https://u:p@charts.example.com/x.tgz?sig=s3cr3t#f": EOF, see oci://ghcr.io/acme`
	if got := URLs(text); got != `Get "https://charts.example.com/x.tgz": EOF, see oci://ghcr.io/acme` {
		t.Error(got)
	}
	if got := URL("https://u:p@[::1/"); got != "a malformed URL" {
		t.Error(got)
	}
	if err := (&Error{"away", io.EOF}); !errors.Is(err, io.EOF) || err.Error() != "away" {
		t.Error(err)
	}
}
