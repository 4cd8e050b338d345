package analysis

import (
	"strings"
	"testing"
	"time"
)

var vars = Vars{Namespace: "jx-production", Target: "croc-hunter-java-canary", Service: "croc-hunter-java", Name: "croc.hunter"}

func TestBuiltInQueries(t *testing.T) {
	rate, err := NewCheck(Metric{Name: "request-success-rate", Window: 90 * time.Second, Min: number(99)}, vars)
	if err != nil {
		t.Fatal(err)
	}
	const (
		each = `sum by (destination_workload_namespace, destination_workload) `
		of   = `reporter="destination",destination_workload_namespace=~"jx-production",destination_workload=~"croc-hunter-java-canary|web\\.v1"`
	)
	series := []Series{rate.Series, {Namespace: "jx-production", Workload: "web.v1"}, rate.Series}
	all := each + `(rate(istio_requests_total{` + of + `}[90s]))`
	if want := `(` + each + `(rate(istio_requests_total{` + of + `,response_code!~"5.*"}[90s])) or 0 * ` + all + `) / ` + all +
		` * 100`; Among(rate.Query, series) != want {
		t.Errorf("success rate:\n got %s\nwant %s", Among(rate.Query, series), want)
	}
	if want := each + `(increase(istio_requests_total{` + of + `}[90s]))`; Among(rate.Traffic, series) != want {
		t.Errorf("traffic:\n got %s\nwant %s", Among(rate.Traffic, series), want)
	}
	if want := (Series{
		"destination_workload_namespace", "jx-production", "destination_workload", "croc-hunter-java-canary",
	}); rate.Series != want {
		t.Errorf("series: %+v, want %+v", rate.Series, want)
	}
	p99, err := NewCheck(Metric{Name: "request-duration", Max: number(500)}, vars)
	if err != nil {
		t.Fatal(err)
	}
	if want := `histogram_quantile(0.99, sum by (destination_workload_namespace, destination_workload, le) (` +
		`rate(istio_request_duration_milliseconds_bucket{` + of + `}[1m])))`; Among(p99.Query, series) != want {
		t.Errorf("duration:\n got %s\nwant %s", Among(p99.Query, series), want)
	}
	if p99.DecisiveAbove != nil || p99.DecisiveBelow != nil {
		t.Error("a duration has no decisive limit of its own")
	}
}

func TestOldNamesAskTheSame(t *testing.T) {
	for old, now := range map[string]string{oldSuccessRate: SuccessRate, oldDuration: Duration} {
		a, errA := BuiltIn("istio", old, vars, 0, nil, nil)
		b, errB := BuiltIn("", now, vars, 0, nil, nil)
		if errA != nil || errB != nil || a.Query != b.Query || a.Label != b.Label {
			t.Errorf("%s asks %q, %s asks %q (%v, %v)", old, a.Query, now, b.Query, errA, errB)
		}
	}
	for provider, words := range map[string]string{"kubernetes": "expected a query", "smoke": "nobody knows"} {
		if _, err := NewCheck(Metric{Name: SuccessRate, Provider: provider}, vars); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", provider, err)
		}
		if _, err := NewCheck(Metric{Name: SuccessRate, Provider: provider, Query: "vector(1)"}, vars); err != nil {
			t.Errorf("%s, with a query: %v", provider, err)
		}
	}
	if _, err := NewCheck(Metric{Name: "latency"}, vars); err == nil || !strings.Contains(err.Error(), `"latency"`) {
		t.Errorf("error = %v", err)
	}
}

