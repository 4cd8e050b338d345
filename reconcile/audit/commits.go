package audit

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Batch is what the status branch does not say yet.
type Batch struct {
	Names
	// Commit of the environment branch that was last seen; empty: none since the agent began, and the one that the
	// status branch names stays.
	Commit string
	// Fault says why the environment can't be read; empty: it can. It is looked at when FaultChanged.
	Fault        string
	FaultChanged bool
	// Upstream says why no version can come from upstream; empty: it can. nil: that is not known, and what the branch says stays.
	Upstream *string
	// Accepted says who has accepted what was its fault, and why; empty: nobody has.
	Accepted string
	// UID of the cluster; empty: not known. Command is that by which somebody has Accepted, which also gives the branch of
	// another cluster to this one, once.
	UID, Command string
	Apps         []App
	// All has every app that there is, where somebody else has written to the branch: then README.md and environment.yaml
	// are made anew, and records of no app go. nil: nobody has.
	All map[string]bool
	// CommitPages is where people see commits of the environment branch, by an address that a hash is appended to; empty: nowhere.
	CommitPages string
	// Alive has the branch say that the agent runs, where it has said nothing for [Silence].
	Alive bool
	// Now dates what is no event.
	Now time.Time
}

// Silence is how long a status branch is left without a commit, so that an agent that is gone is told from one that has nothing to
// say. SilenceCheck is how often an agent looks whether it is over.
const (
	Silence      = 24 * time.Hour
	SilenceCheck = Silence / 8
)

// App is one app of a batch.
type App struct {
	Name string
	// State of the app, from which a record is written again that is gone or says something else. Unreadable: it is there,
	// and nobody knows what it says.
	State      rollout.State
	Unreadable bool
	// Fault says why git's wish for the app can't be delivered; empty: it can. KeepFault: that is not known yet, and
	// what the branch says of it stays.
	Fault     string
	KeepFault bool
	// Gone: git does not list the app and nothing of it is left. Its line goes from README.md.
	Gone bool
	// Events that may not be on the branch yet, in the order of their numbers.
	Events []rollout.Event
}

// Empty reports whether there is nothing to write.
func (b Batch) Empty() bool {
	return len(b.Apps) == 0 && !b.FaultChanged && b.Upstream == nil && b.All == nil && !b.Alive
}

// Parts splits a batch into batches of at most n events (an app without events counts as one), oldest first, to be sent
// one after the other: what one push holds in memory is bounded however long git was away. What is not of a single app, and has
// the whole branch read, comes with the first.
func (b Batch) Parts(n int) []Batch {
	// entries are the apps in the order of their events' times, as Commits has them, each as often as it has events.
	type entry struct {
		app int
		at  time.Time
	}
	var entries []entry
	for i, a := range b.Apps {
		var at time.Time
		for _, e := range a.Events {
			if e.Time.After(at) {
				at = e.Time
			}
			entries = append(entries, entry{i, at})
		}
		if len(a.Events) == 0 {
			entries = append(entries, entry{i, b.Now})
		}
	}
	if len(entries) <= n {
		return []Batch{b}
	}
	slices.SortStableFunc(entries, func(x, y entry) int { return x.at.Compare(y.at) })
	var parts []Batch
	sent := make([]int, len(b.Apps))
	for chunk := range slices.Chunk(entries, n) {
		count := map[int]int{}
		for _, e := range chunk {
			count[e.app]++
		}
		part := b
		if len(parts) > 0 {
			part.FaultChanged, part.Upstream, part.All, part.Alive = false, nil, nil, false
		}
		part.Apps = nil
		for i, a := range b.Apps {
			k := count[i]
			if k == 0 {
				continue
			}
			if len(a.Events) > 0 {
				events := a.Events[sent[i] : sent[i]+k]
				sent[i] += k
				a.KeepFault = a.KeepFault || sent[i] < len(a.Events)
				a.Events = events
			}
			part.Apps = append(part.Apps, a)
		}
		parts = append(parts, part)
	}
	return parts
}

// Commit is one commit of the status branch.
type Commit struct {
	// Files by path; nil deletes.
	Files   map[string][]byte
	Message string
	Date    time.Time
}

