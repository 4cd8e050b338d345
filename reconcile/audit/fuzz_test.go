package audit

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-cd/sluice/analysis"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// FuzzMessage holds that an event reads back from its commit message, with its texts on one line, whatever they are.
func FuzzMessage(f *testing.F) {
	f.Add("croc-hunter-java", "Advanced", "0.0.129", "0.0.130", "success rate 99.90% >= 99%", int64(3), 20)
	f.Add("a\nSluice-Event: x", "\n\n", "\r", "\x00", "x\n\nSluice-Seq: 9\n", int64(1), 0)
	f.Fuzz(func(t *testing.T, app, typ, from, to, reason string, seq int64, weight int) {
		e := rollout.Event{
			Seq: max(seq, 0), Time: noon, Type: rollout.EventType(typ), Weight: min(max(weight, 0), 100), Reason: reason,
			From: rollout.Release{Version: from, Digest: from}, To: rollout.Release{Version: to, Commit: from},
			Results: []analysis.Result{{Check: app, Outcome: analysis.Outcome(to), Reason: reason}},
		}
		msg := eventMessage(names, app, e)
		c := func(s string) string { return clean(s, longestText) }
		want := Entry{Names: names, App: c(app), Event: rollout.Event{
			Seq: e.Seq, Time: noon, Type: rollout.EventType(c(typ)), Weight: e.Weight, Reason: c(defused(c(reason))),
			From: rollout.Release{Version: c(from), Digest: c(from)}, To: rollout.Release{Version: c(to), Commit: c(from)},
		}}
		got, ok := ParseMessage(msg)
		if ok != (want.Type != "") || ok && !reflect.DeepEqual(got, want) {
			t.Fatalf("%q\nreads back as %+v, want %+v", msg, got, want)
		}
		if subject, _, _ := strings.Cut(msg, "\n"); len(subject) > 250 || subject == "" {
			t.Fatalf("subject %q", subject)
		}
	})
}

// FuzzRequest holds that what people write on the command branch is read or refused, and that nothing of it is too long, or
// on more than one line, for what it ends up in.
func FuzzRequest(f *testing.F) {
	f.Add("pause web\n\nSluice-App: web\nSluice-Command: pause\nSluice-Expires: 2026-03-01T12:00:00Z\n")
	f.Add("x\n\nSluice-App: *\r\nSluice-Command: \x00\nSluice-By: \u2028\nSluice-Reason: " + strings.Repeat("y", 5000))
	f.Fuzz(func(t *testing.T, msg string) {
		r, err := ParseRequest(msg, noon)
		if err != nil {
			return
		}
		for _, text := range []string{string(r.Kind), r.To, r.Reason, r.By, r.Source, r.ID} {
			if len(text) > longestText || strings.ContainsAny(text, "\n\r\x00") {
				t.Fatalf("%q", text)
			}
		}
		if r.App != clean(r.App, longestText) || r.Environment != clean(r.Environment, longestText) || r.Cluster != clean(r.Cluster, longestText) {
			return // by hand, and nobody's name
		}
		again, err := ParseRequest(r.Message(), noon)
		if err != nil || again.App != r.App || again.Kind != r.Kind || again.Reason != r.Reason || again.To != r.To {
			t.Fatalf("%q\nreads back as %+v, %v", msg, again, err)
		}
	})
}

// FuzzParseMessage holds that no message is too strange to be looked at.
func FuzzParseMessage(f *testing.F) {
	f.Add(eventMessage(names, "web", life()[5]))
	f.Add("x\n\nSluice-Environment: p\r\nSluice-Event: CheckFailed\r\nSluice-Time: 12\r\n")
	f.Fuzz(func(t *testing.T, msg string) {
		if e, ok := ParseMessage(msg); ok && (e.Environment == "" || e.Type == "" || e.Seq < 0 || e.Weight > 100) {
			t.Fatalf("%+v", e)
		}
		IsRollback(msg, "web", rollout.Revert{})
	})
}

