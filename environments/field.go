package environments

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// field is one key of an object: how it is read into a T, and what people are told of it. Both stand side by side, so that the
// reference and the JSON Schema, which tests make of the tables, can't say anything else than what is read.
type field[T any] struct {
	read func(d *decoder, at fieldPath, v any, to *T)
	about
}

// about is what the reference and the JSON Schema say of a field.
type about struct {
	shape
	// says what the field does.
	says string
	// fallback is what counts where the field is absent; empty: that goes without saying.
	fallback string
	// required: what the field is in has to have it.
	required bool
}

// fields says how each known key of an object is read into a T.
type fields[T any] map[string]field[T]

func (f fields[T]) names() []string { return slices.Sorted(maps.Keys(f)) }

func (f fields[T]) abouts() map[string]about {
	out := make(map[string]about, len(f))
	for name, one := range f {
		out[name] = one.about
	}
	return out
}

// or is the field with what counts where it is absent.
func (f field[T]) or(fallback any) field[T] {
	f.fallback = fmt.Sprint(fallback)
	if d, ok := fallback.(time.Duration); ok {
		f.fallback = unzeroed(d)
	}
	return f
}

// needed is the field as one that has to be there.
func (f field[T]) needed() field[T] {
	f.required = true
	return f
}

// unzeroed writes 24h0m0s as 24h.
func unzeroed(d time.Duration) string {
	return strings.Replace(strings.Replace(d.String(), "m0s", "m", 1), "h0m", "h", 1)
}

// shape is what a value looks like.
type shape struct {
	// noun is what people call it, with its unit.
	noun string
	// schema has the keywords of JSON Schema that say so, but for those of inner fields.
	schema map[string]any
	// inner are the fields of an object, or of each object in a list or a map; nil: it has none, or they are not ours.
	inner map[string]about
	// within leads from the field to them in a path: "" of an object, "[]" of a list, ".<app>" of a map of apps.
	within string
	// name of one that stands in several places, and is told of once; empty: it stands in one.
	name string
}

// kind is a way to read a value.
type kind[V any] struct {
	shape
	read func(d *decoder, at fieldPath, v any) V
}

// The kinds of values. Numbers and booleans may be in quotes, as templates write them.
var (
	asText     = kind[string]{textShape, (*decoder).text}
	asTexts    = kind[[]string]{listShape(textShape), (*decoder).texts}
	asTextMap  = kind[map[string]string]{mapShape(textShape), (*decoder).textMap}
	asFlag     = kind[bool]{quotable("true or false", "boolean", "^(true|false)$"), (*decoder).boolean}
	asNumber   = kind[float64]{quotable("number", "number", `^-?[0-9.]+([eE][-+]?[0-9]+)?$`), (*decoder).number}
	asDuration = kind[time.Duration]{durationShape, (*decoder).duration}
	asLabel    = kind[string]{patternShape("DNS label", dnsLabel.String()), (*decoder).label}
	asRelease  = kind[string]{patternShape("name of a Helm release", dnsName.String()), (*decoder).releaseName}
	asGit      = kind[string]{shape{noun: "git URL without credentials", schema: map[string]any{"type": "string", "pattern": `^\S*:\S*$`}}, (*decoder).gitAddress}
	asDotted   = kind[string]{shape{noun: "dotted keys", schema: map[string]any{"type": textShape.schema["type"], "pattern": `^[^.]+(\.[^.]+)*$`}}, (*decoder).dotted}
	// What Istio defines is handed through.
	asObject = kind[map[string]any]{shape{noun: "object of Istio's", schema: objectOrNull}, func(d *decoder, at fieldPath, v any) map[string]any {
		m, _ := d.object(at, v)
		return m
	}}
	asList = kind[[]any]{shape{noun: "list of Istio's", schema: map[string]any{"type": []string{"array", "null"}}}, (*decoder).list}
)

var (
	textShape     = shape{noun: "text", schema: map[string]any{"type": []string{"string", "number", "boolean"}}}
	durationShape = shape{noun: "duration", schema: map[string]any{
		"type": []string{"string", "number"}, "pattern": `^(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+$`, "exclusiveMinimum": 0,
	}}
	objectOrNull = map[string]any{"type": []string{"object", "null"}}
)

