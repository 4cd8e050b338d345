package environments

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A decoder reads trees of JSON-like values strictly: what it does not know is a fault, never silence. It goes on
// after a fault, so that one run reports them all.
type decoder struct {
	// around is what references lead to; nil: that is not known.
	around  *surroundings
	faults  []pathFault
	ignored []string
}

// pathFault is a fault with the path at which its line can be looked up.
type pathFault struct {
	path  fieldPath
	fault *Fault
}

// fieldPath leads to a value: keys, and "[0]" for elements of lists.
type fieldPath []string

func (p fieldPath) key(name string) fieldPath { return append(slices.Clip(p), name) }

func (p fieldPath) index(i int) fieldPath { return append(slices.Clip(p), "["+strconv.Itoa(i)+"]") }

func (p fieldPath) String() string {
	var b strings.Builder
	for i, e := range p {
		if i > 0 && !strings.HasPrefix(e, "[") {
			b.WriteByte('.')
		}
		b.WriteString(e)
	}
	return b.String()
}

// decodeObject reads v, an object, by its table. Null reads as an empty object, and a null field as an absent one,
// as templates leave them.
func decodeObject[T any](d *decoder, at fieldPath, v any, table fields[T], to *T) {
	m, ok := d.object(at, v)
	if !ok {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		one, known := table[key]
		switch {
		case !known:
			d.add(at.key(key), UnknownField(at.key(key).String(), table.names()))
		case m[key] != nil:
			one.read(d, at.key(key), m[key], to)
		}
	}
}

// isOff reports whether v is the zero value of its kind.
func isOff(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	n, ok := number(v)
	return ok && n == 0
}

func (d *decoder) add(at fieldPath, f *Fault) { d.faults = append(d.faults, pathFault{at, f}) }

// fail notes a fault. Who reads text of some form says again what is no text: that is one fault, and the form is what was expected.
func (d *decoder) fail(at fieldPath, problem, expected string) {
	if n := len(d.faults); n > 0 && slices.Equal(d.faults[n-1].path, at) && d.faults[n-1].fault.Problem == problem {
		d.faults[n-1].fault.Expected = expected
		return
	}
	d.add(at, &Fault{Field: at.String(), Problem: problem, Expected: expected})
}

func (d *decoder) object(at fieldPath, v any) (map[string]any, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case map[string]any:
		return v, true
	}
	d.fail(at, "is "+kindOf(v), "an object")
	return nil, false
}

func (d *decoder) list(at fieldPath, v any) []any {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		return v
	case []map[string]any:
		list := make([]any, len(v))
		for i, e := range v {
			list[i] = e
		}
		return list
	}
	d.fail(at, "is "+kindOf(v), "a list")
	return nil
}

func (d *decoder) text(at fieldPath, v any) string {
	switch v := v.(type) {
	case string:
		return v
	case map[string]any, []any, nil:
		d.fail(at, "is "+kindOf(v), "a string")
		return ""
	}
	if n, ok := number(v); ok {
		return strconv.FormatFloat(n, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

func (d *decoder) texts(at fieldPath, v any) []string {
	var list []string
	for i, e := range d.list(at, v) {
		list = append(list, d.text(at.index(i), e))
	}
	return list
}

func (d *decoder) textMap(at fieldPath, v any) map[string]string {
	m, _ := d.object(at, v)
	if len(m) == 0 {
		return nil
	}
	texts := make(map[string]string, len(m))
	for key, e := range m {
		texts[key] = d.text(at.key(key), e)
	}
	return texts
}

func (d *decoder) boolean(at fieldPath, v any) bool {
	switch v {
	case true, "true":
		return true
	case false, "false":
		return false
	}
	d.fail(at, "is "+shown(v), "true or false")
	return false
}

func (d *decoder) number(at fieldPath, v any) float64 {
	n, ok := number(v)
	if !ok {
		d.fail(at, "is "+shown(v), "a number")
	}
	return n
}

// integer reads a whole number between low and high.
func (d *decoder) integer(at fieldPath, v any, low, high int) int {
	n, ok := number(v)
	if !ok || n != math.Trunc(n) || n < float64(low) || n > float64(high) {
		want := fmt.Sprintf("a whole number from %d to %d", low, high)
		if high == math.MaxInt32 {
			want = fmt.Sprintf("a whole number, %d or more", low)
		}
		d.fail(at, "is "+shown(v), want)
		return 0
	}
	return int(n)
}

// maxDuration keeps sums of durations from overflowing.
const maxDuration = 365 * 24 * time.Hour

// duration reads a Go duration or plain seconds, more than zero. An empty string reads as 0: absent.
func (d *decoder) duration(at fieldPath, v any) time.Duration {
	var length time.Duration
	if n, ok := number(v); ok {
		length = time.Duration(min(n, 2*maxDuration.Seconds()) * float64(time.Second))
	} else if s, isText := v.(string); isText {
		if s == "" {
			return 0
		}
		parsed, err := time.ParseDuration(s)
		if err != nil {
			parsed = 0
		}
		length = parsed
	}
	if length <= 0 || length > maxDuration {
		d.fail(at, "is "+shown(v), "a duration such as 60s, 1m30s or plain seconds, at most a year")
		return 0
	}
	return length
}

// number reads any of the types in which numbers arrive: YAML and JSON decoders, unstructured objects, and
// templates that quote them.
func number(v any) (float64, bool) {
	var n float64
	var err error
	switch v := v.(type) {
	case float64:
		n = v
	case float32:
		n = float64(v)
	case int:
		n = float64(v)
	case int32:
		n = float64(v)
	case int64:
		n = float64(v)
	case uint64:
		n = float64(v)
	case json.Number:
		n, err = strconv.ParseFloat(string(v), 64)
	case string:
		n, err = strconv.ParseFloat(v, 64)
	default:
		return 0, false
	}
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
		return 0, false
	}
	return n, true
}

// kindOf names what kind of value v is, without saying it.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "empty"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	}
	return "a number"
}

// shown is a policy's scalar for a message; policies hold no secrets. Long ones are cut.
func shown(v any) string {
	switch v := v.(type) {
	case nil, map[string]any, []any:
		return kindOf(v)
	case string:
		if len(v) > 40 {
			v = v[:40] + "..."
		}
		return strconv.Quote(v)
	}
	if n, ok := number(v); ok {
		return strconv.FormatFloat(n, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}
