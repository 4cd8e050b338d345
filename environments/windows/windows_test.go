package windows

import (
	"errors"
	"testing"
	"time"
	_ "time/tzdata"
)

func must(t testing.TB, schedule string, d time.Duration, zone string) Window {
	t.Helper()
	w, err := New(schedule, d, zone, "")
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func at(t testing.TB, text string) time.Time {
	t.Helper()
	out, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestOpen: when windows are open, and until when, also where clocks are put forward and back.
func TestOpen(t *testing.T) {
	office := Set{Allow: []Window{must(t, "0 9 * * 1-5", 8*time.Hour, "Europe/Berlin")}}
	frozen := Set{Allow: office.Allow, Deny: []Window{must(t, "0 0 20 12 *", 14*24*time.Hour, "Europe/Berlin")}}
	night := Set{Allow: []Window{must(t, "30 2 * * *", time.Hour, "Europe/Berlin")}}
	always := Set{Allow: []Window{must(t, "0 0 * * *", 24*time.Hour, "UTC")}}
	short := Set{Allow: []Window{must(t, "* * * * *", 10*time.Second, "UTC")}}
	overlapping := Set{Deny: []Window{must(t, "0 8 * * *", 4*time.Hour, ""), must(t, "0 11 * * *", 4*time.Hour, "")}}
	half := Set{Allow: []Window{must(t, "15 2 * * *", time.Hour, "Australia/Lord_Howe")}}
	for _, c := range []struct {
		name, at string
		sets     []*Set
		open     bool
		change   string
	}{
		{"none", "2026-07-01T12:00:00Z", []*Set{nil, {}}, true, ""},
		{"summer, before", "2026-07-01T06:59:59Z", []*Set{&office}, false, "2026-07-01T07:00:00Z"},
		{"summer, from its first moment", "2026-07-01T07:00:00Z", []*Set{&office}, true, "2026-07-01T15:00:00Z"},
		{"summer, closed at its last", "2026-07-01T15:00:00Z", []*Set{&office}, false, "2026-07-02T07:00:00Z"},
		{"winter", "2026-12-01T07:30:00Z", []*Set{&office}, false, "2026-12-01T08:00:00Z"},
		{"over a weekend", "2026-07-03T18:00:00Z", []*Set{&office}, false, "2026-07-06T07:00:00Z"},
		{"denied wins", "2026-12-21T09:00:00Z", []*Set{&frozen}, false, "2027-01-04T08:00:00Z"},
		{"a freeze that crosses the year", "2027-01-02T22:59:00Z", []*Set{&frozen}, false, "2027-01-04T08:00:00Z"},
		{"02:30 is left out when clocks are put forward", "2026-03-29T00:45:00Z", []*Set{&night}, false, "2026-03-29T01:30:00Z"},
		{"and its window comes all the same", "2026-03-29T02:00:00Z", []*Set{&night}, true, "2026-03-29T02:30:00Z"},
		{"02:30 comes twice when they are put back", "2026-10-25T00:45:00Z", []*Set{&night}, false, "2026-10-25T01:30:00Z"},
		{"and its window once", "2026-10-25T01:45:00Z", []*Set{&night}, true, "2026-10-25T02:30:00Z"},
		{"a shift of half an hour", "2026-10-03T15:50:00Z", []*Set{&half}, true, "2026-10-03T16:45:00Z"},
		{"without a gap", "2026-07-01T12:00:00Z", []*Set{&always}, true, ""},
		{"of seconds", "2026-07-01T12:00:05Z", []*Set{&short}, true, "2026-07-01T12:00:10Z"},
		{"two that overlap are one", "2026-07-01T09:00:00Z", []*Set{&overlapping}, false, "2026-07-01T15:00:00Z"},
		{"all have to be open", "2026-07-01T08:00:00Z", []*Set{&office, &overlapping}, false, "2026-07-02T07:00:00Z"},
	} {
		open, _ := all(at(t, c.at), c.sets)
		change := ""
		if next := Change(at(t, c.at), c.sets...); !next.IsZero() {
			change = next.UTC().Format(time.RFC3339)
		}
		if open != c.open || change != c.change {
			t.Errorf("%s: open %t until %s, want %t until %s", c.name, open, change, c.open, c.change)
		}
	}
}

// TestReason: people hear what keeps them waiting.
func TestReason(t *testing.T) {
	freeze := must(t, "0 0 20 12 *", 14*24*time.Hour, "")
	named := freeze
	named.Reason = "the Christmas freeze"
	for want, s := range map[string]*Set{
		"no window is open": {Allow: []Window{must(t, "0 9 * * *", time.Hour, "")}},
		"no rollout may start or advance in the Christmas freeze":                 {Deny: []Window{named}},
		`no rollout may start or advance in the window "0 0 20 12 *" of 336h0m0s`: {Deny: []Window{freeze}},
	} {
		if got := s.At(at(t, "2026-12-24T18:00:00Z")); got.Open || got.Reason != want {
			t.Errorf("got %+v, want %q", got, want)
		}
	}
}

func TestNew(t *testing.T) {
	for _, c := range []struct{ schedule, zone, want string }{
		{"0 9 * * 1-5", "", ""},
		{"@daily", "America/New_York", ""},
		{"0 9 * *", "", "expected exactly 5 fields, found 4: [0 9 * *]"},
		{"0 0 30 2 *", "", "no day is like that"},
		{"@every 1h", "", "@every begins whenever the agent does"},
		{"TZ=UTC 0 9 * * *", "", "it names a time zone"},
		{"CRON_TZ=", "", "it names a time zone"},
		{"", "", "empty spec string"},
		{"0 9 * * *", "Europe/Berln", ErrZone.Error()},
		{"0 9 * * *", "../../etc/passwd", ErrZone.Error()},
		{"0 9 * * *", "Local", ErrZone.Error()},
	} {
		_, err := New(c.schedule, time.Hour, c.zone, "")
		if err == nil && c.want != "" || err != nil && err.Error() != c.want {
			t.Errorf("%q in %q: %v, want %q", c.schedule, c.zone, err, c.want)
		}
	}
	if _, err := New("0 9 * * *", time.Hour, "x", ""); !errors.Is(err, ErrZone) {
		t.Errorf("got %v", err)
	}
}

// FuzzWindow: whatever is taken for a window is open from each beginning for its duration, and what At says of an instant holds
// until the next instant that it names.
func FuzzWindow(f *testing.F) {
	f.Add("0 9 * * 1-5", int64(8*3600), "Europe/Berlin", int64(1_700_000_000))
	f.Add("30 2 29 3 *", int64(3600), "Europe/Berlin", int64(1_774_700_000))
	f.Add("* * * * *", int64(30), "Australia/Lord_Howe", int64(1_790_000_000))
	f.Add("@yearly", int64(366*24*3600), "", int64(1))
	f.Fuzz(func(t *testing.T, schedule string, seconds int64, zone string, instant int64) {
		d := time.Duration(seconds%int64(MaxDuration/time.Second)) * time.Second
		if d <= 0 || instant < 0 || instant > 4e9 {
			return
		}
		w, err := New(schedule, d, zone, "")
		if err != nil {
			return
		}
		now := time.Unix(instant, 0)
		open, next := w.at(now)
		if next.IsZero() {
			return
		}
		if !next.After(now) {
			t.Fatalf("%+v: at %s it may change at %s", w, now, next)
		}
		if before, _ := w.at(next.Add(-1)); before != open {
			t.Errorf("%+v: open %t at %s, and %t before %s", w, open, now, before, next)
		}
		if !open {
			if then, _ := w.at(next); !then {
				t.Errorf("%+v: it does not begin at %s", w, next)
			}
		}
	})
}

func BenchmarkAt(b *testing.B) {
	s := Set{Allow: []Window{must(b, "0 9 * * 1-5", 8*time.Hour, "Europe/Berlin")}, Deny: []Window{must(b, "0 0 20 12 *", 14*24*time.Hour, "Europe/Berlin")}}
	now := at(b, "2026-07-04T12:00:00Z")
	for b.Loop() {
		s.At(now)
	}
}
