//go:build external_apiserver

package main

import "syscall"

// diesWithParent has a child killed when the thread that started it ends.
func diesWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