// Update is what brings the status branch to what a batch says.
type Update struct {
	// Commits are one for each event that the tip does not hold, oldest first, and one for each fault that came or went; before
	// them comes one with all records that are written again. They are to be pushed together; only the last one changes
	// README.md. None: the tip says it all.
	Commits []Commit
	// Ahead has an entry for each app whose record in the tip is of an earlier incarnation of the app: it has higher numbers
	// than the app's State ever gave, or other events by the same numbers. The State was lost, or the app was removed and is
	// listed again. Nothing is written for such an app: its events are to be numbered on after the record's, and sent again.
	Ahead map[string]int64
	// Damaged says which records are none, each with its file.
	Damaged []error
}

// Recorded is what writing a batch came to: the Ahead of its Update.
type Recorded struct {
	Ahead map[string]int64
	// Edited: somebody else had written to the branch since it was last written to, and all of it is to be looked at.
	Edited bool
	// Taken: it was another cluster's until now.
	Taken bool
}

// Commits brings the status branch from its tip (nil: there is no branch yet) to what the batch says. A *ForeignError says that
// the branch is another cluster's, any other error that the tip can't be read. A record that is gone, damaged, or not as the State has it is written again, and so is README.md.
func Commits(tip fs.FS, b Batch) (Update, error) {
	w := &writing{tip: tip, batch: b, restored: map[string][]byte{}, Update: Update{Ahead: map[string]int64{}}}
	w.was, _ = ReadStatus(tip) // which is written again where it can't be read
	if other := w.was.Foreign(b.UID); other != nil && (b.Command == "" || b.Command == other.TakenOver) {
		return Update{}, other
	}
	for _, app := range b.Apps {
		if err := w.app(app); err != nil {
			return Update{}, fmt.Errorf("adding %s to the audit log: %w", app.Name, err)
		}
	}
	if err := w.strangers(); err != nil {
		return Update{}, err
	}
	if len(w.restored) > 0 {
		w.Commits = append(w.Commits, w.restoring())
	}
	slices.SortStableFunc(w.steps, func(x, y step) int { return x.at.Compare(y.at) })
	for _, s := range w.steps {
		w.Commits = append(w.Commits, s.commit)
	}
	if err := w.environment(); err != nil {
		return Update{}, err
	}
	return w.Update, nil
}

// writing is the work on one batch.
type writing struct {
	Update
	tip   fs.FS
	batch Batch
	// was is environment.yaml of the tip.
	was Status
	// changed are the records that differ from the tip's. restored are the files of those that are no event's work; nil: it
	// goes.
	changed  []Record
	restored map[string][]byte
	steps    []step
	// lines tell what happened, each app's oldest first.
	lines []EventLine
}

// step is a commit before it has its place among those of other apps.
type step struct {
	// at orders the steps of all apps and never falls from one step of an app to its next.
	at     time.Time
	commit Commit
}

func (w *writing) app(a App) error {
	name := clean(a.Name, longestText)
	if name == "" {
		return errors.New("an app has no name")
	}
	r, known, err := w.record(name, a)
	if err != nil {
		return err
	}
	if a.known() && (r.LastSeq > a.State.LastSeq || r.earlierIncarnation(a.Events)) {
		w.Ahead[a.Name] = r.LastSeq
		return nil
	}
	changed := false
	if saved, ok := a.record(name); ok && (!known || r.contradicts(saved, a)) {
		saved.Fault = r.Fault
		if w.restored[File(name)], err = saved.Marshal(); err != nil {
			return fmt.Errorf("printing the record: %w", err)
		}
		r, known, changed = saved, true, true
	}
	begun := len(w.steps)
	var at time.Time
	for _, e := range a.Events {
		if e.Seq <= r.LastSeq {
			continue
		}
		if e.Time.After(at) {
			at = e.Time
		}
		r = r.After(e)
		if a.known() && e.Seq == a.State.LastSeq { // else the State is of another time
			r.Progress = progress(a.State)
		}
		if err := w.step(at, r, told(e), eventMessage(w.batch.Names, name, e), e.Time); err != nil {
			return err
		}
	}
	if r, err = w.settle(r, a, known, at); err != nil {
		return err
	}
	if changed || len(w.steps) > begun {
		w.changed = append(w.changed, r)
	}
	return nil
}

