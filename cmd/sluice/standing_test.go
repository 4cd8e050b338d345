package main

import (
	"slices"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/reconcile/audit"
)

// TestStand holds what a record comes to for a release that a commit asks for.
func TestStand(t *testing.T) {
	good := audit.Release{Version: "1.0.0", Digest: "good", Commit: "1"}
	bad := audit.Release{Version: "1.1.0", Digest: "bad", Commit: "2"}
	other := audit.Release{Version: "1.2.0", Digest: "other", Commit: "3"}
	at := time.Date(2026, 11, 26, 4, 33, 59, 0, time.UTC)
	ended := audit.Ending{Outcome: "RolledBack", Release: bad, At: at}
	failed := []audit.Rejection{{Release: bad, Reason: "success rate 68.75% < 99%"}}
	for name, tt := range map[string]struct {
		record audit.Record
		asks   audit.Release
		commit string
		want   []string
		final  bool
		ends   bool
	}{
		"never installed": {asks: good},
		"serves already":  {record: audit.Record{Phase: "Idle", Serves: good}, asks: good, final: true},
		"after the rollback commit": {
			record: audit.Record{Phase: "Idle", Serves: good, Last: ended, Rejected: failed}, asks: good, final: true,
		},
		"what serves is neither held nor waiting": {
			record: audit.Record{Phase: "Idle", Serves: good, Held: "Ann", Waiting: "gate window is closed"}, asks: good, final: true,
		},
		"rolled back, and asked for again": {
			record: audit.Record{Phase: "Idle", Serves: good, Last: ended, Rejected: failed}, asks: bad, commit: "4",
			want: []string{"1.1.0 was rolled back on 26 Nov 2026 04:33 UTC: success rate 68.75% < 99%; this commit tries again"},
		},
		"rolled back by the commit itself": {
			record: audit.Record{Phase: "Idle", Serves: good, Last: ended, Rejected: failed}, asks: bad, commit: "2", final: true,
			want: []string{"1.1.0 was rolled back on 26 Nov 2026 04:33 UTC: success rate 68.75% < 99%; to try again, make a new commit that asks for it, or run sluice retry"},
		},
		"rolled back before the last one": {
			record: audit.Record{Phase: "Idle", Serves: good, Last: audit.Ending{Outcome: "Promoted", Release: good, At: at}, Rejected: failed},
			asks:   bad, commit: "4", want: []string{"1.1.0 was rolled back: success rate 68.75% < 99%; this commit tries again"},
		},
		"going back": {
			record: audit.Record{Phase: "RollingBack", Serves: good, Target: bad, Rejected: failed}, asks: good, final: true,
		},
		"rolling out": {
			record: audit.Record{Phase: "Analyzing", Serves: good, Target: bad, Weight: 30}, asks: bad,
			want: []string{"rolling out now at 30%"},
		},
		"a retry under way": {
			record: audit.Record{Phase: "Starting", Serves: good, Target: bad, Rejected: failed}, asks: bad, want: []string{"rolling out now"},
		},
		"another one rolling out": {
			record: audit.Record{Phase: "Analyzing", Serves: good, Target: other, Weight: 20, Paused: "Ann: slow"}, asks: bad,
			want: []string{"1.2.0 is rolling out now at 20%; this commit replaces it", "paused by Ann: slow: it does not advance until sluice resume"},
		},
		"back to what serves": {
			record: audit.Record{Phase: "Analyzing", Serves: good, Target: other, Weight: 20}, asks: good, ends: true,
		},
		"held, waiting": {
			record: audit.Record{Phase: "Idle", Serves: good, Held: "Ann: sale", Waiting: "gate window is closed (it is night)"}, asks: other,
			want: []string{"held by Ann: sale: no rollout starts until sluice unhold", "waiting: gate window is closed (it is night)"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := stand(tt.record, wish{commit: tt.commit, is: func(r audit.Release) bool { return r.Digest == tt.asks.Digest }})
			if got := s.lines(); !slices.Equal(got, tt.want) {
				t.Errorf("it tells\n%q, want\n%q", got, tt.want)
			}
			if s.final() != tt.final || s.ends() != tt.ends {
				t.Errorf("final %t, ends %t, want %t, %t", s.final(), s.ends(), tt.final, tt.ends)
			}
		})
	}
	suspended := stand(audit.Record{Serves: good}, wish{suspended: true, is: func(audit.Release) bool { return false }})
	if got := suspended.lines(); len(got) != 1 || got[0] != "suspended: no rollout starts or advances until suspend is removed from the policy" {
		t.Errorf("of a suspended app it tells %q", got)
	}
}
