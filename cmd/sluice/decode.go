package main

import (
	"errors"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/sluice-cd/sluice/environments"
)

// decoder reads YAML into structs of strings, booleans, durations, structs and lists of them, and notes where each
// field stands. Unlike yaml's own decoder it names the field of a fault, finds all of them, and never repeats a value,
// which may be a secret in the wrong place.
type decoder struct {
	file string
	// lines by the path of the field, such as environments[0].repository.url.
	lines  map[string]int
	faults []error
}

// decode reads one document into the struct that to points at.
func (d *decoder) decode(r io.Reader, to any) error {
	d.lines = map[string]int{}
	dec := yaml.NewDecoder(r)
	var doc, rest yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF): // an empty file says nothing
	case err != nil:
		return environments.YAMLFault(d.file, err)
	default:
		d.value(doc.Content[0], reflect.ValueOf(to).Elem(), "")
	}
	if err := dec.Decode(&rest); !errors.Is(err, io.EOF) {
		d.fault("", "a second document", "one")
	}
	return errors.Join(d.faults...)
}

// fault notes what is wrong with a field, at the field's line or the nearest line above it that is known.
func (d *decoder) fault(field, problem, expected string) {
	f := &environments.Fault{File: d.file, Field: field, Problem: problem, Expected: expected}
	for at := field; at != "" && f.Line == 0; at = at[:max(0, strings.LastIndexAny(at, ".["))] {
		f.Line = d.lines[at]
	}
	d.faults = append(d.faults, f)
}

func (d *decoder) value(n *yaml.Node, to reflect.Value, field string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if field != "" {
		d.lines[field] = n.Line
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	switch {
	case to.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		d.object(n, to, field)
	case to.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		to.Set(reflect.MakeSlice(to.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			d.value(item, to.Index(i), field+"["+strconv.Itoa(i)+"]")
		}
	case n.Kind == yaml.ScalarNode && d.scalar(n, to):
	default:
		d.fault(field, "is "+kindOf(n), expectedOf(to))
	}
}

// scalar sets a field; false when what is written is of another kind.
func (d *decoder) scalar(n *yaml.Node, to reflect.Value) bool {
	switch to.Addr().Interface().(type) {
	case *string:
		to.SetString(n.Value)
	case *bool:
		v, err := strconv.ParseBool(n.Value)
		if err != nil || n.Tag != "!!bool" {
			return false
		}
		to.SetBool(v)
	case *duration:
		v, err := time.ParseDuration(n.Value)
		if err != nil || v < 0 {
			return false
		}
		to.SetInt(int64(v))
	default:
		return false
	}
	return true
}

func (d *decoder) object(n *yaml.Node, to reflect.Value, field string) {
	fields := map[string]int{}
	var names []string
	for i := range to.NumField() {
		name := to.Type().Field(i).Tag.Get("yaml")
		fields[name] = i
		names = append(names, name)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		at := strings.TrimPrefix(field+"."+key.Value, ".")
		index, known := fields[key.Value]
		switch {
		case !known:
			d.lines[at] = key.Line
			unknown := environments.UnknownField(at, names)
			d.fault(at, unknown.Problem, unknown.Expected)
		case seen[key.Value]:
			d.lines[at] = key.Line
			d.fault(at, "is set twice", "one of them")
		default:
			d.value(n.Content[i+1], to.Field(index), at)
		}
		seen[key.Value] = true
	}
}

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!bool":
		return "a boolean"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "a number"
	}
	return "text"
}

func expectedOf(to reflect.Value) string {
	switch to.Addr().Interface().(type) {
	case *string:
		return "text"
	case *bool:
		return "true or false"
	case *duration:
		return "a duration such as 30s or 1m"
	}
	if to.Kind() == reflect.Slice {
		return "a list"
	}
	return "a mapping"
}
