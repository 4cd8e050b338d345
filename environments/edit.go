package environments

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"unicode/utf8"

	yamlv3 "go.yaml.in/yaml/v3"
)

// ErrMovedOn is returned by an edit that finds something else than what it was to replace: somebody was faster,
// and their word stands.
var ErrMovedOn = errors.New("the branch has moved on")

// UnrevertableError says that a release can't be put back by editing text: what changed is no field of the app's,
// or the text is written in a way that can't be edited without touching more.
type UnrevertableError struct {
	App, Reason string
}

func (e *UnrevertableError) Error() string {
	return fmt.Sprintf("reverting %s: %s", e.App, e.Reason)
}

func unrevertable(app, format string, args ...any) error {
	return &UnrevertableError{App: app, Reason: fmt.Sprintf(format, args...)}
}

// RevertVersion sets the version of an app, by its alias or name, in the text of a requirements.yaml or Chart.yaml, as a
// compare-and-set: when the version is no longer from, or the app is no longer listed, the error wraps [ErrMovedOn]. A version
// that is to already leaves the file as it is. Nothing but the version's characters changes; its quotes stay, and are added
// where YAML would take the new version for a number.
func RevertVersion(file []byte, app, from, to string) ([]byte, error) {
	e, err := findEntry(file, app)
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, fmt.Errorf("%w: %s is no longer listed", ErrMovedOn, app)
	case e.version == to:
		return file, nil
	case e.version != from:
		return nil, movedVersion(app, e.version, from)
	}
	return setVersion(file, app, e, to)
}

func movedVersion(app, found, from string) error {
	return fmt.Errorf("%w: the version of %s is %s, no longer %s", ErrMovedOn, app, found, from)
}

func setVersion(file []byte, app string, e *entry, to string) ([]byte, error) {
	if !versionFormat.MatchString(to) {
		return nil, fmt.Errorf("setting the version of %s: %q is no version", app, to)
	}
	start, end, err := e.versionToken(file)
	if err != nil {
		return nil, unrevertable(app, "its version %s", err)
	}
	token := versionText(file[start], to)
	edited := bytes.Join([][]byte{file[:start], []byte(token), file[end:]}, nil)
	after, err := findEntry(edited, app)
	if err != nil || after == nil || after.version != to || !after.sameButVersion(e.dependency) {
		return nil, unrevertable(app, "its version is written in a way that can't be edited")
	}
	return edited, nil
}