// quotable is the shape of what may be in quotes.
func quotable(noun, kind, quoted string) shape {
	return shape{noun: noun, schema: map[string]any{"type": []string{kind, "string"}, "pattern": quoted}}
}

// asWhole is a whole number from low to high, of a unit.
func asWhole(unit string, low, high int) kind[int] {
	if unit != "%" {
		unit = " " + unit
	}
	s := quotable(strings.TrimSpace(fmt.Sprintf("whole number, %d or more%s", low, unit)), "integer", "^[0-9]+$")
	s.schema["minimum"] = low
	if high != math.MaxInt32 {
		s.noun = strings.TrimSpace(fmt.Sprintf("whole number, %d to %d%s", low, high, unit))
		s.schema["maximum"] = high
	}
	return kind[int]{s, func(d *decoder, at fieldPath, v any) int { return d.integer(at, v, low, high) }}
}

// asOneOf is one of a few words.
func asOneOf[W ~string](words ...W) kind[W] {
	return kind[W]{wordShape(words...), func(d *decoder, at fieldPath, v any) W {
		w := W(d.text(at, v))
		if !slices.Contains(words, w) {
			d.fail(at, "is "+shown(v), namesOf(words))
			return ""
		}
		return w
	}}
}

// asJust is text that has to be one word; who reads the whole object says so, where it is absent too.
func asJust(word string) kind[string] { return kind[string]{wordShape(word), (*decoder).text} }

func namesOf[W ~string](words []W) string {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = string(w)
	}
	return oneOf(names)
}

func wordShape[W ~string](words ...W) shape {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = "`" + string(w) + "`"
	}
	return shape{noun: oneOf(names), schema: map[string]any{"enum": words}}
}

func patternShape(noun, pattern string) shape {
	return shape{noun: noun, schema: map[string]any{"type": "string", "pattern": pattern}}
}

func listShape(of shape) shape {
	return shape{noun: "list: " + of.noun, schema: map[string]any{"type": []string{"array", "null"}, "items": of.schema}}
}

func mapShape(of shape) shape {
	return shape{noun: "map: " + of.noun, schema: map[string]any{"type": []string{"object", "null"}, "additionalProperties": of.schema}}
}

// tableShape is an object with the fields of a table.
func tableShape[T any](table fields[T]) shape {
	return shape{noun: "object", schema: objectOrNull, inner: table.abouts()}
}

// tablesShape is a list of such objects.
func tablesShape[T any](table fields[T]) shape {
	return shape{noun: "list of objects", schema: map[string]any{"type": []string{"array", "null"}}, inner: table.abouts(), within: "[]"}
}

// named is a shape that stands in several places.
func named(name string, s shape) shape {
	s.name = name
	return s
}

// set is a field that is read as a value of a kind.
func set[T, V any](k kind[V], where func(to *T) *V, says string) field[T] {
	return custom(k.shape, func(d *decoder, at fieldPath, v any, to *T) { *where(to) = k.read(d, at, v) }, says)
}

// inside is a field that is an object with fields of its own. Fields that it does not say stay what they are.
func inside[T, V any](table fields[V], where func(to *T) *V, says string) field[T] {
	return custom(tableShape(table), func(d *decoder, at fieldPath, v any, to *T) { decodeObject(d, at, v, table, where(to)) }, says)
}

// custom is a field with a reader of its own.
func custom[T any](s shape, read func(d *decoder, at fieldPath, v any, to *T), says string) field[T] {
	return field[T]{read, about{shape: s, says: says}}
}

// ignored is a field that is understood and has no effect here, and why not.
func ignored[T any](why string) field[T] {
	return custom(shape{noun: "anything", schema: map[string]any{}}, func(d *decoder, at fieldPath, _ any, _ *T) {
		d.ignored = append(d.ignored, at.String())
	}, "No effect: "+why+".")
}

// unsupported is a field whose effect people rely upon and that is not built yet. Values that switch it off are accepted.
func unsupported[T any](what string) field[T] {
	off := shape{noun: "off", schema: map[string]any{"enum": []any{nil, false, "", 0, []any{}, map[string]any{}}}}
	return custom(off, func(d *decoder, at fieldPath, v any, _ *T) {
		if !isOff(v) {
			d.fail(at, what+" is not supported yet", "the field to be absent")
		}
	}, "Refused: "+what+" is not supported yet.")
}
