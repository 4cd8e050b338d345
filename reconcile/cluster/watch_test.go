package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/sluice-cd/sluice/reconcile/delivery"
	"github.com/sluice-cd/sluice/render/objects"
)

// watched is an object as a watch brings it: "name uid version label".
func watched(text string) *metav1.PartialObjectMetadata {
	f := strings.Fields(text)
	o := &metav1.PartialObjectMetadata{}
	o.Name, o.UID, o.ResourceVersion, o.Generation = f[0], types.UID(f[1]), f[2], 1
	if len(f) > 3 {
		o.Labels = map[string]string{"l": f[3]}
	}
	return o
}

// TestNewsOfAnApp: what comes within a moment is told once, and what comes later is told again.
func TestNewsOfAnApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		web, other := objects.Key{Kind: "Service", Name: "web"}, objects.Key{Kind: "Service", Name: "other"}
		c := &Client{
			apps:     map[string]*memory{"web": newMemory(delivery.App{Name: "web"}), "other": newMemory(delivery.App{Name: "other"})},
			claims:   map[objects.Key]claim{web: {owner: "web"}, other: {owner: "other"}},
			onChange: func(app string) { told = append(told, app) },
		}
		c.apps["web"].items[web], c.apps["other"].items[other] = item{}, item{}
		for range 5 {
			c.noticed(web, live{}, false)
		}
		c.noticed(other, live{}, false)
		time.Sleep(newsPause(2))
		synctest.Wait()
		slices.Sort(told)
		if !slices.Equal(told, []string{"other", "web"}) {
			t.Errorf("told %v", told)
		}
		c.noticed(web, live{}, false)
		time.Sleep(newsPause(1))
		synctest.Wait()
		if len(told) != 3 || c.told != 0 {
			t.Errorf("after that: %v; %d to be told", told, c.told)
		}
	})
}

// Where many apps have news at once, each waits longer for more of its own, within bounds.
func TestNewsPause(t *testing.T) {
	for apps, want := range map[int]time.Duration{
		1: 300 * time.Millisecond, 15: 300 * time.Millisecond, 30: 600 * time.Millisecond, 300: 2 * time.Second, 10_000: 2 * time.Second,
	} {
		if got := newsPause(apps); got != want {
			t.Errorf("%d apps wait for %s, want %s", apps, got, want)
		}
	}
}

func TestFeed(t *testing.T) {
	for _, test := range []struct {
		name string
		// do: list, add, update, delete, answer (to us), gone (an answer to us, too).
		do   []string
		want string
		told string
	}{
		{"first list is no news", []string{"list 5 a 1 5", "add b 2 6"}, "a@5 b@6", "b"},
		{"an answer is newer than the list", []string{"answer a 1 7", "list 6 a 1 5"}, "a@7", ""},
		{"an answer is newer than the watch", []string{"list 5", "answer a 1 7", "update a 1 6"}, "a@7", ""},
		{"the watch is newer than an answer", []string{"list 5", "update a 1 8", "answer a 1 7"}, "a@8", "a"},
		{"a late answer raises no dead", []string{"list 5", "add a 1 6", "delete a 1 8", "answer a 1 7"}, "", "a -a"},
		{"made anew before the deletion is told", []string{"list 5", "add a 1 6", "answer a 2 9", "delete a 1 8"}, "a@9", "a"},
		{"gone, and made anew", []string{"list 5", "add a 1 6", "add a 2 9", "gone a 1"}, "a@9", "a a"},
		{"gone", []string{"list 5", "add a 1 6", "gone a 1"}, "", "a"},
		{"a list after a gap", []string{"list 5 a 1 5 b 1 4 d 1 5", "list 9 a 1 5 b 1 8 c 1 9"}, "a@5 b@8 c@9", "-d b c"},
		{"a list that misses what we just made", []string{"list 5", "answer a 1 9", "list 8"}, "a@9", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			var told []string
			f := &feed{
				objects: map[types.NamespacedName]live{}, graves: map[types.NamespacedName]string{},
				synced: make(chan struct{}), refused: make(chan struct{}),
				noticed: func(k objects.Key, _ live, exists bool) {
					if !exists {
						k.Name = "-" + k.Name
					}
					told = append(told, k.Name)
				},
			}
			for _, step := range test.do {
				if err := play(f, step); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			for name, l := range f.objects {
				got = append(got, name.Name+"@"+l.version)
			}
			slices.Sort(got)
			if strings.Join(got, " ") != test.want {
				t.Errorf("objects %v, want %s", got, test.want)
			}
			if n := strings.Count(test.told, "-d"); n > 0 {
				slices.Sort(told) // one list's news have no order
			}
			if strings.Join(told, " ") != test.told {
				t.Errorf("told %v, want %s", told, test.told)
			}
		})
	}
}

