package audit

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Overview is README.md.
type Overview struct {
	Names
	// Commit of the environment branch that was last seen.
	Commit string `json:"commit,omitempty"`
	// CommitPages is where it is seen, by an address that the hash is appended to; empty: nowhere.
	CommitPages string `json:"-"`
	// Rows in the order of the apps' names.
	Rows []Row `json:"apps,omitempty"`
	// Faults in the order of the apps' names, the environment's first.
	Faults []FaultLine `json:"errors,omitempty"`
	// Events are the newest, newest first, at most 10.
	Events []EventLine `json:"events,omitempty"`
}

// Row is one app in the table, every cell as it is shown.
type Row struct {
	App    string `json:"app"`
	Serves string `json:"serves,omitempty"`
	Target string `json:"target,omitempty"`
	Weight string `json:"weight,omitempty"`
	Phase  string `json:"phase,omitempty"`
	// Note is what keeps the app from going on; else the newest verdict of a rollout that is under way; at rest, how the last one ended.
	Note  string `json:"note,omitempty"`
	Since string `json:"since,omitempty"`
}

// FaultLine is one thing that can't be delivered. App is empty for the environment.
type FaultLine struct {
	App  string `json:"app,omitempty"`
	Text string `json:"text"`
}

// EventLine is one event in the list of the newest. App is empty for the environment.
type EventLine struct {
	Time time.Time `json:"time"`
	App  string    `json:"app,omitempty"`
	Text string    `json:"text"`
}

// mostEvents is how many events README.md lists; the branch's history has all of them.
const mostEvents = 10

// longestCell is the number of bytes of a reason that the table shows; the record has the rest.
const longestCell = 160

// row is an app's line of the table.
func (r Record) row() Row {
	row := Row{App: r.App, Phase: r.Phase}
	row.Serves = r.Serves.beside(r.Target)
	row.Target = r.Target.beside(r.Serves)
	if r.Target != (Release{}) {
		row.Weight = rollout.Percent(r.Weight)
	}
	row.Note = r.Last.String()
	if r.Target != (Release{}) {
		row.Note = r.Reason
	}
	keeps := func(how, why string) { row.Phase, row.Note = row.Phase+" ("+how+")", why }
	switch {
	case r.Degraded != "":
		keeps("degraded", r.Degraded)
	case r.Stalled != "":
		keeps("stalled", r.Stalled)
	case r.Fault != "" && (r.Phase == "" || r.Phase == phaseRemoved):
		row.Phase = string(Error)
	case r.Paused != "":
		keeps("paused", r.Paused)
	case r.Held != "":
		keeps("held", r.Held)
	case r.Waiting != "":
		keeps("waiting", r.Waiting)
	}
	row.Phase = strings.TrimSpace(row.Phase)
	if !r.Since.IsZero() {
		row.Since = r.Since.UTC().Format(rowTime)
	}
	cells := row.cells()
	for _, cell := range cells[1:] {
		*cell = clean(*cell, longestCell)
	}
	return row
}

func (r *Row) cells() [7]*string {
	return [...]*string{&r.App, &r.Serves, &r.Target, &r.Weight, &r.Phase, &r.Note, &r.Since}
}

// beside shows a release next to another one.
func (r Release) beside(other Release) string {
	switch {
	case r.Name() == "":
		return short(r.Digest)
	case r.Name() == other.Name() && r.Digest != other.Digest:
		return r.Name() + " [" + short(r.Digest) + "]"
	default:
		return r.Name()
	}
}

// String says "RolledBack 0.0.131: success rate 69.17% < 99%"; a success needs no reason.
func (e Ending) String() string {
	text := strings.TrimSpace(e.Outcome + " " + e.Release.beside(Release{}))
	if e.Reason != "" && e.Outcome != "Promoted" && e.Outcome != "Installed" {
		text += ": " + e.Reason
	}
	return clean(text, longestCell)
}