func TestQueryWinsOverBuiltIn(t *testing.T) {
	c, err := NewCheck(Metric{Name: SuccessRate, Query: "vector(1)"}, vars)
	if err != nil || c.Query != "vector(1)" || c.Traffic != "" || c.Series != (Series{}) {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestExpand(t *testing.T) {
	odd := Vars{Namespace: `a"b\c`, Target: "web.v1", Service: "it's", Name: "web_1"}
	tests := []struct {
		name, query string
		vars        Vars
		want, err   string
	}{
		{
			"every variable", `x{a="{{ namespace }}",b='{{target}}',c="{{  service}}",d="{{ name }}"}[{{ interval }}]`, vars,
			`x{a="jx-production",b='croc-hunter-java-canary',c="croc-hunter-java",d="croc.hunter"}[1m]`, "",
		},
		{"a pattern quotes its dots", `x{a=~"{{ target }}-.*", b = "{{ target }}"}`, odd, `x{a=~"web\\.v1-.*", b = "web.v1"}`, ""},
		{"a negated pattern in backquotes", "x{a !~ `{{ target }}`}", odd, "x{a !~ `web\\.v1`}", ""},
		{"quotes are escaped", `x{a="{{ namespace }}",b='{{ service }}'}`, odd, `x{a="a\"b\\c",b='it\'s'}`, ""},
		{"an escaped quote does not end a string", `x{a="\"{{ target }}"}`, odd, `x{a="\"web.v1"}`, ""},
		{"the matcher counts for one string", `x{a=~"b"} + y{c="{{ target }}"}`, odd, `x{a=~"b"} + y{c="web.v1"}`, ""},
		{"comments are left out", "x # {{ nonsense }} \"\n+ y", vars, "x \n+ y", ""},
		{"a word may stand free", `{{ name }}_total`, odd, "web_1_total", ""},
		{"anything else may not", `{{ target }}_total`, odd, "", "put the variable in quotes"},
		{"backquotes in backquotes", "x{a=`{{ name }}`}", Vars{Name: "`"}, "", "backquotes"},
		{"unknown", `x{a="{{ ingress }}"}`, vars, "", "unknown variable {{ ingress }}"},
		{"unclosed", `x{a="{{ name"}`, vars, "", "has no }}"},
		{"no variables", `sum(rate(x[5m])) > bool 3`, vars, `sum(rate(x[5m])) > bool 3`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Expand(tt.query, tt.vars, time.Minute)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error = %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("got %s, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

// FuzzExpand holds that a query without variables and comments is untouched, and that a value never ends the
// string it stands in.
func FuzzExpand(f *testing.F) {
	f.Add(`x{a=~"{{ target }}"}`, "web")
	f.Add("x{a=`", `"} or y{b="`)
	f.Fuzz(func(t *testing.T, query, value string) {
		got, err := Expand(query, Vars{Target: value}, time.Minute)
		if !strings.Contains(query, "{{") && !strings.Contains(query, "#") && (err != nil || got != query) {
			t.Fatalf("%q became %q, %v", query, got, err)
		}
		got, err = Expand(`x{a="{{ target }}",b="{{ interval }}"}`, Vars{Target: value}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		inner := strings.TrimSuffix(strings.TrimPrefix(got, `x{a="`), `",b="1m"}`)
		if strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(inner) != value {
			t.Fatalf("value %q reads back from %q", value, inner)
		}
		if strings.Contains(strings.NewReplacer(`\\`, "", `\"`, "").Replace(inner), `"`) {
			t.Fatalf("value %q ends its string: %q", value, got)
		}
	})
}

func TestInterval(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "1ms", time.Microsecond: "1ms", 1500 * time.Millisecond: "1500ms", time.Second: "1s", time.Minute: "1m",
		90 * time.Second: "90s", 2 * time.Hour: "2h", 61 * time.Minute: "61m", -time.Hour: "1ms",
	} {
		if got := Interval(d); got != want {
			t.Errorf("Interval(%s) = %s, want %s", d, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	if got := Line("two\nlines of https://u:p@host/"); got != "two lines of https://xxxxx@host/" {
		t.Error(got)
	}
	if got := Line(strings.Repeat("é", 1000)); len(got) > 310 {
		t.Errorf("%d bytes", len(got))
	}
}
