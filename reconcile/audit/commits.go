package audit

import (
	"errors"
	"fmt"
	"io/fs"
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
	// Accepted says who has accepted what was its fault, and why; empty: nobody has.
	Accepted string
	Apps     []App
	// Now dates what is no event.
	Now time.Time
}

// App is one app of a batch.
type App struct {
	Name string
	// LastSeq is the number of the newest event that the app's State knows of. Unreadable: the State is there, and
	// nobody knows what it says.
	LastSeq    int64
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
func (b Batch) Empty() bool { return len(b.Apps) == 0 && !b.FaultChanged }

// Parts splits a batch into batches of at most n events (an app without events counts as one), oldest first, to be sent
// one after the other: what one push holds in memory is bounded however long git was away.
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
		part.FaultChanged = b.FaultChanged && len(parts) == 0
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

// Commits brings the status branch from its tip (nil: there is no branch yet) to what the batch says: one commit for
// each event that the tip does not hold, oldest first, and one for each fault that came or went. They are to be
// pushed together; only the last one changes README.md. No commits: the tip says it all.
//
// ahead has an entry for each app whose record in the tip is of an earlier incarnation of the app: it has higher numbers than the
// app's State ever gave, or other events by the same numbers. The State was lost, or the app was removed and is listed
// again. Nothing is written for such an app: its events are to be numbered on after the record's, and sent again.
//
// An error says that the tip can't be read. A record that is no record any more is begun anew, and so is README.md.
func Commits(tip fs.FS, b Batch) (commits []Commit, ahead map[string]int64, err error) {
	w := &writing{tip: tip, batch: b, ahead: map[string]int64{}}
	for _, app := range b.Apps {
		if err := w.app(app); err != nil {
			return nil, nil, fmt.Errorf("adding %s to the audit log: %w", app.Name, err)
		}
	}
	slices.SortStableFunc(w.steps, func(x, y step) int { return x.at.Compare(y.at) })
	for _, s := range w.steps {
		w.commits = append(w.commits, s.commit)
	}
	if err := w.environment(); err != nil {
		return nil, nil, err
	}
	return w.commits, w.ahead, nil
}

// writing is the work on one batch.
type writing struct {
	tip   fs.FS
	batch Batch
	// changed are the records that differ from the tip's.
	changed []Record
	steps   []step
	commits []Commit
	ahead   map[string]int64
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
	r, known, err := w.record(name)
	if err != nil {
		return err
	}
	if !a.Gone && !a.Unreadable && (r.LastSeq > a.LastSeq || r.earlierIncarnation(a.Events)) {
		w.ahead[a.Name] = r.LastSeq
		return nil
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
		if err := w.step(at, r, eventMessage(w.batch.Names, name, e), e.Time); err != nil {
			return err
		}
	}
	if r, err = w.settle(r, a, known, at); err != nil {
		return err
	}
	if len(w.steps) > begun {
		w.changed = append(w.changed, r)
	}
	return nil
}

// earlierIncarnation reports whether events are numbered like those of the record and are none of them: those of an app that was
// forgotten and is listed again, or whose State was lost. They happened after all that the record tells.
func (r Record) earlierIncarnation(events []rollout.Event) bool {
	return slices.ContainsFunc(events, func(e rollout.Event) bool { return e.Seq <= r.LastSeq && second(e.Time).After(r.Updated) })
}

// settle writes what is no event: a fault that came or went, and the end of an app that never had events.
func (w *writing) settle(r Record, a App, known bool, at time.Time) (Record, error) {
	fault := clean(a.Fault, longestText)
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
	return r, w.step(at, r, faultMessage(w.batch.Names, r.App, fault, "", w.batch.Now), w.batch.Now)
}

// record reads an app's record. One that is damaged counts as absent: the alternative, to write nothing at all for
// this app until a person mends the file, is worse than to repeat what the State's outbox still holds.
func (w *writing) record(app string) (Record, bool, error) {
	data, err := readFile(w.tip, File(app))
	if err != nil {
		return Record{}, false, err
	}
	if data != nil {
		if r, err := ParseRecord(data); err == nil && r.App == app {
			return r, true, nil
		}
	}
	return Record{App: app}, false, nil
}

func (w *writing) step(at time.Time, r Record, message string, date time.Time) error {
	files := map[string][]byte{File(r.App): nil}
	if !r.empty() {
		data, err := r.Marshal()
		if err != nil {
			return fmt.Errorf("printing the record: %w", err)
		}
		files[File(r.App)] = data
	}
	w.steps = append(w.steps, step{at, Commit{Files: files, Message: message, Date: date}})
	return nil
}

// environment adds the commit of a fault of the environment, and brings environment.yaml up to date with the last
// commit. It is not worth a commit of its own that another commit of the environment branch was seen.
func (w *writing) environment() error {
	b := w.batch
	was, err := ReadStatus(w.tip)
	if err != nil {
		was = Status{}
	}
	now := Status{
		Environment: clean(b.Environment, longestText), Cluster: clean(b.Cluster, longestText),
		Commit: clean(b.Commit, longestText), Fault: was.Fault,
	}
	if b.Commit == "" {
		now.Commit = was.Commit
	}
	if b.FaultChanged {
		now.Fault = clean(b.Fault, longestText)
	}
	if now.Fault != was.Fault {
		w.commits = append(w.commits, Commit{
			Files: map[string][]byte{}, Message: faultMessage(b.Names, "", now.Fault, b.Accepted, b.Now), Date: b.Now,
		})
	}
	if len(w.commits) == 0 {
		return nil
	}
	now.Updated = second(w.commits[len(w.commits)-1].Date)
	data, err := marshal(now)
	if err != nil {
		return fmt.Errorf("printing %s: %w", environmentFile, err)
	}
	w.commits[len(w.commits)-1].Files[environmentFile] = data
	return w.readme(now)
}

// readme puts the changed rows into README.md, with the last commit.
func (w *writing) readme(s Status) error {
	data, err := readFile(w.tip, readmeFile)
	if err != nil {
		return err
	}
	o, ok := ParseOverview(data)
	if !ok {
		if o, err = w.rebuilt(); err != nil {
			return err
		}
	}
	o.Names = Names{Environment: s.Environment, Cluster: s.Cluster}
	o.Commit = s.Commit
	o.fault("", s.Fault)
	slices.SortFunc(w.changed, func(x, y Record) int { return strings.Compare(x.App, y.App) })
	for _, r := range w.changed {
		o.with(r)
	}
	w.commits[len(w.commits)-1].Files[readmeFile] = o.Marshal()
	return nil
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
