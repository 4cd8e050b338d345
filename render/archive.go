package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
)

// maxNesting bounds archives inside archives, and dependencies of dependencies in a snapshot.
const maxNesting = 8

var utf8BOM = []byte{0xEF, 0xBB, 0xBF}

// readArchive returns the files of a packed chart with paths relative to the chart, packed subcharts unpacked.
func readArchive(data []byte, left *allowance, depth int) ([]*loader.BufferedFile, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("subcharts are nested more than %d deep", maxNesting)
	}
	zipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("unpacking archive: %w", err)
	}
	var files []*loader.BufferedFile
	tr := tar.NewReader(left.capped(zipped))
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("unpacking archive: %w", err)
		}
		file, err := readEntry(header, tr, left)
		if err != nil {
			return nil, fmt.Errorf("unpacking archive: %w", err)
		}
		if file == nil {
			continue
		}
		unpacked, err := unpackSubchart(file, left, depth)
		if err != nil {
			return nil, err
		}
		files = append(files, unpacked...)
	}
	if len(files) == 0 {
		return nil, errors.New("unpacking archive: no files in it")
	}
	return files, nil
}

// readEntry reads one entry; nil for directories and for the headers of tar itself.
func readEntry(header *tar.Header, r io.Reader, left *allowance) (*loader.BufferedFile, error) {
	switch header.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir, tar.TypeXGlobalHeader, tar.TypeXHeader:
		// They cost as much as an empty file, so that a million of them end somewhere.
		return nil, left.take(header.Name, 0)
	default:
		return nil, fmt.Errorf("entry %s is neither a file nor a directory; links are refused", quote(header.Name))
	}
	name, err := entryName(header.Name)
	if err != nil {
		return nil, err
	}
	if err := left.take(name, header.Size); err != nil {
		return nil, err
	}
	data := make([]byte, header.Size)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, fmt.Errorf("reading %s: %w", quote(name), err)
	}
	return &loader.BufferedFile{Name: name, Data: bytes.TrimPrefix(data, utf8BOM)}, nil
}

// entryName strips the archive's base directory, as Helm does, and refuses every name that is not plainly inside it.
func entryName(name string) (string, error) {
	slashed := strings.ReplaceAll(name, `\`, "/")
	_, rest, _ := strings.Cut(slashed, "/")
	clean := path.Clean(rest)
	switch {
	case strings.ContainsRune(name, 0), path.IsAbs(slashed), path.IsAbs(rest), strings.Contains(slashed, ":/"),
		slices.Contains(strings.Split(slashed, "/"), ".."):
		return "", fmt.Errorf("entry %s has an illegal path", quote(name))
	case clean == ".":
		return "", fmt.Errorf("entry %s is outside the chart's base directory", quote(name))
	}
	return clean, nil
}

// unpackSubchart replaces a packed subchart by its files, so that it is charged to the same allowance.
func unpackSubchart(file *loader.BufferedFile, left *allowance, depth int) ([]*loader.BufferedFile, error) {
	if !isPackedSubchart(file.Name) {
		return []*loader.BufferedFile{file}, nil
	}
	inner, err := readArchive(file.Data, left, depth+1)
	if err != nil {
		return nil, fmt.Errorf("subchart %s: %w", quote(file.Name), err)
	}
	for _, f := range inner {
		f.Name = strings.TrimSuffix(file.Name, ".tgz") + "/" + f.Name
	}
	return inner, nil
}

// isPackedSubchart reports whether Helm would load the file as a chart: charts/X.tgz of the chart itself or of an
// unpacked subchart at any depth.
func isPackedSubchart(name string) bool {
	for {
		rest, ok := strings.CutPrefix(name, "charts/")
		if !ok || strings.IndexAny(rest, "_.") == 0 {
			return false
		}
		_, inner, nested := strings.Cut(rest, "/")
		if !nested {
			return path.Ext(rest) == ".tgz"
		}
		name = inner
	}
}

// cappedReader fails once more was read than a chart within the limits can need, whatever the headers say.
type cappedReader struct {
	r    io.Reader
	left int64
	err  error
}

// capped allows for the files themselves and for generous headers and padding.
func (a *allowance) capped(r io.Reader) io.Reader {
	const perFile = 4 << 10
	return &cappedReader{
		r:    r,
		left: a.bytes + int64(a.files+1)*perFile + 1<<20,
		err:  &LimitError{What: "extracted chart", Limit: a.limits.Extracted},
	}
}

func (c *cappedReader) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, c.err
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, err
}
