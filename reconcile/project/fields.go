package project

import (
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The functions of this file read and change the plain maps and lists of unstructured objects in place. A field that
// is absent and a field of another type read alike: what is malformed is the API server's to refuse, not ours.

// copyOf returns a deep copy of obj.
func copyOf(obj *unstructured.Unstructured) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: copyMap(obj.Object)}
}

func copyMap(m map[string]any) map[string]any {
	if m == nil {
		return nil
	}
	c := make(map[string]any, len(m))
	for k, v := range m {
		c[k] = copyValue(v)
	}
	return c
}

// copyValue copies a JSON value deeply. Unlike runtime.DeepCopyJSON it takes the numbers and maps that YAML decoders
// and Go literals make, which a policy may hold, and turns them into JSON's.
func copyValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		return copyMap(v)
	case map[any]any:
		c := make(map[string]any, len(v))
		for k, e := range v {
			c[fmt.Sprint(k)] = copyValue(e)
		}
		return c
	case map[string]string:
		return anyMap(v)
	case []any:
		c := make([]any, len(v))
		for i, e := range v {
			c[i] = copyValue(e)
		}
		return c
	case []string:
		return anyList(v)
	case int:
		return int64(v)
	case int32:
		return int64(v)
	case float32:
		return float64(v)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	case nil, bool, string, int64, float64:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// at returns the value at path, or nil.
func at(m map[string]any, path ...string) any {
	var v any = m
	for _, name := range path {
		parent, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = parent[name]
	}
	return v
}

func mapAt(m map[string]any, path ...string) map[string]any {
	v, _ := at(m, path...).(map[string]any)
	return v
}

func listAt(m map[string]any, path ...string) []any {
	v, _ := at(m, path...).([]any)
	return v
}

// mapsAt returns the maps in the list at path.
func mapsAt(m map[string]any, path ...string) []map[string]any {
	list := listAt(m, path...)
	maps := make([]map[string]any, 0, len(list))
	for _, v := range list {
		if e, ok := v.(map[string]any); ok {
			maps = append(maps, e)
		}
	}
	return maps
}

func stringAt(m map[string]any, path ...string) string {
	v, _ := at(m, path...).(string)
	return v
}

// textsAt returns the strings in the map at path; nil when there is no map.
func textsAt(m map[string]any, path ...string) map[string]string {
	values := mapAt(m, path...)
	if values == nil {
		return nil
	}
	texts := make(map[string]string, len(values))
	for k, v := range values {
		if s, ok := v.(string); ok {
			texts[k] = s
		}
	}
	return texts
}

// intAt returns the whole number at path, and whether there is one.
func intAt(m map[string]any, path ...string) (int, bool) {
	switch v := at(m, path...).(type) {
	case int64:
		return int(v), true
	case int:
		return v, true
	case float64:
		return int(v), v == float64(int(v))
	default:
		return 0, false
	}
}

// setAt puts v at path and makes the maps on the way; a value of another type on the way is replaced.
func setAt(m map[string]any, v any, path ...string) {
	for _, name := range path[:len(path)-1] {
		child, ok := m[name].(map[string]any)
		if !ok {
			child = map[string]any{}
			m[name] = child
		}
		m = child
	}
	m[path[len(path)-1]] = v
}

func anyMap(m map[string]string) map[string]any {
	c := make(map[string]any, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

func anyList(l []string) []any {
	c := make([]any, len(l))
	for i, v := range l {
		c[i] = v
	}
	return c
}
