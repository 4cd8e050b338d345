package environments

import (
	"slices"
	"testing"
	"testing/fstest"
)

// TestReads: an app names those whose charts count for it, and changes when they do.
func TestReads(t *testing.T) {
	more := ""
	load := func(template, version string) *Environment {
		return mustLoad(t, &Loader{Environment: "staging"}, fstest.MapFS{
			"env/Chart.yaml": mapFile([]byte("name: env\nversion: 0.0.1\n")),
			"env/requirements.yaml": mapFile([]byte(`dependencies:
- {name: shop, version: 1.0.0, repository: http://charts, condition: my-mail.on}
- {name: my-mail, version: ` + version + `, repository: http://charts, import-values: [{child: a, parent: other.mail}]}
- {name: other, version: 1.0.0, repository: http://charts, import-values: [{child: a, parent: others}]}
` + more)),
			"env/templates/a.yaml": mapFile([]byte(template)),
		})
	}
	for template, want := range map[string][]string{
		"a: {{ .Values.shop.image }}":                    {"shop"},
		`{{ index .Values "my-mail" "a" }}`:              {"my-mail"},
		`{{ include "shop.name" .Subcharts.other }}`:     {"shop", "other"},
		"{{ .Release.Name }}":                            nil,
		"{{ .Values.shopping }}":                         nil,
		"{{ range $k, $v := .Values }}{{ $k }}{{ end }}": {"shop", "my-mail", "other"},
		`{{ index .Values (print "sh" "op") }}`:          {"shop", "my-mail", "other"},
		"{{ len .Subcharts}}":                            {"shop", "my-mail", "other"},
	} {
		was, is := load(template, "1.0.0"), load(template, "1.1.0")
		changes := map[string]bool{"shop": true, "my-mail": true, "other": true, "env": slices.Contains(want, "my-mail") || len(want) > 0}
		for i, app := range was.Apps {
			if app.Name == "env" && !slices.Equal(app.Reads, want) {
				t.Errorf("%s: reads %v, want %v", template, app.Reads, want)
			}
			if changed := is.Apps[i].Digest != app.Digest; changed != changes[app.Name] {
				t.Errorf("%s: %s changed: %v", template, app.Name, changed)
			}
		}
	}
	env := load("", "1.0.0")
	for i, want := range [][]string{{"my-mail"}, nil, {"my-mail"}} {
		if got := env.Apps[i].Reads; !slices.Equal(got, want) {
			t.Errorf("%s reads %v, want %v", env.Apps[i].Name, got, want)
		}
	}
	// What is imported by a name alone may be anybody's, as may what goes to the top or among the globals.
	for imports, want := range map[string]bool{
		"[data]": true, "[{child: a, parent: .}]": true, "[{child: a, parent: global}]": true, "[{child: a, parent: global.b}]": true,
		"[{child: a, parent: globals}]": false, "[{child: a, parent: shop.b}]": true, "[{child: a, parent: shops}]": false,
	} {
		more = "- {name: last, version: 1.0.0, repository: http://charts, import-values: " + imports + "}\n"
		if got := load("", "1.0.0").Apps[0].Reads; slices.Contains(got, "last") != want {
			t.Errorf("%s: shop reads %v", imports, got)
		}
	}
}
