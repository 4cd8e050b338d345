package render

import (
	"errors"
	"fmt"
	"strconv"
)

// ErrNotFound is wrapped by the error for a chart or a version that its repository does not have.
// Trying again helps only once somebody has published it.
var ErrNotFound = errors.New("not found")

// NoTemplateError says that a chart includes a named template that neither it nor the umbrella chart defines. One of its siblings may.
type NoTemplateError struct{ fault string }

func (e *NoTemplateError) Error() string { return e.fault }

// LimitError says which limit was exceeded. Trying again does not help.
type LimitError struct {
	// What was too large.
	What string
	// Limit in bytes, or a number of files when Count is set.
	Limit int64
	Count bool
}

func (e *LimitError) Error() string {
	if e.Count {
		return fmt.Sprintf("%s is over the limit of %d", e.What, e.Limit)
	}
	return fmt.Sprintf("%s is larger than the limit of %s", e.What, byteSize(e.Limit))
}

func byteSize(n int64) string {
	if n >= 1<<20 && n%(1<<20) == 0 {
		return strconv.FormatInt(n>>20, 10) + " MiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}

// quote shortens and quotes a name that comes from hostile input.
func quote(s string) string {
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return strconv.Quote(s)
}