// with replaces the row and the fault of an app; a removed app has none.
func (o *Overview) with(r Record) {
	i, found := slices.BinarySearchFunc(o.Rows, r.App, func(x Row, app string) int { return strings.Compare(x.App, app) })
	switch {
	case found && r.listed():
		o.Rows[i] = r.row()
	case found:
		o.Rows = slices.Delete(o.Rows, i, i+1)
	case r.listed():
		o.Rows = slices.Insert(o.Rows, i, r.row())
	}
	o.fault(r.App, r.Fault)
}

// fault replaces the fault of an app, or of the environment.
func (o *Overview) fault(app, text string) {
	text = clean(text, longestText)
	i, found := slices.BinarySearchFunc(o.Faults, app, func(x FaultLine, app string) int { return strings.Compare(x.App, app) })
	switch {
	case text == "" && found:
		o.Faults = slices.Delete(o.Faults, i, i+1)
	case text == "":
	case found:
		o.Faults[i].Text = text
	default:
		o.Faults = slices.Insert(o.Faults, i, FaultLine{App: app, Text: text})
	}
}

// listed reports whether the app has a line in the table.
func (r Record) listed() bool {
	return r.Fault != "" || r.Phase != phaseRemoved && !r.empty()
}

// empty reports whether nothing is known of the app any more.
func (r Record) empty() bool { return r.Phase == "" && r.Fault == "" && r.LastSeq == 0 }

const (
	tableHead = "| App | Serves | Rolling out | Weight | Phase | Note | Since |\n|---|---|---|---|---|---|---|\n"
	about     = "What is running. Written by Sluice, one commit per event; manual edits are overwritten.\n"
	// aboutBefore stood there in older versions, whose pages are not damaged.
	aboutBefore = "What is running, as git says it. Sluice writes this branch, one commit for each event; edits are overwritten.\n"

	environmentKey = "- Environment: "
	clusterKey     = "- Cluster: "
	commitKey      = "- As of commit: "
	errorsHead     = "## Errors\n"
	eventsHead     = "## Latest events\n"
	eventKey       = "- *"
	eventTime      = "2006-01-02 15:04:05 UTC"
	rowTime        = "2006-01-02 15:04 UTC"
)

// Marshal is the content of README.md. Equal overviews give equal bytes.
func (o Overview) Marshal() []byte {
	var b strings.Builder
	b.WriteString("# " + escape(o.Environment) + "\n\n" + about + "\n")
	for _, line := range []struct{ key, value string }{
		{environmentKey, escape(o.Environment)}, {clusterKey, escape(o.Cluster)}, {commitKey, o.commit()},
	} {
		if line.value != "" {
			b.WriteString(line.key + line.value + "\n")
		}
	}
	if len(o.Faults) > 0 {
		b.WriteString("\n" + errorsHead + "\n")
	}
	for _, f := range o.Faults {
		b.WriteString("- " + link(f.App) + ": " + escape(f.Text) + "\n")
	}
	b.WriteString("\n## Apps\n\n" + tableHead)
	for _, r := range o.Rows {
		b.WriteString("| " + link(r.App))
		cells := r.cells()
		for _, cell := range cells[1:] {
			b.WriteString(" | " + escape(*cell))
		}
		b.WriteString(" |\n")
	}
	if len(o.Events) > 0 {
		b.WriteString("\n" + eventsHead + "\n")
	}
	for _, e := range o.Events {
		b.WriteString(eventKey + e.Time.UTC().Format(eventTime) + "* " + link(e.App) + ": " + escape(e.Text) + "\n")
	}
	return []byte(b.String())
}

// ParseOverview reads what Marshal wrote. It reports false for a file that somebody else wrote or edited.
func ParseOverview(data []byte) (Overview, bool) {
	var o Overview
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "| ["):
			o.parseRow(line)
		case strings.HasPrefix(line, environmentKey):
			o.Environment = unescape(line[len(environmentKey):])
		case strings.HasPrefix(line, clusterKey):
			o.Cluster = unescape(line[len(clusterKey):])
		case strings.HasPrefix(line, commitKey):
			o.parseCommit(line[len(commitKey):])
		case strings.HasPrefix(line, eventKey):
			o.parseEvent(line[len(eventKey):])
		case strings.HasPrefix(line, "- "):
			o.parseFault(line[len("- "):])
		}
	}
	return o, string(o.Marshal()) == strings.Replace(string(data), aboutBefore, about, 1)
}

