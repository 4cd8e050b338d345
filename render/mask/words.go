package mask

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"

	"helm.sh/helm/v3/pkg/chart"
)

// words are texts to look for, without regard to case.
type words struct {
	// text has each of them as it is spelled; those that are public, in lower case, are left out.
	text, public map[string]bool
	// spellings are those of all of them, and haystack is where a quoted text is looked for that may be a piece of one.
	spellings []spelling
	haystack  string
}

// spelling is one form of a value.
type spelling struct {
	text string
	// alone: it counts only where no letter or digit stands beside it.
	alone bool
}

func newWords(public map[string]bool) *words {
	return &words{text: map[string]bool{}, public: public}
}

func (w *words) add(list ...string) {
	for _, s := range list {
		s = strings.TrimSpace(s)
		if utf8.RuneCountInString(s) >= shortest && !w.public[fold(s)] {
			w.text[s] = true
		}
	}
}

// folded are the words in lower case.
func (w *words) folded() map[string]bool {
	out := make(map[string]bool, len(w.text))
	for s := range w.text {
		out[fold(s)] = true
	}
	return out
}

// addText adds a value, and the lines of one that has several.
func (w *words) addText(s string) {
	w.add(s)
	if strings.Contains(strings.TrimSpace(s), "\n") {
		w.add(strings.Split(s, "\n")...)
	}
}

// addAll adds the strings and numbers of a value.
func (w *words) addAll(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, each := range v {
			w.addAll(each)
		}
	case []any:
		for _, each := range v {
			w.addAll(each)
		}
	case string:
		w.addText(v)
		w.addNumber(v)
	case nil, bool:
	default:
		text := fmt.Sprint(v)
		w.add(text)
		w.addNumber(text)
	}
}

// addNumber adds the spellings that a number takes on its way through YAML, Helm and the API server, where a text is one.
func (w *words) addNumber(text string) {
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		w.add(strconv.FormatFloat(f, 'f', -1, 64), fmt.Sprint(f))
	}
}

func (w *words) addKeys(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, each := range v {
			w.add(key)
			w.addKeys(each)
		}
	case []any:
		for _, each := range v {
			w.addKeys(each)
		}
	}
}

// addChart adds what a chart says by itself.
func (w *words) addChart(c *chart.Chart) {
	if c == nil {
		return
	}
	if c.Metadata != nil {
		w.add(c.Metadata.Name, c.Metadata.Version, c.Metadata.AppVersion)
	}
	w.addAll(c.Values)
	w.addKeys(c.Values)
	for _, dep := range c.Dependencies() {
		w.addChart(dep)
	}
}

// addNames adds what an object is called, and what it calls by name: containers, volumes, variables. What its images are called
// everybody who lists pods can see.
func (w *words) addNames(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, each := range v {
			text, _ := each.(string)
			switch key {
			case "name", "namespace":
				w.addName(text)
			case "image":
				w.addImage(text)
			}
			w.addNames(each)
		}
	case []any:
		for _, each := range v {
			w.addNames(each)
		}
	}
}

// longestName is the number of parts up to which those of a name are looked at.
const longestName = 8

// addName adds a name and what it is put together of, as with the nameOverride that charts have.
func (w *words) addName(name string) {
	w.add(name)
	parts := strings.Split(name, "-")
	if len(parts) > longestName {
		return
	}
	for i := range parts {
		for j := i + 1; j <= len(parts); j++ {
			w.add(strings.Join(parts[i:j], "-"))
		}
	}
}

// addImage adds an image and the parts that values are wont to have of it.
func (w *words) addImage(image string) {
	w.add(image)
	name, digest, _ := strings.Cut(image, "@")
	w.add(name, digest, strings.TrimPrefix(digest, "sha256:"))
	slash, colon := strings.LastIndex(name, "/"), strings.LastIndex(name, ":")
	if colon > slash {
		w.add(name[:colon], name[colon+1:])
		name = name[:colon]
	}
	if registry, rest, ok := strings.Cut(name, "/"); ok {
		w.add(registry, rest)
	}
	w.add(name[slash+1:])
}

// addSecret adds the data of a Secret, decoded and not.
func (w *words) addSecret(o map[string]any) {
	plain, _ := o["stringData"].(map[string]any)
	for _, v := range plain {
		w.addAll(v)
	}
	data, _ := o["data"].(map[string]any)
	for _, v := range data {
		w.addAll(v)
		text, _ := v.(string)
		if decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil {
			w.addText(string(decoded))
			w.addNumber(string(decoded))
		}
	}
}

// addSettings adds what an object holds for programs to read, but for short words: most of it comes from the chart.
func (w *words) addSettings(v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, each := range v {
			switch key {
			case "value", "data", "annotations", "args", "command":
				found := newWords(w.public)
				found.addAll(each)
				maps.DeleteFunc(found.text, func(text string, _ bool) bool { return short(text) })
				maps.Copy(w.text, found.text)
			default:
				w.addSettings(each)
			}
		}
	case []any:
		for _, each := range v {
			w.addSettings(each)
		}
	}
}

