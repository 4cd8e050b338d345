package analysis

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Expand replaces the variables {{ namespace }}, {{ target }}, {{ service }}, {{ name }} and {{ interval }} of a
// PromQL query. A value is written so that it means itself where it stands: escaped inside a quoted string, and
// quoted for regular expressions where the string belongs to =~ or !~. Outside strings only {{ interval }} and
// values that are PromQL words may stand. Comments are left out.
func Expand(query string, v Vars, window time.Duration) (string, error) {
	e := expander{rest: query, values: map[string]string{
		"namespace": v.Namespace,
		"target":    v.Target,
		"service":   v.Service,
		"name":      v.Name,
		"interval":  Interval(orDefault(window)),
	}}
	return e.run()
}

// expander walks a query once. It knows just enough of PromQL to tell what is inside a string, and of which
// matcher; whether the query is right is the server's business.
type expander struct {
	values map[string]string
	rest   string
	out    strings.Builder
	// quote is the character that ends the present string; 0 outside strings.
	quote byte
	// regex: the present string is the pattern of a matcher.
	regex bool
	// matcher holds the last two characters outside strings that are not spaces.
	matcher [2]byte
}

func (e *expander) run() (string, error) {
	for e.rest != "" {
		if strings.HasPrefix(e.rest, "{{") {
			if err := e.variable(); err != nil {
				return "", err
			}
			continue
		}
		if e.quote != 0 {
			e.inString()
		} else {
			e.outside()
		}
	}
	return e.out.String(), nil
}

// take copies n characters.
func (e *expander) take(n int) {
	n = min(n, len(e.rest))
	e.out.WriteString(e.rest[:n])
	e.rest = e.rest[n:]
}

func (e *expander) inString() {
	c := e.rest[0]
	switch {
	case c == '\\' && e.quote != '`':
		e.take(2)
		return
	case c == e.quote:
		e.quote = 0
		e.matcher = [2]byte{}
	}
	e.take(1)
}

func (e *expander) outside() {
	c := e.rest[0]
	switch c {
	case '#':
		if end := strings.IndexByte(e.rest, '\n'); end >= 0 {
			e.rest = e.rest[end:]
		} else {
			e.rest = ""
		}
		return
	case '"', '\'', '`':
		e.quote = c
		e.regex = e.matcher == [2]byte{'=', '~'} || e.matcher == [2]byte{'!', '~'}
	case ' ', '\t', '\n', '\r':
	default:
		e.matcher = [2]byte{e.matcher[1], c}
	}
	e.take(1)
}

var word = regexp.MustCompile(`^[a-zA-Z0-9_:]+$`)

func (e *expander) variable() error {
	inner, rest, found := strings.Cut(e.rest[2:], "}}")
	if !found {
		return fmt.Errorf("a variable that begins with {{ has no }}")
	}
	name := strings.TrimSpace(inner)
	value, known := e.values[name]
	if !known {
		return fmt.Errorf("unknown variable {{ %s }}; known are namespace, target, service, name and interval", Line(name))
	}
	text, err := e.write(value)
	if err != nil {
		return fmt.Errorf("replacing {{ %s }}: %w", name, err)
	}
	e.out.WriteString(text)
	e.matcher = [2]byte{}
	e.rest = rest
	return nil
}

// write gives the text that means value at the present place.
func (e *expander) write(value string) (string, error) {
	if e.quote == 0 {
		if !word.MatchString(value) {
			return "", fmt.Errorf("%q is not a word of PromQL; put the variable in quotes", value)
		}
		return value, nil
	}
	if e.regex {
		value = regexp.QuoteMeta(value)
	}
	if e.quote == '`' {
		if strings.ContainsRune(value, '`') {
			return "", fmt.Errorf("%q cannot stand in backquotes", value)
		}
		return value, nil
	}
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, string(e.quote), `\`+string(e.quote)).Replace(value), nil
}