// FuzzRecord holds that a record reads back from its file.
func FuzzRecord(f *testing.F) {
	f.Add("web", "0.0.130", "success rate 69.17% < 99%", "c: [", int64(7))
	f.Add("1e3", "~", "'\"\\", "- a\n- b", int64(0))
	f.Fuzz(func(t *testing.T, app, version, reason, fault string, seq int64) {
		r := Record{App: clean(app, longestText), Fault: clean(fault, longestText)}
		release := rollout.Release{Version: version, Digest: reason, Commit: fault}
		for i, typ := range []rollout.EventType{rollout.RolloutStarted, rollout.RollbackStarted, rollout.RolledBack, rollout.Stalled, rollout.RollbackSkipped} {
			r = r.After(rollout.Event{
				Seq: max(seq, 0)/2 + int64(i), Time: noon.Add(time.Duration(i) * time.Second), Type: typ, To: release, Reason: reason,
				Results: []analysis.Result{{Check: app, Outcome: analysis.Outcome(version), Reason: fault}},
			})
		}
		data, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseRecord(data)
		if r.App == "" {
			if err == nil {
				t.Fatal("a record of no app was read")
			}
			return
		}
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%s\nreads back as %+v, %v\nwant %+v", data, got, err, r)
		}
	})
}

// FuzzParseRecord holds that no file is too strange to be looked at.
func FuzzParseRecord(f *testing.F) {
	data, _ := Record{App: "web", LastSeq: 3, Since: noon}.Marshal()
	f.Add(data)
	f.Add([]byte("app: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := ParseRecord(data); err == nil {
			_ = r.row()
			_ = r.After(life()[10])
		}
	})
}

// FuzzOverview holds that README.md reads back, and that replacing one row gives what a table made anew would.
func FuzzOverview(f *testing.F) {
	f.Add("web", "0.0.130", "a | b", "text](x) \\| <b>")
	f.Add("a](b)", "| x |", "\\", " - ")
	f.Add("web", "1", "a]( b", "x")
	f.Fuzz(func(t *testing.T, app, version, reason, fault string) {
		records := []Record{
			{App: "m", LastSeq: 1, Phase: "Idle", Serves: Release{Version: "1"}},
			{App: "z", LastSeq: 1, Phase: "Idle", Fault: clean(reason, longestText)},
		}
		o := Overview{Names: Names{Environment: clean(version, 50), Cluster: clean(app, 50)}, Commit: clean(reason, 50)}
		if len(fault)%2 > 0 {
			o.CommitPages = "https://git.example.com/acme/prod/commit/"
		}
		for _, r := range records {
			o.with(r)
		}
		o.fault("", fault)
		check(t, o)
		if app = clean(app, longestText); app == "" {
			return
		}
		r := Record{App: app, Fault: clean(fault, longestText)}.After(rollout.Event{
			Seq: 1, Time: noon, Type: rollout.RolledBack, From: rollout.Release{Version: version}, To: rollout.Release{Digest: version}, Reason: reason,
		})
		read, _ := ParseOverview(o.Marshal())
		read.with(r)
		check(t, read)
		anew := Overview{Names: o.Names, Commit: o.Commit, CommitPages: o.CommitPages}
		anew.fault("", fault)
		for _, x := range slices.Backward(append(records, r)) {
			if x.App != app || x.LastSeq == 1 && x.Last != (Ending{}) {
				anew.with(x)
			}
		}
		if string(anew.Marshal()) != string(read.Marshal()) {
			t.Fatalf("replaced:\n%s\nanew:\n%s", read.Marshal(), anew.Marshal())
		}
	})
}

func check(t *testing.T, o Overview) {
	t.Helper()
	got, ok := ParseOverview(o.Marshal())
	if !ok {
		t.Fatalf("does not read back:\n%s\n%+v\nwant\n%+v", o.Marshal(), got, o)
	}
	if len(got.Rows) != len(o.Rows) || len(got.Faults) != len(o.Faults) {
		t.Fatalf("%d rows, %d faults, want %d, %d", len(got.Rows), len(got.Faults), len(o.Rows), len(o.Faults))
	}
	for i := range o.Rows {
		if got.Rows[i] != o.Rows[i] {
			t.Fatalf("row %+v, want %+v", got.Rows[i], o.Rows[i])
		}
	}
}

// FuzzParseOverview holds that no file is too strange to be looked at.
func FuzzParseOverview(f *testing.F) {
	f.Add([]byte("| [a](b) | | |\n- [x](y): z\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if o, ok := ParseOverview(data); ok {
			o.with(Record{App: "web", LastSeq: 1, Phase: "Idle"})
			o.Marshal()
		}
	})
}