// longestEncoded bounds the values whose every encoding is looked for. What is longer is no password, and its lines are looked for.
const longestEncoded = 8 << 10

// spell completes what was gathered.
func (w *words) spell() {
	var all strings.Builder
	seen := map[string]bool{}
	learn := func(text string, alone bool) {
		if text = fold(text); len(text) >= shortest && !seen[text] {
			seen[text] = true
			w.spellings = append(w.spellings, spelling{text, alone})
		}
	}
	for text := range w.text {
		alone := short(text)
		learn(text, alone)
		all.WriteString(fold(text) + "\x00")
		if len(text) > longestEncoded {
			continue
		}
		for _, form := range quotedForms(text) {
			learn(form, alone)
			all.WriteString(fold(form) + "\x00")
		}
		for _, form := range base64Forms(text) {
			learn(form, false)
		}
	}
	w.haystack, w.text = all.String(), nil
}

// short reports whether a value is so short and plain that it could be part of any word, or of any number.
func short(text string) bool {
	letters, digits := true, true
	for i := range len(text) {
		letters = letters && isLetter(text[i])
		digits = digits && isDigit(text[i])
	}
	return letters && len(text) < 8 || digits && len(text) < 6
}

func quotedForms(text string) []string {
	quoted := inner(strconv.Quote(text))
	forms := []string{
		quoted, inner(strconv.Quote(quoted)), url.QueryEscape(text), url.PathEscape(text), strings.ReplaceAll(text, "'", "''"),
	}
	if b, err := json.Marshal(text); err == nil {
		forms = append(forms, inner(string(b)))
	}
	return forms
}

// inner is a text without its first and last character.
func inner(quoted string) string { return quoted[1 : len(quoted)-1] }

// base64Forms are what a value looks like in base64, alone and wherever it stands in a longer text: of that the characters that
// depend on nothing else, for each of the three ways in which it can lie over the groups of three bytes.
func base64Forms(text string) []string {
	forms := []string{base64.StdEncoding.EncodeToString([]byte(text)), base64.URLEncoding.EncodeToString([]byte(text))}
	for before := range 3 {
		padded := append(make([]byte, before), text...)
		begin, end := (before*8+5)/6, len(padded)*8/6
		for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			if form := enc.EncodeToString(padded)[begin:end]; len(form) > shortest {
				forms = append(forms, form)
			}
		}
	}
	return forms
}

// find marks the bytes of a text that belong to a value, and reports whether there are any.
func (w *words) find(text string, hidden []bool) (found bool) {
	lower := fold(text)
	hide := func(begin, end int) {
		found = true
		for i := begin; i < end; i++ {
			hidden[i] = true
		}
	}
	for _, s := range w.spellings {
		for at := 0; ; {
			i := strings.Index(lower[at:], s.text)
			if i < 0 {
				break
			}
			begin, end := at+i, at+i+len(s.text)
			if !s.alone || standsAlone(lower, begin, end) {
				hide(begin, end)
			}
			at = begin + 1
		}
	}
	for _, quote := range "\"'`" {
		w.findQuoted(lower, byte(quote), hide)
	}
	return found
}

// findQuoted marks what stands between two quotes and is a piece of a value: libraries tell of a value the part that they did not
// like, or its beginning and an ellipsis.
func (w *words) findQuoted(text string, quote byte, hide func(begin, end int)) {
	begin := strings.IndexByte(text, quote) + 1
	for begin > 0 {
		n := strings.IndexByte(text[begin:], quote)
		if n < 0 {
			return
		}
		piece := strings.TrimSuffix(text[begin:begin+n], "...")
		if len(piece) >= shortest-1 && strings.TrimSpace(piece) == piece && !w.public[piece] && w.holds(piece) {
			hide(begin, begin+len(piece))
		}
		begin += n + 1
	}
}

// holds reports whether a value has a piece. A short word is one where it stands alone in the value.
func (w *words) holds(piece string) bool {
	for at := 0; ; {
		i := strings.Index(w.haystack[at:], piece)
		if i < 0 {
			return false
		}
		begin, end := at+i, at+i+len(piece)
		if !short(piece) || standsAlone(w.haystack, begin, end) {
			return true
		}
		at = begin + 1
	}
}

func standsAlone(text string, begin, end int) bool {
	return (begin == 0 || !isWord(text[begin-1])) && (end == len(text) || !isWord(text[end]))
}

func isLetter(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }
func isDigit(b byte) bool  { return b >= '0' && b <= '9' }
func isWord(b byte) bool   { return isLetter(b) || isDigit(b) }

// fold is a text in lower case, of the same length whatever bytes it has.
func fold(text string) string {
	b := []byte(text)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 0x20
		}
	}
	return string(b)
}
