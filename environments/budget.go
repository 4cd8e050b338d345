package environments

import (
	"bytes"
	"fmt"
	"io/fs"
)

// What an environment may cost to read. A kilobyte of git can be a gigabyte of fields once it is read, and an agent reads
// several environments.
const (
	// maxFile of YAML, in bytes.
	maxFile = 4 << 20
	// maxFields are the fields and elements of all files together, estimated by their punctuation. Ten thousand apps have
	// some 200,000.
	maxFields = 1_000_000
	// maxApps of an environment.
	maxApps = 20_000
)

// read reads a file of the environment, and charges it to the environment's budget.
func (l *Loader) read(fsys fs.FS, name string) ([]byte, error) {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, &Fault{
			File: name, Problem: fmt.Sprintf("has %d bytes", len(text)),
			Expected: fmt.Sprintf("%d at most; values of an app may stand in a file of its own", maxFile),
		}
	}
	fields := 0
	for _, mark := range []string{"\n", ",", "[", "{"} {
		fields += bytes.Count(text, []byte(mark))
	}
	if l.spent += fields - l.cost[name]; l.spent > maxFields {
		l.spent -= fields - l.cost[name]
		l.overspent = true
		return nil, &Fault{
			File: name, Problem: fmt.Sprintf("has %d lines and fields, with which the environment has %d", fields, l.spent+fields-l.cost[name]),
			Expected: fmt.Sprintf("%d at most in all of its files", maxFields),
		}
	}
	l.cost[name] = fields
	return text, nil
}

// forget lets go of all that was read before.
func (l *Loader) forget() {
	l.entries, l.last, l.settings, l.chart, l.list, l.values = nil, memo[*Environment]{}, memo[*settings]{}, memo[chartMetadata]{}, memo[[]placedDependency]{}, memo[*valuesFile]{}
	l.umbrella, l.listing = memo[umbrellaFiles]{}, listing{}
	l.init()
}
