package render

import (
	"fmt"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
)

// isExact reports whether a version names one version rather than a range, as Helm sees it.
func isExact(version string) bool {
	_, err := semver.StrictNewVersion(strings.TrimPrefix(version, "v"))
	return err == nil
}

// newestFirst sorts versions by precedence, newest first, and leaves out what is no version. Versions of equal
// precedence stay in the order in which the repository lists them.
func newestFirst(versions []string) []string {
	type parsed struct {
		text string
		v    *semver.Version
	}
	var list []parsed
	for _, text := range versions {
		if v, err := semver.NewVersion(text); err == nil {
			list = append(list, parsed{text, v})
		}
	}
	slices.SortStableFunc(list, func(a, b parsed) int { return b.v.Compare(a.v) })
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.text
	}
	return out
}

// pickVersion chooses as Helm does: the version that is spelled alike, else the newest that the constraint allows;
// prereleases only where the constraint names one. Sorted is newest first. An empty version means the newest release.
func pickVersion(sorted []string, version string) (string, error) {
	if version != "" && slices.Contains(sorted, version) {
		return version, nil
	}
	if version == "" {
		version = "*"
	}
	constraint, err := semver.NewConstraint(version)
	if err != nil {
		return "", fmt.Errorf("%s is neither a version nor a range of versions", quote(version))
	}
	for _, text := range sorted {
		if v, err := semver.NewVersion(text); err == nil && constraint.Check(v) {
			return text, nil
		}
	}
	return "", &noVersionError{wanted: version, nearest: nearest(sorted, version)}
}

// noVersionError is for a chart that is there, but not in the wanted version.
type noVersionError struct {
	wanted  string
	nearest []string
}

func (e *noVersionError) Error() string {
	if len(e.nearest) == 0 {
		return fmt.Sprintf("no version %s; the repository has no version of it", e.wanted)
	}
	return fmt.Sprintf("no version %s; nearest are %s", e.wanted, strings.Join(e.nearest, ", "))
}

func (e *noVersionError) Is(target error) bool { return target == ErrNotFound }

// nearest returns up to five versions around the wanted one, newest first; the five newest when it is a range.
func nearest(sorted []string, wanted string) []string {
	const count = 5
	at := 0
	if want, err := semver.NewVersion(wanted); err == nil {
		at, _ = slices.BinarySearchFunc(sorted, want, func(text string, want *semver.Version) int {
			v, err := semver.NewVersion(text)
			if err != nil {
				return 0
			}
			return want.Compare(v)
		})
		at = max(0, min(at-count/2, len(sorted)-count))
	}
	return sorted[at:min(at+count, len(sorted))]
}
