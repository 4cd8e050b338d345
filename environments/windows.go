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
	"schedule": func(d *decoder, at fieldPath, v any, to *windowDraft) { to.schedule = d.text(at, v) },
	"duration": func(d *decoder, at fieldPath, v any, to *windowDraft) {
		faults := len(d.faults)
		to.duration = d.duration(at, v)
		if len(d.faults) == faults && (to.duration < time.Minute || to.duration > windows.MaxDuration) {
			d.fail(at, "is "+shown(v), fmt.Sprintf("a time from 1m to %.0fh", windows.MaxDuration.Hours()))
		}
	},
	"timezone": func(d *decoder, at fieldPath, v any, to *windowDraft) { to.zone = d.text(at, v) },
	"reason":   func(d *decoder, at fieldPath, v any, to *windowDraft) { to.reason = d.text(at, v) },
}

var windowsFields = fields[windows.Set]{
	"allow": func(d *decoder, at fieldPath, v any, to *windows.Set) { to.Allow = d.windowList(at, v) },
	"deny":  func(d *decoder, at fieldPath, v any, to *windows.Set) { to.Deny = d.windowList(at, v) },
	"overrun": func(d *decoder, at fieldPath, v any, to *windows.Set) {
		if to.Overrun = windows.Overrun(d.text(at, v)); to.Overrun != windows.Hold && to.Overrun != windows.Finish {
			d.fail(at, "is "+shown(v), "Hold or Finish")
		}
	},
}

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
