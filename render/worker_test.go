package render

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

const endless = "did not come to an end"

// hostile are templates that end the process in which they run, or never come to an end themselves. Want is what is said
// of them; empty: which limit ends them first depends on the machine.
var hostile = map[string]struct{ template, values, want string }{
	"a value that holds itself":     {template: `{{ $d := dict }}{{ $_ := set $d "a" $d }}{{ $d }}`, want: "64 MiB of stack"},
	"blocks in blocks":              {template: `{{ tpl (repeat 400000 "{{if 1}}") . }}`, want: "64 MiB of stack"},
	"a text that is too long":       {template: `{{ $x := repeat 1000000000 "a" }}`, want: "512 MiB of memory"},
	"a list without an end":         {template: `{{ $x := until 2000000000 }}`},
	"text without an end":           {template: `{{ range until 10000000 }}{{ repeat 1000 "aaaaaaaaaa" }}{{ end }}`},
	"toToml of what holds itself":   {template: `{{ $d := dict }}{{ $_ := set $d "a" $d }}{{ toToml $d }}`},
	"deepCopy of what holds itself": {template: `{{ $d := dict }}{{ $_ := set $d "a" $d }}{{ $x := deepCopy $d }}`},
	"tpl of a value":                {template: `{{ tpl .Values.a . }}`, values: `{{ tpl .Values.a . }}`},
	"tpl of a value, by index":      {template: `{{ tpl (index .Values "a") . }}`, values: `{{ tpl (index .Values "a") . }}`},
	"text that doubles":             {template: `{{ $s := "aaaaaaaa" }}{{ range until 60 }}{{ $s = print $s $s }}{{ end }}`},
	"lists in a list":               {template: `a: {{ repeat 20000000 "[]," | printf "[%s]" }}`},
	"a computation without an end":  {template: `{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}`, want: endless},
	"many fields": {
		template: fmt.Sprintf(configMap, "a") + `data: {{ printf "{a: [%s]}" (repeat 1100000 "1,") }}`,
		want:     "number of fields in what the templates print is over the limit of 1000000",
	},
	"aliases of aliases": {
		template: fmt.Sprintf(configMap, "a") +
			`data: {{ printf "{a: &a [%s], b: &b [%s], c: [%s]}" (repeat 100 "1,") (repeat 100 "*a,") (repeat 100 "*b,") }}`,
		want: "excessive aliasing",
	},
	"deep nesting": {template: `a: {{ repeat 3000000 "[" }}`, want: "exceeded max depth"},
}

// Whatever templates do, it is the fault of their app alone: it is told with the limit, and the next app renders.
func TestHostileTemplates(t *testing.T) {
	good := chartOf(t, map[string]string{"a.yaml": fmt.Sprintf(configMap, "a")})
	for name, tt := range hostile {
		t.Run(name, func(t *testing.T) {
			cfg := RendererConfig{}
			if tt.want == "" || tt.want == endless {
				cfg.CPU = 2 * time.Second
			}
			r := NewRenderer(cfg)
			in := input(chartOf(t, map[string]string{"a.yaml": tt.template}))
			in.Values = map[string]any{"a": tt.values}
			before := allocated()
			_, err := r.Render(t.Context(), in)
			var death *DeathError
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.want == "" && !errors.As(err, &death) {
				t.Errorf("error %.500v\nwant %q", err, tt.want)
			}
			if used := allocated() - before; used > 64<<20 {
				t.Errorf("this process allocated %d MiB", used>>20)
			}
			if _, err := r.Render(t.Context(), input(good)); err != nil {
				t.Errorf("the next chart: %v", err)
			}
		})
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func noProgram() (string, error) { return "/no/such/program", nil }

// What killed a worker is not tried again, until it changes.
func TestDeathsAreRemembered(t *testing.T) {
	r := NewRenderer(RendererConfig{})
	in := input(chartOf(t, map[string]string{"a.yaml": `{{ $x := until (int .Values.n) }}` + fmt.Sprintf(configMap, "a")}))
	in.Values = map[string]any{"n": 2e9}
	var death *DeathError
	if _, err := r.Render(t.Context(), in); !errors.As(err, &death) {
		t.Fatalf("error: %v", err)
	}
	r.workers.program = noProgram
	if _, err := r.Render(t.Context(), in); !errors.As(err, &death) {
		t.Errorf("the second time: %v", err)
	}
	r.workers.program = os.Executable
	in.Values["n"] = 2
	if _, err := r.Render(t.Context(), in); err != nil {
		t.Errorf("mended: %v", err)
	}
}

// A worker that dies of something else, or can't be had, is no fault of what it was to render.
func TestWorkerIsKilled(t *testing.T) {
	r := NewRenderer(RendererConfig{})
	good := input(chartOf(t, map[string]string{"a.yaml": fmt.Sprintf(configMap, "a")}))
	if _, err := r.Render(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if err := r.workers.idle[0].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	other := good
	other.Values = map[string]any{"a": 1}
	_, err := r.Render(t.Context(), other)
	var death *DeathError
	if err == nil || errors.As(err, &death) {
		t.Errorf("error: %v", err)
	}
	if _, err := r.Render(t.Context(), other); err != nil {
		t.Errorf("tried again: %v", err)
	}
	r.workers.program = noProgram
	r.workers.idle = nil
	other.Values = map[string]any{"a": 2}
	if _, err := r.Render(t.Context(), other); err == nil || errors.As(err, &death) {
		t.Errorf("error: %v", err)
	}
}

// Who does not want to wait any more takes nobody else's rendering along.
func TestRenderIsGivenUp(t *testing.T) {
	r := NewRenderer(RendererConfig{})
	in := input(chartOf(t, map[string]string{"a.yaml": fmt.Sprintf(configMap, "a") + `data: {v: "{{ range until 300000 }}{{ end }}"}`}))
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() {
		_, err := r.Render(ctx, in)
		gone <- err
	}()
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	if _, err := r.Render(t.Context(), in); err != nil {
		t.Errorf("the other: %v", err)
	}
}

// A worker has no environment and no files of its own, and reads none.
func TestWorkerHasNothing(t *testing.T) {
	t.Setenv("TOKEN", "s3cret")
	in := input(chartOf(t, map[string]string{
		"a.yaml": fmt.Sprintf(configMap, "a") + `data: {zone: {{ dateInZone "15:04" (toDate "2006-01-02" "2026-07-01") "Europe/Berlin" | quote }}}`,
	}))
	rel, err := cold.Render(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(rel.Manifest, `zone: "02:00"`) {
		t.Errorf("time zones are gone:\n%s", rel.Manifest)
	}
}