// strangers takes the records of apps away that are none, where somebody else has written to the branch. Those of apps that
// were removed stay: they are where their numbers go on.
func (w *writing) strangers() error {
	if w.batch.All == nil || w.tip == nil {
		return nil
	}
	records, _, err := readAll(w.tip)
	for _, r := range records {
		if !w.batch.All[r.App] && r.listed() {
			w.restored[File(r.App)] = nil
			w.changed = append(w.changed, Record{App: r.App, Phase: phaseRemoved})
		}
	}
	return err
}

// restoring is the commit of what is written again.
func (w *writing) restoring() Commit {
	files := slices.Sorted(maps.Keys(w.restored))
	return Commit{Files: w.restored, Message: restoredMessage(w.batch.Names, files, w.batch.Now), Date: w.batch.Now}
}

// earlierIncarnation reports whether events are numbered like those of the record and are none of them: those of an app that was
// forgotten and is listed again, or whose State was lost. They happened after all that the record tells.
func (r Record) earlierIncarnation(events []rollout.Event) bool {
	return slices.ContainsFunc(events, func(e rollout.Event) bool { return e.Seq <= r.LastSeq && second(e.Time).After(r.Updated) })
}

// settle writes what is no event: a fault that came or went, and the end of an app that never had events.
func (w *writing) settle(r Record, a App, known bool, at time.Time) (Record, error) {
	fault := onOneLine(a.Fault)
	switch {
	case a.Gone:
		fault = ""
	case a.KeepFault:
		fault = r.Fault
	}
	if fault == r.Fault {
		return r, nil
	}
	if at.Before(w.batch.Now) {
		at = w.batch.Now
	}
	r.Fault = fault
	r.Updated = second(w.batch.Now)
	if !known && r.Since.IsZero() {
		r.Since = r.Updated
	}
	return r, w.step(at, r, faultTold(fault), faultMessage(w.batch.Names, r.App, fault, "", w.batch.Now), w.batch.Now)
}

// told is an event in the list of the newest, where the app's name stands before it.
func told(e rollout.Event) string {
	return clean(strings.TrimPrefix(Describe("", e), ": "), longestCell)
}

// faultTold is a fault that came, or went.
func faultTold(fault string) string {
	if fault == "" {
		return told(rollout.Event{Type: ErrorCleared})
	}
	return told(rollout.Event{Type: Error, Reason: fault})
}

// reach is how far a record's numbers may be ahead of those of the State, which was lost then. What is further ahead was
// written by somebody else, and would leave the app no numbers for its events.
const reach = 1 << 20

// record reads an app's record. One that is damaged counts as absent: the alternative, to write nothing at all for
// this app until a person mends the file, is worse than to repeat what the State's outbox still holds.
func (w *writing) record(name string, a App) (Record, bool, error) {
	data, err := readFile(w.tip, File(name))
	if err != nil || data == nil {
		return Record{App: name}, false, err
	}
	r, fault := ParseRecord(data)
	switch {
	case fault != nil:
	case r.App != name:
		fault = fmt.Errorf("it is of app %q", r.App)
	case a.known() && r.LastSeq-a.State.LastSeq > reach:
		fault = fmt.Errorf("lastSeq %d: expected at most %d more than the %d events that the app has had", r.LastSeq, reach, a.State.LastSeq)
	default:
		return r, true, nil
	}
	w.Damaged = append(w.Damaged, fmt.Errorf("reading %s: %w", File(name), fault))
	return Record{App: name}, false, nil //nolint:nilerr // told elsewhere
}

func (w *writing) step(at time.Time, r Record, text, message string, date time.Time) error {
	files := map[string][]byte{File(r.App): nil}
	if !r.empty() {
		data, err := r.Marshal()
		if err != nil {
			return fmt.Errorf("printing the record: %w", err)
		}
		files[File(r.App)] = data
	}
	w.lines = append(w.lines, EventLine{Time: second(date), App: r.App, Text: text})
	w.steps = append(w.steps, step{at, Commit{Files: files, Message: message, Date: date}})
	return nil
}