// plainVersion is what needs no quotes in any context of YAML, as long as it is no number.
var plainVersion = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z./_:@+-]*$`)

// versionText writes a version with the quotes that the old one began with.
func versionText(quote byte, version string) string {
	switch {
	case quote == '\'' || quote == '"':
		return string(quote) + version + string(quote)
	case plainVersion.MatchString(version) && helmText(version) == version:
		return version
	}
	return `"` + version + `"`
}

// entry is a dependency's entry found in a file.
type entry struct {
	*dependency
	// node is the entry's mapping; its lines count from line.
	node *yamlv3.Node
	// line of the file on which the text begins that node was parsed from, from 1.
	line int
	// start and end bound the entry's whole lines; both 0 when the list could not be cut.
	start, end int
}

// findEntry finds an app's entry by its alias or name; nil when there is none. Only entries that hold the name are
// parsed where the list can be cut.
func findEntry(file []byte, app string) (*entry, error) {
	if file == nil {
		return nil, nil
	}
	found, ok := findInItems(file, app)
	if !ok || len(found) == 0 {
		// The name may be written as an alias or with escapes.
		root, err := parseNode(file)
		if err != nil {
			return nil, yamlFault("", 1, err)
		}
		found = findInNode(root, app)
	}
	if len(found) > 1 {
		return nil, unrevertable(app, "it is declared twice")
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found[0], nil
}

func findInItems(file []byte, app string) ([]*entry, bool) {
	parts, ok := splitKeys(file)
	if !ok {
		return nil, false
	}
	var found []*entry
	lists := 0
	for _, part := range parts {
		if string(part.key) != dependenciesKey {
			continue
		}
		lists++
		items, ok := splitItems(file, part)
		if !ok || lists > 1 {
			return nil, false
		}
		for _, item := range items {
			text := file[item.start:item.end]
			if !bytes.Contains(text, []byte(app)) {
				continue
			}
			root, err := parseNode(text)
			if err != nil || root == nil || root.Kind != yamlv3.SequenceNode || len(root.Content) != 1 {
				return nil, false
			}
			d, ok := parseDependency(text)
			if !ok {
				return nil, false
			}
			if d.appName() == app {
				found = append(found, &entry{dependency: d, node: root.Content[0], line: item.line, start: item.start, end: item.end})
			}
		}
	}
	return found, true
}

func findInNode(root *yamlv3.Node, app string) []*entry {
	_, list := child(root, dependenciesKey)
	list = resolve(list)
	if list == nil || list.Kind != yamlv3.SequenceNode {
		return nil
	}
	var found []*entry
	for _, n := range list.Content {
		if d := newDependency(n, n.Line); d.appName() == app {
			found = append(found, &entry{dependency: d, node: n, line: 1})
		}
	}
	return found
}

// sameButVersion compares what the entries say apart from the version.
func (d *dependency) sameButVersion(other *dependency) bool {
	return d.name == other.name && d.alias == other.alias && d.repository == other.repository &&
		d.condition == other.condition && reflect.DeepEqual(d.tags, other.tags) &&
		reflect.DeepEqual(d.importValues, other.importValues)
}

// versionToken finds the characters of the version in the file, quotes included.
func (e *entry) versionToken(file []byte) (start, end int, err error) {
	if e.node.Kind == yamlv3.AliasNode {
		return 0, 0, errors.New("is in an entry that is an alias")
	}
	_, n := child(e.node, "version")
	if n == nil {
		return 0, 0, errors.New("is missing")
	}
	if !slices.Contains(e.node.Content, n) {
		return 0, 0, errors.New("comes by a merge key (<<); whoever shares it would change too: give the entry a version of its own, after it")
	}
	return tokenOf(n, file, e.line)
}

// tokenOf finds the characters of a scalar in the file, quotes included. line is that of the file on which the text begins that
// the scalar was parsed from, from 1.
func tokenOf(n *yamlv3.Node, file []byte, line int) (start, end int, err error) {
	switch {
	case n.Kind == yamlv3.AliasNode:
		return 0, 0, errors.New("is an alias; whoever shares its anchor would change too")
	case n.Anchor != "":
		return 0, 0, errors.New("is an anchor; whoever refers to it would change too")
	case n.Kind != yamlv3.ScalarNode || n.Style&^(yamlv3.SingleQuotedStyle|yamlv3.DoubleQuotedStyle) != 0:
		return 0, 0, errors.New("is not written as one plain or quoted text")
	}
	start = offsetOf(file, line+n.Line-1, n.Column)
	end = tokenEnd(file, start, n)
	if end < 0 {
		return 0, 0, errors.New("is not written as one plain or quoted text")
	}
	return start, end, nil
}

// tokenEnd is the offset after a scalar that begins at start; -1 when the text there is not what the node says.
func tokenEnd(file []byte, start int, n *yamlv3.Node) int {
	if start < 0 || start >= len(file) {
		return -1
	}
	quote := file[start]
	if n.Style == 0 {
		if !bytes.HasPrefix(file[start:], []byte(n.Value)) {
			return -1
		}
		return start + len(n.Value)
	}
	length := bytes.IndexByte(file[start+1:], quote)
	// Escapes and line breaks would need a decoder; no version has any.
	if quote != '\'' && quote != '"' || length < 0 || string(file[start+1:start+1+length]) != n.Value {
		return -1
	}
	return start + length + 2
}

// offsetOf turns a line and a column, both from 1 and as YAML counts them, into an offset; -1 when the text has no
// such place. YAML counts columns in characters, and knows more line breaks than most.
func offsetOf(text []byte, line, column int) int {
	at := 0
	if bytes.HasPrefix(text, []byte("\ufeff")) {
		at = len("\ufeff")
	}
	for ; line > 1; line-- {
		next := breakAfter(text, at)
		if next < 0 {
			return -1
		}
		at = next
	}
	for ; column > 1; column-- {
		if at >= len(text) {
			return -1
		}
		_, size := utf8.DecodeRune(text[at:])
		at += size
	}
	return at
}

// breakAfter is the offset after the first line break at or after at; -1 when there is none.
func breakAfter(text []byte, at int) int {
	for at < len(text) {
		r, size := utf8.DecodeRune(text[at:])
		at += size
		switch r {
		case '\r':
			if at < len(text) && text[at] == '\n' {
				at++
			}
			return at
		case '\n', '\u0085', '\u2028', '\u2029':
			return at
		}
	}
	return -1
}

// RevertValues puts one app's key of a values.yaml back to the text that it has in stable, if in current it still says
// what it says in failed; else the error wraps [ErrMovedOn]. Comments and formatting say nothing: they alone neither
// hold an edit up nor are a reason for one. Other keys are untouched, byte for byte. An empty text stands for an
// absent file.
func RevertValues(current, failed, stable []byte, app string) ([]byte, error) {
	switch {
	case sameValues(current, stable, app):
		return current, nil
	case !sameValues(current, failed, app):
		return nil, fmt.Errorf("%w: the values of %s are no longer what failed", ErrMovedOn, app)
	}
	now, err := newValuesText(current, app)
	if err != nil {
		return nil, err
	}
	want, err := newValuesText(stable, app)
	if err != nil {
		return nil, err
	}
	edited := now.replaced(want)
	if err := checkValues(current, edited, stable, app); err != nil {
		return nil, err
	}
	return edited, nil
}

// sameValues reports whether two values files say the same of an app. Of what can't be read the text is compared.
func sameValues(a, b []byte, app string) bool {
	mine, ok := valuesOf(a, app)
	theirs, otherOK := valuesOf(b, app)
	if !ok || !otherOK {
		return bytes.Equal(ownText(a, app), ownText(b, app))
	}
	return sameContent(mine, theirs)
}

// sameContent compares values; nothing, null and an empty mapping are the same.
func sameContent(a, b any) bool { return isEmpty(a) && isEmpty(b) || reflect.DeepEqual(a, b) }

func isEmpty(v any) bool {
	m, isMapping := v.(map[string]any)
	return v == nil || isMapping && len(m) == 0
}

// valuesOf is what a values file says of an app; false when that can't be read. Only the app's part is parsed where
// it can be read by itself.
func valuesOf(text []byte, app string) (any, bool) {
	if v, err := newValuesText(text, app); err == nil {
		if own, err := parseValues(v.own()); err == nil {
			return own[app], true
		}
	}
	whole, err := parseValues(text)
	return whole[app], err == nil
}

// ownText is the app's part of a values file, or the whole file where it can't be cut.
func ownText(text []byte, app string) []byte {
	v, err := newValuesText(text, app)
	if err != nil {
		return text
	}
	return v.own()
}

// valuesText is a values.yaml cut into its keys, with one of them looked at.
type valuesText struct {
	text  []byte
	parts []keyPart
	// at indexes parts; -1 when the file does not have the key.
	at int
}

func newValuesText(text []byte, app string) (valuesText, error) {
	v := valuesText{text: text, at: -1}
	var ok bool
	if v.parts, ok = splitKeys(text); !ok {
		return v, unrevertable(app, "values.yaml is not a plain list of keys at the left edge")
	}
	for i, part := range v.parts {
		if string(part.key) != app {
			continue
		}
		if v.at >= 0 {
			return v, unrevertable(app, "values.yaml sets it twice")
		}
		v.at = i
	}
	return v, nil
}

// core is the text of a key without what follows it but belongs to the next.
func (v valuesText) core(i int) []byte {
	part := v.parts[i]
	return v.text[part.start:coreEnd(v.text, part.start, part.end)]
}

// own is the text of the key that is looked at, with plain line breaks; nil when it is absent.
func (v valuesText) own() []byte {
	if v.at < 0 {
		return nil
	}
	plain := bytes.ReplaceAll(v.core(v.at), []byte("\r\n"), []byte("\n"))
	return append(bytes.TrimRight(plain, "\n"), '\n')
}

// replaced is the file with its key as the other has it: replaced, removed, or put back where it was.
func (v valuesText) replaced(other valuesText) []byte {
	text := other.own()
	start, end := len(v.text), len(v.text)
	if v.at >= 0 {
		start = v.parts[v.at].start
		end = start + len(v.core(v.at))
	} else if before := v.before(other); before >= 0 {
		start = v.parts[before].start + len(v.core(before))
		end = start
	}
	if bytes.Contains(v.text, []byte("\r\n")) {
		text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	}
	if start > 0 && v.text[start-1] != '\n' && len(text) > 0 {
		text = append([]byte("\n"), text...)
	}
	if end == len(v.text) && v.at >= 0 && !bytes.HasSuffix(v.text, []byte("\n")) {
		text = bytes.TrimRight(text, "\r\n")
	}
	return bytes.Join([][]byte{v.text[:start], text, v.text[end:]}, nil)
}

// before finds the key after which the other file's key belongs; -1 when none of its predecessors is here.
func (v valuesText) before(other valuesText) int {
	for i := other.at - 1; i >= 0; i-- {
		for j, part := range v.parts {
			if bytes.Equal(part.key, other.parts[i].key) {
				return j
			}
		}
	}
	return -1
}

// checkValues makes sure that an edit did to the values what it was meant to: the app's are those of stable, and
// nobody else's changed.
func checkValues(before, after, stable []byte, app string) error {
	var values [3]map[string]any
	for i, text := range [][]byte{before, after, stable} {
		parsed, err := parseValues(text)
		if err != nil {
			return unrevertable(app, "values.yaml: %s", yamlFault("", 1, err).Problem)
		}
		values[i] = parsed
	}
	own, want := values[1][app], values[2][app]
	delete(values[0], app)
	delete(values[1], app)
	same := len(values[0]) == 0 && len(values[1]) == 0 || reflect.DeepEqual(values[0], values[1])
	if !same || !reflect.DeepEqual(own, want) {
		return unrevertable(app, "values.yaml shares parts between keys")
	}
	return nil
}
