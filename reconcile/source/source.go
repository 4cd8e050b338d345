// Package source is what the loop knows of where releases come from: an environment at one commit. What turns it into
// releases is package charts, which links Helm; this one links nothing heavy.
package source

import (
	"errors"

	"github.com/sluice-cd/sluice/environments"
	"github.com/sluice-cd/sluice/gitsync"
)

// Commit is an environment as one commit says it.
type Commit struct {
	*gitsync.Snapshot
	Env *environments.Environment
	// Frozen: nothing is to begin or to get on, for this Reason. It is known of an environment that can't be read, too.
	Frozen bool
	Reason string
}

// ErrSwitchedOff is returned for an app that its chart's own default values switch off, as Helm does for the condition of
// a dependency. It is as if the environment did not list it.
var ErrSwitchedOff = errors.New("its condition is false in the chart's own values")
