package render

import (
	"net/url"
	"testing"
)

func TestSiteOfURL(t *testing.T) {
	s, err := newSites([]Access{
		{URL: "https://charts.example.com", Username: "host"},
		{URL: "https://charts.example.com/private/", Username: "private"},
		{URL: "oci://ghcr.io/acme", Username: "acme"},
	}, nil, NewHosts(nil))
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		"https://charts.example.com":                    "host",
		"https://charts.example.com/index.yaml":         "host",
		"https://CHARTS.example.com:443/x":              "host",
		"https://charts.example.com/private":            "private",
		"https://charts.example.com/private/index.yaml": "private",
		"https://charts.example.com/privateer":          "host",
		"https://charts.example.com:8443/private":       "",
		"http://charts.example.com/private":             "",
		"https://evil.charts.example.com/private":       "",
		"https://charts.example.com.evil.io/private":    "",
		"oci://ghcr.io/acme/app":                        "acme",
		"oci://ghcr.io/acmeco/app":                      "",
		"oci://ghcr.io":                                 "",
	} {
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.of(u, nil).Username; got != want {
			t.Errorf("%s: got the access of %q, want %q", raw, got, want)
		}
	}
	repo := s.list[1]
	beside, _ := url.Parse("https://charts.example.com/elsewhere/app.tgz")
	if got := (&sites{anonymous: s.anonymous}).of(beside, repo).Username; got != "private" {
		t.Errorf("an archive beside its repository gets the access of %q", got)
	}
	away, _ := url.Parse("https://cdn.example.com/app.tgz")
	if got := (&sites{anonymous: s.anonymous}).of(away, repo).Username; got != "" {
		t.Errorf("an archive at another host gets the access of %q", got)
	}
}
