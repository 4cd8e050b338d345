package address

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Address{
		"https://example.com:8443/a/b.git":   {HTTPS, "", "example.com", "8443", "/a/b.git"},
		"ssh://git@example.com:2222/a/b.git": {SSH, "git", "example.com", "2222", "/a/b.git"},
		"git@example.com:a/b.git":            {SSH, "git", "example.com", "", "a/b.git"},
		"/srv/git/a":                         {File, "", "", "", "/srv/git/a"},
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("%s: %+v %v, want %+v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "https://u:s3cr3t@example.com/a", "u:s3cr3t@example.com:a", "ftp://example.com/a", "https://-x/a", "ext::sh", "https://example.com/a?token=s3cr3t"} {
		if _, err := Parse(in); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestLoopback(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "127.0.0.1": true, "::1": true, "::ffff:127.0.0.1": true, "example.com": false, "10.0.0.1": false} {
		if got := (Address{Host: host}).Loopback(); got != want {
			t.Errorf("%s: %t", host, got)
		}
	}
}