// commit is Commit, as a link where it can be seen.
func (o Overview) commit() string {
	if o.Commit == "" || o.CommitPages == "" {
		return escape(o.Commit)
	}
	return linked(o.Commit, o.CommitPages+url.PathEscape(o.Commit))
}

// parseCommit reads it back.
func (o *Overview) parseCommit(text string) {
	o.Commit = unescape(text)
	if link, ok := strings.CutPrefix(text, "["); ok {
		inner, target, _ := strings.Cut(strings.TrimSuffix(link, ")"), "](")
		o.Commit = unescape(inner)
		o.CommitPages = strings.TrimSuffix(target, url.PathEscape(o.Commit))
	}
}

// parseRow, parseFault and parseEvent take what they can read: a line that they can't is missing when the overview is printed
// again, which is how ParseOverview notices.
func (o *Overview) parseRow(line string) {
	cells := split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"))
	var r Row
	if len(cells) != len(r.cells()) {
		return
	}
	app, _, ok := unlink(cells[0])
	if !ok {
		return
	}
	for i, cell := range r.cells() {
		*cell = unescape(cells[i])
	}
	r.App = app
	o.Rows = append(o.Rows, r)
}

func (o *Overview) parseFault(line string) {
	if app, rest, ok := unlink(line); ok {
		if text, ok := strings.CutPrefix(rest, ": "); ok {
			o.Faults = append(o.Faults, FaultLine{App: app, Text: unescape(text)})
		}
	}
}

func (o *Overview) parseEvent(line string) {
	at, rest, _ := strings.Cut(line, "* ")
	when, err := time.Parse(eventTime, at)
	app, rest, ok := unlink(rest)
	if text, said := strings.CutPrefix(rest, ": "); ok && said && err == nil {
		o.Events = append(o.Events, EventLine{Time: when, App: app, Text: unescape(text)})
	}
}

// environmentLink stands for the environment where apps have links.
const environmentLink = "environment"

// link leads to an app's record.
func link(app string) string {
	if app == "" {
		return "[" + environmentLink + "](" + environmentFile + ")"
	}
	target := File(app)
	if strings.Contains(target, "%") {
		target = (&url.URL{Path: target}).EscapedPath()
	}
	return linked(app, target)
}

// linked is a text that leads to a target. With the opening parenthesis escaped too, "](" ends the text.
func linked(text, target string) string {
	return "[" + strings.ReplaceAll(escape(text), "(", `\(`) + "](" + target + ")"
}

// unlink reads a link back, and gives what follows it.
func unlink(s string) (app, rest string, ok bool) {
	inner, rest, ok := strings.Cut(s, "](")
	text, open := strings.CutPrefix(inner, "[")
	target, rest, closed := strings.Cut(rest, ")")
	if !ok || !open || !closed {
		return "", "", false
	}
	if target == environmentFile {
		return "", rest, true
	}
	return unescape(text), rest, true
}

// special are the characters that mean something in a line of Markdown.
const special = "\\|<>[]*&`_"

func escape(s string) string {
	if !strings.ContainsAny(s, special) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(special, s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func unescape(s string) string {
	if !strings.Contains(s, "\\") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// split cuts a line of a table into its cells, which stay escaped.
func split(line string) []string {
	cells := make([]string, 0, 7)
	start := 0
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '\\':
			i++
		case strings.HasPrefix(line[i:], " | "):
			cells = append(cells, line[start:i])
			start = i + len(" | ")
			i = start - 1
		}
	}
	return append(cells, line[min(start, len(line)):])
}
