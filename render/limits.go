package render

import "bytes"

// Limits bound what a chart or an index may cost, in bytes unless said otherwise. A zero field means its default.
type Limits struct {
	// Index of an http(s) repository as downloaded; default 50 MiB.
	Index int64
	// Archive of a chart as downloaded; default 10 MiB.
	Archive int64
	// File is one file of a chart, extracted; default 5 MiB.
	File int64
	// Extracted is all files of a chart together, its packed subcharts' included; default 100 MiB.
	Extracted int64
	// Files is the number of files of a chart, its packed subcharts' included; default 10,000.
	Files int
	// Fields is the number of fields and elements of all values.yaml and Chart.yaml of a chart together, estimated by
	// its punctuation; default 500,000. A megabyte of YAML may take a gigabyte once it is read.
	Fields int
}

func (l Limits) withDefaults() Limits {
	orDefault(&l.Index, 50<<20)
	orDefault(&l.Archive, 10<<20)
	orDefault(&l.File, 5<<20)
	orDefault(&l.Extracted, 100<<20)
	orDefault(&l.Files, 10_000)
	orDefault(&l.Fields, 500_000)
	return l
}

func orDefault[N int | int64](field *N, def N) {
	if *field <= 0 {
		*field = def
	}
}

// countFields estimates, from above, how many fields and elements a YAML text has that is in the usual layout.
func countFields(yaml []byte) (n int) {
	for _, mark := range []string{"\n", ",", "[", "{"} {
		n += bytes.Count(yaml, []byte(mark))
	}
	return n
}

// allowance is what is left of the limits while one chart is read.
type allowance struct {
	limits Limits
	bytes  int64
	files  int
}

func (l Limits) allowance() *allowance {
	return &allowance{limits: l, bytes: l.Extracted, files: l.Files}
}

// take charges one file of the given size.
func (a *allowance) take(name string, size int64) error {
	if size > a.limits.File {
		return &LimitError{What: "file " + quote(name), Limit: a.limits.File}
	}
	if a.files--; a.files < 0 {
		return &LimitError{What: "number of files", Limit: int64(a.limits.Files), Count: true}
	}
	if a.bytes -= size; a.bytes < 0 {
		return &LimitError{What: "extracted chart", Limit: a.limits.Extracted}
	}
	return nil
}
