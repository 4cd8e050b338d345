package environments

import (
	"maps"

	"sigs.k8s.io/yaml"
)

// valuesPart is one top-level key of a values file, parsed once and kept for as long as its text occurs.
type valuesPart struct {
	key   string
	value any
	// text is the part's own; empty when the file could not be cut into parts.
	text string
	// fault is why the part can't be used; its Line counts from 0 at the part's first line.
	fault *Fault
	// address is the fault of a value that only jx can replace; its Line counts as fault's.
	address *Fault
	// digest identifies the value.
	digest string
	used   uint64
}

// table is the part's value as a mapping; null is an empty one.
func (p *valuesPart) table() (map[string]any, bool) {
	if p == nil || p.value == nil {
		return nil, true
	}
	m, ok := p.value.(map[string]any)
	return m, ok
}

// valuesFile is a values file in its parts.
type valuesFile struct {
	name  string
	parts []placedPart
	// text is the whole file, for positions when it could not be cut.
	text string
}

// placedPart is a part and the line of its key, from 1; 0 when not known.
type placedPart struct {
	*valuesPart
	line int
}

// valuesDoc is a whole values file of one app.
type valuesDoc struct {
	name   string
	text   string
	values map[string]any
	fault  *Fault
	digest string
}

// parseValues reads values exactly as Helm does.
func parseValues(text []byte) (map[string]any, error) {
	var values map[string]any
	if err := yaml.Unmarshal(text, &values); err != nil {
		return nil, err
	}
	return values, nil
}

func newValuesDoc(name string, text []byte) *valuesDoc {
	doc := &valuesDoc{name: name, text: string(text), digest: newDigest().add(string(text)).String()}
	values, err := parseValues(text)
	if err != nil {
		doc.fault = yamlFault(name, 1, err)
	} else if doc.fault = addressFault(text, values); doc.fault != nil {
		doc.fault.File, doc.fault.Line = name, doc.fault.Line+1
	}
	doc.values = values
	return doc
}

// cutValues cuts a values file into its parts, from the cache where their text is there. Its error says why the
// file as a whole can't be read.
func (l *Loader) cutValues(name string, text []byte) (*valuesFile, error) {
	file := &valuesFile{name: name, text: string(text)}
	if l.cutParts(file, text) {
		return file, nil
	}
	values, err := parseValues(text)
	if err != nil {
		if l.cutBroken(file, text) {
			return file, nil
		}
		return nil, yamlFault(name, 1, err)
	}
	file.parts = file.parts[:0]
	for key, value := range values {
		part := &valuesPart{key: key, value: value, digest: newDigest().add(key, canonical(value)).String()}
		line := lineOf(text, fieldPath{key})
		if part.address = addressFault(text, map[string]any{key: value}); part.address != nil {
			part.address.Line -= line - 1
		}
		file.parts = append(file.parts, placedPart{part, line})
	}
	return file, nil
}

// cutParts cuts a file all of whose parts can be read by themselves.
func (l *Loader) cutParts(file *valuesFile, text []byte) bool {
	cuts, ok := splitKeys(text)
	if !ok {
		return false
	}
	file.parts = make([]placedPart, 0, len(cuts))
	for _, cut := range cuts {
		part := l.part(cut.key, text[cut.start:cut.end])
		if part.fault != nil || part.key != string(cut.key) {
			return false
		}
		file.parts = append(file.parts, placedPart{part, cut.line})
	}
	return true
}

// cutBroken cuts a file that is not valid YAML as a whole, so that the fault stays with the part that has it.
func (l *Loader) cutBroken(file *valuesFile, text []byte) bool {
	cuts, ok := splitKeys(text)
	file.parts = file.parts[:0]
	found := false
	for _, cut := range cuts {
		part := l.part(cut.key, text[cut.start:cut.end])
		found = found || part.fault != nil
		file.parts = append(file.parts, placedPart{part, cut.line})
	}
	return ok && found
}

// part parses one part, or finds it.
func (l *Loader) part(key, text []byte) *valuesPart {
	if part, ok := l.parts[string(text)]; ok {
		part.used = l.pass
		return part
	}
	part := &valuesPart{key: string(key), text: string(text), used: l.pass}
	part.digest = newDigest().add(part.text).String()
	values, err := parseValues(text)
	switch {
	case err != nil:
		part.fault = yamlFault("", 0, err)
	case len(values) != 1:
		part.fault = &Fault{Problem: "not valid YAML"}
	default:
		for part.key, part.value = range values {
		}
		part.address = addressFault(text, values)
	}
	l.parts[part.text] = part
	return part
}

// mergeValues lays one set of values over another as Helm does for its --values files: mappings are merged,
// everything else is replaced. Neither is changed; the result shares their parts.
func mergeValues(under, over map[string]any) map[string]any {
	if len(under) == 0 {
		return over
	}
	if len(over) == 0 {
		return under
	}
	merged := maps.Clone(under)
	for key, value := range over {
		lower, lowerOK := merged[key].(map[string]any)
		upper, upperOK := value.(map[string]any)
		if lowerOK && upperOK {
			merged[key] = mergeValues(lower, upper)
			continue
		}
		merged[key] = value
	}
	return merged
}

// lookUp walks a path of keys to a value that is not a mapping; nil where there is none. decided reports that this
// mapping settles the question, even if with nothing, so that one under it is not asked.
func lookUp(m map[string]any, keys []string) (value any, decided bool) {
	for i, key := range keys {
		v, ok := m[key]
		if !ok {
			return nil, false
		}
		table, isTable := v.(map[string]any)
		if i == len(keys)-1 {
			if isTable {
				return nil, true
			}
			return v, true
		}
		if !isTable {
			return nil, true
		}
		m = table
	}
	return nil, false
}