// environment adds the commit of a fault of the environment, and brings environment.yaml up to date with the last
// commit. It is not worth a commit of its own that another commit of the environment branch was seen.
func (w *writing) environment() error {
	b, was := w.batch, w.was
	now := Status{
		Environment: clean(b.Environment, longestText), Cluster: clean(b.Cluster, longestText),
		ClusterUID: cmp.Or(clean(b.UID, longestText), was.ClusterUID), TakenOver: was.TakenOver,
		Commit: clean(b.Commit, longestText), Fault: was.Fault, Upstream: was.Upstream,
	}
	if was.Foreign(now.ClusterUID) != nil {
		now.TakenOver = b.Command
	}
	if b.Commit == "" {
		now.Commit = was.Commit
	}
	if b.FaultChanged {
		now.Fault = onOneLine(b.Fault)
	}
	if b.Upstream != nil {
		now.Upstream = clean(*b.Upstream, longestText)
	}
	accepted := b.FaultChanged && b.Accepted != "" && (now.Commit != was.Commit || was.Foreign(now.ClusterUID) != nil)
	if now.Faults() != was.Faults() || accepted {
		w.Commits = append(w.Commits, Commit{
			Files: map[string][]byte{}, Message: faultMessage(b.Names, "", now.Faults(), b.Accepted, b.Now), Date: b.Now,
		})
		w.lines = append(w.lines, EventLine{Time: second(b.Now), Text: faultTold(now.Faults())})
	}
	// A branch that is new begins with what happens to its apps.
	if len(w.Commits) == 0 && b.Alive && !was.Updated.IsZero() && b.Now.Sub(was.Updated) >= Silence {
		w.Commits = append(w.Commits, Commit{Files: map[string][]byte{}, Message: aliveMessage(b.Names, b.Now), Date: b.Now})
	}
	if len(w.Commits) == 0 && b.All == nil {
		return nil
	}
	old, err := readFile(w.tip, readmeFile)
	if err != nil {
		return err
	}
	readme, err := w.readme(old, now)
	if err != nil {
		return err
	}
	if len(w.Commits) == 0 {
		now.Updated = was.Updated
		if was == now && bytes.Equal(old, readme) {
			return nil
		}
		w.Commits = append(w.Commits, Commit{
			Files: map[string][]byte{}, Message: restoredMessage(b.Names, []string{environmentFile, readmeFile}, b.Now), Date: b.Now,
		})
	}
	last := w.Commits[len(w.Commits)-1]
	now.Updated = second(last.Date)
	last.Files[readmeFile] = readme
	if last.Files[environmentFile], err = marshal(now); err != nil {
		return fmt.Errorf("printing %s: %w", environmentFile, err)
	}
	return nil
}

// readme is README.md with the changed rows in it. old is what it was, where nobody else has written there.
func (w *writing) readme(old []byte, s Status) ([]byte, error) {
	o, ok := ParseOverview(old)
	events := o.Events
	if !ok {
		events = nil
	}
	if !ok || w.batch.All != nil {
		var err error
		if o, err = w.rebuilt(); err != nil {
			return nil, err
		}
	}
	slices.Reverse(w.lines)
	events = append(w.lines, events...)
	// However the events were split over pushes, the list is the same.
	slices.SortStableFunc(events, func(x, y EventLine) int {
		return cmp.Or(y.Time.Compare(x.Time), strings.Compare(x.App, y.App))
	})
	o.Events = events[:min(len(events), mostEvents)]
	o.Names = Names{Environment: s.Environment, Cluster: s.Cluster}
	o.Commit, o.CommitPages = s.Commit, w.batch.CommitPages
	o.fault("", s.Faults())
	slices.SortFunc(w.changed, func(x, y Record) int { return strings.Compare(x.App, y.App) })
	for _, r := range w.changed {
		o.with(r)
	}
	return o.Marshal(), nil
}

// rebuilt is README.md from the records; those that are damaged are left out.
func (w *writing) rebuilt() (Overview, error) {
	var o Overview
	if w.tip == nil {
		return o, nil
	}
	records, _, err := readAll(w.tip)
	for _, r := range records {
		o.with(r)
	}
	return o, err
}
