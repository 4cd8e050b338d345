//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// group makes a command end with all that it started: go test does not pass on to tests what it is told.
func group(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
}
