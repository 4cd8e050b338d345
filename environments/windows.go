package environments

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/sluice-cd/sluice/environments/windows"
)

// freezeName is the file that freezes an environment for as long as it is there.
const freezeName = "sluice.freeze"

// maxReason is the number of bytes of a reason that are shown.
const maxReason = 200

// Freeze reports whether the environment at the path root of a snapshot is frozen, and why: what sluice.freeze says in its first
// line. It can be told of an environment that can't be read otherwise. A file that can't be read freezes, too.
func Freeze(fsys fs.FS, root string) (reason string, frozen bool) {
	name := path.Join(root, freezeName)
	text, err := fs.ReadFile(fsys, name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", false
	case err != nil:
		return name + " can't be read", true
	}
	reason, _, _ = strings.Cut(strings.TrimSpace(string(text)), "\n")
	if reason = strings.ToValidUTF8(strings.TrimSpace(reason), "?"); len(reason) > maxReason {
		reason = strings.ToValidUTF8(reason[:maxReason], "") + "..."
	}
	if reason == "" {
		reason = "there is a file " + name
	}
	return reason, true
}

// windowDraft is a window while it is being read.
type windowDraft struct {
	schedule, zone, reason string
	duration               time.Duration
}

var windowFields = fields[windowDraft]{
	"schedule": set(asText, func(to *windowDraft) *string { return &to.schedule },
		"When it begins: a cron expression of five fields (minute, hour, day, month, day of the week), or `@daily` and the like.").needed(),
	"duration": custom(durationShape, readWindowDuration, "Its length, from 1m to a year.").needed(),
	"timezone": set(asText, func(to *windowDraft) *string { return &to.zone }, "Its time zone, an IANA name such as Europe/Berlin.").or("UTC"),
	"reason":   set(asText, func(to *windowDraft) *string { return &to.reason }, "Shown while a rollout waits."),
}

func readWindowDuration(d *decoder, at fieldPath, v any, to *windowDraft) {
	faults := len(d.faults)
	to.duration = d.duration(at, v)
	if len(d.faults) == faults && (to.duration < time.Minute || to.duration > windows.MaxDuration) {
		d.fail(at, "is "+shown(v), fmt.Sprintf("a time from 1m to %.0fh", windows.MaxDuration.Hours()))
	}
}

var windowsFields = fields[windows.Set]{
	"allow": set(asWindows, func(to *windows.Set) *[]windows.Window { return &to.Allow }, "Outside of these no rollout starts or advances. Empty: always allowed."),
	"deny":  set(asWindows, func(to *windows.Set) *[]windows.Window { return &to.Deny }, "During these no rollout starts or advances, even if also allowed."),
	"overrun": set(asOneOf(windows.Hold, windows.Finish), func(to *windows.Set) *windows.Overrun { return &to.Overrun },
		"What happens to a running rollout when the window closes: `Hold` keeps its weight until it opens again, `Finish` lets it finish.").or(windows.Hold),
}

var (
	asWindows   = kind[[]windows.Window]{tablesShape(windowFields), (*decoder).windowList}
	asWindowSet = kind[*windows.Set]{named("windows", tableShape(windowsFields)), (*decoder).windows}
)

// windows reads the windows of an environment or of an app.
func (d *decoder) windows(at fieldPath, v any) *windows.Set {
	s := &windows.Set{Overrun: windows.Hold}
	decodeObject(d, at, v, windowsFields, s)
	return s
}

func (d *decoder) windowList(at fieldPath, v any) []windows.Window {
	var list []windows.Window
	for i, e := range d.list(at, v) {
		if w, ok := d.window(at.index(i), e); ok {
			list = append(list, w)
		}
	}
	return list
}

func (d *decoder) window(at fieldPath, v any) (windows.Window, bool) {
	faults := len(d.faults)
	var draft windowDraft
	decodeObject(d, at, v, windowFields, &draft)
	m, _ := v.(map[string]any)
	for _, key := range []string{"schedule", "duration"} {
		if m[key] == nil {
			d.fail(at.key(key), "is missing", windowExpected[key])
		}
	}
	if len(d.faults) > faults {
		return windows.Window{}, false
	}
	w, err := windows.New(draft.schedule, draft.duration, draft.zone, draft.reason)
	switch {
	case errors.Is(err, windows.ErrZone):
		d.fail(at.key("timezone"), "is "+shown(draft.zone), "a name of the IANA database, such as Europe/Berlin")
	case err != nil:
		d.fail(at.key("schedule"), fmt.Sprintf("is %s: %v", shown(draft.schedule), err), windowExpected["schedule"])
	}
	return w, err == nil
}

var windowExpected = map[string]string{
	"schedule": `a cron expression of five fields, such as "0 9 * * 1-5"`,
	"duration": "a time such as 8h",
}