func play(f *feed, step string) error {
	verb, rest, _ := strings.Cut(step, " ")
	switch verb {
	case "list":
		fields := strings.Fields(rest)
		var list []any
		for o := fields[1:]; len(o) > 0; o = o[3:] {
			list = append(list, watched(strings.Join(o[:3], " ")))
		}
		return f.Replace(list, fields[0])
	case "add":
		return f.Add(watched(rest))
	case "update":
		return f.Update(watched(rest))
	case "delete":
		return f.Delete(watched(rest))
	case "answer":
		f.record(watched(rest))
	case "gone":
		name, uid, _ := strings.Cut(rest, " ")
		f.missing(objects.Key{Name: name}, types.UID(uid))
	default:
		return fmt.Errorf("unknown step %q", step)
	}
	return nil
}

func TestFingerprint(t *testing.T) {
	base := func() *metav1.PartialObjectMetadata {
		o := watched("a 1 5 x")
		o.Annotations = map[string]string{"k": "v"}
		return o
	}
	same := []func(*metav1.PartialObjectMetadata){
		func(o *metav1.PartialObjectMetadata) { o.ResourceVersion = "6" },
		func(o *metav1.PartialObjectMetadata) { o.Annotations["deployment.kubernetes.io/revision"] = "3" },
		func(o *metav1.PartialObjectMetadata) { o.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}} },
	}
	other := []func(*metav1.PartialObjectMetadata){
		func(o *metav1.PartialObjectMetadata) { o.Generation = 2 },
		func(o *metav1.PartialObjectMetadata) { o.UID = "2" },
		func(o *metav1.PartialObjectMetadata) { o.Labels["l"] = "y" },
		func(o *metav1.PartialObjectMetadata) { o.Annotations["k"] = "w" },
		func(o *metav1.PartialObjectMetadata) { o.Labels, o.Annotations = o.Annotations, o.Labels },
		func(o *metav1.PartialObjectMetadata) { o.Generation, o.ResourceVersion = 0, "6" },
	}
	for i, change := range same {
		o := base()
		if change(o); fingerprint(o) != fingerprint(base()) {
			t.Errorf("change %d of what doesn't count changes the fingerprint", i)
		}
	}
	for i, change := range other {
		o := base()
		if change(o); fingerprint(o) == fingerprint(base()) {
			t.Errorf("change %d is not seen", i)
		}
	}
}

// TestFingerprintWithoutGeneration: a status that is tracked apart does not count, what anybody else writes does.
func TestFingerprintWithoutGeneration(t *testing.T) {
	at := func(s int64) *metav1.Time { u := metav1.NewTime(time.Unix(s, 0)); return &u }
	object := func(version string, statusAt, specAt int64) *metav1.PartialObjectMetadata {
		o := watched("hpa 1 " + version)
		o.Generation = 0
		o.ManagedFields = []metav1.ManagedFieldsEntry{
			{Manager: "sluice", Operation: "Apply", Time: at(1)},
			{Manager: "controller", Operation: "Update", Subresource: "status", Time: at(statusAt)},
			{Manager: "kubectl-edit", Operation: "Update", Time: at(specAt)},
		}
		return o
	}
	if fingerprint(object("5", 1, 1)) != fingerprint(object("6", 2, 1)) {
		t.Error("a status counts")
	}
	if fingerprint(object("5", 1, 1)) == fingerprint(object("6", 1, 2)) {
		t.Error("an edit does not count")
	}
}

func TestPrepare(t *testing.T) {
	app := delivery.App{Name: "a", Namespace: "ns", ReleaseName: "r"}
	in := object(t, `
apiVersion: v1
kind: Secret
metadata: {name: s, uid: x, creationTimestamp: null, labels: {a: b, none: null}}
data: {old: eA==}
stringData: {new: hi}
status: {}
`)
	before := fmt.Sprint(in.Object)
	got, err := prepare(app, nil, in)
	if err != nil {
		t.Fatal(err)
	}
	want := object(t, `
apiVersion: v1
kind: Secret
metadata:
  name: s
  labels: {a: b, app.kubernetes.io/managed-by: Helm}
  annotations: {meta.helm.sh/release-name: r, meta.helm.sh/release-namespace: ns}
data: {old: eA==, new: aGk=}
`)
	if fmt.Sprint(got.Object) != fmt.Sprint(want.Object) {
		t.Errorf("got  %v\nwant %v", got.Object, want.Object)
	}
	if fmt.Sprint(in.Object) != before {
		t.Error("the input was changed")
	}
}
