package audit

import (
	"strings"
	"testing"
)

// A page that an older Sluice wrote is not damaged: it has another sentence at its top, and nobody has edited it.
func TestOverviewOfBefore(t *testing.T) {
	o := Overview{Names: Names{Environment: "production"}, Commit: "c1", Rows: []Row{{App: "web", Serves: "1.0.0", Phase: "Idle"}}}
	before := strings.Replace(string(o.Marshal()), about, aboutBefore, 1)
	if got, ok := ParseOverview([]byte(before)); !ok || string(got.Marshal()) != string(o.Marshal()) {
		t.Errorf("read as %v\n%s", ok, got.Marshal())
	}
	if _, ok := ParseOverview([]byte(strings.Replace(before, "edits", "all edits", 1))); ok {
		t.Error("an edited page was taken for one of Sluice's")
	}
}
