package environments

import (
	"bytes"
	"errors"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// This file treats YAML as text: where its top-level keys and list items stand, so that a part can be parsed,
// compared or replaced without touching the rest. The splits are guesses that whoever uses them verifies: a part
// that parses by itself to what it should be is what the whole text says there, because in YAML's block style a
// part at the left edge ends where the next begins.

// keyPart is one top-level key of a YAML mapping: text[start:end], from the key's line up to the next key's.
type keyPart struct {
	key        []byte
	start, end int
	// line of the key, from 1.
	line int
}

// splitKeys cuts a YAML text into its top-level keys. It reports false for a text that is not a plain block
// mapping at the left edge: flow style, quoted keys, several documents, tabs, rare line breaks.
func splitKeys(text []byte) ([]keyPart, bool) {
	if hasRareBreaks(text) {
		return nil, false
	}
	var parts []keyPart
	line := 0
	for start := 0; start < len(text); {
		line++
		end := lineEnd(text, start)
		row := text[start:end]
		switch kind, key := classify(row); kind {
		case rowKey:
			if n := len(parts); n > 0 {
				parts[n-1].end = start
			}
			parts = append(parts, keyPart{key: key, start: start, end: len(text), line: line})
		case rowContinues:
			if len(parts) == 0 {
				return nil, false
			}
		case rowMarker:
			if len(parts) > 0 {
				return nil, false
			}
		case rowOther:
			return nil, false
		case rowBlank:
		}
		start = end
	}
	return parts, true
}

// hasRareBreaks reports line breaks that YAML knows and most editors do not: a lone CR, NEL, LS and PS. Also a
// byte order mark, which shifts columns.
func hasRareBreaks(text []byte) bool {
	for rest := text; ; {
		i := bytes.IndexByte(rest, '\r')
		if i < 0 {
			break
		}
		if i+1 == len(rest) || rest[i+1] != '\n' {
			return true
		}
		rest = rest[i+2:]
	}
	for _, rare := range []string{"\u0085", "\u2028", "\u2029", "\ufeff"} {
		if bytes.Contains(text, []byte(rare)) {
			return true
		}
	}
	return false
}

// lineEnd is the offset after the line break of the line that begins at start.
func lineEnd(text []byte, start int) int {
	if i := bytes.IndexByte(text[start:], '\n'); i >= 0 {
		return start + i + 1
	}
	return len(text)
}

type rowKind int

const (
	rowBlank     rowKind = iota // blank or a comment
	rowContinues                // indented, or an item at the left edge
	rowKey                      // "key:" at the left edge
	rowMarker                   // "---"
	rowOther                    // anything else
)

// classify says what a line at the top level of a mapping is.
func classify(row []byte) (rowKind, []byte) {
	row = bytes.TrimRight(row, "\r\n")
	switch {
	case len(bytes.TrimLeft(row, " ")) == 0, row[0] == '#':
		return rowBlank, nil
	case row[0] == ' ', row[0] == '-' && (len(row) == 1 || row[1] == ' '):
		return rowContinues, nil
	case string(bytes.TrimRight(row, " ")) == "---":
		return rowMarker, nil
	}
	i := 0
	for i < len(row) && isKeyByte(row[i]) {
		i++
	}
	if i == 0 || row[0] == '-' || i == len(row) || row[i] != ':' || i+1 < len(row) && row[i+1] != ' ' {
		return rowOther, nil
	}
	return rowKey, row[:i]
}

func isKeyByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' || c == '/'
}

// itemPart is one item of a block sequence: text[start:end], whole lines.
type itemPart struct {
	start, end int
	// line on which the item begins, from 1.
	line int
}

// splitItems cuts the block sequence under a top-level key into its items. It reports false when what is there is
// not a plain block sequence with all its dashes in one column.
func splitItems(text []byte, list keyPart) ([]itemPart, bool) {
	start := lineEnd(text, list.start)
	header := bytes.TrimSpace(text[list.start+len(list.key)+1 : start])
	if len(header) > 0 && header[0] != '#' {
		return nil, false
	}
	var items []itemPart
	column := -1
	line := list.line
	for start < list.end {
		line++
		end := min(lineEnd(text, start), list.end)
		row := bytes.TrimRight(text[start:end], "\r\n")
		indent := len(row) - len(bytes.TrimLeft(row, " "))
		rest := row[indent:]
		dash := len(rest) > 0 && rest[0] == '-' && (len(rest) == 1 || rest[1] == ' ')
		switch {
		case len(rest) == 0 || rest[0] == '#':
		case dash && (column < 0 || indent == column):
			column = indent
			if n := len(items); n > 0 {
				items[n-1].end = start
			}
			items = append(items, itemPart{start: start, end: list.end, line: line})
		case column < 0 || indent <= column:
			return nil, false
		}
		start = end
	}
	return items, true
}

