package environments

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Fault is something wrong in an environment repository, said so that a person can mend it.
type Fault struct {
	// File is the path in the snapshot, or a description of the place when no file is at hand.
	File string
	// Line counts from 1; 0 when not known.
	Line int
	// Field is the path of the field, such as "apps.web.rollout.analysis.metrics[0].threshold"; may be empty.
	Field string
	// Problem is what is wrong.
	Problem string
	// Expected is what would be right; may be empty.
	Expected string

	cause error
}

// ErrOtherName is wrapped by the fault of a sluice.yaml that gives the environment another name than the one who asked for it.
var ErrOtherName = errors.New("the environment has another name")

// Unwrap is the kind of fault it is, where a caller goes by that.
func (f *Fault) Unwrap() error { return f.cause }

// Error reads "sluice.yaml:12: apps.web.rollout.stepWeigth: unknown field; expected stepWeight".
func (f *Fault) Error() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File)
		if f.Line > 0 {
			b.WriteString(":" + strconv.Itoa(f.Line))
		}
		b.WriteString(": ")
	}
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	b.WriteString(f.Problem)
	if f.Expected != "" {
		b.WriteString("; expected " + f.Expected)
	}
	return b.String()
}

// joinFaults makes one error of them; nil of none.
func joinFaults(faults []*Fault) error {
	if len(faults) == 1 {
		return faults[0]
	}
	all := make([]error, len(faults))
	for i, f := range faults {
		all[i] = f
	}
	return errors.Join(all...)
}

const unknownField = "unknown field"

// UnknownField words the fault of a field that nobody reads: the known ones that are nearest to it are what was expected.
func UnknownField(field string, known []string) *Fault {
	key := field[strings.LastIndexByte(field, '.')+1:]
	return &Fault{Field: field, Problem: unknownField, Expected: nearestOf(key, known)}
}

// mostNames is how many names a message lists of those that there are.
const mostNames = 10

// UnknownName words that there is no such thing in a place: the names that are nearest to it are what was expected, else all, if they are few.
func UnknownName(thing, name, place string, known []string) *Fault {
	f := &Fault{Problem: fmt.Sprintf("there is no %s %q in this %s", thing, name, place)}
	near := nearest(name, known)
	if len(near) > mostNames {
		near = append(near[:mostNames:mostNames], fmt.Sprintf("one of %d more", len(near)-mostNames))
	}
	f.Expected = oneOf(near)
	return f
}

// nearestOf lists the known names that are nearest to what was written.
func nearestOf(name string, known []string) string { return oneOf(nearest(name, known)) }

// nearest are the known names that somebody may have meant, else all, sorted.
func nearest(name string, known []string) []string {
	known = slices.Sorted(slices.Values(known))
	var near []string
	for _, k := range known {
		if distance(strings.ToLower(name), strings.ToLower(k)) <= 1+len(k)/4 {
			near = append(near, k)
		}
	}
	if len(near) == 0 {
		return known
	}
	return near
}

// oneOf words a list of choices: "a", "a or b", "a, b or c".
func oneOf(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// distance is the Levenshtein distance in bytes. Names longer than any field are not worth comparing.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

var yamlErrorLine = regexp.MustCompile(`(?s)^.*?yaml: (?:line (\d+): )?([^\n]*).*$`)

var yamlDuplicateKey = regexp.MustCompile(`line (\d+): key "([^"\n]*)" already set in map`)

// YAMLFault is the fault of a file that is not YAML, of a YAML library's error. It repeats no value.
func YAMLFault(file string, err error) *Fault { return yamlFault(file, 1, err) }

// yamlFault turns a YAML library's error into a fault. Their messages can quote the value that they choked on,
// which may be a secret; such a tail is cut off.
func yamlFault(file string, firstLine int, err error) *Fault {
	f := &Fault{File: file, Problem: "not valid YAML"}
	if m := yamlDuplicateKey.FindStringSubmatch(err.Error()); m != nil {
		f.Line, _ = strconv.Atoi(m[1])
		f.Line += firstLine - 1
		f.Field, f.Problem, f.Expected = m[2], "is set twice", "one of them"
		return f
	}
	m := yamlErrorLine.FindStringSubmatch(err.Error())
	if m == nil {
		return f
	}
	if n, convErr := strconv.Atoi(m[1]); convErr == nil {
		f.Line = firstLine + n - 1
	} else if !strings.HasPrefix(m[2], "unknown anchor") {
		// The parser leaves the first line out.
		f.Line = firstLine
	}
	switch {
	case strings.Contains(m[2], "anchor '"):
		// The name of the anchor may be a password that begins with an asterisk.
		f.Problem = "not valid YAML (an alias that leads nowhere or into itself; a text that begins with * needs quotes)"
	case m[2] != "" && !strings.ContainsAny(m[2], "`\"") && !strings.Contains(m[2], "unmarshal"):
		f.Problem = fmt.Sprintf("not valid YAML (%s)", m[2])
	}
	return f
}
