package feedback

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync/forge"
	"github.com/sluice-cd/sluice/reconcile/audit"
	"github.com/sluice-cd/sluice/reconcile/clusters"
	"github.com/sluice-cd/sluice/reconcile/rollout"
)

// Status is what is to be said of a commit.
type Status struct {
	Commit string
	forge.Check
}

// Statuses are what an agent's records come to, by the commits that asked for what is under way or has ended since. It is pure.
func Statuses(names audit.Names, records []audit.Record, since time.Time) []Status {
	byCommit := map[string]*Status{}
	var order []string
	add := func(commit string, verdict forge.Verdict, text string) {
		s := byCommit[commit]
		if s == nil {
			s = &Status{Commit: commit, Check: forge.Check{Name: contextOf(names), Verdict: forge.Success}}
			byCommit[commit] = s
			order = append(order, commit)
		}
		if rank(verdict) > rank(s.Verdict) {
			s.Verdict = verdict
		}
		if s.Description != "" {
			s.Description += "; "
		}
		s.Description += text
	}
	for _, r := range records {
		if c := r.Target.Commit; c != "" {
			add(c, forge.Pending, fmt.Sprintf("%s %s: %s", r.App, r.Target.Name(), progress(r)))
		}
		if c := r.Last.Release.Commit; c != "" && c != r.Target.Commit && r.Last.At.After(since) {
			verdict, text := forge.Success, r.App+" "+r.Last.Release.Name()+": "+strings.ToLower(r.Last.Outcome)
			if became := r.Last.Became(); became != "" {
				verdict, text = forge.Failure, r.App+" "+r.Last.Release.Name()+" "+became
				if r.Last.Reason != "" {
					text += ": " + r.Last.Reason
				}
			}
			add(c, verdict, text)
		}
	}
	out := make([]Status, 0, len(order))
	for _, c := range order {
		out = append(out, *byCommit[c])
	}
	return out
}

// rank orders verdicts by which of them counts for all.
func rank(v forge.Verdict) int {
	return slices.Index([]forge.Verdict{forge.Success, forge.Pending, forge.Failure}, v)
}

// contextOf is the name of a status, such as sluice/production/us.
func contextOf(n audit.Names) string {
	return strings.TrimSuffix("sluice/"+n.Environment+"/"+n.Cluster, "/")
}

// progress is how far a rollout is, in two words.
func progress(r audit.Record) string {
	switch {
	case r.Paused != "":
		return "paused at " + rollout.Percent(r.Weight)
	case r.Stalled != "":
		return "stalled at " + rollout.Percent(r.Weight)
	case r.Waiting != "":
		return "waiting at " + rollout.Percent(r.Weight)
	case r.Weight > 0:
		return strings.ToLower(r.Phase) + " at " + rollout.Percent(r.Weight)
	default:
		return strings.ToLower(r.Phase)
	}
}

// numbers find the pull request in the message of its merge, in the words of the forges.
var numbers = []*regexp.Regexp{
	regexp.MustCompile(`^[^\n]*\([#!](\d+)\)[ \t]*(?:\n|$)`),
	regexp.MustCompile(`^Merge pull request [^\n]*#(\d+)\)? from `),
	regexp.MustCompile(`(?m)^See merge request .*!(\d+)$`),
}

// numberIn is the number of a pull request that a commit's message names; 0: it names none.
func numberIn(message string) int {
	for _, pattern := range numbers {
		if m := pattern.FindStringSubmatch(message); m != nil {
			if n, err := strconv.Atoi(m[1]); err == nil {
				return n
			}
		}
	}
	return 0
}

// Table shows how far every cluster of an environment is with the apps that a commit has changed, in Markdown. It is pure: agents that
// have read the same say the same. page is where people see the commits of a branch that have changed a file; empty: nowhere.
func Table(environment, commit string, all []clusters.Cluster, page func(branch, file string) string) string {
	var apps []string
	for _, c := range all {
		for _, r := range c.Records {
			if commit == r.Target.Commit || commit == r.Last.Release.Commit {
				apps = append(apps, r.App)
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "**%s**, commit %.10s\n\n| app | cluster | version | state | details |\n| --- | --- | --- | --- | --- |\n", environment, commit)
	slices.Sort(apps)
	for _, app := range slices.Compact(apps) {
		for _, c := range all {
			r, ok := c.Record(app)
			if c.Fault != nil {
				fmt.Fprintf(&b, "| %s | %s | | can't be read | %s |\n", cell(app), cell(c.Name), cell(c.Fault.Error()))
				continue
			}
			if !ok {
				fmt.Fprintf(&b, "| %s | %s | | not there yet | |\n", cell(app), cell(c.Name))
				continue
			}
			version, state, word := told(r, commit)
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", cell(app), cell(c.Name), cell(version), linked(state, page(c.Branch, audit.File(app))), cell(word))
		}
	}
	b.WriteString("\nEvery step is a commit of the cluster's status branch.\n")
	return b.String()
}

// linked is a cell that leads to a page; without one it is plain.
func linked(text, page string) string {
	if page == "" {
		return cell(text)
	}
	return "[" + cell(text) + "](" + strings.NewReplacer("(", "%28", ")", "%29").Replace(page) + ")"
}

// told is what a record says of what a commit asked for.
func told(r audit.Record, commit string) (version, state, word string) {
	switch {
	case r.Target.Commit == commit:
		word = r.Reason
		if len(r.Checks) > 0 {
			var checks []string
			for _, c := range r.Checks {
				checks = append(checks, c.Name+": "+c.Reason)
			}
			word = strings.Join(checks, "; ")
		}
		return r.Target.Name(), progress(r), word
	case r.Last.Release.Commit == commit:
		if became := r.Last.Became(); became != "" {
			return r.Last.Release.Name(), became, r.Last.Reason
		}
		return r.Last.Release.Name(), strings.ToLower(r.Last.Outcome), r.Last.Reason
	case r.Serves.Commit == commit:
		return r.Serves.Name(), "serves", ""
	case r.Fault != "":
		return "", "can't be delivered", r.Fault
	default:
		return "", "queued", cmp.Or(r.Held, r.Waiting)
	}
}

// cell is a text in a table of Markdown, which mentions nobody.
func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;", "@", "@\u200b", "#", "#\u200b").Replace(text)
}

// BroughtBack says which version that was rolled back an environment would ask for again; empty: none. It is pure.
func BroughtBack(now, then *environments.Environment, records []audit.Record) string {
	asked := map[string]string{}
	for i := range now.Apps {
		asked[now.Apps[i].Name] = now.Apps[i].Asks()
	}
	for i := range then.Apps {
		name, version := then.Apps[i].Name, then.Apps[i].Asks()
		if asked[name] == version || version == "" {
			continue
		}
		for _, r := range records {
			if reason, rejected := r.Rejects(version); rejected && r.App == name {
				return fmt.Sprintf("%s %s was rolled back here: %s. To allow it again: sluice retry", name, version, reason)
			}
		}
	}
	return ""
}