// coreEnd is the end of a part without the blank lines and left-edge comments that follow it, which rather belong
// to what comes next.
func coreEnd(text []byte, start, end int) int {
	core := start
	for start < end {
		next := min(lineEnd(text, start), end)
		row := bytes.TrimRight(text[start:next], " \r\n")
		if len(row) > 0 && row[0] != '#' {
			core = next
		}
		start = next
	}
	return core
}

// parseNode parses a text to its root node; nil for an empty document. The text must hold one document.
func parseNode(text []byte) (*yaml.Node, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return nil, err
	}
	if document.Kind == 0 {
		return nil, nil
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) != 1 {
		return nil, errors.New("yaml: not one document")
	}
	return document.Content[0], nil
}

// secondDocument finds a second YAML document that says something, and its line, 0 when not known. The parsers stop
// after the first without a word.
func secondDocument(text []byte) (line int, found bool) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for first := true; ; first = false {
		var document yaml.Node
		if err := decoder.Decode(&document); err != nil {
			return 0, !first && !errors.Is(err, io.EOF)
		}
		if !first && len(document.Content) > 0 && document.Content[0].Tag != "!!null" {
			return document.Content[0].Line, true
		}
	}
}

// maxAliases bounds how many aliases are followed to one node; aliases can form cycles.
const maxAliases = 8

// resolve follows aliases.
func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.AliasNode; i++ {
		if i == maxAliases {
			return nil
		}
		n = n.Alias
	}
	return n
}

// child finds a key's node and its value's in a mapping; the last wins, as it does for YAML decoders.
func child(n *yaml.Node, key string) (name, value *yaml.Node) {
	for k, v := range pairs(n) {
		if k.Value == key {
			name, value = k, v
		}
	}
	return name, value
}

// pairs are the keys and values of a mapping in the order in which Helm's YAML decoder sets them, so that the last of a key
// counts: what a merge key (<<) brings stands in its place.
func pairs(n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(k, v *yaml.Node) bool) { eachPair(n, 0, yield) }
}

// eachPair reports false once yield has. Merge keys can form circles, so that they are followed no deeper than aliases.
func eachPair(n *yaml.Node, depth int, yield func(k, v *yaml.Node) bool) bool {
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode || depth > maxAliases {
		return true
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if !isMerge(n.Content[i]) {
			if !yield(n.Content[i], n.Content[i+1]) {
				return false
			}
			continue
		}
		for _, m := range slices.Backward(merged(n.Content[i+1])) {
			if !eachPair(m, depth+1, yield) {
				return false
			}
		}
	}
	return true
}

func isMerge(key *yaml.Node) bool { return key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" }

// merged are the mappings that a merge key brings; the first of several counts.
func merged(value *yaml.Node) []*yaml.Node {
	if list := resolve(value); list != nil && list.Kind == yaml.SequenceNode {
		return list.Content
	}
	return []*yaml.Node{value}
}

// lineOf finds the line on which the value at a path stands; that of the nearest parent where the path leads
// nowhere; 0 when not even that.
func lineOf(text []byte, at fieldPath) int {
	n, err := parseNode(text)
	if err != nil {
		return 0
	}
	line := 0
	for _, element := range at {
		n = resolve(n)
		if n == nil {
			return line
		}
		if n.Kind == yaml.SequenceNode {
			i, convErr := strconv.Atoi(strings.Trim(element, "[]"))
			if convErr != nil || i < 0 || i >= len(n.Content) {
				return line
			}
			n = n.Content[i]
			line = n.Line
			continue
		}
		name, value := child(n, element)
		if name == nil {
			return line
		}
		n, line = value, name.Line
	}
	return line
}

// linesOfKeys gives the line of each key of the mapping at a path.
func linesOfKeys(text []byte, at fieldPath) map[string]int {
	lines := map[string]int{}
	n, err := parseNode(text)
	if err != nil {
		return lines
	}
	for _, key := range at {
		_, n = child(n, key)
	}
	n = resolve(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return lines
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		lines[n.Content[i].Value] = n.Content[i].Line
	}
	return lines
}
